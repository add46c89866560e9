#include "choice.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "../error.hpp"

namespace autosam::core {
namespace {

constexpr const char* kRtx = "tensorrt_rtx";
// On GPUs bf16 needs newer ones than fp16 and rounds more, so "auto" takes it last.
const std::vector<std::string> kOrder{"fp16", "fp32", "bf16"};
// Compute capabilities that TensorRT-RTX builds for.
constexpr std::array kRtxCapabilities{75, 80, 86, 89, 120, 121};

std::string capabilities(const EngineInfo& engine) {
  std::string text;
  for (const std::int64_t one : engine.compute_capabilities) {
    text += (text.empty() ? "sm" : ", sm") + std::to_string(one);
  }
  return text;
}

// Engines of TensorRT-RTX move between operating systems.
std::string needed(const std::string& family, const std::string& platform) {
  return family == kRtx ? platform.substr(std::min(platform.size(), platform.find('-'))) : platform;
}

void check_engine(const Bundle& bundle, const Artefact& artefact, const std::string& version,
                  const EngineHost& here) {
  const EngineInfo& engine = *artefact.engine;
  const auto& served = engine.compute_capabilities;
  const bool fits =
      engine.version == version &&
      needed(engine.family, engine.platform) == needed(engine.family, here.platform) &&
      std::find(served.begin(), served.end(), here.sm) != served.end();
  if (!fits) {
    throw Error(AUTOSAM_UNSUPPORTED,
                Message("the engine was built for something else")
                    .got("one built with " + engine.family + " " + engine.version + " for " +
                         capabilities(engine) + " on " + engine.platform)
                    .expected("here is " + engine.family + " " + version + " with sm" +
                              std::to_string(here.sm) + " on " + here.platform)
                    .todo(rebuild_engine(engine.family, here.sm, bundle)));
  }
  const Artefact* graph = bundle.manifest.find("onnx", artefact.precision);
  if (graph != nullptr && graph->file.sha256 != engine.graph_sha256) {
    throw Error(AUTOSAM_UNSUPPORTED,
                Message("the engine was built from another graph than the bundle's")
                    .got("sha256 " + engine.graph_sha256.substr(0, 16) + "...")
                    .expected(graph->file.sha256.substr(0, 16) + "...")
                    .todo(rebuild_engine(engine.family, here.sm, bundle)));
  }
}

[[noreturn]] void no_engine(const Bundle& bundle, const std::string& precision, int sm) {
  std::string there;
  for (const std::string& one : kOrder) {
    if (bundle.manifest.find("engine", one) != nullptr) there += (there.empty() ? "" : ", ") + one;
  }
  Message message("the bundle has no engine" + (there.empty() ? "" : " in " + precision));
  if (!there.empty()) message.got("engines in " + there);
  throw Error(AUTOSAM_UNSUPPORTED, message.todo(rebuild_engine(kRtx, sm, bundle) +
                                                ", or use backend onnxruntime, which needs none"));
}

// What is wrong with the only engine, or with each of several.
[[noreturn]] void none_fits(const std::vector<Error>& refused, const std::string& precision) {
  std::vector<std::string> reasons;
  bool missing = true;
  for (const Error& error : refused) {
    missing = missing && error.status() == AUTOSAM_BACKEND_UNAVAILABLE;
    if (std::find(reasons.begin(), reasons.end(), error.what()) == reasons.end()) {
      reasons.emplace_back(error.what());
    }
  }
  const autosam_status status = missing ? AUTOSAM_BACKEND_UNAVAILABLE : AUTOSAM_UNSUPPORTED;
  if (reasons.size() == 1) throw Error(status, Message(reasons.front()));
  std::string listed;
  for (std::size_t i = 0; i < reasons.size(); ++i) {
    listed += (i > 0 ? " | (" : "(") + std::to_string(i + 1) + ") " + reasons[i];
  }
  throw Error(status,
              Message("none of the bundle's " + std::to_string(refused.size()) + " " +
                      (precision == "auto" ? "" : precision + " ") + "engines fits: " + listed));
}

}  // namespace

EngineChoice choose_engine(const Bundle& bundle, const std::string& precision,
                           const EngineHost& here) {
  const bool automatic = precision == "auto";
  if (!automatic && std::find(kOrder.begin(), kOrder.end(), precision) == kOrder.end()) {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message("unknown precision")
                    .got("'" + precision + "'")
                    .expected("auto, fp32, fp16 or bf16; int8 is for CPUs"));
  }
  std::vector<Error> refused;
  for (const std::string& word : automatic ? kOrder : std::vector<std::string>{precision}) {
    for (const Artefact& artefact : bundle.manifest.artefacts) {
      if (!artefact.engine || artefact.precision != word) continue;
      try {
        const std::string version = here.version(artefact.engine->family);
        check_engine(bundle, artefact, version, here);
        const std::string reason = !automatic ? word + " was asked for"
                                   : word == kOrder[0]
                                       ? word + " is the best for a GPU"
                                       : word + ", since no engine of higher rank fits this device";
        return {&artefact, version, reason};
      } catch (const Error& error) {
        refused.push_back(error);
      }
    }
  }
  if (refused.empty()) no_engine(bundle, precision, here.sm);
  none_fits(refused, precision);
}

std::string rebuild_engine(const std::string& family, int sm, const Bundle& bundle) {
  const bool served =
      family != kRtx || sm == 0 ||
      std::find(kRtxCapabilities.begin(), kRtxCapabilities.end(), sm) != kRtxCapabilities.end();
  const std::string word = served && family == kRtx ? "rtx" : "tensorrt";
  return "run: autosam-export engine " + bundle.folder.string() + " --engine " + word +
         (sm == 0 ? "" : " --sm " + std::to_string(sm));
}

std::string this_platform() {
#if defined(__x86_64__)
  return "linux-x86_64";
#elif defined(__aarch64__)
  return "linux-aarch64";
#else
#error "name the processor as autosam_deploy.runtime.nvidia.families.this_platform does"
#endif
}

const char* family_title(const std::string& family) {
  return family == kRtx ? "TensorRT-RTX" : "TensorRT";
}

}  // namespace autosam::core
