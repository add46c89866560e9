// Reading and writing .npy files (NumPy's format 1 to 3): C order, little endian, numbers alone.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace autosam::core {

struct NpyHeader {
  std::string dtype;  // "float32", "uint8", "int16", "uint16"
  std::vector<std::int64_t> shape;
  std::size_t item_size = 0;
  std::size_t offset = 0;  // of the values
};

// Understand a file's content; its values lie behind `offset`, complete.
//
// Throws std::invalid_argument with what is wrong: no .npy, another dtype, Fortran order, a shape
// that the bytes do not fill.
NpyHeader parse_npy(std::string_view content);

// The header of a file that holds so many values of a dtype.
std::string npy_header(const std::string& dtype, const std::vector<std::int64_t>& shape);

}  // namespace autosam::core
