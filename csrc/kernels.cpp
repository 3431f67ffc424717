// The block functions of every activation for one instruction set. setup.py compiles this file once for each, with that
// set's flags and its name in FASTACT_INSTRUCTION_SET. Everything but the table has internal linkage, and no inline
// function of the standard library is used: the linker may keep only one copy of those, and it could be the one with
// instructions this machine lacks.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "exponentials.h"
#include "rectifiers.h"
#include "sigmoids.h"

// Iterations are independent even where output and input are the same block. kStep-long inner loops with a constant
// trip count leave the compiler no remainder to handle: every element takes the same instructions, wherever it stands.
#if defined(__clang__)
#define FASTACT_VECTORIZE _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTACT_VECTORIZE _Pragma("GCC ivdep")
#endif
#define FASTACT_FOR_EACH(i, n) \
  for (int64_t step_ = 0; step_ < n; step_ += kStep) FASTACT_VECTORIZE for (int64_t i = step_; i < step_ + kStep; ++i)

namespace fastact {
namespace {

template <class Base, class Derived>
constexpr bool derives = __is_base_of(Base, Derived);

// Parameters come as doubles and are rounded to the compute type once, as torch does.
template <template <class> class Formula, class T>
inline Formula<T> make_formula(const Call& call) {
  Formula<T> formula;
  if constexpr (sizeof(Formula<T>) >= sizeof(T)) {
    auto* fields = reinterpret_cast<T*>(&formula);
    for (unsigned i = 0; i < sizeof(Formula<T>) / sizeof(T); ++i) fields[i] = static_cast<T>(call.parameters[i]);
  }
  return formula;
}

// 24 bits: every value is a float below 1.
inline float to_uniform(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f; }

// Philox4x32-10 (Salmon et al. 2011), counter-based: element i takes word i % 4 of the block with counter i / 4, so a
// value depends on the seed and its place alone, and backward draws it again instead of storing it.
inline void uniforms(uint64_t seed, int64_t first, float* u, int64_t n) {
  FASTACT_FOR_EACH(group, (n / 4 + kStep - 1) / kStep * kStep) {
    uint64_t counter = static_cast<uint64_t>(first / 4 + group);
    uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
      c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
      c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
      c1 = static_cast<uint32_t>(b);
      c3 = static_cast<uint32_t>(a);
      k0 += 0x9E3779B9, k1 += 0xBB67AE85;
    }
    u[4 * group] = to_uniform(c0);
    u[4 * group + 1] = to_uniform(c1);
    u[4 * group + 2] = to_uniform(c2);
    u[4 * group + 3] = to_uniform(c3);
  }
}

template <class T>
using Flag = typename ExpConstants<T>::Int;

// Flags, -1 or 0, are as wide as the numbers they belong to, so that a comparison's result is stored and a select's
// condition is loaded without conversion. They become bits, and bits become flags, sixteen at a time: compilers find
// none of these instructions by themselves.
#if defined(__AVX512DQ__)
inline uint16_t pack(const int32_t* flags) { return _mm512_movepi32_mask(_mm512_load_si512(flags)); }
inline uint16_t pack(const int64_t* flags) {
  return _mm512_movepi64_mask(_mm512_load_si512(flags)) | _mm512_movepi64_mask(_mm512_load_si512(flags + 8)) << 8;
}
inline void unpack(uint16_t bits, int32_t* flags) { _mm512_store_si512(flags, _mm512_movm_epi32(bits)); }
inline void unpack(uint16_t bits, int64_t* flags) {
  _mm512_store_si512(flags, _mm512_movm_epi64(bits));
  _mm512_store_si512(flags + 8, _mm512_movm_epi64(bits >> 8));
}
#elif defined(__AVX2__)
inline uint16_t pack(const int32_t* flags) {
  auto* lanes = reinterpret_cast<const float*>(flags);
  return _mm256_movemask_ps(_mm256_load_ps(lanes)) | _mm256_movemask_ps(_mm256_load_ps(lanes + 8)) << 8;
}
inline uint16_t pack(const int64_t* flags) {
  auto* lanes = reinterpret_cast<const double*>(flags);
  int bits = 0;
  for (int j = 0; j < 16; j += 4) bits |= _mm256_movemask_pd(_mm256_load_pd(lanes + j)) << j;
  return bits;
}
inline void unpack(uint16_t bits, int32_t* flags) {
  const __m256i power = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (int j = 0; j < 16; j += 8) {
    __m256i selected = _mm256_and_si256(_mm256_set1_epi32(bits >> j), power);
    _mm256_store_si256(reinterpret_cast<__m256i*>(flags + j), _mm256_cmpeq_epi32(selected, power));
  }
}
inline void unpack(uint16_t bits, int64_t* flags) {
  const __m256i power = _mm256_setr_epi64x(1, 2, 4, 8);
  for (int j = 0; j < 16; j += 4) {
    __m256i selected = _mm256_and_si256(_mm256_set1_epi64x(bits >> j), power);
    _mm256_store_si256(reinterpret_cast<__m256i*>(flags + j), _mm256_cmpeq_epi64(selected, power));
  }
}
#else
template <class Flag>
inline uint16_t pack(const Flag* flags) {
  Flag bits = 0;
  for (int j = 0; j < 16; ++j) bits |= flags[j] & (Flag{1} << j);
  return static_cast<uint16_t>(bits);
}
template <class Flag>
inline void unpack(uint16_t bits, Flag* flags) {
  for (int j = 0; j < 16; ++j) flags[j] = -static_cast<Flag>(bits >> j & 1);
}
#endif

template <class Flag>
void pack_all(const Flag* flags, uint8_t* bytes, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    uint16_t bits = pack(flags + i);
    __builtin_memcpy(bytes + i / 8, &bits, 2);
  }
}
template <class Flag>
void unpack_all(const uint8_t* bytes, Flag* flags, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    uint16_t bits;
    __builtin_memcpy(&bits, bytes + i / 8, 2);
    unpack(bits, flags + i);
  }
}

