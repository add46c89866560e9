#include "bundle.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <system_error>

#include "error.hpp"
#include "files.hpp"
#include "sha256.hpp"

namespace autosam::core {
namespace {

namespace fs = std::filesystem;

// A real manifest has some tens of KiB; a larger one is a mistake or an attack.
constexpr std::size_t kMaxManifestBytes = std::size_t{4} << 20;

std::string quoted(const fs::path& path) {
  return "'" + path.string() + "'";
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// `lib.so`, `lib.so.1.2`, `x.dll`, `run.sh` and the like, whatever the case.
bool is_code(std::string name) {
  for (char& letter : name) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  constexpr std::array kEnds{".dylib", ".dll", ".pyd", ".exe", ".com",
                             ".bat",   ".cmd", ".ps1", ".sh"};
  if (std::any_of(kEnds.begin(), kEnds.end(),
                  [&name](const char* end) { return ends_with(name, end); })) {
    return true;
  }
  // Versions behind `.so` are numbers between dots.
  for (std::size_t end = name.size();;) {
    const std::string front = name.substr(0, end);
    if (ends_with(front, ".so")) return true;
    const std::size_t digits = front.find_last_not_of("0123456789");
    if (digits == std::string::npos || front[digits] != '.' || digits + 1 == end) return false;
    end = digits;
  }
}

[[noreturn]] void unreadable(const fs::path& path, const std::string& why) {
  throw Error(AUTOSAM_BAD_BUNDLE, Message(quoted(path) + " cannot be read")
                                      .got(why)
                                      .todo("check the permissions of the folder"));
}

std::string read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  std::error_code ignored;
  const fs::file_status status = fs::symlink_status(path, ignored);
  if (!fs::is_regular_file(status)) {
    const char* found = fs::is_symlink(status) ? " that is a link" : " in it";
    throw Error(AUTOSAM_BUNDLE_NOT_FOUND,
                Message(quoted(folder) + " is no bundle")
                    .got(std::string(fs::is_symlink(status) ? "" : "no ") + kManifestName + found)
                    .expected("a folder that autosam-export wrote"));
  }
  std::string text;
  std::size_t size = 0;
  const std::string why = read_chunks(path, [&](const char* bytes, std::size_t count) {
    size += count;
    if (size <= kMaxManifestBytes) text.append(bytes, count);
  });
  if (!why.empty()) unreadable(path, why);
  if (size > kMaxManifestBytes) {
    throw Error(AUTOSAM_BAD_BUNDLE, Message(quoted(path) + " is too large")
                                        .got(std::to_string(size) + " bytes")
                                        .expected("at most " + std::to_string(kMaxManifestBytes)));
  }
  return text;
}

std::string member(const Bundle& bundle, const FileRef& ref) {
  return "bundle member '" + ref.path + "' of " + quoted(bundle.folder);
}

void check_member(const Bundle& bundle, const FileRef& ref,
                  const std::map<std::string, std::uint64_t>& members) {
  const std::string what = member(bundle, ref);
  const auto found = members.find(ref.path);
  if (found == members.end()) {
    std::error_code ignored;
    if (fs::is_directory(fs::symlink_status(bundle.file(ref), ignored))) {
      throw Error(AUTOSAM_BAD_BUNDLE, Message(what + " is no regular file").got("a folder"));
    }
    throw Error(AUTOSAM_BAD_BUNDLE,
                Message(what + " is missing").todo("copy the whole folder again"));
  }
  if (found->second != static_cast<std::uint64_t>(ref.bytes)) {
    throw Error(AUTOSAM_BAD_BUNDLE, Message(what + " was altered")
                                        .got(std::to_string(found->second) + " bytes")
                                        .expected(std::to_string(ref.bytes))
                                        .todo("copy or export the bundle again"));
  }
}

}  // namespace

std::map<std::string, std::uint64_t> list_members(const fs::path& folder) {
  using Kind = FolderEntry::Kind;
  std::map<std::string, std::uint64_t> sizes;
  std::vector<std::string> waiting{""};
  while (!waiting.empty()) {
    const std::string prefix = waiting.back();
    waiting.pop_back();
    std::vector<FolderEntry> entries;
    const std::string why = list_folder(folder / prefix, entries);
    if (!why.empty()) unreadable(folder / prefix, why);
    for (const FolderEntry& entry : entries) {
      const std::string path = prefix + entry.name;
      const std::string what = "bundle member '" + path + "' of " + quoted(folder);
      if (entry.kind == Kind::kLink) {
        throw Error(AUTOSAM_BAD_BUNDLE, Message(what + " is a link")
                                            .expected("a regular file")
                                            .todo("copy the file in its place"));
      }
      if (entry.kind == Kind::kOther) {
        throw Error(AUTOSAM_BAD_BUNDLE, Message(what + " is no regular file"));
      }
      if (entry.kind == Kind::kFile && is_code(entry.name)) {
        throw Error(
            AUTOSAM_BAD_BUNDLE,
            Message(what + " is a program or library").expected("data alone").todo("remove it"));
      }
      if (entry.kind == Kind::kFolder) {
        waiting.push_back(path + "/");
      } else {
        sizes[path] = entry.bytes;
      }
    }
  }
  return sizes;
}

Bundle Bundle::open(const fs::path& folder, bool verify) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::none) unreadable(folder, error.message());
  if (!fs::is_directory(status)) {
    throw Error(AUTOSAM_BUNDLE_NOT_FOUND, Message("no bundle at " + quoted(folder))
                                              .got(fs::exists(status) ? "a file" : "nothing")
                                              .expected("a folder NAME.autosam")
                                              .todo("make one with autosam-export"));
  }
  const std::string text = read_manifest(folder);
  Bundle bundle;
  // Golden files are read later, when the host may work in another folder.
  bundle.folder = fs::absolute(folder, error);
  if (error) unreadable(folder, error.message());
  bundle.manifest = parse_manifest(text, (folder / kManifestName).string());
  bundle.manifest_sha256 = sha256(text.data(), text.size());
  const auto members = list_members(folder);
  std::set<std::string> listed{kManifestName};
  for (const FileRef* ref : bundle.manifest.files()) listed.insert(ref->path);
  for (const auto& member : members) {
    if (listed.count(member.first) == 0) {
      bundle.notes.push_back("'" + member.first + "' is not in the manifest");
    }
  }
  for (const FileRef* ref : bundle.manifest.files()) {
    check_member(bundle, *ref, members);
    if (verify) bundle.verify(*ref);
  }
  bundle.verified = verify;
  return bundle;
}

