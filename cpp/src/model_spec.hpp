// What a model is: encoder, head, classes, preprocessing, tensors.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "fields.hpp"

namespace autosam::core {

struct ClassSpec {
  std::string name;
  std::string colour;  // "#rrggbb"
};

// A named tensor; symbolic dimensions are texts ("B", "H", "W").
struct TensorSpec {
  std::string name;
  std::string dtype;  // float32, float16, uint8
  std::vector<std::variant<std::int64_t, std::string>> shape;

  bool operator==(const TensorSpec& other) const {
    return name == other.name && dtype == other.dtype && shape == other.shape;
  }
  // "float32 slices (B, 1, H, W)".
  [[nodiscard]] std::string shown() const;
};

struct ModelSpec {
  std::array<std::int64_t, 2> image_size{};  // height, width in pixels of the encoder's input
  std::int64_t num_classes = 0;
  std::vector<ClassSpec> classes;
  std::string slice_axis;            // auto, i, j, k
  std::vector<std::string> outputs;  // labels, logits, or both in this order

  [[nodiscard]] static TensorSpec input_tensor();
  [[nodiscard]] std::vector<TensorSpec> output_tensors() const;
  [[nodiscard]] bool has_output(const std::string& name) const;
};

// Throws Error(BAD_BUNDLE).
ModelSpec read_model(const Json& value, const Place& place);
TensorSpec read_tensor(const Json& value, const Place& place);

}  // namespace autosam::core
