// Cheaper formulas for float16 and bfloat16. A 16-bit result within 0.51 ULP needs 17 correct bits before it is
// rounded; these formulas compute 18 to 21, in float. Formulas without one of their own here use float's, and its
// table. fastact/triton/lowp.py is the counterpart for the GPU, which has no tables.
//
// Polynomials minimise the largest relative error in single precision (Sollya's fpminimax); ranges and errors stand
// beside each.
#pragma once

#include "activations/exponentials.h"
#include "activations/gated.h"
#include "activations/shrinkage.h"
#include "activations/softplus.h"

namespace fastact {
namespace {
namespace lowp {

using K = ExpConstants<float>;

// exp(x), degree 4: 2.6e-6
constexpr float kExp[] = {0x1.ffffe8p-1f, 0x1.fffb34p-1f, 0x1.00059ep-1f, 0x1.57e0bcp-3f, 0x1.53aafap-5f};

// Returns 2^scale_exp e^(sign x), or anything where that power of two is out of range.
template <int scale_exp = 0, int sign = 1>
inline float exp(float x) {
  auto reduced = reduce_roughly<sign>(x, K::exponent_bias + scale_exp);
  return from_exponent<float>(reduced.biased) * polynomial(reduced.r, kExp);
}

// e^x - 1 = 2^n (1 + m) - 1
template <int scale_exp = 0>
struct Expm1 {
  float scaled, m;  // 2^(n + scale_exp)

  explicit Expm1(float x) {
    // expm1(x) / x, degree 4 with 1 for the first: 4.5e-7
    constexpr float coefficients[] = {1, 0x1.fffe7p-2f, 0x1.555634p-3f, 0x1.5704dep-5f, 0x1.113784p-7f};
    auto reduced = reduce_roughly(x, K::exponent_bias + scale_exp);
    scaled = from_exponent<float>(reduced.biased);
    m = reduced.r * polynomial(reduced.r, coefficients);
  }
  float value() const {
    float scale = scale_exp == 0 ? scaled : scaled * (1.f / (int64_t{1} << scale_exp));
    return fma(scale, m, scale - 1);
  }
  // Returns 2^scale_exp e^x.
  float exp() const { return fma(scaled, m, scaled); }
};

// Returns e^x - 1 for x <= 80.
inline float expm1(float x) { return Expm1<>(at_least(K::expm1_lowest, x)).value(); }

// `scaled_exp` of a softmax, whose difference is exact enough as it is: its inputs have 16 bits. The result is within
// 5e-7, since two of them make a quotient.
inline float scaled_exp(float x, float row_max) {
  float difference = x - row_max;
  return zero_if(difference <= -104, Expm1<64>(difference).exp());
}

// A scale of 2^48, which the product with ExpConstants' unit removes.
constexpr int kScaleExp = 48;
static_assert(K::unit * (int64_t{1} << kScaleExp) == 1);

// Returns (1 + e^-v) / 2^48 for `least` <= v <= `most`, and for a NaN some number between 2^-48 and 2^126.
inline float logistic_sum(float v) {
  auto reduced = reduce_roughly<-1>(v, K::exponent_bias - kScaleExp);
  return fma(from_exponent<float>(reduced.biased), polynomial(reduced.r, kExp), K::unit);
}
inline float sigmoid(float v) { return K::unit / logistic_sum(v); }

// Returns x sigma(v). t is x within bounds: from `most` on sigma is 1, and below the lower bound the product vanishes.
inline float sigmoid_gated(float x, float t, float most, float v) {
  return x <= most ? t / logistic_sum(v) * K::unit : x;
}

struct Sigmoid : fastact::Sigmoid<float> {
  float forward(float x) const {
    float y = sigmoid(clamp_number(K::least, K::most, x));
    return x == x ? y : x;
  }
};

struct Hardsigmoid : fastact::Hardsigmoid<float> {
  float forward(float x) const { return ReLU6<float>().forward(x + 3) * (1.f / 6); }
};

struct Hardswish : fastact::Hardswish<float> {
  float forward(float x) const { return x * ((clamp_number(-3.f, 3.f, x) + 3) * (1.f / 6)); }
};

// Returns e factor / denominator^2 with e = e_there (1 + growth), which may be far below the smallest number.
inline float over_square(float e_there, Expm1<kScaleExp> growth, float factor, float denominator) {
  float inverse = 1 / denominator;
  return growth.exp() * inverse * (factor * inverse) * (e_there * K::unit);
}

struct SiLU : fastact::SiLU<float> {
  float forward(float x) const {
    float t = clamp_number(K::least, K::most, x);
    return sigmoid_gated(x, t, K::most, t);
  }
};

struct QuickGELU : fastact::QuickGELU<float> {
  static constexpr float scale = 1.702f;
  float forward(float x) const {
    constexpr float most = K::most / scale;
    float t = clamp_number(K::least / scale, most, x);
    return sigmoid_gated(x, t, most, scale * t);
  }
};

struct GELUTanh : fastact::GELUTanh<float> {
  // v = linear x + cubic x^3
  static constexpr float linear = 0x1.988454p+0f, cubic = 0x1.2444f2p-4f;
  float forward(float x) const {
    constexpr float most = 7.4f;
    float t = x < -end ? -0.f : at_most_number(most, x);
    return sigmoid_gated(x, t, most, t * fma(t * t, cubic, linear));
  }
};

// x n / (n + 2) with e = e^x and n = e (e + 2)
struct Mish : fastact::Mish<float> {
  float forward(float x) const {
    constexpr float most = 20;
    float t = clamp_number(K::least, most, x), scaled = exp<kScaleExp>(t), e = scaled * K::unit;
    float inverse = 1 / fma(e, e + 2, 2.f);
    return x <= most ? t * (scaled * (e + 2) * inverse) * K::unit : x;
  }
  // e ((e + 2) (n + 2) + 4 x (e + 1)) / (n + 2)^2. The second factor is computed as its difference from its zero:
  // rise (e^2 + e e' + e'^2 + 4 (e + e') + 6 + 4 x) + 4 distance (1 + e'), where e' is e at the zero and rise = e - e'.
  float derivative(float x) const {
    constexpr float there = -0x1.31432cp+0f, there_low = -0x1.a25b08p-29f, e_there = 0x1.36c42p-2f;
    float t = clamp_number(K::least, 20.f, x), distance = t - there - there_low;
    Expm1<kScaleExp> growth(distance);
    float rise = e_there * growth.value(), e = e_there + rise;
    float bend = fma(e, e + (e_there + 4), fma(4.f, t, e_there * e_there + 4 * e_there + 6));
    float second = fma(rise, bend, distance * (4 + 4 * e_there));
    float slope = over_square(e_there, growth, second, fma(e, e + 2, 2.f));
    return x == x ? slope : x;
  }
};

// Returns 2^64 log(1 + e^-size), which stays a normal number when a small beta scales it up.
inline float scaled_log1p_exp(float size) {
  // log(1 + x) / x, up to 1
  constexpr float coefficients[] = {0x1.ffffd6p-1f, -0x1.ffddd4p-2f, 0x1.530a7p-2f, -0x1.e15becp-3f,
                                    0x1.319c4ap-3f, -0x1.0ffb56p-4f, 0x1.cf5f82p-7f};
  float scaled = exp<K::scale_exp, -1>(at_most(K::highest, size));
  return scaled * polynomial(scaled * ScaledExp<float>::unscale, coefficients);
}

struct Softplus : SavesInput {
  float beta, threshold;

