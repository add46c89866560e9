#include "backend.hpp"

#include <algorithm>
#include <array>
#include <cctype>

#include "error.hpp"
#include "ort/backend.hpp"
#include "ov/backend.hpp"
#include "trt/backend.hpp"

namespace autosam::core {
namespace {

struct Row {
  const char* name;
  std::unique_ptr<Backend> (*open)(const Bundle& bundle, const Request& request);
};

// Adding a backend is one file and one row; the first row is what "auto" means.
constexpr std::array kBackends{Row{"onnxruntime", open_ort}, Row{"openvino", open_openvino},
                               Row{"tensorrt", open_tensorrt}};

}  // namespace

std::unique_ptr<Backend> open_backend(const std::string& name, const Bundle& bundle,
                                      const Request& request) {
  std::string known = "auto";
  for (const Row& row : kBackends) {
    if (name == "auto" || name == row.name) return row.open(bundle, request);
    known += std::string(" | ") + row.name;
  }
  throw Error(AUTOSAM_INVALID_ARGUMENT,
              Message("unknown backend").got("'" + name + "'").expected(known));
}

Device parse_device(const std::string& device) {
  if (device == "cpu" || device == "cuda") return {device, 0};
  const std::string kind = device.substr(0, device.find(':'));
  const std::string index = device.substr(std::min(device.size(), kind.size() + 1));
  constexpr std::size_t kMostDigits = 4;
  const bool number = !index.empty() && index.size() <= kMostDigits &&
                      std::all_of(index.begin(), index.end(),
                                  [](char letter) { return letter >= '0' && letter <= '9'; });
  if (kind == "cuda" && number) return {kind, std::stoi(index)};
  throw Error(
      AUTOSAM_INVALID_ARGUMENT,
      Message("unknown device").got("'" + device + "'").expected("auto, cpu, cuda or cuda:N"));
}

bool means_out_of_memory(const std::string& text) {
  std::string lowered = text;
  for (char& letter : lowered) {
    letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  }
  constexpr std::array kWords{"bad allocation",        "bad_alloc",     "failed to allocate",
                              "can't allocate memory", "out of memory", "alloc_failed"};
  return std::any_of(kWords.begin(), kWords.end(), [&lowered](const char* word) {
    return lowered.find(word) != std::string::npos;
  });
}

}  // namespace autosam::core