void Bundle::verify(const FileRef& ref) const {
  const std::string what = member(*this, ref);
  Sha256 hash;
  const std::string why = read_chunks(
      file(ref), [&hash](const char* bytes, std::size_t count) { hash.update(bytes, count); });
  if (!why.empty()) {
    throw Error(AUTOSAM_BAD_BUNDLE, Message(what + " cannot be read").got(why));
  }
  const std::string digest = hash.finish();
  if (digest != ref.sha256) {
    throw Error(AUTOSAM_BAD_BUNDLE, Message(what + " was altered")
                                        .got("sha256 " + digest.substr(0, 16) + "...")
                                        .expected(ref.sha256.substr(0, 16) + "...")
                                        .todo("copy or export the bundle again"));
  }
}

std::string Bundle::read(const FileRef& ref, std::size_t most) const {
  std::string content;
  bool fits = true;
  const std::string why = read_chunks(file(ref), [&](const char* bytes, std::size_t count) {
    fits = fits && content.size() + count <= most;
    if (fits) content.append(bytes, count);
  });
  const std::string what = member(*this, ref);
  if (!why.empty()) throw Error(AUTOSAM_BAD_BUNDLE, Message(what + " cannot be read").got(why));
  if (!fits) {
    throw Error(
        AUTOSAM_BAD_BUNDLE,
        Message(what + " is too large").expected("at most " + std::to_string(most) + " bytes"));
  }
  return content;
}

}  // namespace autosam::core
