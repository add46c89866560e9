// A backend whose labels one can work out by hand, and which fails when it is told to.
#pragma once

#include <atomic>
#include <backend.hpp>
#include <chrono>
#include <error.hpp>
#include <thread>
#include <vector>

namespace autosam_test {

struct FakeBackend : autosam::core::Backend {
  autosam::core::BackendInfo used;
  std::int64_t fits = 1'000'000;  // slices in memory
  bool bad_alloc = false;         // how a full memory is told
  bool waits = false;             // until it is cancelled
  float error = 0.0F;             // added to the logits
  int device = -1;                // whose memory it takes; it is the host's all the same
  mutable std::vector<std::int64_t> batches;
  mutable std::vector<const void*> places;  // slices, labels, logits of the last run
  mutable std::vector<autosam::core::Batch> seen;
  mutable std::atomic<int> started{0};

  FakeBackend() {
    used.device = "cpu";
    used.precision = "fp32";
  }
  [[nodiscard]] const autosam::core::BackendInfo& info() const override { return used; }
  [[nodiscard]] int cuda_device() const override { return device; }

  struct Flag : autosam::core::Stop {
    std::atomic<bool> stopped{false};
    void stop() noexcept override { stopped = true; }
  };

  void run(const autosam::core::Batch& batch, autosam::core::Token* token) const override {
    using autosam::core::Error;
    using autosam::core::Message;
    Flag flag;
    const autosam::core::Token::Guard guard(token, flag);
    ++started;
    while (waits && !flag.stopped) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (waits) throw Error(AUTOSAM_CANCELLED, Message("the run was cancelled"));
    if (batch.count > fits) {
      if (bad_alloc) throw std::bad_alloc();
      throw Error(AUTOSAM_OUT_OF_MEMORY, Message("too many"));
    }
    batches.push_back(batch.count);
    seen.push_back(batch);
    places = {batch.slices, batch.labels, batch.logits};
    const std::int64_t pixels = batch.height * batch.width;
    for (std::int64_t b = 0; b < batch.count; ++b) {
      for (std::int64_t i = 0; i < pixels; ++i) {
        const float x = batch.slices[b * pixels + i];
        const float logits[3] = {100 - x + error, x + error, 2 * x - 300 + error};
        if (batch.labels != nullptr) {
          batch.labels[b * pixels + i] = x <= 50 ? 0 : x <= 300 ? 1 : 2;
        }
        for (std::int64_t k = 0; batch.logits != nullptr && k < 3; ++k) {
          batch.logits[(b * 3 + k) * pixels + i] = logits[k];
        }
      }
    }
  }
};

}  // namespace autosam_test
