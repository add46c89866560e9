// The C++ wrapper, over the same library.
#include <autosam.hpp>

#include <limits>
#include <utility>

#include "checks.hpp"

namespace {

autosam::Options cpu() {
  autosam::Options options;
  options.device = "cpu";
  options.threads = 1;
  return options;
}

template <class Function>
void check_throws(const Function& function, autosam_status status, const std::string& expression) {
  try {
    function();
  } catch (const autosam::Error& error) {
    CHECK(error.status() == status);
    const std::string text = error.what();
    CAPTURE(text);
    CHECK(autosam_test::matches(text, expression));
    return;
  }
  FAIL_CHECK("nothing was thrown");
}

}  // namespace

TEST_CASE("labels and logits in new memory") {
  const autosam::Session session(autosam_test::threshold(), cpu());
  const std::vector<std::int16_t> values{0, 50, 51, 300, 301, 1000};
  const autosam_tensor slices = autosam::slices(values.data(), 1, 2, 3);
  CHECK(session.labels(slices) == std::vector<std::uint8_t>{0, 0, 1, 1, 2, 2});
  const std::vector<float> logits = session.logits(slices);
  REQUIRE(logits.size() == 18);
  CHECK(logits[6] == 0);
  CHECK(logits[17] == 1700);
  CHECK(session.classes().size() == 3);
  CHECK(session.classes()[1].name == "body");
  CHECK(session.info().num_classes == 3);
  CHECK(session.selftest().passed == 2);
  session.warmup(1, 8, 8);
}

TEST_CASE("labels into the caller's memory, rows padded") {
  const autosam::Session session(autosam_test::threshold(), cpu());
  const std::vector<std::uint16_t> values{10, 60, 9999, 400, 10, 9999};
  std::vector<std::uint8_t> labels(8, 99);
  session.run(autosam::padded_slices(values.data(), 1, 2, 2, 3, 6),
              autosam::padded_slices(labels.data(), 1, 2, 2, 4, 8));
  CHECK(labels == std::vector<std::uint8_t>{0, 1, 99, 99, 2, 0, 99, 99});
}

TEST_CASE("errors carry status and text") {
  check_throws([] { autosam::Session("/nowhere", cpu()); }, AUTOSAM_BUNDLE_NOT_FOUND,
               "no bundle at");
  autosam::Options options = cpu();
  options.backend = "x";
  check_throws([&] { autosam::Session(autosam_test::threshold(), options); },
               AUTOSAM_INVALID_ARGUMENT, "unknown backend");
  const autosam::Session session(autosam_test::threshold(), cpu());
  float value = std::numeric_limits<float>::quiet_NaN();
  check_throws([&] { static_cast<void>(session.labels(autosam::slices(&value, 1, 1, 1))); },
               AUTOSAM_INVALID_ARGUMENT, "not finite");
  check_throws([&] { static_cast<void>(session.labels(autosam::slices(&value, 0, 1, 1))); },
               AUTOSAM_INVALID_ARGUMENT, "0 or less");
  check_throws(
      [&] {
        static_cast<void>(session.labels(autosam::tensor(&value, {1, 1})));
      },
      AUTOSAM_INVALID_ARGUMENT, "expected .B, 1, H, W");
  check_throws(
      [&] {
        autosam::tensor(&value, {1, 1, 1}, {1});
      },
      AUTOSAM_INVALID_ARGUMENT, "stride");
  CHECK_THROWS_AS(session.labels(autosam::slices(&value, 1LL << 40, 1LL << 40, 1)), std::bad_alloc);
}

TEST_CASE("views of CUDA memory and streams reach the library") {
  const autosam::Session session(autosam_test::threshold(), cpu());
  float value = 60;
  std::uint8_t label = 99;
  const autosam_tensor in = autosam::slices(&value, 1, 1, 1);
  const autosam_tensor out = autosam::slices(&label, 1, 1, 1);
  check_throws([&] { session.run(autosam::on_cuda(in, 1), out); }, AUTOSAM_UNSUPPORTED,
               "CUDA memory; got backend onnxruntime");
  autosam::RunOptions options;
  options.cuda_stream = &value;
  check_throws([&] { session.run(in, out, options); }, AUTOSAM_UNSUPPORTED, "cuda_stream");
  options.cuda_stream = nullptr;
  options.asynchronous = true;
  check_throws([&] { session.run(in, out, options); }, AUTOSAM_INVALID_ARGUMENT, "asynchronous");
}

TEST_CASE("a session that was moved from refuses; the other works") {
  autosam::Session first(autosam_test::threshold(), cpu());
  const autosam::Session second(std::move(first));
  float value = 60;
  const autosam_tensor slices = autosam::slices(&value, 1, 1, 1);
  CHECK(second.labels(slices)[0] == 1);
  check_throws([&] { static_cast<void>(first.labels(slices)); }, AUTOSAM_INVALID_ARGUMENT,
               "session; got NULL");
  check_throws([&] { static_cast<void>(first.info()); }, AUTOSAM_INVALID_ARGUMENT, "NULL");
  first = autosam::Session(autosam_test::threshold(), cpu());
  CHECK(first.labels(slices)[0] == 1);
}

TEST_CASE("progress: false stops, an exception stops and comes out") {
  const autosam::Session session(autosam_test::threshold(), cpu());
  std::vector<float> values(4, 60);
  const autosam_tensor slices = autosam::slices(values.data(), 4, 1, 1);
  autosam::RunOptions options;
  options.max_batch = 1;
  std::vector<std::int64_t> told;
  options.progress = [&told](std::int64_t done, std::int64_t all) {
    told.push_back(done);
    return done < all - 1;
  };
  check_throws([&] { static_cast<void>(session.labels(slices, options)); }, AUTOSAM_CANCELLED,
               "cancelled");
  CHECK(told == std::vector<std::int64_t>{1, 2, 3});
  options.progress = [](std::int64_t, std::int64_t) -> bool { throw std::out_of_range("mine"); };
  CHECK_THROWS_WITH_AS(session.labels(slices, options), "mine", std::out_of_range);
}

TEST_CASE("tokens and logs") {
  std::vector<std::string> lines;
  autosam::Options logged = cpu();
  logged.log = [&lines](int, const char* text) { lines.emplace_back(text); };
  // The wrapper keeps the function: the session outlives its options and a move.
  autosam::Session made(autosam_test::threshold(), logged);
  const autosam::Session session(std::move(made));
  CHECK(lines.size() == 1);
  const autosam::Token token;
  autosam::RunOptions options;
  options.token = &token;
  float value = 60;
  token.cancel();
  check_throws(
      [&] { static_cast<void>(session.labels(autosam::slices(&value, 1, 1, 1), options)); },
      AUTOSAM_CANCELLED, "cancelled");
  token.reset();
  CHECK(session.labels(autosam::slices(&value, 1, 1, 1), options)[0] == 1);
}
