// Memory that runs out at every place where the library asks for some: each time the answer is
// AUTOSAM_OUT_OF_MEMORY, nothing leaks (under AddressSanitizer), and the next call works.
#include <autosam.h>
#include <doctest/doctest.h>

#include <manifest.hpp>
#include <memory>
#include <session.hpp>
#include <string>
#include <vector>

#include "../helpers.hpp"
#include "../unit/fake_backend.hpp"
#include "allocation.hpp"

namespace {

using autosam_test::allowed;
using autosam_test::only_own;

// Runs a call with 0, 1, 2, ... allocations until it succeeds; returns how many it needed.
template <class Call>
long exhaust(const Call& call) {
  for (long limit = 0; limit < 100'000; ++limit) {
    allowed = limit;
    const autosam_status status = call();
    allowed = -1;
    if (status == AUTOSAM_OK) return limit;
    if (status != AUTOSAM_OUT_OF_MEMORY) {
      FAIL("allocation " << limit << ": " << autosam_status_name(status) << ", "
                         << autosam_last_error());
    }
  }
  FAIL("it never succeeded");
  return -1;
}

}  // namespace

using autosam::core::guarded;

TEST_CASE("reading a manifest") {
  const std::string text =
      autosam_test::read(autosam_test::data() / "threshold.autosam/manifest.json");
  const long needed = exhaust(
      [&] { return guarded([&] { static_cast<void>(autosam::core::parse_manifest(text)); }); });
  CHECK(needed > 100);
}

TEST_CASE("opening a bundle, hashes included") {
  const std::string path = autosam_test::threshold();
  const long needed = exhaust(
      [&] { return guarded([&] { static_cast<void>(autosam::core::Bundle::open(path, true)); }); });
  CHECK(needed > 200);
}

TEST_CASE("a batch that is converted and put in place, with a token") {
  const autosam::core::Session session(
      autosam::core::Bundle::open(autosam_test::threshold(), false),
      std::make_unique<autosam_test::FakeBackend>(), {});
  std::vector<std::int16_t> slices(3 * 4 * 5, 60);
  std::vector<std::uint8_t> labels(2 * slices.size(), 99);
  autosam_tensor in{};
  in.data = slices.data();
  in.dtype = AUTOSAM_INT16;
  in.ndim = 3;
  in.shape[0] = 3;
  in.shape[1] = 4;
  in.shape[2] = 5;
  autosam_tensor out = in;
  out.data = labels.data();
  out.dtype = AUTOSAM_UINT8;
  out.strides[0] = 40;
  out.strides[1] = 10;
  out.strides[2] = 2;
  autosam::core::Token token;
  autosam::core::RunOptions options;
  options.max_batch = 2;
  options.token = &token;
  const long needed =
      exhaust([&] { return guarded([&] { session.run(&in, &out, nullptr, options); }); });
  CHECK(needed > 2);
  CHECK(labels[0] == 1);
  CHECK(labels[1] == 99);
  // Automatic batches are halved down to one slice before they give up.
  options.max_batch = 0;
  exhaust([&] { return guarded([&] { session.run(&in, &out, nullptr, options); }); });
}

TEST_CASE("the self-test") {
  const autosam::core::Session session(
      autosam::core::Bundle::open(autosam_test::threshold(), false),
      std::make_unique<autosam_test::FakeBackend>(), {});
  const long needed =
      exhaust([&] { return guarded([&] { static_cast<void>(session.selftest()); }); });
  CHECK(needed > 20);
}

TEST_CASE("handles and errors") {
  exhaust([] {
    autosam_token* token = nullptr;
    const autosam_status status = autosam_token_create(&token);
    autosam_token_destroy(token);
    return status;
  });
  // A message that cannot be written is told as what it is.
  autosam_session* session = nullptr;
  bool told = false;
  for (long limit = 0; limit < 10'000 && !told; ++limit) {
    allowed = limit;
    const autosam_status status = autosam_session_create("/nowhere", nullptr, &session);
    allowed = -1;
    told = status == AUTOSAM_BUNDLE_NOT_FOUND;
    CHECK((told || status == AUTOSAM_OUT_OF_MEMORY));
    CHECK(session == nullptr);
  }
  CHECK(told);
}

TEST_CASE("opening and running on ONNX Runtime") {
  const std::string path = autosam_test::threshold();
  autosam_options options;
  autosam_options_init(&options);
  options.device = "cpu";
  options.threads = 1;
  autosam_session* session = nullptr;
  if (autosam_session_create(path.c_str(), &options, &session) != AUTOSAM_OK) {
    MESSAGE("skipped: " << std::string(autosam_last_error()));
    return;
  }
  autosam_session_destroy(session);
  only_own = true;
  const long opening = exhaust([&] {
    autosam_session_destroy(session);
    return autosam_session_create(path.c_str(), &options, &session);
  });
  CHECK(opening > 50);
  float value = 60;
  std::uint8_t label = 99;
  autosam_tensor in{};
  in.data = &value;
  in.dtype = AUTOSAM_FLOAT32;
  in.ndim = 3;
  in.shape[0] = in.shape[1] = in.shape[2] = 1;
  autosam_tensor out = in;
  out.data = &label;
  out.dtype = AUTOSAM_UINT8;
  autosam_token* token = nullptr;
  REQUIRE(autosam_token_create(&token) == AUTOSAM_OK);
  autosam_run_options run;
  autosam_run_options_init(&run);
  run.max_batch = -1;
  run.token = token;
  const long running = exhaust([&] { return autosam_run(session, &in, &out, nullptr, &run); });
  CHECK(running > 0);
  CHECK(label == 1);
  exhaust([&] { return autosam_session_selftest(session, nullptr); });
  only_own = false;
  autosam_token_destroy(token);
  autosam_session_destroy(session);
}
