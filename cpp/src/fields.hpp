// Strict reading of JSON objects: no coercion, unknown keys refused, errors that name the field.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "json.hpp"

namespace autosam::core {

// Where a value stands: the document's name and the dotted path.
struct Place {
  std::string document;
  std::string path;

  [[nodiscard]] Place below(const std::string& part) const {
    return {document, path.empty() ? part : path + "." + part};
  }
  // Throws Error(BAD_BUNDLE).
  [[noreturn]] void refuse(const Json& got, const std::string& expected) const;
  [[noreturn]] void refuse(const std::string& got, const std::string& expected) const;
};

struct Range {
  std::int64_t low = std::numeric_limits<std::int64_t>::min();
  std::int64_t high = std::numeric_limits<std::int64_t>::max();
};

// Values of one type, or an Error(BAD_BUNDLE).
std::string as_text(const Json& value, const Place& place);
bool as_boolean(const Json& value, const Place& place);
std::int64_t as_integer(const Json& value, const Place& place, Range range = {});
double as_number(const Json& value, const Place& place);  // an integer is a number too
const std::vector<Json>& as_list(const Json& value, const Place& place, std::size_t least = 0);
std::string as_word(const Json& value, const Place& place, const std::vector<std::string>& words);
std::string as_sha256(const Json& value, const Place& place);

class Fields {
 public:
  // Throws Error(BAD_BUNDLE): `value` is no object.
  Fields(const Json& value, Place place);

  [[nodiscard]] const Place& place() const { return place_; }
  [[nodiscard]] Place at(const std::string& key) const { return place_.below(key); }

  // The value of a key; a missing one is an error.
  const Json& required(const std::string& key);
  // NULL where the key is missing.
  const Json* find(const std::string& key);
  // NULL also where it is null.
  const Json* find_not_null(const std::string& key);

  std::string text(const std::string& key, std::size_t least = 0);
  std::string sha256(const std::string& key) { return as_sha256(required(key), at(key)); }
  bool boolean(const std::string& key) { return as_boolean(required(key), at(key)); }
  double number(const std::string& key) { return as_number(required(key), at(key)); }
  std::int64_t integer(const std::string& key, Range range = {}) {
    return as_integer(required(key), at(key), range);
  }
  std::string word(const std::string& key, const std::vector<std::string>& words) {
    return as_word(required(key), at(key), words);
  }
  std::map<std::string, std::string> texts(const std::string& key);

  // The same with a default for a missing key.
  std::int64_t integer_or(const std::string& key, std::int64_t otherwise, Range range);
  std::string word_or(const std::string& key, const std::string& otherwise,
                      const std::vector<std::string>& words);

  // Throws Error(BAD_BUNDLE): there are keys that nobody asked for.
  void finish() const;

 private:
  const Json& value_;
  Place place_;
  std::vector<bool> used_;
};

// Reads every item of a list.
template <class Item>
std::vector<Item> read_list(const Json& value, const Place& place, std::size_t least,
                            const std::function<Item(const Json&, const Place&)>& read) {
  std::vector<Item> found;
  for (const Json& item : as_list(value, place, least)) {
    found.push_back(read(item, place.below(std::to_string(found.size()))));
  }
  return found;
}

}  // namespace autosam::core
