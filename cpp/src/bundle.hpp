// Opening a bundle: nothing in it is believed before it was checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace autosam::core {

struct Bundle {
  std::filesystem::path folder;
  Manifest manifest;
  std::string manifest_sha256;
  std::vector<std::string> notes;  // what is odd but harmless
  bool verified = false;           // every member was hashed

  // verify: hash every member; otherwise presence and size alone are checked.
  //
  // Throws Error(BUNDLE_NOT_FOUND, BAD_BUNDLE).
  static Bundle open(const std::filesystem::path& folder, bool verify);

  [[nodiscard]] std::filesystem::path file(const FileRef& ref) const { return folder / ref.path; }

  // Hash a member. Throws Error(BAD_BUNDLE): it is not what the manifest binds.
  void verify(const FileRef& ref) const;

  // The whole content of a member of at most `most` bytes. Throws Error(BAD_BUNDLE).
  [[nodiscard]] std::string read(const FileRef& ref, std::size_t most) const;
};

// Bytes by POSIX path of every regular file in a folder; nothing is followed or opened.
//
// Throws Error(BAD_BUNDLE): a link, a device, a pipe, a socket, or a name that a loader or a shell
// would run: a bundle is data, and a host that works inside its folder must not pick up a library.
std::map<std::string, std::uint64_t> list_members(const std::filesystem::path& folder);

}  // namespace autosam::core
