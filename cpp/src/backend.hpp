// What a backend is: one loaded model on one device. One file per backend, one row in the table.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "log.hpp"
#include "token.hpp"

namespace autosam::core {

// What the user asked for; "auto" leaves the choice to the backend.
struct Request {
  std::string device = "auto";     // auto, cpu, cuda, cuda:N
  std::string precision = "auto";  // auto, fp32, fp16, bf16, int8
  std::string provider = "auto";   // ONNX Runtime's: auto, cpu, cuda, tensorrt, rtx
  std::string runtime_library;     // file or folder; "" searches
  std::string provider_library;    // of provider rtx, likewise
  int threads = 0;                 // of the CPU; 0 means every usable core
  Log log;
};

// What is really in use.
struct BackendInfo {
  std::string backend;
  std::string device;
  std::string provider;
  std::string precision;
  std::string artefact;
  std::string reason;
  std::string runtime_version;
  std::string runtime_library;
  int threads = 0;
  bool fell_back = false;
};

// One run: slices (count, 1, height, width), finite; outputs that are not wanted are NULL. Memory
// of a device and a stream come to backends alone that have a `cuda_device`.
struct Batch {
  const float* slices = nullptr;
  std::int64_t count = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::uint8_t* labels = nullptr;  // (count, height, width)
  float* logits = nullptr;         // (count, K, height, width)
  bool slices_on_device = false;
  bool labels_on_device = false;
  bool logits_on_device = false;
  void* stream = nullptr;     // CUDA's; NULL: the backend's own
  bool asynchronous = false;  // return once the work is in the stream
};

class Backend {
 public:
  virtual ~Backend() = default;
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  [[nodiscard]] virtual const BackendInfo& info() const = 0;
  // The CUDA device whose memory and streams it takes, or -1.
  [[nodiscard]] virtual int cuda_device() const { return -1; }

  // Fill the wanted outputs. Called by many threads at once. Asked only for outputs of the bundle.
  //
  // Throws Error(OUT_OF_MEMORY, CANCELLED, RUNTIME_ERROR).
  virtual void run(const Batch& batch, Token* token) const = 0;
};

// Open a bundle on a backend of the table; "auto" is the first row.
//
// Throws Error(INVALID_ARGUMENT, BACKEND_UNAVAILABLE, DEVICE_UNAVAILABLE, BAD_BUNDLE,
// RUNTIME_ERROR, OUT_OF_MEMORY).
std::unique_ptr<Backend> open_backend(const std::string& name, const Bundle& bundle,
                                      const Request& request);

// Split "cpu", "cuda" or "cuda:N" into kind and index. Throws Error(INVALID_ARGUMENT).
struct Device {
  std::string kind;
  int index = 0;
};
Device parse_device(const std::string& device);

// Whether a runtime's text means that memory ran out; runtimes have no code for it.
bool means_out_of_memory(const std::string& text);

}  // namespace autosam::core
