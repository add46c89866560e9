// Backend `tensorrt` running: memory of host and device, streams, splitting, failures.
#include <cstring>
#include <memory>
#include <thread>

#include "../api/checks.hpp"
#include "engines.hpp"

using autosam_test::driver;
using autosam_test::EngineSpec;
using autosam_test::label_of;
using autosam_test::live;
using autosam_test::Opened;
using autosam_test::Setting;
using autosam_test::TempFolder;
using autosam_test::tensor;
using autosam_test::with_engines;

namespace {

// One opened bundle, values and room for labels and logits.
struct Fixture {
  Setting module{"AUTOSAM_TRT_MODULE", AUTOSAM_TRT_MODULE_11};
  TempFolder temp;
  Opened session;
  std::int64_t batch;
  std::vector<float> values;
  std::vector<std::uint8_t> labels;
  std::vector<float> logits;
  autosam_run_options options{};

  explicit Fixture(std::int64_t count, const EngineSpec& engine = {},
                   const autosam_options& how = autosam_test::tensorrt())
      : session(with_engines(temp, {engine}), how),
        batch(count),
        values(static_cast<std::size_t>(count * 20)),
        labels(values.size(), 99),
        logits(3 * values.size(), -1) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(7 * i);
    autosam_run_options_init(&options);
  }
  [[nodiscard]] autosam_tensor in() { return tensor(values.data(), AUTOSAM_FLOAT32, batch, 4, 5); }
  [[nodiscard]] autosam_tensor out() { return tensor(labels.data(), AUTOSAM_UINT8, batch, 4, 5); }
  [[nodiscard]] autosam_tensor logits_out() {
    autosam_tensor view = tensor(logits.data(), AUTOSAM_FLOAT32, batch, 3, 4);
    view.ndim = 4;
    view.shape[3] = 5;
    return view;
  }
  autosam_status run(bool with_logits = true) {
    const autosam_tensor slices = in();
    const autosam_tensor to = out();
    const autosam_tensor more = logits_out();
    return autosam_run(session, &slices, &to, with_logits ? &more : nullptr, &options);
  }
  [[nodiscard]] int wrong() const {
    int count = 0;
    for (std::size_t i = 0; i < labels.size(); ++i) {
      count += labels[i] == label_of(values[i]) ? 0 : 1;
    }
    return count;
  }
};

// Memory and a stream of the fake device, as a host has them.
class OnDevice {
 public:
  explicit OnDevice(const void* from, std::size_t bytes) : bytes_(bytes) {
    driver<int (*)(void*)>("cuCtxPushCurrent_v2")(nullptr);
    std::uint64_t made = 0;
    REQUIRE(driver<int (*)(std::uint64_t*, std::size_t)>("cuMemAlloc_v2")(&made, bytes) == 0);
    address_ = reinterpret_cast<void*>(static_cast<std::uintptr_t>(made));
    if (from != nullptr) std::memcpy(address_, from, bytes);
  }
  ~OnDevice() {
    driver<int (*)(std::uint64_t)>("cuMemFree_v2")(reinterpret_cast<std::uintptr_t>(address_));
    driver<int (*)(void**)>("cuCtxPopCurrent_v2")(nullptr);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  // The same view of this memory.
  [[nodiscard]] autosam_tensor view(autosam_tensor of) const {
    of.data = address_;
    of.memory = AUTOSAM_CUDA;
    return of;
  }
  void copy_to(void* to) const { std::memcpy(to, address_, bytes_); }

 private:
  void* address_ = nullptr;
  std::size_t bytes_;
};

void* new_stream() {
  void* stream = nullptr;
  driver<int (*)(void*)>("cuCtxPushCurrent_v2")(nullptr);
  REQUIRE(driver<int (*)(void**, unsigned)>("cuStreamCreate")(&stream, 0) == 0);
  return stream;
}

void finish_stream(void* stream) {
  REQUIRE(driver<int (*)(void*)>("cuStreamSynchronize")(stream) == 0);
  driver<int (*)(void*)>("cuStreamDestroy_v2")(stream);
  driver<int (*)(void**)>("cuCtxPopCurrent_v2")(nullptr);
}

}  // namespace

TEST_CASE("host memory, batches beyond the profile") {
  const long before = live();
  for (const std::int64_t count : {1, 2, 4, 5, 9}) {
    CAPTURE(count);
    Fixture test(count);
    test.options.max_batch = -1;
    REQUIRE(test.run() == AUTOSAM_OK);
    CHECK(test.wrong() == 0);
    CHECK(test.logits[0] == 100);
    CHECK(test.logits.back() == 2 * test.values.back() - 300);
    CHECK(autosam_session_selftest(test.session, nullptr) == AUTOSAM_OK);
    CHECK(autosam_session_warmup(test.session, 3, 64, 8) == AUTOSAM_OK);
    test.labels.assign(test.labels.size(), 99);
    REQUIRE(test.run(/*with_logits=*/false) == AUTOSAM_OK);
    CHECK(test.wrong() == 0);
  }
  CHECK(live() == before);
  CHECK(driver<int (*)()>("fake_freed_busy")() == 0);
}

