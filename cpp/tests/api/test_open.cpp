#include <unistd.h>

#include <cstring>
#include <fstream>
#include <set>
#include <thread>
#include <vector>

#include "checks.hpp"

using autosam_test::cpu_options;
using autosam_test::Opened;
using autosam_test::TempFolder;
using autosam_test::threshold;

namespace {

autosam_status open(const std::string& path, const autosam_options& options) {
  autosam_session* session = reinterpret_cast<autosam_session*>(8);
  const autosam_status status = autosam_session_create(path.c_str(), &options, &session);
  CHECK((session != nullptr) == (status == AUTOSAM_OK));
  autosam_session_destroy(session);
  return status;
}

autosam_options with_library(const char* path) {
  autosam_options options = cpu_options();
  options.runtime_library = path;
  return options;
}

void replace(const std::filesystem::path& file, const std::string& from, const std::string& to) {
  std::string text = autosam_test::read(file);
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  autosam_test::write(file, text.replace(at, from.size(), to));
}

}  // namespace

TEST_CASE("versions and names") {
  CHECK(autosam_abi_version() == AUTOSAM_ABI_VERSION);
  CHECK(autosam_test::matches(autosam_version(), "^[0-9]+\\.[0-9]+\\.[0-9]+$"));
  std::set<std::string> names;
  for (int status = -1; status <= 100; ++status) names.insert(autosam_status_name(status));
  CHECK(names.size() == 13);
  CHECK(std::string(autosam_status_name(AUTOSAM_CANCELLED)) == "AUTOSAM_CANCELLED");
  CHECK(std::string(autosam_status_name(-5)) == "unknown status");
}

TEST_CASE("what is in use") {
  const Opened session;
  autosam_info info{};
  info.struct_size = sizeof info;
  REQUIRE(autosam_session_info(session, &info) == AUTOSAM_OK);
  CHECK(info.struct_size == sizeof info);
  CHECK(std::string(info.name) == "threshold");
  CHECK(std::string(info.intended_use) == "Tests of hosts alone.");
  CHECK(std::string(info.backend) == "onnxruntime");
  CHECK(std::string(info.device) == "cpu");
  CHECK(std::string(info.provider) == "CPUExecutionProvider");
  CHECK(std::string(info.precision) == "fp32");
  CHECK(std::string(info.artefact) == "model.fp32.onnx");
  CHECK(std::string(info.reason) == "asked for; fp32 is the best for a CPU");
  CHECK(std::string(info.runtime_version).rfind("1.", 0) == 0);
  CHECK(std::string(info.slice_axis) == "k");
  CHECK(info.trained == 0);
  CHECK(info.fell_back == 0);
  CHECK(info.threads == 1);
  CHECK(info.num_classes == 3);
  CHECK(info.has_logits == 1);
  CHECK(info.image_height == 256);
  CHECK(info.auto_batch == 16);
  CHECK(info.largest_batch == 0);
  const char* name = nullptr;
  const char* colour = nullptr;
  REQUIRE(autosam_session_class(session, 1, &name, &colour) == AUTOSAM_OK);
  CHECK(std::string(name) == "body");
  CHECK(std::string(colour) == "#e69f00");
  CHECK(autosam_session_class(session, 2, nullptr, nullptr) == AUTOSAM_OK);
  for (const int label : {-1, 3, 255}) {
    CHECK_FAILS(autosam_session_class(session, label, &name, &colour), AUTOSAM_INVALID_ARGUMENT,
                "label; got " + std::to_string(label) + "; expected 0 to 2");
  }
}

