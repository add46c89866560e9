#include "backend.hpp"

#include <cstring>
#include <mutex>

#include "../cores.hpp"
#include "../error.hpp"
#include "library.hpp"

namespace autosam::core {
namespace {

// Ends a run; OpenVINO looks between two layers.
class Cancel : public Stop {
 public:
  Cancel(const OvLibrary& openvino, OvRequest* request) : openvino_(openvino), request_(request) {}
  // A request that is not running has nothing to cancel, and says so.
  void stop() noexcept override { static_cast<void>(openvino_.call().cancel(request_)); }

 private:
  const OvLibrary& openvino_;
  OvRequest* request_;
};

class OvBackend : public Backend {
 public:
  OvBackend(const Bundle& bundle, const Request& request);

  [[nodiscard]] const BackendInfo& info() const override { return info_; }
  void run(const Batch& batch, Token* token) const override;

 private:
  using Compiled = std::shared_ptr<OvCompiled>;

  [[nodiscard]] Compiled load() const;
  void require_int8(const std::string& processor) const;
  [[nodiscard]] Compiled current() const;
  void forget(const Compiled& model) const;
  [[nodiscard]] std::string property(const OvCompiled& model, const char* key) const;
  void check_signature(const OvCompiled& model, const Manifest& manifest);
  [[nodiscard]] TensorSpec tensor_of(const OvPort& port, std::int32_t& type) const;
  [[nodiscard]] std::size_t element_bytes(std::int32_t type) const;
  void infer(const OvCompiled& model, const Batch& batch, Token* token) const;
  void fetch(const OvRequest& request, const char* name, void* out, std::size_t bytes) const;

  const OvLibrary& openvino_;
  std::int64_t num_classes_;
  std::string path_;
  std::int32_t float32_ = 0;  // this release's number of the type
  BackendInfo info_;
  mutable std::mutex mutex_;
  mutable Compiled model_;
};

void check_request(const Request& request) {
  if (request.provider != "auto") {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message("providers belong to backend 'onnxruntime'")
                    .got("provider " + request.provider)
                    .todo("leave the provider out, or use backend onnxruntime"));
  }
  if (request.device != "auto" && parse_device(request.device).kind != "cpu") {
    throw Error(AUTOSAM_DEVICE_UNAVAILABLE, Message("backend 'openvino' runs on CPUs")
                                                .got("device " + request.device)
                                                .expected("auto or cpu")
                                                .todo("use backend onnxruntime for a GPU"));
  }
  if (request.precision == "bf16") {
    // OpenVINO has one precision for a model and rounds its inputs first: raw intensities would be
    // lost. The Python runtime cuts the graph in three for that.
    throw Error(AUTOSAM_UNSUPPORTED,
                Message("backend 'openvino' has no bf16 here: OpenVINO's C interface cannot cut a "
                        "graph so that normalisation and argmax stay in fp32")
                    .got("bf16")
                    .expected("auto, fp32 or int8")
                    .todo("use fp32, or the Python runtime"));
  }
  if (request.precision == "fp16") {
    // Asked for f16, OpenVINO says bf16 and computes in it on CPUs without AMX-FP16.
    throw Error(AUTOSAM_UNSUPPORTED,
                Message("backend 'openvino' has no fp16 on CPUs, where OpenVINO may run it as bf16")
                    .got("fp16")
                    .expected("auto, fp32 or int8"));
  }
  if (request.precision != "auto" && request.precision != "fp32" && request.precision != "int8") {
    throw Error(AUTOSAM_INVALID_ARGUMENT, Message("unknown precision")
                                              .got("'" + request.precision + "'")
                                              .expected("auto, fp32, fp16, bf16 or int8"));
  }
}

const Artefact& graph_of(const Bundle& bundle, const std::string& precision) {
  const Artefact* artefact = bundle.manifest.find("onnx", precision);
  if (artefact == nullptr && precision == "int8") {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message("the bundle has no int8 graph")
                    .todo("add one: autosam-export int8 BUNDLE --calibration FOLDER"));
  }
  if (artefact == nullptr) {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message("the bundle has no fp32 graph, which OpenVINO reads")
                    .todo("export again with --precision fp32, or use backend onnxruntime"));
  }
  // A file that it cannot read OpenVINO offers to its readers of all other formats, whose
  // complaints land on the user's screen.
  if (!bundle.verified) {
    bundle.verify(artefact->file);
    if (artefact->external_data) bundle.verify(*artefact->external_data);
  }
  return *artefact;
}

