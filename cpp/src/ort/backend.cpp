#include "backend.hpp"

#include <array>
#include <filesystem>

#include "../cores.hpp"
#include "../error.hpp"
#include "../shared_library.hpp"
#include "choice.hpp"
#include "library.hpp"
#include "plugin.hpp"

namespace autosam::core {
namespace {

using SessionOptions = OrtOwned<OrtSessionOptions>;

// Tells a run to end; ONNX Runtime looks between two nodes.
class Terminate : public Stop {
 public:
  explicit Terminate(const OrtLibrary& ort) : ort_(ort), options_(ort.api().ReleaseRunOptions) {
    ort_.check(ort_.api().CreateRunOptions(options_.out()), "ONNX Runtime failed");
    options_.adopt();
  }
  [[nodiscard]] const OrtRunOptions* get() const { return options_.get(); }
  void stop() noexcept override {
    OrtStatus* status = ort_.api().RunOptionsSetTerminate(options_.get());
    if (status != nullptr) ort_.api().ReleaseStatus(status);
  }

 private:
  const OrtLibrary& ort_;
  OrtOwned<OrtRunOptions> options_;
};

// Frees a text that the runtime allocated.
struct FreeName {
  const OrtApi* api;
  OrtAllocator* allocator;
  void operator()(char* name) const {
    OrtStatus* status = api->AllocatorFree(allocator, name);
    if (status != nullptr) api->ReleaseStatus(status);
  }
};

class OrtBackend : public Backend {
 public:
  OrtBackend(const Bundle& bundle, const Request& request);

  [[nodiscard]] const BackendInfo& info() const override { return info_; }
  void run(const Batch& batch, Token* token) const override;

 private:
  struct Outputs;

  [[nodiscard]] SessionOptions session_options(const ProviderChoice& choice) const;
  void append_gpu(OrtSessionOptions* options, const ProviderChoice& choice) const;
  void load(const Bundle& bundle, const Artefact& artefact, const ProviderChoice& choice);
  void check_signature(const Manifest& manifest) const;
  [[nodiscard]] TensorSpec tensor_of(const OrtTypeInfo* type, const char* name) const;

  const OrtLibrary& ort_;
  OrtOwned<OrtMemoryInfo> host_;
  OrtOwned<OrtSession> session_;
  std::int64_t num_classes_;
  std::string plugin_;  // of provider rtx
  BackendInfo info_;
};

OrtBackend::OrtBackend(const Bundle& bundle, const Request& request)
    : ort_(OrtLibrary::open(request.runtime_library)),
      host_(ort_.api().ReleaseMemoryInfo),
      session_(ort_.api().ReleaseSession),
      num_classes_(bundle.manifest.model.num_classes) {
  ort_.check(ort_.api().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, host_.out()),
             "ONNX Runtime failed");
  host_.adopt();
  if (request.provider == "rtx") plugin_ = find_rtx_plugin(ort_, request.provider_library);
  ProviderChoice choice = choose_provider(request, ort_.providers(), cuda_devices());
  info_.threads = request.threads > 0 ? request.threads : usable_cores();
  ArtefactChoice artefact =
      choose_artefact(bundle.manifest, request.precision, choice.provider == "cpu");
  try {
    load(bundle, *artefact.artefact, choice);
  } catch (const Error& error) {
    const bool automatic = request.device == "auto" && request.provider == "auto";
    if (error.status() != AUTOSAM_DEVICE_UNAVAILABLE || !automatic) throw;
    // "auto" means the best that works; what did not work is part of the answer.
    choice = {"cpu", 0, std::string("the GPU is not usable (") + error.what() + ")"};
    info_.fell_back = true;
    request.log.warning("running on the CPU: " + choice.reason);
    artefact = choose_artefact(bundle.manifest, request.precision, /*on_cpu=*/true);
    load(bundle, *artefact.artefact, choice);
  }
  check_signature(bundle.manifest);
  info_.backend = "onnxruntime";
  info_.device = choice.provider == "cpu" ? "cpu" : "cuda:" + std::to_string(choice.index);
  info_.provider = provider_name(choice.provider);
  info_.precision = artefact.artefact->precision;
  info_.artefact = artefact.artefact->file.path;
  info_.reason = choice.reason + "; " + artefact.reason;
  info_.runtime_version = ort_.version();
  info_.runtime_library = ort_.path();
  if (choice.provider == "cpu" && slow_on_cpu(info_.precision)) {
    request.log.warning(info_.artefact + " on a CPU is slower than fp32 and takes more memory");
  }
}

SessionOptions OrtBackend::session_options(const ProviderChoice& choice) const {
  const OrtApi& api = ort_.api();
  SessionOptions options(api.ReleaseSessionOptions);
  ort_.check(api.CreateSessionOptions(options.out()), "ONNX Runtime failed");
  options.adopt();
  const std::string what = "ONNX Runtime refused an option";
  ort_.check(api.SetIntraOpNumThreads(options.get(), info_.threads), what);
  ort_.check(api.SetInterOpNumThreads(options.get(), 1), what);
  ort_.check(api.SetSessionExecutionMode(options.get(), ORT_SEQUENTIAL), what);
  ort_.check(api.SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_FATAL), what);
  if (choice.provider == "cpu") {
    // A plan of the first run's memory is kept as one block beside the arena: half as much again
    // at the peak, and no faster.
    ort_.check(api.DisableMemPattern(options.get()), what);
  } else {
    append_gpu(options.get(), choice);
  }
  return options;
}

