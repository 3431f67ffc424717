// The formulas of the table: which one a dtype takes, and how scalars and weights get into it.
#pragma once

#include "activations/exponentials.h"
#include "activations/gated.h"
#include "activations/lowp.h"
#include "activations/lut8_tables.h"
#include "activations/periodic.h"
#include "activations/rectifiers.h"
#include "activations/self_gated.h"
#include "activations/shrinkage.h"
#include "activations/sigmoids.h"
#include "activations/softplus.h"
#include "kernels/block.h"
#include "simd/lowp.h"

namespace fastact {
namespace {

// Chooses the formula for numbers stored as S.
template <template <class> class Formula, class S>
struct Choice {
  using type = Formula<S>;
};
template <template <class> class Formula>
struct Choice<Formula, Float16> : LowPrecision<Formula> {};
template <template <class> class Formula>
struct Choice<Formula, BFloat16> : LowPrecision<Formula> {};
template <template <class> class Formula, class S>
using FormulaFor = typename Choice<Formula, S>::type;

// Calls body with the formula or, if it has a cheaper one for its scalars, with that.
template <class F, class Body>
inline auto specialise(const F& formula, const Body& body, int) -> decltype(formula.specialised(body)) {
  formula.specialised(body);
}
template <class F, class Body>
inline void specialise(const F& formula, const Body& body, long) {
  body(formula);
}

// Operands of the table, with the formula's data members that they set.
struct NoMember {
  static constexpr int count = 0;
  template <class F>
  static void set_scalar(F&, const double*, int&) {}
  template <class F, class T>
  static void set_weight(F&, const T* const*, int&, int64_t) {}
};
// Scalars arrive as doubles and are rounded to the compute type once, as in torch (whose shrinkages alone round lambd
// to 16 bits).
template <auto member>
struct ScalarMember : NoMember {
  static constexpr int count = 1;
  template <class F>
  static void set_scalar(F& formula, const double* scalars, int& index) {
    formula.*member = static_cast<std::remove_reference_t<decltype(formula.*member)>>(scalars[index++]);
  }
};
template <auto member>
struct WeightMember : NoMember {
  static constexpr int count = 1;
  template <class F, class T>
  static void set_weight(F& formula, const T* const* weights, int& index, int64_t i) {
    formula.*member = weights[index++][i];
  }
};
template <class... Each>
struct Members {};

template <template <class> class Formula>
struct Table;
#define FASTACT_NO_MEMBER(name) NoMember
#define FASTACT_WEIGHT(name) WeightMember<&F::name>
#define FASTACT_SCALAR(name) ScalarMember<&F::name>
#define FASTACT_TABLE(Formula, name, saved, ...)      \
  template <>                                         \
  struct Table<Formula> {                             \
    static constexpr const Op& op = kOps[k##Formula]; \
    template <class F>                                \
    using MembersOf = Members<__VA_ARGS__>;           \
  };
FASTACT_ELEMENTWISE(FASTACT_TABLE, FASTACT_NO_MEMBER, FASTACT_NO_MEMBER, FASTACT_WEIGHT, FASTACT_SCALAR)
#undef FASTACT_NO_MEMBER
#undef FASTACT_WEIGHT
#undef FASTACT_SCALAR
#undef FASTACT_TABLE

// Returns the formula with its scalars set, and its weights 0.
template <class F, class T, class... Each>
inline F make_formula(Members<Each...>, const Call& call) {
  constexpr int count = (Each::count + ... + 0);
  static_assert(count == 0 ? __is_empty(F) : sizeof(F) == count * sizeof(T),
                "spec/ops.h must name every data member of the formula, as a scalar or as a channelwise operand");
  F formula{};
  int index = 0;
  (Each::set_scalar(formula, call.scalars, index), ...);
  return formula;
}

// Returns the formula with the weights of element i.
template <class F, class T, class... Each>
inline F with_weights(F formula, Members<Each...>, const T* const* weights, int64_t i) {
  int index = 0;
  (Each::set_weight(formula, weights, index, i), ...);
  return formula;
}

}  // namespace
}  // namespace fastact
