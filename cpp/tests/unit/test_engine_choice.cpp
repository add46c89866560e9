// The rules by which the Python runtime chooses engines (autosam_deploy/runtime/nvidia), case by
// case, and how batches are cut.
#include <doctest/doctest.h>

#include <trt/choice.hpp>
#include <trt/plan.hpp>

#include "../helpers.hpp"
#include "checks.hpp"

using autosam::core::Artefact;
using autosam::core::Bundle;
using autosam::core::choose_engine;
using autosam::core::EngineHost;
using autosam::core::Error;
using autosam::core::Message;
using autosam::core::split_batch;
using autosam_test::check_fails;

namespace {

Artefact engine(const std::string& precision, const std::string& family, std::int64_t sm) {
  Artefact made;
  made.kind = "engine";
  made.precision = precision;
  made.engine.emplace();
  made.engine->family = family;
  made.engine->version = family == "tensorrt" ? "11.1.0.5" : "1.7.1.116";
  made.engine->platform = "linux-x86_64";
  made.engine->compute_capabilities = {sm};
  made.file.path = precision + "-" + family + "-sm" + std::to_string(sm);
  return made;
}

// A bundle of engines, without graphs unless asked for.
Bundle bundle_of(const std::vector<Artefact>& engines) {
  Bundle bundle;
  bundle.folder = "b.autosam";
  bundle.manifest.artefacts = engines;
  return bundle;
}

EngineHost host(int sm, const std::string& missing = "") {
  return {[missing](const std::string& family) -> std::string {
            if (family == missing || missing == "all") {
              throw Error(AUTOSAM_BACKEND_UNAVAILABLE, Message("no library for " + family));
            }
            return family == "tensorrt" ? "11.1.0.5" : "1.7.1.116";
          },
          "linux-x86_64", sm};
}

}  // namespace

TEST_CASE("the best precision that fits, the first of a precision") {
  const Bundle bundle =
      bundle_of({engine("fp32", "tensorrt", 89), engine("fp16", "tensorrt_rtx", 89),
                 engine("fp16", "tensorrt", 89), engine("bf16", "tensorrt", 90)});
  auto choice = choose_engine(bundle, "auto", host(89));
  CHECK(choice.artefact->file.path == "fp16-tensorrt_rtx-sm89");
  CHECK(choice.version == "1.7.1.116");
  CHECK(choice.reason == "fp16 is the best for a GPU");
  choice = choose_engine(bundle, "auto", host(89, "tensorrt_rtx"));
  CHECK(choice.artefact->file.path == "fp16-tensorrt-sm89");
  choice = choose_engine(bundle, "fp32", host(89));
  CHECK(choice.reason == "fp32 was asked for");
  choice = choose_engine(bundle, "auto", host(90));
  CHECK(choice.artefact->precision == "bf16");
  CHECK(choice.reason == "bf16, since no engine of higher rank fits this device");
}

TEST_CASE("none fits: what is wrong with the only one, or with each") {
  const Bundle one = bundle_of({engine("fp16", "tensorrt_rtx", 86)});
  check_fails([&] { choose_engine(one, "auto", host(90)); }, AUTOSAM_UNSUPPORTED,
              "^the engine was built for something else; got one built with tensorrt_rtx 1.7.1.116 "
              "for sm86 on linux-x86_64; expected here is tensorrt_rtx 1.7.1.116 with sm90 on "
              "linux-x86_64; run: autosam-export engine b.autosam --engine tensorrt --sm 90$");
  check_fails([&] { choose_engine(one, "auto", host(120)); }, AUTOSAM_UNSUPPORTED,
              "--engine rtx --sm 120$");
  check_fails([&] { choose_engine(one, "fp32", host(86)); }, AUTOSAM_UNSUPPORTED,
              "has no engine in fp32; got engines in fp16; run: .*--engine rtx --sm 86, or use "
              "backend onnxruntime, which needs none");
  const Bundle two =
      bundle_of({engine("fp16", "tensorrt_rtx", 86), engine("fp16", "tensorrt", 80)});
  check_fails([&] { choose_engine(two, "fp16", host(89)); }, AUTOSAM_UNSUPPORTED,
              "none of the bundle's 2 fp16 engines fits: .1. the engine .* [|] .2. the engine was");
  check_fails([&] { choose_engine(two, "auto", host(89, "all")); }, AUTOSAM_BACKEND_UNAVAILABLE,
              "2 engines fits: .1. no library for tensorrt_rtx [|] .2. no library for tensorrt$");
  check_fails([&] { choose_engine(two, "auto", host(89, "tensorrt")); }, AUTOSAM_UNSUPPORTED,
              "no library for tensorrt");
  const Bundle alike = bundle_of({engine("fp16", "tensorrt", 80), engine("fp32", "tensorrt", 80)});
  check_fails([&] { choose_engine(alike, "auto", host(89, "all")); }, AUTOSAM_BACKEND_UNAVAILABLE,
              "^no library for tensorrt$");
}

TEST_CASE("batches are cut into parts that are as equal as can be") {
  using Sizes = std::vector<std::int64_t>;
  CHECK(split_batch(4, 1, 4) == Sizes{4});
  CHECK(split_batch(5, 1, 4) == Sizes{3, 2});
  CHECK(split_batch(9, 1, 4) == Sizes{3, 3, 3});
  CHECK(split_batch(10, 2, 4) == Sizes{4, 3, 3});
  CHECK(split_batch(8, 4, 4) == Sizes{4, 4});
  CHECK_FALSE(split_batch(5, 4, 4));
  CHECK_FALSE(split_batch(1, 2, 4));
}