template <template <class> class Formula, class T>
void forward(const void* x_, void* y_, uint8_t* bits, int64_t n, int64_t first, const Call& call) {
  auto* x = static_cast<const T*>(x_);
  auto* y = static_cast<T*>(y_);
  const auto formula = make_formula<Formula, T>(call);
  if constexpr (derives<SavesBits, Formula<T>>) {
    if (bits) {
      alignas(64) Flag<T> flags[kBlock];
      FASTACT_FOR_EACH(i, n) flags[i] = formula.keep(x[i]) ? -1 : 0;
      pack_all(flags, bits, n);
    }
  }
  if constexpr (derives<Random, Formula<T>>) {
    alignas(64) float u[kBlock];
    uniforms(call.seed, first, u, n);
    FASTACT_FOR_EACH(i, n) y[i] = formula.forward(x[i], u[i]);
  } else {
    FASTACT_FOR_EACH(i, n) y[i] = formula.forward(x[i]);
  }
}

template <template <class> class Formula, class T>
void backward(const void* grad_, const void* saved_, void* grad_input_, int64_t n, int64_t first, const Call& call) {
  auto* grad = static_cast<const T*>(grad_);
  auto* grad_input = static_cast<T*>(grad_input_);
  const auto formula = make_formula<Formula, T>(call);
  if constexpr (derives<SavesBits, Formula<T>>) {
    alignas(64) Flag<T> flags[kBlock];
    unpack_all(static_cast<const uint8_t*>(saved_), flags, n);
    if constexpr (derives<Random, Formula<T>>) {
      alignas(64) float u[kBlock];
      uniforms(call.seed, first, u, n);
      FASTACT_FOR_EACH(i, n) grad_input[i] = flags[i] ? formula.kept(grad[i]) : formula.dropped(grad[i], u[i]);
    } else {
      FASTACT_FOR_EACH(i, n) grad_input[i] = flags[i] ? formula.kept(grad[i]) : formula.dropped(grad[i]);
    }
  } else {
    auto* saved = static_cast<const T*>(saved_);
    FASTACT_FOR_EACH(i, n) grad_input[i] = grad[i] * formula.derivative(saved[i]);
  }
}

template <class T>
void prelu(const void* x_, const void* weight_, void* y_, int64_t n) {
  auto* x = static_cast<const T*>(x_);
  auto* weight = static_cast<const T*>(weight_);
  auto* y = static_cast<T*>(y_);
  FASTACT_FOR_EACH(i, n) y[i] = PReLU<T>::forward(x[i], weight[i]);
}

