// A plan of a bundle, deserialized on a device and held against what the manifest says of it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "../bundle.hpp"
#include "choice.hpp"
#include "library.hpp"

namespace autosam::core {

class Plan {
 public:
  // With the device active. The plan is code for the device, so it is hashed as it is handed over,
  // whether or not the bundle was verified.
  //
  // Throws Error(BAD_BUNDLE, RUNTIME_ERROR, OUT_OF_MEMORY).
  Plan(const TrtLibrary& library, const Bundle& bundle, const EngineChoice& choice);

  [[nodiscard]] const TrtLibrary& library() const { return library_; }
  [[nodiscard]] const char* title() const { return family_title(engine_info_.family); }
  [[nodiscard]] autosam_trt_engine* engine() const { return engine_.get(); }
  [[nodiscard]] const std::vector<TensorSpec>& outputs() const { return outputs_; }

  // The batches in which slices run. Throws Error(INVALID_ARGUMENT): the profile does not hold
  // them.
  [[nodiscard]] std::vector<std::int64_t> parts(std::int64_t count, std::int64_t height,
                                                std::int64_t width) const;

 private:
  void check_tensors(const Manifest& manifest) const;
  void check_profile(const Manifest& manifest) const;
  [[nodiscard]] std::array<std::int64_t, 3> limits(const std::string& axis) const;

  const TrtLibrary& library_;
  EngineInfo engine_info_;
  std::vector<TensorSpec> outputs_;
  std::string again_;  // the command that builds the engine for other sizes
  std::unique_ptr<autosam_trt_engine, void (*)(autosam_trt_engine*)> engine_;
};

// Cut a batch into parts of low..high, as equal as can be; none if there is no way.
std::optional<std::vector<std::int64_t>> split_batch(std::int64_t count, std::int64_t low,
                                                     std::int64_t high);

}  // namespace autosam::core
