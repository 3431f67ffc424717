// The autograd of the ops that work element by element or on rows on the CPU, in C++: a node costs a few microseconds
// less than one in Python, which decides whether kernels pay off on small tensors. It does what _Pointwise, _Learned
// and _Softmax in fastact/autograd.py do, which take its place where this library is missing: nodes are no part of
// LibTorch's stable ABI, so it serves only the release of torch that it was compiled with.
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/library.h>

#include "spec/ops.h"

namespace fastact {
namespace {

using at::Tensor;
using c10::OperatorHandle;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using torch::jit::Stack;

OperatorHandle find(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(("fastact::" + name).c_str(), "");
}

// An activation's ops; see runtime/ops.cpp.
struct Ops {
  std::string name, module;
  size_t tensors, parameters;  // that its ops take
  bool saves_bits, saves_output;
  OperatorHandle forward, backward;
  bool of_rows = false;  // the parameters are a dimension and a dtype: of the output and, for backward, of the input
};

// Whether backward must be composed of torch's ops: its result is to be differentiated, or the gradient is no plain
// tensor.
bool needs_torch_ops(const Tensor& grad) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet special(
      {DispatchKey::Python, DispatchKey::PythonTLSSnapshot, DispatchKey::FuncTorchDynamicLayerFrontMode,
       DispatchKey::FuncTorchDynamicLayerBackMode, DispatchKey::FuncTorchGradWrapper, DispatchKey::FuncTorchBatched,
       DispatchKey::Batched, DispatchKey::Functionalize, DispatchKey::Negative, DispatchKey::ZeroTensor});
  return at::GradMode::is_enabled() || grad.layout() != at::kStrided || grad._fw_grad(0).defined() ||
         (grad.key_set() | c10::impl::tls_local_dispatch_key_set().included_).has_any(special);
}

// What a node needs beside its ops.
struct Saved {
  std::vector<double> parameters;  // integers too
  std::vector<int64_t> strides;    // of the output, whose order in memory is that of the bits; none if it is contiguous
};

// The gradients, given that of the output and the saved tensors.
variable_list run_backward(const Ops& ops, const Saved& saved, Tensor grad, const variable_list& tensors) {
  if (!grad.defined()) return variable_list(ops.tensors);
  Stack stack;
  if (needs_torch_ops(grad)) {
    static const OperatorHandle composed = find("differentiable_backward");
    torch::jit::push(stack, ops.name, grad, tensors, saved.parameters, saved.strides);
    // Straight to the function, whatever the tensors are: batching and modes concern the ops that it calls.
    composed.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::AutogradCPU), &stack);
    return stack[0].toTensorVector();
  }
  at::AutoDispatchBelowADInplaceOrView below;
  if (ops.saves_bits && saved.strides.empty()) {
    grad = grad.contiguous();
  } else if (ops.saves_bits && grad.strides() != c10::IntArrayRef(saved.strides)) {
    grad = at::empty_strided(grad.sizes(), saved.strides, grad.options()).copy_(grad);
  }
  torch::jit::push(stack, grad);
  for (const Tensor& each : tensors) torch::jit::push(stack, each);
  for (double parameter : saved.parameters)
    stack.push_back(ops.of_rows ? at::IValue(static_cast<int64_t>(parameter)) : at::IValue(parameter));
  ops.backward.callBoxed(&stack);
  variable_list gradients;
  for (c10::IValue& each : stack) gradients.push_back(std::move(each).toTensor());
  return gradients;
}

// A tensor of zeros in the input's place in the graph. What is linear by parts saves bits, which have none; and yet its
// gradient depends on the input, with a derivative of zero.
Tensor stand_in(const torch::autograd::Edge& input, const Tensor& grad) {
  at::AutoDispatchBelowADInplaceOrView below;
  Tensor zeros = at::zeros({}, grad.options()).expand(grad.sizes());
  torch::autograd::impl::set_gradient_edge(zeros, input);
  return zeros;
}

struct Backward : torch::autograd::Node {
  const Ops& ops;
  Saved saved;
  std::vector<SavedVariable> tensors;

  explicit Backward(const Ops& ops) : ops(ops) {}

  std::string name() const override { return ops.module + "Backward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& each : tensors) each.reset_data();
  }

  variable_list unpack() {
    variable_list unpacked;
    for (const SavedVariable& each : tensors) unpacked.push_back(each.unpack(ops.saves_output ? getptr() : nullptr));
    return unpacked;
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    variable_list saved_tensors = unpack();
    if (ops.saves_bits && at::GradMode::is_enabled() && grads[0].defined() && next_edge(0).is_valid())
      saved_tensors.push_back(stand_in(next_edge(0), grads[0]));
    return run_backward(ops, saved, std::move(grads[0]), saved_tensors);
  }

