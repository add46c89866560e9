// The rules by which the Python runtime chooses (autosam_deploy/runtime/ort.py), case by case.
#include <doctest/doctest.h>
#include <unistd.h>

#include <bundle.hpp>
#include <cores.hpp>
#include <ort/choice.hpp>

#include "../helpers.hpp"
#include "checks.hpp"

using autosam::core::Bundle;
using autosam::core::choose_artefact;
using autosam::core::choose_provider;
using autosam::core::Manifest;
using autosam::core::Request;
using autosam_test::check_fails;

namespace {

const std::vector<std::string> kCpuBuild{"CPUExecutionProvider"};
const std::vector<std::string> kGpuBuild{"TensorrtExecutionProvider", "CUDAExecutionProvider",
                                         "CPUExecutionProvider"};

Request request(const char* device, const char* provider) {
  Request asked;
  asked.device = device;
  asked.provider = provider;
  return asked;
}

std::string chosen(const char* device, const char* provider, int devices) {
  const auto choice = choose_provider(request(device, provider), kGpuBuild, devices);
  return choice.provider + ":" + std::to_string(choice.index) + " " + choice.reason;
}

void refused(const char* device, const char* provider, int devices, autosam_status status,
             const std::string& expression, const std::vector<std::string>& there = kGpuBuild) {
  check_fails([&] { choose_provider(request(device, provider), there, devices); }, status,
              expression);
}

}  // namespace

TEST_CASE("devices and providers") {
  CHECK(chosen("auto", "auto", 0) == "cpu:0 no CUDA device");
  CHECK(chosen("auto", "auto", 2) == "cuda:0 a CUDA device is there");
  CHECK(choose_provider(request("auto", "auto"), kCpuBuild, 1).reason ==
        "this ONNX Runtime has no CUDA provider");
  CHECK(chosen("cpu", "auto", 2) == "cpu:0 asked for");
  CHECK(chosen("auto", "cpu", 2) == "cpu:0 asked for");
  CHECK(chosen("cuda:1", "auto", 2) == "cuda:1 asked for");
  CHECK(chosen("cuda", "tensorrt", 1) == "tensorrt:0 asked for");
  CHECK(chosen("auto", "tensorrt", 1) == "tensorrt:0 asked for");
  CHECK(chosen("cuda:1", "rtx", 2) == "rtx:1 asked for");
  CHECK(autosam::core::provider_name("rtx") == "NvTensorRTRTXExecutionProvider");
}

TEST_CASE("what is not there is an error that says what is") {
  refused("cuda", "auto", 0, AUTOSAM_DEVICE_UNAVAILABLE,
          "'cuda:0' is not there; got 0 usable CUDA devices; available: cpu;");
  refused("cuda:2", "auto", 2, AUTOSAM_DEVICE_UNAVAILABLE, "available: cpu, cuda:0, cuda:1;");
  refused("cuda", "auto", 1, AUTOSAM_DEVICE_UNAVAILABLE, "has no CUDAExecutionProvider", kCpuBuild);
  refused("auto", "tensorrt", 0, AUTOSAM_DEVICE_UNAVAILABLE, "'cuda:0' is not there");
  refused("auto", "rtx", 0, AUTOSAM_DEVICE_UNAVAILABLE, "'cuda:0' is not there");
  refused("cpu", "rtx", 1, AUTOSAM_INVALID_ARGUMENT, "contradict each other");
  refused("cpu", "cuda", 1, AUTOSAM_INVALID_ARGUMENT, "contradict each other");
  refused("cuda", "cpu", 1, AUTOSAM_INVALID_ARGUMENT, "contradict each other");
  refused("auto", "openvino", 1, AUTOSAM_INVALID_ARGUMENT, "unknown provider; got 'openvino'");
  for (const char* device :
       {"gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CUDA", "", "cuda:99999"}) {
    CAPTURE(device);
    refused(device, "auto", 1, AUTOSAM_INVALID_ARGUMENT, "unknown device");
  }
}

