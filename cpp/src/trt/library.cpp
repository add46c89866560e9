#include "library.hpp"

#include <array>
#include <map>
#include <memory>
#include <mutex>

#include "../backend.hpp"
#include "../shared_library.hpp"
#include "choice.hpp"

namespace autosam::core {
namespace {

const autosam_trt_module& open_module() {
  const SharedLibrary library = SharedLibrary::find(
      "libautosam's TensorRT module", "", "AUTOSAM_TRT_MODULE", {"libautosam_trt.so"},
      "build libautosam with -DAUTOSAM_WITH_TENSORRT=ON, or set AUTOSAM_TRT_MODULE");
  const auto get =
      reinterpret_cast<const autosam_trt_module* (*)()>(library.symbol("autosam_trt_module_get"));
  const autosam_trt_module* module = get == nullptr ? nullptr : get();
  if (module == nullptr || module->abi != AUTOSAM_TRT_MODULE_ABI) {
    throw Error(AUTOSAM_BACKEND_UNAVAILABLE,
                Message("'" + library.path() + "' does not belong to this libautosam")
                    .got(module == nullptr ? "no module" : "another version")
                    .expected("libautosam_trt.so of the same build")
                    .todo("build both with -DAUTOSAM_WITH_TENSORRT=ON"));
  }
  return *module;
}

// NVIDIA's file names carry the major version.
std::string file_name(const autosam_trt_module& module) {
  const bool rtx = std::string(module.family) == "tensorrt_rtx";
  return (rtx ? "libtensorrt_rtx.so." : "libnvinfer.so.") + std::to_string(module.major);
}

}  // namespace

TrtLibrary::TrtLibrary(const autosam_trt_module& module, std::string version, std::string path)
    : module_(&module), version_(std::move(version)), path_(std::move(path)) {}

const TrtLibrary& TrtLibrary::open(const std::string& asked) {
  const autosam_trt_module& module = open_module();
  const std::string name = file_name(module);
  const std::string title = family_title(module.family);
  const SharedLibrary library = SharedLibrary::find(title, asked, "AUTOSAM_TENSORRT_LIB", {name});
  static std::mutex mutex;
  // Never destroyed: sessions may outlive everything else in a process that ends. By module: it is
  // attached to one library.
  static auto* const loaded =
      new std::map<const autosam_trt_module*, std::pair<void*, std::unique_ptr<TrtLibrary>>>();
  const std::lock_guard<std::mutex> lock(mutex);
  auto& [handle, entry] = (*loaded)[&module];
  if (entry != nullptr && handle == library.handle()) return *entry;
  if (entry != nullptr) {
    throw Error(
        AUTOSAM_BACKEND_UNAVAILABLE,
        Message("this process uses another " + title).got(library.path()).expected(entry->path()));
  }
  if (module.attach(library.handle()) == 0) {
    throw Error(AUTOSAM_BACKEND_UNAVAILABLE, Message("'" + library.path() + "' is no " + title)
                                                 .got("a library without its functions")
                                                 .expected(name));
  }
  std::array<std::int32_t, 4> parts{};
  module.version(parts.data());
  std::string version;
  for (const std::int32_t part : parts) {
    version += (version.empty() ? "" : ".") + std::to_string(part);
  }
  // The layout of its objects changes with the major version: another one would crash.
  if (parts[0] != module.major) {
    throw Error(AUTOSAM_BACKEND_UNAVAILABLE,
                Message(title + " '" + library.path() + "' cannot be used")
                    .got("version " + version)
                    .expected("version " + std::to_string(module.major) +
                              ", whose headers libautosam_trt.so was built with")
                    .todo("build libautosam with TENSORRT_ROOT of this version"));
  }
  entry.reset(new TrtLibrary(module, version, library.path()));
  handle = library.handle();
  return *entry;
}

Error TrtLibrary::failure(const std::string& what, std::uint64_t since,
                          const std::string& todo) const {
  std::array<char, 400> text{};
  module_->errors(since, text.data(), text.size());
  const std::string said = text.data();
  const bool full = means_out_of_memory(said) ||
                    said.find("cudaErrorMemoryAllocation") != std::string::npos ||
                    said.find("OutOfMemory") != std::string::npos;
  Message message(what);
  message.got(said.empty() ? "no reason given" : said);
  if (!todo.empty()) message.todo(todo);
  return {full ? AUTOSAM_OUT_OF_MEMORY : AUTOSAM_RUNTIME_ERROR, message};
}

}  // namespace autosam::core