void OrtBackend::append_gpu(OrtSessionOptions* options, const ProviderChoice& choice) const {
  if (choice.provider == "rtx") return append_rtx(ort_, options, plugin_, choice.index);
  const OrtApi& api = ort_.api();
  const std::string what = "ONNX Runtime cannot use " + provider_name(choice.provider);
  const auto check = [&](OrtStatus* status) {
    ort_.check(status, what, AUTOSAM_DEVICE_UNAVAILABLE);
  };
  const std::string index = std::to_string(choice.index);
  if (choice.provider == "tensorrt") {
    OrtOwned<OrtTensorRTProviderOptionsV2> tensorrt(api.ReleaseTensorRTProviderOptions);
    // The provider's library is loaded here, not when it is appended.
    check(api.CreateTensorRTProviderOptions(tensorrt.out()));
    tensorrt.adopt();
    const std::array<const char*, 1> keys{"device_id"};
    const std::array<const char*, 1> values{index.c_str()};
    check(
        api.UpdateTensorRTProviderOptions(tensorrt.get(), keys.data(), values.data(), keys.size()));
    check(api.SessionOptionsAppendExecutionProvider_TensorRT_V2(options, tensorrt.get()));
  }
  // Behind TensorRT too: what it does not take stays on the GPU.
  OrtOwned<OrtCUDAProviderOptionsV2> cuda(api.ReleaseCUDAProviderOptions);
  check(api.CreateCUDAProviderOptions(cuda.out()));
  cuda.adopt();
  // TF32 rounds float32 products to 10 bits of mantissa. The default arena doubles each time, so
  // that batches near the device's size would not fit. The default search tries every algorithm
  // for every new slice size.
  const std::array<const char*, 4> keys{"device_id", "use_tf32", "arena_extend_strategy",
                                        "cudnn_conv_algo_search"};
  const std::array<const char*, 4> values{index.c_str(), "0", "kSameAsRequested", "HEURISTIC"};
  check(api.UpdateCUDAProviderOptions(cuda.get(), keys.data(), values.data(), keys.size()));
  check(api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda.get()));
}

void OrtBackend::load(const Bundle& bundle, const Artefact& artefact,
                      const ProviderChoice& choice) {
  const SessionOptions options = session_options(choice);
  // By path: weights may lie in a file beside the graph.
  const std::string path = std::filesystem::absolute(bundle.file(artefact.file)).string();
  const std::string what = "ONNX Runtime cannot load '" + artefact.file.path + "'";
  const autosam_status kind =
      choice.provider == "cpu" ? AUTOSAM_RUNTIME_ERROR : AUTOSAM_DEVICE_UNAVAILABLE;
  ort_.check(ort_.api().CreateSession(&ort_.env(), path.c_str(), options.get(), session_.out()),
             what, kind);
  session_.adopt();
}

TensorSpec OrtBackend::tensor_of(const OrtTypeInfo* type, const char* name) const {
  const OrtApi& api = ort_.api();
  const std::string what = "ONNX Runtime cannot describe the graph";
  TensorSpec tensor;
  tensor.name = name;
  const OrtTensorTypeAndShapeInfo* info = nullptr;
  ort_.check(api.CastTypeInfoToTensorInfo(type, &info), what);
  if (info == nullptr) return tensor;
  ONNXTensorElementDataType dtype = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  ort_.check(api.GetTensorElementType(info, &dtype), what);
  if (dtype == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) tensor.dtype = "float32";
  if (dtype == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) tensor.dtype = "float16";
  if (dtype == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) tensor.dtype = "uint8";
  std::size_t rank = 0;
  ort_.check(api.GetDimensionsCount(info, &rank), what);
  std::vector<std::int64_t> sizes(rank);
  std::vector<const char*> symbols(rank);
  ort_.check(api.GetDimensions(info, sizes.data(), rank), what);
  ort_.check(api.GetSymbolicDimensions(info, symbols.data(), rank), what);
  for (std::size_t axis = 0; axis < rank; ++axis) {
    if (sizes[axis] >= 0) {
      tensor.shape.emplace_back(sizes[axis]);
    } else {
      tensor.shape.emplace_back(std::string(symbols[axis]));
    }
  }
  return tensor;
}

