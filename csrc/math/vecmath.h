// Elementary functions as straight-line scalar code. There are no branches, no tables and no calls, so a loop over
// them vectorises whole; NaN passes through every function. float and double share each algorithm and differ only in
// their constants. fastact/triton/math.py holds the same polynomials for the GPU.
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

// a * b + c, in one rounding where the instruction exists; libm's emulation of it costs a hundred times as much. The
// baseline computes float's in double, where the product is exact: but for one result in 2^29 or so it is the same
// number, so that all instruction sets agree. The constants below are split such that two roundings serve double too.
// The files are built with -ffp-contract=off, so that a value never depends on what the compiler happened to fuse.
inline float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * b + c);
#endif
}
inline double fma(double a, double b, double c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// c + a * b for finite |c| > |a b|, in one rounding without exception: on the baseline, a sum that is no double becomes
// the odd one of the two doubles beside it, which rounds to a float as the sum does (Boldo and Melquiond 2008). For
// what formulas magnify.
inline float correct(float c, float a, float b) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  double product = static_cast<double>(a) * b, sum = product + c, error = product - (sum - c);  // Dekker 1971
  auto bits = bit_cast<uint64_t>(sum), error_bits = bit_cast<uint64_t>(error), size = error_bits << 1;
  uint64_t inexact = (size | (0 - size)) >> 63, beyond = (error_bits ^ bits) >> 63;
  return static_cast<float>(bit_cast<double>((bits - (beyond & inexact)) | inexact));
#endif
}
inline double correct(double c, double a, double b) { return fma(a, b, c); }

// a * b + c where two roundings serve: the product is exact, or so small that what it loses is nothing beside c.
inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline float copysign(float x, float sign) { return __builtin_copysignf(x, sign); }
inline double copysign(double x, double sign) { return __builtin_copysign(x, sign); }

// What rounding took from a product: a * b less the product rounded, or less something else near it.
inline float product_error(float a, float b, float product) { return fma(a, b, -product); }
inline double product_error(double a, double b, double product) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fma(a, b, -product);
#else
  // Each factor as a sum of 26 and 27 bits, whose products are exact (Dekker 1971).
  constexpr uint64_t high_bits = ~uint64_t{0x7ffffff};
  double a_high = bit_cast<double>(bit_cast<uint64_t>(a) & high_bits), a_low = a - a_high;
  double b_high = bit_cast<double>(bit_cast<uint64_t>(b) & high_bits), b_low = b - b_high;
  return a_high * b_high - product + a_high * b_low + a_low * b_high + a_low * b_low;
#endif
}

// 1 - y^2, which near 1 keeps its digits as a product too, where no fused multiply-add does.
inline float one_less_square(float y) { return fma(-y, y, 1.f); }
inline double one_less_square(double y) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fma(-y, y, 1.0);
#else
  return (1 - y) * (1 + y);
#endif
}

template <class T>
constexpr T largest_number = sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__);

// Both comparisons are false for NaN, which therefore passes.
template <class T>
inline T at_least(T low, T x) {
  return x < low ? low : x;
}
template <class T>
inline T at_most(T high, T x) {
  return x > high ? high : x;
}

// at_most for positive `high`, where a NaN need not pass. Numbers compare as their bits do, and GCC finds the minimum
// of 32-bit integers to be one instruction, but no minimum of floating-point numbers.
inline float at_most_number(float high, float x) {
  auto high_bits = bit_cast<int32_t>(high), bits = bit_cast<int32_t>(x);
  return bit_cast<float>(bits < high_bits ? bits : high_bits);
}
inline double at_most_number(double high, double x) { return at_most(high, x); }

// x between low < 0 and high > 0, in the same way: as signed integers positive numbers are in order, as unsigned ones
// negative numbers are beyond them, the larger the further.
template <class T>
inline T clamp_number(T low, T high, T x) {
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  using Unsigned = std::make_unsigned_t<Int>;
  auto bits = bit_cast<Unsigned>(x), least = bit_cast<Unsigned>(low);
  bits = bits < least ? bits : least;  // with a cast around it, GCC would see no minimum
  auto bounded = bit_cast<Int>(bits), most = bit_cast<Int>(high);
  return bit_cast<T>(bounded < most ? bounded : most);
}

