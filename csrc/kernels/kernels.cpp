// The block functions of every op for one instruction set. setup.py compiles this file once for each, with that set's
// flags and its name in FASTACT_INSTRUCTION_SET. Everything but the table has internal linkage, and no inline function
// of the standard library is used: the linker may keep only one copy of those, and it could be the one with
// instructions this machine lacks.
#include "kernels/bias.h"
#include "kernels/block.h"
#include "kernels/elementwise.h"
#include "kernels/l1.h"
#include "kernels/maxout.h"
#include "kernels/softmax_rows.h"
#include "kernels/softmax_strided.h"
#include "kernels/summary.h"
#include "kernels/sums.h"

namespace fastact {
namespace {

template <template <class> class Formula, class S>
constexpr SoftmaxBlocks softmax_blocks() {
  using T = Compute<S>;
  // The type in which exponentials are added up; double for a logarithm, which may be of a sum next to 1.
  using Sum = std::conditional_t<is_16_bit<S> && !Formula<T>::log, float, double>;
  return {softmax_rows<Formula, T, Sum>, softmax_rows_backward<Formula, S>,
          softmax_row_max<Formula, T>,   softmax_exponentials<Formula, T>,
          softmax_finalize<Formula, T>,  softmax_write<Formula, T>,
          softmax_terms<Formula, T>,     softmax_finalize_terms<T>,
          softmax_gradient<Formula, T>,  Formula<T>::log,
          Formula<T>{}.oriented(1) < 0};
}

}  // namespace

#define FASTACT_EACH_TYPE(block, Formula) \
  {block<Formula, float>, block<Formula, double>, block<Formula, Float16>, block<Formula, BFloat16>},
#define FASTACT_FORWARD(Formula, ...) FASTACT_EACH_TYPE(forward, Formula)
#define FASTACT_BACKWARD(Formula, ...) FASTACT_EACH_TYPE(backward, Formula)
#define FASTACT_SOFTMAX_BLOCKS(Formula, name)                                                               \
  {softmax_blocks<Formula, float>(), softmax_blocks<Formula, double>(), softmax_blocks<Formula, Float16>(), \
   softmax_blocks<Formula, BFloat16>()},
#define FASTACT_STRING(text) FASTACT_STRING_(text)
#define FASTACT_STRING_(text) #text
#define FASTACT_SET(name) FASTACT_SET_(name)
#define FASTACT_SET_(name) k##name

const InstructionSet FASTACT_SET(FASTACT_INSTRUCTION_SET) = {
    FASTACT_STRING(FASTACT_INSTRUCTION_SET),
    {FASTACT_EACH_ELEMENTWISE(FASTACT_FORWARD)},
    {FASTACT_EACH_ELEMENTWISE(FASTACT_BACKWARD)},
    {add_bias<float>, add_bias<double>, add_bias<Float16>, add_bias<BFloat16>},
    {add_residual<float>, add_residual<double>, add_residual<Float16>, add_residual<BFloat16>},
    {add_l1<float>, add_l1<double>, add_l1<Float16>, add_l1<BFloat16>},
    {sum<float>, sum<double>},
    {sum_of_sizes<float>, sum_of_sizes<double>},
    {add_each<float>, add_each<double>},
    {add_moments<float>, add_moments<double>},
    {summarize<float>, summarize<double>},
    {count_flat<float>, count_flat<double>},
    {maxout_forward<Comparable<float>>, maxout_forward<Comparable<double>>, maxout_forward<Comparable<Float16>>,
     maxout_forward<Comparable<BFloat16>>},
    {maxout_backward<uint32_t>, maxout_backward<uint64_t>, maxout_backward<uint16_t>, maxout_backward<uint16_t>},
    {FASTACT_SOFTMAX(FASTACT_SOFTMAX_BLOCKS)},
    {promote_block<Float16>, promote_block<BFloat16>},
    {demote_block<Float16>, demote_block<BFloat16>},
};

}  // namespace fastact
