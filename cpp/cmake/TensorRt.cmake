# libautosam_trt.so: the one part that is compiled with NVIDIA's headers. It links none of NVIDIA's
# libraries, and libautosam opens it at run time.

# Folders of NvInfer.h and of CUDA's headers that it includes.
function(autosam_find_tensorrt result)
  set(TENSORRT_ROOT "" CACHE PATH "An unpacked TensorRT 10, TensorRT 11 or TensorRT-RTX")
  find_path(TENSORRT_INCLUDE_DIR NvInfer.h HINTS "${TENSORRT_ROOT}" "$ENV{TENSORRT_ROOT}"
            PATH_SUFFIXES include)
  find_path(CUDA_INCLUDE_DIR cuda_runtime_api.h
            HINTS "${CUDAToolkit_ROOT}" "$ENV{CUDA_PATH}" /usr/local/cuda
            PATH_SUFFIXES include targets/x86_64-linux/include)
  if(NOT TENSORRT_INCLUDE_DIR)
    message(FATAL_ERROR "AUTOSAM_WITH_TENSORRT needs NvInfer.h: set TENSORRT_ROOT to an unpacked "
                        "TensorRT 10, TensorRT 11 or TensorRT-RTX")
  endif()
  if(NOT CUDA_INCLUDE_DIR)
    message(FATAL_ERROR "NvInfer.h needs cuda_runtime_api.h: set CUDAToolkit_ROOT")
  endif()
  set(${result} "${TENSORRT_INCLUDE_DIR}" "${CUDA_INCLUDE_DIR}" PARENT_SCOPE)
endfunction()

# A module for the headers in some folders.
function(autosam_add_trt_module name includes)
  set(_map "${PROJECT_SOURCE_DIR}/src/trt/module.map")
  add_library(${name} MODULE "${PROJECT_SOURCE_DIR}/src/trt/module.cpp")
  target_include_directories(${name} SYSTEM PRIVATE ${includes})
  target_link_libraries(${name} PRIVATE ${CMAKE_DL_LIBS} autosam_flags)
  set_target_properties(${name} PROPERTIES
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON LINK_DEPENDS "${_map}")
  target_link_options(${name} PRIVATE
    "LINKER:--version-script=${_map}" LINKER:--as-needed
    $<$<BOOL:${AUTOSAM_STATIC_CXX}>:-static-libstdc++> $<$<BOOL:${AUTOSAM_STATIC_CXX}>:-static-libgcc>)
endfunction()
