#!/usr/bin/env bash
# Build the wheel, install it into a folder, and build and run a separate project against it.
#
#     check_sdk.sh PYTHON SOURCE_FOLDER WORK_FOLDER
set -euo pipefail
python="$1"; source="$2"; work="$3"
rm -rf "$work"
mkdir -p "$work"
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work" "$source/sdk"
"$python" -m pip install --quiet --no-deps --no-index --target "$work/site" "$work"/autosam_sdk-*.whl
export PYTHONPATH="$work/site"
config="$("$python" -m autosam_sdk --cmake-dir)"
[[ -f "$config/autosamConfig.cmake" && -f "$("$python" -m autosam_sdk --include-dir)/autosam.hpp" ]]
if [[ -n "$(find "$work/site" -type l)" || "$(find "$work/site" -name 'libautosam*' | wc -l)" != 1 ]]; then
  echo "the wheel holds more than one libautosam" >&2
  exit 1
fi
cmake -S "$source/tests/consumer" -B "$work/consumer" -Dautosam_DIR="$config" \
  -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$work/consumer" >/dev/null
"$work/consumer/consumer_c"
if command -v pkg-config >/dev/null; then
  export PKG_CONFIG_PATH
  PKG_CONFIG_PATH="$("$python" -m autosam_sdk --pkgconfig-dir)"
  # shellcheck disable=SC2046
  ${CC:-cc} "$source/tests/consumer/main.c" -o "$work/by_pkg_config" \
    $(pkg-config --cflags --libs autosam) "-Wl,-rpath,$("$python" -m autosam_sdk --library-dir)"
  "$work/by_pkg_config"
fi
ls "$work"/*.whl
