// ONNX Runtime's TensorRT-RTX provider, which comes as a library of its own: the same rules as the
// Python runtime's (autosam_deploy/runtime/nvidia/plugin.py).
#pragma once

#include <string>

#include "library.hpp"

namespace autosam::core {

// Where the provider's library lies; it is not loaded, which needs a driver.
//
// asked: file or folder, or "" to look at AUTOSAM_RTX_PROVIDER_LIB, beside libautosam and beside
// ONNX Runtime.
//
// Throws Error(BACKEND_UNAVAILABLE): it is not there, or ONNX Runtime takes no plugins
// (before 1.23).
std::string find_rtx_plugin(const OrtLibrary& ort, const std::string& asked);

// Register the library, once a process, and append its device of that number. Only to be called
// where a driver is.
//
// Throws Error(DEVICE_UNAVAILABLE): it cannot be loaded, or knows no such device.
void append_rtx(const OrtLibrary& ort, OrtSessionOptions* options, const std::string& plugin,
                int index);

}  // namespace autosam::core
