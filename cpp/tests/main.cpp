// doctest's main, and the exit code by which ctest knows a skipped test.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <regex>

#include "helpers.hpp"

bool autosam_test::matches(const std::string& text, const std::string& expression) {
  return std::regex_search(text, std::regex(expression, std::regex::icase));
}

int main(int count, char** words) {
  const char* const missing = autosam_test::missing_requirement();
  if (missing != nullptr) {
    std::printf("skipped: %s\n", missing);
    return 77;
  }
  doctest::Context context(count, words);
  return context.run();
}
