// A bundle opened on a backend: batches, splitting, progress, self-test.
#pragma once

#include <autosam.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "backend.hpp"
#include "bundle.hpp"
#include "tensor.hpp"

namespace autosam::core {

struct RunOptions {
  std::int64_t max_batch = 0;  // 0: automatic; -1: all at once
  autosam_progress_function progress = nullptr;
  void* progress_user = nullptr;
  Token* token = nullptr;
  void* stream = nullptr;     // CUDA's; NULL: the backend's own
  bool asynchronous = false;  // return once the work is in the stream
};

struct SelftestResult {
  std::int32_t cases = 0;
  std::int32_t passed = 0;
  double gate = 0.0;
  double max_logit_difference = -1.0;
  double largest_wrong_margin = 0.0;
  double agreement = 1.0;
};

// Immutable after it was opened, so any number of threads may use it.
class Session {
 public:
  Session(Bundle bundle, std::unique_ptr<Backend> backend, Log log);

  [[nodiscard]] const Bundle& bundle() const { return bundle_; }
  [[nodiscard]] const BackendInfo& info() const { return backend_->info(); }
  [[nodiscard]] std::int64_t auto_batch() const;
  // What batches were halved to; 0 if they never were.
  [[nodiscard]] std::int64_t largest_batch() const { return largest_.load(); }

  // Either output may be NULL. See autosam_run. Throws Error.
  void run(const autosam_tensor* slices, const autosam_tensor* labels, const autosam_tensor* logits,
           const RunOptions& options) const;

  // Run on zeros. Throws Error.
  void warmup(std::int64_t batch, std::int64_t height, std::int64_t width) const;

  // Throws Error, not for a failed test: compare `passed` with `cases`.
  [[nodiscard]] SelftestResult selftest() const;

 private:
  struct Job;
  Job check_job(const autosam_tensor* slices, const autosam_tensor* labels,
                const autosam_tensor* logits, const RunOptions& options) const;
  void check_device(const Job& job, const RunOptions& options) const;
  // Whether a batch was run; false where memory ran out.
  bool batch_fits(const Job& job, std::int64_t first, std::int64_t count,
                  const RunOptions& options) const;
  void run_batch(const Job& job, std::int64_t first, std::int64_t count,
                 const RunOptions& options) const;

  Bundle bundle_;
  std::unique_ptr<Backend> backend_;
  Log log_;
  // What one run taught about the device's memory holds for the runs after it.
  mutable std::atomic<std::int64_t> largest_{0};
};

}  // namespace autosam::core
