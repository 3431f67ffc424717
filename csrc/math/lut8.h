// Functions of t = |x| that are read from a table (tables.h): eight pieces, and on each a polynomial. In float, where
// putting elementary functions together takes longer: GELU's forward takes 40 instructions instead of 64. Eight numbers
// fill one AVX2 register, out of which one instruction picks a number for every lane. (Sixteen pieces, of lower
// degrees, would take AVX-512 two instructions less, but AVX2 three for every coefficient.)
#pragma once

#include "activations/formula.h"
#include "kernels/block.h"
#include "simd/vector.h"

namespace fastact {
namespace {

// Of a table, Pieces<Formula>: `most` bounds t; the piece's number is linear t + quadratic t^2, rounded, and
// coefficients[k][piece] goes with the k-th power of t - points[piece]. What is made of the function's value is up to
// from_pieces(x, value) of the formula or, where the value is split in two, from_pieces(x, high, low), high being the
// first two terms. Where the table is one-sided, x below `least` is left to beyond_pieces(x), which need not pass a
// NaN; where it is mirrored, that is -x.
struct InPieces {};
template <class Formula>
constexpr bool in_pieces = __is_base_of(InPieces, Pieces<Formula>);
template <bool is_split, bool is_one_sided>
struct Tabulated : InPieces {
  static constexpr bool split = is_split, one_sided = is_one_sided, mirrored = false;
};

// A vector of floats, and what no operator says of it: minimum() is the second one unless the first is less, so that a
// NaN passes as the second; pick() gives each lane that of eight numbers which the low bits of `number` say.
#if defined(__AVX512DQ__)
typedef __m512 Floats;
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats minimum(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline bool any_less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) != 0; }
inline bool all_less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) == 0xffff; }
inline Floats pick(const float* eight, Floats number) {
  return _mm512_permutexvar_ps(_mm512_castps_si512(number), _mm512_broadcast_f32x8(_mm256_loadu_ps(eight)));
}
#elif defined(__AVX2__)
typedef __m256 Floats;
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats minimum(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline bool any_less(Floats a, Floats b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)) != 0; }
inline bool all_less(Floats a, Floats b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)) == 0xff; }
inline Floats pick(const float* eight, Floats number) {
  return _mm256_permutevar8x32_ps(_mm256_loadu_ps(eight), _mm256_castps_si256(number));
}
#elif defined(__aarch64__)
typedef float32x4_t Floats;
inline Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline Floats minimum(Floats a, Floats b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline bool any_less(Floats a, Floats b) { return vmaxvq_u32(vcltq_f32(a, b)) != 0; }
inline bool all_less(Floats a, Floats b) { return vminvq_u32(vcltq_f32(a, b)) != 0; }
inline Floats pick(const float* eight, Floats number) {  // out of 32 bytes
  uint32x4_t numbers = vandq_u32(vreinterpretq_u32_f32(number), vdupq_n_u32(7));
  uint32x4_t bytes = vmlaq_u32(vdupq_n_u32(0x03020100), numbers, vdupq_n_u32(0x04040404));
  auto* from = reinterpret_cast<const uint8_t*>(eight);
  return vreinterpretq_f32_u8(vqtbl2q_u8({vld1q_u8(from), vld1q_u8(from + 16)}, vreinterpretq_u8_u32(bytes)));
}
#else
typedef float Floats __attribute__((vector_size(16)));
inline Floats fma(Floats a, Floats b, Floats c) {  // in double, as that of floats
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
inline Floats pick(const float* eight, Floats number) {
  typedef int32_t Ints __attribute__((vector_size(16)));
  Ints numbers = bit_cast<Ints>(number) & 7;
  return Floats{eight[numbers[0]], eight[numbers[1]], eight[numbers[2]], eight[numbers[3]]};
}
#endif
constexpr int64_t kFloats = sizeof(Floats) / sizeof(float);

inline Floats all(float x) { return Floats{} + x; }
inline Floats load(const float* x) {
  Floats floats;
  __builtin_memcpy(&floats, x, sizeof floats);
  return floats;
}
inline void store(float* to, Floats x) { __builtin_memcpy(to, &x, sizeof x); }
inline Floats abs(Floats x) {
  typedef int32_t Ints __attribute__((vector_size(sizeof(Floats))));
  return bit_cast<Floats>(bit_cast<Ints>(x) & 0x7fffffff);
}

// The sum of coefficients[k] d^(k - first) from k = first on.
template <int first, int degree>
inline Floats piecewise(const float (&coefficients)[degree + 1][8], Floats number, Floats d) {
  Floats coefficient = pick(coefficients[first], number);
  if constexpr (first == degree) {
    return coefficient;
  } else {
    return fma(piecewise<first + 1, degree>(coefficients, number, d), d, coefficient);
  }
}

// A step's values, in two parts if the table has them so.
template <class Table>
inline void read_pieces(const float* x, float* high, float* low) {
  constexpr int degree = sizeof(Table::coefficients) / sizeof(*Table::coefficients) - 1;
  const auto& coefficients = Table::coefficients;
  for (int64_t i = 0; i < kStep; i += kFloats) {
    Floats t = minimum(all(Table::most), abs(load(x + i)));
    Floats slope = fma(all(Table::quadratic), t, all(Table::linear));
    Floats number = fma(slope, t, all(ExpConstants<float>::round_to_integer));
    Floats d = t - pick(Table::points, number);
    if constexpr (Table::split) {
      Floats zeroth = pick(coefficients[0], number), first = pick(coefficients[1], number);
      Floats line = fma(d, first, zeroth), line_low = fma(d, first, zeroth - line);
      store(high + i, line);
      store(low + i, fma(d * d, piecewise<2, degree>(coefficients, number, d), line_low));
    } else {
      store(high + i, piecewise<0, degree>(coefficients, number, d));
    }
  }
}

template <class Table>
inline Floats oriented(const float* x) {
  return Table::mirrored ? -load(x) : load(x);
}
// Whether one of n numbers lies beyond the table, or all of a step's. NaN does not.
template <class Table, int64_t n>
inline bool any_beyond(const float* x) {
  Floats least = all(Table::least);
  for (int64_t i = 0; i < n; i += kFloats) least = minimum(oriented<Table>(x + i), least);
  return any_less(least, all(Table::least));
}
template <class Table>
inline bool all_beyond(const float* x) {
  if (__builtin_expect(!((Table::mirrored ? -*x : *x) < Table::least), 1)) return false;
  for (int64_t i = 0; i < kStep; i += kFloats)
    if (!all_less(oriented<Table>(x + i), all(Table::least))) return false;
  return true;
}

}  // namespace
}  // namespace fastact
