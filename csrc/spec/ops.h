// The table of ops: formula, name, what is saved for backward, and the operands in the order of the op's schema.
// Everything else follows from it: schemas (schema.h), block functions (kernels/), registration (runtime/ops.cpp),
// autograd nodes (autograd/).
//
// Each reader of the table passes what it makes of an operand of each kind. Scalars and channelwise operands are named
// after the formula's data members; kernels/formulas.h checks that there are no others.
#pragma once

#include "spec/operands.h"

// clang-format off
#define FASTACT_ELEMENTWISE(OP, TILE, SEED, CHANNEL, SCALAR)                               \
  /* activations/rectifiers.h */                                                           \
  OP(ReLU, relu, kMask, TILE(input))                                                       \
  OP(LeakyReLU, leaky_relu, kMask, TILE(input), SCALAR(negative_slope))                    \
  OP(RReLU, rrelu, kMask, TILE(input), SEED(seed), SCALAR(lower), SCALAR(upper))           \
  OP(Threshold, threshold, kMask, TILE(input), SCALAR(threshold), SCALAR(value))           \
  OP(Hardtanh, hardtanh, kMask, TILE(input), SCALAR(min_val), SCALAR(max_val))             \
  OP(ReLU6, relu6, kMask, TILE(input))                                                     \
  OP(SquaredReLU, squared_relu, kInputs, TILE(input))                                      \
  OP(PReLU, prelu, kInputs, TILE(input), CHANNEL(weight))                                  \
  OP(StarReLU, star_relu, kInputs, TILE(input), CHANNEL(scale), CHANNEL(bias))             \
  /* activations/exponentials.h */                                                         \
  OP(ELU, elu, kOutput, TILE(input), SCALAR(alpha))                                        \
  OP(SELU, selu, kOutput, TILE(input))                                                     \
  OP(CELU, celu, kOutput, TILE(input), SCALAR(alpha))                                      \
  OP(XIELU, xielu, kInputs, TILE(input), CHANNEL(alpha_p), CHANNEL(alpha_n), SCALAR(beta)) \
  /* activations/sigmoids.h */                                                             \
  OP(Sigmoid, sigmoid, kOutput, TILE(input))                                               \
  OP(Tanh, tanh, kOutput, TILE(input))                                                     \
  OP(Softsign, softsign, kInputs, TILE(input))                                             \
  OP(Hardsigmoid, hardsigmoid, kMask, TILE(input))                                         \
  /* activations/self_gated.h */                                                           \
  OP(SiLU, silu, kInputs, TILE(input))                                                     \
  OP(QuickGELU, quick_gelu, kInputs, TILE(input))                                          \
  OP(GELU, gelu, kInputs, TILE(input))                                                     \
  OP(GELUTanh, gelu_tanh, kInputs, TILE(input))                                            \
  OP(Mish, mish, kInputs, TILE(input))                                                     \
  OP(Hardswish, hardswish, kInputs, TILE(input))                                           \
  /* activations/shrinkage.h */                                                            \
  OP(Hardshrink, hardshrink, kMask, TILE(input), SCALAR(lambd))                            \
  OP(Softshrink, softshrink, kMask, TILE(input), SCALAR(lambd))                            \
  OP(Tanhshrink, tanhshrink, kInputs, TILE(input))                                         \
  /* activations/softplus.h */                                                             \
  OP(Softplus, softplus, kInputs, TILE(input), SCALAR(beta), SCALAR(threshold))            \
  OP(LogSigmoid, logsigmoid, kOutput, TILE(input))                                         \
  /* activations/periodic.h */                                                             \
  OP(Snake, snake, kInputs, TILE(input), CHANNEL(alpha))                                   \
  /* activations/gated.h: value * f(gate) */                                               \
  OP(GLU, glu, kInputs, TILE(value), TILE(gate))                                           \
  OP(GEGLU, geglu, kInputs, TILE(value), TILE(gate))                                       \
  OP(GEGLUTanh, geglu_tanh, kInputs, TILE(value), TILE(gate))                              \
  OP(SwiGLU, swiglu, kInputs, TILE(value), TILE(gate))                                     \
  OP(ReGLU, reglu, kInputs, TILE(value), TILE(gate))                                       \
  OP(Bilinear, bilinear, kInputs, TILE(value), TILE(gate))

