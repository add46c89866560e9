// libautosam for C++17: owners, views and exceptions over autosam.h, in this header alone.
//
//     autosam::Session session("heart.autosam");
//     std::vector<uint8_t> labels = session.labels(autosam::slices(pixels, 30, 256, 256));
//
// Nothing but the C functions is called in the library, so compilers, standard libraries and their
// settings need not match. The rules of autosam.h hold: tensors are views, never kept.
#ifndef AUTOSAM_HPP_
#define AUTOSAM_HPP_

#include <autosam.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace autosam {

// What every function here throws when the library refuses or fails. what() is one line.
class Error : public std::runtime_error {
 public:
  Error(autosam_status status, const std::string& text)
      : std::runtime_error(text), status_(status) {}
  [[nodiscard]] autosam_status status() const noexcept { return status_; }

 private:
  autosam_status status_;
};

// Throws Error unless a function of autosam.h succeeded.
inline void check(autosam_status status) {
  if (status != AUTOSAM_OK) throw Error(status, autosam_last_error());
}

template <class T>
struct dtype_of;  // not defined: the library takes no slices of that type
template <>
struct dtype_of<float> {
  static constexpr autosam_dtype value = AUTOSAM_FLOAT32;
};
template <>
struct dtype_of<std::uint8_t> {
  static constexpr autosam_dtype value = AUTOSAM_UINT8;
};
template <>
struct dtype_of<std::int16_t> {
  static constexpr autosam_dtype value = AUTOSAM_INT16;
};
template <>
struct dtype_of<std::uint16_t> {
  static constexpr autosam_dtype value = AUTOSAM_UINT16;
};

// A view of packed elements. strides: in elements, of the same number of axes; none means packed.
template <class T>
autosam_tensor tensor(T* data, std::initializer_list<std::int64_t> shape,
                      std::initializer_list<std::int64_t> strides = {}) {
  if (shape.size() > 4 || (strides.size() != 0 && strides.size() != shape.size())) {
    throw Error(AUTOSAM_INVALID_ARGUMENT,
                "a tensor has 3 or 4 axes, and a stride for every axis or none");
  }
  autosam_tensor view{};
  // The library reads what is const here: only outputs are written.
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast)
  view.data = const_cast<void*>(static_cast<const void*>(data));
  view.dtype = dtype_of<typename std::remove_const<T>::type>::value;
  view.memory = AUTOSAM_HOST;
  view.ndim = static_cast<std::int32_t>(shape.size());
  std::size_t axis = 0;
  for (const std::int64_t size : shape) view.shape[axis++] = size;
  axis = 0;
  for (const std::int64_t stride : strides) view.strides[axis++] = stride;
  return view;
}

// Packed slices (batch, height, width), or labels with T = uint8_t.
template <class T>
autosam_tensor slices(T* data, std::int64_t batch, std::int64_t height, std::int64_t width) {
  return tensor(data, {batch, height, width});
}

// Slices whose rows are `row` elements apart and whose images are `image` elements apart.
template <class T>
autosam_tensor padded_slices(T* data, std::int64_t batch, std::int64_t height, std::int64_t width,
                             std::int64_t row, std::int64_t image) {
  return tensor(data, {batch, height, width}, {image, row, 1});
}

// The same view of CUDA memory: backend "tensorrt" takes it.
inline autosam_tensor on_cuda(autosam_tensor view, std::int32_t device_id = 0) {
  view.memory = AUTOSAM_CUDA;
  view.device_id = device_id;
  return view;
}

// Stops runs from another thread: pass it to runs, call cancel() from anywhere.
class Token {
 public:
  Token() {
    autosam_token* made = nullptr;
    check(autosam_token_create(&made));
    token_.reset(made);
  }
  void cancel() const noexcept { autosam_token_cancel(token_.get()); }
  void reset() const noexcept { autosam_token_reset(token_.get()); }
  [[nodiscard]] autosam_token* native() const noexcept { return token_.get(); }