TEST_CASE("NULL arguments") {
  autosam_session* session = nullptr;
  CHECK_FAILS(autosam_session_create(nullptr, nullptr, &session), AUTOSAM_INVALID_ARGUMENT,
              "'path'; got NULL");
  CHECK_FAILS(autosam_session_create("x", nullptr, nullptr), AUTOSAM_INVALID_ARGUMENT,
              "'session'; got NULL");
  CHECK_FAILS(autosam_session_info(nullptr, nullptr), AUTOSAM_INVALID_ARGUMENT,
              "session; got NULL");
  CHECK_FAILS(autosam_session_info(Opened(), nullptr), AUTOSAM_INVALID_ARGUMENT,
              "'info'; got NULL");
  CHECK_FAILS(autosam_session_class(nullptr, 0, nullptr, nullptr), AUTOSAM_INVALID_ARGUMENT,
              "NULL");
  CHECK_FAILS(autosam_run(nullptr, nullptr, nullptr, nullptr, nullptr), AUTOSAM_INVALID_ARGUMENT,
              "session; got NULL");
  CHECK_FAILS(autosam_run(Opened(), nullptr, nullptr, nullptr, nullptr), AUTOSAM_INVALID_ARGUMENT,
              "nothing to compute");
  CHECK_FAILS(autosam_session_warmup(nullptr, 1, 1, 1), AUTOSAM_INVALID_ARGUMENT, "NULL");
  CHECK_FAILS(autosam_session_selftest(nullptr, nullptr), AUTOSAM_INVALID_ARGUMENT, "NULL");
  CHECK_FAILS(autosam_token_create(nullptr), AUTOSAM_INVALID_ARGUMENT, "'token'; got NULL");
  autosam_options_init(nullptr);
  autosam_run_options_init(nullptr);
  autosam_session_destroy(nullptr);
  autosam_token_destroy(nullptr);
  autosam_token_cancel(nullptr);
  autosam_token_reset(nullptr);
}

TEST_CASE("structs of other sizes") {
  autosam_options options = cpu_options();
  for (const std::size_t size :
       {std::size_t{0}, sizeof options - 1, std::size_t{4097}, std::size_t{0} - 1}) {
    options.struct_size = size;
    CHECK_FAILS(open(threshold(), options), AUTOSAM_INVALID_ARGUMENT,
                "struct_size of autosam_options; got ");
  }
  // As a program of a later version would hand it over.
  struct {
    autosam_options options;
    std::int64_t more[3];
  } later{cpu_options(), {0, 0, 0}};
  later.options.struct_size = sizeof later;
  CHECK(open(threshold(), later.options) == AUTOSAM_OK);
  later.more[2] = 1;
  CHECK_FAILS(open(threshold(), later.options), AUTOSAM_INVALID_ARGUMENT,
              "autosam_options of a newer version");
  autosam_info info{};
  CHECK_FAILS(autosam_session_info(Opened(), &info), AUTOSAM_INVALID_ARGUMENT,
              "struct_size of autosam_info; got 0");
  autosam_selftest test{};
  CHECK_FAILS(autosam_session_selftest(Opened(), &test), AUTOSAM_INVALID_ARGUMENT,
              "struct_size of autosam_selftest");
}

TEST_CASE("sessions and tokens that are gone, or never were") {
  autosam_session* session = nullptr;
  const autosam_options options = cpu_options();
  REQUIRE(autosam_session_create(threshold().c_str(), &options, &session) == AUTOSAM_OK);
  autosam_session_destroy(session);
  autosam_session_destroy(session);
  autosam_info info{};
  info.struct_size = sizeof info;
  const char* const gone = "session; got one that was destroyed or never made";
  CHECK_FAILS(autosam_session_info(session, &info), AUTOSAM_INVALID_ARGUMENT, gone);
  auto* const invented = reinterpret_cast<autosam_session*>(&info);
  CHECK_FAILS(autosam_session_selftest(invented, nullptr), AUTOSAM_INVALID_ARGUMENT, gone);
  autosam_session_destroy(invented);
  autosam_token* token = nullptr;
  REQUIRE(autosam_token_create(&token) == AUTOSAM_OK);
  autosam_token_destroy(token);
  autosam_token_destroy(token);
  autosam_token_cancel(token);
  autosam_token_reset(token);
  autosam_run_options run;
  autosam_run_options_init(&run);
  run.token = token;
  CHECK_FAILS(autosam_run(Opened(), nullptr, nullptr, nullptr, &run), AUTOSAM_INVALID_ARGUMENT,
              "token; got one that was destroyed");
}

