// The autograd node of every op: what it keeps, and what its backward runs.
#pragma once

#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include "autograd/direct.h"
#include "autograd/remake.h"

namespace fastact {

using torch::autograd::variable_list;

// What a node keeps beside tensors.
struct Kept {
  c10::SmallVector<IValue, 3> scalars;
  std::vector<int64_t> strides;  // of the output, where a mask is saved; none if it is contiguous
  bool output_for_mask = false;  // the output is saved in the mask's place
};

// Whether the op, of those that save masks, has the same mask for its output as for its input.
inline bool output_gives_mask(const NodeSpec& op, Arguments scalars) {
  switch (op.direct) {
    case kReLU:
    case kReLU6:
    case kHardtanh:
      return true;
    case kLeakyReLU:
      return scalars[0].toDouble() >= 0;
    default:
      return false;
  }
}

// The sign that all outputs share whose bit is set, of an op that saves a mask and lets gradients through there alone;
// 0 where it lets them through elsewhere, or the signs differ.
inline int sign_of_kept(const NodeSpec& op, Arguments scalars) {
  switch (op.direct) {
    case kReLU:
    case kReLU6:
    case kHardsigmoid:
      return 1;
    case kThreshold:
      return scalars[0].toDouble() >= 0 ? 1 : 0;
    case kHardtanh:
      return scalars[0].toDouble() >= 0 ? 1 : scalars[1].toDouble() <= 0 ? -1 : 0;
    default:
      return 0;
  }
}

// Whether the signs of the outputs follow from what is saved, wherever a gradient passes.
inline bool saves_signs(const NodeSpec& op, Arguments scalars) {
  if (op.saves == Saves::kMask) return sign_of_kept(op, scalars) != 0;
  return op.saves != Saves::kIndices && !op.adds_last;
}

// The output's gradient where `l1` is that of the sum of |output|.
inline Tensor l1_gradient(const NodeSpec& op, const Kept& saved, const Tensor& l1, const variable_list& tensors) {
  if (op.saves == Saves::kMask) return l1.mul(sign_of_kept(op, saved.scalars));
  Tensor output = tensors[0].detach();
  if (op.saves == Saves::kInputs) {
    const at::NoGradGuard no_grad;
    Stack stack(tensors.begin(), tensors.end());
    stack.insert(stack.end(), saved.scalars.begin(), saved.scalars.end());
    op.plain->callBoxed(&stack);
    output = stack[0].toTensor();
  }
  return l1.mul(output.sign());
}

// The mask that the op has for this tensor.
inline Tensor mask_of(const NodeSpec& op, const Kept& saved, const Tensor& tensor) {
  const at::AutoDispatchBelowADInplaceOrView below;
  Stack stack = {tensor};
  stack.insert(stack.end(), saved.scalars.begin(), saved.scalars.end());
  op.saving->callBoxed(&stack);
  return stack[1].toTensor();
}

// Returns the gradients by a direct call, or none where the op has to be called.
inline variable_list direct_backward(const NodeSpec& op, const Kept& saved, const Tensor& grad,
                                     const variable_list& tensors) {
  if (op.direct < 0 || op.tensors > op.tiles || !run_direct() || !is_direct(grad) || is_watched()) return {};
  const Tensor& read = tensors[0];
  DirectCall call = direct_call(op.direct, true, grad);
  double scalars[most(Kind::kScalar)];
  variable_list gradients;
  if (op.packed) {
    const int64_t dim = saved.scalars[0].toInt();
    if (!is_direct(read) || !read.is_contiguous() || !grad.is_contiguous() || !can_be_halved(read, dim) ||
        read.device() != grad.device() || read.scalar_type() != grad.scalar_type() ||
        grad.sizes() != c10::IntArrayRef(halved_sizes(read, dim)))
      return {};
    const Halves halves(read, dim, saved.scalars[1].toBool());
    halves.set_rows(call);
    halves.set_inputs(call, 1, read);
    gradients.push_back(new_like(read));
    halves.set_outputs(call, gradients[0]);
  } else if (op.saves == Saves::kMask) {
    if (saved.strides.empty() ? !grad.is_contiguous() : grad.strides() != c10::IntArrayRef(saved.strides)) return {};
    if (!is_mask_of(read, grad)) return {};
    call.mask = const_cast<uint8_t*>(read.const_data_ptr<uint8_t>());
  } else {
    for (size_t i = 0; i < op.tiles; ++i) {
      if (!goes_beside(tensors[i], grad)) return {};
      set_input(call, 1 + i, tensors[i]);
    }
  }
  if (op.random && !set_seed(call, tensors.back(), grad)) return {};
  if (op.direct >= kElementwiseCount) {
    if (!set_rows(call, grad, saved.scalars[0].toInt(), saved.scalars[1].toInt())) return {};
  } else if (!op.packed) {
    for (size_t i = 0; i < saved.scalars.size(); ++i) scalars[i] = saved.scalars[i].toDouble();
  }
  call.scalars = scalars;
  set_input(call, 0, grad);
  for (size_t i = gradients.size(); i < op.tiles; ++i) {
    gradients.push_back(new_like(grad));
    set_output(call, i, gradients[i]);
  }
  if (!run_direct()(call)) gradients.clear();
  return gradients;
}

// The gradients of the op's tensors, from that of the output, if there is one that of the sum of |output|, and the
// saved tensors.
inline variable_list run_backward(const NodeSpec& op, const Kept& saved, Tensor grad, const Tensor& l1,
                                  variable_list tensors, bool composed) {
  if (!grad.defined()) return variable_list(op.tensors);
  if (saved.output_for_mask) tensors[0] = mask_of(op, saved, tensors[0]);
  if (tensors.empty() && op.adds_last) {  // only the residual needs a gradient
    variable_list gradients(op.tensors);
    gradients.back() = grad;
    return gradients;
  }
  TORCH_CHECK(tensors.size() > op.random, op.name, ": a hook failed to save what backward reads");
  const bool fuses_l1 = l1.defined() && !composed && op.l1_backward && l1.is_cpu() && grad.is_cpu() && !is_tracing();
  if (l1.defined() && !fuses_l1) grad = grad.add(l1_gradient(op, saved, l1, tensors).to(grad.scalar_type()));
  if (!composed && !fuses_l1) {
    if (variable_list gradients = direct_backward(op, saved, grad, tensors); !gradients.empty()) return gradients;
  }
  Stack stack;
  if (composed) {
    static const OperatorHandle differentiable = find("differentiable_backward");
    std::vector<double> scalars;
    for (const IValue& each : saved.scalars) scalars.push_back(each.toScalar().toDouble());
    torch::jit::push(stack, op.name, grad, tensors, scalars, saved.strides);
    const Within guard;
    // Straight to the function, whatever the tensors are: batching and modes concern the ops that it calls.
    differentiable.redispatchBoxed(DispatchKeySet(DispatchKey::AutogradCPU), &stack);
    return stack[0].toTensorVector();
  }
  at::AutoDispatchBelowADInplaceOrView below;
  if (op.saves == Saves::kMask && saved.strides.empty()) {
    grad = grad.contiguous();
  } else if (op.saves == Saves::kMask && grad.strides() != c10::IntArrayRef(saved.strides)) {
    grad = at::empty_strided(grad.sizes(), saved.strides, grad.options()).copy_(grad);
  }
  stack.reserve(2 + tensors.size() + saved.scalars.size());
  torch::jit::push(stack, grad);
  for (const Tensor& each : tensors) torch::jit::push(stack, op.saves == Saves::kMask ? each.contiguous() : each);
  for (const IValue& each : saved.scalars) stack.push_back(each);
  if (fuses_l1) {
    const int sign = op.saves == Saves::kMask ? sign_of_kept(op, saved.scalars) : 1;
    stack.insert(stack.begin() + 2, sign * l1.item().toDouble());
  }
  const Tensor passed = op.adds_last ? grad : Tensor();
  try {
    (fuses_l1 ? op.l1_backward : op.backward)->callBoxed(&stack);
  } catch (const std::exception& error) {
    // The stable ABI keeps no more of an error than this. Where memory is short, torch says so, by its own class.
    if (std::string_view(error.what()).find("API call failed") != std::string_view::npos) at::empty_like(grad);
    throw;
  }
  variable_list gradients;
  for (IValue& each : stack) gradients.push_back(std::move(each).toTensor());
  if (op.adds_last) gradients.push_back(passed);
  return gradients;
}

// A tensor of zeros in an input's place in the graph. What is linear by parts saves a mask, which has none; and yet its
// gradient depends on the input, with a derivative of zero.
inline Tensor stand_in(const torch::autograd::Edge& input, at::IntArrayRef sizes, const Tensor& grad) {
  at::AutoDispatchBelowADInplaceOrView below;
  Tensor zeros = at::zeros({}, grad.options()).expand(sizes);
  if (input.is_valid()) torch::autograd::impl::set_gradient_edge(zeros, input);
  return zeros;
}

struct Backward : torch::autograd::Node {
  const NodeSpec& op;
  Kept saved;
  std::vector<SavedVariable> tensors;
  std::shared_ptr<MaskKeeper> keeper;   // none where the mask stays
  std::unique_ptr<Packed> overwritten;  // in place: the input, if it can be made again; the first tensor is empty
  bool was_overwritten = false;
  uint32_t output_version = 0;

