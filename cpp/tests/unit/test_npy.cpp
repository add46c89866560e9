#include <doctest/doctest.h>

#include <npy.hpp>
#include <stdexcept>
#include <string>
#include <vector>

using autosam::core::npy_header;
using autosam::core::NpyHeader;
using autosam::core::parse_npy;

namespace {

std::string file(const std::string& literal, std::size_t bytes, char version = 1) {
  std::string content = "\x93NUMPY";
  content += version;
  content += '\0';
  content += static_cast<char>(literal.size() & 0xFF);
  content += static_cast<char>(literal.size() >> 8);
  if (version > 1) content += std::string(2, '\0');
  return content + literal + std::string(bytes, '\1');
}

void check_refused(const std::string& content, const char* why) {
  CAPTURE(content);
  CHECK_THROWS_WITH_AS(parse_npy(content), doctest::Contains(why), std::invalid_argument);
}

}  // namespace

TEST_CASE("what is written is read") {
  for (const char* dtype : {"float32", "uint8", "int16", "uint16"}) {
    for (const std::vector<std::int64_t>& shape :
         {std::vector<std::int64_t>{}, {0}, {3}, {2, 3, 4}, {1, 1, 1, 1, 1, 1, 1, 1}}) {
      std::string content = npy_header(dtype, shape);
      CHECK(content.size() % 64 == 0);
      std::size_t bytes = std::string(dtype) == "float32" ? 4
                          : std::string(dtype) == "uint8" ? 1
                                                          : 2;
      for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
      content += std::string(bytes, 'x');
      const NpyHeader header = parse_npy(content);
      CHECK(header.dtype == dtype);
      CHECK(header.shape == shape);
      CHECK(header.offset + bytes == content.size());
    }
  }
  CHECK_THROWS_AS(npy_header("float64", {1}), std::invalid_argument);
}

TEST_CASE("other spellings of the same header, and later versions") {
  for (const char version : {'\1', '\2', '\3'}) {
    const NpyHeader header =
        parse_npy(file("{\"shape\":(2,),'fortran_order':False,'descr':'<i2'}\n", 4, version));
    CHECK(header.dtype == "int16");
    CHECK(header.shape == std::vector<std::int64_t>{2});
  }
}

TEST_CASE("refused") {
  const std::string end = ", 'fortran_order': False, 'shape': (2,)}";
  check_refused("", "no .npy file");
  check_refused("\x93NUMPX\1\0aaaaaaaa", "no .npy file");
  check_refused(file("{'descr': '<f4'" + end, 8, 4), "unknown version");
  check_refused(file("{'descr': '<f4'" + end, 8).substr(0, 30), "cut");
  for (const char* dtype : {"<f8", ">f4", "|O", "<U4", "|V8", "<c8", "|b1", "<i8", ""}) {
    check_refused(file("{'descr': '" + std::string(dtype) + "'" + end, 8), "dtype");
  }
  check_refused(file("{'descr': [('a', '<f4')]" + end, 8), "structured");
  check_refused(file("{'descr': '<f4', 'fortran_order': True, 'shape': (2,)}", 8), "Fortran");
  check_refused(file("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", 8), "not understood");
  check_refused(file("{'descr': '<f4', 'shape': (2,)}", 8), "incomplete");
  check_refused(file("{'descr': '<f4'" + end + "x", 8), "incomplete");
  check_refused(file("{'descr': '<f4', 'x': 1" + end, 8), "unknown key");
  check_refused(file("{'descr': '<f4'" + end, 7), "7 bytes of values for 8");
  check_refused(file("{'descr': '<f4'" + end, 9), "9 bytes of values for 8");
  for (const char* shape : {"(-1,)", "(2.0,)", "2", "(99999999999999999999,)", "(2", "(2 3)"}) {
    const std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': ";
    CHECK_THROWS_AS(parse_npy(file(text + shape + "}", 8)), std::invalid_argument);
  }
  check_refused(
      file("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", 0),
      "beyond memory");
  check_refused(file("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", 4),
                "more than 8 axes");
}
