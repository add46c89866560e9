// Backend `openvino` with a library that fails as it is told to.
#include <dlfcn.h>

#include <vector>

#include "checks.hpp"

using autosam_test::Opened;
using autosam_test::tensor;
using autosam_test::threshold;

namespace {

// What is wrong with the fake, as long as this lives.
class Wrong {
 public:
  explicit Wrong(const char* word) { setenv("AUTOSAM_FAKE", word, 1); }
  ~Wrong() { unsetenv("AUTOSAM_FAKE"); }
  Wrong(const Wrong&) = delete;
  Wrong& operator=(const Wrong&) = delete;
};

autosam_options fake(const char* library = AUTOSAM_FAKE_OPENVINO) {
  autosam_options options = autosam_test::cpu_options();
  options.backend = "openvino";
  options.runtime_library = library;
  return options;
}

autosam_status open(const char* word, const char* library = AUTOSAM_FAKE_OPENVINO,
                    const char* precision = "auto") {
  const Wrong wrong(word);
  autosam_options options = fake(library);
  options.precision = precision;
  autosam_session* session = nullptr;
  const autosam_status status = autosam_session_create(threshold().c_str(), &options, &session);
  autosam_session_destroy(session);
  return status;
}

// Objects of the runtime that were not given back.
int live() {
  void* library = dlopen(AUTOSAM_FAKE_OPENVINO, RTLD_NOW | RTLD_LOCAL);
  REQUIRE(library != nullptr);
  const auto count = reinterpret_cast<int (*)()>(dlsym(library, "fake_live_objects"));
  REQUIRE(bool(count));
  return count();
}

autosam_status run(autosam_session* session, std::int64_t batch, std::vector<std::uint8_t>& labels,
                   std::int64_t max_batch = 0) {
  std::vector<float> values(static_cast<std::size_t>(batch) * 6, 60);
  labels.assign(values.size(), 99);
  const autosam_tensor in = tensor(values.data(), AUTOSAM_FLOAT32, batch, 2, 3);
  const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, batch, 2, 3);
  autosam_run_options options;
  autosam_run_options_init(&options);
  options.max_batch = max_batch;
  return autosam_run(session, &in, &out, nullptr, &options);
}

}  // namespace

// In this order: what the library said once it is not asked again.
TEST_CASE("libraries that are too old, nameless, cannot start, or are another's") {
  CHECK_FAILS(open("old"), AUTOSAM_BACKEND_UNAVAILABLE,
              "cannot be used; got version 2024.6.0-1; expected 2025.0 or later");
  CHECK_FAILS(open("nameless"), AUTOSAM_BACKEND_UNAVAILABLE, "got no version");
  CHECK_FAILS(open("no-start"), AUTOSAM_BACKEND_UNAVAILABLE,
              "OpenVINO cannot start; got no plugins.xml");
  CHECK_FAILS(open("", AUTOSAM_NO_RUNTIME), AUTOSAM_BACKEND_UNAVAILABLE,
              "is no OpenVINO; got a library without ov_get_openvino_version");
  CHECK_FAILS(open("", "/nowhere"), AUTOSAM_BACKEND_UNAVAILABLE,
              "OpenVINO cannot be loaded from '/nowhere' .runtime_library.");
}

TEST_CASE("models and devices that are not as they should be") {
  CHECK(open("") == AUTOSAM_OK);
  const int before = live();
  CHECK_FAILS(open("no-cpu"), AUTOSAM_DEVICE_UNAVAILABLE, "has no CPU plugin; got no CPU$");
  CHECK_FAILS(open("unread"), AUTOSAM_RUNTIME_ERROR,
              "cannot read 'model.fp32.onnx'; got not today");
  CHECK_FAILS(open("bf16"), AUTOSAM_RUNTIME_ERROR,
              "did not take the precision; got bf16; expected f32");
  CHECK_FAILS(open("", AUTOSAM_FAKE_OPENVINO, "int8"), AUTOSAM_DEVICE_UNAVAILABLE,
              "no int8 arithmetic; got Fake CPU with FP32 BIN; expected AVX2 or newer");
  CHECK_FAILS(open("classes"), AUTOSAM_RUNTIME_ERROR,
              "contradicts the manifest; got uint8 labels .*, float32 logits .*, 2, .*; expected");
  CHECK_FAILS(open("mixed"), AUTOSAM_RUNTIME_ERROR, "logits .* of another type; expected");
  CHECK(live() == before);
}

TEST_CASE("it runs, and gives everything back") {
  const int before = live();
  {
    const Opened session(threshold(), fake());
    autosam_info info{};
    info.struct_size = sizeof info;
    REQUIRE(autosam_session_info(session, &info) == AUTOSAM_OK);
    CHECK(std::string(info.runtime_version) == "2099.1.0-7");
    CHECK(info.threads == 3);  // what the library says, not what was asked for
    std::vector<std::uint8_t> labels;
    CHECK(run(session, 3, labels) == AUTOSAM_OK);
    CHECK(labels == std::vector<std::uint8_t>(18, 1));
    CHECK(autosam_session_selftest(session, nullptr) == AUTOSAM_OK);
  }
  CHECK(live() == before);
}

TEST_CASE("memory runs out, with words or with empty outputs: the model is loaded anew") {
  const int before = live();
  for (const char* word : {"full", "silent"}) {
    CAPTURE(word);
    const Wrong wrong(word);
    const Opened session(threshold(), fake());
    std::vector<std::uint8_t> labels;
    CHECK_FAILS(run(session, 3, labels, -1), AUTOSAM_OUT_OF_MEMORY, "does not fit into memory");
    CHECK(labels == std::vector<std::uint8_t>(18, 99));
    CHECK(run(session, 3, labels) == AUTOSAM_OK);
    CHECK(labels == std::vector<std::uint8_t>(18, 1));
    autosam_info info{};
    info.struct_size = sizeof info;
    REQUIRE(autosam_session_info(session, &info) == AUTOSAM_OK);
    CHECK(info.largest_batch == 1);
  }
  CHECK(live() == before);
}

TEST_CASE("runs that fail, and outputs of another size") {
  const Opened session(threshold(), fake());
  std::vector<std::uint8_t> labels;
  {
    const Wrong wrong("failing");
    CHECK_FAILS(run(session, 1, labels), AUTOSAM_RUNTIME_ERROR, "OpenVINO failed; got a layer");
  }
  const Wrong wrong("bytes");
  CHECK_FAILS(run(session, 1, labels), AUTOSAM_RUNTIME_ERROR,
              "gave another 'labels'; got 7 bytes; expected 6");
}
