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

// A tensor, or an undefined one in the place of None.
inline const Tensor& tensor_or_none(const IValue& argument) {
  static const Tensor none;
  return argument.isNone() ? none : argument.toTensor();
}

// The kernel of an op at the autograd keys.
struct Forward : c10::OperatorKernel {
  const NodeSpec& op;
  const bool in_place;

  Forward(const NodeSpec& op, bool in_place) : op(op), in_place(in_place) {}

  void operator()(const OperatorHandle& plain, DispatchKeySet keys, Stack* stack) {
    const Arguments arguments = torch::jit::last(*stack, op.arguments);
    if (!takes(plain, arguments)) return run_decomposition(plain, keys, stack);
    Tensor output = run(plain, arguments);
    torch::jit::drop(*stack, op.arguments);
    if (!in_place) stack->emplace_back(std::move(output));
  }

  // Whether all tensors are plain, and have a kernel.
  bool takes(const OperatorHandle& plain, Arguments arguments) const {
    for (size_t i = 0; i < op.tensors + op.random; ++i)
      if (!arguments[i].isNone() && !is_plain(arguments[i].toTensor())) return false;
    return has_kernel(plain, arguments[0].toTensor());
  }

  // Runs the op where it takes the arguments, and returns the output; in place, the input.
  Tensor run(const OperatorHandle& plain, Arguments arguments) const {
    bool needs_gradient = false;
    for (size_t i = 0; i < op.tensors; ++i) {
      const Tensor& each = tensor_or_none(arguments[i]);
      needs_gradient = needs_gradient || (each.defined() && each.requires_grad());
    }
    if (needs_gradient && at::GradMode::is_enabled()) return run_with_node(plain, arguments);
    return run_below(plain, false, arguments).output;
  }

  // The same below autograd, where versions have been counted.
  Tensor run_kernel(const OperatorHandle& plain, Arguments arguments) const {
    if (Results results; call_directly(false, arguments, results)) return std::move(results.output);
    at::AutoDispatchBelowADInplaceOrView below;
    return call_boxed(plain, arguments).output;
  }

 private:
  struct Results {
    Tensor output, found;  // what backward needs, if the op returns that
  };

  // Runs the op below autograd, or the one that also returns what backward needs.
  Results run_below(const OperatorHandle& called, bool saving, Arguments arguments) const {
    if (Results results; call_directly(saving, arguments, results)) return results;
    at::AutoDispatchBelowAutograd below;
    return call_boxed(called, arguments);
  }

  Results call_boxed(const OperatorHandle& called, Arguments arguments) const {
    Stack stack(arguments.begin(), arguments.end());
    called.callBoxed(&stack);
    Results results;
    auto next = stack.begin();
    results.output = in_place ? arguments[0].toTensor() : std::move(*next++).toTensor();
    if (next != stack.end()) results.found = std::move(*next).toTensor();
    return results;
  }

  static bool has_kernel(const OperatorHandle& op, const Tensor& tensor) {
    return tensor.is_cpu() || (tensor.is_cuda() && op.hasKernelForDispatchKey(DispatchKey::CUDA)) || tensor.is_meta();
  }

  bool call_directly(bool saving, Arguments arguments, Results& results) const {
    if (op.direct < 0 || !run_direct()) return false;
    const Tensor& input = arguments[0].toTensor();
    if (!is_direct(input) || is_watched()) return false;
    if (in_place && input.is_inference() && !c10::InferenceMode::is_enabled()) return false;  // is refused
    if (op.packed && !(input.is_contiguous() && can_be_halved(input, arguments[1].toInt()))) return false;
    results.output = in_place    ? input
                     : op.packed ? new_tensor(halved_sizes(input, arguments[1].toInt()), input.scalar_type(), input)
                                 : new_like(input);
    if (saving && op.saves == Saves::kMask) results.found = new_mask(input);
    if (!run_directly(op, arguments, results.output, results.found)) return false;
    // Where that key is excluded, its kernel has counted the version.
    if (in_place && !c10::impl::tls_is_dispatch_key_excluded(DispatchKey::ADInplaceOrView))
      torch::autograd::increment_version(input);
    return true;
  }

  Tensor run_with_node(const OperatorHandle& plain, Arguments arguments) const {
    const Tensor& input = arguments[0].toTensor();
    if (in_place) torch::autograd::check_inplace(input, true);
    auto node = make_node<Backward>(op);
    for (size_t i = 0; i < op.tensors; ++i) {
      const Tensor& each = tensor_or_none(arguments[i]);
      node->add_next_edge(each.defined() ? torch::autograd::impl::gradient_edge(each) : torch::autograd::Edge());
    }
    if (op.adds_last && !input.requires_grad() &&
        !arguments[1].toTensor().requires_grad()) {  // the residual's alone: nothing to save
      Tensor output = run_below(plain, false, arguments).output;
      torch::autograd::set_history(output, node);
      return output;
    }
    for (size_t i = op.tensors + op.random; i < op.arguments; ++i) node->saved.scalars.push_back(arguments[i]);
    if (op.ends_in_dtype) node->saved.scalars.back() = static_cast<int64_t>(input.scalar_type());
    Registry* const registry = Registry::open();
    std::optional<Call> call = registry ? registry->note(*op.plain, arguments) : std::nullopt;
    if (op.saves == Saves::kInputs) {
      if (in_place && registry) node->overwritten = registry->remade(input);
      node->was_overwritten = node->overwritten != nullptr;
      for (size_t i = 0; i < op.tiles; ++i) {
        const Tensor& each = arguments[i].toTensor();
        if (node->was_overwritten) {
          node->tensors.emplace_back();
        } else if (in_place) {
          const Tensor copy = each.clone();
          node->tensors.emplace_back(copy, false);
          if (registry) call = registry->note(*op.plain, with_first(arguments, copy));
        } else {
          node->tensors.emplace_back(each, false);
        }
      }
    }
    auto [output, found] = run_below(in_place ? *op.saving_in_place : *op.saving, true, arguments);
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
      const Tensor& each = tensor_or_none(arguments[i]);
      // Beside a mask, only the shape of a bias is needed: it may change before backward, as beside torch's ops.
      node->tensors.emplace_back(op.saves == Saves::kMask ? at::empty(each.sizes(), each.options()) : each, false);
    }
    if (op.random) node->tensors.emplace_back(arguments[op.tensors].toTensor(), false);
    return output;
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
