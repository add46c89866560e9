// These tests bring the libraries that they need.
#include "../helpers.hpp"

const char* autosam_test::missing_requirement() {
  return nullptr;
}
