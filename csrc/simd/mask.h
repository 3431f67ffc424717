// Masks in portable code, for vectors of any size.
#pragma once

#include "simd/bits.h"
#include "simd/step.h"

namespace fastact {
namespace {
namespace portable {

// Writes keep(x) of each number of a step as a bit. signs_of(flags) returns the sign bits of a vector of flags. Bits
// that pass through memory would cost ReLU's forward as much as its output, so all stays in registers.
template <int kVector, class Keep, class T, class Signs>
inline void write_mask(const Keep& keep, const T* x, uint8_t* mask, const Signs& signs_of) {
  alignas(64) Flag<T> flags[kStep];
  // Most formulas negate a comparison; inverted flags make that free.
  FASTACT_FOR_EACH_IN_STEP(i) flags[i] = keep(x[i]) ? 0 : -1;
  uint64_t dropped = 0;
  for (int i = 0; i < kStep; i += kVector / sizeof(T)) dropped |= signs_of(flags + i) << i;
  uint64_t kept = ~dropped;
  __builtin_memcpy(mask, &kept, sizeof kept);
}

// Unpacks the bits of a step to flags, -1 or 0. Flags are as wide as the numbers they belong to, so that a select takes
// them as they are. Takes the first of each `stride` bits.
template <int kVector, int stride, class Flag>
inline void unpack_mask(uint64_t bits, Flag* flags) {
  constexpr int lanes = kVector / sizeof(Flag);
  typedef Flag Vector __attribute__((vector_size(kVector)));
  Vector power;
  for (int i = 0; i < lanes; ++i) power[i] = static_cast<Flag>(uint64_t{1} << stride * i);
  for (int j = 0; j < kStep / stride; j += lanes) {
    const auto part = static_cast<Flag>(bits >> stride * j);
    Vector set = ((Vector{} + part) & power) != 0;
    __builtin_memcpy(flags + j, &set, kVector);
  }
}

}  // namespace portable
}  // namespace
}  // namespace fastact