template <class T>
void prelu_backward(const void* grad_, const void* x_, const void* weight_, void* grad_input_, void* terms_,
                    int64_t n) {
  auto* grad = static_cast<const T*>(grad_);
  auto* x = static_cast<const T*>(x_);
  auto* weight = static_cast<const T*>(weight_);
  auto* grad_input = static_cast<T*>(grad_input_);
  auto* terms = static_cast<T*>(terms_);
  FASTACT_FOR_EACH(i, n) {
    T g = grad[i], value = x[i];
    grad_input[i] = PReLU<T>::grad_input(g, value, weight[i]);
    terms[i] = PReLU<T>::grad_weight(g, value);
  }
}

// 16-bit types. Narrowing rounds to nearest even, once; NaN becomes the quiet NaN.
inline float widen_bfloat16(uint16_t half) { return bit_cast<float>(static_cast<uint32_t>(half) << 16); }
inline uint16_t narrow_bfloat16(float x) {
  uint32_t bits = bit_cast<uint32_t>(x);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

#if !defined(__F16C__)
// Half precision by exponent arithmetic: the multiplication renormalises subnormals, and the addition of a number 2^13
// times as large as the result makes the hardware round at the right bit (Giesen 2013).
inline float widen_float16(uint16_t half) {
  uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  float scaled = bit_cast<float>(magnitude) * 0x1p112f;
  uint32_t bits = bit_cast<uint32_t>(scaled) | (magnitude >= 0x0f800000 ? 0x7f800000 : 0);
  return bit_cast<float>(bits | static_cast<uint32_t>(half & 0x8000) << 16);
}
inline uint16_t narrow_float16(float x) {
  uint32_t bits = bit_cast<uint32_t>(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  uint32_t result = magnitude < (113u << 23) ? subnormal : normal;
  result = magnitude >= (143u << 23) ? 0x7c00 : result;
  return static_cast<uint16_t>(sign | (magnitude > 0x7f800000 ? 0x7e00 : result));
}
#endif

void widen_bfloat16s(const uint16_t* from, float* to, int64_t n) {
  FASTACT_FOR_EACH(i, n) to[i] = widen_bfloat16(from[i]);
}
void narrow_bfloat16s(const float* from, uint16_t* to, int64_t n) {
  FASTACT_FOR_EACH(i, n) to[i] = narrow_bfloat16(from[i]);
}
void widen_float16s(const uint16_t* from, float* to, int64_t n) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < n; i += 16) {
    __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    _mm512_storeu_ps(to + i, _mm512_cvtph_ps(halves));
  }
#elif defined(__F16C__)
  for (int64_t i = 0; i < n; i += 8) {
    __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
  }
#else
  FASTACT_FOR_EACH(i, n) to[i] = widen_float16(from[i]);
#endif
}
void narrow_float16s(const float* from, uint16_t* to, int64_t n) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < n; i += 16) {
    __m256i halves = _mm512_cvtps_ph(_mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), halves);
  }
#elif defined(__F16C__)
  for (int64_t i = 0; i < n; i += 8) {
    __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
  }
#else
  FASTACT_FOR_EACH(i, n) to[i] = narrow_float16(from[i]);
#endif
}

}  // namespace

#define FASTACT_FORWARD(Formula, name, parameters) {forward<Formula, float>, forward<Formula, double>},
#define FASTACT_BACKWARD(Formula, name, parameters) {backward<Formula, float>, backward<Formula, double>},
#define FASTACT_STRING(text) FASTACT_STRING_(text)
#define FASTACT_STRING_(text) #text
#define FASTACT_TABLE(name) FASTACT_TABLE_(name)
#define FASTACT_TABLE_(name) k##name

const InstructionSet FASTACT_TABLE(FASTACT_INSTRUCTION_SET) = {
    FASTACT_STRING(FASTACT_INSTRUCTION_SET),
    {FASTACT_POINTWISE(FASTACT_FORWARD)},
    {FASTACT_POINTWISE(FASTACT_BACKWARD)},
    {prelu<float>, prelu<double>},
    {prelu_backward<float>, prelu_backward<double>},
    {widen_float16s, widen_bfloat16s},
    {narrow_float16s, narrow_bfloat16s},
};

}  // namespace fastact
