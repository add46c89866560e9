// Backend `tensorrt` opening bundles: devices, modules, libraries, engines, plans.
#include "../api/checks.hpp"
#include "engines.hpp"

using autosam_test::EngineSpec;
using autosam_test::live;
using autosam_test::Setting;
using autosam_test::TempFolder;
using autosam_test::with_engines;

namespace {

const Setting kModule("AUTOSAM_TRT_MODULE", AUTOSAM_TRT_MODULE_11);

autosam_status open(const std::string& bundle, const autosam_options& options) {
  autosam_session* session = nullptr;
  const autosam_status status = autosam_session_create(bundle.c_str(), &options, &session);
  autosam_session_destroy(session);
  return status;
}

autosam_status open(const std::string& bundle, const char* wrong = "") {
  const Setting fake("AUTOSAM_FAKE", wrong);
  return open(bundle, autosam_test::tensorrt());
}

autosam_status open_one(const EngineSpec& engine) {
  const TempFolder temp;
  return open(with_engines(temp, {engine}));
}

}  // namespace

TEST_CASE("what is in use") {
  const TempFolder temp;
  const long before = live();
  {
    EngineSpec half;
    half.precision = "fp16";
    const autosam_test::Opened session(with_engines(temp, {EngineSpec(), half}),
                                       autosam_test::tensorrt());
    autosam_info info{};
    info.struct_size = sizeof info;
    REQUIRE(autosam_session_info(session, &info) == AUTOSAM_OK);
    CHECK(std::string(info.backend) == "tensorrt");
    CHECK(std::string(info.device) == "cuda:0");
    CHECK(std::string(info.provider) == "tensorrt");
    CHECK(std::string(info.precision) == "fp16");
    CHECK(std::string(info.artefact) == "engines/1.engine");
    CHECK(std::string(info.reason) == "fp16 is the best for a GPU; Fake RTX, sm89");
    CHECK(std::string(info.runtime_version) == "11.1.0.106");
    CHECK(info.auto_batch == 16);
    CHECK(live() > before);
  }
  CHECK(live() == before);
}

TEST_CASE("devices and words") {
  const TempFolder temp;
  const std::string bundle = with_engines(temp, {EngineSpec()});
  autosam_options options = autosam_test::tensorrt();
  options.device = "cpu";
  CHECK_FAILS(open(bundle, options), AUTOSAM_DEVICE_UNAVAILABLE, "runs on NVIDIA GPUs; got device");
  options.device = "cuda:1";
  CHECK_FAILS(open(bundle, options), AUTOSAM_DEVICE_UNAVAILABLE,
              "'cuda:1' is not there; got 1 usable CUDA devices");
  options.device = "cuda:0";
  CHECK(open(bundle, options) == AUTOSAM_OK);
  options.provider = "cuda";
  CHECK_FAILS(open(bundle, options), AUTOSAM_INVALID_ARGUMENT, "providers belong to backend");
  options = autosam_test::tensorrt();
  options.precision = "int8";
  CHECK_FAILS(open(bundle, options), AUTOSAM_INVALID_ARGUMENT, "unknown precision; got 'int8'");
  {
    const Setting none("AUTOSAM_FAKE_DEVICES", "0");
    CHECK_FAILS(open(bundle), AUTOSAM_DEVICE_UNAVAILABLE, "'cuda:0' is not there; got 0 usable");
  }
  const Setting broken("AUTOSAM_FAKE_BROKEN", "1");
  CHECK_FAILS(
      open(bundle), AUTOSAM_DEVICE_UNAVAILABLE,
      "'cuda:0' cannot be used; got .*CUDA_ERROR_INVALID_CONTEXT while starting the device");
}

