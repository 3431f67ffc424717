// One loop for all elementwise ops. A program declares the kinds of its operands and computes one step of them. The
// block functions choose the program for an op of the table (spec/ops.h).
#pragma once

#include <cstddef>
#include <utility>

#include "kernels/formulas.h"
#include "kernels/philox.h"
#include "kernels/tiles.h"
#include "kernels/values.h"

namespace fastact {
namespace {

// How a step of an operand is opened for a program and closed after it. Buffers for promoted numbers are separate
// objects: in one struct with a pointer, GCC would keep both in memory.
struct NoBuffer {};
template <class S>
struct ReadTile {
  using Buffer = Promoted<S>;
  static const Compute<S>* open(const void* data, int64_t at, Buffer& buffer) { return read_step(data, at, buffer); }
};
template <class S>
struct WriteTile {
  using Buffer = Promoted<S>;
  static Compute<S>* open(void* data, int64_t at, Buffer& buffer) { return target_step(data, at, buffer); }
  static void close(void* data, int64_t at, const Buffer& buffer) { write_step(buffer, data, at); }
};
template <class S>
struct StepMask {
  uint64_t bits;
  // Unpacks the flags in the order in which S is promoted.
  template <class Flag>
  void unpack(Flag* flags) const {
    if constexpr (std::is_same_v<S, UnorderedBFloat16>) {
      unpack_mask<2>(bits, flags);
      unpack_mask<2>(bits >> 1, flags + kStep / 2);
    } else {
      unpack_mask(bits, flags);
    }
  }
};
template <class S>
struct ReadMask {
  using Buffer = NoBuffer;
  static StepMask<S> open(const void* data, int64_t at, Buffer&) {
    StepMask<S> mask;
    __builtin_memcpy(&mask.bits, static_cast<const uint8_t*>(data) + at / 8, sizeof(mask.bits));
    return mask;
  }
};
struct WriteMask {
  using Buffer = NoBuffer;
  static uint8_t* open(void* data, int64_t at, Buffer&) { return static_cast<uint8_t*>(data) + at / 8; }
  static void close(void*, int64_t, const Buffer&) {}
};
// Numbers in compute type: weights for each element, or terms of a sum.
template <class T>
struct ReadWide {
  using Buffer = NoBuffer;
  static const T* open(const void* data, int64_t at, Buffer&) { return static_cast<const T*>(data) + at; }
};
template <class T>
struct WriteWide {
  using Buffer = NoBuffer;
  static T* open(void* data, int64_t at, Buffer&) { return static_cast<T*>(data) + at; }
  static void close(void*, int64_t, const Buffer&) {}
};

template <class... Each>
struct Operands {};
template <class, class T>
struct GivenType {
  using Type = T;
};
template <class Operand, class T>
using Given = typename GivenType<Operand, T>::Type;

// In a struct, where the packs are known before the call: Clang deduces none that is not the last.
template <class In, class Out>
struct Step;
template <class... In, class... Out>
struct Step<Operands<In...>, Operands<Out...>> {
  template <class Program>
  static void run(const Program& program, int64_t at, Given<In, const void*>... inputs, Given<Out, void*>... outputs,
                  typename In::Buffer&&... in_buffers, typename Out::Buffer&&... out_buffers) {
    program.step(at, In::open(inputs, at, in_buffers)..., Out::open(outputs, at, out_buffers)...);
    (Out::close(outputs, at, out_buffers), ...);
  }
};

template <class Program, class... In, class... Out, size_t... i, size_t... o>
inline void run_steps(const Program& program, Operands<In...>, std::index_sequence<i...>, Operands<Out...>,
                      std::index_sequence<o...>, const void* const* inputs, void* const* outputs, int64_t n,
                      const Call& call) {
  const void* const from[] = {inputs[i]...};
  void* const to[] = {outputs[o]...};
  const int64_t prefetch = call.prefetch;
  for (int64_t at = 0; at < n; at += kStep) {
    if constexpr (Program::prefetches) prefetch_to_write<typename Program::Stored>(to[0], at, prefetch);
    Step<Operands<In...>, Operands<Out...>>::run(program, at, from[i]..., to[o]..., typename In::Buffer{}...,
                                                 typename Out::Buffer{}...);
  }
}

template <class... In, class... Out, class Program>
inline void run_steps(const Program& program, Operands<In...> in, Operands<Out...> out, const void* const* inputs,
                      void* const* outputs, int64_t n, const Call& call) {
  run_steps(program, in, std::index_sequence_for<In...>(), out, std::index_sequence_for<Out...>(), inputs, outputs, n,
            call);
}

// y = f(x)
template <class F, class S>
struct Forward {
  static constexpr bool prefetches = true;
  using Stored = S;
  using T = Compute<S>;
  using Reads = Operands<ReadTile<S>>;
  using Writes = Operands<WriteTile<S>>;
  F formula;

