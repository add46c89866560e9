#include "json.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "error.hpp"

namespace autosam::core {
namespace {

constexpr std::size_t kDeepest = 64;
// A manifest of ordinary size would otherwise expand to hundreds of MiB of empty arrays.
constexpr std::size_t kMostValues = 250'000;

std::string cut(const std::string& text) {
  std::size_t shown = 80;
  if (text.size() <= shown) return text;
  // Not in the middle of a UTF-8 character.
  while (shown > 0 && (static_cast<unsigned char>(text[shown]) & 0xC0U) == 0x80) --shown;
  return text.substr(0, shown) + "...";
}

// Receives nlohmann's events and builds the tree.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(const std::string& name) : name_(name) {}

  bool null() override { return add(Json{}); }
  bool boolean(bool value) override {
    Json json;
    json.type = Json::Type::kBoolean;
    json.boolean = value;
    return add(std::move(json));
  }
  bool number_integer(number_integer_t value) override { return add(integer(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    constexpr auto kMost = static_cast<number_unsigned_t>(INT64_MAX);
    if (value <= kMost) return add(integer(static_cast<std::int64_t>(value)));
    return add(huge(std::to_string(value), static_cast<double>(value)));
  }
  bool number_float(number_float_t value, const string_t& spelling) override {
    // What does not fit into 64 bits comes as a float, whatever it was.
    if (spelling.find_first_of(".eE") == string_t::npos) return add(huge(spelling, value));
    Json json;
    json.type = Json::Type::kNumber;
    json.number = value;
    json.text = spelling;
    return add(std::move(json));
  }
  bool string(string_t& value) override {
    Json json;
    json.type = Json::Type::kText;
    json.text = std::move(value);
    return add(std::move(json));
  }
  bool binary(binary_t& /*value*/) override { return refuse("binary data"); }
  bool start_object(std::size_t /*size*/) override { return open(Json::Type::kObject); }
  bool start_array(std::size_t /*size*/) override { return open(Json::Type::kArray); }
  bool key(string_t& value) override {
    open_.back().members.push_back({std::move(value), {}});
    return true;
  }
  bool end_object() override {
    const std::vector<JsonMember>& members = open_.back().members;
    std::vector<const std::string*> keys;
    keys.reserve(members.size());
    for (const JsonMember& member : members) keys.push_back(&member.key);
    std::sort(keys.begin(), keys.end(), [](auto* a, auto* b) { return *a < *b; });
    const auto twice =
        std::adjacent_find(keys.begin(), keys.end(), [](auto* a, auto* b) { return *a == *b; });
    if (twice != keys.end()) {
      error_.emplace("'" + name_ + "' names '" + cut(**twice) + "' twice in one object");
      return false;
    }
    return close();
  }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t position, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& error) override {
    if (!error_) {
      error_.emplace("'" + name_ + "' is no JSON");
      error_->got(cut(error.what()) + " at byte " + std::to_string(position));
    }
    return false;
  }

  [[noreturn]] void fail() { throw Error(AUTOSAM_BAD_BUNDLE, *error_); }
  Json take() { return std::move(root_); }

 private:
  static Json integer(std::int64_t value) {
    Json json;
    json.type = Json::Type::kInteger;
    json.integer = value;
    json.number = static_cast<double>(value);
    json.text = std::to_string(value);
    return json;
  }
  static Json huge(std::string spelling, double value) {
    Json json;
    json.type = Json::Type::kInteger;
    json.fits = false;
    json.number = value;
    json.text = std::move(spelling);
    return json;
  }
  bool refuse(const std::string& what) {
    error_.emplace("'" + name_ + "' is no JSON");
    error_->got(what);
    return false;
  }
  bool open(Json::Type type) {
    if (open_.size() == kDeepest) return refuse("more than 64 levels");
    Json json;
    json.type = type;
    open_.push_back(std::move(json));
    return true;
  }
  bool close() {
    Json json = std::move(open_.back());
    open_.pop_back();
    return add(std::move(json));
  }
  bool add(Json json) {
    if (++values_ > kMostValues) return refuse("more than 250000 values");
    if (open_.empty()) {
      root_ = std::move(json);
    } else if (open_.back().type == Json::Type::kArray) {
      open_.back().items.push_back(std::move(json));
    } else {
      open_.back().members.back().value = std::move(json);
    }
    return true;
  }

  const std::string& name_;
  std::size_t values_ = 0;
  std::vector<Json> open_;
  Json root_;
  std::optional<Message> error_;
};

}  // namespace

std::string Json::shown() const {
  switch (type) {
    case Type::kNull:
      return "null";
    case Type::kBoolean:
      return boolean ? "true" : "false";
    case Type::kInteger:
    case Type::kNumber:
      return cut(text);
    case Type::kText:
      return "'" + cut(text) + "'";
    case Type::kArray:
      return "list";
    case Type::kObject:
      return "object";
  }
  return "nothing";
}

Json parse_json(std::string_view text, const std::string& name) {
  // nlohmann skips a byte order mark; JSON has none (RFC 8259, section 8.1).
  if (text.substr(0, 3) == "\xEF\xBB\xBF") {
    throw Error(AUTOSAM_BAD_BUNDLE, Message("'" + name + "' is no JSON").got("a byte order mark"));
  }
  Builder builder(name);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) builder.fail();
  return builder.take();
}

std::string quote_json(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/true);
}

}  // namespace autosam::core
