// What the session does around a backend: splitting, staging, halving, cancelling, self-test.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <session.hpp>
#include <thread>

#include "../helpers.hpp"
#include "checks.hpp"
#include "fake_backend.hpp"

using autosam::core::Bundle;
using autosam::core::RunOptions;
using autosam::core::SelftestResult;
using autosam::core::Session;
using autosam::core::Token;
using autosam_test::check_fails;
using autosam_test::FakeBackend;

namespace {

constexpr std::int64_t kBatch = 7;
constexpr std::int64_t kHeight = 4;
constexpr std::int64_t kWidth = 5;
constexpr std::size_t kPixels = kBatch * kHeight * kWidth;

struct Fixture {
  FakeBackend* fake;
  std::string logged;
  Session session;
  std::vector<float> slices;
  std::vector<std::uint8_t> labels;
  std::vector<float> logits;

  explicit Fixture(bool with_labels = true)
      : Fixture(std::make_unique<FakeBackend>(), Bundle::open(autosam_test::threshold(), false),
                with_labels) {}
  Fixture(std::unique_ptr<FakeBackend> backend, Bundle bundle, bool with_labels)
      : fake(backend.get()),
        session(changed(std::move(bundle), with_labels), std::move(backend), {keep, &logged}),
        slices(kPixels),
        labels(kPixels, 77),
        logits(3 * kPixels, -1) {
    for (std::size_t i = 0; i < kPixels; ++i) slices[i] = static_cast<float>(3 * i);
  }
  static Bundle changed(Bundle bundle, bool with_labels) {
    if (!with_labels) bundle.manifest.model.outputs = {"logits"};
    return bundle;
  }
  static void keep(std::int32_t level, const char* text, void* user) {
    *static_cast<std::string*>(user) += std::to_string(level) + " " + text + "\n";
  }
  [[nodiscard]] autosam_tensor in() { return view(slices.data(), AUTOSAM_FLOAT32); }
  [[nodiscard]] autosam_tensor out() { return view(labels.data(), AUTOSAM_UINT8); }
  [[nodiscard]] autosam_tensor logits_out() {
    autosam_tensor tensor = view(logits.data(), AUTOSAM_FLOAT32);
    tensor.ndim = 4;
    tensor.shape[1] = 3;
    tensor.shape[2] = kHeight;
    tensor.shape[3] = kWidth;
    return tensor;
  }
  static autosam_tensor view(void* data, autosam_dtype dtype) {
    autosam_tensor tensor{};
    tensor.data = data;
    tensor.dtype = dtype;
    tensor.ndim = 3;
    tensor.shape[0] = kBatch;
    tensor.shape[1] = kHeight;
    tensor.shape[2] = kWidth;
    return tensor;
  }
  void run(const RunOptions& options = {}) {
    const autosam_tensor from = in();
    const autosam_tensor to = out();
    session.run(&from, &to, nullptr, options);
  }
  [[nodiscard]] std::vector<std::uint8_t> wanted() const {
    std::vector<std::uint8_t> found;
    for (const float x : slices) found.push_back(x <= 50 ? 0 : x <= 300 ? 1 : 2);
    return found;
  }
};

RunOptions batches_of(std::int64_t size) {
  RunOptions options;
  options.max_batch = size;
  return options;
}

using Sizes = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("packed memory is used in place") {
  Fixture test;
  const autosam_tensor from = test.in();
  const autosam_tensor to = test.out();
  const autosam_tensor logits = test.logits_out();
  test.session.run(&from, &to, &logits, batches_of(-1));
  CHECK(test.fake->batches == Sizes{kBatch});
  CHECK(test.fake->places ==
        std::vector<const void*>{test.slices.data(), test.labels.data(), test.logits.data()});
  CHECK(test.labels == test.wanted());
  CHECK(test.logits[0] == 100);
}

TEST_CASE("batches are split, and packed memory is still used in place") {
  Fixture test;
  test.run(batches_of(3));
  CHECK(test.fake->batches == Sizes{3, 3, 1});
  CHECK(test.fake->places[0] == test.slices.data() + 6 * kHeight * kWidth);
  CHECK(test.labels == test.wanted());
  check_fails([&] { test.run(batches_of(-2)); }, AUTOSAM_INVALID_ARGUMENT, "max_batch; got -2");
}

TEST_CASE("the automatic batch follows the encoder's size") {
  Fixture test;
  CHECK(test.session.auto_batch() == 16);  // 256 x 256: 16 of them are 1024 x 1024 pixels
  test.run();
  CHECK(test.fake->batches == Sizes{kBatch});
}

TEST_CASE("other dtypes and strides go through a copy") {
  Fixture test;
  std::vector<std::int16_t> padded(kPixels * 4, -1);
  std::vector<std::uint8_t> labels(kPixels * 2, 77);
  constexpr std::int64_t kRow = 8;
  for (std::size_t i = 0; i < kPixels; ++i) {
    padded[i / kWidth * kRow + i % kWidth] = static_cast<std::int16_t>(test.slices[i]);
  }
  autosam_tensor from = Fixture::view(padded.data(), AUTOSAM_INT16);
  autosam_tensor to = Fixture::view(labels.data(), AUTOSAM_UINT8);
  for (autosam_tensor* tensor : {&from, &to}) {
    tensor->strides[0] = kHeight * kRow;
    tensor->strides[1] = kRow;
    tensor->strides[2] = 1;
  }
  test.session.run(&from, &to, nullptr, batches_of(2));
  CHECK(test.fake->batches == Sizes{2, 2, 2, 1});
  const std::vector<std::uint8_t> wanted = test.wanted();
  for (std::size_t i = 0; i < kPixels; ++i) {
    CHECK(labels[i / kWidth * kRow + i % kWidth] == wanted[i]);
  }
  CHECK(labels[kWidth] == 77);  // padding is the caller's
}

TEST_CASE("a bundle without labels: the class of the largest logit, the first of equals") {
  Fixture test(false);
  test.slices[0] = 50;   // 100 - x == x
  test.slices[1] = 300;  // x == 2 x - 300
  test.run(batches_of(3));
  CHECK(test.labels == test.wanted());
  CHECK(test.labels[0] == 0);
  CHECK(test.labels[1] == 1);
}

TEST_CASE("what a bundle or a caller lacks") {
  Fixture test;
  const autosam_tensor from = test.in();
  check_fails([&] { test.session.run(&from, nullptr, nullptr, {}); }, AUTOSAM_INVALID_ARGUMENT,
              "nothing to compute");
  auto backend = std::make_unique<FakeBackend>();
  Bundle bundle = Bundle::open(autosam_test::threshold(), false);
  bundle.manifest.model.outputs = {"labels"};
  const Session session(std::move(bundle), std::move(backend), {});
  const autosam_tensor logits = test.logits_out();
  check_fails([&] { session.run(&from, nullptr, &logits, {}); }, AUTOSAM_INVALID_ARGUMENT,
              "no output 'logits'; export again with --outputs");
  test.slices[9] = NAN;
  check_fails([&] { test.run(); }, AUTOSAM_INVALID_ARGUMENT, "not finite; got 1 of 140");
  CHECK(test.fake->batches.empty());
}

TEST_CASE("a full memory halves automatic batches, and is remembered") {
  for (const bool bad_alloc : {false, true}) {
    Fixture test;
    test.fake->fits = 2;
    test.fake->bad_alloc = bad_alloc;
    test.run();
    CHECK(test.fake->batches == Sizes{2, 2, 2, 1});
    CHECK(test.labels == test.wanted());
    CHECK(test.session.largest_batch() == 2);
    CHECK(test.logged.find("2 out of memory: going on with batches of 4 slices") == 0);
    test.fake->batches.clear();
    test.run();
    CHECK(test.fake->batches == Sizes{2, 2, 2, 1});
  }
}

TEST_CASE("a full memory is an error where a batch was asked for, or one slice does not fit") {
  Fixture test;
  test.fake->fits = 2;
  check_fails([&] { test.run(batches_of(3)); }, AUTOSAM_OUT_OF_MEMORY, "too many");
  test.fake->fits = 0;
  check_fails([&] { test.run(); }, AUTOSAM_OUT_OF_MEMORY, "too many");
}

TEST_CASE("progress is told after every batch, and can stop the run") {
  Fixture test;
  std::vector<std::pair<std::int64_t, std::int64_t>> told;
  RunOptions options = batches_of(3);
  options.progress_user = &told;
  options.progress = [](std::int64_t done, std::int64_t all, void* user) -> std::int32_t {
    static_cast<decltype(told)*>(user)->emplace_back(done, all);
    return 0;
  };
  test.run(options);
  CHECK(told == decltype(told){{3, 7}, {6, 7}, {7, 7}});
  options.progress = [](std::int64_t done, std::int64_t, void*) -> std::int32_t {
    return done == 6;
  };
  test.fake->batches.clear();
  check_fails([&] { test.run(options); }, AUTOSAM_CANCELLED, "was cancelled");
  CHECK(test.fake->batches == Sizes{3, 3});
  // Nothing is left to stop after the last batch.
  options.progress = [](std::int64_t done, std::int64_t, void*) -> std::int32_t {
    return done == 7;
  };
  test.run(options);
}

TEST_CASE("a token stops a run in the middle, and every later one until it is reset") {
  Fixture test;
  Token token;
  RunOptions options;
  options.token = &token;
  test.fake->waits = true;
  std::thread other([&] {
    while (test.fake->started == 0) std::this_thread::yield();
    token.cancel();
  });
  check_fails([&] { test.run(options); }, AUTOSAM_CANCELLED, "was cancelled");
  other.join();
  test.fake->waits = false;
  check_fails([&] { test.run(options); }, AUTOSAM_CANCELLED, "was cancelled");
  CHECK(test.fake->started == 1);
  token.reset();
  test.run(options);
  CHECK(test.labels == test.wanted());
}

TEST_CASE("warming up runs once on zeros; its sizes are checked") {
  Fixture test;
  test.session.warmup(2, 3, 4);
  CHECK(test.fake->batches == Sizes{2});
  check_fails([&] { test.session.warmup(0, 3, 4); }, AUTOSAM_INVALID_ARGUMENT, "none of them 0");
  check_fails([&] { test.session.warmup(1, INT64_MAX, 4); }, AUTOSAM_INVALID_ARGUMENT, "addressed");
}

TEST_CASE("self-test: logits decide by the gate, labels alone by margins") {
  Fixture test;
  SelftestResult result = test.session.selftest();
  CHECK(result.cases == 2);
  CHECK(result.passed == 2);
  CHECK(result.gate == 1e-3);
  CHECK(result.max_logit_difference == 0);
  CHECK(result.agreement == 1);
  test.fake->error = 0.5F;
  result = test.session.selftest();
  CHECK(result.passed == 0);
  CHECK(result.max_logit_difference == doctest::Approx(0.5));
  test.fake->error = NAN;
  result = test.session.selftest();
  CHECK(result.passed == 0);
  CHECK(std::isnan(result.max_logit_difference));
}

TEST_CASE("self-test: golden files that are not what they should be") {
  const auto refused = [](const std::string& file, const std::string& content,
                          const std::string& expression) {
    const autosam_test::TempFolder temp;
    const auto folder = temp.bundle();
    Bundle bundle = Bundle::open(folder, true);
    autosam_test::write(folder / file, content);
    const Session session(std::move(bundle), std::make_unique<FakeBackend>(), {});
    check_fails([&] { static_cast<void>(session.selftest()); }, AUTOSAM_BAD_BUNDLE, expression);
  };
  const auto golden = [](const std::string& name) {
    return autosam_test::read(autosam_test::data() / "threshold.autosam" / "golden" / name);
  };
  refused("golden/case_0.slices.npy", "x", "case_0.slices.npy' cannot be read; got no .npy file");
  refused("golden/case_0.slices.npy", golden("case_0.labels.npy"), "got uint8; expected float32");
  refused("golden/case_0.slices.npy", golden("case_0.logits.npy"), "got shape .2, 3, 6, 9.");
  refused("golden/case_0.labels.npy", golden("case_1.labels.npy"),
          "got shape .1, 5, 4.; expected .2, 6, 9.");
  refused("golden/case_0.logits.npy", golden("case_1.logits.npy"), "expected .2, 3, 6, 9.");
  refused("parity.json", "{}", "'parity.json' is not valid at 'comparisons'");
  refused("parity.json", R"({"comparisons": []})", "got 0 items");
  refused("parity.json", R"({"comparisons": [{"precision": "fp32"}]})", "comparisons.0.gate");
  // Another precision's gate would judge by the wrong measure.
  refused("parity.json", R"({"comparisons": [{"precision": "bf16", "gate": 1}]})",
          "record has no gate for fp32");
}

TEST_CASE("memory of a device and streams go to backends that have one") {
  Fixture test;
  autosam_tensor in = test.in();
  autosam_tensor out = test.out();
  autosam_tensor logits = test.logits_out();
  RunOptions options;
  options.max_batch = 3;
  const auto refused = [&](autosam_status status, const std::string& expression) {
    check_fails([&] { test.session.run(&in, &out, &logits, options); }, status, expression);
  };
  in.memory = AUTOSAM_CUDA;
  test.fake->used.backend = "fake";
  refused(AUTOSAM_UNSUPPORTED,
          "'slices' in CUDA memory; got backend fake; expected backend tensor");
  test.fake->device = 2;
  refused(AUTOSAM_INVALID_ARGUMENT, "'slices' in CUDA memory; got device_id 0; expected 2");
  in.device_id = 2;
  test.session.run(&in, &out, &logits, options);
  CHECK(test.labels == test.wanted());
  CHECK(test.fake->batches == std::vector<std::int64_t>{3, 3, 1});
  CHECK(test.fake->seen[1].slices_on_device);
  CHECK_FALSE(test.fake->seen[1].labels_on_device);
  CHECK(test.fake->seen[1].slices == test.slices.data() + 3 * kHeight * kWidth);

  int stream = 0;
  options.stream = &stream;
  options.asynchronous = true;
  refused(AUTOSAM_INVALID_ARGUMENT, "asynchronous; got tensors in host memory; expected");
  for (autosam_tensor* tensor : {&out, &logits}) {
    tensor->memory = AUTOSAM_CUDA;
    tensor->device_id = 2;
  }
  test.session.run(&in, &out, &logits, options);
  CHECK(test.fake->seen.back().stream == &stream);
  CHECK(test.fake->seen.back().asynchronous);
  CHECK(test.fake->seen.back().labels_on_device);
  CHECK(test.fake->seen.back().logits_on_device);
  options.stream = nullptr;
  refused(AUTOSAM_INVALID_ARGUMENT, "asynchronous; got no cuda_stream");
  options.asynchronous = false;
  out.strides[0] = 100;
  out.strides[1] = 10;
  out.strides[2] = 1;
  refused(AUTOSAM_UNSUPPORTED, "'labels' in CUDA memory; got strides.*expected packed");
  out = test.out();
  in.dtype = AUTOSAM_INT16;
  refused(AUTOSAM_UNSUPPORTED, "'slices' in CUDA memory; got strides, or slices of another dtype");
  in = test.in();
  logits = test.logits_out();
  options.stream = &stream;
  test.fake->device = -1;
  refused(AUTOSAM_UNSUPPORTED, "cuda_stream; got backend fake; expected backend tensorrt; leave");
}

TEST_CASE("values on a device are not looked at; labels of logits are made on the host alone") {
  Fixture test(/*with_labels=*/false);
  test.fake->device = 0;
  test.slices[3] = std::numeric_limits<float>::quiet_NaN();
  autosam_tensor in = test.in();
  in.memory = AUTOSAM_CUDA;
  autosam_tensor out = test.out();
  test.session.run(&in, &out, nullptr, {});
  CHECK(test.labels[60] == test.wanted()[60]);
  out.memory = AUTOSAM_CUDA;
  check_fails([&] { test.session.run(&in, &out, nullptr, {}); }, AUTOSAM_UNSUPPORTED,
              "gives logits alone, of which labels are made on the host; got outputs in CUDA");
}
