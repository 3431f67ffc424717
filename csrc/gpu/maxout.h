// Launches of Maxout's kernels. Their names and parameters stand in fastact/triton/sources.py.
#pragma once

#include "gpu/elementwise.h"

namespace fastact::gpu {

struct MaxoutKernel {
  bool backward;
  ScalarType type;
  bool adjacent, eights;
  int64_t together;  // pieces that are read at once, or 0
  bool unaligned, wide;

  Key key() const {
    return Key(Family::kMaxout)
        .add(backward, 1)
        .add(type_index(type), 2)
        .add(adjacent, 1)
        .add(eights, 1)
        .add(together, 3)
        .add(unaligned, 1)
        .add(wide, 1);
  }
  std::string name() const {
    return std::string("maxout ") + (backward ? "backward " : "forward ") + name_of(type) +
           (adjacent ? " adjacent" : " apart") + " together=" + std::to_string(together) + (eights ? " eights" : "") +
           (unaligned ? " unaligned" : "") + (wide ? " wide" : "");
  }
};

// Runs over n groups of pieces that lie `inner` apart. `tensors` are the kernel's, in its order.
inline void run_maxout(bool backward, int64_t n, int64_t pieces, int64_t inner, std::initializer_list<Tensor> tensors) {
  const Launcher launcher(*tensors.begin());
  if (n == 0) return;
  MaxoutKernel kernel{backward, tensors.begin()->scalar_type(), inner == 1, inner % 8 == 0, 0, false, false};
  if (inner == 1 && (pieces == 2 || pieces == 4)) kernel.together = pieces;
  for (const Tensor& tensor : tensors) kernel.unaligned = kernel.unaligned || !is_aligned(tensor, kGpuRows.alignment);
  kernel.wide = inner != 1 && needs_wide(std::max(kernel.eights ? n / 8 : n, inner));
  Parameters parameters;
  for (const Tensor& tensor : tensors) parameters.add(tensor.data_ptr());
  parameters.add(pieces);
  parameters.add(Divider(kernel.eights ? inner / 8 : inner, kernel.wide));
  parameters.add(n);
  const Kernel& found = launcher.find(kernel);
  launcher.start(found, divide_up(n, found.block), parameters);
}

}  // namespace fastact::gpu