// All ones where x has a minus sign. Where a formula asks several times on which side of zero x lies, it asks the bits:
// compilers would turn comparisons into one branch with a copy of the whole formula on either side, and compute both.
template <class T>
inline auto sign_mask(T x) {
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  return bit_cast<Int>(x) >> (8 * sizeof(T) - 1);
}

// a where the mask is all ones, b where it is 0.
template <class T, class Int>
inline T select(Int mask, T a, T b) {
  return bit_cast<T>((bit_cast<Int>(a) & mask) | (bit_cast<Int>(b) & ~mask));
}

// 0 where the condition holds, else x. By its bits, since of a select around another GCC makes a case distinction with
// up to twice the instructions.
template <class T>
inline T zero_if(bool condition, T x) {
  return select(-static_cast<decltype(sign_mask(x))>(condition), T(0), x);
}

// A number known to more digits than T has, given as a double and what is missing there.
template <class T>
struct Constant {
  T high, low;
  constexpr Constant(double value, double rest) : high(T(value)), low(T(value - high + rest)) {}
};

// c[0] + c[1] x + ... + c[N-1] x^(N-1), by Horner's rule, of the coefficients from First on in steps of Step. A
// recursion at compile time, since a loop here would keep the loop around it from being vectorised.
template <int First = 0, int Step = 1, class T, int N>
inline T polynomial(T x, const T (&c)[N]) {
  if constexpr (First + Step >= N) {
    return c[First];
  } else {
    return fma(polynomial<First + Step, Step>(x, c), x, c[First]);
  }
}

#if !defined(__FMA__) && !defined(__aarch64__)
// The same numbers, but float's stay in double from step to step: rounding their bits there takes half as long as going
// to float and back.
inline double rounded_to_float(double x) {
  return bit_cast<double>((bit_cast<uint64_t>(x) + (uint64_t{1} << 28)) & ~((uint64_t{1} << 29) - 1));
}
template <int First, int N>
inline double rounded_polynomial(double x, const float (&c)[N]) {
  if constexpr (First == N - 1) {
    return c[First];
  } else {
    return rounded_to_float(rounded_polynomial<First + 1>(x, c) * x + c[First]);
  }
}
template <int N>
inline float polynomial(float x, const float (&c)[N]) {
  return static_cast<float>(rounded_polynomial<1>(x, c) * x + c[0]);
}
#endif

