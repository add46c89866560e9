# Finds ONNX Runtime's C header; the library is opened at run time and never linked.
#
# Looked at, in this order: ONNXRUNTIME_ROOT (CMake or environment variable: an unpacked release or
# package), what tools/fetch-ort-headers.sh put into the build folder, the system.
#
# Result: target `onnxruntime_headers`, OnnxRuntimeHeaders_VERSION (1.N).
set(_suffixes include include/onnxruntime include/onnxruntime/core/session usr/include/onnxruntime)
if(ONNXRUNTIME_ROOT OR DEFINED ENV{ONNXRUNTIME_ROOT})
  # Who names a place means this place and no other.
  find_path(OnnxRuntimeHeaders_INCLUDE_DIR onnxruntime_c_api.h
            HINTS "${ONNXRUNTIME_ROOT}" "$ENV{ONNXRUNTIME_ROOT}"
            PATH_SUFFIXES ${_suffixes} NO_DEFAULT_PATH)
else()
  find_path(OnnxRuntimeHeaders_INCLUDE_DIR onnxruntime_c_api.h
            HINTS "${CMAKE_BINARY_DIR}/ort-headers" "${PROJECT_SOURCE_DIR}/build/ort-headers"
            PATH_SUFFIXES ${_suffixes} onnxruntime onnxruntime/core/session)
endif()
if(OnnxRuntimeHeaders_INCLUDE_DIR)
  file(STRINGS "${OnnxRuntimeHeaders_INCLUDE_DIR}/onnxruntime_c_api.h" _line
       REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX REPLACE "^#define ORT_API_VERSION ([0-9]+).*" "1.\\1"
         OnnxRuntimeHeaders_VERSION "${_line}")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntimeHeaders
  REQUIRED_VARS OnnxRuntimeHeaders_INCLUDE_DIR VERSION_VAR OnnxRuntimeHeaders_VERSION
  REASON_FAILURE_MESSAGE
    "set ONNXRUNTIME_ROOT, install libonnxruntime-dev, or run cpp/tools/fetch-ort-headers.sh")
if(OnnxRuntimeHeaders_FOUND AND NOT TARGET onnxruntime_headers)
  add_library(onnxruntime_headers INTERFACE IMPORTED)
  target_include_directories(onnxruntime_headers SYSTEM INTERFACE
                             "${OnnxRuntimeHeaders_INCLUDE_DIR}")
endif()
mark_as_advanced(OnnxRuntimeHeaders_INCLUDE_DIR)
