// Any bytes as a manifest: they are read, or refused with one line; nothing else.
#include <cstdint>
#include <cstdlib>
#include <error.hpp>
#include <manifest.hpp>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const autosam::core::Manifest manifest = autosam::core::parse_manifest(text);
    for (const autosam::core::FileRef* file : manifest.files()) {
      if (file->path.empty() || file->path.find("..") == 0 || file->path[0] == '/') std::abort();
    }
  } catch (const autosam::core::Error& error) {
    if (error.status() != AUTOSAM_BAD_BUNDLE) std::abort();
    if (std::string(error.what()).find('\n') != std::string::npos) std::abort();
  }
  return 0;
}
