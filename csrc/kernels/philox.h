// Philox4x32-10 (Salmon et al. 2011): random numbers from a seed and a counter.
#pragma once

#include <cstdint>

#include "simd/vector.h"

namespace fastact {
namespace {

typedef uint64_t Words __attribute__((vector_size(kVector)));
constexpr int kWords = kVector / sizeof(uint64_t);

// The products of the low halves, and the even or the odd words of pairs of the two vectors. Left to compilers, the
// first came with twice as many shuffles as there are multiplications.
#if defined(__AVX512DQ__)
inline Words product_of_low(Words a, Words b) { return (Words)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
inline Words even_words(Words a, Words b) { return (Words)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b); }
inline Words odd_words(Words a, Words b) { return (Words)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
inline Words product_of_low(Words a, Words b) { return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
inline Words even_words(Words a, Words b) { return (Words)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b); }
inline Words odd_words(Words a, Words b) { return (Words)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b); }
#else
#if defined(__SSE2__)
inline Words product_of_low(Words a, Words b) { return (Words)_mm_mul_epu32((__m128i)a, (__m128i)b); }
#else
inline Words product_of_low(Words a, Words b) { return (a & 0xffffffff) * (b & 0xffffffff); }
#endif
inline Words even_words(Words a, Words b) { return Words{a[0], b[0]}; }
inline Words odd_words(Words a, Words b) { return Words{a[1], b[1]}; }
#endif

// Four random words for each counter: those of the first two, and of the last two, as one.
struct PhiloxBlocks {
  Words first, last;
};

inline PhiloxBlocks philox(uint64_t seed, Words counters) {
  // Words are low halves; what stands above is anything.
  Words c0 = counters, c1 = counters >> 32, c2 = {}, c3 = {};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    Words a = product_of_low(c0, Words{} + 0xD2511F53), b = product_of_low(c2, Words{} + 0xCD9E8D57);
    c0 = (b >> 32) ^ c1 ^ k0;
    c2 = (a >> 32) ^ c3 ^ k1;
    c1 = b;
    c3 = a;
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  return {(c0 & 0xffffffff) | c1 << 32, (c2 & 0xffffffff) | c3 << 32};
}

// Four numbers below 1 per vector's word, of 24 bits: every value is a float.
inline void to_uniforms(Words words, float* u) {
  typedef int32_t Ints __attribute__((vector_size(kVector)));
  typedef uint32_t Unsigned __attribute__((vector_size(kVector)));
  typedef float Floats __attribute__((vector_size(kVector)));
  auto numbers = __builtin_convertvector((Ints)((Unsigned)words >> 8), Floats) * 0x1p-24f;
  __builtin_memcpy(u, &numbers, sizeof numbers);
}

// Counter-based: element i takes word i % 4 of the block with counter i / 4, so a value depends on the seed and its
// place alone, and backward draws it again instead of storing it. `first` and `n` are multiples of kStep.
inline void uniforms(uint64_t seed, int64_t first, float* u, int64_t n) {
  // In this order pairs of words come out in theirs.
  Words counters;
  for (int i = 0; i < kWords; ++i) counters[i] = first / 4 + i / 2 + i % 2 * (kWords / 2);
  constexpr int chains = 2;  // one alone waits for its multiplications
  for (int64_t i = 0; i < n; i += chains * 4 * kWords, counters += chains * kWords) {
    PhiloxBlocks blocks[chains];
    for (int chain = 0; chain < chains; ++chain) blocks[chain] = philox(seed, counters + chain * kWords);
    for (int chain = 0; chain < chains; ++chain) {
      float* target = u + i + chain * 4 * kWords;
      to_uniforms(even_words(blocks[chain].first, blocks[chain].last), target);
      to_uniforms(odd_words(blocks[chain].first, blocks[chain].last), target + 2 * kWords);
    }
  }
}

}  // namespace
}  // namespace fastact