TEST_CASE("modules and libraries that are missing or do not belong together") {
  const TempFolder temp;
  const std::string bundle = with_engines(temp, {EngineSpec()});
  {
    const Setting module("AUTOSAM_TRT_MODULE", "/nowhere");
    CHECK_FAILS(open(bundle), AUTOSAM_BACKEND_UNAVAILABLE,
                "libautosam's TensorRT module cannot be loaded from '/nowhere'");
  }
  {
    const Setting module("AUTOSAM_TRT_MODULE", "");
    CHECK_FAILS(open(bundle), AUTOSAM_BACKEND_UNAVAILABLE,
                "cannot be loaded; got libautosam_trt.so: .*; build libautosam with "
                "-DAUTOSAM_WITH_TENSORRT=ON, or set AUTOSAM_TRT_MODULE");
  }
  {
    const Setting module("AUTOSAM_TRT_MODULE", AUTOSAM_NO_RUNTIME);
    CHECK_FAILS(open(bundle), AUTOSAM_BACKEND_UNAVAILABLE,
                "does not belong to this libautosam; got no module");
  }
  {
    const Setting module("AUTOSAM_TRT_MODULE", AUTOSAM_TRT_MODULE_10);
    autosam_options options = autosam_test::tensorrt();
    CHECK_FAILS(open(bundle, options), AUTOSAM_BACKEND_UNAVAILABLE,
                "TensorRT .* cannot be used; got version 11.1.0.106; expected version 10, whose "
                "headers");
    options.runtime_library = AUTOSAM_NO_RUNTIME;
    CHECK_FAILS(open(bundle, options), AUTOSAM_BACKEND_UNAVAILABLE,
                "is no TensorRT; got a library");
    options.runtime_library = "/nowhere";
    CHECK_FAILS(open(bundle, options), AUTOSAM_BACKEND_UNAVAILABLE,
                "TensorRT cannot be loaded from '/nowhere' .runtime_library.");
    options.runtime_library = AUTOSAM_FAKE_TENSORRT_10;
    CHECK_FAILS(open(bundle, options), AUTOSAM_UNSUPPORTED,
                "built for something else; got one built with tensorrt 11.1.0.106 for sm89 on "
                "linux-x86_64; expected here is tensorrt 10.1.0.106 with sm89 on");
    const TempFolder other;
    EngineSpec engine;
    engine.version = "10.1.0.106";
    CHECK(open(with_engines(other, {engine}), options) == AUTOSAM_OK);
  }
  {
    const Setting module("AUTOSAM_TRT_MODULE", AUTOSAM_TRT_MODULE_RTX);
    autosam_options options = autosam_test::tensorrt();
    options.runtime_library = AUTOSAM_FAKE_TENSORRT_RTX;
    CHECK_FAILS(open(bundle, options), AUTOSAM_BACKEND_UNAVAILABLE,
                "the engine is for TensorRT; got a libautosam_trt.so for TensorRT-RTX; build");
    const TempFolder other;
    EngineSpec engine;
    engine.family = "tensorrt_rtx";
    engine.version = "1.1.0.106";
    engine.platform = "windows-x86_64";  // engines of RTX move
    CHECK(open(with_engines(other, {engine}), options) == AUTOSAM_OK);
  }
  CHECK(open(bundle) == AUTOSAM_OK);
  autosam_options options = autosam_test::tensorrt();
  options.runtime_library = AUTOSAM_FAKE_TENSORRT_10;
  CHECK_FAILS(open(bundle, options), AUTOSAM_BACKEND_UNAVAILABLE,
              "this process uses another TensorRT");
}

TEST_CASE("engines that do not fit: both sides and the command") {
  EngineSpec engine;
  CHECK(open_one(engine) == AUTOSAM_OK);
  engine.version = "11.0.0.1";
  CHECK_FAILS(open_one(engine), AUTOSAM_UNSUPPORTED,
              "got one built with tensorrt 11.0.0.1 for sm89 on linux-x86_64; expected here is "
              "tensorrt 11.1.0.106 with sm89 on linux-x86_64; run: autosam-export engine .* "
              "--engine tensorrt --sm 89");
  engine = {};
  engine.capabilities = "80,90";
  CHECK_FAILS(open_one(engine), AUTOSAM_UNSUPPORTED, "for sm80, sm90 on.*here is .* with sm89");
  engine = {};
  engine.platform = "windows-x86_64";
  CHECK_FAILS(open_one(engine), AUTOSAM_UNSUPPORTED, "on windows-x86_64; expected here is");
  engine = {};
  engine.graph = std::string(64, 'a');
  CHECK_FAILS(open_one(engine), AUTOSAM_UNSUPPORTED,
              "from another graph than the bundle's; got sha256 aaaaaaaaaaaaaaaa...; expected ");
  CHECK_FAILS(
      open(autosam_test::threshold()), AUTOSAM_UNSUPPORTED,
      "the bundle has no engine; run: autosam-export engine .* --engine rtx --sm 89, or use");
}

TEST_CASE("plans that the library refuses, or that contradict the manifest") {
  const TempFolder temp;
  const std::string bundle = with_engines(temp, {EngineSpec()});
  const long before = live();
  CHECK_FAILS(open(bundle, "no-runtime"), AUTOSAM_RUNTIME_ERROR,
              "TensorRT cannot load 'engines/0.engine'; got CUDA driver version is insufficient; "
              "run: autosam-export engine .* --engine tensorrt$");
  CHECK_FAILS(open(bundle, "no-engine"), AUTOSAM_RUNTIME_ERROR, "got the plan is of another day");
  CHECK_FAILS(open(bundle, "full-engine"), AUTOSAM_OUT_OF_MEMORY, "got OutOfMemory");
  CHECK_FAILS(open(bundle, "no-context"), AUTOSAM_RUNTIME_ERROR,
              "TensorRT makes no execution context; got no kernel fits");
  CHECK_FAILS(open(bundle, "full"), AUTOSAM_OUT_OF_MEMORY, "makes no execution context");
  CHECK_FAILS(open(bundle, "profiles"), AUTOSAM_RUNTIME_ERROR,
              "several optimisation profiles; got 2");
  CHECK_FAILS(open(bundle, "profile"), AUTOSAM_RUNTIME_ERROR,
              "profile contradicts its record; got .2, 1, 4, 4.*; expected .1, 1, 4, 4");
  CHECK_FAILS(
      open(bundle, "tensors"), AUTOSAM_RUNTIME_ERROR,
      "contradicts the manifest; got .*out another type labels .-1, -1, -1.*; expected .*out "
      "uint8 labels");
  autosam_test::write(std::filesystem::path(bundle) / "engines" / "0.engine",
                      "B 1 2 5 H 4 8 64 W 4 8 64");
  CHECK_FAILS(open(bundle), AUTOSAM_BAD_BUNDLE, "'engines/0.engine' of .* was altered");
  autosam_options options = autosam_test::tensorrt();
  options.verify = 0;
  CHECK_FAILS(open(bundle, options), AUTOSAM_BAD_BUNDLE,
              "engine 'engines/0.engine' of .* was altered");
  CHECK(live() == before);
}
