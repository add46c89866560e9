#include "choice.hpp"

#include <algorithm>
#include <array>

#include "../error.hpp"

namespace autosam::core {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::string available(int devices) {
  std::string text = "cpu";
  for (int i = 0; i < devices; ++i) text += ", cuda:" + std::to_string(i);
  return text;
}

// The graph of one precision.
const Artefact& asked_for(const Manifest& manifest, const std::string& precision) {
  if (!contains({"fp32", "fp16", "bf16", "int8"}, precision)) {
    throw Error(AUTOSAM_INVALID_ARGUMENT, Message("unknown precision")
                                              .got("'" + precision + "'")
                                              .expected("auto, fp32, fp16, bf16 or int8"));
  }
  const Artefact* artefact = manifest.find("onnx", precision);
  if (artefact != nullptr) return *artefact;
  std::vector<std::string> there;
  for (const Artefact& one : manifest.artefacts) {
    if (one.kind == "onnx") there.push_back(one.precision);
  }
  throw Error(
      AUTOSAM_INVALID_ARGUMENT,
      Message("the bundle has no " + precision + " graph")
          .got("graphs in " + (there.empty() ? "no precision" : listed(there)))
          .todo(precision == "int8" ? "add one: autosam-export int8 BUNDLE --calibration FOLDER"
                                    : "export again with --precision fp32," + precision));
}

}  // namespace

bool slow_on_cpu(const std::string& precision) {
  return contains({"fp16", "bf16"}, precision);
}

std::string provider_name(const std::string& provider) {
  if (provider == "cpu") return "CPUExecutionProvider";
  if (provider == "cuda") return "CUDAExecutionProvider";
  if (provider == "tensorrt") return "TensorrtExecutionProvider";
  if (provider == "rtx") return "NvTensorRTRTXExecutionProvider";
  throw Error(AUTOSAM_INVALID_ARGUMENT, Message("unknown provider")
                                            .got("'" + provider + "'")
                                            .expected("auto, cpu, cuda, tensorrt or rtx"));
}

ProviderChoice choose_provider(const Request& request, const std::vector<std::string>& there,
                               int devices) {
  if (request.device == "auto" && request.provider == "auto") {
    if (!contains(there, provider_name("cuda"))) {
      return {"cpu", 0, "this ONNX Runtime has no CUDA provider"};
    }
    if (devices == 0) return {"cpu", 0, "no CUDA device"};
    return {"cuda", 0, "a CUDA device is there"};
  }
  Device device{request.provider == "cpu" ? "cpu" : "cuda", 0};
  if (request.device != "auto") device = parse_device(request.device);
  const std::string provider = request.provider != "auto" ? request.provider : device.kind;
  const std::string name = provider_name(provider);
  if ((provider == "cpu") != (device.kind == "cpu")) {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message("device and provider contradict each other")
                    .got("device " + request.device + ", provider " + provider)
                    .expected("cpu with cpu; cuda with cuda, tensorrt or rtx"));
  }
  // A plugin is listed only after it was loaded, which needs a driver.
  if (provider != "rtx" && !contains(there, name)) {
    throw Error(AUTOSAM_DEVICE_UNAVAILABLE,
                Message("this ONNX Runtime has no " + name)
                    .got(listed(there))
                    .todo("use a GPU build of ONNX Runtime, or ask for device cpu"));
  }
  if (provider != "cpu" && devices <= device.index) {
    const std::string wanted = std::to_string(device.index);
    throw Error(
        AUTOSAM_DEVICE_UNAVAILABLE,
        Message("device 'cuda:" + wanted + "' is not there")
            .got(std::to_string(devices) + " usable CUDA devices; available: " + available(devices))
            .expected("at least " + std::to_string(device.index + 1) +
                      ", with driver and CUDA libraries")
            .todo("check nvidia-smi, or ask for device cpu"));
  }
  return {provider, device.index, "asked for"};
}

ArtefactChoice choose_artefact(const Manifest& manifest, const std::string& precision,
                               bool on_cpu) {
  if (precision != "auto") {
    const Artefact& artefact = asked_for(manifest, precision);
    if (precision == "int8" && !on_cpu) {
      throw Error(AUTOSAM_UNSUPPORTED, Message("int8 graphs are for CPUs")
                                           .got("a GPU provider")
                                           .todo("ask for device cpu, or precision fp16"));
    }
    return {&artefact, precision + " was asked for" +
                           (on_cpu && slow_on_cpu(precision) ? ", slower than fp32 on a CPU" : "")};
  }
  // Low-precision graphs on the CPU provider run through casts: slower, and more memory.
  const std::array<std::string, 3> order = on_cpu
                                               ? std::array<std::string, 3>{"fp32", "fp16", "bf16"}
                                               : std::array<std::string, 3>{"fp16", "fp32", "bf16"};
  for (const std::string& one : order) {
    const Artefact* artefact = manifest.find("onnx", one);
    if (artefact == nullptr) continue;
    if (one == order[0]) {
      return {artefact, one + " is the best for a " + (on_cpu ? "CPU" : "GPU")};
    }
    return {artefact, one + ", since the bundle has no " + order[0] + " graph"};
  }
  throw Error(AUTOSAM_BAD_BUNDLE, Message("the bundle has no ONNX graph").todo("export again"));
}

}  // namespace autosam::core