// Ops of rows along a dimension, which have loops of their own. So has Maxout, which is a single op.
#define FASTACT_SOFTMAX(OP)   \
  /* activations/softmax.h */ \
  OP(Softmax, softmax)        \
  OP(Softmin, softmin)        \
  OP(LogSoftmax, log_softmax)
// clang-format on

// For readers that need no operands.
#define FASTACT_NO_OPERAND(name)
#define FASTACT_EACH_ELEMENTWISE(OP) \
  FASTACT_ELEMENTWISE(OP, FASTACT_NO_OPERAND, FASTACT_NO_OPERAND, FASTACT_NO_OPERAND, FASTACT_NO_OPERAND)

namespace fastact {

#define FASTACT_INDEX(Formula, ...) k##Formula,
enum Elementwise : int { FASTACT_EACH_ELEMENTWISE(FASTACT_INDEX) kElementwiseCount };
enum SoftmaxKind : int { FASTACT_SOFTMAX(FASTACT_INDEX) kSoftmaxCount };
#undef FASTACT_INDEX

namespace spec {
// clang-format off
#define FASTACT_TILE(name) Operand{Kind::kTile, #name}
#define FASTACT_SEED(name) Operand{Kind::kSeed, #name}
#define FASTACT_CHANNEL(name) Operand{Kind::kChannel, #name}
#define FASTACT_SCALAR(name) Operand{Kind::kScalar, #name}
// clang-format on
#define FASTACT_OPERANDS(Formula, name, saved, tile, ...)                          \
  inline constexpr Operand k##Formula[] = {tile, __VA_ARGS__};                     \
  inline constexpr Operand kBias##Formula[] = {                                    \
      tile, {Kind::kChannel, "bias"}, {Kind::kResidual, "residual"}, __VA_ARGS__}; \
  inline constexpr Operand kL1##Formula[] = {tile, {Kind::kScalar, "l1"}, __VA_ARGS__};
FASTACT_ELEMENTWISE(FASTACT_OPERANDS, FASTACT_TILE, FASTACT_SEED, FASTACT_CHANNEL, FASTACT_SCALAR)
#undef FASTACT_OPERANDS
#undef FASTACT_TILE
#undef FASTACT_SEED
#undef FASTACT_CHANNEL
#undef FASTACT_SCALAR
}  // namespace spec

#define FASTACT_OP(Formula, name, saved, ...) \
  Op{#name, #Formula, Saved::saved, spec::k##Formula, sizeof(spec::k##Formula) / sizeof(Operand)},
inline constexpr Op kOps[] = {FASTACT_EACH_ELEMENTWISE(FASTACT_OP)};
#undef FASTACT_OP

// f(input + bias) + residual for each f that is pointwise and not random. Where f saves its output, backward computes
// that of input + bias again.
#define FASTACT_OP(Formula, name, saved, ...)                                                      \
  Op{"bias_" #name, "Bias" #Formula, Saved::saved == Saved::kMask ? Saved::kMask : Saved::kInputs, \
     spec::kBias##Formula, sizeof(spec::kBias##Formula) / sizeof(Operand)},
inline constexpr Op kBiasOps[] = {FASTACT_EACH_ELEMENTWISE(FASTACT_OP)};
#undef FASTACT_OP
constexpr bool has_bias_form(const Op& op) { return op.is_pointwise() && !op.is_random(); }

// The backward of f where `l1`, the gradient of the sum of |f(input)|, joins that of the output: grad + l1
// sign(output), or grad + l1 where a mask is saved.
#define FASTACT_OP(Formula, name, saved, ...) \
  Op{"l1_" #name, #Formula, Saved::saved, spec::kL1##Formula, sizeof(spec::kL1##Formula) / sizeof(Operand)},
inline constexpr Op kL1Ops[] = {FASTACT_EACH_ELEMENTWISE(FASTACT_OP)};
#undef FASTACT_OP

struct SoftmaxOp {
  const char *name, *module;
};
#define FASTACT_OP(Formula, name) SoftmaxOp{#name, #Formula},
inline constexpr SoftmaxOp kSoftmaxOps[] = {FASTACT_SOFTMAX(FASTACT_OP)};
#undef FASTACT_OP

// Returns the largest number of operands of a kind in any op.
constexpr int most(Kind kind) {
  int found = 0;
  for (const Op& op : kOps) found = op.count(kind) > found ? op.count(kind) : found;
  return found;
}

}  // namespace fastact
