// Handles that C programs hold: numbers that are never used twice. A handle that was destroyed is
// found out instead of followed, and what it stood for lives until the last call on it ends.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>

#include "error.hpp"

namespace autosam::core {

template <class Object, class Handle>
class Handles {
 public:
  explicit Handles(const char* what) : what_(what) {}

  Handle* add(std::shared_ptr<Object> object) {
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    objects_.emplace(++last_, std::move(object));
    // NOLINTNEXTLINE(performance-no-int-to-ptr): it is a number to the library alone.
    return reinterpret_cast<Handle*>(last_ << kShift);
  }

  // Throws Error(INVALID_ARGUMENT): NULL, destroyed, or never handed out.
  std::shared_ptr<Object> get(const Handle* handle) const {
    const std::shared_lock<std::shared_mutex> lock(mutex_);
    const auto found = objects_.find(number(handle));
    if (handle == nullptr || found == objects_.end()) {
      throw Error(AUTOSAM_INVALID_ARGUMENT,
                  Message(std::string("the ") + what_)
                      .got(handle == nullptr ? "NULL" : "one that was destroyed or never made")
                      .expected(std::string("an open ") + what_));
    }
    return found->second;
  }

  void remove(const Handle* handle) noexcept {
    std::shared_ptr<Object> last;  // released outside the lock: closing a model takes time
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    const auto found = objects_.find(number(handle));
    if (found == objects_.end()) return;
    last = std::move(found->second);
    objects_.erase(found);
  }

 private:
  // As addresses of objects would be, handles are multiples of 16.
  static constexpr unsigned kShift = 4;
  static std::uintptr_t number(const Handle* handle) {
    const auto value = reinterpret_cast<std::uintptr_t>(handle);
    return (value & ((1U << kShift) - 1)) == 0 ? value >> kShift : 0;
  }

  const char* what_;
  mutable std::shared_mutex mutex_;
  std::unordered_map<std::uintptr_t, std::shared_ptr<Object>> objects_;
  std::uintptr_t last_ = 0;
};

}  // namespace autosam::core