  explicit Backward(const NodeSpec& op) : op(op) {}
  ~Backward() override {
    if (!keeper) return;
    std::lock_guard<std::mutex> lock(keeper->mutex);
    keeper->swap = nullptr;
  }

  std::string name() const override { return op.module + "Backward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& each : tensors) each.reset_data();
    overwritten.reset();
  }

  // Lets a consumer of the output, which keeps it, free this node of its mask.
  std::shared_ptr<MaskKeeper> offer_mask() {
    keeper = std::make_shared<MaskKeeper>();
    keeper->swap = [this](SavedVariable& output) {
      std::lock_guard<std::mutex> lock(mutex_);
      std::swap(tensors[0], output);
      saved.output_for_mask = true;
    };
    return keeper;
  }

  Tensor remake_overwritten() {
    TORCH_CHECK(overwritten, torch::autograd::ERR_BACKWARD_TWICE);
    Tensor input = overwritten->unpack();
    if (next_edge(0).is_valid()) torch::autograd::impl::set_gradient_edge(input, next_edge(0));
    return input;
  }
  void keep_overwritten() {
    tensors[0] = SavedVariable(remake_overwritten(), false);
    overwritten.reset();
    was_overwritten = false;
  }

  variable_list unpack() {
    variable_list unpacked;
    for (const SavedVariable& each : tensors)
      unpacked.push_back(each.unpack(op.saves == Saves::kOutput ? getptr() : nullptr));
    if (was_overwritten) unpacked[0] = remake_overwritten();
    return unpacked;
  }

