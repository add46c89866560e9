// libautosam_trt.so: NVIDIA's C++ classes behind the plain functions of module.h. Only what is the
// same in TensorRT 10, 11 and TensorRT-RTX is used; their objects differ, so one build serves the
// family and major version of its headers and no other.
#include "module.h"

#include <NvInfer.h>
#include <NvInferVersion.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

struct autosam_trt_engine {
  // In the order in which they need each other; the engine goes first.
  std::unique_ptr<nvinfer1::IRuntime> runtime;
  std::unique_ptr<nvinfer1::ICudaEngine> engine;
};

struct autosam_trt_context {
  std::unique_ptr<nvinfer1::IExecutionContext> context;
};

namespace {

#ifdef TRT_MAJOR_RTX
constexpr const char* kFamily = "tensorrt_rtx";
#else
constexpr const char* kFamily = "tensorrt";
#endif

// Keeps what the library says, from any of its threads, and never prints.
class Keeper : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++total_;
    if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
    try {
      errors_.emplace_back(total_, text);
      if (errors_.size() > kMost) errors_.pop_front();
    } catch (...) {
      // Without memory for the text the failure itself still shows.
      return;
    }
  }

  std::uint64_t mark() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return total_;
  }

  void errors(std::uint64_t since, char* text, std::size_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::size_t used = 0;
    const auto append = [&](const char* part, std::size_t length) {
      length = std::min(length, size - 1 - used);
      std::memcpy(text + used, part, length);
      used += length;
    };
    for (const auto& [number, line] : errors_) {
      if (number <= since) continue;
      if (used > 0) append("; ", 2);
      append(line.data(), line.size());
    }
    text[used] = '\0';
  }

 private:
  static constexpr std::size_t kMost = 100;
  std::mutex mutex_;
  std::deque<std::pair<std::uint64_t, std::string>> errors_;
  std::uint64_t total_ = 0;
};

// One a process: the library ignores the logger of a second runtime while a first is alive. Never
// destroyed, since its threads may outlive everything else.
Keeper& keeper() {
  static auto* const one = new Keeper();
  return *one;
}

struct Library {
  void* (*create)(void*, std::int32_t) noexcept = nullptr;
  std::int32_t (*parts[4])() noexcept = {};
};
Library attached;

template <class Function>
bool find(void* library, Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

std::int32_t attach(void* library) {
  Library found;
  const bool complete = find(library, found.create, "createInferRuntime_INTERNAL") &&
                        find(library, found.parts[0], "getInferLibMajorVersion") &&
                        find(library, found.parts[1], "getInferLibMinorVersion") &&
                        find(library, found.parts[2], "getInferLibPatchVersion") &&
                        find(library, found.parts[3], "getInferLibBuildVersion");
  if (complete) attached = found;
  return complete ? 1 : 0;
}

void version(std::int32_t parts[4]) {
  for (int i = 0; i < 4; ++i) parts[i] = attached.parts[i]();
}

std::uint64_t mark() {
  return keeper().mark();
}

void errors(std::uint64_t since, char* text, std::size_t size) {
  keeper().errors(since, text, size);
}

autosam_trt_engine* load(const void* plan, std::size_t bytes) {
  try {
    auto loaded = std::make_unique<autosam_trt_engine>();
    loaded->runtime.reset(
        static_cast<nvinfer1::IRuntime*>(attached.create(&keeper(), NV_TENSORRT_VERSION)));
    if (loaded->runtime == nullptr) return nullptr;
    loaded->engine.reset(loaded->runtime->deserializeCudaEngine(plan, bytes));
    return loaded->engine == nullptr ? nullptr : loaded.release();
  } catch (...) {
    return nullptr;
  }
}

void unload(autosam_trt_engine* engine) {
  delete engine;
}

std::int32_t tensors(const autosam_trt_engine* engine) {
  return engine->engine->getNbIOTensors();
}

std::int32_t copy_shape(const nvinfer1::Dims& from, std::int64_t* to) {
  if (from.nbDims < 0 || from.nbDims > AUTOSAM_TRT_MOST_AXES) return -1;
  for (std::int32_t axis = 0; axis < from.nbDims; ++axis) to[axis] = from.d[axis];
  return from.nbDims;
}

const char* dtype_name(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return "float32";
    case nvinfer1::DataType::kHALF:
      return "float16";
    case nvinfer1::DataType::kUINT8:
      return "uint8";
    default:
      return "another type";
  }
}

