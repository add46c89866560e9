// The module libautosam_trt.so and NVIDIA's library behind it.
#pragma once

#include <string>

#include "../error.hpp"
#include "module.h"

namespace autosam::core {

// One module with one library; they live as long as the process.
class TrtLibrary {
 public:
  // asked: NVIDIA's library, or its folder; "" searches. Only to be called where a device is: some
  // of these libraries crash without a driver.
  //
  // Throws Error(BACKEND_UNAVAILABLE): module or library are missing, are not what they should be,
  // or do not belong together.
  static const TrtLibrary& open(const std::string& asked);

  [[nodiscard]] const autosam_trt_module& call() const { return *module_; }
  [[nodiscard]] std::string family() const { return module_->family; }
  [[nodiscard]] const std::string& version() const { return version_; }  // "11.1.0.106"
  [[nodiscard]] const std::string& path() const { return path_; }

  // The error for something that the library refused, in its own words; OUT_OF_MEMORY if they speak
  // of memory. since: `call().mark()` from before.
  [[nodiscard]] Error failure(const std::string& what, std::uint64_t since,
                              const std::string& todo = "") const;

 private:
  TrtLibrary(const autosam_trt_module& module, std::string version, std::string path);

  const autosam_trt_module* module_;
  std::string version_;
  std::string path_;
};

}  // namespace autosam::core
