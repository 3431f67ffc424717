// Philox4x32-10 (Salmon et al. 2011): random numbers from a seed and a counter.
#pragma once

#include "simd/simd.h"

namespace fastact {
namespace {

constexpr int kWords = kVector / sizeof(uint64_t);

// Four random 32-bit words for each counter, in pairs.
struct PhiloxBlocks {
  Words first, last;
};

inline PhiloxBlocks philox(uint64_t seed, Words counters) {
  // Only the low halves count.
  Words c0 = counters, c1 = counters >> 32, c2 = {}, c3 = {};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    Words a = mul_even(c0, Words{} + 0xD2511F53), b = mul_even(c2, Words{} + 0xCD9E8D57);
    c0 = (b >> 32) ^ c1 ^ k0;
    c2 = (a >> 32) ^ c3 ^ k1;
    c1 = b;
    c3 = a;
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  return {(c0 & 0xffffffff) | c1 << 32, (c2 & 0xffffffff) | c3 << 32};
}

// Converts a vector's 32-bit words to numbers in [0, 1) with 24 bits, which are exact floats.
inline void to_uniforms(Words words, float* u) {
  typedef int32_t Ints __attribute__((vector_size(kVector)));
  typedef uint32_t Unsigned __attribute__((vector_size(kVector)));
  typedef float Floats __attribute__((vector_size(kVector)));
  auto numbers = __builtin_convertvector((Ints)((Unsigned)words >> 8), Floats) * 0x1p-24f;
  __builtin_memcpy(u, &numbers, sizeof numbers);
}

// Element i takes word i % 4 of the block with counter i / 4. A value depends on the seed and the element's number
// alone, so backward generates it again instead of storing it. `first` and `n` are multiples of kStep.
inline void uniforms(uint64_t seed, int64_t first, float* u, int64_t n) {
  // With this order of counters, pairs of words come out in order.
  Words counters;
  for (int i = 0; i < kWords; ++i) counters[i] = first / 4 + i / 2 + i % 2 * (kWords / 2);
  constexpr int chains = 2;  // one chain alone is bound by the latency of its multiplications
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
