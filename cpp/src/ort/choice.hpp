// Which provider and which graph: the same rules as the Python runtime's.
#pragma once

#include <string>
#include <vector>

#include "../backend.hpp"

namespace autosam::core {

struct ProviderChoice {
  std::string provider;  // cpu, cuda, tensorrt, rtx
  int index = 0;         // of the CUDA device
  std::string reason;
};

// there: ONNX Runtime's names of the providers that it was built with; provider rtx is none of
// them. devices: CUDA devices.
//
// Throws Error(INVALID_ARGUMENT, DEVICE_UNAVAILABLE).
ProviderChoice choose_provider(const Request& request, const std::vector<std::string>& there,
                               int devices);

struct ArtefactChoice {
  const Artefact* artefact = nullptr;
  std::string reason;
};

// Throws Error(INVALID_ARGUMENT, BAD_BUNDLE): the bundle has no such graph.
// Whether ONNX Runtime's CPU provider runs graphs of a precision through casts.
bool slow_on_cpu(const std::string& precision);
ArtefactChoice choose_artefact(const Manifest& manifest, const std::string& precision, bool on_cpu);

// ONNX Runtime's name of a provider. Throws Error(INVALID_ARGUMENT).
std::string provider_name(const std::string& provider);

}  // namespace autosam::core