OvBackend::OvBackend(const Bundle& bundle, const Request& request)
    : openvino_(OvLibrary::open(request.runtime_library)),
      num_classes_(bundle.manifest.model.num_classes) {
  char* name = nullptr;
  openvino_.check(
      openvino_.call().core_property(openvino_.core(), "CPU", "FULL_DEVICE_NAME", &name),
      "this OpenVINO has no CPU plugin", AUTOSAM_DEVICE_UNAVAILABLE);
  const std::string processor = openvino_.take(name);
  const std::string precision = request.precision == "int8" ? "int8" : "fp32";
  if (precision == "int8") require_int8(processor);
  const Artefact& artefact = graph_of(bundle, precision);
  path_ = std::filesystem::absolute(bundle.file(artefact.file)).string();
  const int threads = request.threads > 0 ? request.threads : usable_cores();
  info_.backend = "openvino";
  info_.device = "cpu";
  info_.precision = precision;
  info_.artefact = artefact.file.path;
  info_.threads = threads;
  model_ = load();
  check_signature(*model_, bundle.manifest);
  info_.provider = property(*model_, "EXECUTION_DEVICES");
  info_.threads = std::atoi(property(*model_, "INFERENCE_NUM_THREADS").c_str());
  info_.reason =
      "backend 'openvino' runs on the CPU (" + processor + "); " + precision + " " +
      (request.precision == "auto" ? "is the precision of the parity record" : "was asked for") +
      (precision == "int8" ? ", in the encoder's linear layers; the rest is in fp32" : "");
  info_.runtime_version = openvino_.version();
  info_.runtime_library = openvino_.path();
  if (info_.threads != threads) {
    request.log.warning(std::to_string(threads) + " threads were asked for, OpenVINO takes " +
                        std::to_string(info_.threads));
  }
}

// Without integer arithmetic OpenVINO would compute the same graph in floats, and say nothing.
void OvBackend::require_int8(const std::string& processor) const {
  char* value = nullptr;
  openvino_.check(
      openvino_.call().core_property(openvino_.core(), "CPU", "OPTIMIZATION_CAPABILITIES", &value),
      "OpenVINO does not say what this CPU computes in");
  const std::string capabilities = openvino_.take(value);
  if (capabilities.find("INT8") == std::string::npos) {
    throw Error(AUTOSAM_DEVICE_UNAVAILABLE, Message("this CPU has no int8 arithmetic")
                                                .got(processor + " with " + capabilities)
                                                .expected("AVX2 or newer")
                                                .todo("use precision fp32"));
  }
}

OvBackend::Compiled OvBackend::load() const {
  const OvFunctions& call = openvino_.call();
  OvModel* read = nullptr;
  openvino_.check(call.read_model(openvino_.core(), path_.c_str(), nullptr, &read),
                  "OpenVINO cannot read '" + info_.artefact + "'");
  const OvOwned<OvModel> graph(read, call.free_model);
  const std::string threads = std::to_string(info_.threads);
  OvCompiled* compiled = nullptr;
  // The precision is pinned: OpenVINO's own choice is bf16 on every CPU that has it. Threads are
  // not: the threads of every process on a machine would share its first cores.
  const int status =
      call.compile(openvino_.core(), graph.get(), "CPU", 10, &compiled, "INFERENCE_PRECISION_HINT",
                   "f32", "PERFORMANCE_HINT", "LATENCY", "NUM_STREAMS", "1",
                   "INFERENCE_NUM_THREADS", threads.c_str(), "ENABLE_CPU_PINNING", "NO");
  openvino_.check(status, "OpenVINO cannot compile '" + info_.artefact + "'");
  Compiled model(compiled, call.free_compiled);
  const std::string precision = property(*model, "INFERENCE_PRECISION_HINT");
  if (precision != "f32") {
    throw Error(AUTOSAM_RUNTIME_ERROR,
                Message("OpenVINO did not take the precision").got(precision).expected("f32"));
  }
  return model;
}

