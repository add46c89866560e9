#include "session.hpp"

#include <algorithm>
#include <new>
#include <optional>
#include <vector>

#include "error.hpp"

namespace autosam::core {
namespace {

// Pixels of encoder input in an automatic batch. CPUs gain nothing from batches of big slices, and
// a batch that is too large there ends in the system killing the process.
constexpr std::int64_t kPixelsCpu = std::int64_t{1024} * 1024;
constexpr std::int64_t kPixelsGpu = 4 * kPixelsCpu;
constexpr std::int64_t kMostSlices = 16;

[[noreturn]] void cancelled() {
  throw Error(AUTOSAM_CANCELLED, Message("the run was cancelled"));
}

// The class of the largest logit, the first of equals, as in the graph.
void argmax(const float* logits, std::int64_t count, std::int64_t classes, std::int64_t pixels,
            std::uint8_t* labels) {
  for (std::int64_t b = 0; b < count; ++b, logits += classes * pixels, labels += pixels) {
    std::fill_n(labels, pixels, std::uint8_t{0});
    std::vector<float> best(logits, logits + pixels);
    for (std::int64_t k = 1; k < classes; ++k) {
      const float* const row = logits + k * pixels;
      for (std::int64_t i = 0; i < pixels; ++i) {
        if (row[i] > best[static_cast<std::size_t>(i)]) {
          best[static_cast<std::size_t>(i)] = row[i];
          labels[i] = static_cast<std::uint8_t>(k);
        }
      }
    }
  }
}

// Memory that is written before it is read.
template <class Element>
std::unique_ptr<Element[]> uninitialised(std::int64_t count) {
  return std::unique_ptr<Element[]>(new Element[static_cast<std::size_t>(count)]);
}

}  // namespace

// What autosam_run was asked for, checked.
struct Session::Job {
  View slices;
  std::optional<View> labels;
  std::optional<View> logits;
};

Session::Session(Bundle bundle, std::unique_ptr<Backend> backend, Log log)
    : bundle_(std::move(bundle)), backend_(std::move(backend)), log_(log) {}

std::int64_t Session::auto_batch() const {
  const auto [height, width] = bundle_.manifest.model.image_size;
  const std::int64_t pixels = info().device == "cpu" ? kPixelsCpu : kPixelsGpu;
  return std::clamp(pixels / (height * width), std::int64_t{1}, kMostSlices);
}

Session::Job Session::check_job(const autosam_tensor* slices, const autosam_tensor* labels,
                                const autosam_tensor* logits, const RunOptions& options) const {
  const ModelSpec& model = bundle_.manifest.model;
  if (labels == nullptr && logits == nullptr) {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message("there is nothing to compute").got("no labels, no logits").expected("one"));
  }
  if (logits != nullptr && !model.has_output("logits")) {
    throw Error(AUTOSAM_INVALID_ARGUMENT, Message("the model has no output 'logits'")
                                              .todo("export again with --outputs labels,logits"));
  }
  Job job{check_slices(slices), std::nullopt, std::nullopt};
  if (labels != nullptr) job.labels = check_labels(*labels, job.slices);
  if (logits != nullptr) job.logits = check_logits(*logits, job.slices, model.num_classes);
  check_device(job, options);
  check_finite(job.slices);
  std::int64_t bytes = job.slices.batch() * job.slices.item() * 4;
  if (__builtin_mul_overflow(bytes, model.num_classes, &bytes)) {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message("the logits of so many slices cannot be addressed").todo("run fewer"));
  }
  return job;
}

// Memory of a device and streams: only where the backend has them, and in the form it takes.
void Session::check_device(const Job& job, const RunOptions& options) const {
  const int device = backend_->cuda_device();
  int on_device = 0;
  int tensors = 0;
  const auto check = [&](const std::optional<View>& view, const std::string& name) {
    if (!view) return;
    ++tensors;
    if (!view->on_device()) return;
    ++on_device;
    const std::string what = "'" + name + "' in CUDA memory";
    if (device < 0) {
      throw Error(AUTOSAM_UNSUPPORTED, Message(what)
                                           .got("backend " + info().backend)
                                           .expected("backend tensorrt")
                                           .todo("hand over host memory"));
    }
    if (view->device != device) {
      throw Error(AUTOSAM_INVALID_ARGUMENT, Message(what)
                                                .got("device_id " + std::to_string(view->device))
                                                .expected(std::to_string(device)));
    }
    if (!view->packed() || (name == "slices" && view->dtype != AUTOSAM_FLOAT32)) {
      throw Error(AUTOSAM_UNSUPPORTED, Message(what)
                                           .got("strides, or slices of another dtype")
                                           .expected("packed elements, float32 slices"));
    }
  };
  check(job.slices, "slices");
  check(job.labels, "labels");
  check(job.logits, "logits");
  const bool both_on_host =
      !(job.labels && job.labels->on_device()) && !(job.logits && job.logits->on_device());
  if (job.labels && !both_on_host && !bundle_.manifest.model.has_output("labels")) {
    throw Error(AUTOSAM_UNSUPPORTED,
                Message("the model gives logits alone, of which labels are made on the host")
                    .got("outputs in CUDA memory")
                    .expected("outputs in host memory"));
  }
  if (options.stream != nullptr && device < 0) {
    throw Error(AUTOSAM_UNSUPPORTED, Message("cuda_stream")
                                         .got("backend " + info().backend)
                                         .expected("backend tensorrt")
                                         .todo("leave the stream out"));
  }
  if (options.asynchronous && (options.stream == nullptr || on_device < tensors)) {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                Message("asynchronous")
                    .got(options.stream == nullptr ? "no cuda_stream" : "tensors in host memory")
                    .expected("a cuda_stream, and every tensor in CUDA memory"));
  }
}

