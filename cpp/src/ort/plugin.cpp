#include "plugin.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>
#include <vector>

#include "../files.hpp"
#include "../shared_library.hpp"
#include "choice.hpp"

struct OrtEpDevice;

namespace autosam::core {
namespace {

constexpr const char* kName = "libonnxruntime_providers_nv_tensorrt_rtx.so";

// Places in ONNX Runtime's table, which only grows at its end. They are newer than the oldest
// header that this is compiled with.
enum Entry : std::size_t {
  kRegister = 301,
  kGetDevices = 303,
  kAppend = 304,
  kDeviceName = 312,
};
#if ORT_API_VERSION >= 22
static_assert(offsetof(OrtApi, RegisterExecutionProviderLibrary) == kRegister * sizeof(void*));
static_assert(offsetof(OrtApi, GetEpDevices) == kGetDevices * sizeof(void*));
static_assert(offsetof(OrtApi, SessionOptionsAppendExecutionProvider_V2) ==
              kAppend * sizeof(void*));
static_assert(offsetof(OrtApi, EpDevice_EpName) == kDeviceName * sizeof(void*));
#endif

template <class Function>
Function entry(const OrtApi& table, Entry place) {
  Function found = nullptr;
  std::memcpy(&found, reinterpret_cast<const char*>(&table) + place * sizeof(void*), sizeof found);
  return found;
}

using Register = OrtStatus*(ORT_API_CALL*)(OrtEnv*, const char*, const char*);
using GetDevices = OrtStatus*(ORT_API_CALL*)(const OrtEnv*, const OrtEpDevice* const**,
                                             std::size_t*);
using Append = OrtStatus*(ORT_API_CALL*)(OrtSessionOptions*, OrtEnv*, const OrtEpDevice* const*,
                                         std::size_t, const char* const*, const char* const*,
                                         std::size_t);
using DeviceName = const char*(ORT_API_CALL*)(const OrtEpDevice*);

// What the provider needs lies beside it, and it has no search path of its own. If the system has
// libraries of these names, it takes those.
void preload(const std::filesystem::path& folder) {
  std::vector<FolderEntry> entries;
  static_cast<void>(list_folder(folder, entries));
  for (const char* name :
       {"libcudart.so.", "libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so."}) {
    for (const FolderEntry& one : entries) {
      if (one.name.rfind(name, 0) != 0) continue;
      static_cast<void>(dlopen((folder / one.name).c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE));
    }
  }
}

void register_once(const OrtLibrary& ort, const OrtApi& table, const std::string& plugin) {
  static std::mutex mutex;
  static auto* const done = new std::set<std::pair<const OrtLibrary*, std::string>>();
  const std::lock_guard<std::mutex> lock(mutex);
  if (done->count({&ort, plugin}) == 1) return;
  preload(std::filesystem::path(plugin).parent_path());
  const std::string name = provider_name("rtx");
  ort.check(entry<Register>(table, kRegister)(&ort.env(), name.c_str(), plugin.c_str()),
            "ONNX Runtime cannot load " + name, AUTOSAM_DEVICE_UNAVAILABLE);
  done->emplace(&ort, plugin);
}

}  // namespace

std::string find_rtx_plugin(const OrtLibrary& ort, const std::string& asked) {
  if (ort.plugin_table() == nullptr) {
    throw Error(AUTOSAM_BACKEND_UNAVAILABLE, Message("this ONNX Runtime takes no provider plugins")
                                                 .got("version " + ort.version())
                                                 .expected("1.23 or later, for provider rtx"));
  }
  std::string found = find_library_file(asked, "AUTOSAM_RTX_PROVIDER_LIB",
                                        std::filesystem::path(ort.path()).parent_path(), kName);
  if (!found.empty()) return found;
  throw Error(AUTOSAM_BACKEND_UNAVAILABLE,
              Message("provider rtx needs its library")
                  .got(asked.empty() ? "none" : "none at '" + asked + "'")
                  .expected(std::string(kName) + " beside libautosam or ONNX Runtime")
                  .todo("take it from the Python package onnxruntime-ep-nv-tensorrt-rtx-cu13, and "
                        "set provider_library or AUTOSAM_RTX_PROVIDER_LIB"));
}

void append_rtx(const OrtLibrary& ort, OrtSessionOptions* options, const std::string& plugin,
                int index) {
  const OrtApi& table = *ort.plugin_table();
  const std::string name = provider_name("rtx");
  register_once(ort, table, plugin);
  const OrtEpDevice* const* all = nullptr;
  std::size_t count = 0;
  ort.check(entry<GetDevices>(table, kGetDevices)(&ort.env(), &all, &count),
            "ONNX Runtime cannot list devices", AUTOSAM_DEVICE_UNAVAILABLE);
  std::vector<const OrtEpDevice*> devices;
  std::copy_if(all, all + count, std::back_inserter(devices), [&](const OrtEpDevice* device) {
    return name == entry<DeviceName>(table, kDeviceName)(device);
  });
  if (static_cast<std::size_t>(index) >= devices.size()) {
    throw Error(AUTOSAM_DEVICE_UNAVAILABLE,
                Message(name + " knows no device 'cuda:" + std::to_string(index) + "'")
                    .got(std::to_string(devices.size()) + " devices")
                    .expected("a GeForce or RTX card of a supported generation")
                    .todo("use provider cuda"));
  }
  // What it does not take goes to the CPU.
  const OrtEpDevice* const chosen = devices[static_cast<std::size_t>(index)];
  ort.check(entry<Append>(table, kAppend)(options, &ort.env(), &chosen, 1, nullptr, nullptr, 0),
            "ONNX Runtime cannot use " + name, AUTOSAM_DEVICE_UNAVAILABLE);
}

}  // namespace autosam::core
