#include "fields.hpp"

#include <algorithm>

#include "error.hpp"

namespace autosam::core {

void Place::refuse(const Json& got, const std::string& expected) const {
  refuse(got.shown(), expected);
}

void Place::refuse(const std::string& got, const std::string& expected) const {
  const std::string where = path.empty() ? "value" : path;
  throw Error(
      AUTOSAM_BAD_BUNDLE,
      Message("'" + document + "' is not valid at '" + where + "'").got(got).expected(expected));
}

std::string as_text(const Json& value, const Place& place) {
  if (value.type != Json::Type::kText) place.refuse(value, "a text");
  return value.text;
}

bool as_boolean(const Json& value, const Place& place) {
  if (value.type != Json::Type::kBoolean) place.refuse(value, "true or false");
  return value.boolean;
}

std::int64_t as_integer(const Json& value, const Place& place, Range range) {
  if (value.type != Json::Type::kInteger) place.refuse(value, "an integer");
  if (!value.fits || value.integer < range.low || value.integer > range.high) {
    place.refuse(value, "an integer from " + std::to_string(range.low) + " to " +
                            std::to_string(range.high));
  }
  return value.integer;
}

double as_number(const Json& value, const Place& place) {
  if (value.type != Json::Type::kInteger && value.type != Json::Type::kNumber) {
    place.refuse(value, "a number");
  }
  return value.number;
}

const std::vector<Json>& as_list(const Json& value, const Place& place, std::size_t least) {
  if (value.type != Json::Type::kArray) place.refuse(value, "a list");
  if (value.items.size() < least) {
    place.refuse(std::to_string(value.items.size()) + " items",
                 std::to_string(least) + " at least");
  }
  return value.items;
}

std::string as_word(const Json& value, const Place& place, const std::vector<std::string>& words) {
  if (value.type == Json::Type::kText &&
      std::find(words.begin(), words.end(), value.text) != words.end()) {
    return value.text;
  }
  std::string expected;
  for (const std::string& word : words) expected += (expected.empty() ? "" : " | ") + word;
  place.refuse(value, expected);
}

std::string as_sha256(const Json& value, const Place& place) {
  constexpr std::size_t kDigits = 64;
  const auto digit = [](char letter) {
    return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f');
  };
  if (value.type != Json::Type::kText || value.text.size() != kDigits ||
      !std::all_of(value.text.begin(), value.text.end(), digit)) {
    place.refuse(value, "64 digits of 0-9, a-f");
  }
  return value.text;
}

Fields::Fields(const Json& value, Place place) : value_(value), place_(std::move(place)) {
  if (value.type != Json::Type::kObject) place_.refuse(value, "an object");
  used_.resize(value.members.size());
}

const Json* Fields::find(const std::string& key) {
  for (std::size_t i = 0; i < value_.members.size(); ++i) {
    if (value_.members[i].key == key) {
      used_[i] = true;
      return &value_.members[i].value;
    }
  }
  return nullptr;
}

const Json* Fields::find_not_null(const std::string& key) {
  const Json* value = find(key);
  return value == nullptr || value->type == Json::Type::kNull ? nullptr : value;
}

const Json& Fields::required(const std::string& key) {
  const Json* value = find(key);
  if (value == nullptr) at(key).refuse("nothing", "field required");
  return *value;
}

std::string Fields::text(const std::string& key, std::size_t least) {
  std::string text = as_text(required(key), at(key));
  if (text.size() < least) at(key).refuse("an empty text", "one letter at least");
  return text;
}

std::map<std::string, std::string> Fields::texts(const std::string& key) {
  std::map<std::string, std::string> found;
  const Json& value = required(key);
  if (value.type != Json::Type::kObject) at(key).refuse(value, "an object");
  for (const JsonMember& member : value.members) {
    found.emplace(member.key, as_text(member.value, at(key).below(member.key)));
  }
  return found;
}

std::int64_t Fields::integer_or(const std::string& key, std::int64_t otherwise, Range range) {
  const Json* value = find(key);
  return value == nullptr ? otherwise : as_integer(*value, at(key), range);
}

std::string Fields::word_or(const std::string& key, const std::string& otherwise,
                            const std::vector<std::string>& words) {
  const Json* value = find(key);
  return value == nullptr ? otherwise : as_word(*value, at(key), words);
}

void Fields::finish() const {
  for (std::size_t i = 0; i < used_.size(); ++i) {
    if (!used_[i]) {
      at(value_.members[i].key)
          .refuse(value_.members[i].value, "no such key: extra inputs are not permitted");
    }
  }
}

}  // namespace autosam::core
