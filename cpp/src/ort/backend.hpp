// Backend `onnxruntime`: the bundle's ONNX graphs on CPU, CUDA or TensorRT providers.
#pragma once

#include <memory>

#include "../backend.hpp"

namespace autosam::core {

std::unique_ptr<Backend> open_ort(const Bundle& bundle, const Request& request);

}  // namespace autosam::core