  void step(int64_t, const T* x, T* y) const {
    for_each_value(formula, x, [=](int64_t i, T value) { y[i] = value; });
  }
};

// Random numbers, generated a block at a time to hide the latency of the Philox rounds.
struct Uniforms {
  uint64_t seed;
  int64_t first, n;
  float* u;  // room for kBlock

  const float* at(int64_t step) const {
    if (step % kBlock == 0) uniforms(seed, first + step, u, n - step < kBlock ? n - step : kBlock);
    return u + step % kBlock;
  }
};

// y = f(x, u)
template <class F, class S>
struct RandomForward : Forward<F, S> {
  using T = Compute<S>;
  Uniforms uniforms;

  void step(int64_t at, const T* x, T* y) const {
    const float* u = uniforms.at(at);
    FASTACT_FOR_EACH_IN_STEP(i) y[i] = this->formula.forward(x[i], u[i]);
  }
};

// A forward program that also writes the mask.
template <class Program>
struct WithMask {
  static constexpr bool prefetches = true;
  using Stored = typename Program::Stored;
  using T = Compute<Stored>;
  using Reads = typename Program::Reads;
  using Writes = Operands<WriteTile<Stored>, WriteMask>;
  Program program;

  void step(int64_t at, const T* x, T* y, uint8_t* mask) const {
    write_mask([this](auto each) { return program.formula.keep(each); }, x, mask);  // first, since y may be x
    program.step(at, x, y);
  }
};

template <class Formula, class T>
inline auto gradient(const Formula& formula, T grad, T saved, int) -> decltype(formula.gradient(grad, saved)) {
  return formula.gradient(grad, saved);
}
template <class Formula, class T>
inline T gradient(const Formula& formula, T grad, T saved, long) {
  return grad * formula.derivative(saved);
}

// Selects one of two numbers by a flag. Without AVX-512, compilers would branch.
template <class T>
inline T either(Flag<T> flag, T set, T unset) {
  return bit_cast<T>((bit_cast<Flag<T>>(set) & flag) | (bit_cast<Flag<T>>(unset) & ~flag));
}

// grad_input = grad f'(saved), where saved is the output or the input.
template <class F, class S>
struct Backward {
  static constexpr bool prefetches = true;
  using Stored = S;
  using T = Compute<S>;
  using Reads = Operands<ReadTile<S>, ReadTile<S>>;
  using Writes = Operands<WriteTile<S>>;
  F formula;

  void step(int64_t, const T* grad, const T* saved, T* grad_input) const {
    if constexpr (has_lut8<Derivative<F>>)
      for_each_value(Derivative<F>{formula}, saved, [=](int64_t i, T slope) { grad_input[i] = grad[i] * slope; });
    else
      FASTACT_FOR_EACH_IN_STEP(i) grad_input[i] = gradient(formula, grad[i], saved[i], 0);
  }
};

// Selects one of two gradients by the mask.
template <class F, class S>
struct MaskedBackward {
  static constexpr bool prefetches = true;
  using Stored = S;
  using T = Compute<S>;
  using Reads = Operands<ReadTile<S>, ReadMask<S>>;
  using Writes = Operands<WriteTile<S>>;
  F formula;

  template <class Dropped>
  void select(const T* grad, StepMask<S> mask, T* grad_input, const Dropped& dropped) const {
    alignas(64) Flag<T> flags[kStep];
    mask.unpack(flags);
    FASTACT_FOR_EACH_IN_STEP(i) grad_input[i] = either(flags[i], formula.kept(grad[i]), dropped(i));
  }
  void step(int64_t, const T* grad, StepMask<S> mask, T* grad_input) const {
    select(grad, mask, grad_input, [=](int64_t i) { return formula.dropped(grad[i]); });
  }
};

template <class F, class S>
struct RandomBackward : MaskedBackward<F, S> {
  using T = Compute<S>;
  Uniforms uniforms;

  void step(int64_t at, const T* grad, StepMask<S> mask, T* grad_input) const {
    const float* u = uniforms.at(at);
    this->select(grad, mask, grad_input, [=](int64_t i) { return this->formula.dropped(grad[i], u[i]); });
  }
};

// Passes a gradient or drops it, in its 16 bits.
struct PassBackward {
  static constexpr bool prefetches = true;
  using Stored = int16_t;
  using Reads = Operands<ReadTile<int16_t>, ReadMask<int16_t>>;
  using Writes = Operands<WriteTile<int16_t>>;

