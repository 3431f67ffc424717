// f(input + bias) + residual as a chain of blocks on a part that stays in L1, so that no code is generated for each f.
// Everything is computed in compute type; 16-bit outputs are rounded once.
#pragma once

#include "runtime/dispatch.h"
#include "runtime/dtype.h"

namespace fastact {

// Each takes the arguments of the op's block function (kernels/block.h), for up to kBlock elements.
template <class T>
struct BiasForward {
  int which, type;
  bool has_residual;

  void operator()(const void* const* inputs, void* const* outputs, int64_t n, int64_t first, const Call& call) const {
    const InstructionSet& set = instruction_set();
    alignas(64) T sum[kBlock];
    const void* operands[] = {inputs[0], inputs[has_residual ? 2 : 1]};
    void* summed[] = {sum};
    set.add_bias[type](operands, summed, n, first, call);
    const bool in_place = has_residual || is_16_bit_index(type);
    const void* of_sum[] = {sum, inputs[1]};
    void* activated[] = {in_place ? sum : outputs[0], outputs[1]};
    set.forward[which][sizeof(T) == 8](of_sum, activated, n, first, call);
    if (has_residual)
      set.add_residual[type](of_sum, outputs, n, first, call);
    else if constexpr (sizeof(T) == 4)
      if (is_16_bit_index(type)) set.demote[type - 2](sum, outputs[0], n);
  }
};

// Reads grad, and the mask or the input. Writes the input's gradient, whose sums are the bias's gradient: in compute
// type the two are one.
template <class T>
struct BiasBackward {
  int which, type;

  void operator()(const void* const* inputs, void** outputs, int64_t n, int64_t first, const Call& call) const {
    const InstructionSet& set = instruction_set();
    constexpr int compute_type = sizeof(T) == 8;
    alignas(64) T grad[kBlock], saved[kBlock];
    void* of_saved[] = {saved, nullptr};
    const void* operands[] = {inputs[0], inputs[1]};
    if (kOps[which].saved != Saved::kMask) {
      operands[1] = saved;
      set.add_bias[type](inputs + 1, of_saved, n, first, call);
    }
    if (kOps[which].saved == Saved::kOutput) set.forward[which][compute_type](operands + 1, of_saved, n, first, call);
    if constexpr (sizeof(T) == 4) {
      if (is_16_bit_index(type)) {
        set.promote[type - 2](inputs[0], grad, n);
        operands[0] = grad;
      }
    }
    if (type == compute_type) outputs[1] = outputs[0];
    set.backward[which][compute_type](operands, outputs + 1, n, first, call);
    if constexpr (sizeof(T) == 4)
      if (is_16_bit_index(type)) set.demote[type - 2](static_cast<const float*>(outputs[1]), outputs[0], n);
  }
};

}  // namespace fastact
