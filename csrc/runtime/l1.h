// The sum of |y| over an output y, and its gradient on the way through the activation. In both, all happens on blocks
// that stay in L1, and no code is generated for each activation.
#pragma once

#include "runtime/layout.h"

namespace fastact {

// Returns the sum of |x| over a dense tensor, in double. The slices depend on the tensor alone, so the sum does not
// depend on the number of threads.
inline double run_l1_norm(const Tensor& dense) {
  const int64_t numel = dense.numel(), blocks = (numel + kBlock - 1) / kBlock;
  const int64_t slices = std::clamp<int64_t>(numel / kGrain, 1, 64);
  const Strided memory{static_cast<char*>(dense.data_ptr()), numel, dense.scalar_type()};
  const auto sum = instruction_set().sum_of_sizes[memory.type == ScalarType::Double];
  std::vector<double> parts(slices);
  parallel(slices, 1, [&](int64_t begin, int64_t end) {
    alignas(64) double buffer[kBlock];
    for (int64_t slice = begin; slice < end; ++slice) {
      for (int64_t block = blocks * slice / slices; block < blocks * (slice + 1) / slices; ++block) {
        const int64_t first = block * kBlock, n = std::min(kBlock, numel - first);
        parts[slice] += sum(load_promoted(memory, first, n, buffer), n);
      }
    }
  });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

// Takes the arguments of the op's block function (kernels/block.h), for up to kBlock elements, with l1 before its
// scalars. An output that is not saved is computed again, by the forward block.
template <class T>
struct L1Backward {
  int which, type;

  void operator()(const void** inputs, void* const* outputs, int64_t n, int64_t first, const Call& call) const {
    const InstructionSet& set = instruction_set();
    alignas(64) T output[kBlock], grad[kBlock];
    Call own = call;
    ++own.scalars;
    const void* of_sum[] = {inputs[0], nullptr};
    void *made[] = {output, nullptr}, *sum[] = {grad};
    if (kOps[which].saved == Saved::kOutput) of_sum[1] = inputs[1];
    if (kOps[which].saved == Saved::kInputs) {
      set.forward[which][type](inputs + 1, made, n, first, own);
      of_sum[1] = output;
    }
    set.add_l1[type](of_sum, sum, n, first, call);
    inputs[0] = grad;
    set.backward[which][type](inputs, outputs, n, first, own);
  }
};

}  // namespace fastact
