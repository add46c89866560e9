#include "shared_library.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "error.hpp"
#include "files.hpp"

namespace autosam::core {
namespace {

namespace fs = std::filesystem;

constexpr int kFlags = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE;

// Why the last attempt to open failed; the text is the thread's own in glibc.
std::string loader_message() {
  const char* text = dlerror();  // NOLINT(concurrency-mt-unsafe)
  return text == nullptr ? "no reason" : text;
}

// The file of a loaded library, whatever name it was opened by.
std::string file_of(void* symbol, const std::string& otherwise) {
  Dl_info info{};
  return dladdr(symbol, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : otherwise;
}

fs::path own_folder() {
  const std::string file = file_of(reinterpret_cast<void*>(&own_folder), "");
  std::error_code ignored;
  return file.empty() ? fs::path() : fs::canonical(file, ignored).parent_path();
}

// In a folder the highest version of the first name that is there: wheels carry the library with
// its full version at the end.
fs::path inside(const fs::path& folder, const std::vector<std::string>& names) {
  std::vector<FolderEntry> entries;
  list_folder(folder, entries);
  for (const std::string& name : names) {
    std::string best;
    for (const FolderEntry& entry : entries) {
      if (entry.name == name) return folder / name;
      if (entry.name.rfind(name + ".", 0) == 0) best = std::max(best, entry.name);
    }
    if (!best.empty()) return folder / best;
  }
  return {};
}

void* open(const std::string& path) {
  return dlopen(path.c_str(), kFlags);
}

}  // namespace

SharedLibrary SharedLibrary::find(const std::string& what, const std::string& asked,
                                  const char* variable, const std::vector<std::string>& names,
                                  const std::string& todo) {
  std::string named = asked;
  std::string from = "runtime_library";
  if (named.empty()) {
    const char* value = std::getenv(variable);  // NOLINT(concurrency-mt-unsafe)
    if (value != nullptr) named = value;
    from = variable;
  }
  std::error_code error;
  if (!named.empty()) {
    fs::path path = named;
    if (fs::is_directory(path, error)) path = inside(path, names);
    // ONNX Runtime looks for its providers beside the path it was opened by, and gets that wrong
    // for relative paths.
    const fs::path whole = fs::canonical(path, error);
    void* handle = error ? nullptr : open(whole.string());
    if (handle == nullptr) {
      throw Error(AUTOSAM_BACKEND_UNAVAILABLE,
                  Message(what + " cannot be loaded from '" + named + "' (" + from + ")")
                      .got(error ? error.message() : loader_message())
                      .todo("name the library's file, or the folder that holds it"));
    }
    return {handle, whole.string()};
  }
  std::vector<std::string> candidates;
  const fs::path beside = inside(own_folder(), names);
  if (!beside.empty()) candidates.push_back(beside.string());
  candidates.insert(candidates.end(), names.begin(), names.end());
  std::string why;
  for (const std::string& candidate : candidates) {
    void* handle = open(candidate);
    if (handle != nullptr) return {handle, candidate};
    if (why.empty()) why = loader_message();
  }
  throw Error(AUTOSAM_BACKEND_UNAVAILABLE,
              Message(what + " cannot be loaded")
                  .got(why)
                  .expected(names.front() + " beside libautosam or where the system looks")
                  .todo(todo.empty() ? std::string("set runtime_library or ") + variable : todo));
}

void* SharedLibrary::symbol(const char* name) const {
  return dlsym(handle_, name);
}

std::string find_library_file(const std::string& asked, const char* variable,
                              const std::filesystem::path& folder, const std::string& name) {
  const char* value = std::getenv(variable);  // NOLINT(concurrency-mt-unsafe)
  const std::string named = !asked.empty() ? asked : value != nullptr ? value : "";
  std::error_code error;
  const auto whole = [&](const fs::path& path) {
    const fs::path file = fs::is_directory(path, error) ? inside(path, {name}) : path;
    return file.empty() ? "" : fs::canonical(file, error).string();
  };
  if (!named.empty()) return whole(named);
  for (const fs::path& place : {own_folder(), folder}) {
    std::string found = place.empty() ? "" : whole(place);
    if (!found.empty()) return found;
  }
  return "";
}

int cuda_devices() {
  void* driver = dlopen("libcuda.so.1", kFlags);
  if (driver == nullptr) return 0;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto get_count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  int count = 0;
  if (init == nullptr || get_count == nullptr || init(0) != 0 || get_count(&count) != 0) return 0;
  return std::max(0, count);
}

}  // namespace autosam::core
