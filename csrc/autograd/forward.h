// The kernels of the ops at the autograd keys: they make the node, and call the op below autograd.
#pragma once

#include <ATen/MemoryOverlap.h>

#include "autograd/node.h"

namespace fastact {

// Runs the op's decomposition into torch's ops: its kernel for all backends that have no other, which is in Python
// (fastact/ops.py). (As CompositeImplicitAutograd it would replace the op under modes that decompose what they can.)
inline void run_decomposition(const OperatorHandle& op, DispatchKeySet, Stack* stack) {
  op.redispatchBoxed(DispatchKeySet(DispatchKey::XLA), stack);
}

// Runs the kernel of a forward op by pointers, into tensors of the input's layout or, of a gated unit's one tensor,
// that of its halves. Returns false where the op must see to it.
inline bool run_directly(const NodeSpec& op, c10::ArrayRef<IValue> arguments, const Tensor& output,
                         const Tensor& mask) {
  const Tensor& input = arguments[0].toTensor();
  DirectCall call = direct_call(op.direct, false, output);
  double scalars[most(Kind::kScalar)];
  if (op.direct >= kElementwiseCount) {
    if (!set_rows(call, input, arguments[1].toInt(), arguments[2].toInt())) return false;
  } else if (!op.packed) {
    const size_t first = op.tensors + op.random;
    for (size_t i = first; i < op.arguments; ++i) scalars[i - first] = arguments[i].toDouble();
  }
  if (op.random && !set_seed(call, arguments[op.tensors].toTensor(), input)) return false;
  if (op.tensors > op.tiles && !set_weight(call, arguments[1].toTensor(), input)) return false;
  if (op.packed) {
    const Halves halves(input, arguments[1].toInt(), arguments[2].toBool());
    halves.set_rows(call);
    halves.set_inputs(call, 0, input);
  } else {
    set_input(call, 0, input);
    if (op.tiles == 2) {
      if (!goes_beside(arguments[1].toTensor(), input)) return false;
      set_input(call, 1, arguments[1].toTensor());
    }
  }
  set_output(call, 0, output);
  call.scalars = scalars;
  if (mask.defined()) call.mask = mask.mutable_data_ptr<uint8_t>();
  return run_direct()(call);
}

inline std::vector<IValue> with_first(Arguments arguments, const Tensor& first) {
  std::vector<IValue> changed = arguments.vec();
  changed[0] = first;
  return changed;
}

// The kernel of an op at the autograd keys.
struct Forward : c10::OperatorKernel {
  const NodeSpec& op;
  const bool in_place;

  Forward(const NodeSpec& op, bool in_place) : op(op), in_place(in_place) {}

  void operator()(const OperatorHandle& plain, DispatchKeySet keys, Stack* stack) {
    if (!takes(plain, torch::jit::last(*stack, op.arguments))) return run_decomposition(plain, keys, stack);
    run(plain, stack);
  }

  // Whether all tensors are plain, and have a kernel.
  bool takes(const OperatorHandle& plain, Arguments arguments) const {
    for (size_t i = 0; i < op.tensors + op.random; ++i)
      if (!arguments[i].isNone() && !is_plain(arguments[i].toTensor())) return false;
    return has_kernel(plain, arguments[0].toTensor());
  }

  // Runs the op where it takes the arguments.
  void run(const OperatorHandle& plain, Stack* stack) const {
    const auto arguments = torch::jit::last(*stack, op.arguments);
    bool needs_gradient = false;
    for (size_t i = 0; i < op.tensors; ++i)
      needs_gradient = needs_gradient || (!arguments[i].isNone() && arguments[i].toTensor().requires_grad());
    if (needs_gradient && at::GradMode::is_enabled()) {
      run_with_node(plain, stack);
    } else {
      run_below(plain, false, stack);
    }
  }

  // The same below autograd, where versions have been counted.
  void run_kernel(const OperatorHandle& plain, Stack* stack) const {
    if (call_directly(false, stack)) return;
    at::AutoDispatchBelowADInplaceOrView below;
    plain.callBoxed(stack);
  }

 private:
  // Runs the op below autograd, or the one that also returns what backward needs.
  void run_below(const OperatorHandle& called, bool saving, Stack* stack) const {
    if (call_directly(saving, stack)) return;
    at::AutoDispatchBelowAutograd below;
    called.callBoxed(stack);
  }

  static bool has_kernel(const OperatorHandle& op, const Tensor& tensor) {
    return tensor.is_cpu() || (tensor.is_cuda() && op.hasKernelForDispatchKey(DispatchKey::CUDA)) || tensor.is_meta();
  }

