// ONNX Runtime's provider plugin, as far as it goes without a GPU: a driver of the tests' own has
// two devices, and a plugin of the tests' own one.
#include <cstdlib>

#include "checks.hpp"

using autosam_test::threshold;

namespace {

autosam_status open(const char* plugin, const char* device = "auto") {
  autosam_options options = autosam_test::cpu_options();
  options.provider = "rtx";
  options.device = device;
  options.provider_library = plugin;
  autosam_session* session = nullptr;
  const autosam_status status = autosam_session_create(threshold().c_str(), &options, &session);
  autosam_session_destroy(session);
  return status;
}

// Whether ONNX Runtime takes plugins (from 1.23 on).
bool takes_plugins() {
  const autosam_test::Opened session;
  autosam_info info{};
  info.struct_size = sizeof info;
  REQUIRE(autosam_session_info(session, &info) == AUTOSAM_OK);
  return std::atoi(info.runtime_version + 2) >= 23;
}

}  // namespace

TEST_CASE("where the library of the provider is looked for") {
  if (!takes_plugins()) {
    CHECK_FAILS(open(nullptr), AUTOSAM_BACKEND_UNAVAILABLE,
                "takes no provider plugins; got version 1.*; expected 1.23 or later");
    return;
  }
  CHECK_FAILS(open(nullptr), AUTOSAM_BACKEND_UNAVAILABLE,
              "provider rtx needs its library; got none; expected libonnxruntime_providers_nv_.* "
              "beside libautosam or ONNX Runtime; take it from the Python package");
  const autosam_test::TempFolder temp;
  CHECK_FAILS(open(temp.path().c_str()), AUTOSAM_BACKEND_UNAVAILABLE, "got none at '/");
  CHECK_FAILS(open("/nowhere.so"), AUTOSAM_BACKEND_UNAVAILABLE, "got none at '/nowhere.so'");
  // In a folder it has NVIDIA's name.
  autosam_test::write(temp.path() / "libonnxruntime_providers_nv_tensorrt_rtx.so", "no library");
  CHECK_FAILS(open(temp.path().c_str()), AUTOSAM_DEVICE_UNAVAILABLE,
              "cannot load NvTensorRTRTXExecutionProvider; got .*file too short");
  setenv("AUTOSAM_RTX_PROVIDER_LIB", temp.path().c_str(), 1);
  CHECK_FAILS(open(nullptr), AUTOSAM_DEVICE_UNAVAILABLE, "file too short");
  unsetenv("AUTOSAM_RTX_PROVIDER_LIB");
}

TEST_CASE("what the plugin says is in the error; nothing falls back") {
  if (!takes_plugins()) return;
  CHECK_FAILS(open(AUTOSAM_FAKE_RTX, "cuda:2"), AUTOSAM_DEVICE_UNAVAILABLE,
              "'cuda:2' is not there; got 2 usable CUDA devices");
  CHECK_FAILS(open(AUTOSAM_FAKE_RTX, "cpu"), AUTOSAM_INVALID_ARGUMENT, "contradict each other");
  CHECK_FAILS(open(AUTOSAM_NO_RUNTIME), AUTOSAM_DEVICE_UNAVAILABLE, "CreateEpFactories");
  setenv("AUTOSAM_FAKE", "refuses", 1);
  CHECK_FAILS(open(AUTOSAM_FAKE_RTX), AUTOSAM_DEVICE_UNAVAILABLE,
              "cannot load NvTensorRTRTXExecutionProvider; got .*the fake makes no factory");
  unsetenv("AUTOSAM_FAKE");
  // From here on it is registered.
  for (int round = 0; round < 2; ++round) {
    CHECK_FAILS(open(AUTOSAM_FAKE_RTX), AUTOSAM_DEVICE_UNAVAILABLE, "the fake makes no provider");
    CHECK_FAILS(
        open(AUTOSAM_FAKE_RTX, "cuda:1"), AUTOSAM_DEVICE_UNAVAILABLE,
        "NvTensorRTRTXExecutionProvider knows no device 'cuda:1'; got 1 devices; expected a "
        "GeForce or RTX card");
  }
}

TEST_CASE("options of the first version have no provider_library") {
  autosam_options options = autosam_test::cpu_options();
  options.struct_size = offsetof(autosam_options, provider_library);
  options.provider_library = reinterpret_cast<const char*>(8);
  autosam_session* session = nullptr;
  CHECK(autosam_session_create(threshold().c_str(), &options, &session) == AUTOSAM_OK);
  autosam_session_destroy(session);
}
