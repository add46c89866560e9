// Bundles with engines of the fake library, its module, and what the fake driver has counted.
#pragma once

#include <autosam.h>
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <sha256.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "../helpers.hpp"

namespace autosam_test {

// An environment variable, as long as this lives.
class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) {
    const char* before = std::getenv(name);
    if (before != nullptr) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Setting() {
    if (before_.empty()) {
      unsetenv(name_);
    } else {
      setenv(name_, before_.c_str(), 1);
    }
  }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
  std::string before_;
};

struct EngineSpec {
  std::string precision = "fp32";
  std::string family = "tensorrt";
  std::string version = "11.1.0.106";
  std::string platform = "linux-x86_64";
  std::string capabilities = "89";
  std::string graph;              // "" is the graph of that precision
  std::string batches = "1,2,4";  // smallest, best, largest
};

inline std::string hash(const std::string& text) {
  return autosam::core::sha256(text.data(), text.size());
}

// A copy of threshold.autosam with engines for slices of 4 to 64 pixels.
inline std::string with_engines(const TempFolder& temp, const std::vector<EngineSpec>& engines) {
  const std::filesystem::path bundle = temp.bundle();
  std::filesystem::create_directory(bundle / "engines");
  std::string entries;
  int number = 0;
  for (const EngineSpec& one : engines) {
    const std::string graph =
        one.graph.empty() ? hash(read(bundle / ("model." + one.precision + ".onnx"))) : one.graph;
    std::string plan = "B " + one.batches + " H 4,8,64 W 4,8,64";
    for (char& letter : plan) letter = letter == ',' ? ' ' : letter;
    const std::string path = "engines/" + std::to_string(number++) + ".engine";
    write(bundle / path, plan);
    const std::string profile = R"({"B":[)" + one.batches + R"(],"H":[4,8,64],"W":[4,8,64]})";
    const std::string parts = R"({"compute_capabilities":[)" + one.capabilities +
                              R"(],"family":")" + one.family + R"(","graph_sha256":")" + graph +
                              R"(","platform":")" + one.platform + R"(","profile":)" + profile +
                              R"(,"version":")" + one.version + R"(","workspace_bytes":null})";
    std::string record = parts;
    record.back() = ',';
    record += R"("layers":1,"low_share":0,"build_seconds":0,"key":")" + hash(parts) + "\"}";
    entries += R"({"kind":"engine","precision":")" + one.precision + R"(","file":{"path":")" +
               path + R"(","sha256":")" + hash(plan) + R"(","bytes":)" +
               std::to_string(plan.size()) + R"(},"engine":)" + record + "},";
  }
  std::string manifest = read(bundle / "manifest.json");
  const std::string key = "\"artefacts\": [";
  const std::size_t at = manifest.find(key);
  if (at == std::string::npos) throw std::runtime_error("the manifest has no artefacts");
  write(bundle / "manifest.json", manifest.insert(at + key.size(), entries));
  return bundle.string();
}

// A function of the fake driver.
template <class Function>
Function driver(const char* name) {
  return reinterpret_cast<Function>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
}

inline long live() {
  return driver<long (*)()>("fake_live")();
}

inline autosam_options tensorrt() {
  autosam_options options;
  autosam_options_init(&options);
  options.backend = "tensorrt";
  options.runtime_library = AUTOSAM_FAKE_TENSORRT_11;
  return options;
}

}  // namespace autosam_test