 private:
  struct Destroy {
    void operator()(autosam_token* token) const noexcept { autosam_token_destroy(token); }
  };
  std::unique_ptr<autosam_token, Destroy> token_;
};

struct Options {
  std::string backend = "auto";    // auto, onnxruntime, openvino, tensorrt
  std::string device = "auto";     // auto, cpu, cuda, cuda:N
  std::string precision = "auto";  // auto, fp32, fp16, bf16, int8
  std::string provider = "auto";   // ONNX Runtime's: auto, cpu, cuda, tensorrt, rtx
  std::string runtime_library;     // file or folder; empty searches
  std::string provider_library;    // of provider rtx, likewise
  int threads = 0;                 // 0: every core that this process may use
  bool verify = true;              // hash the bundle's files
  // Level (autosam_log_level) and one line. Must not throw.
  std::function<void(int, const char*)> log;
};

struct RunOptions {
  std::int64_t max_batch = 0;  // 0: automatic; -1: all at once
  // Slices done and in all; return false to stop. An exception stops the run and comes out of it.
  std::function<bool(std::int64_t, std::int64_t)> progress;
  const Token* token = nullptr;
  void* cuda_stream = nullptr;  // a cudaStream_t for backend tensorrt; none: of the library's own
  bool asynchronous = false;    // return once the work is in cuda_stream
};

struct ClassInfo {
  std::string name;
  std::string colour;  // "#rrggbb"
};

// One opened bundle on one device; move-only. run() may be called by many threads at once. A
// session that was moved from refuses every call with AUTOSAM_INVALID_ARGUMENT.
class Session {
 public:
  explicit Session(const std::string& path, const Options& options = Options())
      : log_(options.log ? std::make_unique<Log>(options.log) : nullptr) {
    autosam_options used;
    autosam_options_init(&used);
    used.backend = options.backend.c_str();
    used.device = options.device.c_str();
    used.precision = options.precision.c_str();
    used.provider = options.provider.c_str();
    if (!options.runtime_library.empty()) used.runtime_library = options.runtime_library.c_str();
    if (!options.provider_library.empty()) used.provider_library = options.provider_library.c_str();
    used.threads = options.threads;
    used.verify = options.verify ? 1 : 0;
    if (log_ != nullptr) {
      used.log = [](std::int32_t level, const char* text, void* user) {
        (*static_cast<Log*>(user))(level, text);
      };
      used.log_user = log_.get();
    }
    autosam_session* made = nullptr;
    check(autosam_session_create(path.c_str(), &used, &made));
    session_.reset(made);
  }

  // Its strings live as long as the session.
  [[nodiscard]] autosam_info info() const {
    autosam_info info{};
    info.struct_size = sizeof info;
    check(autosam_session_info(session_.get(), &info));
    return info;
  }

  // By label; the first is background.
  [[nodiscard]] std::vector<ClassInfo> classes() const {
    std::vector<ClassInfo> found;
    const std::int32_t count = info().num_classes;
    for (std::int32_t label = 0; label < count; ++label) {
      const char* name = nullptr;
      const char* colour = nullptr;
      check(autosam_session_class(session_.get(), label, &name, &colour));
      found.push_back({name, colour});
    }
    return found;
  }

  // Write labels (B, H, W) uint8 of slices (B, 1, H, W) or (B, H, W) into the caller's memory.
  void run(const autosam_tensor& slices, const autosam_tensor& labels,
           const RunOptions& options = RunOptions()) const {
    run(&slices, &labels, nullptr, options);
  }

