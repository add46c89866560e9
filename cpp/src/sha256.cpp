#include "sha256.hpp"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#define AUTOSAM_SHA_INSTRUCTIONS 1
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace autosam::core {
namespace {

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
alignas(16) constexpr std::array<std::uint32_t, 64> kRounds{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr std::size_t kBlock = 64;
using State = std::array<std::uint32_t, 8>;

constexpr std::uint32_t rotate(std::uint32_t word, unsigned count) {
  return (word >> count) | (word << (32 - count));
}

void blocks_portable(State& state, const std::uint8_t* data, std::size_t count) noexcept {
  for (; count > 0; --count, data += kBlock) {
    std::array<std::uint32_t, 64> words;  // NOLINT(cppcoreguidelines-pro-type-member-init)
    for (std::size_t i = 0; i < 16; ++i) {
      words[i] = static_cast<std::uint32_t>(data[4 * i]) << 24 |
                 static_cast<std::uint32_t>(data[4 * i + 1]) << 16 |
                 static_cast<std::uint32_t>(data[4 * i + 2]) << 8 | data[4 * i + 3];
    }
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t early = words[i - 15];
      const std::uint32_t late = words[i - 2];
      words[i] = words[i - 16] + (rotate(early, 7) ^ rotate(early, 18) ^ (early >> 3)) +
                 words[i - 7] + (rotate(late, 17) ^ rotate(late, 19) ^ (late >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t first = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                                  ((e & f) ^ (~e & g)) + kRounds[i] + words[i];
      const std::uint32_t second =
          (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = d + first;
      d = c;
      c = b;
      b = a;
      a = first + second;
    }
    const State add{a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < add.size(); ++i) state[i] += add[i];
  }
}

#ifdef AUTOSAM_SHA_INSTRUCTIONS
bool has_sha_instructions() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_SSE4_1) == 0 || (c & bit_SSSE3) == 0) {
    return false;
  }
  constexpr unsigned kSha = 1U << 29;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & kSha) != 0;
}

// The processor keeps the state as (a, b, e, f) and (c, d, g, h), highest word first, and does two
// rounds an instruction.
__attribute__((target("sha,sse4.1,ssse3"))) void blocks_instructions(State& state,
                                                                     const std::uint8_t* data,
                                                                     std::size_t count) noexcept {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const auto word = [&state](std::size_t i) { return static_cast<int>(state[i]); };
  __m128i abef = _mm_set_epi32(word(0), word(1), word(4), word(5));
  __m128i cdgh = _mm_set_epi32(word(2), word(3), word(6), word(7));
  for (; count > 0; --count, data += kBlock) {
    const __m128i abef_before = abef;
    const __m128i cdgh_before = cdgh;
    __m128i words[4];
    for (std::size_t i = 0; i < 16; ++i) {
      __m128i& now = words[i % 4];
      if (i < 4) {
        const auto* const at = reinterpret_cast<const __m128i*>(data + 16 * i);
        now = _mm_shuffle_epi8(_mm_loadu_si128(at), swap);
      } else {
        const __m128i last = words[(i + 3) % 4];
        const __m128i between = _mm_alignr_epi8(last, words[(i + 2) % 4], 4);
        now = _mm_add_epi32(_mm_sha256msg1_epu32(now, words[(i + 1) % 4]), between);
        now = _mm_sha256msg2_epu32(now, last);
      }
      const auto* const rounds = reinterpret_cast<const __m128i*>(&kRounds[4 * i]);
      const __m128i sum = _mm_add_epi32(now, _mm_load_si128(rounds));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  alignas(16) std::array<std::uint32_t, 8> out{};
  _mm_store_si128(reinterpret_cast<__m128i*>(out.data()), abef);
  _mm_store_si128(reinterpret_cast<__m128i*>(out.data() + 4), cdgh);
  state = {out[3], out[2], out[7], out[6], out[1], out[0], out[5], out[4]};
}
#endif

void blocks(State& state, const std::uint8_t* data, std::size_t count, bool portable) noexcept {
#ifdef AUTOSAM_SHA_INSTRUCTIONS
  static const bool quick = has_sha_instructions();
  if (quick && !portable) return blocks_instructions(state, data, count);
#else
  static_cast<void>(portable);
#endif
  blocks_portable(state, data, count);
}

}  // namespace

void Sha256::update(const void* data, std::size_t size) noexcept {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  total_ += size;
  if (pending_size_ > 0) {
    const std::size_t taken = std::min(size, kBlock - pending_size_);
    std::copy_n(bytes, taken, pending_.begin() + static_cast<std::ptrdiff_t>(pending_size_));
    pending_size_ += taken;
    bytes += taken;
    size -= taken;
    if (pending_size_ < kBlock) return;
    blocks(state_, pending_.data(), 1, portable_);
    pending_size_ = 0;
  }
  blocks(state_, bytes, size / kBlock, portable_);
  bytes += size / kBlock * kBlock;
  pending_size_ = size % kBlock;
  std::copy_n(bytes, pending_size_, pending_.begin());
}

std::string Sha256::finish() {
  const std::uint64_t bits = total_ * 8;
  constexpr std::array<std::uint8_t, kBlock> padding{0x80};
  const std::size_t room = kBlock - 8;
  update(padding.data(), (pending_size_ < room ? room : room + kBlock) - pending_size_);
  std::array<std::uint8_t, 8> length{};
  for (std::size_t i = 0; i < length.size(); ++i) {
    length[i] = static_cast<std::uint8_t>(bits >> (56 - 8 * i));
  }
  update(length.data(), length.size());
  std::string text;
  for (const std::uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(word >> shift) & 15U];
  }
  return text;
}

std::string sha256(const void* data, std::size_t size) {
  Sha256 hash;
  hash.update(data, size);
  return hash.finish();
}

}  // namespace autosam::core