TEST_CASE("words that are unknown or contradict each other") {
  autosam_options options = cpu_options();
  options.backend = "tensorflow";
  CHECK_FAILS(
      open(threshold(), options), AUTOSAM_INVALID_ARGUMENT,
      "unknown backend; got 'tensorflow'; expected auto | onnxruntime | openvino | tensorrt");
  options = cpu_options();
  options.device = "gpu";
  CHECK_FAILS(open(threshold(), options), AUTOSAM_INVALID_ARGUMENT, "unknown device; got 'gpu'");
  options = cpu_options();
  options.precision = "int4";
  CHECK_FAILS(open(threshold(), options), AUTOSAM_INVALID_ARGUMENT, "unknown precision");
  options.precision = "bf16";
  CHECK_FAILS(open(threshold(), options), AUTOSAM_INVALID_ARGUMENT, "has no bf16 graph");
  options = cpu_options();
  options.provider = "cuda";
  CHECK_FAILS(open(threshold(), options), AUTOSAM_INVALID_ARGUMENT, "contradict each other");
  for (const int threads : {-1, 5000, INT32_MIN}) {
    options = cpu_options();
    options.threads = threads;
    CHECK_FAILS(open(threshold(), options), AUTOSAM_INVALID_ARGUMENT, "threads; got ");
  }
  options = cpu_options();
  options.backend = options.provider = options.precision = nullptr;
  CHECK(open(threshold(), options) == AUTOSAM_OK);
}

TEST_CASE("bundles that are missing, altered or contradict their graph") {
  CHECK_FAILS(open("/no/such/folder", cpu_options()), AUTOSAM_BUNDLE_NOT_FOUND,
              "no bundle at '/no/such/folder'; got nothing");
  const TempFolder temp;
  const auto bundle = temp.bundle();
  autosam_options options = cpu_options();
  options.verify = 0;
  SUBCASE("a graph that is none") {
    const auto graph = bundle / "model.fp32.onnx";
    autosam_test::write(graph, std::string(autosam_test::read(graph).size(), 'x'));
    CHECK_FAILS(open(bundle, cpu_options()), AUTOSAM_BAD_BUNDLE, "was altered; got sha256");
    CHECK_FAILS(open(bundle, options), AUTOSAM_RUNTIME_ERROR,
                "ONNX Runtime cannot load 'model.fp32.onnx'; got ");
  }
  SUBCASE("a graph that is newer than the runtime") {
    const auto graph = bundle / "model.fp32.onnx";
    std::string bytes = autosam_test::read(graph);
    REQUIRE(bytes.substr(bytes.size() - 2) == "\x10\x14");  // opset_import: version 20
    bytes.back() = '\x63';
    autosam_test::write(graph, bytes);
    CHECK_FAILS(open(bundle, options), AUTOSAM_RUNTIME_ERROR,
                "'model.fp32.onnx': it has no operators of that opset; got ONNX Runtime 1.*; "
                "expected 1.23 or newer for opset 23; .*--lowering explicit");
  }
  SUBCASE("a graph of another number of classes") {
    replace(bundle / "manifest.json", "\"num_classes\": 3", "\"num_classes\": 2");
    replace(bundle / "manifest.json",
            ",\n      {\n        \"name\": \"bone\",\n        \"colour\": \"#56b4e9\"\n      }",
            "");
    replace(bundle / "manifest.json", "3,\n        \"H\"", "2,\n        \"H\"");
    CHECK_FAILS(open(bundle, options), AUTOSAM_RUNTIME_ERROR,
                "the graph contradicts the manifest; got uint8 labels .B, H, W., float32 logits "
                ".B, 3, H, W.; expected .*B, 2, H, W");
  }
}

TEST_CASE("runtimes that are missing, broken, too old or of another machine") {
  const TempFolder temp;
  const std::string missing = (temp.path() / "libonnxruntime.so").string();
  CHECK_FAILS(open(threshold(), with_library(missing.c_str())), AUTOSAM_BACKEND_UNAVAILABLE,
              "ONNX Runtime cannot be loaded from '.*' .runtime_library.; got No such file");
  CHECK_FAILS(open(threshold(), with_library(temp.path().c_str())), AUTOSAM_BACKEND_UNAVAILABLE,
              "cannot be loaded");
  autosam_test::write(missing, "no library");
  CHECK_FAILS(open(threshold(), with_library(missing.c_str())), AUTOSAM_BACKEND_UNAVAILABLE,
              "file too short");
  std::string other = autosam_test::read(AUTOSAM_OLD_RUNTIME);
  REQUIRE(other.size() > 1000);
  other[18] = '\x16';  // e_machine: IBM S/390
  autosam_test::write(missing, other);
  CHECK_FAILS(open(threshold(), with_library(missing.c_str())), AUTOSAM_BACKEND_UNAVAILABLE,
              "cannot open shared object file|wrong ELF");
  CHECK_FAILS(open(threshold(), with_library(AUTOSAM_OLD_RUNTIME)), AUTOSAM_BACKEND_UNAVAILABLE,
              "cannot be used; got version 1.17.3; expected 1.20 or later");
  CHECK_FAILS(open(threshold(), with_library(AUTOSAM_NO_RUNTIME)), AUTOSAM_BACKEND_UNAVAILABLE,
              "is no ONNX Runtime; got a library without OrtGetApiBase");
  // After all that the right one still works.
  CHECK(open(threshold(), cpu_options()) == AUTOSAM_OK);
}

