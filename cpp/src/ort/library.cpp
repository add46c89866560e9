#include "library.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>

#include "../backend.hpp"
#include "../shared_library.hpp"

namespace autosam::core {
namespace {

constexpr std::uint64_t kFloor = 20;
// Entries of the table are never moved, only added. Asking a runtime for more than it has gives no
// table and a line on the user's screen, so at most what the code here uses is asked for.
constexpr std::uint64_t kMost = 21;
// From here on there are plugins of providers.
constexpr std::uint64_t kPlugins = 23;

// What the runtime logs as an error it also returns; nothing goes to the user's screen.
void ORT_API_CALL swallow(void* /*user*/, OrtLoggingLevel /*level*/, const char* /*category*/,
                          const char* /*id*/, const char* /*location*/, const char* /*text*/) {}

std::uint64_t minor_of(const std::string& version) {
  const std::size_t dot = version.find('.');
  return dot == std::string::npos ? 0 : std::strtoul(version.c_str() + dot + 1, nullptr, 10);
}

// Without the runtime's own source places before it, and no page of them behind it.
std::string shortened(std::string text) {
  constexpr std::string_view kMark = "[ONNXRuntimeError] : ";
  constexpr std::size_t kLongest = 400;
  const std::size_t mark = text.rfind(kMark);
  if (mark != std::string::npos) text.erase(0, mark + kMark.size());
  if (text.size() > kLongest) text.resize(kLongest);
  return text;
}

}  // namespace

OrtLibrary::OrtLibrary(const OrtApi* api, const OrtApi* plugin_table, std::string version,
                       std::string path)
    : api_(api), plugin_table_(plugin_table), version_(std::move(version)), path_(std::move(path)) {
  check(
      api_->CreateEnvWithCustomLogger(swallow, nullptr, ORT_LOGGING_LEVEL_FATAL, "autosam", &env_),
      "ONNX Runtime cannot start", AUTOSAM_BACKEND_UNAVAILABLE);
  // Slices of patients and telemetry do not go together.
  check(api_->DisableTelemetryEvents(env_), "ONNX Runtime's telemetry cannot be turned off");
}

const OrtLibrary& OrtLibrary::open(const std::string& asked) {
  const SharedLibrary library =
      SharedLibrary::find("ONNX Runtime", asked, "AUTOSAM_ONNXRUNTIME_LIB",
                          {"libonnxruntime.so.1", "libonnxruntime.so"});
  static std::mutex mutex;
  // Never destroyed: sessions may outlive everything else in a process that ends.
  static auto* const loaded = new std::map<void*, std::unique_ptr<OrtLibrary>>();
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<OrtLibrary>& entry = (*loaded)[library.handle()];
  if (entry != nullptr) return *entry;
  const auto get_base =
      reinterpret_cast<const OrtApiBase*(ORT_API_CALL*)()>(library.symbol("OrtGetApiBase"));
  if (get_base == nullptr) {
    throw Error(AUTOSAM_BACKEND_UNAVAILABLE, Message("'" + library.path() + "' is no ONNX Runtime")
                                                 .got("a library without OrtGetApiBase")
                                                 .expected("libonnxruntime.so of 1.20 or later"));
  }
  const OrtApiBase* base = get_base();
  const std::string version = base->GetVersionString();
  const std::uint64_t have = minor_of(version);
  const OrtApi* api = nullptr;
  if (version.rfind("1.", 0) == 0 && have >= kFloor) {
    api = base->GetApi(static_cast<std::uint32_t>(
        std::min({have, kMost, static_cast<std::uint64_t>(ORT_API_VERSION)})));
  }
  if (api == nullptr) {
    throw Error(AUTOSAM_BACKEND_UNAVAILABLE,
                Message("ONNX Runtime '" + library.path() + "' cannot be used")
                    .got("version " + version)
                    .expected("1.20 or later, below 2"));
  }
  const OrtApi* plugins = have >= kPlugins ? base->GetApi(kPlugins) : nullptr;
  entry.reset(new OrtLibrary(api, plugins, version, library.path()));
  return *entry;
}

std::vector<std::string> OrtLibrary::providers() const {
  char** names = nullptr;
  int count = 0;
  check(api_->GetAvailableProviders(&names, &count), "ONNX Runtime's providers cannot be listed");
  const auto release = [this, count](char** list) {
    OrtStatus* status = api_->ReleaseAvailableProviders(list, count);
    if (status != nullptr) api_->ReleaseStatus(status);
  };
  const std::unique_ptr<char*, decltype(release)> owned(names, release);
  return {names, names + count};
}

void OrtLibrary::check(OrtStatus* status, const std::string& what, autosam_status kind) const {
  if (status == nullptr) return;
  const std::unique_ptr<OrtStatus, decltype(api_->ReleaseStatus)> owned(status,
                                                                        api_->ReleaseStatus);
  const std::string text = api_->GetErrorMessage(status);
  if (means_out_of_memory(text)) {
    throw Error(AUTOSAM_OUT_OF_MEMORY, Message("the batch does not fit into memory")
                                           .got(shortened(text))
                                           .todo("use a smaller max_batch"));
  }
  // Its words for a graph of an opset that it does not know; the path is no part of them.
  if (text.find("official support for domain") != std::string::npos) {
    throw Error(kind, Message(what + ": it has no operators of that opset")
                          .got("ONNX Runtime " + version_)
                          .expected("1.23 or newer for opset 23")
                          .todo("use a newer one, or export again with --lowering explicit"));
  }
  Message message(what);
  message.got(shortened(text));
  if (kind == AUTOSAM_DEVICE_UNAVAILABLE) {
    message.todo("install the CUDA and cuDNN libraries it needs, or ask for device cpu");
  }
  throw Error(kind, message);
}

}  // namespace autosam::core
