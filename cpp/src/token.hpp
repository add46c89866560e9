// Stopping a run from another thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <mutex>
#include <vector>

namespace autosam::core {

// What a runtime must be told so that it stops in the middle of a batch.
class Stop {
 public:
  virtual ~Stop() = default;
  virtual void stop() noexcept = 0;
};

class Token {
 public:
  [[nodiscard]] bool cancelled() const noexcept { return cancelled_.load(); }
  void reset() noexcept { cancelled_.store(false); }
  void cancel() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    cancelled_.store(true);
    for (Stop* stop : stops_) stop->stop();
  }

  // Keeps a Stop reachable for `cancel` while a batch runs. The token may be NULL.
  class Guard {
   public:
    Guard(Token* token, Stop& stop) : token_(token), stop_(stop) {
      if (token_ == nullptr) return;
      const std::lock_guard<std::mutex> lock(token_->mutex_);
      token_->stops_.push_back(&stop_);
      // Cancelled between the last look and now: nobody else would tell it.
      if (token_->cancelled()) stop_.stop();
    }
    ~Guard() {
      if (token_ == nullptr) return;
      const std::lock_guard<std::mutex> lock(token_->mutex_);
      auto& stops = token_->stops_;
      stops.erase(std::find(stops.begin(), stops.end(), &stop_));
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    Token* token_;
    Stop& stop_;
  };

 private:
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::vector<Stop*> stops_;
};

}  // namespace autosam::core