TEST_CASE("a GPU that was asked for and is not there") {
  const std::string driver =
      std::getenv("AUTOSAM_TEST_DRIVER") == nullptr ? "" : std::getenv("AUTOSAM_TEST_DRIVER");
  if (driver.empty()) return;  // this machine may have one
  autosam_options options = cpu_options();
  options.device = "cuda";
  const bool gpu_build = [&] {
    const autosam_status status = open(threshold(), options);
    CHECK(status == AUTOSAM_DEVICE_UNAVAILABLE);
    return std::string(autosam_last_error()).find("has no CUDA") == std::string::npos;
  }();
  autosam_info info{};
  info.struct_size = sizeof info;
  options.device = "auto";
  const Opened session(threshold(), options);
  REQUIRE(autosam_session_info(session, &info) == AUTOSAM_OK);
  CHECK(std::string(info.device) == "cpu");
  if (!gpu_build) return;
  if (driver == "one-device") {
    // The driver claims a device; the provider's own libraries find out.
    CHECK(info.fell_back == 1);
    CHECK(std::string(info.reason).find("the GPU is not usable (") == 0);
    return;
  }
  CHECK(info.fell_back == 0);
  CHECK(std::string(info.reason) == "no CUDA device; fp32 is the best for a CPU");
  options.device = "cuda:3";
  CHECK_FAILS(open(threshold(), options), AUTOSAM_DEVICE_UNAVAILABLE, "'cuda:3' is not there");
  options.provider = "tensorrt";
  CHECK_FAILS(open(threshold(), options), AUTOSAM_DEVICE_UNAVAILABLE, "is not there|has no");
}

TEST_CASE("the log") {
  std::vector<std::string> lines;
  autosam_options options = cpu_options();
  options.log_user = &lines;
  options.log = [](std::int32_t level, const char* text, void* user) {
    static_cast<std::vector<std::string>*>(user)->push_back(std::to_string(level) + " " + text);
  };
  const TempFolder temp;
  const auto bundle = temp.bundle();
  autosam_test::write(bundle / "notes.txt", "x");
  options.precision = "fp16";
  const Opened session(bundle.string(), options);
  REQUIRE(lines.size() == 3);
  CHECK(lines[0].find("'notes.txt' is not in the manifest; it is ignored") != std::string::npos);
  CHECK(lines[1] == "2 model.fp16.onnx on a CPU is slower than fp32 and takes more memory");
  CHECK(lines[2].find("1 opened 'threshold' with onnxruntime 1.") == 0);
}

TEST_CASE("nothing is printed, also when everything goes wrong") {
  const TempFolder temp;
  const std::string file = (temp.path() / "printed").string();
  std::fflush(stdout);
  const int out = dup(1);
  const int err = dup(2);
  REQUIRE(std::freopen(file.c_str(), "w", stdout) != nullptr);
  dup2(1, 2);
  autosam_options options = cpu_options();
  options.verify = 0;
  const auto bundle = temp.bundle();
  const auto graph = bundle / "model.fp32.onnx";
  autosam_test::write(graph, std::string(autosam_test::read(graph).size(), 'x'));
  autosam_session* session = nullptr;
  int failed = 0;
  failed += autosam_session_create(bundle.c_str(), &options, &session) != AUTOSAM_OK ? 1 : 0;
  options.device = "cuda";
  failed += autosam_session_create(threshold().c_str(), &options, &session) != AUTOSAM_OK ? 1 : 0;
  options = with_library(AUTOSAM_OLD_RUNTIME);
  failed += autosam_session_create(threshold().c_str(), &options, &session) != AUTOSAM_OK ? 1 : 0;
  std::fflush(stdout);
  dup2(out, 1);
  dup2(err, 2);
  close(out);
  close(err);
  CHECK(failed >= 2);
  CHECK(autosam_test::read(file).empty());
}
