#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "checks.hpp"

using autosam_test::label_of;
using autosam_test::Opened;
using autosam_test::tensor;

namespace {

// Values around both thresholds, different in every slice.
template <class Element>
std::vector<Element> ramp(std::size_t count, double from, double step) {
  std::vector<Element> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = static_cast<Element>(from + step * static_cast<double>(i));
  }
  return values;
}

template <class Element>
void check_labels(autosam_session* session, std::int32_t dtype, double from, double step) {
  auto values = ramp<Element>(3 * 7 * 11, from, step);
  std::vector<std::uint8_t> labels(values.size(), 99);
  const autosam_tensor in = tensor(values.data(), dtype, 3, 7, 11);
  const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, 3, 7, 11);
  REQUIRE(autosam_run(session, &in, &out, nullptr, nullptr) == AUTOSAM_OK);
  for (std::size_t i = 0; i < values.size(); ++i) CHECK(labels[i] == label_of(values[i]));
}

}  // namespace

TEST_CASE("labels of every dtype") {
  const Opened session;
  check_labels<float>(session, AUTOSAM_FLOAT32, -10, 1.75);
  check_labels<std::int16_t>(session, AUTOSAM_INT16, -32768, 284);
  check_labels<std::uint16_t>(session, AUTOSAM_UINT16, 0, 283);
  check_labels<std::uint8_t>(session, AUTOSAM_UINT8, 0, 1);
}

TEST_CASE("labels and logits from one run, in batches, with four axes") {
  const Opened session;
  auto values = ramp<float>(5 * 6 * 4, -10, 3.5);
  std::vector<std::uint8_t> labels(values.size(), 99);
  std::vector<float> logits(3 * values.size(), -1);
  autosam_tensor in = tensor(values.data(), AUTOSAM_FLOAT32, 5, 6, 4);
  in.ndim = 4;
  in.shape[1] = 1;
  in.shape[2] = 6;
  in.shape[3] = 4;
  const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, 5, 6, 4);
  autosam_tensor logits_out = in;
  logits_out.data = logits.data();
  logits_out.shape[1] = 3;
  for (const std::int64_t batch : {-1, 0, 1, 2, 5, 100}) {
    std::fill(labels.begin(), labels.end(), std::uint8_t{99});
    std::fill(logits.begin(), logits.end(), -1.0F);
    autosam_run_options options;
    autosam_run_options_init(&options);
    options.max_batch = batch;
    REQUIRE(autosam_run(session, &in, &out, &logits_out, &options) == AUTOSAM_OK);
    for (std::size_t i = 0; i < values.size(); ++i) {
      CHECK(labels[i] == label_of(values[i]));
      const std::size_t place = i / 24 * 72 + i % 24;
      CHECK(logits[place] == 100 - values[i]);
      CHECK(logits[place + 24] == values[i]);
      CHECK(logits[place + 48] == 2 * values[i] - 300);
    }
  }
  std::fill(logits.begin(), logits.end(), -1.0F);
  REQUIRE(autosam_run(session, &in, nullptr, &logits_out, nullptr) == AUTOSAM_OK);
  CHECK(logits[0] == 110);
}

TEST_CASE("a volume across: slices of any axis without a copy by the caller") {
  const Opened session;
  constexpr std::int64_t kZ = 4;
  constexpr std::int64_t kY = 5;
  constexpr std::int64_t kX = 6;
  auto volume = ramp<std::int16_t>(kZ * kY * kX, -20, 4);
  std::vector<std::uint8_t> labels(volume.size(), 99);
  // Slices along x: (B, H, W) = (x, z, y); labels go back into the volume's own order.
  autosam_tensor in = tensor(volume.data(), AUTOSAM_INT16, kX, kZ, kY);
  in.strides[0] = 1;
  in.strides[1] = kY * kX;
  in.strides[2] = kX;
  autosam_tensor out = in;
  out.data = labels.data();
  out.dtype = AUTOSAM_UINT8;
  REQUIRE(autosam_run(session, &in, &out, nullptr, nullptr) == AUTOSAM_OK);
  for (std::size_t i = 0; i < volume.size(); ++i) CHECK(labels[i] == label_of(volume[i]));
}

TEST_CASE("what is refused leaves the labels alone") {
  const Opened session;
  std::vector<float> values(8, 60);
  std::vector<std::uint8_t> labels(8, 99);
  const autosam_tensor in = tensor(values.data(), AUTOSAM_FLOAT32, 2, 2, 2);
  const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, 2, 2, 2);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    values[7] = bad;
    CHECK_FAILS(autosam_run(session, &in, &out, nullptr, nullptr), AUTOSAM_INVALID_ARGUMENT,
                "'slices' holds values that are not finite; got 1 of 8");
  }
  values[7] = 0;
  autosam_tensor wrong = in;
  wrong.shape[0] = 0;
  CHECK_FAILS(autosam_run(session, &wrong, &out, nullptr, nullptr), AUTOSAM_INVALID_ARGUMENT,
              "none of them 0");
  wrong.shape[0] = INT64_MAX;
  CHECK_FAILS(autosam_run(session, &wrong, &out, nullptr, nullptr), AUTOSAM_INVALID_ARGUMENT,
              "a size that can be addressed");
  CHECK_FAILS(autosam_run(session, &in, nullptr, &in, nullptr), AUTOSAM_INVALID_ARGUMENT,
              "'logits'; got shape");
  autosam_run_options options{};
  CHECK_FAILS(autosam_run(session, &in, &out, nullptr, &options), AUTOSAM_INVALID_ARGUMENT,
              "struct_size of autosam_run_options; got 0");
  autosam_run_options_init(&options);
  options.max_batch = -7;
  CHECK_FAILS(autosam_run(session, &in, &out, nullptr, &options), AUTOSAM_INVALID_ARGUMENT,
              "max_batch; got -7");
  CHECK(labels == std::vector<std::uint8_t>(8, 99));
}

