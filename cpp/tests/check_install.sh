#!/usr/bin/env bash
# Install, move the tree, and build and run a separate project against it, by CMake and pkg-config.
#
#     check_install.sh BUILD_FOLDER SOURCE_FOLDER WORK_FOLDER
set -euo pipefail
build="$1"; source="$2"; work="$3"
rm -rf "$work"
mkdir -p "$work"
cmake --install "$build" --prefix "$work/first" >/dev/null
# Nothing in the tree may depend on where it was installed.
mv "$work/first" "$work/moved"
if grep -rIl -e "$work/first" -e "$source" "$work/moved"; then
  echo "these installed files name folders of the build" >&2
  exit 1
fi
config="$(dirname "$(find "$work/moved" -name autosamConfig.cmake)")"
library="$(dirname "$(find "$work/moved" -name 'libautosam.so')")"
[[ -f "$work/moved/bin/autosam-run" && -f "$work/moved/include/autosam.h" ]]

cmake -S "$source/tests/consumer" -B "$work/consumer" -Dautosam_DIR="$config" \
  -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$work/consumer" >/dev/null
"$work/consumer/consumer_c"
if cmake -S "$source/tests/consumer" -B "$work/other" -Dautosam_DIR="$config" \
  -DCMAKE_PROJECT_INCLUDE="$source/tests/ask_for_another_version.cmake" >/dev/null 2>&1; then
  echo "version 9 was asked for and found" >&2
  exit 1
fi

# 4 slices of 2 x 3: values 0, 20, 40, ... as float32, little endian.
python3 - "$work" <<'PY'
import struct, sys
values = [20.0 * i for i in range(24)]
open(f"{sys.argv[1]}/in.raw", "wb").write(struct.pack("<24f", *values))
labels = bytes(0 if x <= 50 else 1 if x <= 300 else 2 for x in values)
open(f"{sys.argv[1]}/wanted.raw", "wb").write(labels)
PY
bundle="$source/tests/data/threshold.autosam"
"$work/consumer/consumer" "$bundle" "$work/in.raw" 4 2 3 "$work/out.raw"
cmp "$work/out.raw" "$work/wanted.raw"
"$work/moved/bin/autosam-run" "$bundle" "$work/in.raw" "$work/tool.raw" --shape 4,2,3 --quiet
cmp "$work/tool.raw" "$work/wanted.raw"

if command -v pkg-config >/dev/null; then
  export PKG_CONFIG_PATH="$library/pkgconfig"
  # shellcheck disable=SC2046
  ${CC:-cc} "$source/tests/consumer/main.c" -o "$work/by_pkg_config" \
    $(pkg-config --cflags --libs autosam) "-Wl,-rpath,$library"
  "$work/by_pkg_config"
fi

# One folder with program, library and runtime, and an empty environment: how applications ship.
runtime="${AUTOSAM_ONNXRUNTIME_LIB:-}"
if [[ -d "$runtime" ]]; then
  mkdir "$work/app"
  cp "$work/consumer/consumer" "$work/app/app"
  cp "$library"/libautosam.so.0 "$work/app/"
  ln -s "$(find "$runtime" -name 'libonnxruntime.so.*' | sort | tail -1)" "$work/app/libonnxruntime.so.1"
  rm -f "$work/out.raw"
  env -i LD_LIBRARY_PATH="$work/app" "$work/app/app" "$bundle" "$work/in.raw" 4 2 3 "$work/out.raw"
  cmp "$work/out.raw" "$work/wanted.raw"
fi
