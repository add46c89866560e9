// Backend `openvino` with the real library.
#include <array>
#include <chrono>
#include <thread>
#include <vector>

#include "checks.hpp"

using autosam_test::label_of;
using autosam_test::Opened;
using autosam_test::tensor;
using autosam_test::threshold;

namespace {

autosam_options openvino(const char* precision = "auto") {
  autosam_options options = autosam_test::cpu_options();
  options.backend = "openvino";
  options.precision = precision;
  return options;
}

autosam_status open(const autosam_options& options, const std::string& bundle = threshold()) {
  autosam_session* session = nullptr;
  const autosam_status status = autosam_session_create(bundle.c_str(), &options, &session);
  autosam_session_destroy(session);
  return status;
}

}  // namespace

TEST_CASE("what is in use") {
  const Opened session(threshold(), openvino());
  autosam_info info{};
  info.struct_size = sizeof info;
  REQUIRE(autosam_session_info(session, &info) == AUTOSAM_OK);
  CHECK(std::string(info.backend) == "openvino");
  CHECK(std::string(info.device) == "cpu");
  CHECK(std::string(info.provider) == "CPU");
  CHECK(std::string(info.precision) == "fp32");
  CHECK(std::string(info.artefact) == "model.fp32.onnx");
  CHECK(autosam_test::matches(info.reason, "runs on the CPU .*; fp32 is the precision of the"));
  CHECK(autosam_test::matches(info.runtime_version, "^20[0-9]+\\.[0-9]+\\.[0-9]+-[0-9]+$"));
  CHECK(autosam_test::matches(info.runtime_library, "libopenvino_c"));
  CHECK(info.threads == 1);
  CHECK(info.fell_back == 0);
}

TEST_CASE("labels and logits of any size, one size after the other") {
  const Opened session(threshold(), openvino("fp32"));
  using Sizes = std::array<std::int64_t, 3>;
  for (const auto& [batch, height, width] :
       {Sizes{1, 5, 7}, Sizes{3, 8, 2}, Sizes{2, 5, 7}, Sizes{1, 1, 1}}) {
    const auto count = static_cast<std::size_t>(batch * height * width);
    std::vector<std::int16_t> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<std::int16_t>(11 * i - 40);
    std::vector<std::uint8_t> labels(count, 99);
    std::vector<float> logits(3 * count, -1);
    const autosam_tensor in = tensor(values.data(), AUTOSAM_INT16, batch, height, width);
    const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, batch, height, width);
    autosam_tensor also = tensor(logits.data(), AUTOSAM_FLOAT32, batch, 3, height);
    also.ndim = 4;
    also.shape[3] = width;
    REQUIRE(autosam_run(session, &in, &out, &also, nullptr) == AUTOSAM_OK);
    int wrong = 0;
    for (std::size_t i = 0; i < count; ++i) wrong += labels[i] == label_of(values[i]) ? 0 : 1;
    CHECK(wrong == 0);
    CHECK(logits[0] == 140);
    CHECK(logits.back() == static_cast<float>(2 * values.back() - 300));
  }
}

TEST_CASE("self-test and warming up") {
  const Opened session(threshold(), openvino());
  CHECK(autosam_session_selftest(session, nullptr) == AUTOSAM_OK);
  CHECK(autosam_session_warmup(session, 2, 30, 40) == AUTOSAM_OK);
}

TEST_CASE("what it cannot do is refused") {
  CHECK_FAILS(open(openvino("bf16")), AUTOSAM_UNSUPPORTED,
              "no bf16 here: OpenVINO's C interface cannot cut a graph.*; got bf16; expected auto, "
              "fp32 or int8; use fp32, or the Python runtime");
  CHECK_FAILS(open(openvino("fp16")), AUTOSAM_UNSUPPORTED, "no fp16 on CPUs.*may run it as bf16");
  CHECK_FAILS(open(openvino("int8")), AUTOSAM_INVALID_ARGUMENT,
              "the bundle has no int8 graph; add one");
  CHECK_FAILS(open(openvino("int4")), AUTOSAM_INVALID_ARGUMENT,
              "unknown precision; got 'int4'; expected auto, fp32, fp16, bf16 or int8");
  autosam_options options = openvino();
  options.device = "cuda:1";
  CHECK_FAILS(open(options), AUTOSAM_DEVICE_UNAVAILABLE, "runs on CPUs; got device cuda:1");
  options = openvino();
  options.provider = "cpu";
  CHECK_FAILS(open(options), AUTOSAM_INVALID_ARGUMENT, "providers belong to backend 'onnxruntime'");
}

TEST_CASE("a graph that was altered does not reach the runtime, which would print about it") {
  const autosam_test::TempFolder temp;
  const auto bundle = temp.bundle();
  const auto graph = bundle / "model.fp32.onnx";
  autosam_test::write(graph, std::string(autosam_test::read(graph).size(), 'x'));
  autosam_options options = openvino();
  options.verify = 0;
  CHECK_FAILS(open(options, bundle), AUTOSAM_BAD_BUNDLE, "'model.fp32.onnx' of .* was altered");
}

TEST_CASE("many threads on one session") {
  const Opened session(threshold(), openvino());
  std::vector<std::thread> threads;
  std::vector<int> wrong(8, 0);
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 10; ++round) {
        std::vector<float> values(2 * (t + 1) * 4, static_cast<float>(40 * t));
        std::vector<std::uint8_t> labels(values.size(), 99);
        const auto height = static_cast<std::int64_t>(t + 1);
        const autosam_tensor in = tensor(values.data(), AUTOSAM_FLOAT32, 2, height, 4);
        const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, 2, height, 4);
        if (autosam_run(session, &in, &out, nullptr, nullptr) != AUTOSAM_OK) ++wrong[t];
        for (const std::uint8_t label : labels) {
          if (label != label_of(values[0])) ++wrong[t];
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(8, 0));
}

TEST_CASE("a token stops a run in the middle of a batch") {
  const Opened session(autosam_test::slow(), openvino());
  constexpr std::int64_t kSide = 512;
  std::vector<float> values(8 * kSide * kSide, 60);
  std::vector<std::uint8_t> labels(values.size(), 99);
  const autosam_tensor in = tensor(values.data(), AUTOSAM_FLOAT32, 8, kSide, kSide);
  const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, 8, kSide, kSide);
  autosam_token* token = nullptr;
  REQUIRE(autosam_token_create(&token) == AUTOSAM_OK);
  autosam_run_options options;
  autosam_run_options_init(&options);
  options.max_batch = -1;
  options.token = token;
  std::thread other([token] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    autosam_token_cancel(token);
  });
  CHECK_FAILS(autosam_run(session, &in, &out, nullptr, &options), AUTOSAM_CANCELLED, "cancelled");
  other.join();
  CHECK(labels[0] == 99);
  autosam_token_reset(token);
  const autosam_tensor small_in = tensor(values.data(), AUTOSAM_FLOAT32, 1, 4, 4);
  const autosam_tensor small_out = tensor(labels.data(), AUTOSAM_UINT8, 1, 4, 4);
  CHECK(autosam_run(session, &small_in, &small_out, nullptr, &options) == AUTOSAM_OK);
  CHECK(labels[0] == 1);
  autosam_token_destroy(token);
}