  bool call_directly(bool saving, Stack* stack) const {
    if (op.direct < 0 || !run_direct()) return false;
    const auto arguments = torch::jit::last(*stack, op.arguments);
    const Tensor& input = arguments[0].toTensor();
    if (!is_direct(input) || is_watched()) return false;
    if (in_place && input.is_inference() && !c10::InferenceMode::is_enabled()) return false;  // is refused
    if (op.packed && !(input.is_contiguous() && can_be_halved(input, arguments[1].toInt()))) return false;
    Tensor output = in_place    ? input
                    : op.packed ? new_tensor(halved_sizes(input, arguments[1].toInt()), input.scalar_type(), input)
                                : new_like(input);
    Tensor mask;
    if (saving && op.saves == Saves::kMask) mask = new_mask(input);
    if (!run_directly(op, arguments, output, mask)) return false;
    torch::jit::drop(*stack, op.arguments);
    if (!in_place) {
      stack->emplace_back(std::move(output));
    } else if (!c10::impl::tls_is_dispatch_key_excluded(DispatchKey::ADInplaceOrView)) {  // or it was counted there
      torch::autograd::increment_version(output);
    }
    if (mask.defined()) stack->emplace_back(std::move(mask));
    return true;
  }

  void run_with_node(const OperatorHandle& plain, Stack* stack) const {
    const auto arguments = torch::jit::last(*stack, op.arguments);
    c10::SmallVector<Tensor, 3> inputs;
    for (size_t i = 0; i < op.tensors; ++i)
      inputs.push_back(arguments[i].isNone() ? Tensor() : arguments[i].toTensor());
    const Tensor& input = inputs[0];
    if (in_place) torch::autograd::check_inplace(input, true);
    auto node = make_node<Backward>(op);
    for (const Tensor& each : inputs)
      node->add_next_edge(each.defined() ? torch::autograd::impl::gradient_edge(each) : torch::autograd::Edge());
    if (op.adds_last && !input.requires_grad() &&
        !inputs[1].requires_grad()) {  // the residual's alone: nothing to save
      run_below(plain, false, stack);
      torch::autograd::set_history(stack->back().toTensor(), node);
      return;
    }
    for (size_t i = op.tensors + op.random; i < op.arguments; ++i) node->saved.scalars.push_back(arguments[i]);
    if (op.ends_in_dtype) node->saved.scalars.back() = static_cast<int64_t>(input.scalar_type());
    std::optional<Tensor> seed;
    if (op.random) seed = arguments[op.tensors].toTensor();
    Registry* const registry = Registry::open();
    std::optional<Call> call = registry ? registry->note(*op.plain, arguments) : std::nullopt;
    if (op.saves == Saves::kInputs) {
      if (in_place && registry) node->overwritten = registry->remade(input);
      node->was_overwritten = node->overwritten != nullptr;
      for (size_t i = 0; i < op.tiles; ++i) {
        if (node->was_overwritten) {
          node->tensors.emplace_back();
        } else if (in_place) {
          const Tensor copy = inputs[i].clone();
          node->tensors.emplace_back(copy, false);
          if (registry) call = registry->note(*op.plain, with_first(arguments, copy));
        } else {
          node->tensors.emplace_back(inputs[i], false);
        }
      }
    }
    run_below(in_place ? *op.saving_in_place : *op.saving, true, stack);
    Tensor found;
    if (op.saves == Saves::kMask || op.saves == Saves::kIndices) found = torch::jit::pop(*stack).toTensor();
    const Tensor output = in_place ? input : stack->back().toTensor();
    if (op.saves == Saves::kMask && !output.is_contiguous()) node->saved.strides = output.strides().vec();
    if (in_place) {
      torch::autograd::rebase_history(input, node);
    } else {
      torch::autograd::set_history(output, node);
    }
    node->output_version = static_cast<uint32_t>(output._version());
    if (registry) {
      const bool may_drop_mask = found.defined() && output_gives_mask(op, node->saved.scalars);
      registry->remember(output, std::move(call), may_drop_mask ? node->offer_mask() : nullptr);
    }
    // In the graph first: a hook may fail to save, and what is overwritten must not pass for what it was.
    if (found.defined()) node->tensors.emplace_back(std::move(found), false);
    if (op.saves == Saves::kOutput) node->tensors.emplace_back(output, true, in_place && output.is_view());
    for (size_t i = op.tiles; i < op.tensors - op.adds_last; ++i) {
      // Beside a mask, only the shape of a bias is needed: it may change before backward, as beside torch's ops.
      node->tensors.emplace_back(
          op.saves == Saves::kMask ? at::empty(inputs[i].sizes(), inputs[i].options()) : inputs[i], false);
    }
    if (seed) node->tensors.emplace_back(*seed, false);
  }
};

// The kernel of an op in place at ADInplaceOrView, where torch counts the versions of a tensor: after the write, by
// which allow_mutation_on_saved_tensors has found what to keep. Both checks come before anything is written.
inline void run_in_place(const OperatorHandle& op, DispatchKeySet, Stack* stack) {
  const Tensor input = torch::jit::peek(*stack, 0, op.schema().arguments().size()).toTensor();
  at::assert_no_internal_overlap(input);
  if (input.is_inference() && !c10::InferenceMode::is_enabled()) torch::autograd::increment_version(input);  // refuses
  {
    at::AutoDispatchBelowADInplaceOrView below;
    op.callBoxed(stack);
  }
  torch::autograd::increment_version(input);
}

}  // namespace fastact
