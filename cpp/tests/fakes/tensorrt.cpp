// A library behind the classes of tensorrt/NvInfer.h, for tests. A plan is a text, "B 1 2 4 H 4 8
// 64 W 4 8 64": the profile. It gives the labels of threshold.autosam, in the stream, so that
// whoever does not wait for the stream reads something else. The environment variable AUTOSAM_FAKE
// names what is wrong with it:
//
//   no-runtime, no-engine, no-context   these are not made       full     no memory for contexts
//   full-engine                         no memory for weights    profiles two optimisation profiles
//   tensors     labels are no bytes     profile  another one     shape    larger outputs
//   sizes       slices are refused      run      enqueueing fails
#include <NvInfer.h>
#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <sstream>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::ILogger;

nvinfer1::ILogger* logger = nullptr;

bool wrong(const char* word) {
  const char* given = std::getenv("AUTOSAM_FAKE");
  return given != nullptr && std::strcmp(given, word) == 0;
}

void complain(const char* text) {
  logger->log(ILogger::Severity::kVERBOSE, "not of interest");
  logger->log(ILogger::Severity::kERROR, text);
}

// The fake driver's: work in a stream, and how much memory lies behind an address.
template <class Function>
Function driver(const char* name) {
  return reinterpret_cast<Function>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
}

std::size_t device_bytes(const void* address) {
  return driver<std::size_t (*)(const void*)>("fake_device_bytes")(address);
}

Dims dims(std::initializer_list<std::int64_t> sizes) {
  Dims made;
  for (const std::int64_t size : sizes) made.d[made.nbDims++] = size;
  return made;
}

Dims shape_of(const std::string& name, std::int64_t batch, std::int64_t height,
              std::int64_t width) {
  if (name == "slices") return dims({batch, 1, height, width});
  if (name == "labels") return dims({batch, height, width});
  return dims({batch, 3, height, width});
}

// One run, with what it needs to be done later.
struct Work {
  const float* slices;
  std::uint8_t* labels;
  float* logits;
  std::int64_t batch;
  std::int64_t pixels;
};

void compute(void* given) {
  const std::unique_ptr<Work> work(static_cast<Work*>(given));
  for (std::int64_t i = 0; i < work->batch * work->pixels; ++i) {
    const float x = work->slices[i];
    work->labels[i] = x <= 50 ? 0 : x <= 300 ? 1 : 2;
    const float logits[3] = {100 - x, x, 2 * x - 300};
    for (std::int64_t k = 0; k < 3; ++k) {
      work->logits[(i / work->pixels * 3 + k) * work->pixels + i % work->pixels] = logits[k];
    }
  }
}

class Context : public nvinfer1::IExecutionContext {
 public:
  explicit Context(std::map<std::string, std::array<std::int64_t, 3>> profile)
      : profile_(std::move(profile)) {}
  bool setInputShape(const char* name, const Dims& sizes) noexcept override {
    const bool four = std::string(name) == "slices" && sizes.nbDims == 4 && sizes.d[1] == 1;
    const auto inside = [this](const char* axis, std::int64_t size) {
      return size >= profile_.at(axis)[0] && size <= profile_.at(axis)[2];
    };
    if (!four || wrong("sizes") || !inside("B", sizes.d[0]) || !inside("H", sizes.d[2]) ||
        !inside("W", sizes.d[3])) {
      complain("sizes outside the profile");
      return false;
    }
    batch_ = sizes.d[0];
    height_ = sizes.d[2];
    width_ = sizes.d[3];
    memory_ = nullptr;
    return true;
  }
  std::int32_t inferShapes(std::int32_t, const char**) noexcept override { return 0; }
  Dims getTensorShape(const char* name) const noexcept override {
    return shape_of(name, batch_ + (wrong("shape") ? 1 : 0), height_, width_);
  }
  bool setTensorAddress(const char* name, void* address) noexcept override {
    addresses_[name] = address;
    return true;
  }
  std::size_t updateDeviceMemorySizeForShapes() noexcept override {
    return static_cast<std::size_t>(batch_ * height_ * width_ * 16);
  }
  void setDeviceMemoryV2(void* memory, std::int64_t bytes) noexcept override {
    memory_ = memory;
    bytes_ = static_cast<std::size_t>(bytes);
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    const auto pixels = static_cast<std::size_t>(batch_ * height_ * width_);
    const bool room = memory_ != nullptr && bytes_ >= updateDeviceMemorySizeForShapes() &&
                      device_bytes(memory_) >= bytes_;
    const bool bound = device_bytes(addresses_["slices"]) >= 4 * pixels &&
                       device_bytes(addresses_["labels"]) >= pixels &&
                       device_bytes(addresses_["logits"]) >= 12 * pixels;
    if (!room || !bound || wrong("run")) {
      complain(!room    ? "no memory for activations"
               : !bound ? "tensors without memory"
                        : "a kernel failed");
      return false;
    }
    auto work = std::make_unique<Work>();
    *work = {static_cast<const float*>(addresses_["slices"]),
             static_cast<std::uint8_t*>(addresses_["labels"]),
             static_cast<float*>(addresses_["logits"]), batch_, height_ * width_};
    driver<void (*)(void*, void (*)(void*), void*)>("fake_stream_push")(stream, compute,
                                                                        work.release());
    return true;
  }

