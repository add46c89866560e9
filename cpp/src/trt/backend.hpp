// Backend `tensorrt`: the bundle's engines on NVIDIA GPUs, by TensorRT or TensorRT-RTX.
#pragma once

#include <memory>

#include "../backend.hpp"

namespace autosam::core {

std::unique_ptr<Backend> open_tensorrt(const Bundle& bundle, const Request& request);

}  // namespace autosam::core
