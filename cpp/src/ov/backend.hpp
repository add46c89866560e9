// Backend `openvino`: the bundle's float32 or int8 graph on CPUs, all that is not int8 in float32.
#pragma once

#include <memory>

#include "../backend.hpp"

namespace autosam::core {

std::unique_ptr<Backend> open_openvino(const Bundle& bundle, const Request& request);

}  // namespace autosam::core