 private:
  std::map<std::string, std::array<std::int64_t, 3>> profile_;
  std::int64_t batch_ = 0;
  std::int64_t height_ = 0;
  std::int64_t width_ = 0;
  std::map<std::string, void*> addresses_;
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

class Engine : public nvinfer1::ICudaEngine {
 public:
  explicit Engine(const std::string& plan) {
    std::istringstream words(plan);
    std::string axis;
    while (words >> axis) {
      auto& sizes = profile_[axis];
      words >> sizes[0] >> sizes[1] >> sizes[2];
    }
  }
  std::int32_t getNbIOTensors() const noexcept override { return 3; }
  const char* getIOTensorName(std::int32_t index) const noexcept override {
    // Not in the order of the manifest.
    static const char* const names[] = {"logits", "slices", "labels"};
    return index >= 0 && index < 3 ? names[index] : nullptr;
  }
  nvinfer1::TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    return std::string(name) == "slices" ? nvinfer1::TensorIOMode::kINPUT
                                         : nvinfer1::TensorIOMode::kOUTPUT;
  }
  DataType getTensorDataType(const char* name) const noexcept override {
    if (std::string(name) != "labels") return DataType::kFLOAT;
    return wrong("tensors") ? DataType::kINT64 : DataType::kUINT8;
  }
  Dims getTensorShape(const char* name) const noexcept override {
    return shape_of(name, -1, -1, -1);
  }
  std::int32_t getNbOptimizationProfiles() const noexcept override {
    return wrong("profiles") ? 2 : 1;
  }
  Dims getProfileShape(const char* name, std::int32_t,
                       nvinfer1::OptProfileSelector which) const noexcept override {
    const auto at = static_cast<std::size_t>(which);
    const std::int64_t more = wrong("profile") ? 1 : 0;
    return shape_of(name, profile_.at("B")[at] + more, profile_.at("H")[at], profile_.at("W")[at]);
  }
  nvinfer1::IExecutionContext* createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy strategy) noexcept override {
    if (wrong("full")) complain("Cuda Runtime (out of memory)");
    if (wrong("no-context")) complain("no kernel fits");
    const bool fails = wrong("full") || wrong("no-context") ||
                       strategy != nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED;
    return fails ? nullptr : new Context(profile_);
  }

 private:
  std::map<std::string, std::array<std::int64_t, 3>> profile_;
};

class Runtime : public nvinfer1::IRuntime {
 public:
  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* plan,
                                               std::size_t bytes) noexcept override {
    if (wrong("no-engine")) complain("the plan is of another day");
    if (wrong("full-engine")) complain("OutOfMemory (no room for weights)");
    if (wrong("no-engine") || wrong("full-engine")) return nullptr;
    return new Engine(std::string(static_cast<const char*>(plan), bytes));
  }
};

}  // namespace

EXPORT void* createInferRuntime_INTERNAL(void* given, std::int32_t version) noexcept {
  logger = static_cast<ILogger*>(given);
  if (wrong("no-runtime")) complain("CUDA driver version is insufficient");
  const bool fits = version / 10000 == NV_TENSORRT_MAJOR;
  return wrong("no-runtime") || !fits ? nullptr : new Runtime();
}
EXPORT std::int32_t getInferLibMajorVersion() noexcept {
  return wrong("major") ? NV_TENSORRT_MAJOR + 1 : NV_TENSORRT_MAJOR;
}
EXPORT std::int32_t getInferLibMinorVersion() noexcept {
  return 1;
}
EXPORT std::int32_t getInferLibPatchVersion() noexcept {
  return 0;
}
EXPORT std::int32_t getInferLibBuildVersion() noexcept {
  return 106;
}