// The same for small x, whose higher powers are little. In double the even ones and the odd ones make two chains at
// once (Estrin 1960): in one of ten fused operations vectors wait longer than the processor has room for others. Where
// the two sums could cancel, digits would be lost.
template <class T, int N>
inline T polynomial_of_small(T x, const T (&c)[N]) {
  if constexpr (sizeof(T) == 8) {
    T square = x * x;
    return fma(x, polynomial<1, 2>(square, c), polynomial<0, 2>(square, c));
  } else {
    return polynomial(x, c);
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
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7dp-20f;  // 15 and 17 bits: n times these is exact
  static constexpr int lift = 64;                                           // of a ScaledExp
  static constexpr float highest = 132.4f;                                  // e^-x is 2^-191 (1 + m)
  static constexpr float expm1_lowest = -18.f;                              // e^x - 1 rounds to -1 below
  static constexpr float unit = 0x1p-48f, least = -112.f, most = 40.f;      // of a Logistic
  // fpminimax(exp(x), [|2,...,6|], [|SG...|], [-0.34658;0.34658], relative, floating, 1+x): 3.3e-9
  static constexpr float polynomial[] = {0x1.fffffap-2f, 0x1.555492p-3f, 0x1.555a26p-5f, 0x1.12397cp-7f,
                                         0x1.694c82p-10f};
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
  static constexpr int lift = 512;
  static constexpr double highest = 1064;
  static constexpr double expm1_lowest = -38.;
  static constexpr double unit = 0x1p-96, least = -760, most = 60;
  // fpminimax(exp(x), [|2,...,11|], [|D...|], [-0.34658;0.34658], relative, floating, 1+x): 3.8e-18
  static constexpr double polynomial[] = {
      0x1.000000000000ap-1,  0x1.55555555554fep-3,  0x1.55555555506bfp-5,  0x1.1111111126b36p-7,  0x1.6c16c18475fabp-10,
      0x1.a01a012fed2f7p-13, 0x1.a019996298ecdp-16, 0x1.71df18f7a1dd8p-19, 0x1.28adf8e81298cp-22, 0x1.ad92d1e47a0d8p-26,
  };
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

// x = n ln2 + r with integer n and |r| <= ln2 / 2, so that e^x = 2^n e^r. `biased` holds n + bias in its low bits,
// ready to be shifted into an exponent; what stands above them falls off there.
template <class T>
struct Reduced {
  std::make_unsigned_t<typename ExpConstants<T>::Int> biased;
  T r;
};

// Of x for sign 1 and of -x for -1. `low`, if given, is what rounding took from x.
template <int sign = 1, class T, class... Low>
inline Reduced<T> reduce(T x, std::common_type_t<T> bias, Low... low) {
  using K = ExpConstants<T>;
  const T shift = K::round_to_integer + bias;
  T shifted = fma(x, sign * K::log2_e, shift), n = shifted - shift;
  T r = multiply_add(n, -K::ln2_high, sign * x);
  if constexpr (sizeof...(low) > 0) {
    r += multiply_add(n, -K::ln2_low, (sign * low)...);
  } else {
    r = multiply_add(n, -K::ln2_low, r);
  }
  return {bit_cast<decltype(Reduced<T>::biased)>(shifted), r};
}

// The same with ln2 in one part, whose rounding shows in r as n times 2e-9 (2e-17): little where e^x is a term beside 1
// and n is negative, for it is the smaller the larger |n|.
template <int sign = 1, class T>
inline Reduced<T> reduce_roughly(T x, int bias) {
  using K = ExpConstants<T>;
  const T shift = K::round_to_integer + static_cast<T>(bias);
  T shifted = fma(x, sign * K::log2_e, shift), n = shifted - shift;
  return {bit_cast<decltype(Reduced<T>::biased)>(shifted), fma(n, T(-0x1.62e42fefa39efp-1), sign * x)};
}

// e^r - 1 for |r| <= ln2 / 2: to an ULP of its own, and to one of e^r.
template <class T>
inline T small_expm1(T r) {
  return correct(r, r * r, polynomial_of_small(r, ExpConstants<T>::expm1_polynomial));
}
template <class T>
inline T small_exp_less_1(T r) {
  return correct(r, r * r, polynomial_of_small(r, ExpConstants<T>::polynomial));
}

// The number whose biased exponent the integer's low bits hold.
template <class T>
inline T from_exponent(decltype(Reduced<T>::biased) biased) {
  return bit_cast<T>(biased << ExpConstants<T>::mantissa_bits);
}

// e^-x = lifted (1 + m) / 2^lift, where `lifted` is a power of two within range, though e^-x may be far below the
// smallest number: what it is multiplied by may bring it back.
template <class T>
struct ScaledExp {
  static constexpr T drop = sizeof(T) == 4 ? T(0x1p-64) : T(0x1p-512);
  T lifted, m;
  T value() const { return multiply_add(lifted, m, lifted) * drop; }
  T times_power(T a) const { return a * lifted * drop; }
  T times(T a) const { return times_power(fma(a, m, a)); }
};

// e^-x for 0 <= x <= highest, where the biased exponent is 0 and makes `lifted` 0. `low`, if given, is what rounding
// took from x.
template <class T, class... Low>
inline ScaledExp<T> exp_of_minus(T x, Low... low) {
  auto reduced = reduce<-1>(x, ExpConstants<T>::exponent_bias + ExpConstants<T>::lift, low...);
  return {from_exponent<T>(reduced.biased), small_exp_less_1(reduced.r)};
}

// e^-v and 1 + e^-v, both times ExpConstants<T>::unit: neither overflows nor vanishes, nor does a quotient by the sum,
// however far left it lies; multiplying by `unit` at the end rounds it once.
template <class T>
struct Logistic {
  T exp, sum, sum_low;  // of the sum, what rounding took from it
};

// For v from `least` to `most`, or what rounding may add to them. `low`, if given, is what rounding took from v.
template <class T, class... Low>
inline Logistic<T> logistic(T v, Low... low) {
  using K = ExpConstants<T>;
  const auto biased_unit = bit_cast<typename K::Int>(K::unit) >> K::mantissa_bits;
  auto reduced = reduce<-1>(v, static_cast<int>(biased_unit), low...);
  T scale = from_exponent<T>(reduced.biased), m = small_exp_less_1(reduced.r);
  T base = scale + K::unit, base_low = K::unit - (base - scale);
  T rest = multiply_add(scale, m, base_low), sum = base + rest;
  return {multiply_add(scale, m, scale), sum, rest - (sum - base)};
}

// e^x - 1 for -18 (float) or -38 (double) <= x <= 80. -0 gives 0.
template <class T>
inline T expm1_in_range(T x) {
  auto reduced = reduce(x, ExpConstants<T>::exponent_bias);
  T scale = from_exponent<T>(reduced.biased);
  return multiply_add(scale, small_expm1(reduced.r), scale - 1);
}

// e^x - 1 for x <= 80. -0 gives 0.
template <class T>
inline T expm1(T x) {
  return expm1_in_range(at_least(ExpConstants<T>::expm1_lowest, x));
}

// 1 - e^x for x <= 0. Both zeros give 0.
template <class T>
inline T one_less_exp(T x) {
  auto reduced = reduce_roughly(at_least(ExpConstants<T>::expm1_lowest, x), ExpConstants<T>::exponent_bias);
  T scale = from_exponent<T>(reduced.biased);
  return multiply_add(-scale, small_exp_less_1(reduced.r), 1 - scale);
}

// (a + a_low) / (b + b_low) for 1 <= b < 2^60, where the low parts are what rounding took from the true ones (a_low may
// be left out): 0.51 ULP. The first quotient's remainder, exact in fused operations, corrects it. Its sign is such that
// -0 stays -0, for which also 0 - a_low stands where a_low would be added.
template <class T, class... Low>
inline T divide(T a, T b, T b_low, Low... a_low) {
  T inverse = 1 / b, quotient = a * inverse;
  return multiply_add((multiply_add(quotient, b_low, product_error(quotient, b, a)) - ... - a_low), -inverse, quotient);
}

// 1 / (b + b_low): 0.51 ULP, by one step of Newton's.
template <class T>
inline T corrected_inverse(T b, T b_low) {
  T inverse = 1 / b;
  return correct(inverse, inverse, -product_error(inverse, b, T(1)) - inverse * b_low);
}

// A number in twice the precision, high + low, where low is small beside high.
template <class T>
struct Pair {
  T high, low;
};

// log(1 + x) = 3/4 x (1 + P(x)) for 0 <= x <= 1, where P is small at 1 and is rounded the less for it.
template <class T>
struct Log1pConstants;

template <>
struct Log1pConstants<float> {
  // fpminimax(4/3*log1p(x)/x-1, 10, [|SG...|], [1b-20;1], absolute): 7.5e-9 of log1p
  static constexpr float polynomial[] = {0x1.555556p-2f, -0x1.555568p-1f, 0x1.c71e5ap-2f, -0x1.55572ap-2f,
                                         0x1.1092c4p-2f, -0x1.be67f4p-3f, 0x1.60d1a4p-3f, -0x1.e61bep-4f,
                                         0x1.fe8334p-5f, -0x1.585d92p-6f, 0x1.b1cc46p-9f};
};

template <>
struct Log1pConstants<double> {
  // fpminimax(4/3*log1p(x)/x-1, 20, [|D...|], [1b-20;1], absolute): 1.4e-17 of log1p
  static constexpr double polynomial[] = {
      0x1.5555555555555p-2,  -0x1.55555555554ecp-1, 0x1.c71c71c7154eep-2, -0x1.55555553b70ap-2,
      0x1.111110de4d962p-2,  -0x1.c71c6a13778bbp-3, 0x1.8617fcdad69f8p-3, -0x1.5551accff911ap-3,
      0x1.2f4f198c2d65cp-3,  -0x1.108ccf1b05fd7p-3, 0x1.ec427825f8992p-4, -0x1.b96ac95917f8ep-4,
      0x1.806ba6ee27531p-4,  -0x1.3a6068db78a33p-4, 0x1.cef47faa82dd7p-5, -0x1.250fd81ac5a6p-5,
      0x1.2fbe064547908p-6,  -0x1.e77c87c4ea652p-8, 0x1.19303fd19055fp-9, -0x1.9c15ff0d36fd6p-12,
      0x1.1ec698b2fa0e3p-15,
  };
};

// log(1 + x) for 0 <= x < 2^60. 1 + x = 2^k (1 + z) with 1 + z around 1, and log(1 + z) = 2 atanh(s) with
// s = z / (2 + z), written such that z, its leading term, is not rounded again.
inline double log1p_of_sum(double x) {
  // fpminimax((2 atanh(sqrt(x)) - 2 sqrt(x)) / (x sqrt(x)), 6, [|D...|], [2^-60;0.0295], relative): 2e-17 of log1p
  constexpr double coefficients[] = {0x1.5555555555558p-1, 0x1.9999999995284p-2, 0x1.2492492e03d5p-2,
                                     0x1.c71c62c9cb7e9p-3, 0x1.7462bd218b3e7p-3, 0x1.39fd3c2df8ce9p-3,
                                     0x1.2b66b9bfa7252p-3};
  constexpr int64_t sqrt_half = 0x3fe6a09e667f3bcd;
  double u = 1 + x, low = x < 1 ? x - (u - 1) : 1 - (u - x);
  int64_t k = (bit_cast<int64_t>(u) - sqrt_half) >> 52;
  double n = static_cast<double>(k), scale = from_exponent<double>(1023 - k);
  double z = (scale * u - 1) + scale * low, s = z / (2 + z), t = s * s;
  double rest = fma(n, ExpConstants<double>::ln2_low, -s * (z - t * polynomial(t, coefficients)));
  return fma(n, ExpConstants<double>::ln2_high, z + rest);
}

template <class T>
struct SineConstants;

// fpminimax((sin(sqrt(x))^2-x)/x^2, n, [|SG or D...|], [1b-40;0.6242], relative) for sin(x)^2, and
// fpminimax((sin(2*sqrt(x))/sqrt(x)-2)/x, n, [|SG or D...|], [1b-40;0.6242], relative) for sin(2x): both of x^2.
template <>
struct SineConstants<float> {
  static constexpr float limit = 0x1p18f;
  // pi/2 in three parts. The first two have 8 bits: their products with halves of integers up to 2^16 are exact.
  static constexpr float half_pi_high = 0x1.92p0f, half_pi_middle = 0x1.fap-12f, half_pi_low = 0x1.54442ep-20f;
  // n = 3: 2.2e-9
  static constexpr float square[] = {-0x1.555554p-2, 0x1.6c15d4p-5, -0x1.9fc19ap-9, 0x1.1bc142p-13};
  // n = 4: 2.1e-9
  static constexpr float twice[] = {-0x1.555556p0, 0x1.111148p-2, -0x1.a02cfap-6, 0x1.74396ep-10, -0x1.d945bcp-15};
};

template <>
struct SineConstants<double> {
  static constexpr double limit = 0x1p23;
  // 32 bits, and integers up to 2^21
  static constexpr double half_pi_high = 0x1.921fb544p0, half_pi_middle = 0x1.0b4611a6p-34,
                          half_pi_low = 0x1.3198a2e037073p-69;
  // n = 7: 7.5e-19
  static constexpr double square[] = {-0x1.5555555555555p-2,  0x1.6c16c16c16b76p-5,   -0x1.a01a01a00ef28p-9,
                                      0x1.27e4fb721c251p-13,  -0x1.1eed8c371bba6p-18, 0x1.9395b7848863p-24,
                                      -0x1.ae036ce24b88fp-30, 0x1.55a4ee506e14p-36};
  // n = 7: 9.6e-19
  static constexpr double twice[] = {-0x1.5555555555555p0,   0x1.11111111110bap-2,   -0x1.a01a01a013743p-6,
                                     0x1.71de3a51d8719p-10,  -0x1.ae645468748abp-15, 0x1.6123aedc2e907p-20,
                                     -0x1.ae3b16ec86665p-26, 0x1.874437f3479abp-32};
};

// a b + offset pi/2 less the nearest multiple of pi/2: high + low, and 1 if that multiple was odd, else 0.
template <class T>
struct Angle {
  T high, low;
  typename ExpConstants<T>::Int odd;
};

// Cody and Waite's reduction (1980) of a product and its rounding error; offset is 0 or 1/2. To twice the precision for
// |a b| up to 2^15 (float) or 2^20 (double). Up to 8 times that, the angle may be off by some 2^-7 where there is no
// fused multiply-add; from there on a b counts as 0, so that the angle always is within pi/4 and what rounding may
// miss.
template <class T>
inline Angle<T> reduced_angle(T a, T b, T offset) {
  using K = SineConstants<T>;
  T product = a * b, error = product_error(a, b, product), shift = ExpConstants<T>::round_to_integer;
  bool inside = abs(product) < K::limit;
  product = inside ? product : product * 0;  // infinity becomes NaN
  error = inside ? error : T(0);
  T shifted = fma(product, T(0x1.45f306dc9c883p-1), offset) + shift, n = shifted - shift - offset;
  T exact = multiply_add(n, -K::half_pi_middle, multiply_add(n, -K::half_pi_high, product));
  T rest = fma(n, -K::half_pi_low, error);
  T high = exact + rest;
  return {high, exact - high + rest, bit_cast<typename ExpConstants<T>::Int>(shifted) & 1};
}

// The square of the sine of what the angle was reduced from.
template <class T>
inline Pair<T> sine_squared(Angle<T> angle) {
  T r = angle.high, square = r * r, square_low = multiply_add(2 * r, angle.low, product_error(r, r, square));
  T bend = square * polynomial_of_small(square, SineConstants<T>::square);
  T tail = fma(square, bend, multiply_add(square_low, 2 * bend, square_low)), complement = 1 - square;
  T lead = angle.odd ? complement : square, rest = angle.odd ? 1 - complement - square - tail : tail;
  T high = lead + rest;
  return {high, lead - high + rest};
}

// e^x - 1 - x for x <= 0, in twice the precision; low is NaN where the whole is infinite. With x = n ln2 + r, it is
// 2^n (e^r - 1 - r) + (2^n r + 2^n - 1 - x), and the bracket is 0 for n = 0: nothing cancels near zero.
template <class T>
inline Pair<T> expm1_minus_x(T x) {
  using K = ExpConstants<T>;
  T bounded = at_least(K::expm1_lowest, x), shift = K::round_to_integer + K::exponent_bias;
  T shifted = fma(bounded, K::log2_e, shift), n = shifted - shift;
  T r = multiply_add(n, -K::ln2_low, multiply_add(n, -K::ln2_high, bounded)),
    curved = r * r * polynomial_of_small(r, K::expm1_polynomial);
  T scale = from_exponent<T>(bit_cast<typename K::Int>(shifted));
  T constant = scale - 1, line = constant - x, linear = multiply_add(scale, r, line),
    high = multiply_add(scale, curved, linear);
  T low =
      multiply_add(scale, curved, linear - high) + (multiply_add(scale, r, line - linear) + (constant - (line + x)));
  return {high, low};
}

}  // namespace
}  // namespace fastact