TEST_CASE("graphs") {
  Manifest manifest = Bundle::open(autosam_test::threshold(), false).manifest;
  CHECK(choose_artefact(manifest, "auto", true).reason == "fp32 is the best for a CPU");
  CHECK(choose_artefact(manifest, "auto", false).artefact->precision == "fp16");
  CHECK(choose_artefact(manifest, "fp16", true).reason ==
        "fp16 was asked for, slower than fp32 on a CPU");
  check_fails([&] { choose_artefact(manifest, "bf16", true); }, AUTOSAM_INVALID_ARGUMENT,
              "no bf16 graph; got graphs in fp32, fp16; export again");
  check_fails([&] { choose_artefact(manifest, "int4", true); }, AUTOSAM_INVALID_ARGUMENT,
              "unknown precision; got 'int4'; expected auto, fp32, fp16, bf16 or int8");
  check_fails([&] { choose_artefact(manifest, "int8", true); }, AUTOSAM_INVALID_ARGUMENT,
              "no int8 graph; got graphs in fp32, fp16; add one: autosam-export int8");
  manifest.artefacts.erase(manifest.artefacts.begin() + 1);
  CHECK(choose_artefact(manifest, "auto", true).reason ==
        "fp16, since the bundle has no fp32 graph");
  manifest.artefacts.pop_back();
  check_fails([&] { choose_artefact(manifest, "auto", true); }, AUTOSAM_BAD_BUNDLE,
              "has no ONNX graph");
}

TEST_CASE("int8 graphs are for CPUs, and for those who ask") {
  Manifest manifest = Bundle::open(autosam_test::threshold(), false).manifest;
  for (auto& artefact : manifest.artefacts) {
    if (artefact.kind == "onnx" && artefact.precision == "fp16") artefact.precision = "int8";
  }
  REQUIRE(manifest.find("onnx", "int8") != nullptr);
  CHECK(choose_artefact(manifest, "auto", true).artefact->precision == "fp32");
  CHECK(choose_artefact(manifest, "auto", false).artefact->precision == "fp32");
  CHECK(choose_artefact(manifest, "int8", true).artefact->precision == "int8");
  CHECK(choose_artefact(manifest, "int8", true).reason == "int8 was asked for");
  check_fails([&] { choose_artefact(manifest, "int8", false); }, AUTOSAM_UNSUPPORTED,
              "int8 graphs are for CPUs; got a GPU provider; ask for device cpu");
}

TEST_CASE("usable cores: hardware threads of one core count once, quotas limit") {
  const autosam_test::TempFolder temp;
  const auto cpus = temp.path() / "cpu";
  const auto cgroup = temp.path() / "cgroup";
  std::filesystem::create_directories(cgroup / "cpu");
  const int alone = autosam::core::usable_cores(cpus, cgroup);
  CHECK(alone >= 1);
  for (long cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); ++cpu) {
    const auto folder = cpus / ("cpu" + std::to_string(cpu)) / "topology";
    std::filesystem::create_directories(folder);
    autosam_test::write(folder / "thread_siblings_list", "0-99\n");
  }
  CHECK(autosam::core::usable_cores(cpus, cgroup) == 1);
  autosam_test::write(cgroup / "cpu.max", "50000 100000\n");
  CHECK(autosam::core::usable_cores("nowhere", cgroup) == 1);
  autosam_test::write(cgroup / "cpu.max", "max 100000\n");
  CHECK(autosam::core::usable_cores("nowhere", cgroup) == alone);
  std::filesystem::remove(cgroup / "cpu.max");
  autosam_test::write(cgroup / "cpu" / "cpu.cfs_quota_us", "100000\n");
  autosam_test::write(cgroup / "cpu" / "cpu.cfs_period_us", "100000\n");
  CHECK(autosam::core::usable_cores("nowhere", cgroup) == 1);
}