TEST_CASE("slices that the profile does not hold") {
  EngineSpec engine;
  engine.batches = "3,3,4";
  Fixture test(5, engine);
  test.options.max_batch = -1;
  CHECK_FAILS(test.run(), AUTOSAM_INVALID_ARGUMENT,
              "outside the engine's profile; got B 5, H 4, W 5; expected B 3 to 4, H 4 to 64, W 4 "
              "to 64; run: autosam-export engine .* --engine tensorrt --sm 89 with --batch and");
  test.options.max_batch = 3;
  CHECK_FAILS(test.run(), AUTOSAM_INVALID_ARGUMENT, "got B 2, H 4, W 5");
  CHECK_FAILS(autosam_session_warmup(test.session, 3, 65, 8), AUTOSAM_INVALID_ARGUMENT,
              "H 65, W 8");
}

TEST_CASE("tensors in CUDA memory are used in place, in any mix") {
  Fixture test(6);
  const OnDevice slices(test.values.data(), 4 * test.values.size());
  const OnDevice labels(nullptr, test.labels.size());
  const autosam_tensor in = slices.view(test.in());
  const autosam_tensor out = labels.view(test.out());
  const autosam_tensor logits = test.logits_out();
  REQUIRE(autosam_run(test.session, &in, &out, &logits, nullptr) == AUTOSAM_OK);
  labels.copy_to(test.labels.data());
  CHECK(test.wrong() == 0);
  CHECK(test.logits.back() == 2 * test.values.back() - 300);

  autosam_tensor stranger = in;
  stranger.data = test.values.data();
  CHECK_FAILS(autosam_run(test.session, &stranger, &out, nullptr, nullptr),
              AUTOSAM_INVALID_ARGUMENT,
              "'slices' in CUDA memory; got an address that the driver does not know there");
  stranger = in;
  stranger.device_id = 1;
  CHECK_FAILS(autosam_run(test.session, &stranger, &out, nullptr, nullptr),
              AUTOSAM_INVALID_ARGUMENT, "got device_id 1; expected 0");
}

TEST_CASE("the caller's stream: waited for, or returned from at once") {
  Fixture test(6);
  void* const stream = new_stream();
  test.options.cuda_stream = stream;
  CHECK(test.run() == AUTOSAM_OK);
  CHECK(test.wrong() == 0);
  CHECK(driver<int (*)(void*)>("fake_pending")(stream) == 0);
  test.options.asynchronous = 1;
  CHECK_FAILS(test.run(), AUTOSAM_INVALID_ARGUMENT, "asynchronous; got tensors in host memory");

  const OnDevice slices(test.values.data(), 4 * test.values.size());
  const OnDevice labels(nullptr, test.labels.size());
  const autosam_tensor in = slices.view(test.in());
  const autosam_tensor out = labels.view(test.out());
  test.options.max_batch = 3;
  test.labels.assign(test.labels.size(), 99);
  REQUIRE(autosam_run(test.session, &in, &out, nullptr, &test.options) == AUTOSAM_OK);
  CHECK(driver<int (*)(void*)>("fake_pending")(stream) == 2);
  labels.copy_to(test.labels.data());
  CHECK(test.wrong() > 0);
  // The stream keeps batches of one size in order; another size moves memory.
  REQUIRE(autosam_run(test.session, &in, &out, nullptr, &test.options) == AUTOSAM_OK);
  CHECK(driver<int (*)(void*)>("fake_pending")(stream) == 4);
  test.options.max_batch = 2;
  REQUIRE(autosam_run(test.session, &in, &out, nullptr, &test.options) == AUTOSAM_OK);
  CHECK(driver<int (*)(void*)>("fake_pending")(stream) == 3);
  labels.copy_to(test.labels.data());
  CHECK(test.wrong() == 0);
  // So does another stream: the library's own.
  REQUIRE(test.run() == AUTOSAM_INVALID_ARGUMENT);
  test.options.cuda_stream = nullptr;
  test.options.asynchronous = 0;
  REQUIRE(test.run() == AUTOSAM_OK);
  CHECK(driver<int (*)(void*)>("fake_pending")(stream) == 0);
  finish_stream(stream);
  labels.copy_to(test.labels.data());
  CHECK(test.wrong() == 0);
  CHECK(driver<int (*)()>("fake_freed_busy")() == 0);
}