  // The same with logits (B, K, H, W) float32; either output may be NULL.
  void run(const autosam_tensor* slices, const autosam_tensor* labels, const autosam_tensor* logits,
           const RunOptions& options = RunOptions()) const {
    struct Progress {
      const RunOptions* options;
      std::exception_ptr thrown;
    } progress{&options, nullptr};
    autosam_run_options used;
    autosam_run_options_init(&used);
    used.max_batch = options.max_batch;
    if (options.token != nullptr) used.token = options.token->native();
    used.cuda_stream = options.cuda_stream;
    used.asynchronous = options.asynchronous ? 1 : 0;
    if (options.progress) {
      used.progress_user = &progress;
      used.progress = [](std::int64_t done, std::int64_t all, void* user) -> std::int32_t {
        auto* const told = static_cast<Progress*>(user);
        try {
          return told->options->progress(done, all) ? 0 : 1;
        } catch (...) {
          told->thrown = std::current_exception();
          return 1;
        }
      };
    }
    const autosam_status status = autosam_run(session_.get(), slices, labels, logits, &used);
    if (progress.thrown) std::rethrow_exception(progress.thrown);
    check(status);
  }

  // Labels (B, H, W) in new memory.
  [[nodiscard]] std::vector<std::uint8_t> labels(const autosam_tensor& slices,
                                                 const RunOptions& options = RunOptions()) const {
    const std::vector<std::int64_t> shape = label_shape(slices);
    std::vector<std::uint8_t> found(elements(shape));
    run(slices, tensor(found.data(), {shape[0], shape[1], shape[2]}), options);
    return found;
  }

  // Logits (B, K, H, W) in new memory.
  [[nodiscard]] std::vector<float> logits(const autosam_tensor& slices,
                                          const RunOptions& options = RunOptions()) const {
    std::vector<std::int64_t> shape = label_shape(slices);
    shape.insert(shape.begin() + 1, info().num_classes);
    std::vector<float> found(elements(shape));
    const autosam_tensor view = tensor(found.data(), {shape[0], shape[1], shape[2], shape[3]});
    run(&slices, nullptr, &view, options);
    return found;
  }

  // Run once on zeros of that size, so that the first real run finds everything ready.
  void warmup(std::int64_t batch, std::int64_t height, std::int64_t width) const {
    check(autosam_session_warmup(session_.get(), batch, height, width));
  }

  // Run the bundle's golden slices; throws Error(AUTOSAM_SELFTEST_FAILED) if they differ.
  autosam_selftest selftest() const {  // NOLINT(modernize-use-nodiscard): it throws
    autosam_selftest result{};
    result.struct_size = sizeof result;
    check(autosam_session_selftest(session_.get(), &result));
    return result;
  }

  [[nodiscard]] autosam_session* native() const noexcept { return session_.get(); }

 private:
  using Log = std::function<void(int, const char*)>;
  struct Destroy {
    void operator()(autosam_session* session) const noexcept { autosam_session_destroy(session); }
  };

  // Refused here, since memory for the results is asked for before the library sees the slices.
  static std::vector<std::int64_t> label_shape(const autosam_tensor& slices) {
    if (slices.ndim != 3 && slices.ndim != 4) {
      throw Error(AUTOSAM_INVALID_ARGUMENT, "'slices'; expected (B, 1, H, W) or (B, H, W)");
    }
    return {slices.shape[0], slices.shape[slices.ndim - 2], slices.shape[slices.ndim - 1]};
  }
  static std::size_t elements(const std::vector<std::int64_t>& shape) {
    std::size_t count = 1;
    for (const std::int64_t size : shape) {
      if (size <= 0) throw Error(AUTOSAM_INVALID_ARGUMENT, "'slices'; a size that is 0 or less");
      if (count > std::numeric_limits<std::size_t>::max() / 8 / static_cast<std::size_t>(size)) {
        throw std::bad_alloc();
      }
      count *= static_cast<std::size_t>(size);
    }
    return count;
  }

  // Before the session: what logs must outlive it.
  std::unique_ptr<Log> log_;
  std::unique_ptr<autosam_session, Destroy> session_;
};

}  // namespace autosam

#endif  // AUTOSAM_HPP_
