// Files that autosam-run reads and writes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Image {
  std::string content;  // of the file
  std::size_t offset = 0;
  std::string dtype;
  std::vector<std::int64_t> shape;  // (B, H, W)

  [[nodiscard]] const char* values() const { return content.data() + offset; }
};

// Read a .npy file, or raw values of a dtype and shape. Throws std::runtime_error with one line.
Image read_image(const std::string& path, const std::string& dtype,
                 const std::vector<std::int64_t>& shape);

// Write a .npy file or raw values, whole or not at all. Throws std::runtime_error with one line.
void write_image(const std::string& path, const std::string& dtype,
                 const std::vector<std::int64_t>& shape, const void* values, std::size_t bytes);