// The model; loaded again if memory ran out in it.
OvBackend::Compiled OvBackend::current() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (model_ == nullptr) model_ = load();
  return model_;
}

// What ran out of memory keeps what it has, and fails for smaller batches too.
void OvBackend::forget(const Compiled& model) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (model_ == model) model_.reset();
}

std::string OvBackend::property(const OvCompiled& model, const char* key) const {
  char* value = nullptr;
  openvino_.check(openvino_.call().compiled_property(&model, key, &value),
                  std::string("OpenVINO does not tell ") + key);
  return openvino_.take(value);
}

std::size_t OvBackend::element_bytes(std::int32_t type) const {
  std::int64_t one = 1;
  OvTensor* made = nullptr;
  openvino_.check(openvino_.call().tensor_create(type, {1, &one}, &made), "OpenVINO failed");
  const OvOwned<OvTensor> tensor(made, openvino_.call().free_tensor);
  std::size_t bytes = 0;
  openvino_.check(openvino_.call().tensor_bytes(tensor.get(), &bytes), "OpenVINO failed");
  return bytes;
}

TensorSpec OvBackend::tensor_of(const OvPort& port, std::int32_t& type) const {
  const OvFunctions& call = openvino_.call();
  const std::string what = "OpenVINO cannot describe the graph";
  TensorSpec tensor;
  char* name = nullptr;
  openvino_.check(call.port_name(&port, &name), what);
  tensor.name = openvino_.take(name);
  openvino_.check(call.port_type(&port, &type), what);
  // Numbers of types move between releases. Their sizes tell apart what a graph may have.
  const std::size_t bytes = element_bytes(type);
  tensor.dtype = bytes == 4 ? "float32" : bytes == 1 ? "uint8" : std::to_string(bytes) + " bytes";
  OvPartialShape shape;
  openvino_.check(call.port_shape(&port, &shape), what);
  const std::unique_ptr<OvPartialShape, void (*)(OvPartialShape*)> owned(&shape, call.free_shape);
  for (std::int64_t axis = 0; axis < shape.rank.most; ++axis) {
    const OvDimension& size = shape.sizes[axis];
    if (size.least == size.most) {
      tensor.shape.emplace_back(size.least);
    } else {
      tensor.shape.emplace_back(std::string("?"));
    }
  }
  return tensor;
}

void OvBackend::check_signature(const OvCompiled& model, const Manifest& manifest) {
  const OvFunctions& call = openvino_.call();
  const auto compare = [&](auto count_of, auto port_at, const std::vector<TensorSpec>& tensors) {
    std::size_t count = 0;
    openvino_.check(count_of(&model, &count), "OpenVINO cannot describe the graph");
    std::string found;
    std::string expected;
    for (std::size_t i = 0; i < count; ++i) {
      OvPort* raw = nullptr;
      openvino_.check(port_at(&model, i, &raw), "OpenVINO cannot describe the graph");
      const OvOwned<OvPort> port(raw, call.free_port);
      std::int32_t type = 0;
      const TensorSpec tensor = tensor_of(*port, type);
      if (tensor.name == "slices") float32_ = type;
      const bool mixed = (tensor.dtype == "float32") != (type == float32_);
      found += (found.empty() ? "" : ", ") + tensor.shown() + (mixed ? " of another type" : "");
    }
    for (TensorSpec tensor : tensors) {
      // Names of sizes are not kept by OpenVINO.
      for (auto& size : tensor.shape) {
        if (std::holds_alternative<std::string>(size)) size = std::string("?");
      }
      expected += (expected.empty() ? "" : ", ") + tensor.shown();
    }
    if (found == expected) return;
    throw Error(AUTOSAM_RUNTIME_ERROR,
                Message("the graph contradicts the manifest").got(found).expected(expected));
  };
  compare(call.inputs_size, call.input_at, manifest.inputs);
  compare(call.outputs_size, call.output_at, manifest.outputs);
}

