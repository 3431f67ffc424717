// Elementary functions as straight-line scalar code. There are no branches, no tables and no calls, so a loop over
// them vectorises whole; NaN passes through every function. float and double share each algorithm and differ only in
// their constants. fastact/kernels/vecmath.py holds the same polynomials for the GPU.
//
// Polynomials are minimax in relative error, found with Sollya's fpminimax; the call stands beside each.
#pragma once

#include <cstdint>
#include <type_traits>

namespace fastact {
namespace {  // every instruction set compiles its own copy: the linker must never merge them

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// a * b + c, in one rounding where the instruction exists. The files are built with -ffp-contract=off, so that a value
// never depends on which multiplications the compiler happened to fuse. The constants below are split such that two
// roundings serve too: the baseline has no fused instruction, and libm's emulation of it costs a hundred times as much.
inline float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
inline double fma(double a, double b, double c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline float copysign(float x, float sign) { return __builtin_copysignf(x, sign); }
inline double copysign(double x, double sign) { return __builtin_copysign(x, sign); }

// Both comparisons are false for NaN, which therefore passes. Written so that each is one max/min instruction.
template <class T>
inline T at_least(T low, T x) {
  return x < low ? low : x;
}
template <class T>
inline T at_most(T high, T x) {
  return x > high ? high : x;
}

// c[0] + c[1] x + ... + c[N-1] x^(N-1), by Horner's rule. A recursion at compile time, since a loop
// here would keep the loop around it from being vectorised.
template <int First = 0, class T, int N>
inline T polynomial(T x, const T (&c)[N]) {
  if constexpr (First == N - 1) {
    return c[First];
  } else {
    return fma(polynomial<First + 1>(x, c), x, c[First]);
  }
}

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Int = int32_t;
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  static constexpr float round_to_integer = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  static constexpr float log2_e = 0x1.715476p0f;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;  // 16 bits: n * ln2_high is exact
  static constexpr float lowest = -104.f;                                     // e^x is 0 below
  static constexpr float expm1_lowest = -18.f;                                // e^x - 1 rounds to -1 below
  // fpminimax((expm1(x)-x)/x^2, 5, [|SG...|], [-0.34658;0.34658], relative): 6.8e-10 of expm1
  static constexpr float expm1_polynomial[] = {0x1p-1f,        0x1.555556p-3f, 0x1.555502p-5f,
                                               0x1.110ff2p-7f, 0x1.6d2ep-10f,  0x1.a2675cp-13f};
};

template <>
struct ExpConstants<double> {
  using Int = int64_t;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double round_to_integer = 0x1.8p52;
  static constexpr double log2_e = 0x1.71547652b82fep0;
  static constexpr double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;
  static constexpr double lowest = -746.;
  static constexpr double expm1_lowest = -38.;
  // fpminimax((expm1(x)-x)/x^2, 10, [|D...|], [-0.34658;0.34658], relative): 5e-19 of expm1
  static constexpr double expm1_polynomial[] = {
      0x1p-1,
      0x1.5555555555557p-3,
      0x1.5555555555552p-5,
      0x1.1111111110056p-7,
      0x1.6c16c16c18932p-10,
      0x1.a01a01ac1a7cdp-13,
      0x1.a01a0197bc744p-16,
      0x1.71de01b8495cap-19,
      0x1.27e500e2100f2p-22,
      0x1.af4eb35b733e7p-26,
      0x1.1f32e868dba09p-29,
  };
};

// x = n ln2 + r with integer n and |r| <= ln2 / 2: m = e^r - 1, so that e^x = 2^n (1 + m). `biased` holds n + bias in
// its low bits, ready to be shifted into an exponent; what stands above them falls off there.
template <class T>
struct ExpParts {
  typename ExpConstants<T>::Int biased;
  T m;
};

template <class T>
inline ExpParts<T> exp_parts(T x, int bias) {
  using K = ExpConstants<T>;
  const T shift = K::round_to_integer + static_cast<T>(bias);
  T shifted = fma(x, K::log2_e, shift);
  T n = shifted - shift;
  T r = fma(n, -K::ln2_low, fma(n, -K::ln2_high, x));
  return {bit_cast<typename K::Int>(shifted), fma(r * r, polynomial(r, K::expm1_polynomial), r)};
}

// The number whose biased exponent the integer's low bits hold.
template <class T>
inline T from_exponent(typename ExpConstants<T>::Int biased) {
  using Bits = std::make_unsigned_t<typename ExpConstants<T>::Int>;
  return bit_cast<T>(static_cast<Bits>(biased) << ExpConstants<T>::mantissa_bits);
}

// e^x = scale (1 + m).
template <class T>
struct ScaledExp {
  T scale, m;
  T value() const { return fma(scale, m, scale); }
};

// e^x for x <= 89 (float) or 710 (double), from where on it is infinite. The power of two takes two steps, so that it
// reaches down to the subnormals, to which value() then rounds once; with a bias of twice the exponent's, both halves
// of n come out biased.
template <class T>
inline ScaledExp<T> exp_below_overflow(T x) {
  using K = ExpConstants<T>;
  auto e = exp_parts(at_least(K::lowest, x), 2 * K::exponent_bias);
  auto half = e.biased >> 1;
  return {from_exponent<T>(half) * from_exponent<T>(e.biased - half), e.m};
}

// e^x - 1 for -18 (float) or -38 (double) <= x <= 80. -0 gives 0.
template <class T>
inline T expm1_in_range(T x) {
  auto e = exp_parts(x, ExpConstants<T>::exponent_bias);
  T scale = from_exponent<T>(e.biased);
  return fma(scale, e.m, scale - 1);
}

// e^x - 1 for x <= 80. -0 gives 0.
template <class T>
inline T expm1(T x) {
  return expm1_in_range(at_least(ExpConstants<T>::expm1_lowest, x));
}

// a / (b + b_low) for 1 <= b < 2^60, where b_low is what rounding took from the true denominator: 0.51 ULP. The first
// quotient's remainder, exact in fused operations, corrects it.
template <class T>
inline T divide(T a, T b, T b_low) {
#if defined(__FMA__) || defined(__aarch64__)
  T inverse = 1 / b, quotient = a * inverse;
  return fma(fma(-quotient, b_low, fma(-quotient, b, a)), inverse, quotient);
#else
  return static_cast<T>(static_cast<double>(a) / (static_cast<double>(b) + static_cast<double>(b_low)));
#endif
}

}  // namespace
}  // namespace fastact
