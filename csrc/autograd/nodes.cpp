// The autograd of the ops, in C++: which calls run kernels, what a node saves, and what its backward runs. A node costs
// a few microseconds less than one in Python, which decides whether kernels pay off on small tensors. Nodes are no part
// of LibTorch's stable ABI, so this library serves only the release of torch that it was compiled with; elsewhere
// fastact/autograd.py takes its place.
#include <ATen/MemoryOverlap.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/library.h>

#include <map>

#include "spec/ops.h"

namespace fastact {
namespace {

using at::IValue;
using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::OperatorHandle;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using torch::jit::Stack;

// What backward reads beside the incoming gradient. A mask has one bit per element, in the order in which the output
// lies in memory; indices have the output's layout.
enum class Saves { kInputs, kOutput, kMask, kIndices };

// One differentiable op. Its schema is: tensors, a seed if it is random, scalars.
struct NodeSpec {
  std::string name, module;
  size_t tiles, tensors;  // of the op's shape; all, with the channelwise ones and a residual
  bool random;
  Saves saves;
  bool adds_last = false;  // the last tensor, the residual, is added to the result or missing; nothing of it is saved

  std::optional<OperatorHandle> saving{}, saving_in_place{}, backward{};
  size_t arguments = 0;  // of the forward ops
  // A softmax's last scalar is the output's dtype; backward takes the input's there.
  bool ends_in_dtype = false;
};

OperatorHandle find(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(("fastact::" + name).c_str(), "");
}

std::map<std::string, NodeSpec>& ops();

// Kernels read plain memory. Everything else is torch's: wrappers of transforms, lazy conjugates and negatives, sparse
// and nested layouts, tensors with a tangent. (Tensor subclasses get the op itself, as they get any; the public
// functions call none with them.)
bool is_plain(const Tensor& tensor) {
  constexpr DispatchKeySet plain({DispatchKey::Dense, DispatchKey::ADInplaceOrView, DispatchKey::AutogradFunctionality,
                                  DispatchKey::Python, DispatchKey::PythonTLSSnapshot});
  const DispatchKeySet keys = tensor.key_set() - plain - c10::autocast_dispatch_keyset;
  return (DispatchKeySet(DispatchKeySet::RAW, keys.raw_repr() & ~c10::full_backend_mask)).empty() &&
         !tensor._fw_grad(0).defined();
}

// Whether a graph is being made, of fake tensors whose class is no reason to leave the ops.
bool is_tracing() {
  using c10::impl::TorchDispatchModeKey, c10::impl::TorchDispatchModeTLS;
  return TorchDispatchModeTLS::any_modes_set() && (TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::FAKE) ||
                                                   TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::PROXY) ||
                                                   TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::FUNCTIONAL));
}

// Runs the op's decomposition into torch's ops: its kernel for all backends that have no other, which is in Python
// (fastact/ops.py). (As CompositeImplicitAutograd it would replace the op under modes that decompose what they can.)
void run_decomposition(const OperatorHandle& op, DispatchKeySet, Stack* stack) {
  op.redispatchBoxed(DispatchKeySet(DispatchKey::XLA), stack);
}

// Whether backward must be composed of torch's ops: its result is to be differentiated, or the gradient is no plain
// tensor.
bool needs_torch_ops(const Tensor& grad) {
  constexpr DispatchKeySet special({DispatchKey::Python, DispatchKey::FuncTorchDynamicLayerFrontMode,
                                    DispatchKey::FuncTorchDynamicLayerBackMode, DispatchKey::FuncTorchGradWrapper,
                                    DispatchKey::FuncTorchBatched, DispatchKey::Batched, DispatchKey::Functionalize,
                                    DispatchKey::Negative, DispatchKey::ZeroTensor});
  // Modes are no reason: they see the kernel's op.
  const DispatchKeySet active = c10::impl::tls_local_dispatch_key_set().included_ - DispatchKeySet(DispatchKey::Python);
  return at::GradMode::is_enabled() || grad.layout() != at::kStrided || grad._fw_grad(0).defined() ||
         ((grad.key_set() | active).has_any(special) && !is_tracing());
}