  void step(int64_t, const int16_t* grad, StepMask<int16_t> mask, int16_t* grad_input) const {
    alignas(64) int16_t flags[kStep];
    mask.unpack(flags);
    FASTACT_FOR_EACH_IN_STEP(i) grad_input[i] = grad[i] & flags[i];
  }
};

template <size_t, class T>
using Each = T;

// y = f(x) with weights: those numbered k are read for each element. Where k is empty, the formula holds them.
template <class F, class S, class Members, class Weights, class Write = WriteTile<S>>
struct ChannelwiseForward;
template <class F, class S, class Members, size_t... k, class Write>
struct ChannelwiseForward<F, S, Members, std::index_sequence<k...>, Write> {
  static constexpr bool prefetches = true;
  using Stored = S;
  using T = Compute<S>;
  using Reads = Operands<ReadTile<S>, ReadWide<Each<k, T>>...>;
  using Writes = Operands<Write>;
  F formula;

  F at(int64_t i, Each<k, const T*>... weights) const {
    const T* const each[] = {weights..., nullptr};
    return sizeof...(k) == 0 ? formula : with_weights(formula, Members(), each, i);
  }
  void step(int64_t, const T* x, Each<k, const T*>... weights, T* y) const {
    FASTACT_FOR_EACH_IN_STEP(i) y[i] = at(i, weights...).forward(x[i]);
  }
};

// Computes the gradient of x and the terms that sum to the weights' gradients.
template <class F, class S, class Members, class Weights, class Terms>
struct ChannelwiseBackward;
template <class F, class S, class Members, size_t... k, size_t... term>
struct ChannelwiseBackward<F, S, Members, std::index_sequence<k...>, std::index_sequence<term...>> {
  static constexpr bool prefetches = false;
  using Stored = S;
  using T = Compute<S>;
  using Reads = Operands<ReadTile<S>, ReadTile<S>, ReadWide<Each<k, T>>...>;
  using Writes = Operands<WriteTile<S>, WriteWide<Each<term, T>>...>;
  ChannelwiseForward<F, S, Members, std::index_sequence<k...>> formula;

  void step(int64_t, const T* grad, const T* x, Each<k, const T*>... weights, T* grad_input,
            Each<term, T*>... terms) const {
    FASTACT_FOR_EACH_IN_STEP(i) {
      const auto gradients = formula.at(i, weights...).with_gradients(grad[i], x[i]);
      grad_input[i] = gradients.input;
      ((terms[i] = gradients.weights[term]), ...);
    }
  }
};

// value * f(gate)
template <class F, class S>
struct GatedForward {
  static constexpr bool prefetches = false;
  using Stored = S;
  using T = Compute<S>;
  using Reads = Operands<ReadTile<S>, ReadTile<S>>;
  using Writes = Operands<WriteTile<S>>;
  F formula;

  void step(int64_t, const T* value, const T* gate, T* out) const {
    for_each_value(formula.f, gate, [=](int64_t i, T gated) { out[i] = value[i] * gated; });
  }
};

template <class F, class S>
struct GatedBackward {
  static constexpr bool prefetches = false;
  using Stored = S;
  using T = Compute<S>;
  using Reads = Operands<ReadTile<S>, ReadTile<S>, ReadTile<S>>;
  using Writes = Operands<WriteTile<S>, WriteTile<S>>;
  F formula;

  void step(int64_t, const T* grad, const T* value, const T* gate, T* grad_value, T* grad_gate) const {
    using Slope = Derivative<std::remove_const_t<decltype(F::f)>>;
    alignas(64) T slopes[kStep];
    if constexpr (has_lut8<Slope>)
      for_each_value(Slope{formula.f}, gate, [&](int64_t i, T slope) { slopes[i] = slope; });
    for_each_value(formula.f, gate, [&](int64_t i, T gated) {
      T product = grad[i] * value[i];
      if constexpr (has_lut8<Slope>)
        product *= slopes[i];
      else
        product = formula.gradient(product, gate[i]);
      grad_value[i] = grad[i] * gated;
      grad_gate[i] = product;
    });
  }
};

// The arguments of a block function, for a program.
struct Arguments {
  const void* const* inputs;
  void* const* outputs;
  int64_t n;
  const Call& call;

