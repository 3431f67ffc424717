// The block functions of every activation for one instruction set. setup.py compiles this file once for each, with that
// set's flags and its name in FASTACT_INSTRUCTION_SET. Everything but the table has internal linkage, and no inline
// function of the standard library is used: the linker may keep only one copy of those, and it could be the one with
// instructions this machine lacks.
#include "kernels.h"

#if defined(__x86_64__)
#pragma GCC diagnostic push  // of registers that GCC 12's own header leaves undefined on purpose (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fastact {
namespace {
// Bytes.
#if defined(__AVX512DQ__)
constexpr int kVector = 64;
#elif defined(__AVX2__)
constexpr int kVector = 32;
#else
constexpr int kVector = 16;
#endif
}  // namespace
}  // namespace fastact

#include "exponentials.h"
#include "gated.h"
#include "narrow.h"
#include "periodic.h"
#include "philox.h"
#include "rectifiers.h"
#include "self_gated.h"
#include "shrinkage.h"
#include "sigmoids.h"
#include "softmax.h"
#include "softplus.h"

// Iterations are independent even where output and input are the same block. kStep-long inner loops with a constant
// trip count leave the compiler no remainder to handle: every element takes the same instructions, wherever it stands.
#if defined(__clang__)
#define FASTACT_VECTORIZE _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTACT_VECTORIZE _Pragma("GCC ivdep")
#endif
// Every call in a function's body is inlined, however often the callee is used: one call left in a loop, and it is not
// vectorised.
#define FASTACT_FLATTEN __attribute__((flatten))
#define FASTACT_FOR_EACH_IN_STEP(i) FASTACT_VECTORIZE for (int64_t i = 0; i < kStep; ++i)
#define FASTACT_FOR_EACH_LANE(i) FASTACT_VECTORIZE for (int64_t i = 0; i < kRowLanes; ++i)
#define FASTACT_FOR_EACH_VECTOR(k) _Pragma("GCC unroll 8") for (int64_t k = 0; k < count; ++k)
#define FASTACT_FOR_EACH(i, n) \
  for (int64_t step_ = 0; step_ < n; step_ += kStep) FASTACT_VECTORIZE for (int64_t i = step_; i < step_ + kStep; ++i)

#include "half.h"  // these have loops of their own, with these
#include "maxout.h"
#include "tables.h"

