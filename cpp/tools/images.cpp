#include "images.hpp"

#include <npy.hpp>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <system_error>

namespace {

bool is_npy(const std::string& path) {
  return std::filesystem::path(path).extension() == ".npy";
}

std::string read_file(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    throw std::runtime_error("no file at '" + path + "'");
  }
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream content;
  content << stream.rdbuf();
  if (!stream) throw std::runtime_error("'" + path + "' cannot be read");
  return content.str();
}

void check_raw(const Image& image, const std::string& path) {
  std::size_t bytes = image.dtype == "float32" ? 4 : image.dtype == "uint8" ? 1 : 2;
  if (image.dtype != "float32" && image.dtype != "uint8" && image.dtype != "int16" &&
      image.dtype != "uint16") {
    throw std::runtime_error("--dtype; got '" + image.dtype +
                             "'; expected float32, uint8, int16 or uint16");
  }
  if (image.shape.size() != 3) {
    throw std::runtime_error("'" + path + "' has no header; say --shape B,H,W and --dtype");
  }
  for (const std::int64_t size : image.shape) {
    constexpr std::int64_t kMost = INT32_MAX;
    if (size < 1 || size > kMost) {
      throw std::runtime_error("--shape; got " + std::to_string(size) + "; expected 1 or more");
    }
    const auto count = static_cast<std::size_t>(size);
    // Far beyond any file, and no overflow.
    bytes = bytes > SIZE_MAX / count ? SIZE_MAX : bytes * count;
  }
  if (image.content.size() != bytes) {
    throw std::runtime_error("'" + path + "' does not fit --shape and --dtype; got " +
                             std::to_string(image.content.size()) + " bytes; expected " +
                             std::to_string(bytes));
  }
}

}  // namespace

Image read_image(const std::string& path, const std::string& dtype,
                 const std::vector<std::int64_t>& shape) {
  Image image;
  image.content = read_file(path);
  if (!is_npy(path)) {
    image.dtype = dtype;
    image.shape = shape;
    check_raw(image, path);
    return image;
  }
  try {
    const autosam::core::NpyHeader header = autosam::core::parse_npy(image.content);
    image.offset = header.offset;
    image.dtype = header.dtype;
    image.shape = header.shape;
  } catch (const std::invalid_argument& error) {
    throw std::runtime_error("'" + path + "' cannot be read; got " + error.what());
  }
  if (image.shape.size() == 4 && image.shape[1] == 1) image.shape.erase(image.shape.begin() + 1);
  if (image.shape.size() == 2) image.shape.insert(image.shape.begin(), 1);
  if (image.shape.size() != 3) {
    throw std::runtime_error("'" + path + "' has " + std::to_string(image.shape.size()) +
                             " axes; expected (B, H, W), (B, 1, H, W) or (H, W)");
  }
  return image;
}

void write_image(const std::string& path, const std::string& dtype,
                 const std::vector<std::int64_t>& shape, const void* values, std::size_t bytes) {
  const std::string temporary = path + ".part";
  {
    std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
    if (is_npy(path)) stream << autosam::core::npy_header(dtype, shape);
    stream.write(static_cast<const char*>(values), static_cast<std::streamsize>(bytes));
    stream.close();
    if (!stream) {
      std::remove(temporary.c_str());
      throw std::runtime_error("cannot write '" + path + "'; free space or choose another place");
    }
  }
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (error) {
    std::remove(temporary.c_str());
    throw std::runtime_error("cannot write '" + path + "'; got " + error.message());
  }
}
