// Portable code for what an instruction set lacks, on vectors of 16 bytes.
#pragma once

#include "simd/lowp.h"
#include "simd/mask.h"

namespace fastact {
namespace {
namespace portable {

typedef float Floats __attribute__((vector_size(16)));
inline Floats fma(Floats a, Floats b, Floats c) {  // in double, as fma of single floats
  typedef double Doubles __attribute__((vector_size(32)));
  return __builtin_convertvector(
      __builtin_convertvector(a, Doubles) * __builtin_convertvector(b, Doubles) + __builtin_convertvector(c, Doubles),
      Floats);
}
inline Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
inline bool any_less(Floats a, Floats b) {
  auto less = a < b;
  return less[0] | less[1] | less[2] | less[3];
}
inline bool all_less(Floats a, Floats b) {
  auto less = a < b;
  return less[0] & less[1] & less[2] & less[3];
}
inline Floats permute8(const float* eight, Floats number) {
  typedef int32_t Ints __attribute__((vector_size(16)));
  Ints numbers = bit_cast<Ints>(number) & 7;
  return Floats{eight[numbers[0]], eight[numbers[1]], eight[numbers[2]], eight[numbers[3]]};
}

typedef uint64_t Words __attribute__((vector_size(16)));
inline Words mul_even(Words a, Words b) { return (a & 0xffffffff) * (b & 0xffffffff); }
inline Words even_words(Words a, Words b) { return Words{a[0], b[0]}; }
inline Words odd_words(Words a, Words b) { return Words{a[1], b[1]}; }

template <class Flag>
inline uint64_t signs_of(const Flag* flags) {
  uint64_t bits = 0;
  for (unsigned j = 0; j < 16 / sizeof(Flag); ++j) bits |= static_cast<uint64_t>(flags[j] & 1) << j;
  return bits;
}

}  // namespace portable
}  // namespace
}  // namespace fastact
