// Reading files and folders without following links at the last step.
//
// std::filesystem lists folders too, but GNU's ends the process when memory runs out while it does.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace autosam::core {

// Hands the bytes of a regular file over, chunk by chunk. Returns "" or why it cannot be read.
std::string read_chunks(const std::filesystem::path& path,
                        const std::function<void(const char*, std::size_t)>& take);

struct FolderEntry {
  enum class Kind { kFile, kFolder, kLink, kOther };
  std::string name;
  Kind kind = Kind::kOther;
  std::uint64_t bytes = 0;  // of a file
};

// Lists a folder, in the file system's order. Returns "" or why it cannot be read.
std::string list_folder(const std::filesystem::path& path, std::vector<FolderEntry>& entries);

}  // namespace autosam::core
