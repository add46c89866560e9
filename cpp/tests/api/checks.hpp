// Checks of statuses with their texts, and an open session for tests of the C interface.
#pragma once

#include <autosam.h>
#include <doctest/doctest.h>

#include <stdexcept>
#include <string>

#include "../helpers.hpp"

#define CHECK_FAILS(call, expected, expression)                                      \
  do {                                                                               \
    const autosam_status found = (call);                                             \
    const std::string text = autosam_last_error();                                   \
    CAPTURE(text);                                                                   \
    CHECK(std::string(autosam_status_name(found)) == autosam_status_name(expected)); \
    CHECK(autosam_test::matches(text, expression));                                  \
    CHECK(text.find('\n') == std::string::npos);                                     \
  } while (false)

namespace autosam_test {

inline autosam_options cpu_options() {
  autosam_options options;
  autosam_options_init(&options);
  options.device = "cpu";
  options.threads = 1;
  return options;
}

class Opened {
 public:
  explicit Opened(const std::string& path = threshold()) : Opened(path, cpu_options()) {}
  Opened(const std::string& path, const autosam_options& options) {
    const autosam_status status = autosam_session_create(path.c_str(), &options, &session_);
    if (status != AUTOSAM_OK) throw std::runtime_error(autosam_last_error());
  }
  ~Opened() { autosam_session_destroy(session_); }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  operator autosam_session*() const { return session_; }  // NOLINT(google-explicit-constructor)

 private:
  autosam_session* session_ = nullptr;
};

inline autosam_tensor tensor(void* data, std::int32_t dtype, std::int64_t batch,
                             std::int64_t height, std::int64_t width) {
  autosam_tensor view{};
  view.data = data;
  view.dtype = dtype;
  view.ndim = 3;
  view.shape[0] = batch;
  view.shape[1] = height;
  view.shape[2] = width;
  return view;
}

// The label that the graph of threshold.autosam gives a value.
inline int label_of(double x) {
  return x <= 50 ? 0 : x <= 300 ? 1 : 2;
}

}  // namespace autosam_test