  // The gradient of the sum of |output|, of which l1.h makes further outputs.
  static Tensor l1_of(const variable_list& grads) {
    Tensor sum;
    for (size_t i = 1; i < grads.size(); ++i)
      if (grads[i].defined()) sum = sum.defined() ? sum.add(grads[i]) : grads[i];
    return sum;
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const Tensor l1 = l1_of(grads);
    if (l1.defined() && !grads[0].defined()) grads[0] = input_metadata(0).zeros_like();
    const bool composed = grads[0].defined() && (needs_torch_ops(grads[0]) || (l1.defined() && needs_torch_ops(l1)));
    variable_list saved_tensors = unpack();
    if (composed && op.saves == Saves::kMask && at::GradMode::is_enabled() && !saved_tensors.empty()) {
      for (size_t i = 0; i < op.tensors - op.adds_last; ++i)  // the input and, after the mask, a bias
        saved_tensors.push_back(stand_in(next_edge(i), i == 0 ? grads[0].sizes() : saved_tensors[i].sizes(), grads[0]));
    }
    if (!is_seen() || !grads[0].defined())
      return run_backward(op, saved, std::move(grads[0]), l1, saved_tensors, composed);
    SeenCall call;  // from here on: unpacking may compute a checkpoint again
    call.kernel_ran = !composed;
    variable_list gradients = run_backward(op, saved, std::move(grads[0]), l1, saved_tensors, composed);
    const auto some = std::find_if(gradients.begin(), gradients.end(), [](auto& each) { return each.defined(); });
    if (call.is_outermost() && some != gradients.end())
      call.report("fastact::" + op.name + "_backward", "", composed ? "composed of torch's ops" : nullptr, false, *some,
                  *some);
    return gradients;
  }

  // For compiled autograd, whose graph calls run_backward as it is, with tensors that it puts in the place of those
  // saved. It traces the graph with fake tensors, for which the ops have shapes (fastact/ops.py).
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& arguments) const override {
    if (was_overwritten) const_cast<Backward*>(this)->keep_overwritten();
    arguments.collect(op.name);
    arguments.collect(tensors, op.saves == Saves::kOutput);
    for (const IValue& each : saved.scalars) arguments.collect(each);
    arguments.collect(saved.strides);
    arguments.collect(saved.output_for_mask);
    arguments.collect(static_cast<size_t>(num_inputs()));
  }
  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& variables) override {
    namespace compiled = torch::dynamo::autograd;
    variables.before(tensors);
    std::vector<IValue> arguments = {op.name, saved.strides, saved.output_for_mask, unpack()};
    arguments.insert(arguments.end(), saved.scalars.begin(), saved.scalars.end());
    std::vector<at::TypePtr> schema;
    for (const IValue& each : arguments) schema.push_back(each.type());
    const auto call = [](const variable_list& grads, const std::vector<IValue>& arguments) {
      const NodeSpec& op = ops().at(arguments[0].toStringRef());
      const Kept saved = {{arguments.begin() + 4, arguments.end()}, arguments[1].toIntVector(), arguments[2].toBool()};
      const Tensor l1 = l1_of(grads);
      TORCH_CHECK_NOT_IMPLEMENTED(grads[0].defined() || !l1.defined(),
                                  "compiled autograd cannot differentiate an L1 penalty without the output it is of");
      return run_backward(op, saved, grads[0], l1, arguments[3].toTensorVector(), at::GradMode::is_enabled());
    };
    const auto& python = compiled::getPyCompilerInterface();
    auto* compiler = variables.get_py_compiler();
    const std::string bound = python->bind_function(compiler, name(), call, schema, true, true);
    auto metadata = compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
        compiled::get_input_metadata(next_edges()));
    variable_list gradients = python->call_function(compiler, "apply_functional", bound, grads, arguments, metadata);
    variables.after(tensors);
    return gradients;
  }
};

// torch's pointers to nodes are shared_ptr, or intrusive from some version on.
template <class Node, class... Arguments>
auto make_node(Arguments&&... arguments) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, Node>)
    return c10::make_intrusive<Node>(std::forward<Arguments>(arguments)...);
  else
    return std::shared_ptr<Node>(new Node(std::forward<Arguments>(arguments)...), [](Node* it) { deleteNode(it); });
}

}  // namespace fastact
