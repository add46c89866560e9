#include <doctest/doctest.h>

#include <json.hpp>
#include <string>

#include "checks.hpp"

using autosam::core::Json;
using autosam::core::parse_json;
using autosam_test::check_fails;

namespace {

void check_refused(const std::string& text, const std::string& expression) {
  CAPTURE(text.substr(0, 100));
  check_fails([&] { parse_json(text, "x"); }, AUTOSAM_BAD_BUNDLE, expression);
}

}  // namespace

TEST_CASE("values keep their type and spelling") {
  const Json json = parse_json(R"({"a": [1, -2, 1.0, 1e2, true, null, "\u00e8"], "b": {}})", "x");
  REQUIRE(json.members.size() == 2);
  const std::vector<Json>& items = json.members[0].value.items;
  REQUIRE(items.size() == 7);
  CHECK(items[0].type == Json::Type::kInteger);
  CHECK(items[1].integer == -2);
  CHECK(items[2].type == Json::Type::kNumber);
  CHECK(items[2].text == "1.0");
  CHECK(items[3].number == 100);
  CHECK(items[4].boolean);
  CHECK(items[5].type == Json::Type::kNull);
  CHECK(items[6].text == "\xC3\xA8");
  CHECK(json.members[1].value.type == Json::Type::kObject);
}

TEST_CASE("integers beyond 63 bits stay integers that do not fit") {
  for (const char* text : {"9223372036854775808", "18446744073709551616", "-9223372036854775809",
                           "1000000000000000000000000"}) {
    const Json json = parse_json(text, "x");
    CHECK(json.type == Json::Type::kInteger);
    CHECK_FALSE(json.fits);
  }
  CHECK(parse_json("9223372036854775807", "x").fits);
  CHECK(parse_json("-9223372036854775808", "x").integer == INT64_MIN);
}

TEST_CASE("what is no JSON") {
  for (const char* text : {"", "{", "{\"a\": 1,}", "[1] 2", "// x\n1", "'a'", "nul", "\"\x01\"",
                           "\"\xFF\"", "\"\\ud800\"", "NaN", "Infinity", "1e999", "01", "{1: 2}"}) {
    check_refused(text, "'x' is no JSON; got ");
  }
  check_refused("1" + std::string(5000, '0'), "'x' is no JSON");
  check_refused("\xEF\xBB\xBF{}", "is no JSON; got a byte order mark");
}

TEST_CASE("a key twice, in the middle of others") {
  check_refused(R"([{"b": 1, "a": 1, "c": {"b": 2}, "a": 2}])",
                "'x' names 'a' twice in one object");
  CHECK(parse_json(R"({"a": {"a": {"a": 1}}})", "x").members.size() == 1);
}

TEST_CASE("deep and wide documents end in an error, not in the stack or the memory") {
  check_refused(std::string(100'000, '['), "more than 64 levels");
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "{\"a\":";
  check_refused(deep, "more than 64 levels");
  std::string wide = "[0";
  for (int i = 0; i < 250'000; ++i) wide += ",0";
  check_refused(wide + "]", "more than 250000 values");
}

TEST_CASE("texts in ASCII") {
  CHECK(autosam::core::quote_json("a\"\\\n\x7f\xC3\xA8\xF0\x9F\x98\x80") ==
        R"("a\"\\\n\u007f\u00e8\ud83d\ude00")");
}
