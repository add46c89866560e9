// SHA-256 (FIPS 180-4), incremental.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace autosam::core {

class Sha256 {
 public:
  // portable: leave the processor's own SHA instructions aside (tests compare both ways).
  explicit Sha256(bool portable = false) noexcept : portable_(portable) {}
  void update(const void* data, std::size_t size) noexcept;
  // Ends the message; 64 lower-case hexadecimal digits.
  std::string finish();

 private:
  static constexpr std::size_t kBlock = 64;

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, kBlock> pending_{};
  std::size_t pending_size_ = 0;
  std::uint64_t total_ = 0;
  bool portable_;
};

// Hash of `size` bytes.
std::string sha256(const void* data, std::size_t size);

}  // namespace autosam::core
