// The sum of |y| as a further output of the node that made y.
#pragma once

#include <cmath>

#include "autograd/node.h"

namespace fastact {

// Returns the sum, whose gradient the node adds to that of y on the way through the activation: no pass of its own, and
// nothing more is kept. Returns nothing where y is not as a node of fastact's made it, or what that saves does not tell
// the signs.
inline std::optional<Tensor> l1_of_output(const Tensor& output) {
  if (!at::GradMode::is_enabled() || in_transform() || !is_plain(output)) return {};
  const auto& made_by = output.grad_fn();
  const auto* node = dynamic_cast<const Backward*>(made_by.get());
  if (!node || node->output_version != output._version() || !saves_signs(node->op, node->saved.scalars)) return {};
  Tensor norm;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    if (output.is_cpu()) {
      static const OperatorHandle l1_norm = find("l1_norm");
      Stack stack = {output};
      l1_norm.callBoxed(&stack);
      norm = stack[0].toTensor();
    } else {
      const auto type = output.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
      norm = at::linalg_vector_norm(output, 1, c10::nullopt, false, type);
    }
  }
  // The bit of NaN is that of a number. (On a GPU it would take waiting to see one.)
  if (node->op.saves == Saves::kMask && norm.is_cpu() && std::isnan(norm.item().toDouble())) return {};
  torch::autograd::create_gradient_edge(norm, made_by);
  return norm;
}

}  // namespace fastact
