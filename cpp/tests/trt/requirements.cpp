// These tests bring the driver and the libraries that they need; CTest puts the driver on the path.
#include <dlfcn.h>

#include "../helpers.hpp"

const char* autosam_test::missing_requirement() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  const bool fake = driver != nullptr && dlsym(driver, "fake_live") != nullptr;
  return fake ? nullptr : "the driver of tests/fakes is not on LD_LIBRARY_PATH";
}