void OrtBackend::check_signature(const Manifest& manifest) const {
  const OrtApi& api = ort_.api();
  const std::string what = "ONNX Runtime cannot describe the graph";
  OrtAllocator* allocator = nullptr;
  ort_.check(api.GetAllocatorWithDefaultOptions(&allocator), what);
  const auto compare = [&](auto count_of, auto name_of, auto type_of,
                           const std::vector<TensorSpec>& wanted) {
    std::size_t count = 0;
    ort_.check(count_of(session_.get(), &count), what);
    std::string found;
    bool equal = count == wanted.size();
    for (std::size_t i = 0; i < count; ++i) {
      OrtOwned<OrtTypeInfo> type(api.ReleaseTypeInfo);
      ort_.check(type_of(session_.get(), i, type.out()), what);
      type.adopt();
      char* raw = nullptr;
      ort_.check(name_of(session_.get(), i, allocator, &raw), what);
      const std::unique_ptr<char, FreeName> name(raw, FreeName{&api, allocator});
      const TensorSpec tensor = tensor_of(type.get(), name.get());
      equal = equal && tensor == wanted[i];
      found += (found.empty() ? "" : ", ") + tensor.shown();
    }
    if (equal) return;
    std::string expected;
    for (const TensorSpec& tensor : wanted) {
      expected += (expected.empty() ? "" : ", ") + tensor.shown();
    }
    throw Error(AUTOSAM_RUNTIME_ERROR,
                Message("the graph contradicts the manifest").got(found).expected(expected));
  };
  compare(api.SessionGetInputCount, api.SessionGetInputName, api.SessionGetInputTypeInfo,
          manifest.inputs);
  compare(api.SessionGetOutputCount, api.SessionGetOutputName, api.SessionGetOutputTypeInfo,
          manifest.outputs);
}

// The caller's memory as tensors of the runtime: nothing is copied.
struct OrtBackend::Outputs {
  explicit Outputs(const OrtLibrary& library)
      : slices(library.api().ReleaseValue),
        labels(library.api().ReleaseValue),
        logits(library.api().ReleaseValue) {}
  OrtOwned<OrtValue> slices;
  OrtOwned<OrtValue> labels;
  OrtOwned<OrtValue> logits;
};

void OrtBackend::run(const Batch& batch, Token* token) const {
  const OrtApi& api = ort_.api();
  Outputs values(ort_);
  const auto wrap = [&](OrtOwned<OrtValue>& value, void* data, std::size_t item,
                        const std::vector<std::int64_t>& shape, ONNXTensorElementDataType dtype) {
    std::size_t bytes = item;
    for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
    ort_.check(api.CreateTensorWithDataAsOrtValue(host_.get(), data, bytes, shape.data(),
                                                  shape.size(), dtype, value.out()),
               "ONNX Runtime failed");
    value.adopt();
  };
  // The runtime reads its inputs, but has no type to say so.
  auto* slices = const_cast<float*>(batch.slices);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  wrap(values.slices, slices, sizeof(float), {batch.count, 1, batch.height, batch.width},
       ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  std::array<const char*, 2> names{};
  std::array<OrtValue*, 2> outputs{};
  std::size_t count = 0;
  if (batch.labels != nullptr) {
    wrap(values.labels, batch.labels, 1, {batch.count, batch.height, batch.width},
         ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
    names[count] = "labels";
    outputs[count++] = values.labels.get();
  }
  if (batch.logits != nullptr) {
    wrap(values.logits, batch.logits, sizeof(float),
         {batch.count, num_classes_, batch.height, batch.width},
         ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    names[count] = "logits";
    outputs[count++] = values.logits.get();
  }
  const char* input_name = "slices";
  const OrtValue* input = values.slices.get();
  OrtStatus* status = nullptr;
  if (token == nullptr) {
    status = api.Run(session_.get(), nullptr, &input_name, &input, 1, names.data(), count,
                     outputs.data());
  } else {
    Terminate terminate(ort_);
    const Token::Guard guard(token, terminate);
    status = api.Run(session_.get(), terminate.get(), &input_name, &input, 1, names.data(), count,
                     outputs.data());
  }
  if (status != nullptr && token != nullptr && token->cancelled()) {
    api.ReleaseStatus(status);
    throw Error(AUTOSAM_CANCELLED, Message("the run was cancelled"));
  }
  ort_.check(status, "ONNX Runtime failed");
}

}  // namespace

std::unique_ptr<Backend> open_ort(const Bundle& bundle, const Request& request) {
  return std::make_unique<OrtBackend>(bundle, request);
}

}  // namespace autosam::core
