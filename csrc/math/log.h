// Logarithms of 1 + x.
#pragma once

#include "math/exp.h"

namespace fastact {
namespace {

// log(1 + x) = 3/4 x (1 + P(x)) for 0 <= x <= 1. P is small near 1, where its rounding error is then small too.
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

// Returns log(1 + x) for 0 <= x < 2^60. 1 + x = 2^k (1 + z) with 1 + z near 1, and log(1 + z) = 2 atanh(s) with s = z /
// (2 + z). The leading term z is exact in the sum.
inline double log1p_of_sum(double x) {
  // fpminimax((2 atanh(sqrt(x)) - 2 sqrt(x)) / (x sqrt(x)), 6, [|D...|], [2^-60;0.0295], relative): 2e-17 of log1p
  constexpr double coefficients[] = {0x1.5555555555558p-1, 0x1.9999999995284p-2, 0x1.2492492e03d5p-2,
                                     0x1.c71c62c9cb7e9p-3, 0x1.7462bd218b3e7p-3, 0x1.39fd3c2df8ce9p-3,
                                     0x1.2b66b9bfa7252p-3};
  constexpr uint64_t sqrt_half = 0x3fe6a09e667f3bcd;  // below 1 + x; AVX2 shifts vectors of 64-bit integers if unsigned
  double u = 1 + x, low = x < 1 ? x - (u - 1) : 1 - (u - x);
  uint64_t k = (bit_cast<uint64_t>(u) - sqrt_half) >> 52;
  double n = bit_cast<double>(k | bit_cast<uint64_t>(0x1p52)) - 0x1p52, scale = from_exponent<double>(1023 - k);
  double z = (scale * u - 1) + scale * low, s = z / (2 + z), t = s * s;
  double rest = fma(n, ExpConstants<double>::ln2_low, -s * (z - t * polynomial(t, coefficients)));
  return fma(n, ExpConstants<double>::ln2_high, z + rest);
}

}  // namespace
}  // namespace fastact
