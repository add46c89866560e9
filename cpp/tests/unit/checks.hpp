// Checks of messages: an Error of the expected status whose line matches an expression.
#pragma once

#include <doctest/doctest.h>

#include <string>

#include "../helpers.hpp"
#include "error.hpp"

namespace autosam_test {

template <class Function>
void check_fails(const Function& function, autosam_status status, const std::string& expression) {
  try {
    function();
  } catch (const autosam::core::Error& error) {
    CHECK(error.status() == status);
    const std::string text = error.what();
    CAPTURE(text);
    CAPTURE(expression);
    CHECK(matches(text, expression));
    CHECK(text.find('\n') == std::string::npos);
    return;
  }
  FAIL_CHECK("nothing was thrown; expected " << expression);
}

}  // namespace autosam_test