TEST_CASE("run options of the first version, and of none") {
  const Opened session;
  float value = 60;
  std::uint8_t label = 99;
  const autosam_tensor in = tensor(&value, AUTOSAM_FLOAT32, 1, 1, 1);
  const autosam_tensor out = tensor(&label, AUTOSAM_UINT8, 1, 1, 1);
  autosam_run_options options;
  autosam_run_options_init(&options);
  // As a program has it that was built before streams: what lies behind is another's.
  options.struct_size = offsetof(autosam_run_options, cuda_stream);
  options.cuda_stream = &value;
  options.asynchronous = 77;
  CHECK(autosam_run(session, &in, &out, nullptr, &options) == AUTOSAM_OK);
  CHECK(label == 1);
  ++options.struct_size;
  CHECK_FAILS(autosam_run(session, &in, &out, nullptr, &options), AUTOSAM_INVALID_ARGUMENT,
              "struct_size of autosam_run_options");
}

TEST_CASE("CUDA memory and streams are not for ONNX Runtime") {
  const Opened session;
  float value = 60;
  std::uint8_t label = 99;
  autosam_tensor in = tensor(&value, AUTOSAM_FLOAT32, 1, 1, 1);
  const autosam_tensor out = tensor(&label, AUTOSAM_UINT8, 1, 1, 1);
  autosam_run_options options;
  autosam_run_options_init(&options);
  options.cuda_stream = &value;
  CHECK_FAILS(autosam_run(session, &in, &out, nullptr, &options), AUTOSAM_UNSUPPORTED,
              "cuda_stream; got backend onnxruntime; expected backend tensorrt");
  options.asynchronous = 2;
  CHECK_FAILS(autosam_run(session, &in, &out, nullptr, &options), AUTOSAM_INVALID_ARGUMENT,
              "asynchronous; got 2");
  in.memory = AUTOSAM_CUDA;
  CHECK_FAILS(autosam_run(session, &in, &out, nullptr, nullptr), AUTOSAM_UNSUPPORTED,
              "'slices' in CUDA memory; got backend onnxruntime");
  CHECK(label == 99);
}

TEST_CASE("more memory than there is") {
  const Opened session;
  // 256 TiB of zeros: more than an address space holds, whatever the system would promise.
  const autosam_status status = autosam_session_warmup(session, 1, 1 << 24, 1 << 22);
  CHECK(status == AUTOSAM_OUT_OF_MEMORY);
  CHECK(std::string(autosam_last_error()).find("out of memory") == 0);
}

TEST_CASE("warming up") {
  const Opened session;
  CHECK(autosam_session_warmup(session, 2, 30, 40) == AUTOSAM_OK);
  CHECK_FAILS(autosam_session_warmup(session, 0, 30, 40), AUTOSAM_INVALID_ARGUMENT,
              "none of them 0");
  CHECK_FAILS(autosam_session_warmup(session, 1, -30, 40), AUTOSAM_INVALID_ARGUMENT,
              "none of them 0");
}

TEST_CASE("sixteen threads on one session") {
  const Opened session;
  std::vector<std::thread> threads;
  std::vector<int> wrong(16, 0);
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t round = 0; round < 10; ++round) {
        const auto height = static_cast<std::int64_t>(3 + t % 5);
        const auto count = static_cast<std::size_t>(2 * height * 8);
        auto values = ramp<std::int16_t>(count, static_cast<double>(10 * t), 5);
        std::vector<std::uint8_t> labels(count, 99);
        const autosam_tensor in = tensor(values.data(), AUTOSAM_INT16, 2, height, 8);
        const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, 2, height, 8);
        if (autosam_run(session, &in, &out, nullptr, nullptr) != AUTOSAM_OK) ++wrong[t];
        for (std::size_t i = 0; i < count; ++i) {
          if (labels[i] != label_of(values[i])) ++wrong[t];
        }
        // Errors are the thread's own.
        const std::string mine = "label; got " + std::to_string(100 + t);
        autosam_session_class(session, static_cast<std::int32_t>(100 + t), nullptr, nullptr);
        if (std::string(autosam_last_error()).find(mine) != 0) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(16, 0));
}

