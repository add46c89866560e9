// The caller's tensors: checks, and copies between strided and packed memory.
#pragma once

#include <autosam.h>

#include <array>
#include <cstdint>

namespace autosam::core {

// A checked view with four axes (B, C, H, W); strides in elements.
struct View {
  void* data = nullptr;
  autosam_dtype dtype = AUTOSAM_FLOAT32;
  int device = -1;  // of CUDA memory; -1: the host's
  std::array<std::int64_t, 4> shape{};
  std::array<std::int64_t, 4> strides{};

  [[nodiscard]] std::int64_t batch() const { return shape[0]; }
  [[nodiscard]] std::int64_t height() const { return shape[2]; }
  [[nodiscard]] std::int64_t width() const { return shape[3]; }
  // Elements of one item of the batch.
  [[nodiscard]] std::int64_t item() const { return shape[1] * shape[2] * shape[3]; }
  [[nodiscard]] bool packed() const;
  [[nodiscard]] bool on_device() const { return device >= 0; }
};

// Slices (B, 1, H, W) or (B, H, W) of any input dtype.
//
// Throws Error(INVALID_ARGUMENT): NULL, wrong rank, shape, dtype, memory, alignment, or beyond what
// can be addressed.
View check_slices(const autosam_tensor* tensor);

// An output that belongs to the slices; packed or strided, but no two elements at one place.
View check_labels(const autosam_tensor& tensor, const View& slices);
View check_logits(const autosam_tensor& tensor, const View& slices, std::int64_t channels);

// Throws Error(INVALID_ARGUMENT): there are values that are not finite. Memory of a device is not
// looked at.
void check_finite(const View& slices);

// Convert items first..first+count of slices to packed float32; exact for every input dtype.
void gather(const View& slices, std::int64_t first, std::int64_t count, float* out);

// Put packed items in their place in an output.
void scatter(const std::uint8_t* items, std::int64_t first, std::int64_t count, const View& out);
void scatter(const float* items, std::int64_t first, std::int64_t count, const View& out);

}  // namespace autosam::core
