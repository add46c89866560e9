// Against the examples of FIPS 180-4 (NIST's "SHA Test Vectors"), and the two ways against each
// other.
#include <doctest/doctest.h>

#include <sha256.hpp>
#include <string>
#include <vector>

using autosam::core::Sha256;
using autosam::core::sha256;

namespace {

struct Vector {
  std::string message;
  const char* digest;
};

std::string digest_of(const std::string& message, bool portable, std::size_t step) {
  Sha256 hash(portable);
  for (std::size_t at = 0; at < message.size(); at += step) {
    hash.update(message.data() + at, std::min(step, message.size() - at));
  }
  return hash.finish();
}

}  // namespace

TEST_CASE("published examples") {
  const std::vector<Vector> vectors{
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmno"
       "ijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {std::string(1'000'000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
  for (const Vector& vector : vectors) {
    CHECK(sha256(vector.message.data(), vector.message.size()) == vector.digest);
    for (const bool portable : {false, true}) {
      CHECK(digest_of(vector.message, portable, 1000) == vector.digest);
    }
  }
}

TEST_CASE("every length around a block, in pieces of any size, both ways") {
  std::string message;
  for (int length = 0; length < 200; ++length) {
    const std::string whole = sha256(message.data(), message.size());
    for (const std::size_t step : {1U, 7U, 63U, 64U, 65U}) {
      CHECK(digest_of(message, true, step) == whole);
      CHECK(digest_of(message, false, step) == whole);
    }
    message += static_cast<char>(length * 37);
  }
}