void Session::run(const autosam_tensor* slices, const autosam_tensor* labels,
                  const autosam_tensor* logits, const RunOptions& options) const {
  if (options.max_batch < -1) {
    throw Error(AUTOSAM_INVALID_ARGUMENT, Message("max_batch")
                                              .got(std::to_string(options.max_batch))
                                              .expected("1 or more, 0 for automatic, -1 for all"));
  }
  const Job job = check_job(slices, labels, logits, options);
  const std::int64_t all = job.slices.batch();
  const bool automatic = options.max_batch == 0;
  std::int64_t size = options.max_batch == -1 ? all : options.max_batch;
  if (automatic) {
    const std::int64_t learned = largest_.load();
    size = learned > 0 ? std::min(learned, auto_batch()) : auto_batch();
  }
  for (std::int64_t done = 0; done < all;) {
    if (options.token != nullptr && options.token->cancelled()) cancelled();
    size = std::min(size, all - done);
    if (!automatic || size == 1) {
      run_batch(job, done, size, options);
    } else if (!batch_fits(job, done, size, options)) {
      size = (size + 1) / 2;
      largest_.store(size);
      log_.warning("out of memory: going on with batches of " + std::to_string(size) + " slices");
      continue;
    }
    done += size;
    if (options.progress != nullptr && options.progress(done, all, options.progress_user) != 0 &&
        done < all) {
      cancelled();
    }
  }
}

bool Session::batch_fits(const Job& job, std::int64_t first, std::int64_t count,
                         const RunOptions& options) const {
  try {
    run_batch(job, first, count, options);
  } catch (const Error& error) {
    if (error.status() != AUTOSAM_OUT_OF_MEMORY) throw;
    return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

void Session::run_batch(const Job& job, std::int64_t first, std::int64_t count,
                        const RunOptions& options) const {
  const ModelSpec& model = bundle_.manifest.model;
  const View& slices = job.slices;
  const std::int64_t pixels = slices.item();
  Batch batch;
  batch.count = count;
  batch.height = slices.height();
  batch.width = slices.width();
  batch.slices_on_device = slices.on_device();
  batch.labels_on_device = job.labels && job.labels->on_device();
  batch.logits_on_device = job.logits && job.logits->on_device();
  batch.stream = options.stream;
  batch.asynchronous = options.asynchronous;

  std::unique_ptr<float[]> converted;
  if (slices.dtype == AUTOSAM_FLOAT32 && slices.packed()) {
    batch.slices = static_cast<const float*>(slices.data) + first * pixels;
  } else {
    converted = uninitialised<float>(count * pixels);
    gather(slices, first, count, converted.get());
    batch.slices = converted.get();
  }
  const bool argmax_here = job.labels && !model.has_output("labels");
  std::unique_ptr<std::uint8_t[]> staged_labels;
  std::unique_ptr<float[]> staged_logits;
  std::uint8_t* labels = nullptr;
  if (job.labels) {
    if (job.labels->packed()) {
      labels = static_cast<std::uint8_t*>(job.labels->data) + first * pixels;
    } else {
      staged_labels = uninitialised<std::uint8_t>(count * pixels);
      labels = staged_labels.get();
    }
    if (!argmax_here) batch.labels = labels;
  }
  if (job.logits && job.logits->packed()) {
    batch.logits = static_cast<float*>(job.logits->data) + first * job.logits->item();
  } else if (job.logits || argmax_here) {
    staged_logits = uninitialised<float>(count * model.num_classes * pixels);
    batch.logits = staged_logits.get();
  }

  backend_->run(batch, options.token);

  if (argmax_here) argmax(batch.logits, count, model.num_classes, pixels, labels);
  if (staged_labels != nullptr) scatter(staged_labels.get(), first, count, *job.labels);
  if (staged_logits != nullptr && job.logits) {
    scatter(staged_logits.get(), first, count, *job.logits);
  }
}

void Session::warmup(std::int64_t batch, std::int64_t height, std::int64_t width) const {
  autosam_tensor slices{};
  slices.dtype = AUTOSAM_FLOAT32;
  slices.ndim = 3;
  slices.shape[0] = batch;
  slices.shape[1] = height;
  slices.shape[2] = width;
  autosam_tensor labels = slices;
  labels.dtype = AUTOSAM_UINT8;
  // Sizes are checked before any memory is asked for.
  slices.data = &slices;
  const View view = check_slices(&slices);
  const auto count = static_cast<std::size_t>(view.batch() * view.item());
  std::vector<float> zeros(count);
  std::vector<std::uint8_t> ignored(count);
  slices.data = zeros.data();
  labels.data = ignored.data();
  RunOptions options;
  options.max_batch = -1;
  run(&slices, &labels, nullptr, options);
}

}  // namespace autosam::core