  template <class Program>
  void run(const Program& program) const {
    run_steps(program, typename Program::Reads(), typename Program::Writes(), inputs, outputs, n, call);
  }
};

// Calls body(formula, numbers of the weights to read for each element). If there is one weight for all elements, the
// formula holds it. Weights follow `tiles` other inputs.
template <class Members, class F, class T, size_t... k, class Body>
inline void with_each_weight(const F& formula, const Arguments& arguments, int tiles, std::index_sequence<k...> numbers,
                             const Body& body) {
  if (arguments.call.per_element) {
    body(formula, numbers);
  } else {
    const T* const weights[] = {static_cast<const T*>(arguments.inputs[tiles + k])...};
    body(with_weights(formula, Members(), weights, 0), std::index_sequence<>());
  }
}

template <template <class> class Formula, class S>
FASTACT_FLATTEN void forward(const void* const* inputs, void* const* outputs, int64_t n, int64_t first,
                             const Call& call) {
  using F = FormulaFor<Formula, S>;
  using T = Compute<S>;
  using Members = typename Table<Formula>::template MembersOf<F>;
  constexpr const Op& op = Table<Formula>::op;
  constexpr int weights = op.count(Kind::kChannel);
  const Arguments arguments{inputs, outputs, n, call};
  const auto formula = make_formula<F, T>(Members(), call);
  if constexpr (derives<GatedUnit, F>) {
    arguments.run(GatedForward<F, Unordered<S>>{formula});
  } else if constexpr (weights > 0) {
    with_each_weight<Members, F, T>(formula, arguments, 1, std::make_index_sequence<weights>(),
                                    [&](const F& formula, auto numbers) {
                                      arguments.run(ChannelwiseForward<F, S, Members, decltype(numbers)>{formula});
                                    });
  } else if constexpr (derives<Random, F>) {
    alignas(64) float u[kBlock];
    const RandomForward<F, S> program{{formula}, {call.seed, first, n, u}};
    if (outputs[1])
      arguments.run(WithMask<RandomForward<F, S>>{program});
    else
      arguments.run(program);
  } else {
    specialise(
        formula,
        [&](const auto& formula) {
          using Chosen = std::decay_t<decltype(formula)>;
          if constexpr (op.saved == Saved::kMask)
            if (outputs[1]) return arguments.run(WithMask<Forward<Chosen, S>>{{formula}});
          arguments.run(Forward<Chosen, Unordered<S>>{formula});
        },
        0);
  }
}

template <template <class> class Formula, class S>
FASTACT_FLATTEN void backward(const void* const* inputs, void* const* outputs, int64_t n, int64_t first,
                              const Call& call) {
  using F = FormulaFor<Formula, S>;
  using T = Compute<S>;
  using Members = typename Table<Formula>::template MembersOf<F>;
  constexpr const Op& op = Table<Formula>::op;
  constexpr int weights = op.count(Kind::kChannel);
  static_assert(op.saved == (derives<SavesMask, F>     ? Saved::kMask
                             : derives<SavesOutput, F> ? Saved::kOutput
                                                       : Saved::kInputs),
                "spec/ops.h must say of the formula what its base class says is saved");
  static_assert(op.is_random() == derives<Random, F>,
                "spec/ops.h must give a seed to random formulas, and to no other");
  static_assert(op.count(Kind::kTile) == (derives<GatedUnit, F> ? 2 : 1),
                "spec/ops.h must give two tiles to a gated unit, and one to any other formula");
  const Arguments arguments{inputs, outputs, n, call};
  const auto formula = make_formula<F, T>(Members(), call);
  if constexpr (derives<GatedUnit, F>) {
    arguments.run(GatedBackward<F, Unordered<S>>{formula});
  } else if constexpr (weights > 0) {
    using Terms = std::make_index_sequence<weights>;
    with_each_weight<Members, F, T>(formula, arguments, 2, Terms(), [&](const F& formula, auto numbers) {
      arguments.run(ChannelwiseBackward<F, S, Members, decltype(numbers), Terms>{{formula}});
    });
  } else if constexpr (derives<Random, F>) {
    alignas(64) float u[kBlock];
    arguments.run(RandomBackward<F, S>{{formula}, {call.seed, first, n, u}});
  } else if constexpr (derives<PassOrDrop<T>, F> && is_16_bit<S>) {
    arguments.run(PassBackward());
  } else {
    specialise(
        formula,
        [&](const auto& formula) {
          using Chosen = std::decay_t<decltype(formula)>;
          if constexpr (op.saved == Saved::kMask)
            arguments.run(MaskedBackward<Chosen, Unordered<S>>{formula});
          else
            arguments.run(Backward<Chosen, Unordered<S>>{formula});
        },
        0);
  }
}

}  // namespace
}  // namespace fastact
