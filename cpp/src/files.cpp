#include "files.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>
#include <vector>

namespace autosam::core {
namespace {

constexpr std::size_t kChunk = std::size_t{1} << 20;

class Descriptor {
 public:
  // O_NONBLOCK: opening a pipe that took the place of a file must not wait for a writer.
  explicit Descriptor(const char* path)
      : number_(::open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int number() const { return number_; }

 private:
  int number_;
};

std::string reason(int number) {
  return std::generic_category().message(number);
}

}  // namespace

std::string read_chunks(const std::filesystem::path& path,
                        const std::function<void(const char*, std::size_t)>& take) {
  const Descriptor file(path.c_str());
  if (file.number() < 0) return errno == ELOOP ? "a link" : reason(errno);
  struct stat status {};
  if (::fstat(file.number(), &status) != 0) return reason(errno);
  if (!S_ISREG(status.st_mode)) return "no regular file";
  std::vector<char> chunk(kChunk);
  for (;;) {
    const ssize_t count = ::read(file.number(), chunk.data(), chunk.size());
    if (count == 0) return "";
    if (count > 0) {
      take(chunk.data(), static_cast<std::size_t>(count));
    } else if (errno != EINTR) {
      return reason(errno);
    }
  }
}

std::string list_folder(const std::filesystem::path& path, std::vector<FolderEntry>& entries) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), &::closedir);
  if (folder == nullptr) return reason(errno);
  for (;;) {
    errno = 0;
    // NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this call's own
    const dirent* const found = ::readdir(folder.get());
    if (found == nullptr) return errno == 0 ? "" : reason(errno);
    FolderEntry entry;
    entry.name = static_cast<const char*>(found->d_name);
    if (entry.name == "." || entry.name == "..") continue;
    struct stat status {};
    if (::fstatat(::dirfd(folder.get()), entry.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      return reason(errno);
    }
    if (S_ISREG(status.st_mode)) entry.kind = FolderEntry::Kind::kFile;
    if (S_ISDIR(status.st_mode)) entry.kind = FolderEntry::Kind::kFolder;
    if (S_ISLNK(status.st_mode)) entry.kind = FolderEntry::Kind::kLink;
    entry.bytes = static_cast<std::uint64_t>(status.st_size);
    entries.push_back(std::move(entry));
  }
}

}  // namespace autosam::core
