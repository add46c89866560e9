// JSON as a small tree that keeps what strict readers need: duplicate keys are refused, integers
// are told from floats, and numbers keep their spelling.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace autosam::core {

struct JsonMember;

struct Json {
  enum class Type { kNull, kBoolean, kInteger, kNumber, kText, kArray, kObject };

  Type type = Type::kNull;
  bool boolean = false;
  bool fits = true;  // of an integer: into 64 bits with sign
  std::int64_t integer = 0;
  double number = 0.0;  // of integers too
  std::string text;     // UTF-8; of numbers: as they were written
  std::vector<Json> items;
  std::vector<JsonMember> members;

  // A few words for an error message.
  [[nodiscard]] std::string shown() const;
};

struct JsonMember {
  std::string key;
  Json value;
};

// Parse a document. `name` is for messages.
//
// Throws Error(BAD_BUNDLE): no JSON, no UTF-8, a byte order mark, a key twice in one object,
// deeper than 64 levels, more than 250,000 values, numbers beyond double.
Json parse_json(std::string_view text, const std::string& name);

// The JSON spelling of a text in ASCII, with quotes.
std::string quote_json(const std::string& text);

}  // namespace autosam::core
