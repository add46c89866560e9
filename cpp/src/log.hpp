// Lines for the host's log; without a function nobody hears them.
#pragma once

#include <autosam.h>

#include <string>

namespace autosam::core {

struct Log {
  autosam_log_function function = nullptr;
  void* user = nullptr;

  void warning(const std::string& text) const { say(AUTOSAM_LOG_WARNING, text); }
  void info(const std::string& text) const { say(AUTOSAM_LOG_INFO, text); }

 private:
  void say(autosam_log_level level, const std::string& text) const {
    if (function != nullptr) function(level, text.c_str(), user);
  }
};

}  // namespace autosam::core
