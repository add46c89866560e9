// Errors inside the library: one line that says what was got, what was expected and what to do.
#pragma once

#include <autosam.h>

#include <exception>
#include <string>

namespace autosam::core {

// Joins the parts of a message; whatever is quoted into it, it stays one line.
class Message {
 public:
  explicit Message(const std::string& what) { part("", what); }
  Message& got(const std::string& text) { return part("; got ", text); }
  Message& expected(const std::string& text) { return part("; expected ", text); }
  Message& todo(const std::string& text) { return part("; ", text); }
  [[nodiscard]] const std::string& line() const { return text_; }

 private:
  Message& part(const char* between, const std::string& text);
  std::string text_;
};

class Error : public std::exception {
 public:
  Error(autosam_status status, const Message& message) : status_(status), text_(message.line()) {}
  [[nodiscard]] autosam_status status() const noexcept { return status_; }
  [[nodiscard]] const char* what() const noexcept override { return text_.c_str(); }

 private:
  autosam_status status_;
  std::string text_;
};

// The text of autosam_last_error(). Neither function allocates: memory may be what is missing.
void set_last_error(const char* text) noexcept;
const char* last_error() noexcept;

// Turns the exception in flight into a status and this thread's error text.
autosam_status report_exception() noexcept;

// Runs a function at the C boundary.
template <class Function>
autosam_status guarded(Function&& function) noexcept {
  try {
    function();
    return AUTOSAM_OK;
  } catch (...) {
    return report_exception();
  }
}

}  // namespace autosam::core