std::int32_t tensor(const autosam_trt_engine* engine, std::int32_t index, autosam_trt_tensor* out) {
  const nvinfer1::ICudaEngine& asked = *engine->engine;
  const char* const name = asked.getIOTensorName(index);
  if (name == nullptr) return 0;
  *out = {};
  out->name = name;
  out->dtype = dtype_name(asked.getTensorDataType(name));
  out->is_output = asked.getTensorIOMode(name) == nvinfer1::TensorIOMode::kOUTPUT ? 1 : 0;
  out->rank = copy_shape(asked.getTensorShape(name), out->shape);
  if (out->rank < 0) return 0;
  if (out->is_output == 1) return 1;
  constexpr nvinfer1::OptProfileSelector kSelectors[] = {nvinfer1::OptProfileSelector::kMIN,
                                                         nvinfer1::OptProfileSelector::kOPT,
                                                         nvinfer1::OptProfileSelector::kMAX};
  for (int i = 0; i < 3; ++i) {
    if (copy_shape(asked.getProfileShape(name, 0, kSelectors[i]), out->profile[i]) != out->rank) {
      return 0;
    }
  }
  return 1;
}

std::int32_t profiles(const autosam_trt_engine* engine) {
  return engine->engine->getNbOptimizationProfiles();
}

autosam_trt_context* create(autosam_trt_engine* engine) {
  try {
    auto made = std::make_unique<autosam_trt_context>();
    // Left to itself, a context takes what the profile's largest sizes need.
    made->context.reset(engine->engine->createExecutionContext(
        nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
    return made->context == nullptr ? nullptr : made.release();
  } catch (...) {
    return nullptr;
  }
}

void destroy(autosam_trt_context* context) {
  delete context;
}

std::int32_t resize(autosam_trt_context* context, const char* input, const std::int64_t* shape,
                    std::int32_t rank) {
  nvinfer1::Dims sizes{};
  sizes.nbDims = rank;
  for (std::int32_t axis = 0; axis < rank; ++axis) sizes.d[axis] = shape[axis];
  if (!context->context->setInputShape(input, sizes)) return 0;
  return context->context->inferShapes(0, nullptr) == 0 ? 1 : 0;
}

std::int32_t shape(const autosam_trt_context* context, const char* name,
                   std::int64_t out[AUTOSAM_TRT_MOST_AXES]) {
  return copy_shape(context->context->getTensorShape(name), out);
}

std::uint64_t activations(autosam_trt_context* context) {
  return context->context->updateDeviceMemorySizeForShapes();
}

void give(autosam_trt_context* context, void* memory, std::uint64_t bytes) {
  context->context->setDeviceMemoryV2(memory, static_cast<std::int64_t>(bytes));
}

std::int32_t bind(autosam_trt_context* context, const char* name, void* address) {
  return context->context->setTensorAddress(name, address) ? 1 : 0;
}

std::int32_t enqueue(autosam_trt_context* context, void* stream) {
  return context->context->enqueueV3(static_cast<cudaStream_t>(stream)) ? 1 : 0;
}

}  // namespace

const autosam_trt_module* autosam_trt_module_get() {
  static const autosam_trt_module module{AUTOSAM_TRT_MODULE_ABI,
                                         NV_TENSORRT_MAJOR,
                                         kFamily,
                                         attach,
                                         version,
                                         mark,
                                         errors,
                                         load,
                                         unload,
                                         tensors,
                                         tensor,
                                         profiles,
                                         create,
                                         destroy,
                                         resize,
                                         shape,
                                         activations,
                                         give,
                                         bind,
                                         enqueue};
  return &module;
}
