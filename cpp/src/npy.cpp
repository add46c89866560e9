#include "npy.hpp"

#include <array>
#include <cctype>
#include <limits>
#include <stdexcept>

namespace autosam::core {
namespace {

struct Dtype {
  const char* name;
  const char* spelling;
  std::size_t size;
};
constexpr std::array kDtypes{Dtype{"float32", "<f4", 4}, Dtype{"uint8", "|u1", 1},
                             Dtype{"int16", "<i2", 2}, Dtype{"uint16", "<u2", 2}};

// The header is a Python literal: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
class Literal {
 public:
  explicit Literal(std::string_view text) : text_(text) {}

  bool take(char letter) {
    blank();
    if (at_ == text_.size() || text_[at_] != letter) return false;
    ++at_;
    return true;
  }
  void expect(char letter) {
    if (!take(letter)) throw std::invalid_argument("a header that is not understood");
  }
  std::string text() {
    blank();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') throw std::invalid_argument("a structured dtype");
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) throw std::invalid_argument("a header that is cut");
    std::string found(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return found;
  }
  bool boolean() {
    blank();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return value;
      }
    }
    throw std::invalid_argument("a header that is not understood");
  }
  std::int64_t integer() {
    blank();
    std::int64_t value = 0;
    const std::size_t begin = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      if (value > (std::numeric_limits<std::int64_t>::max() - 9) / 10) {
        throw std::invalid_argument("a size beyond 63 bits");
      }
      value = 10 * value + (text_[at_] - '0');
    }
    if (at_ == begin) throw std::invalid_argument("a shape that is not understood");
    return value;
  }
  std::vector<std::int64_t> shape() {
    constexpr std::size_t kMostAxes = 8;
    std::vector<std::int64_t> sizes;
    expect('(');
    while (!take(')')) {
      if (sizes.size() == kMostAxes) throw std::invalid_argument("more than 8 axes");
      sizes.push_back(integer());
      if (!take(',')) {
        expect(')');
        break;
      }
    }
    return sizes;
  }
  bool ended() {
    blank();
    return at_ == text_.size();
  }

 private:
  void blank() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  std::string_view text_;
  std::size_t at_ = 0;
};

void read_literal(std::string_view text, NpyHeader& header) {
  Literal literal(text);
  int seen = 0;
  literal.expect('{');
  while (!literal.take('}')) {
    const std::string key = literal.text();
    literal.expect(':');
    if (key == "descr") {
      const std::string spelling = literal.text();
      for (const Dtype& dtype : kDtypes) {
        if (spelling == dtype.spelling) {
          header.dtype = dtype.name;
          header.item_size = dtype.size;
        }
      }
      if (header.item_size == 0) throw std::invalid_argument("dtype '" + spelling + "'");
      seen |= 1;
    } else if (key == "fortran_order") {
      if (literal.boolean()) throw std::invalid_argument("Fortran order");
      seen |= 2;
    } else if (key == "shape") {
      header.shape = literal.shape();
      seen |= 4;
    } else {
      throw std::invalid_argument("an unknown key in the header");
    }
    if (!literal.take(',')) {
      literal.expect('}');
      break;
    }
  }
  if (seen != 7 || !literal.ended()) throw std::invalid_argument("a header that is incomplete");
}

}  // namespace

NpyHeader parse_npy(std::string_view content) {
  constexpr std::string_view kMagic = "\x93NUMPY";
  constexpr std::size_t kShortPrefix = 10;
  constexpr std::size_t kLongPrefix = 12;
  const auto byte = [content](std::size_t at) {
    return static_cast<std::size_t>(static_cast<unsigned char>(content[at]));
  };
  if (content.size() < kLongPrefix || content.substr(0, kMagic.size()) != kMagic) {
    throw std::invalid_argument("no .npy file");
  }
  const std::size_t version = byte(6);
  if (version < 1 || version > 3) throw std::invalid_argument("an unknown version of .npy");
  std::size_t length = byte(8) | byte(9) << 8;
  if (version > 1) length |= byte(10) << 16 | byte(11) << 24;
  const std::size_t prefix = version == 1 ? kShortPrefix : kLongPrefix;
  if (length > content.size() - prefix) throw std::invalid_argument("a header that is cut");
  NpyHeader header;
  read_literal(content.substr(prefix, length), header);
  header.offset = prefix + length;
  const std::size_t bytes = content.size() - header.offset;
  std::size_t wanted = header.item_size;
  for (const std::int64_t size : header.shape) {
    const auto count = static_cast<std::size_t>(size);
    if (count != 0 && wanted > std::numeric_limits<std::size_t>::max() / count) {
      throw std::invalid_argument("a size beyond memory");
    }
    wanted *= count;
  }
  if (bytes != wanted) {
    throw std::invalid_argument(std::to_string(bytes) + " bytes of values for " +
                                std::to_string(wanted));
  }
  return header;
}

std::string npy_header(const std::string& dtype, const std::vector<std::int64_t>& shape) {
  std::string spelling;
  for (const Dtype& known : kDtypes) {
    if (dtype == known.name) spelling = known.spelling;
  }
  if (spelling.empty()) throw std::invalid_argument("dtype '" + dtype + "'");
  std::string literal = "{'descr': '" + spelling + "', 'fortran_order': False, 'shape': (";
  for (const std::int64_t size : shape) literal += std::to_string(size) + ", ";
  literal += "), }";
  // Values start at a multiple of 64 bytes, as NumPy writes them.
  constexpr std::size_t kPrefix = 10;
  constexpr std::size_t kAlignment = 64;
  literal.append((kAlignment - (kPrefix + literal.size() + 1) % kAlignment) % kAlignment, ' ');
  literal += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(literal.size() & 0xFFU);
  header += static_cast<char>(literal.size() >> 8);
  return header + literal;
}

}  // namespace autosam::core
