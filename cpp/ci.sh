#!/usr/bin/env bash
# Everything that must hold for libautosam, on a machine without a GPU.
#
#     cpp/ci.sh [STAGE...]
#
# Stages, in the order in which all of them run without arguments:
#   packages  compilers and headers that are missing, by apt (needs root)
#   format    clang-format
#   release   build, all tests, install, a separate project against the installed tree
#   oldest    the tests of the C interface on the oldest ONNX Runtime that is supported (by pip)
#   asan      the tests under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer
#   tsan      the tests with threads under ThreadSanitizer
#   fuzz      a few seconds of each fuzzer (AUTOSAM_FUZZ_SECONDS)
#   package   .deb and .tar.gz
#   sdk       the wheel with headers, library and CMake files, and a project against it (needs ../.venv)
#   python    labels and self-tests against the Python runtime, byte for byte (needs ../.venv)
#   tidy      clang-tidy
# And by name only:
#   valgrind  the tests of the C interface under Valgrind (minutes)
set -euo pipefail
cd "$(dirname "$0")"
jobs="$(nproc)"
seconds="${AUTOSAM_FUZZ_SECONDS:-8}"

sources() {
  find include src tools examples tests fuzz benchmarks \( -name '*.c' -o -name '*.h' -o \
    -name '*.cpp' -o -name '*.hpp' \) -print0 | sort -z
}

build() {  # PRESET [TARGET...]
  local preset="$1"
  shift
  cmake --preset "$preset" >/dev/null
  cmake --build "build/$preset" --parallel "$jobs" ${1:+--target "$@"} -- --quiet
}

stage_packages() {
  local missing=()
  local package
  for package in g++ cmake ninja-build pkg-config doctest-dev nlohmann-json3-dev clang-14 \
    clang-format-14 clang-tidy-14 libclang-rt-14-dev dpkg-dev libinsighttoolkit5-dev; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok' || missing+=("$package")
  done
  if ((${#missing[@]})); then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
  tools/fetch-ort-headers.sh
}

stage_format() { sources | xargs -0 clang-format-14 --dry-run -Werror; }

stage_release() {
  build release
  ctest --test-dir build/release --output-on-failure --parallel "$jobs" | tail -n 40
}

stage_asan() {
  build asan
  ctest --test-dir build/asan --output-on-failure --parallel "$jobs" | tail -n 40
}

stage_tsan() {
  build tsan autosam_api_tests autosam_openvino_tests autosam_trt_tests server
  ctest --test-dir build/tsan --output-on-failure \
    -R '^(api|openvino|tensorrt|example-server)$' | tail -n 40
}

stage_fuzz() {
  build fuzz fuzz_manifest fuzz_npy fuzz_tensors
  local work name
  work="$(mktemp -d)"
  for name in manifest npy tensors; do
    mkdir "$work/$name"
  done
  cp tests/data/threshold.autosam/manifest.json "$work/manifest/"
  cp tests/data/threshold.autosam/golden/*.npy "$work/npy/"
  for name in manifest npy tensors; do
    if ! "build/fuzz/fuzz/fuzz_$name" -max_total_time="$seconds" -max_len=8192 -timeout=10 \
      -artifact_prefix="$work/" "$work/$name" >"$work/$name.log" 2>&1; then
      tail -n 40 "$work/$name.log" >&2
      echo "the input lies in $work" >&2
      return 1
    fi
    grep -E '^Done' "$work/$name.log"
  done
  rm -rf "$work"
}

stage_package() {
  build release
  (cd build/release && cpack -G 'TGZ;DEB' >/dev/null && ls -- *.tar.gz *.deb)
}

stage_sdk() { tests/check_sdk.sh ../.venv/bin/python "$PWD" build/sdk; }

stage_python() { (cd .. && .venv/bin/pytest -q tests/cpp); }

stage_tidy() {
  build release
  find src tools examples -name '*.cpp' -not -path '*/itk/*' -print0 |
    xargs -0 -n 1 -P "$jobs" clang-tidy-14 -p build/release --quiet 2>/dev/null
}

stage_oldest() {
  build release autosam_api_tests autosam_rtx_tests
  local version=1.20.1 folder=build/onnxruntime-oldest
  if [[ ! -d "$folder/onnxruntime" ]]; then
    local said
    if ! said="$(../.venv/bin/pip install --quiet --no-deps --target "$folder" "onnxruntime==$version" 2>&1)"; then
      echo "$said" >&2
      # Newer Pythons have no wheel of it, which shall not hold up the other stages.
      grep -q 'No matching distribution found' <<<"$said" || return 1
      echo "SKIPPED: no wheel of onnxruntime $version for this Python"
      return
    fi
  fi
  AUTOSAM_ONNXRUNTIME_LIB="$folder/onnxruntime/capi" build/release/tests/autosam_api_tests
  AUTOSAM_ONNXRUNTIME_LIB="$folder/onnxruntime/capi" build/release/tests/autosam_rtx_tests
}

stage_valgrind() {
  build release autosam_api_tests
  # Errors inside ONNX Runtime and the loader are theirs; leaks are counted by LeakSanitizer.
  AUTOSAM_ONNXRUNTIME_LIB="$(echo ../.venv/lib/python3*/site-packages/onnxruntime/capi)" valgrind --error-exitcode=9 --leak-check=no \
    --suppressions=tests/valgrind.supp build/release/tests/autosam_api_tests \
    --test-case-exclude='*GPU*,*middle of a batch*,*nothing is printed*,more memory*'
}

if (($# == 0)); then
  set -- packages format release oldest asan tsan fuzz package sdk python tidy
fi
for stage in "$@"; do
  if ! declare -F "stage_$stage" >/dev/null; then
    echo "ci.sh: unknown stage '$stage'; see the head of the file" >&2
    exit 2
  fi
  echo "== cpp: $stage"
  begin=$SECONDS
  "stage_$stage"
  echo "== cpp: $stage took $((SECONDS - begin)) s"
done