void OvBackend::run(const Batch& batch, Token* token) const {
  try {
    const Compiled model = current();
    try {
      infer(*model, batch, token);
    } catch (const Error& error) {
      if (error.status() == AUTOSAM_OUT_OF_MEMORY) forget(model);
      throw;
    }
  } catch (const std::bad_alloc&) {
    throw Error(AUTOSAM_OUT_OF_MEMORY,
                Message("the batch does not fit into memory").todo("use a smaller max_batch"));
  }
}

void OvBackend::infer(const OvCompiled& model, const Batch& batch, Token* token) const {
  const OvFunctions& call = openvino_.call();
  std::array<std::int64_t, 4> sizes{batch.count, 1, batch.height, batch.width};
  OvTensor* over = nullptr;
  // The runtime reads its inputs, but has no type to say so.
  auto* slices = const_cast<float*>(batch.slices);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  openvino_.check(call.tensor_over(float32_, {4, sizes.data()}, slices, &over), "OpenVINO failed");
  const OvOwned<OvTensor> input(over, call.free_tensor);
  // Where memory runs out, OpenVINO 2026.4 may return without an error, and a request that ran
  // before then gives what it gave before. A new one gives empty outputs.
  OvRequest* made = nullptr;
  openvino_.check(call.create_request(&model, &made), "OpenVINO failed");
  const OvOwned<OvRequest> request(made, call.free_request);
  openvino_.check(call.set_tensor(request.get(), "slices", input.get()), "OpenVINO failed");
  Cancel cancel(openvino_, request.get());
  const Token::Guard guard(token, cancel);
  // Not the call that does both: it cannot be cancelled in every release.
  openvino_.check(call.start(request.get()), "OpenVINO failed");
  // What was cancelled before it was started goes on.
  if (token != nullptr && token->cancelled()) cancel.stop();
  const int status = call.wait(request.get());
  if (status == kOvCancelled || (status != 0 && token != nullptr && token->cancelled())) {
    throw Error(AUTOSAM_CANCELLED, Message("the run was cancelled"));
  }
  openvino_.check(status, "OpenVINO failed");
  const auto pixels = static_cast<std::size_t>(batch.count * batch.height * batch.width);
  if (batch.labels != nullptr) fetch(*request, "labels", batch.labels, pixels);
  if (batch.logits != nullptr) {
    fetch(*request, "logits", batch.logits,
          pixels * static_cast<std::size_t>(num_classes_) * sizeof(float));
  }
}

// Copied out of the runtime's memory: its own outputs are empty if it ran out of memory, while a
// caller's memory would just stay as it was.
void OvBackend::fetch(const OvRequest& request, const char* name, void* out,
                      std::size_t bytes) const {
  const OvFunctions& call = openvino_.call();
  OvTensor* found = nullptr;
  openvino_.check(call.get_tensor(&request, name, &found), "OpenVINO failed");
  const OvOwned<OvTensor> tensor(found, call.free_tensor);
  std::size_t there = 0;
  openvino_.check(call.tensor_bytes(tensor.get(), &there), "OpenVINO failed");
  if (there == 0) {
    throw Error(AUTOSAM_OUT_OF_MEMORY, Message("the batch does not fit into memory")
                                           .got(std::string("an empty '") + name + "'")
                                           .todo("use a smaller max_batch"));
  }
  if (there != bytes) {
    throw Error(AUTOSAM_RUNTIME_ERROR, Message(std::string("OpenVINO gave another '") + name + "'")
                                           .got(std::to_string(there) + " bytes")
                                           .expected(std::to_string(bytes)));
  }
  void* data = nullptr;
  openvino_.check(call.tensor_data(tensor.get(), &data), "OpenVINO failed");
  std::memcpy(out, data, bytes);
}

}  // namespace

std::unique_ptr<Backend> open_openvino(const Bundle& bundle, const Request& request) {
  // Before the library is looked for: what it could never do is not its fault.
  check_request(request);
  return std::make_unique<OvBackend>(bundle, request);
}

}  // namespace autosam::core