  template <class Body>
  void specialised(const Body& body) const {
    if (beta == 1)
      body(UnitSoftplus<float>{{}, threshold});
    else
      body(*this);
  }
  float forward(float x) const {
    float z = beta * x, y = fma(scaled_log1p_exp(abs(z)), ScaledExp<float>::unscale / beta, z > 0 ? x : beta * 0);
    return z > threshold ? x : y;
  }
  float derivative(float x) const {
    float z = beta * x, slope = sigmoid(clamp_number(K::least, K::most, z));
    return z > threshold ? 1 : z == z ? slope : z;
  }
};

struct ELU : fastact::ELU<float> {
  float forward(float x) const { return x <= 0 ? copysign(alpha * expm1(x), x) : x; }
};

struct SELU : fastact::SELU<float> {
  float forward(float x) const { return x <= 0 ? copysign(scale_alpha * expm1(x), x) : positive(x); }
  float positive(float x) const { return scale * x; }
};

struct CELU : fastact::CELU<float> {
  template <class Body>
  void specialised(const Body& body) const {  // this is no slower than ELU
    body(*this);
  }
  float forward(float x) const {
    float v = x * (1 / alpha);
    return v < -0x1p-24f ? alpha * expm1(v) : x;  // nearer to 0 the result is x, and v might underflow
  }
};

struct SigmoidGate : fastact::SigmoidGate<float> {
  float forward(float x) const { return Sigmoid().forward(x); }
  float derivative(float x) const {
    float scaled = exp<K::scale_exp, -1>(at_most_number(K::highest, abs(x)));
    float inverse = 1 / fma(scaled, ScaledExp<float>::unscale, 1.f);
    float slope = scaled * inverse * inverse * ScaledExp<float>::unscale;
    return x == x ? slope : x;
  }
};

}  // namespace lowp

// Chooses the formula for 16-bit types.
template <template <class> class Formula>
struct LowPrecision {
  using type = Formula<float>;
};
#define FASTACT_LOWP(Formula)    \
  template <>                    \
  struct LowPrecision<Formula> { \
    using type = lowp::Formula;  \
  };
FASTACT_LOWP(Sigmoid)
FASTACT_LOWP(Hardsigmoid)
FASTACT_LOWP(Hardswish)
FASTACT_LOWP(SiLU)
FASTACT_LOWP(QuickGELU)
FASTACT_LOWP(GELUTanh)
FASTACT_LOWP(Mish)
FASTACT_LOWP(Softplus)
FASTACT_LOWP(ELU)
FASTACT_LOWP(SELU)
FASTACT_LOWP(CELU)
#undef FASTACT_LOWP
#define FASTACT_LOWP(Unit, Gate)           \
  template <>                              \
  struct LowPrecision<Unit> {              \
    using type = Gated<float, lowp::Gate>; \
  };
FASTACT_LOWP(GLU, SigmoidGate)
FASTACT_LOWP(GEGLUTanh, GELUTanh)
FASTACT_LOWP(SwiGLU, SiLU)
#undef FASTACT_LOWP

}  // namespace
}  // namespace fastact
