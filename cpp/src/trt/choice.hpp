// Which engine of a bundle runs here: the same rules as the Python runtime's
// (autosam_deploy/runtime/nvidia/choice.py and families.py).
#pragma once

#include <functional>
#include <string>

#include "../bundle.hpp"

namespace autosam::core {

// What is here. version: of a family's library, all its parts; it throws
// Error(BACKEND_UNAVAILABLE) where the library is missing.
struct EngineHost {
  std::function<std::string(const std::string& family)> version;
  std::string platform;  // linux-x86_64
  int sm = 0;            // compute capability of the device; 89 is sm89
};

struct EngineChoice {
  const Artefact* artefact = nullptr;
  std::string version;
  std::string reason;
};

// precision: "auto" takes fp16, else fp32, else bf16.
//
// Throws Error(INVALID_ARGUMENT: unknown precision; UNSUPPORTED: no engine is there, or none that
// fits, naming both sides; BACKEND_UNAVAILABLE: engines are there, but none of their libraries).
EngineChoice choose_engine(const Bundle& bundle, const std::string& precision,
                           const EngineHost& here);

// The command that builds an engine anew. For a device that TensorRT-RTX does not serve that is
// TensorRT's. sm 0: whatever the device.
std::string rebuild_engine(const std::string& family, int sm, const Bundle& bundle);

// Operating system and processor of this process, as engines name them.
std::string this_platform();

// "TensorRT" or "TensorRT-RTX".
const char* family_title(const std::string& family);

}  // namespace autosam::core