TEST_CASE("closing a session waits for what is still under way") {
  const long before = live();
  {
    auto test = std::make_unique<Fixture>(2);
    void* const stream = new_stream();
    test->options.cuda_stream = stream;
    test->options.asynchronous = 1;
    const OnDevice slices(test->values.data(), 4 * test->values.size());
    const OnDevice labels(nullptr, test->labels.size());
    const autosam_tensor in = slices.view(test->in());
    const autosam_tensor out = labels.view(test->out());
    REQUIRE(autosam_run(test->session, &in, &out, nullptr, &test->options) == AUTOSAM_OK);
    test.reset();
    CHECK(driver<int (*)(void*)>("fake_pending")(stream) == 0);
    finish_stream(stream);
  }
  CHECK(live() == before);
  CHECK(driver<int (*)()>("fake_freed_busy")() == 0);
}

TEST_CASE("a full device halves batches; what fails leaves the session usable") {
  Fixture test(8);
  {
    // Activations, slices, labels and logits: 16 + 4 + 1 + 12 bytes a pixel.
    const Setting bytes("AUTOSAM_FAKE_BYTES", std::to_string(33 * 20 * 2));
    REQUIRE(test.run() == AUTOSAM_OK);
    CHECK(test.wrong() == 0);
    autosam_info info{};
    info.struct_size = sizeof info;
    REQUIRE(autosam_session_info(test.session, &info) == AUTOSAM_OK);
    CHECK(info.largest_batch == 2);
    test.options.max_batch = 4;
    CHECK_FAILS(test.run(), AUTOSAM_OUT_OF_MEMORY,
                "cuda:0 has no memory left; got CUDA_ERROR_OUT_OF_MEMORY while allocating");
  }
  for (const auto& [word, expression] :
       {std::pair{"sizes", "TensorRT refuses slices of shape .4, 1, 4, 5.; got sizes outside"},
        std::pair{"shape", "gives 'slices' another shape.*got .5, 1, 4, 5.; expected .4, 1, 4, 5."},
        std::pair{"run", "TensorRT failed to run the model; got a kernel failed"}}) {
    const Setting fake("AUTOSAM_FAKE", word);
    CHECK_FAILS(test.run(), AUTOSAM_RUNTIME_ERROR, expression);
  }
  CHECK(test.run() == AUTOSAM_OK);
  CHECK(test.wrong() == 0);
}

TEST_CASE("many threads share two contexts, or one where there is no memory for more") {
  for (const bool narrow : {false, true}) {
    std::vector<std::string> lines;
    autosam_options how = autosam_test::tensorrt();
    how.log_user = &lines;
    how.log = [](std::int32_t, const char* text, void* user) {
      static_cast<std::vector<std::string>*>(user)->emplace_back(text);
    };
    Fixture test(1, {}, how);
    const Setting fake("AUTOSAM_FAKE", narrow ? "full" : "");
    std::vector<std::thread> threads;
    std::vector<int> wrong(8, 0);
    for (std::size_t t = 0; t < wrong.size(); ++t) {
      threads.emplace_back([&, t] {
        for (int round = 0; round < 20; ++round) {
          std::vector<float> values(4 * (4 + t) * 4, static_cast<float>(50 * t));
          std::vector<std::uint8_t> labels(values.size(), 99);
          const auto height = static_cast<std::int64_t>(4 + t);
          const autosam_tensor in = tensor(values.data(), AUTOSAM_FLOAT32, 4, height, 4);
          const autosam_tensor out = tensor(labels.data(), AUTOSAM_UINT8, 4, height, 4);
          if (autosam_run(test.session, &in, &out, nullptr, nullptr) != AUTOSAM_OK) ++wrong[t];
          for (const std::uint8_t label : labels) wrong[t] += label == label_of(values[0]) ? 0 : 1;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == std::vector<int>(8, 0));
    if (!narrow) continue;
    // Whether two threads ever met is chance; if so, it was said once and nothing failed.
    CHECK(lines.size() <= 2);
  }
}

TEST_CASE("a token stops between the parts of a batch") {
  Fixture test(8);
  test.options.max_batch = -1;
  REQUIRE(autosam_token_create(&test.options.token) == AUTOSAM_OK);
  autosam_token_cancel(test.options.token);
  CHECK_FAILS(test.run(), AUTOSAM_CANCELLED, "cancelled");
  autosam_token_reset(test.options.token);
  CHECK(test.run() == AUTOSAM_OK);
  autosam_token_destroy(test.options.token);
}
