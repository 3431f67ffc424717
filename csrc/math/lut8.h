// lut8: functions of t = |x| as piecewise polynomials on eight segments (tables: activations/lut8_tables.h). They
// replace compositions of elementary functions in float: GELU's forward takes 40 instructions instead of 64. Eight
// floats fill one AVX2 register, from which one instruction selects a value for every lane. (With sixteen segments of
// lower degree AVX-512 would take two instructions fewer, but AVX2 three for every coefficient.)
#pragma once

#include "math/exp.h"
#include "simd/simd.h"

namespace fastact {
namespace {

// Lut8<Formula> is the table of a formula, if it has one. It covers t up to `most`. The segment's number is linear t +
// quadratic t^2, rounded; coefficients[k][segment] belongs to the k-th power of t - centres[segment].
// The formula turns the polynomial's value into its own: from_lut8(x, value) or, where `split`, from_lut8(x, high,
// low), where high is the sum of the first two terms. Where `one_sided`, outside_lut8(x) handles x < least (-x < least
// where `mirrored`), and need not pass a NaN.
template <class Formula>
struct Lut8 {};
struct AnyLut8 {};
template <class Formula>
constexpr bool has_lut8 = __is_base_of(AnyLut8, Lut8<Formula>);
template <bool is_split, bool is_one_sided>
struct Lut8Form : AnyLut8 {
  static constexpr bool split = is_split, one_sided = is_one_sided, mirrored = false;
};

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

// Returns the sum of coefficients[k] d^(k - first) from k = first on.
template <int first, int degree>
inline Floats piecewise(const float (&coefficients)[degree + 1][8], Floats number, Floats d) {
  Floats coefficient = permute8(coefficients[first], number);
  if constexpr (first == degree) {
    return coefficient;
  } else {
    return fma(piecewise<first + 1, degree>(coefficients, number, d), d, coefficient);
  }
}

// Evaluates the polynomials for a step, in two parts if the table is split.
template <class Table>
inline void read_lut8(const float* x, float* high, float* low) {
  constexpr int degree = sizeof(Table::coefficients) / sizeof(*Table::coefficients) - 1;
  const auto& coefficients = Table::coefficients;
  for (int64_t i = 0; i < kStep; i += kFloats) {
    Floats t = minimum(all(Table::most), abs(load(x + i)));
    Floats slope = fma(all(Table::quadratic), t, all(Table::linear));
    Floats number = fma(slope, t, all(ExpConstants<float>::round_to_integer));
    Floats d = t - permute8(Table::centres, number);
    if constexpr (Table::split) {
      Floats zeroth = permute8(coefficients[0], number), first = permute8(coefficients[1], number);
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
// Whether any of n numbers lies outside the table, or all of a step do. A NaN does not.
template <class Table, int64_t n>
inline bool any_outside(const float* x) {
  Floats least = all(Table::least);
  for (int64_t i = 0; i < n; i += kFloats) least = minimum(oriented<Table>(x + i), least);
  return any_less(least, all(Table::least));
}
template <class Table>
inline bool all_outside(const float* x) {
  if (__builtin_expect(!((Table::mirrored ? -*x : *x) < Table::least), 1)) return false;
  for (int64_t i = 0; i < kStep; i += kFloats)
    if (!all_less(oriented<Table>(x + i), all(Table::least))) return false;
  return true;
}

}  // namespace
}  // namespace fastact
