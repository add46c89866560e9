#include "backend.hpp"

#include "../error.hpp"
#include "lane.hpp"

namespace autosam::core {
namespace {

// Batches that run at the same time, each with memory of its own.
constexpr std::size_t kContexts = 2;

class TrtBackend : public Backend {
 public:
  TrtBackend(const Bundle& bundle, const Request& request, int index);
  ~TrtBackend() override;
  TrtBackend(const TrtBackend&) = delete;
  TrtBackend& operator=(const TrtBackend&) = delete;

  [[nodiscard]] const BackendInfo& info() const override { return info_; }
  [[nodiscard]] int cuda_device() const override { return cuda_->index(); }
  void run(const Batch& batch, Token* token) const override;

 private:
  void check_memory(const Batch& batch) const;

  std::int64_t num_classes_;
  std::shared_ptr<const Cuda> cuda_;
  std::unique_ptr<const Plan> plan_;
  std::unique_ptr<LanePool> pool_;
  BackendInfo info_;
};

int device_index(const Request& request) {
  if (request.provider != "auto") {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message("providers belong to backend 'onnxruntime'")
                    .got("provider " + request.provider)
                    .todo("leave the provider out, or use backend onnxruntime"));
  }
  if (request.device == "auto") return 0;
  const Device device = parse_device(request.device);
  if (device.kind != "cuda") {
    throw Error(AUTOSAM_DEVICE_UNAVAILABLE, Message("backend 'tensorrt' runs on NVIDIA GPUs")
                                                .got("device " + request.device)
                                                .expected("auto, cuda or cuda:N")
                                                .todo("use backend onnxruntime for the CPU"));
  }
  return device.index;
}

TrtBackend::TrtBackend(const Bundle& bundle, const Request& request, int index)
    // The device first: NVIDIA's libraries may crash where there is none.
    : num_classes_(bundle.manifest.model.num_classes), cuda_(Cuda::open(index)) {
  const auto library = [&](const std::string& family) -> const TrtLibrary& {
    const TrtLibrary& found = TrtLibrary::open(request.runtime_library);
    if (found.family() == family) return found;
    throw Error(
        AUTOSAM_BACKEND_UNAVAILABLE,
        Message(std::string("the engine is for ") + family_title(family))
            .got(std::string("a libautosam_trt.so for ") + family_title(found.family()))
            .todo("build libautosam with TENSORRT_ROOT of " + std::string(family_title(family))));
  };
  const EngineHost here{[&](const std::string& family) { return library(family).version(); },
                        this_platform(), cuda_->sm()};
  const EngineChoice choice = choose_engine(bundle, request.precision, here);
  const EngineInfo& engine = *choice.artefact->engine;
  const Cuda::Active active(*cuda_);
  plan_ = std::make_unique<Plan>(library(engine.family), bundle, choice);
  pool_ = std::make_unique<LanePool>(*plan_, *cuda_, kContexts, request.log);
  info_.backend = "tensorrt";
  info_.device = "cuda:" + std::to_string(index);
  info_.provider = engine.family;
  info_.precision = choice.artefact->precision;
  info_.artefact = choice.artefact->file.path;
  info_.reason = choice.reason + "; " + cuda_->name() + ", sm" + std::to_string(cuda_->sm());
  info_.runtime_version = choice.version;
  info_.runtime_library = plan_->library().path();
  info_.threads = 1;
}

TrtBackend::~TrtBackend() {
  try {
    const Cuda::Active active(*cuda_);
    pool_.reset();
    plan_.reset();
  } catch (const std::exception&) {
    // The driver has ended before: what was on the device is gone, and calling would crash.
    static_cast<void>(pool_.release());  // NOLINT(bugprone-unused-return-value)
    static_cast<void>(plan_.release());  // NOLINT(bugprone-unused-return-value)
  }
}

// A wrong address would break the device's context for the whole process.
void TrtBackend::check_memory(const Batch& batch) const {
  const auto check = [this](bool on_device, const void* data, const char* name) {
    if (!on_device || data == nullptr || cuda_->owns(data)) return;
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message(std::string("'") + name + "' in CUDA memory")
                    .got("an address that the driver does not know there")
                    .expected("memory of cuda:" + std::to_string(cuda_->index())));
  };
  check(batch.slices_on_device, batch.slices, "slices");
  check(batch.labels_on_device, batch.labels, "labels");
  check(batch.logits_on_device, batch.logits, "logits");
}

void TrtBackend::run(const Batch& batch, Token* token) const {
  const std::vector<std::int64_t> parts = plan_->parts(batch.count, batch.height, batch.width);
  const Cuda::Active active(*cuda_);
  check_memory(batch);
  const LanePool::Lease lane(*pool_);
  const std::int64_t pixels = batch.height * batch.width;
  Batch part = batch;
  for (const std::int64_t count : parts) {
    if (token != nullptr && token->cancelled()) {
      throw Error(AUTOSAM_CANCELLED, Message("the run was cancelled"));
    }
    part.count = count;
    lane->run(part);
    part.slices += count * pixels;
    if (part.labels != nullptr) part.labels += count * pixels;
    if (part.logits != nullptr) part.logits += count * num_classes_ * pixels;
  }
}

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const Bundle& bundle, const Request& request) {
  return std::make_unique<TrtBackend>(bundle, request, device_index(request));
}

}  // namespace autosam::core
