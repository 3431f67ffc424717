// Steps of tensors: 16-bit numbers are promoted to float as they are read and demoted as they are written, in registers
// where the formula leaves room.
#pragma once

#include "simd/simd.h"

namespace fastact {
namespace {

// bfloat16 for programs to which the order within a step does not matter. The even numbers are promoted to the first
// half of the step, the odd ones to the second: a shift and a mask each way, and no lane crosses a vector.
struct UnorderedBFloat16 {
  uint16_t bits;
};
inline void promote(const UnorderedBFloat16* from, float* to) {
  FASTACT_VECTORIZE for (int64_t i = 0; i < kStep / 2; ++i) {
    uint32_t pair;
    __builtin_memcpy(&pair, from + 2 * i, sizeof(pair));
    to[i] = bit_cast<float>(pair << 16);
    to[kStep / 2 + i] = bit_cast<float>(pair & 0xffff0000);
  }
}
inline void demote(const float* from, UnorderedBFloat16* to) {
  FASTACT_VECTORIZE for (int64_t i = 0; i < kStep / 2; ++i) {
    uint32_t even = rounded_to_bfloat16(from[i]), odd = rounded_to_bfloat16(from[kStep / 2 + i]);
    uint32_t pair = even >> 16 | (odd & 0xffff0000);
    __builtin_memcpy(to + 2 * i, &pair, sizeof(pair));
  }
}
template <class S>
void promote_block(const void* from, float* to, int64_t n) {
  for (int64_t step = 0; step < n; step += kStep) promote(static_cast<const S*>(from) + step, to + step);
}
template <class S>
void demote_block(const float* from, void* to, int64_t n) {
  for (int64_t step = 0; step < n; step += kStep) demote(from + step, static_cast<S*>(to) + step);
}

// The type that numbers stored as S are computed in.
template <class S>
constexpr bool is_16_bit = sizeof(S) == 2 && !std::is_integral_v<S>;
template <class S>
using Compute = std::conditional_t<is_16_bit<S>, float, S>;

template <class S>
struct UnorderedOf {
  using type = S;
};
template <>
struct UnorderedOf<BFloat16> {
  using type = UnorderedBFloat16;
};
template <class S>
using Unordered = typename UnorderedOf<S>::type;

template <class S>
struct alignas(64) Promoted {
  Compute<S> numbers[is_16_bit<S> ? kStep : 1];
  Promoted() {}  // does not clear the numbers
};

// Returns a step in compute type, in the tensor's memory or promoted.
template <class S>
inline const Compute<S>* read_step(const void* data, int64_t step, Promoted<S>& promoted) {
  auto* from = static_cast<const S*>(data) + step;
  if constexpr (is_16_bit<S>) {
    promote(from, promoted.numbers);
    return promoted.numbers;
  } else {
    return from;
  }
}

// Returns where a step's results go before write_step().
template <class S>
inline Compute<S>* target_step(void* data, int64_t step, Promoted<S>& promoted) {
  if constexpr (is_16_bit<S>)
    return promoted.numbers;
  else
    return static_cast<S*>(data) + step;
}
template <class S>
inline void write_step(const Promoted<S>& promoted, void* data, int64_t step) {
  if constexpr (is_16_bit<S>) demote(promoted.numbers, static_cast<S*>(data) + step);
}

}  // namespace
}  // namespace fastact