// What a node keeps beside tensors.
struct Kept {
  std::vector<IValue> scalars;
  std::vector<int64_t> strides;  // of the output, where a mask is saved; none if it is contiguous
};

// The gradients of the op's tensors, from that of the output and the saved tensors.
variable_list run_backward(const NodeSpec& op, const Kept& saved, Tensor grad, const variable_list& tensors,
                           bool composed) {
  if (!grad.defined()) return variable_list(op.tensors);
  if (tensors.empty()) {  // only the residual needs a gradient
    variable_list gradients(op.tensors);
    gradients.back() = grad;
    return gradients;
  }
  Stack stack;
  if (composed) {
    static const OperatorHandle differentiable = find("differentiable_backward");
    std::vector<double> scalars;
    for (const IValue& each : saved.scalars) scalars.push_back(each.toScalar().toDouble());
    torch::jit::push(stack, op.name, grad, tensors, scalars, saved.strides);
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
  stack.reserve(1 + tensors.size() + saved.scalars.size());
  torch::jit::push(stack, grad);
  for (const Tensor& each : tensors) torch::jit::push(stack, each);
  for (const IValue& each : saved.scalars) stack.push_back(each);
  const Tensor passed = op.adds_last ? grad : Tensor();
  op.backward->callBoxed(&stack);
  variable_list gradients;
  for (IValue& each : stack) gradients.push_back(std::move(each).toTensor());
  if (op.adds_last) gradients.push_back(passed);
  return gradients;
}

// A tensor of zeros in an input's place in the graph. What is linear by parts saves a mask, which has none; and yet its
// gradient depends on the input, with a derivative of zero.
Tensor stand_in(const torch::autograd::Edge& input, at::IntArrayRef sizes, const Tensor& grad) {
  at::AutoDispatchBelowADInplaceOrView below;
  Tensor zeros = at::zeros({}, grad.options()).expand(sizes);
  if (input.is_valid()) torch::autograd::impl::set_gradient_edge(zeros, input);
  return zeros;
}

struct Backward : torch::autograd::Node {
  const NodeSpec& op;
  Kept saved;
  std::vector<SavedVariable> tensors;

  explicit Backward(const NodeSpec& op) : op(op) {}

  std::string name() const override { return op.module + "Backward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& each : tensors) each.reset_data();
  }

  variable_list unpack() {
    variable_list unpacked;
    for (const SavedVariable& each : tensors)
      unpacked.push_back(each.unpack(op.saves == Saves::kOutput ? getptr() : nullptr));
    return unpacked;
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const bool composed = grads[0].defined() && needs_torch_ops(grads[0]);
    variable_list saved_tensors = unpack();
    if (composed && op.saves == Saves::kMask && at::GradMode::is_enabled() && !saved_tensors.empty()) {
      for (size_t i = 0; i < op.tensors - op.adds_last; ++i)  // the input and, after the mask, a bias
        saved_tensors.push_back(stand_in(next_edge(i), i == 0 ? grads[0].sizes() : saved_tensors[i].sizes(), grads[0]));
    }
    return run_backward(op, saved, std::move(grads[0]), saved_tensors, composed);
  }

  // For compiled autograd, whose graph calls run_backward as it is, with tensors that it puts in the place of those
  // saved. It traces the graph with fake tensors, for which the ops have shapes (fastact/ops.py).
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& arguments) const override {
    arguments.collect(op.name);
    arguments.collect(tensors, op.saves == Saves::kOutput);
    for (const IValue& each : saved.scalars) arguments.collect(each);
    arguments.collect(saved.strides);
  }
  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& variables) override {
    namespace compiled = torch::dynamo::autograd;
    variables.before(tensors);
    std::vector<IValue> arguments = {op.name, saved.strides, unpack()};
    arguments.insert(arguments.end(), saved.scalars.begin(), saved.scalars.end());
    std::vector<at::TypePtr> schema;
    for (const IValue& each : arguments) schema.push_back(each.type());
    const auto call = [](const variable_list& grads, const std::vector<IValue>& arguments) {
      const NodeSpec& op = ops().at(arguments[0].toStringRef());
      const Kept saved = {{arguments.begin() + 3, arguments.end()}, arguments[1].toIntVector()};
      return run_backward(op, saved, grads[0], arguments[2].toTensorVector(), at::GradMode::is_enabled());
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

// The kernel of an op at the autograd keys.
struct Forward : c10::OperatorKernel {
  const NodeSpec& op;
  const bool in_place;

  Forward(const NodeSpec& op, bool in_place) : op(op), in_place(in_place) {}

  void operator()(const OperatorHandle& plain, DispatchKeySet keys, Stack* stack) {
    const size_t tensors = op.tensors + op.random;
    const auto arguments = torch::jit::last(*stack, op.arguments);
    bool needs_gradient = false;
    for (size_t i = 0; i < tensors; ++i) {
      if (arguments[i].isNone()) continue;
      const Tensor& each = arguments[i].toTensor();
      if (!is_plain(each)) return run_decomposition(plain, keys, stack);
      needs_gradient = needs_gradient || each.requires_grad();
    }
    if (!has_kernel(plain, arguments[0].toTensor())) return run_decomposition(plain, keys, stack);
    if (needs_gradient && at::GradMode::is_enabled()) return run_with_node(plain, stack);
    at::AutoDispatchBelowAutograd below;
    plain.callBoxed(stack);
  }

 private:
  static bool has_kernel(const OperatorHandle& op, const Tensor& tensor) {
    return tensor.is_cpu() || (tensor.is_cuda() && op.hasKernelForDispatchKey(DispatchKey::CUDA)) || tensor.is_meta();
  }

  void run_with_node(const OperatorHandle& plain, Stack* stack) {
    const auto arguments = torch::jit::last(*stack, op.arguments);
    variable_list inputs;
    for (size_t i = 0; i < op.tensors; ++i)
      inputs.push_back(arguments[i].isNone() ? Tensor() : arguments[i].toTensor());
    const Tensor& input = inputs[0];
    if (in_place) torch::autograd::check_inplace(input, true);
    auto node = make_node<Backward>(op);
    node->set_next_edges(torch::autograd::collect_next_edges(inputs));
    if (op.adds_last && !input.requires_grad() &&
        !inputs[1].requires_grad()) {  // the residual's alone: nothing to save
      at::AutoDispatchBelowAutograd below;
      plain.callBoxed(stack);
      torch::autograd::set_history(stack->back().toTensor(), node);
      return;
    }
    for (size_t i = op.tensors + op.random; i < op.arguments; ++i) node->saved.scalars.push_back(arguments[i]);
    if (op.ends_in_dtype) node->saved.scalars.back() = static_cast<int64_t>(input.scalar_type());
    std::optional<Tensor> seed;
    if (op.random) seed = arguments[op.tensors].toTensor();
    if (op.saves == Saves::kInputs)
      for (size_t i = 0; i < op.tiles; ++i) node->tensors.emplace_back(in_place ? inputs[i].clone() : inputs[i], false);
    {
      at::AutoDispatchBelowAutograd below;
      (in_place ? op.saving_in_place : op.saving)->callBoxed(stack);
    }
    if (op.saves == Saves::kMask || op.saves == Saves::kIndices)
      node->tensors.emplace_back(torch::jit::pop(*stack).toTensor(), false);
    const Tensor output = in_place ? input : stack->back().toTensor();
    if (op.saves == Saves::kMask && !output.is_contiguous()) node->saved.strides = output.strides().vec();
    if (in_place) {
      torch::autograd::rebase_history(input, node);
    } else {
      torch::autograd::set_history(output, node);
    }
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
void run_in_place(const OperatorHandle& op, DispatchKeySet, Stack* stack) {
  const Tensor input = torch::jit::peek(*stack, 0, op.schema().arguments().size()).toTensor();
  at::assert_no_internal_overlap(input);
  if (input.is_inference() && !c10::InferenceMode::is_enabled()) torch::autograd::increment_version(input);  // refuses
  {
    at::AutoDispatchBelowADInplaceOrView below;
    op.callBoxed(stack);
  }
  torch::autograd::increment_version(input);
}

NodeSpec spec_of(const Op& op) {
  const Saves saves = op.saved == Saved::kMask     ? Saves::kMask
                      : op.saved == Saved::kOutput ? Saves::kOutput
                                                   : Saves::kInputs;
  const size_t tiles = op.count(Kind::kTile), residuals = op.count(Kind::kResidual);
  return {op.name,        op.module, tiles,        tiles + op.count(Kind::kChannel) + residuals,
          op.is_random(), saves,     residuals > 0};
}

// Every differentiable op, from the table.
std::vector<NodeSpec> differentiable_ops() {
  std::vector<NodeSpec> found;
  for (int which = 0; which < kElementwiseCount; ++which) {
    const Op& op = kOps[which];
    found.push_back(spec_of(op));
    if (op.count(Kind::kTile) == 2)
      found.push_back({std::string(op.name) + "_packed", op.module, 1, 1, false, found.back().saves});
    if (has_bias_form(op)) found.push_back(spec_of(kBiasOps[which]));
  }
  for (const SoftmaxOp& op : kSoftmaxOps) found.push_back({op.name, op.module, 1, 1, false, Saves::kOutput});
  found.push_back({"maxout", "Maxout", 1, 1, false, Saves::kIndices});
  return found;
}

bool has_op(const std::string& name) {
  return c10::Dispatcher::singleton().findSchema({"fastact::" + name, ""}).has_value();
}

// The table's ops with their handles, made once.
std::map<std::string, NodeSpec>& ops() {
  static std::map<std::string, NodeSpec> all = [] {
    std::map<std::string, NodeSpec> made;
    for (NodeSpec& op : differentiable_ops()) {
      const std::string saving = op.name + (op.saves == Saves::kMask      ? "_mask"
                                            : op.saves == Saves::kIndices ? "_indices"
                                                                          : "");
      op.saving = find(saving);
      if (has_op(saving + "_")) op.saving_in_place = find(saving + "_");
      op.backward = find(op.name + "_backward");
      const auto& arguments = op.saving->schema().arguments();
      op.arguments = arguments.size();
      op.ends_in_dtype = arguments.back().name() == "dtype";
      made.emplace(op.name, std::move(op));
    }
    return made;
  }();
  return all;
}

// Calls body with the name of each op that takes part in autograd, its row, and whether it works in place.
template <class Body>
void for_each_op(const Body& body) {
  for (const auto& [name, op] : ops()) {
    body(name, op, false);
    if (op.saving_in_place) body(name + "_", op, true);
  }
}

void implement_autograd(torch::Library& library) {
  for_each_op([&](const std::string& name, const NodeSpec& op, bool in_place) {
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Forward>(op, in_place)));
  });
}

}  // namespace
}  // namespace fastact

TORCH_LIBRARY_FRAGMENT(fastact, library) {
  // In Python; see fastact/autograd.py.
  library.def(
      "differentiable_backward(str name, Tensor grad, Tensor[] saved, float[] scalars, int[] strides) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(fastact, Autograd, library) { fastact::implement_autograd(library); }

TORCH_LIBRARY_IMPL(fastact, FuncTorchDynamicLayerFrontMode, library) {
  fastact::for_each_op([&](const std::string& name, const fastact::NodeSpec&, bool) {
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&fastact::run_decomposition>());
  });
}

TORCH_LIBRARY_IMPL(fastact, ADInplaceOrView, library) {
  fastact::for_each_op([&](const std::string& name, const fastact::NodeSpec& op, bool in_place) {
    if (!in_place) return;
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&fastact::run_in_place>());
    if (op.saves == fastact::Saves::kMask)
      library.impl((op.name + "_mask_").c_str(), torch::CppFunction::makeFromBoxedFunction<&fastact::run_in_place>());
  });
}
