// What `fastact.Monitor` asks of an activation's tensors on the CPU, without Python: one call after the activation, and
// a hook for the gradient of its output. Whatever these do not take is fastact/monitor/layers.py's.
#pragma once

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <cmath>

#include "autograd/plain.h"

namespace fastact {

// Why a gradient has no numbers to look at, in the order of layers.py's words for them.
enum class Unseen { kInTransform, kTraced, kBatched, kNotDense, kScale, kCompiled, kFailed };

inline bool is_dense_on_cpu(const Tensor& tensor) {
  return tensor.is_cpu() && tensor.layout() == at::kStrided && is_plain(tensor) && has_kernel_dtype(tensor) &&
         !tensor.key_set().has(DispatchKey::Python) && tensor.is_non_overlapping_and_dense();
}

// Runs a kernel past the modes of users, which see the model's ops alone.
template <class... Arguments>
void run_unseen(const OperatorHandle& kernel, const Arguments&... arguments) {
  Stack stack;
  torch::jit::push(stack, arguments...);
  kernel.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &stack);
}
inline void summarize(const Tensor& tensor, const std::optional<Tensor>& scale, const Tensor& state) {
  static const OperatorHandle kernel = find("summarize_");
  if (tensor.numel() > 0) run_unseen(kernel, tensor, scale, state);
}

// Of the monitor, in float64: whether it is open, and what gradients are divided by, NaN where only Python knows.
struct Control {
  Tensor numbers;
  bool is_open() const { return numbers.const_data_ptr<double>()[0] != 0; }
  double scale() const { return numbers.const_data_ptr<double>()[1]; }
  Tensor scale_tensor() const { return numbers.narrow(0, 1, 1); }
};

// Summarizes the gradient of one output of the node that it is on. It reads `control` only then: a graph may outlive
// the monitor, and the scale may change between forward and backward.
class GradientHook final : public torch::autograd::FunctionPreHook {
 public:
  GradientHook(uint32_t index, Control control, Tensor state, Tensor unseen)
      : index_(index), control_(std::move(control)), state_(std::move(state)), unseen_(std::move(unseen)) {}

  torch::autograd::variable_list operator()(const torch::autograd::variable_list& grads) override {
    try {
      if (control_.is_open() && grads[index_].defined()) look_at(grads[index_]);
    } catch (const std::exception&) {  // which backward must not see: for want of memory, say
      note(Unseen::kFailed);
    }
    return grads;
  }
  // The compiled graph has no such hooks.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs&) const override { note(Unseen::kCompiled); }

 private:
  void look_at(const Tensor& grad) const {
    if (grad.key_set().has(DispatchKey::Batched)) return note(Unseen::kBatched);
    if (is_tracing() || torch::jit::tracer::isTracing()) return note(Unseen::kTraced);
    if (in_transform()) return note(Unseen::kInTransform);
    if (grad.layout() != at::kStrided) return note(Unseen::kNotDense);
    const Tensor dense = is_dense_on_cpu(grad) ? grad : copy(grad);
    if (!is_dense_on_cpu(dense)) return note(Unseen::kNotDense);
    const double scale = control_.scale();
    if (std::isnan(scale)) return note(Unseen::kScale);
    at::AutoDispatchBelowADInplaceOrView below;
    summarize(dense, scale == 1 ? std::nullopt : std::optional(control_.scale_tensor()), state_);
  }
  // As of an expanded number, which is the gradient of a sum, or of zeros that have no memory.
  static Tensor copy(const Tensor& grad) {
    at::AutoDispatchBelowADInplaceOrView below;
    return grad.clone(at::MemoryFormat::Contiguous);
  }
  // A number that is only ever set to 1 needs no lock.
  void note(Unseen why) const { unseen_.mutable_data_ptr<double>()[static_cast<int>(why)] = 1; }

  uint32_t index_;
  Control control_;
  Tensor state_, unseen_;
};

// Returns false, and does nothing, where the tensors are for Python. Counts flat elements, and the units that are not,
// of `flat_of`, if there is one: the input, or the output where that shows the same; `bounds`, `counts` and `awake` are
// for that. Adds the output to `outputs`, and its gradient to `gradients` when that comes.
inline bool watch(const Tensor& output, const std::optional<Tensor>& flat_of, const std::optional<Tensor>& bounds,
                  int64_t unit_dim, const std::optional<Tensor>& counts, const std::optional<Tensor>& awake,
                  const Tensor& outputs, const Tensor& gradients, const Tensor& control, const Tensor& unseen) {
  if (in_transform() || torch::jit::tracer::isTracing() || !is_dense_on_cpu(output) || output.numel() == 0)
    return false;
  const bool in_output = flat_of && flat_of->is_same(output);
  if (flat_of) {
    if (!in_output && (!is_dense_on_cpu(*flat_of) || flat_of->numel() == 0)) return false;
    const int64_t dims = flat_of->dim();
    if (dims < 2 || unit_dim < -dims || unit_dim >= dims || awake->numel() != flat_of->size(unit_dim)) return false;
    static const OperatorHandle count_flat = find("count_flat_");
    run_unseen(count_flat, *flat_of, *bounds, unit_dim, *counts, *awake,
               in_output ? std::optional(outputs) : std::nullopt);
  }
  if (!in_output) summarize(output, std::nullopt, outputs);
  // Not on a leaf, which may be a parameter that was changed in place: the hook would stay, and see all its gradients.
  if (at::GradMode::is_enabled() && output.requires_grad() && output.grad_fn()) {
    const auto& node = output.grad_fn();
    node->add_tensor_pre_hook(std::make_unique<GradientHook>(output.output_nr(), Control{control}, gradients, unseen));
  }
  return true;
}

}  // namespace fastact