namespace fastact {
namespace {

template <class Base, class Derived>
constexpr bool derives = __is_base_of(Base, Derived);

// Parameters come as doubles and are rounded to the compute type once, as torch does (but for its shrinkages, which
// round lambd to 16 bits). They follow the learned numbers.
template <class Formula, class T>
inline Formula make_formula(const Call& call, unsigned learned = 0) {
  Formula formula;
  if constexpr (sizeof(Formula) >= sizeof(T)) {
    auto* fields = reinterpret_cast<T*>(&formula);
    for (unsigned i = 0; i < sizeof(Formula) / sizeof(T); ++i)
      fields[i] = i < learned ? T(0) : static_cast<T>(call.parameters[i - learned]);
  }
  return formula;
}

template <class T>
using Flag = typename ExpConstants<T>::Int;

// The bits of a step, one for each number that a formula keeps. Through memory, bits cost ReLU's forward as much as its
// output does, so all stays in registers, by instructions that compilers do not find by themselves.
#if defined(__AVX512DQ__)
// A vector of numbers, and what comparing gives: keep() is written for these as for single numbers.
template <class Bits>
struct Mask {
  Bits bits;
  Mask operator!() const {
    if constexpr (sizeof(Bits) == 1)
      return {_knot_mask8(bits)};
    else
      return {_knot_mask16(bits)};
  }
  Mask operator|(Mask other) const {
    if constexpr (sizeof(Bits) == 1)
      return {_kor_mask8(bits, other.bits)};
    else
      return {_kor_mask16(bits, other.bits)};
  }
};
template <class T>
struct Numbers {
  T numbers __attribute__((vector_size(kVector)));
  template <int relation>
  auto compare(T other) const {
    if constexpr (sizeof(T) == 4)
      return Mask<__mmask16>{_mm512_cmp_ps_mask(numbers, _mm512_set1_ps(other), relation)};
    else
      return Mask<__mmask8>{_mm512_cmp_pd_mask(numbers, _mm512_set1_pd(other), relation)};
  }
  auto operator<(T other) const { return compare<_CMP_LT_OQ>(other); }
  auto operator<=(T other) const { return compare<_CMP_LE_OQ>(other); }
  auto operator>(T other) const { return compare<_CMP_GT_OQ>(other); }
  auto operator>=(T other) const { return compare<_CMP_GE_OQ>(other); }
};
inline Numbers<float> abs(Numbers<float> x) { return {_mm512_abs_ps(x.numbers)}; }
inline Numbers<double> abs(Numbers<double> x) { return {_mm512_abs_pd(x.numbers)}; }

template <class Formula, class T>
inline void write_bits(const Formula& formula, const T* x, uint8_t* bits) {
  constexpr int count = kVector / sizeof(T);
  for (int i = 0; i < kStep; i += count) {
    Numbers<T> numbers;
    __builtin_memcpy(&numbers, x + i, sizeof numbers);
    auto mask = formula.keep(numbers);
    __builtin_memcpy(bits + i / 8, &mask, sizeof mask);
  }
}
#else
#if defined(__AVX2__)
inline uint64_t sixteen_or_less(const int32_t* flags) {
  return _mm256_movemask_ps(_mm256_load_ps(reinterpret_cast<const float*>(flags)));
}
inline uint64_t sixteen_or_less(const int64_t* flags) {
  return _mm256_movemask_pd(_mm256_load_pd(reinterpret_cast<const double*>(flags)));
}
#elif defined(__SSE2__)
inline uint64_t sixteen_or_less(const int32_t* flags) {
  return _mm_movemask_ps(_mm_load_ps(reinterpret_cast<const float*>(flags)));
}
inline uint64_t sixteen_or_less(const int64_t* flags) {
  return _mm_movemask_pd(_mm_load_pd(reinterpret_cast<const double*>(flags)));
}
#else
template <class Flag>
inline uint64_t sixteen_or_less(const Flag* flags) {
  uint64_t bits = 0;
  for (unsigned j = 0; j < kVector / sizeof(Flag); ++j) bits |= static_cast<uint64_t>(flags[j] & 1) << j;
  return bits;
}
#endif

template <class Formula, class T>
inline void write_bits(const Formula& formula, const T* x, uint8_t* bits) {
  alignas(64) Flag<T> flags[kStep];
  // Most formulas negate what they compare, and here that costs nothing.
  FASTACT_FOR_EACH_IN_STEP(i) flags[i] = formula.keep(x[i]) ? 0 : -1;
  uint64_t dropped = 0;
  for (int i = 0; i < kStep; i += kVector / sizeof(T)) dropped |= sixteen_or_less(flags + i) << i;
  uint64_t kept = ~dropped;
  __builtin_memcpy(bits, &kept, sizeof kept);
}
#endif

// Bits as flags, -1 or 0, which are as wide as the numbers they belong to, so that a select takes them as they are. Of
// each `stride` bits, the first.
template <int stride = 1, class Flag>
inline void unpack(uint64_t bits, Flag* flags) {
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
#if defined(__AVX512DQ__)
inline void unpack(uint64_t bits, int16_t* flags) {
  for (int j = 0; j < kStep; j += 32)
    _mm512_store_si512(flags + j, _mm512_movm_epi16(static_cast<uint32_t>(bits >> j)));
}
inline void unpack(uint64_t bits, int32_t* flags) {
  for (int j = 0; j < kStep; j += 16)
    _mm512_store_si512(flags + j, _mm512_movm_epi32(static_cast<uint16_t>(bits >> j)));
}
inline void unpack(uint64_t bits, int64_t* flags) {
  for (int j = 0; j < kStep; j += 8) _mm512_store_si512(flags + j, _mm512_movm_epi64(static_cast<uint8_t>(bits >> j)));
}
#endif

// The formula for numbers that are kept as S.
template <template <class> class Formula, class S>
struct Choice {
  using type = Formula<S>;
};
template <template <class> class Formula>
struct Choice<Formula, Float16> : Narrow<Formula> {};
template <template <class> class Formula>
struct Choice<Formula, BFloat16> : Narrow<Formula> {};
template <template <class> class Formula, class S>
using FormulaFor = typename Choice<Formula, S>::type;

// Calls body with the formula or, if it has a cheaper one for these parameters, with that.
template <class F, class Body>
inline auto specialise(const F& formula, const Body& body, int) -> decltype(formula.specialised(body)) {
  formula.specialised(body);
}
template <class F, class Body>
inline void specialise(const F& formula, const Body& body, long) {
  body(formula);
}

// Asks for the lines that a later step will write, `ahead` bytes further on, or for none. What is read comes ahead of
// time by itself, but a store waits for its line from L2 while the few hundred instructions that the processor holds
// fill up: with bits to pack, ReLU of 65,536 floats took 10.4 us without this and 8.1 with it, for 1 KiB as for 2.
// Asking for what is read too gained nothing. Were it inlined in part, GCC 12 would find that the rest has no effect.
template <class S>
[[gnu::always_inline]] inline void prefetch_to_write(const void* data, int64_t step, int64_t ahead) {
  if (__builtin_expect(ahead == 0, 1)) return;
  auto* line = static_cast<const char*>(data) + step * sizeof(S) + ahead;
  for (unsigned i = 0; i < kStep * sizeof(S); i += 64) __builtin_prefetch(line + i, true);
}

// Whether no number of a step has a minus sign. Most steps show one among four of their numbers.
template <class T>
inline bool none_negative(const T* x) {
  using Int = typename ExpConstants<T>::Int;
  Int some = bit_cast<Int>(x[0]) | bit_cast<Int>(x[16]) | bit_cast<Int>(x[32]) | bit_cast<Int>(x[48]), any = 0;
  if (__builtin_expect(some < 0, 1)) return false;
  FASTACT_FOR_EACH_IN_STEP(i) any |= bit_cast<Int>(x[i]);
  return any >= 0;
}

// Calls body(i, f(x[i])) with a formula for positive numbers, if there is one and no number of the step is negative.
template <class F, class T, class Body>
inline auto run_positive(const F& formula, const T* x, const Body& body, int) -> decltype(formula.positive(*x), true) {
  if (!none_negative(x)) return false;
  FASTACT_FOR_EACH_IN_STEP(i) body(i, formula.positive(x[i]));
  return true;
}
template <class F, class T, class Body>
inline bool run_positive(const F&, const T*, const Body&, long) {
  return false;
}

// Calls body(i, f(x[i])) for each element of a step. Numbers beyond a table have a formula, whatever stands beside
// them: where all of a step lie there, the table is not read; else the formula is evaluated for the sixteen around
// each.
constexpr int64_t kPart = 16;
template <class F, class T, class Body>
inline void for_each_value(const F& formula, const T* x, const Body& body) {
  if constexpr (in_pieces<F>) {
    using Table = Pieces<F>;
    if constexpr (Table::one_sided) {
      if (__builtin_expect(all_beyond<Table>(x), 0)) {
        FASTACT_FOR_EACH_IN_STEP(i) body(i, formula.beyond_pieces(x[i]));
        return;
      }
    }
    alignas(64) T high[kStep], low[kStep];
    read_pieces<Table>(x, high, low);
    const auto value = [&](int64_t i) {
      if constexpr (Table::split)
        return formula.from_pieces(x[i], high[i], low[i]);
      else
        return formula.from_pieces(x[i], high[i]);
    };
    if constexpr (Table::one_sided) {
      if (__builtin_expect(any_beyond<Table, kStep>(x), 0)) {
        alignas(64) T beyond[kStep] = {};
        for (int64_t part = 0; part < kStep; part += kPart) {
          if (any_beyond<Table, kPart>(x + part))
            FASTACT_VECTORIZE for (int64_t i = part; i < part + kPart; ++i) beyond[i] = formula.beyond_pieces(x[i]);
        }
        FASTACT_FOR_EACH_IN_STEP(i)
        body(i, (Table::mirrored ? -x[i] : x[i]) < Table::least ? beyond[i] : value(i));
        return;
      }
    }
    FASTACT_FOR_EACH_IN_STEP(i) body(i, value(i));
  } else if (!run_positive(formula, x, body, 0)) {
    FASTACT_FOR_EACH_IN_STEP(i) body(i, formula.forward(x[i]));
  }
}

// The random numbers of a step. They are drawn into `u` for a block's steps at once: one step's wait for themselves.
inline const float* draw_for_step(uint64_t seed, int64_t first, int64_t step, int64_t n, float* u) {
  if (step % kBlock == 0) uniforms(seed, first + step, u, n - step < kBlock ? n - step : kBlock);
  return u + step % kBlock;
}

template <class S, bool with_bits, class F>
inline void forward_steps(const F& formula, const void* x_, void* y_, uint8_t* bits, int64_t n, int64_t first,
                          const Call& call) {
  using T = Compute<S>;
  alignas(64) float u[kBlock];
  for (int64_t step = 0; step < n; step += kStep) {
    Widened<S> wide_x, wide_y;
    prefetch_to_write<S>(y_, step, call.ahead);
    const T* x = read(x_, step, wide_x);
    T* y = results(y_, step, wide_y);
    if constexpr (with_bits) write_bits(formula, x, bits + step / 8);
    if constexpr (derives<Random, F>) {
      const float* drawn = draw_for_step(call.seed, first, step, n, u);
      FASTACT_FOR_EACH_IN_STEP(i) y[i] = formula.forward(x[i], drawn[i]);
    } else {
      for_each_value(formula, x, [=](int64_t i, T value) { y[i] = value; });
    }
    finish(wide_y, y_, step);
  }
}

template <template <class> class Formula, class S>
FASTACT_FLATTEN void forward(const void* x, void* y, uint8_t* bits, int64_t n, int64_t first, const Call& call) {
  using F = FormulaFor<Formula, S>;
  const auto run = [=](const auto& formula) {
    if constexpr (derives<SavesBits, F>)
      if (bits) return forward_steps<S, true>(formula, x, y, bits, n, first, call);
    using Stored = std::conditional_t<derives<Random, F>, S, Unordered<S>>;
    forward_steps<Stored, false>(formula, x, y, nullptr, n, first, call);
  };
  specialise(make_formula<F, Compute<S>>(call), run, 0);
}

template <class Formula, class T>
inline auto gradient(const Formula& formula, T grad, T saved, int) -> decltype(formula.gradient(grad, saved)) {
  return formula.gradient(grad, saved);
}
template <class Formula, class T>
inline T gradient(const Formula& formula, T grad, T saved, long) {
  return grad * formula.derivative(saved);
}

// One of two numbers by a flag. Without AVX-512, compilers would branch on it.
template <class T>
inline T either(Flag<T> flag, T set, T unset) {
  return bit_cast<T>((bit_cast<Flag<T>>(set) & flag) | (bit_cast<Flag<T>>(unset) & ~flag));
}

// The bits of a step as flags, in the order that S is widened in.
template <class S, class Flag>
inline void flags_of(const void* bits, int64_t step, Flag* flags) {
  uint64_t packed;
  __builtin_memcpy(&packed, static_cast<const uint8_t*>(bits) + step / 8, sizeof(packed));
  if constexpr (std::is_same_v<S, UnorderedBFloat16>) {
    unpack<2>(packed, flags);
    unpack<2>(packed >> 1, flags + kStep / 2);
  } else {
    unpack(packed, flags);
  }
}

template <class S, class F>
inline void backward_steps(const F& formula, const void* grad_, const void* saved_, void* grad_input_, int64_t n,
                           int64_t first, const Call& call) {
  using T = Compute<S>;
  alignas(64) float u[kBlock];
  for (int64_t step = 0; step < n; step += kStep) {
    prefetch_to_write<S>(grad_input_, step, call.ahead);
    if constexpr (is_16_bit<S> && derives<AllOrNothing<T>, F>) {  // the gradient passes or does not, as it is
      auto* grad = static_cast<const int16_t*>(grad_) + step;
      auto* grad_input = static_cast<int16_t*>(grad_input_) + step;
      alignas(64) int16_t flags[kStep];
      flags_of<S>(saved_, step, flags);
      FASTACT_FOR_EACH_IN_STEP(i) grad_input[i] = grad[i] & flags[i];
    } else {
      Widened<S> wide_grad, wide_saved, wide_grad_input;
      const T* grad = read(grad_, step, wide_grad);
      T* grad_input = results(grad_input_, step, wide_grad_input);
      if constexpr (derives<SavesBits, F>) {
        alignas(64) Flag<T> flags[kStep];
        flags_of<S>(saved_, step, flags);
        const float* drawn = u;
        if constexpr (derives<Random, F>) drawn = draw_for_step(call.seed, first, step, n, u);
        FASTACT_FOR_EACH_IN_STEP(i) {
          T dropped;
          if constexpr (derives<Random, F>)
            dropped = formula.dropped(grad[i], drawn[i]);
          else
            dropped = formula.dropped(grad[i]);
          grad_input[i] = either(flags[i], formula.kept(grad[i]), dropped);
        }
      } else {
        const T* saved = read(saved_, step, wide_saved);
        if constexpr (in_pieces<Derivative<F>>)
          for_each_value(Derivative<F>{formula}, saved, [=](int64_t i, T slope) { grad_input[i] = grad[i] * slope; });
        else
          FASTACT_FOR_EACH_IN_STEP(i) grad_input[i] = gradient(formula, grad[i], saved[i], 0);
      }
      finish(wide_grad_input, grad_input_, step);
    }
  }
}

template <template <class> class Formula, class S>
FASTACT_FLATTEN void backward(const void* grad, const void* saved, void* grad_input, int64_t n, int64_t first,
                              const Call& call) {
  using F = FormulaFor<Formula, S>;
  using Stored = std::conditional_t<derives<Random, F> || derives<AllOrNothing<Compute<S>>, F>, S, Unordered<S>>;
  const auto run = [=](const auto& formula) {
    backward_steps<Stored>(formula, grad, saved, grad_input, n, first, call);
  };
  specialise(make_formula<F, Compute<S>>(call), run, 0);
}

// The formula with the learned numbers of element i.
template <class T, class Formula>
inline Formula with_learned(Formula formula, const void* const* learned, int64_t i) {
  auto* fields = reinterpret_cast<T*>(&formula);
  fields[0] = static_cast<const T*>(learned[0])[i];
  if constexpr (Formula::learned > 1) fields[1] = static_cast<const T*>(learned[1])[i];
  return formula;
}

// Calls body with a function that gives the formula for an element: one for all, or each with numbers of its own.
template <class F, class T, class Body>
inline void with_each_learned(const void* const* learned, bool each, const Call& call, const Body& body) {
  const auto shared = make_formula<F, T>(call, F::learned);
  if (each) {
    body([=](int64_t i) { return with_learned<T>(shared, learned, i); });
  } else {
    const auto formula = with_learned<T>(shared, learned, 0);
    body([=](int64_t) { return formula; });
  }
}

template <template <class> class Formula, class S>
FASTACT_FLATTEN void learned_forward(const void* x_, const void* const* learned, bool each, void* y_, int64_t n,
                                     const Call& call) {
  using T = Compute<S>;
  with_each_learned<FormulaFor<Formula, S>, T>(learned, each, call, [=](const auto& formula) {
    for (int64_t step = 0; step < n; step += kStep) {
      Widened<S> wide_x, wide_y;
      prefetch_to_write<S>(y_, step, call.ahead);
      const T* x = read(x_, step, wide_x);
      T* y = results(y_, step, wide_y);
      FASTACT_FOR_EACH_IN_STEP(i) y[i] = formula(step + i).forward(x[i]);
      finish(wide_y, y_, step);
    }
  });
}

template <template <class> class Formula, class S>
FASTACT_FLATTEN void learned_backward(const void* grad_, const void* x_, const void* const* learned, bool each,
                                      void* grad_input_, void* const* terms, int64_t n, const Call& call) {
  using T = Compute<S>;
  using F = FormulaFor<Formula, S>;
  auto* first = static_cast<T*>(terms[0]);
  auto* last = static_cast<T*>(terms[F::learned - 1]);
  with_each_learned<F, T>(learned, each, call, [=](const auto& formula) {
    for (int64_t step = 0; step < n; step += kStep) {
      Widened<S> wide_grad, wide_x, wide_grad_input;
      const T *grad = read(grad_, step, wide_grad), *x = read(x_, step, wide_x);
      T* grad_input = results(grad_input_, step, wide_grad_input);
      FASTACT_FOR_EACH_IN_STEP(i) {
        const auto gradients = formula(step + i).with_gradients(grad[i], x[i]);
        grad_input[i] = gradients.input;
        first[step + i] = gradients.learned[0];
        last[step + i] = gradients.learned[F::learned - 1];
      }
      finish(wide_grad_input, grad_input_, step);
    }
  });
}

template <template <class> class Formula, class S>
FASTACT_FLATTEN void gated_forward(const void* value_, const void* gate_, void* out_, int64_t n) {
  const FormulaFor<Formula, S> formula{};
  for (int64_t step = 0; step < n; step += kStep) {
    Widened<Unordered<S>> wide_value, wide_gate, wide_out;
    const auto *value = read(value_, step, wide_value), *gate = read(gate_, step, wide_gate);
    auto* out = results(out_, step, wide_out);
    for_each_value(formula.f, gate, [=](int64_t i, auto gated) { out[i] = value[i] * gated; });
    finish(wide_out, out_, step);
  }
}

template <template <class> class Formula, class S>
FASTACT_FLATTEN void gated_backward(const void* grad_, const void* value_, const void* gate_, void* grad_value_,
                                    void* grad_gate_, int64_t n) {
  const FormulaFor<Formula, S> formula{};
  for (int64_t step = 0; step < n; step += kStep) {
    Widened<Unordered<S>> wide_grad, wide_value, wide_gate, wide_grad_value, wide_grad_gate;
    const auto *grad = read(grad_, step, wide_grad), *value = read(value_, step, wide_value);
    const auto* gate = read(gate_, step, wide_gate);
    auto *grad_value = results(grad_value_, step, wide_grad_value),
         *grad_gate = results(grad_gate_, step, wide_grad_gate);
    using Slope = Derivative<decltype(formula.f)>;
    alignas(64) Compute<S> slopes[kStep];
    if constexpr (in_pieces<Slope>)
      for_each_value(Slope{formula.f}, gate, [&](int64_t i, auto slope) { slopes[i] = slope; });
    for_each_value(formula.f, gate, [&](int64_t i, auto gated) {
      auto product = grad[i] * value[i];
      if constexpr (in_pieces<Slope>)
        product *= slopes[i];
      else
        product = formula.gradient(product, gate[i]);
      grad_value[i] = grad[i] * gated;
      grad_gate[i] = product;
    });
    finish(wide_grad_value, grad_value_, step);
    finish(wide_grad_gate, grad_gate_, step);
  }
}

// The elements of one step of a panel.
template <class T>
inline T* step_of(Panel panel, int64_t step) {
  return static_cast<T*>(panel.data) + step * panel.stride;
}

// Combines the lanes of each row into its first one. By halving: sums are accurate, and no result waits for many
// others.
template <class T, class Combine>
inline void fold(T* lanes, Lanes in_use, const Combine& combine) {
  for (int64_t groups = in_use.count / in_use.period; groups > 1; groups = (groups + 1) / 2) {
    int64_t half = (groups + 1) / 2 * in_use.period, others = groups * in_use.period - half;
    for (int64_t i = 0; i < others; ++i) lanes[i] = combine(lanes[i], lanes[half + i]);
  }
}
inline void fold_sums(double* sums, Lanes in_use) {
  fold(sums, in_use, [](double a, double b) { return a + b; });
}

// Gives every lane what the first of its row has.
template <class T>
inline void repeat(const T* rows, Lanes in_use, T* lanes) {
  for (int64_t i = 0; i < in_use.period; ++i)
    for (int64_t lane = i; lane < kLanes; lane += in_use.period) lanes[lane] = rows[i];
}

template <template <class> class Formula, class T>
void softmax_peaks(Panel x_, int64_t steps, Lanes in_use, bool first, void* peaks_) {
  const Formula<T> formula;
  auto* peaks = static_cast<T*>(peaks_);
  alignas(64) T largest[kLanes];
  // From -infinity all differences would be NaN until a number is met.
  FASTACT_FOR_EACH(i, kLanes) largest[i] = first ? -largest_number<T> : peaks[i];
  for (int64_t step = 0; step < steps; ++step) {
    const T* x = step_of<const T>(x_, step);
    FASTACT_FOR_EACH(i, kLanes) largest[i] = at_least(largest[i], formula.oriented(x[i]));
  }
  fold(largest, in_use, [](T a, T b) { return at_least(a, b); });
  repeat(largest, in_use, peaks);
}

template <template <class> class Formula, class T>
void softmax_exponentials(Panel x_, int64_t steps, const void* peaks_, Panel e_, bool first, double* sums) {
  const Formula<T> formula;
  auto* peaks = static_cast<const T*>(peaks_);
  constexpr int64_t count = (Formula<T>::log ? 2 : 1) * kLanes;
  alignas(64) double total[count];
  FASTACT_FOR_EACH(i, count) total[i] = first ? 0 : sums[i];
  for (int64_t step = 0; step < steps; ++step) {
    const T* x = step_of<const T>(x_, step);
    T* e = step_of<T>(e_, step);
    FASTACT_FOR_EACH(i, kLanes) {
      T oriented = formula.oriented(x[i]), exponential = raised_exp(oriented, peaks[i]);
      if constexpr (Formula<T>::log) {
        total[i] += oriented == peaks[i] ? T(0) : exponential;
        total[kLanes + i] += oriented == peaks[i] ? T(kRaised) : T(0);
      } else {
        e[i] = exponential;
        total[i] += exponential;
      }
    }
  }
  FASTACT_FOR_EACH(i, count) sums[i] = total[i];
}

template <template <class> class Formula, class T>
void softmax_finish(double* sums, const void* peaks_, Lanes in_use, void* high_, void* low_) {
  const Formula<T> formula;
  auto* peaks = static_cast<const T*>(peaks_);
  T high[kLanes], low[kLanes];
  fold_sums(sums, in_use);
  if (Formula<T>::log) fold_sums(sums + kLanes, in_use);
  for (int64_t i = 0; i < in_use.period; ++i)
    formula.finish({sums[i], Formula<T>::log ? sums[kLanes + i] : 0}, peaks[i], high[i], low[i]);
  repeat(high, in_use, static_cast<T*>(high_));
  repeat(low, in_use, static_cast<T*>(low_));
}

template <template <class> class Formula, class T>
void softmax_write(Panel source_, int64_t steps, const void* high_, const void* low_, Panel y_) {
  const Formula<T> formula;
  auto *high = static_cast<const T*>(high_), *low = static_cast<const T*>(low_);
  for (int64_t step = 0; step < steps; ++step) {
    const T* source = step_of<const T>(source_, step);
    T* y = step_of<T>(y_, step);
    FASTACT_FOR_EACH(i, kLanes) y[i] = formula.forward(source[i], high[i], low[i]);
  }
}

template <template <class> class Formula, class T>
void softmax_terms(Panel grad_, Panel y_, int64_t steps, bool first, double* sums) {
  const Formula<T> formula;
  constexpr int64_t few = 8;  // the steps after which the sums in T are moved to those in double
  alignas(64) double total[kLanes];
  FASTACT_FOR_EACH(i, kLanes) total[i] = first ? 0 : sums[i];
  for (int64_t begin = 0; begin < steps; begin += few) {
    alignas(64) T partial[kLanes] = {};
    for (int64_t step = begin; step < steps && step < begin + few; ++step) {
      const T *grad = step_of<const T>(grad_, step), *y = step_of<const T>(y_, step);
      FASTACT_FOR_EACH(i, kLanes) partial[i] += formula.term(grad[i], y[i]);
    }
    FASTACT_FOR_EACH(i, kLanes) total[i] += partial[i];
  }
  FASTACT_FOR_EACH(i, kLanes) sums[i] = total[i];
}

template <class T>
void softmax_finish_terms(double* sums, Lanes in_use, void* rounded_) {
  T rounded[kLanes];
  fold_sums(sums, in_use);
  for (int64_t i = 0; i < in_use.period; ++i) rounded[i] = static_cast<T>(sums[i]);
  repeat(rounded, in_use, static_cast<T*>(rounded_));
}

template <template <class> class Formula, class T>
void softmax_gradient(Panel grad_, Panel y_, int64_t steps, const void* sums_, Panel grad_input_) {
  const Formula<T> formula;
  auto* sums = static_cast<const T*>(sums_);
  for (int64_t step = 0; step < steps; ++step) {
    const T *grad = step_of<const T>(grad_, step), *y = step_of<const T>(y_, step);
    T* grad_input = step_of<T>(grad_input_, step);
    FASTACT_FOR_EACH(i, kLanes) grad_input[i] = formula.gradient(grad[i], y[i], sums[i]);
  }
}

// Calls body(first, skipped) for groups of kRowLanes consecutive elements, from `begin` to `end` of a row that has at
// least as many. The last group ends at `end`; the first `skipped` of it have been in the one before.
template <class Body>
inline void for_each_group(int64_t begin, int64_t end, const Body& body) {
  const int64_t rest = (end - begin) % kRowLanes;
  for (int64_t first = begin; first + kRowLanes <= end; first += kRowLanes) body(first, 0);
  if (rest != 0) body(end - kRowLanes, kRowLanes - rest);
}

// y[i] = result(i) for a row, whose numbers may be what y holds: what the last two groups share is computed before.
template <class T, class Result>
inline void write_row(int64_t n, T* y, const Result& result) {
  alignas(64) T last[kRowLanes] = {};
  if (n % kRowLanes != 0) FASTACT_FOR_EACH_LANE(i) last[i] = result(n - kRowLanes + i);
  for (int64_t first = 0; first + kRowLanes <= n; first += kRowLanes)
    FASTACT_FOR_EACH_LANE(i) y[first + i] = result(first + i);
  if (n % kRowLanes != 0) FASTACT_FOR_EACH_LANE(i) y[n - kRowLanes + i] = last[i];
}

template <class T, int64_t n>
struct VectorOf {
  typedef T type __attribute__((vector_size(n * sizeof(T))));
};
template <class T>
struct VectorOf<T, 1> {
  using type = T;
};

// All of n numbers combined into one, by halving.
template <class T, int64_t n, class Combine>
inline T folded(typename VectorOf<T, n>::type numbers, const Combine& combine) {
  if constexpr (n == 1) {
    return numbers;
  } else {
    typename VectorOf<T, n / 2>::type halves[2];
    __builtin_memcpy(halves, &numbers, sizeof numbers);
    return folded<T, n / 2>(combine(halves[0], halves[1]), combine);
  }
}
// kRowLanes numbers, in vectors as wide as the processor's.
template <class T>
struct RowVectors {
  static constexpr int64_t lanes = kVector / sizeof(T) < kRowLanes ? kVector / sizeof(T) : kRowLanes;
  static constexpr int64_t count = kRowLanes / lanes;
  using Vector = typename VectorOf<T, lanes>::type;
  Vector vectors[count];

  // Vector by vector: GCC copies arrays by 16 bytes, through memory, where a wider load then waits for two stores, and
  // clears them by an instruction of 25 ns (rep stos).
  RowVectors() {
    for (auto& each : vectors) each = Vector{};
  }
  explicit RowVectors(const T* from) {
    FASTACT_FOR_EACH_VECTOR(k) __builtin_memcpy(&vectors[k], from + k * lanes, sizeof(Vector));
  }
  void store(T* to) const { FASTACT_FOR_EACH_VECTOR(k) __builtin_memcpy(to + k * lanes, &vectors[k], sizeof(Vector)); }
  template <class Combine>
  void combine(const RowVectors& others, const Combine& combine) {
    FASTACT_FOR_EACH_VECTOR(k) vectors[k] = combine(vectors[k], others.vectors[k]);
  }
  void operator+=(const RowVectors& others) {
    combine(others, [](auto a, auto b) { return a + b; });
  }
  template <class Other>
  explicit operator RowVectors<Other>() const {
    alignas(64) T from[kRowLanes];
    alignas(64) Other to[kRowLanes];
    store(from);
    FASTACT_FOR_EACH_LANE(i) to[i] = from[i];
    return RowVectors<Other>(to);
  }
  // Sets the others to zero.
  void keep_last(int64_t n) {
    static_assert(kRowLanes == 16);
    using Int = typename ExpConstants<T>::Int;
    static constexpr Int flags[2 * kRowLanes] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                                                 -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    const RowVectors<Int> kept(flags + n);
    FASTACT_FOR_EACH_VECTOR(k) { vectors[k] = Vector(typename RowVectors<Int>::Vector(vectors[k]) & kept.vectors[k]); }
  }
  template <class Combine>
  T folded(const Combine& combine) {
    for (int64_t half = count / 2; half > 0; half /= 2)
      for (int64_t k = 0; k < half; ++k) vectors[k] = combine(vectors[k], vectors[half + k]);
    return fastact::folded<T, lanes>(vectors[0], combine);
  }
  T sum() {
    return folded([](auto a, auto b) { return a + b; });
  }
};

// The largest of n numbers or of their negatives, but for NaN.
template <class Formula, class T>
inline T peak_of(const Formula& formula, const T* x, int64_t n) {
  const auto larger = [](auto a, auto b) { return a > b ? a : b; };
  const auto oriented = [&](int64_t first) {
    RowVectors<T> numbers(x + first);
    if (formula.oriented(1) < 0)
      for (auto& each : numbers.vectors) each = -each;
    return numbers;
  };
  auto largest = oriented(0);
  // From -infinity all differences would be NaN until a number is met.
  for (auto& each : largest.vectors) each = decltype(each + each){} - largest_number<T>;
  for_each_group(0, n, [&](int64_t first, int64_t) {
    const auto numbers = oriented(first);
    for (int64_t k = 0; k < numbers.count; ++k) largest.vectors[k] = larger(numbers.vectors[k], largest.vectors[k]);
  });
  return largest.folded(larger);
}

// Of elements `begin` to `end` of a row whose peak is `top`; exponentials are left in y, unless it is a logarithm.
template <class Formula, class T, class Exp>
inline RowSum sum_part(const Formula& formula, const T* x, int64_t begin, int64_t end, T top, const Exp& exp, T* y) {
  using Int = typename ExpConstants<T>::Int;
  alignas(64) double below[kRowLanes];
  alignas(64) Int peaks[kRowLanes];
  FASTACT_FOR_EACH_LANE(i) below[i] = 0, peaks[i] = 0;
  for_each_group(begin, end, [&](int64_t first, int64_t skipped) {
    FASTACT_FOR_EACH_LANE(i) {
      bool counts = static_cast<Int>(i) >= static_cast<Int>(skipped);
      T oriented = formula.oriented(x[first + i]), exponential = exp(oriented);
      if constexpr (Formula::log) {
        below[i] += zero_if((oriented == top) | !counts, exponential);
        peaks[i] += (oriented == top) & counts;
      } else {
        y[first + i] = exponential;
        below[i] += counts ? exponential : T(0);
      }
    }
  });
  return {RowVectors(below).sum(), Formula::log ? kRaised * static_cast<double>(RowVectors(peaks).sum()) : 0};
}

// Of a row: errors of sums grow with their length, and so do integers.
template <class Formula, class T, class Exp>
inline RowSum sum_row(const Formula& formula, const T* x, int64_t n, T top, const Exp& exp, T* y) {
  constexpr int64_t some = 1024;
  RowSum sum = sum_part(formula, x, 0, n < some ? n : some, top, exp, y);
  for (int64_t begin = some; begin < n; begin += some) {
    const auto part = sum_part(formula, x, begin, begin + some < n ? begin + some : n, top, exp, y);
    sum.below += part.below, sum.peaks += part.peaks;
  }
  return sum;
}

// The rows whose sums are taken before any result is written, so that one's does not wait for the other: as many as
// stay in L1 with their results, and have a lane each.
inline int64_t rows_together(int64_t n) {
  const int64_t in_cache = kBlock / n;
  return in_cache < 1 ? 1 : in_cache < kRowLanes ? in_cache : kRowLanes;
}

template <template <class> class Formula, class T>
FASTACT_FLATTEN void softmax_rows(const void* x_, int64_t rows, int64_t n, void* y_) {
  const Formula<T> formula;
  const int64_t together = rows_together(n);
  for (int64_t begin = 0; begin < rows; begin += together) {
    auto* x = static_cast<const T*>(x_) + begin * n;
    auto* y = static_cast<T*>(y_) + begin * n;
    const int64_t count = rows - begin < together ? rows - begin : together;
    alignas(64) T peaks[kRowLanes], high[kRowLanes], low[kRowLanes];
    RowSum sums[kRowLanes];
    for (int64_t row = count; row < kRowLanes; ++row) peaks[row] = 0, sums[row] = {0, 0};
    for (int64_t row = 0; row < count; ++row) peaks[row] = peak_of(formula, x + row * n, n);
    const auto sum_rows = [&](const auto& applies, const auto& exp_of) {
      for (int64_t row = 0; row < count; ++row)
        if (applies(row)) sums[row] = sum_row(formula, x + row * n, n, peaks[row], exp_of(row), y + row * n);
    };
    // Rows of either kind apart, each loop with one kind of exponential and its constants in registers.
    const auto is_moderate = [&](int64_t row) { return Formula<T>::log && abs(peaks[row]) <= RowExp<T>::limit; };
    const auto is_extreme = [&](int64_t row) { return !is_moderate(row); };
    sum_rows(is_extreme, [&](int64_t row) { return [top = peaks[row]](T each) { return raised_exp(each, top); }; });
    if constexpr (Formula<T>::log) {
      RowExp<T> exps[kRowLanes];
      FASTACT_FOR_EACH_LANE(row) exps[row] = RowExp<T>(peaks[row]);
      sum_rows(is_moderate, [&](int64_t row) { return exps[row]; });
      FASTACT_FOR_EACH_LANE(row) {
        double factor = 1 + small_expm1(-exps[row].rest);
        sums[row].below *= is_moderate(row) ? factor : 1;
      }
    }
    FASTACT_FOR_EACH_LANE(row) formula.finish(sums[row], peaks[row], high[row], low[row]);
    for (int64_t row = 0; row < count; ++row) {
      const T first = high[row], second = low[row];
      T* to = y + row * n;
      const T* from = Formula<T>::log ? x + row * n : to;
      write_row(n, to, [=](int64_t i) { return formula.forward(from[i], first, second); });
    }
  }
}

// The sum of what the gradient sums over a row. Eight are added in T before they are added in double.
template <class Formula, class T>
inline double sum_terms(const Formula& formula, const T* grad, const T* y, int64_t n) {
  constexpr int64_t some = 8 * kRowLanes;
  RowVectors<double> total;
  for (int64_t begin = 0; begin < n; begin += some) {
    RowVectors<T> partial;
    for_each_group(begin, begin + some < n ? begin + some : n, [&](int64_t first, int64_t skipped) {
      RowVectors<T> terms(grad + first);
      terms.combine(RowVectors<T>(y + first), [&](auto g, auto y) { return formula.term(g, y); });
      if (skipped > 0) terms.keep_last(kRowLanes - skipped);
      partial += terms;
    });
    total += RowVectors<double>(partial);
  }
  return total.sum();
}

template <template <class> class Formula, class T>
FASTACT_FLATTEN void softmax_rows_backward(const void* grad_, const void* y_, int64_t rows, int64_t n,
                                           void* grad_input_) {
  const Formula<T> formula;
  const int64_t together = Formula<T>::log ? rows_together(n) : 1;
  for (int64_t begin = 0; begin < rows; begin += together) {
    auto *grad = static_cast<const T*>(grad_) + begin * n, *y = static_cast<const T*>(y_) + begin * n;
    auto* grad_input = static_cast<T*>(grad_input_) + begin * n;
    const int64_t count = rows - begin < together ? rows - begin : together;
    T sums[kRowLanes];
    for (int64_t row = 0; row < count; ++row)
      sums[row] = static_cast<T>(sum_terms(formula, grad + row * n, y + row * n, n));
    for (int64_t row = 0; row < count; ++row) {
      const T sum = sums[row];
      const T *from = grad + row * n, *saved = y + row * n;
      T* to = grad_input + row * n;
      for_each_group(0, n, [=](int64_t first, int64_t) {
        if constexpr (Formula<T>::log) {
          FASTACT_FOR_EACH_LANE(i) to[first + i] = formula.gradient(from[first + i], saved[first + i], sum);
        } else {
          RowVectors<T> result(from + first);
          result.combine(RowVectors<T>(saved + first), [=](auto g, auto y) { return formula.gradient(g, y, sum); });
          result.store(to + first);
        }
      });
    }
  }
}

template <template <class> class Formula, class T>
constexpr SoftmaxBlocks softmax_blocks() {
  return {softmax_rows<Formula, T>,     softmax_rows_backward<Formula, T>,
          softmax_peaks<Formula, T>,    softmax_exponentials<Formula, T>,
          softmax_finish<Formula, T>,   softmax_write<Formula, T>,
          softmax_terms<Formula, T>,    softmax_finish_terms<T>,
          softmax_gradient<Formula, T>, Formula<T>::log,
          Formula<T>{}.oriented(1) < 0};
}

}  // namespace

#define FASTACT_EACH_TYPE(block, Formula) \
  {block<Formula, float>, block<Formula, double>, block<Formula, Float16>, block<Formula, BFloat16>},
#define FASTACT_FORWARD(Formula, ...) FASTACT_EACH_TYPE(forward, Formula)
#define FASTACT_BACKWARD(Formula, ...) FASTACT_EACH_TYPE(backward, Formula)
#define FASTACT_LEARNED_FORWARD(Formula, ...) FASTACT_EACH_TYPE(learned_forward, Formula)
#define FASTACT_LEARNED_BACKWARD(Formula, ...) FASTACT_EACH_TYPE(learned_backward, Formula)
#define FASTACT_GATED_FORWARD(Formula, ...) FASTACT_EACH_TYPE(gated_forward, Formula)
#define FASTACT_GATED_BACKWARD(Formula, ...) FASTACT_EACH_TYPE(gated_backward, Formula)
#define FASTACT_SOFTMAX_BLOCKS(Formula, name) {softmax_blocks<Formula, float>(), softmax_blocks<Formula, double>()},
#define FASTACT_STRING(text) FASTACT_STRING_(text)
#define FASTACT_STRING_(text) #text
#define FASTACT_TABLE(name) FASTACT_TABLE_(name)
#define FASTACT_TABLE_(name) k##name

const InstructionSet FASTACT_TABLE(FASTACT_INSTRUCTION_SET) = {
    FASTACT_STRING(FASTACT_INSTRUCTION_SET),
    {FASTACT_POINTWISE(FASTACT_FORWARD)},
    {FASTACT_POINTWISE(FASTACT_BACKWARD)},
    {FASTACT_LEARNED(FASTACT_LEARNED_FORWARD)},
    {FASTACT_LEARNED(FASTACT_LEARNED_BACKWARD)},
    {FASTACT_GATED(FASTACT_GATED_FORWARD)},
    {FASTACT_GATED(FASTACT_GATED_BACKWARD)},
    {maxout_forward<Comparable<float>>, maxout_forward<Comparable<double>>, maxout_forward<Comparable<Float16>>,
     maxout_forward<Comparable<BFloat16>>},
    {maxout_backward<uint32_t>, maxout_backward<uint64_t>, maxout_backward<uint16_t>, maxout_backward<uint16_t>},
    {FASTACT_SOFTMAX(FASTACT_SOFTMAX_BLOCKS)},
    {widen_block<Float16>, widen_block<BFloat16>},
    {narrow_block<Float16>, narrow_block<BFloat16>},
};

}  // namespace fastact
