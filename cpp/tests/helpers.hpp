// What the tests share: temporary folders, files, the bundles of tests/data.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace autosam_test {

// Why this program's tests cannot run here, or NULL.
const char* missing_requirement();

// Whether a text holds what an expression (ECMAScript, case ignored) describes.
bool matches(const std::string& text, const std::string& expression);

inline std::filesystem::path data() {
  return AUTOSAM_TEST_DATA_DIR;
}
inline std::string threshold() {
  return (data() / "threshold.autosam").string();
}
inline std::string slow() {
  return (data() / "slow.autosam").string();
}

inline std::string read(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream content;
  content << stream.rdbuf();
  return content.str();
}

inline void write(const std::filesystem::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

// A folder that is gone afterwards.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "autosam-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  // A copy of a bundle that the test may change.
  std::filesystem::path bundle(const std::string& name = "threshold.autosam") const {
    std::filesystem::path copy = path_ / name;
    std::filesystem::copy(data() / name, copy, std::filesystem::copy_options::recursive);
    return copy;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace autosam_test
