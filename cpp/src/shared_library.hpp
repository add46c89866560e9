// Runtimes are opened at run time and never closed: GPU runtimes and thread pools do not survive
// being unloaded.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace autosam::core {

class SharedLibrary {
 public:
  // Look for a runtime's library.
  //
  // asked: file or folder that the host named, or "". variable: environment variable that may name
  // it. names: its file names, best first; beside libautosam, then where the system looks. todo:
  // what to do where there is none; "" is to name it.
  //
  // Throws Error(BACKEND_UNAVAILABLE) with the loader's reason.
  static SharedLibrary find(const std::string& what, const std::string& asked, const char* variable,
                            const std::vector<std::string>& names, const std::string& todo = "");

  // The address of a function, or NULL.
  [[nodiscard]] void* symbol(const char* name) const;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] void* handle() const { return handle_; }

 private:
  SharedLibrary(void* handle, std::string path) : handle_(handle), path_(std::move(path)) {}
  void* handle_;
  std::string path_;
};

// The file of a library that a runtime will open itself; nothing is opened here.
//
// asked, variable: as above; what they name is the only place then. Otherwise beside libautosam,
// then in `folder`. Returns the whole path, or "" where there is none.
std::string find_library_file(const std::string& asked, const char* variable,
                              const std::filesystem::path& folder, const std::string& name);

// CUDA devices by the driver's own library; 0 without a driver. Runtimes cannot be asked: some
// list devices that are not there, some crash.
int cuda_devices();

}  // namespace autosam::core
