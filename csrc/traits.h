// What the ops of an activation look like, from its formula and its line in activations.h: those that work element by
// element or on rows.
#pragma once

#include <type_traits>

#include "exponentials.h"
#include "kernels.h"
#include "periodic.h"
#include "rectifiers.h"
#include "self_gated.h"
#include "shrinkage.h"
#include "sigmoids.h"
#include "softplus.h"

namespace fastact {

template <Pointwise which>
struct Traits;

#define FASTACT_TRAITS(Formula, op, schema_parameters)                                                       \
  template <>                                                                                                \
  struct Traits<k##Formula> {                                                                                \
    static constexpr const char* name = #op;                                                                 \
    static constexpr const char* parameters = schema_parameters;                                             \
    static constexpr const char* module = #Formula;                                                          \
    static constexpr bool saves_bits = std::is_base_of_v<SavesBits, Formula<float>>;                         \
    static constexpr bool saves_output = std::is_base_of_v<SavesOutput, Formula<float>>;                     \
    static constexpr bool random = std::is_base_of_v<Random, Formula<float>>;                                \
    static constexpr int parameter_count = std::is_empty_v<Formula<float>> ? 0 : sizeof(Formula<float>) / 4; \
  };
FASTACT_POINTWISE(FASTACT_TRAITS)
#undef FASTACT_TRAITS

template <LearnedPointwise which>
struct LearnedTraits;

#define FASTACT_TRAITS(Formula, op, schema_learned, schema_parameters)           \
  template <>                                                                    \
  struct LearnedTraits<k##Formula> {                                             \
    static constexpr const char* name = #op;                                     \
    static constexpr const char* module = #Formula;                              \
    static constexpr const char* tensors = schema_learned;                       \
    static constexpr const char* parameters = schema_parameters;                 \
    static constexpr int learned = Formula<float>::learned;                      \
    static constexpr int parameter_count = sizeof(Formula<float>) / 4 - learned; \
    static_assert(learned <= kMostLearned);                                      \
  };
FASTACT_LEARNED(FASTACT_TRAITS)
#undef FASTACT_TRAITS

template <SoftmaxKind which>
struct SoftmaxTraits;

#define FASTACT_TRAITS(Formula, op)                 \
  template <>                                       \
  struct SoftmaxTraits<k##Formula> {                \
    static constexpr const char* name = #op;        \
    static constexpr const char* module = #Formula; \
  };
FASTACT_SOFTMAX(FASTACT_TRAITS)
#undef FASTACT_TRAITS

}  // namespace fastact
