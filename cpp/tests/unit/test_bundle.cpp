#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <bundle.hpp>
#include <filesystem>

#include "../helpers.hpp"
#include "checks.hpp"

using autosam::core::Bundle;
using autosam_test::check_fails;
using autosam_test::TempFolder;
namespace fs = std::filesystem;

namespace {

void check_refused(const fs::path& folder, autosam_status status, const std::string& expression,
                   bool verify = true) {
  check_fails([&] { Bundle::open(folder, verify); }, status, expression);
}

void check_bad(const fs::path& folder, const std::string& expression) {
  for (const bool verify : {true, false}) {
    check_refused(folder, AUTOSAM_BAD_BUNDLE, expression, verify);
  }
}

}  // namespace

TEST_CASE("a sound bundle") {
  const Bundle bundle = Bundle::open(autosam_test::threshold(), true);
  CHECK(bundle.manifest.name == "threshold");
  CHECK(bundle.notes.empty());
  CHECK(bundle.manifest_sha256.size() == 64);
  CHECK(bundle.read(bundle.manifest.parity, 1 << 20).size() ==
        static_cast<std::size_t>(bundle.manifest.parity.bytes));
  check_fails([&] { static_cast<void>(bundle.read(bundle.manifest.parity, 10)); },
              AUTOSAM_BAD_BUNDLE, "too large; expected at most 10 bytes");
}

TEST_CASE("no bundle") {
  const TempFolder temp;
  check_refused(temp.path() / "x", AUTOSAM_BUNDLE_NOT_FOUND, "no bundle at .*got nothing");
  check_refused("", AUTOSAM_BUNDLE_NOT_FOUND, "no bundle");
  autosam_test::write(temp.path() / "file", "x");
  check_refused(temp.path() / "file", AUTOSAM_BUNDLE_NOT_FOUND, "got a file; expected a folder");
  check_refused(temp.path(), AUTOSAM_BUNDLE_NOT_FOUND, "is no bundle; got no manifest.json in it");
  fs::create_directory(temp.path() / "manifest.json");
  check_refused(temp.path(), AUTOSAM_BUNDLE_NOT_FOUND, "is no bundle");
  const fs::path linked = temp.bundle();
  fs::rename(linked / "manifest.json", temp.path() / "m.json");
  fs::create_symlink(temp.path() / "m.json", linked / "manifest.json");
  check_refused(linked, AUTOSAM_BUNDLE_NOT_FOUND, "manifest.json that is a link");
}

TEST_CASE("the manifest's size is limited before it is read as JSON") {
  const TempFolder temp;
  const fs::path bundle = temp.bundle();
  autosam_test::write(bundle / "manifest.json", std::string((4 << 20) + 1, ' '));
  check_bad(bundle, "is too large; got 4194305 bytes; expected at most 4194304");
}

TEST_CASE("altered, cut, missing") {
  const TempFolder temp;
  const fs::path bundle = temp.bundle();
  const fs::path graph = bundle / "model.fp32.onnx";
  std::string content = autosam_test::read(graph);
  content[content.size() / 2] = static_cast<char>(content[content.size() / 2] ^ 1);
  autosam_test::write(graph, content);
  check_refused(bundle, AUTOSAM_BAD_BUNDLE, "'model.fp32.onnx' .* was altered; got sha256");
  CHECK(Bundle::open(bundle, false).manifest.name == "threshold");
  autosam_test::write(graph, content.substr(0, 100));
  check_bad(bundle, "was altered; got 100 bytes; expected 4");
  fs::remove(graph);
  check_bad(bundle, "'model.fp32.onnx' .* is missing");
  fs::create_directory(graph);
  check_bad(bundle, "'model.fp32.onnx' .* is no regular file; got a folder");
}

TEST_CASE("links, pipes and sockets anywhere in the folder") {
  const TempFolder temp;
  SUBCASE("a member that is a link") {
    const fs::path bundle = temp.bundle();
    fs::rename(bundle / "parity.json", temp.path() / "parity.json");
    fs::create_symlink(temp.path() / "parity.json", bundle / "parity.json");
    check_bad(bundle, "'parity.json' .* is a link; expected a regular file");
  }
  SUBCASE("a folder that is a link") {
    const fs::path bundle = temp.bundle();
    fs::rename(bundle / "golden", temp.path() / "golden");
    fs::create_directory_symlink(temp.path() / "golden", bundle / "golden");
    check_bad(bundle, "'golden' .* is a link");
  }
  SUBCASE("a stranger that is a link to nothing") {
    const fs::path bundle = temp.bundle();
    fs::create_symlink("nothing", bundle / "golden" / "note");
    check_bad(bundle, "'golden/note' .* is a link");
  }
  SUBCASE("a pipe") {
    const fs::path bundle = temp.bundle();
    REQUIRE(mkfifo((bundle / "pipe").c_str(), 0600) == 0);
    check_bad(bundle, "'pipe' .* is no regular file");
  }
  SUBCASE("the whole bundle behind a link is the user's own choice") {
    const fs::path bundle = temp.bundle();
    fs::create_directory_symlink(bundle, temp.path() / "link");
    CHECK(Bundle::open(temp.path() / "link", true).manifest.name == "threshold");
  }
}

TEST_CASE("programs and libraries") {
  for (const char* name :
       {"libcuda.so", "libcuda.so.1", "x.so.1.22.333", "A.DLL", "run.sh", "b.Exe", "golden/q.dylib",
        "w.pyd", "w.ps1", "w.cmd", "w.bat", "w.com"}) {
    const TempFolder temp;
    const fs::path bundle = temp.bundle();
    autosam_test::write(bundle / name, "x");
    CAPTURE(name);
    check_bad(bundle, "is a program or library; expected data alone");
  }
}

TEST_CASE("other strangers are left alone and named") {
  const TempFolder temp;
  const fs::path bundle = temp.bundle();
  for (const char* name : {".DS_Store", "golden/notes.txt", "x.so.old", "x.so.", "so", "1.so.a1"}) {
    autosam_test::write(bundle / name, "x");
  }
  const Bundle opened = Bundle::open(bundle, true);
  REQUIRE(opened.notes.size() == 6);
  CHECK(opened.notes[0] == "'.DS_Store' is not in the manifest");
}

TEST_CASE("a file that cannot be read") {
  if (geteuid() == 0) return;  // root reads everything
  const TempFolder temp;
  const fs::path bundle = temp.bundle();
  fs::permissions(bundle / "parity.json", fs::perms::none);
  check_refused(bundle, AUTOSAM_BAD_BUNDLE, "'parity.json' .* cannot be read; got Permission");
}

TEST_CASE("a bundle opened by a relative path survives a change of folder") {
  const TempFolder temp;
  temp.bundle();
  const fs::path before = fs::current_path();
  fs::current_path(temp.path());
  const Bundle bundle = Bundle::open("threshold.autosam", true);
  fs::current_path(before);
  CHECK_FALSE(bundle.read(bundle.manifest.parity, 1 << 20).empty());
}