  // For compiled autograd, whose graph calls run_backward as it is, with tensors that it puts in the place of those
  // saved.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& arguments) const override {
    arguments.collect(ops.name);
    arguments.collect(tensors, ops.saves_output);
    arguments.collect(saved.parameters);
    arguments.collect(saved.strides);
  }
  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& variables) override {
    namespace compiled = torch::dynamo::autograd;
    variables.before(tensors);
    std::vector<at::IValue> arguments = {reinterpret_cast<int64_t>(&ops), saved.parameters, saved.strides, unpack()};
    std::vector<at::TypePtr> schema;
    for (const at::IValue& each : arguments) schema.push_back(each.type());
    const auto call = [](const variable_list& grads, const std::vector<at::IValue>& arguments) {
      const auto& ops = *reinterpret_cast<const Ops*>(arguments[0].toInt());
      const Saved saved = {arguments[1].toDoubleVector(), arguments[2].toIntVector()};
      return run_backward(ops, saved, grads[0], arguments[3].toTensorVector());
    };
    const auto& python = compiled::getPyCompilerInterface();
    auto* compiler = variables.get_py_compiler();
    const std::string bound = python->bind_function(compiler, name(), call, schema, true, false);
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

void run_forward(const Ops& ops, const OperatorHandle& plain, bool in_place, Stack* stack) {
  const size_t count = ops.tensors + ops.parameters;
  variable_list inputs;
  for (size_t i = 0; i < ops.tensors; ++i) inputs.push_back(torch::jit::peek(*stack, i, count).toTensor());
  if (!torch::autograd::compute_requires_grad(inputs)) {
    at::AutoDispatchBelowADInplaceOrView below;
    plain.callBoxed(stack);
    return;
  }
  const Tensor& input = inputs[0];
  if (in_place) torch::autograd::check_inplace(input, true);
  auto node = make_node<Backward>(ops);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  for (size_t i = ops.tensors; i < count; ++i)
    node->saved.parameters.push_back(torch::jit::peek(*stack, i, count).toScalar().toDouble());
  if (ops.of_rows) node->saved.parameters.back() = static_cast<double>(input.scalar_type());
  if (!ops.saves_bits && !ops.saves_output)
    for (const Tensor& each : inputs) node->tensors.emplace_back(in_place ? each.clone() : each, false);
  {
    at::AutoDispatchBelowADInplaceOrView below;
    ops.forward.callBoxed(stack);
  }
  if (ops.saves_bits) node->tensors.emplace_back(torch::jit::pop(*stack).toTensor(), false);
  const Tensor output = in_place ? input : stack->back().toTensor();
  if (ops.saves_bits && !output.is_contiguous()) node->saved.strides = output.strides().vec();
  if (in_place) {
    torch::autograd::increment_version(input);
    torch::autograd::rebase_history(input, node);
  } else {
    torch::autograd::set_history(output, node);
  }
  if (ops.saves_output) node->tensors.emplace_back(output, true);
}

template <int which, bool in_place>
void forward(const OperatorHandle& plain, c10::DispatchKeySet, Stack* stack) {
  constexpr const Op& op = kOps[which];
  static const std::string name = op.name;
  static const OperatorHandle kernel =
      op.saved == fastact::Saved::kMask ? find(name + (in_place ? "_mask_" : "_mask")) : plain;
  static const Ops ops = {name,
                          op.module,
                          static_cast<size_t>(1 + op.count(Kind::kChannel)),
                          static_cast<size_t>(op.count(Kind::kScalar)),
                          op.saved == fastact::Saved::kMask,
                          op.saved == fastact::Saved::kOutput,
                          kernel,
                          find(name + "_backward")};
  run_forward(ops, plain, in_place, stack);
}

template <int which>
void softmax_forward(const OperatorHandle& plain, c10::DispatchKeySet, Stack* stack) {
  static const std::string name = kSoftmaxOps[which].name;
  static const Ops ops = {name, kSoftmaxOps[which].module, 1, 2, false, true, plain, find(name + "_backward"), true};
  run_forward(ops, plain, false, stack);
}

template <int which>
void implement(torch::Library& library) {
  constexpr const Op& op = kOps[which];
  if constexpr (!op.is_random() && op.count(Kind::kTile) == 1) {  // a random node would save a seed as well
    const std::string name = op.name;
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&forward<which, false>>());
    if constexpr (op.is_pointwise())
      library.impl((name + "_").c_str(), torch::CppFunction::makeFromBoxedFunction<&forward<which, true>>());
  }
}
template <int... which>
void implement_all(torch::Library& library, std::integer_sequence<int, which...>) {
  (implement<which>(library), ...);
}

}  // namespace
}  // namespace fastact

TORCH_LIBRARY_FRAGMENT(fastact, library) {
  // In Python; see fastact/autograd.py.
  library.def(
      "differentiable_backward(str name, Tensor grad, Tensor[] saved, float[] parameters, int[] strides) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(fastact, AutogradCPU, library) {
  fastact::implement_all(library, std::make_integer_sequence<int, fastact::kElementwiseCount>());
#define FASTACT_IMPLEMENT(Formula, name) \
  library.impl(#name, torch::CppFunction::makeFromBoxedFunction<&fastact::softmax_forward<fastact::k##Formula>>());
  FASTACT_SOFTMAX(FASTACT_IMPLEMENT)
#undef FASTACT_IMPLEMENT
}