TEST_CASE("threads that open, run and close on their own, and one that closes under the others") {
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  autosam_session* shared = nullptr;
  const autosam_options options = autosam_test::cpu_options();
  REQUIRE(autosam_session_create(autosam_test::threshold().c_str(), &options, &shared) ==
          AUTOSAM_OK);
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 5; ++round) {
        const Opened own;
        for (autosam_session* session : {static_cast<autosam_session*>(own), shared}) {
          float value = 60;
          std::uint8_t label = 99;
          const autosam_tensor in = tensor(&value, AUTOSAM_FLOAT32, 1, 1, 1);
          const autosam_tensor out = tensor(&label, AUTOSAM_UINT8, 1, 1, 1);
          const autosam_status status = autosam_run(session, &in, &out, nullptr, nullptr);
          const bool gone = session == shared && status == AUTOSAM_INVALID_ARGUMENT;
          if (!gone && (status != AUTOSAM_OK || label != 1)) ++wrong[t];
        }
      }
    });
  }
  autosam_session_destroy(shared);
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("a token stops a run in the middle of a batch") {
  const Opened session(autosam_test::slow());
  constexpr std::int64_t kSide = 512;
  std::vector<float> values(4 * kSide * kSide, 60);
  std::vector<std::uint8_t> labels(values.size(), 99);
  const autosam_tensor in = tensor(values.data(), AUTOSAM_FLOAT32, 4, kSide, kSide);
  const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, 4, kSide, kSide);
  autosam_token* token = nullptr;
  REQUIRE(autosam_token_create(&token) == AUTOSAM_OK);
  autosam_run_options options;
  autosam_run_options_init(&options);
  options.max_batch = -1;
  options.token = token;
  using Clock = std::chrono::steady_clock;
  Clock::time_point asked;
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    asked = Clock::now();
    autosam_token_cancel(token);
  });
  const autosam_status status = autosam_run(session, &in, &out, nullptr, &options);
  const Clock::time_point stopped = Clock::now();
  other.join();
  CHECK_FAILS(status, AUTOSAM_CANCELLED, "the run was cancelled");
  // The whole run takes seconds; ONNX Runtime looks between two of its 600 nodes.
  CHECK(stopped - asked < std::chrono::milliseconds(1500));
  CHECK_FAILS(autosam_run(session, &in, &out, nullptr, &options), AUTOSAM_CANCELLED, "cancelled");
  // The session itself is unharmed, and so is the token.
  autosam_token_reset(token);
  const autosam_tensor small_in = tensor(values.data(), AUTOSAM_FLOAT32, 1, 4, 4);
  const autosam_tensor small_out = tensor(labels.data(), AUTOSAM_UINT8, 1, 4, 4);
  CHECK(autosam_run(session, &small_in, &small_out, nullptr, &options) == AUTOSAM_OK);
  CHECK(labels[0] == 1);
  autosam_token_destroy(token);
}

TEST_CASE("progress") {
  const Opened session;
  std::vector<std::int64_t> told;
  std::vector<float> values(5 * 4, 60);
  std::vector<std::uint8_t> labels(values.size(), 99);
  const autosam_tensor in = tensor(values.data(), AUTOSAM_FLOAT32, 5, 2, 2);
  const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, 5, 2, 2);
  autosam_run_options options;
  autosam_run_options_init(&options);
  options.max_batch = 2;
  options.progress_user = &told;
  options.progress = [](std::int64_t done, std::int64_t all, void* user) -> std::int32_t {
    static_cast<std::vector<std::int64_t>*>(user)->push_back(100 * all + done);
    return done == 4 ? 1 : 0;
  };
  CHECK_FAILS(autosam_run(session, &in, &out, nullptr, &options), AUTOSAM_CANCELLED, "cancelled");
  CHECK(told == std::vector<std::int64_t>{502, 504});
  CHECK(labels[15] == 1);  // batches that were finished stay
  CHECK(labels[16] == 99);
}

TEST_CASE("self-test") {
  autosam_selftest result{};
  result.struct_size = sizeof result;
  REQUIRE(autosam_session_selftest(Opened(), &result) == AUTOSAM_OK);
  CHECK(result.cases == 2);
  CHECK(result.passed == 2);
  CHECK(result.gate == 1e-3);
  CHECK(result.agreement == 1);
  CHECK(autosam_session_selftest(Opened(), nullptr) == AUTOSAM_OK);

  const autosam_test::TempFolder temp;
  const auto bundle = temp.bundle();
  std::string logits = autosam_test::read(bundle / "golden" / "case_1.logits.npy");
  logits[logits.size() - 1] = static_cast<char>(logits[logits.size() - 1] ^ 0x40);
  autosam_test::write(bundle / "golden" / "case_1.logits.npy", logits);
  autosam_options options = autosam_test::cpu_options();
  options.verify = 0;
  const Opened session(bundle.string(), options);
  CHECK_FAILS(autosam_session_selftest(session, &result), AUTOSAM_SELFTEST_FAILED,
              "got 1 of 2 cases within the gate.*do not use");
  CHECK(result.passed == 1);
  CHECK(result.max_logit_difference > 1);
}
