// The ops of torch.ops.fastact on the CPU, registered through LibTorch's stable ABI: no Python symbols and no C++ types
// cross the boundary, so one binary serves every Python, and every torch from TORCH_TARGET_VERSION on.
//
// Each op of the table (spec/ops.h) has these forms, with its operands:
//   name(Tensor input, …) -> Tensor                          name_(Tensor(a!) input, …) -> ()
//   name_backward(Tensor grad, Tensor output, …) -> Tensor   (or mask, or all tiles, in place of the output)
// and, if it saves a mask of one bit per element:
//   name_mask(Tensor input, …) -> (Tensor, Tensor)           name_mask_(Tensor(a!) input, …) -> Tensor
// Ops with one tile and no channelwise operand run in place too. Channelwise operands hold one number, or one per
// channel, and may be float32 beside 16-bit inputs; backward returns their gradients too.
// Gated units have two tiles, and also take one tensor whose halves along `dim` those are:
//   name_packed(Tensor input, int dim, bool gate_first) -> Tensor
//   name_packed_backward(Tensor grad, Tensor input, int dim, bool gate_first) -> Tensor
// Pointwise ops that are not random also have a form with a bias, of one number or one per channel, and a residual,
// whose gradient is grad itself:
//   bias_name(Tensor input, Tensor bias, Tensor? residual, …) -> Tensor
//   bias_name_mask(Tensor input, Tensor bias, Tensor? residual, …) -> (Tensor, Tensor)
//   bias_name_backward(Tensor grad, Tensor input, Tensor bias, …) -> (Tensor, Tensor)   (or mask in place of input)
// Maxout takes groups of neighbours along `dim`; `indices` are the numbers of the winners in their groups, as bytes:
//   maxout(Tensor input, int pieces, int dim) -> Tensor
//   maxout_indices(Tensor input, int pieces, int dim) -> (Tensor, Tensor)
//   maxout_backward(Tensor grad, Tensor indices, int pieces, int dim) -> Tensor
// The softmax family: `dtype`, of the result, is the first operand's or, of 16-bit types, that or float32:
//   name(Tensor input, int dim, ScalarType dtype) -> Tensor
//   name_backward(Tensor grad, Tensor output, int dim, ScalarType dtype) -> Tensor
// autograd/nodes.cpp and fastact/autograd.py make them differentiable.
#include <string>

#include "runtime/bias.h"
#include "runtime/elementwise.h"
#include "runtime/maxout.h"
#include "runtime/softmax.h"
#include "runtime/torch_rows.h"
#include "spec/direct.h"
#include "spec/schema.h"

namespace fastact {
namespace {

void check_same(const Tensor& a, const Tensor& b, const char* op) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type() && same_sizes(a, b), "fastact::", op,
                  ": expected tensors of the same dtype and shape");
}

// The arguments of an op, from the stack.
struct Arguments {
  std::vector<Tensor> tiles, channelwise;
  double scalars[most(Kind::kScalar) + 1];
  Call call{scalars};

  Arguments(const Op& op, StableIValue* stack, bool with_tiles, bool with_residual = false) {
    int scalar = 0;
    if (with_tiles) tiles.reserve(Plan::kMostTensors);
    for (int i = 0; i < op.operand_count; ++i) {
      switch (op.operands[i].kind) {
        case Kind::kTile:
          if (with_tiles) tiles.push_back(to<Tensor>(*stack++));
          break;
        case Kind::kSeed:
          read_seed(op, to<Tensor>(*stack++));
          break;
        case Kind::kChannel:
          channelwise.push_back(to<Tensor>(*stack++));
          break;
        case Kind::kResidual:
          if (with_residual) read_residual(to<std::optional<Tensor>>(*stack++));
          break;
        case Kind::kScalar:
          scalars[scalar++] = to<double>(*stack++);
          break;
      }
    }
  }
  Arguments(const Arguments&) = delete;

  template <class T>
  std::vector<Weights<T>> weights(const Op& op, const Tensor& walked) const {
    std::vector<Weights<T>> weights;
    for (const Tensor& tensor : channelwise) weights.emplace_back(tensor, walked, op.name);
    return weights;
  }

 private:
  void read_residual(const std::optional<Tensor>& residual) {
    if (residual) tiles.push_back(*residual);
  }
  void read_seed(const Op& op, const Tensor& seed) {
    STD_TORCH_CHECK(seed.numel() == 1 && seed.scalar_type() == ScalarType::Long && seed.is_cpu(), "fastact::", op.name,
                    ": expected seed to be one int64 on the CPU");
    call.seed = static_cast<uint64_t>(*static_cast<const int64_t*>(seed.data_ptr()));
  }
};

void check_tiles(const Op& op, const std::vector<Tensor>& tiles) {
  check_dtype(tiles[0], op.name);
  for (size_t i = 1; i < tiles.size(); ++i) check_same(tiles[0], tiles[i], op.name);
}

// The ops of the table: one block function each.
struct Plain {
  static const Op& op(int which) { return kOps[which]; }
  template <class T>
  static Block forward(int which, const Plan& plan) {
    return instruction_set().forward[which][type_index(plan.type())];
  }
  template <class T>
  static Block backward(int which, const Plan& plan) {
    return instruction_set().backward[which][type_index(plan.type())];
  }
  static bool backward_reads_weights(int) { return true; }
};

// Those with a bias: chains of blocks.
struct WithBias {
  static const Op& op(int which) { return kBiasOps[which]; }
  template <class T>
  static BiasForward<T> forward(int which, const Plan& plan) {
    return {which, type_index(plan.type()), plan.input_count == 2};
  }
  template <class T>
  static BiasBackward<T> backward(int which, const Plan& plan) {
    return {which, type_index(plan.type())};
  }
  static bool backward_reads_weights(int which) { return kOps[which].saved != Saved::kMask; }
};

// Writes the output and, unless it is null, the mask.
template <class Form>
void run_forward(int which, Arguments& arguments, const Tensor& output, uint8_t* mask) {
  arguments.tiles.push_back(output);
  Plan plan(std::move(arguments.tiles), 1);
  with_compute_type(plan.type(), [&](auto number) {
    using T = decltype(number);
    ElementwiseRun<T, decltype(Form::template forward<T>(which, plan))> run{Form::template forward<T>(which, plan),
                                                                            arguments.call, plan};
    run.mask_written = mask;
    run.weights = arguments.weights<T>(Form::op(which), output);
    run.run();
  });
  plan.finish();
}

template <class Form>
void forward(int which, StableIValue* stack, bool in_place, bool with_mask) {
  const Op& op = Form::op(which);
  Arguments arguments(op, stack, true, true);
  check_tiles(op, arguments.tiles);
  const Tensor input = arguments.tiles[0];
  Tensor output = in_place ? input : new_dense(input);
  std::optional<Tensor> mask;
  if (with_mask) mask = new_mask(input);
  run_forward<Form>(which, arguments, output, mask ? static_cast<uint8_t*>(mask->data_ptr()) : nullptr);
  if (!in_place) *stack++ = from(output);
  if (mask) *stack++ = from(*mask);
}

// Writes the gradients of tiles, and returns those of the channelwise operands.
template <class Form>
std::vector<Tensor> run_backward(int which, const Arguments& arguments, std::vector<Tensor> read, const uint8_t* mask,
                                 const std::vector<Tensor>& gradients) {
  read.insert(read.end(), gradients.begin(), gradients.end());
  Plan plan(std::move(read), gradients.size());
  std::vector<Tensor> sums;
  with_compute_type(plan.type(), [&](auto number) {
    using T = decltype(number);
    ElementwiseRun<T, decltype(Form::template backward<T>(which, plan))> run{Form::template backward<T>(which, plan),
                                                                             arguments.call, plan};
    run.mask_read = mask;
    run.weights = arguments.weights<T>(Form::op(which), gradients[0]);
    run.reads_weights = Form::backward_reads_weights(which);
    for (const Weights<T>& each : run.weights) run.sums.emplace_back(each.channels, run.slices(plan));
    run.run();
    for (size_t k = 0; k < run.sums.size(); ++k)
      sums.push_back(run.sums[k].template write<T>(arguments.channelwise[k]));
  });
  plan.finish();
  return sums;
}

template <class Form>
void backward(int which, StableIValue* stack) {
  const Op& op = Form::op(which);
  const bool saves_inputs = op.saved == Saved::kInputs;
  std::vector<Tensor> read;
  read.reserve(Plan::kMostTensors);
  read.push_back(to<Tensor>(stack[0]));
  std::optional<Tensor> saved;
  if (!saves_inputs) saved = to<Tensor>(stack[1]);
  Arguments arguments(op, stack + (saves_inputs ? 1 : 2), saves_inputs);
  if (op.saved == Saved::kOutput) arguments.tiles.push_back(*saved);
  const std::vector<Tensor>& tiles = arguments.tiles;
  read.insert(read.end(), tiles.begin(), tiles.end());
  check_tiles(op, read);
  const uint8_t* mask = nullptr;
  if (op.saved == Saved::kMask) {
    STD_TORCH_CHECK(saved->scalar_type() == ScalarType::Byte && saved->numel() == (read[0].numel() + 7) / 8 &&
                        saved->is_contiguous(),
                    "fastact::", op.name, "_backward: expected one bit per element of grad");
    mask = static_cast<const uint8_t*>(saved->data_ptr());
  }
  // A gradient has the order of dimensions of its tensor or, if that was not saved, of grad.
  std::vector<Tensor> gradients;
  for (const Tensor& like : op.saved == Saved::kMask ? read : tiles) gradients.push_back(new_dense(like));
  const std::vector<Tensor> sums = run_backward<Form>(which, arguments, std::move(read), mask, gradients);
  for (const auto* results : {&std::as_const(gradients), &sums})
    for (const Tensor& result : *results) *stack++ = from(result);
}

// Returns the dimension, counted from the front.
int64_t read_dim(StableIValue value, const Tensor& tensor, const char* op) {
  int64_t dim = to<int64_t>(value), dims = std::max<int64_t>(1, tensor.dim());
  STD_TORCH_CHECK(-dims <= dim && dim < dims, "fastact::", op, ": expected dim from ", -dims, " to ", dims - 1,
                  ", got ", dim);
  return dim < 0 ? dim + dims : dim;
}

// Returns value and gate, the halves of a tensor along a dimension.
std::vector<Tensor> halves(const Op& op, const Tensor& packed, int64_t dim, bool gate_first) {
  STD_TORCH_CHECK(packed.dim() > 0 && packed.size(dim) % 2 == 0, "fastact::", op.name,
                  ": expected a tensor whose size along dim ", dim, " is even");
  return {half(packed, dim, gate_first), half(packed, dim, !gate_first)};
}

void packed_forward(int which, StableIValue* stack) {
  const Op& op = kOps[which];
  const Tensor input = to<Tensor>(stack[0]);
  Arguments arguments(op, stack + 3, false);
  arguments.tiles = halves(op, input, read_dim(stack[1], input, op.name), to<bool>(stack[2]));
  check_dtype(input, op.name);
  const Tensor output = new_dense(arguments.tiles[0]);
  run_forward<Plain>(which, arguments, output, nullptr);
  stack[0] = from(output);
}

void packed_backward(int which, StableIValue* stack) {
  const Op& op = kOps[which];
  const Tensor grad = to<Tensor>(stack[0]), input = to<Tensor>(stack[1]);
  const int64_t dim = read_dim(stack[2], input, op.name);
  const bool gate_first = to<bool>(stack[3]);
  std::vector<Tensor> read = halves(op, input, dim, gate_first);
  read.insert(read.begin(), grad);
  check_tiles(op, read);
  const Tensor grad_input = new_dense(input);
  run_backward<Plain>(which, Arguments(op, stack + 4, false), std::move(read), nullptr,
                      halves(op, grad_input, dim, gate_first));
  stack[0] = from(grad_input);
}

// Returns the dimension of a Maxout.
int64_t read_pieces_dim(StableIValue value, const Tensor& tensor, int64_t pieces) {
  STD_TORCH_CHECK(tensor.dim() > 0, "fastact::maxout: expected a tensor with one dimension or more");
  STD_TORCH_CHECK(2 <= pieces && pieces <= 255, "fastact::maxout: expected pieces from 2 to 255, got ", pieces);
  return read_dim(value, tensor, "maxout");
}

template <bool with_indices>
void maxout_forward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor input = to<Tensor>(stack[0]);
  check_dtype(input, "maxout");
  int64_t pieces = to<int64_t>(stack[1]), dim = read_pieces_dim(stack[2], input, pieces), size = input.size(dim);
  STD_TORCH_CHECK(size % pieces == 0, "fastact::maxout: expected pieces to divide the size of dim ", dim, ", but ",
                  pieces, " does not divide ", size);
  if (!is_dense(input)) input = torch::stable::contiguous(input);
  Grouped shape = grouped(input, dim, 1, pieces);
  Tensor output = shape.new_tensor(input.scalar_type());
  std::optional<Tensor> indices;
  if (with_indices) {
    indices = shape.new_tensor(ScalarType::Byte);
    stack[1] = from(*indices);
  }
  run_maxout(input, pieces, shape.inner, output, with_indices ? &*indices : nullptr);
  stack[0] = from(output);
}

void maxout_backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor grad = to<Tensor>(stack[0]), indices = to<Tensor>(stack[1]);
  check_dtype(grad, "maxout");
  int64_t pieces = to<int64_t>(stack[2]), dim = read_pieces_dim(stack[3], indices, pieces);
  STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Byte && same_sizes(grad, indices),
                  "fastact::maxout_backward: expected indices to hold one byte for each element of grad");
  if (!is_dense(indices)) indices = torch::stable::contiguous(indices);
  if (!same_layout(grad, indices)) grad = copy_in_layout(grad, indices);
  Grouped shape = grouped(indices, dim, pieces, 1);
  Tensor grad_input = shape.new_tensor(grad.scalar_type());
  run_maxout_backward(grad, indices, pieces, shape.inner, grad_input);
  stack[0] = from(grad_input);
}

Strided whole(const Tensor& tensor) { return {static_cast<char*>(tensor.data_ptr()), 0, tensor.scalar_type()}; }

// `promoted` may be float32 where `type` is a 16-bit type.
void check_promotion(ScalarType type, ScalarType promoted, const char* op) {
  STD_TORCH_CHECK(type == promoted || (is_16_bit(type) && promoted == ScalarType::Float), "fastact::", op,
                  ": expected one dtype, or float32 made of a 16-bit type");
}

void softmax_forward(int which, StableIValue* stack) {
  Tensor input = to<Tensor>(stack[0]);
  auto type = to<ScalarType>(stack[2]);
  check_dtype(input, kSoftmaxOps[which].name);
  check_promotion(input.scalar_type(), type, kSoftmaxOps[which].name);
  int64_t dim = read_dim(stack[1], input, kSoftmaxOps[which].name);
  if (torch_is_faster(which, input, dim, type)) {
    stack[0] = from(torchs_softmax(which, input, dim));
    return;
  }
  if (!is_dense(input)) input = dense_copy(input, input);
  Tensor output = new_tensor(input.sizes().data(), input.strides().data(), input.dim(), type);
  with_compute_type(input.scalar_type(), [&](auto number) {
    run_softmax<decltype(number)>(which, outer_dim_inner(input, dim), whole(input), whole(output));
  });
  stack[0] = from(output);
}

void softmax_backward(int which, StableIValue* stack) {
  Tensor grad = to<Tensor>(stack[0]), output = to<Tensor>(stack[1]);
  auto type = to<ScalarType>(stack[3]);
  check_dtype(grad, kSoftmaxOps[which].name);
  check_same(grad, output, kSoftmaxOps[which].name);
  check_promotion(type, grad.scalar_type(), kSoftmaxOps[which].name);
  int64_t dim = read_dim(stack[2], grad, kSoftmaxOps[which].name);
  if (!is_dense(output)) output = dense_copy(output, output);
  if (!same_layout(grad, output)) grad = dense_copy(grad, output);
  if (torch_is_faster(which, output, dim, type)) {
    stack[0] = from(torchs_softmax_backward(which, grad, output, dim));
    return;
  }
  Tensor grad_input = new_tensor(output.sizes().data(), output.strides().data(), output.dim(), type);
  with_compute_type(grad.scalar_type(), [&](auto number) {
    run_softmax_backward<decltype(number)>(which, outer_dim_inner(output, dim), whole(grad), whole(output),
                                           whole(grad_input));
  });
  stack[0] = from(grad_input);
}

bool run_direct_softmax(const DirectCall& call, ScalarType type) {
  const int which = call.which - kElementwiseCount;
  if (torch_is_faster(which, type, call.n, call.row_size, call.inner)) return false;
  const OuterDimInner shape = call.row_size == 1
                                  ? OuterDimInner{1, 1, call.n}
                                  : OuterDimInner{call.n / (call.row_size * call.inner), call.row_size, call.inner};
  const auto whole = [&](const void* data) { return Strided{static_cast<char*>(const_cast<void*>(data)), 0, type}; };
  with_compute_type(type, [&](auto number) {
    using T = decltype(number);
    if (call.backward) {
      run_softmax_backward<T>(which, shape, whole(call.inputs[0]), whole(call.inputs[1]), whole(call.output));
    } else {
      run_softmax<T>(which, shape, whole(call.inputs[0]), whole(call.output));
    }
  });
  return true;
}

bool run_direct(const DirectCall& call) {
  const auto type = static_cast<ScalarType>(call.dtype);
  if (call.which >= kElementwiseCount) return run_direct_softmax(call, type);
  const auto& blocks = call.backward ? instruction_set().backward : instruction_set().forward;
  const Block block = blocks[call.which][type_index(type)];
  const bool reads_saved = call.backward && kOps[call.which].saved != Saved::kMask;
  const Plan plan = reads_saved ? Plan(type, {call.inputs[0], call.inputs[1]}, call.output, call.n)
                                : Plan(type, {call.inputs[0]}, call.output, call.n);
  with_compute_type(type, [&](auto number) {
    ElementwiseRun<decltype(number)> run{block, Call{call.scalars, call.seed}, plan};
    if (call.backward) {
      run.mask_read = call.mask;
    } else {
      run.mask_written = call.mask;
    }
    if (call.weight) run.weights.emplace_back(call.weight, type, call.n);
    run.run();
  });
  return true;
}

void direct_calls(StableIValue* stack, uint64_t, uint64_t) {
  stack[0] = from(static_cast<int64_t>(reinterpret_cast<intptr_t>(&run_direct)));
}
void cpu_capability(StableIValue* stack, uint64_t, uint64_t) { stack[0] = from(std::string(instruction_set().name)); }
void set_rows_of_torch(StableIValue* stack, uint64_t, uint64_t) { rows_of_torch() = to<int64_t>(stack[0]); }
void vendor(StableIValue* stack, uint64_t, uint64_t) { stack[0] = from(std::string(cpu_vendor())); }

using Library = torch::stable::detail::StableLibrary;

template <class Form, int which, bool in_place, bool with_mask>
void forward_op(StableIValue* stack, uint64_t, uint64_t) {
  forward<Form>(which, stack, in_place, with_mask);
}
template <void (*run)(int, StableIValue*), int which>
void op(StableIValue* stack, uint64_t, uint64_t) {
  run(which, stack);
}

void define_op(Library& library, const Op& op) {
  for (bool with_mask : {false, true}) {
    if (with_mask && op.saved != Saved::kMask) continue;
    library.def(forward_schema(op, false, with_mask).c_str());
    if (op.is_pointwise()) library.def(forward_schema(op, true, with_mask).c_str());
  }
  library.def(backward_schema(op).c_str());
  for (bool backward : {false, true})
    if (op.count(Kind::kTile) == 2) library.def(packed_schema(op, backward).c_str());
}

void define(Library& library) {
  for (int which = 0; which < kElementwiseCount; ++which) {
    define_op(library, kOps[which]);
    if (has_bias_form(kOps[which])) define_op(library, kBiasOps[which]);
  }
  for (const SoftmaxOp& op : kSoftmaxOps)
    for (bool backward : {false, true}) library.def(softmax_schema(op.name, backward).c_str());
  library.def("maxout(Tensor input, int pieces, int dim) -> Tensor");
  library.def("maxout_indices(Tensor input, int pieces, int dim) -> (Tensor, Tensor)");
  library.def("maxout_backward(Tensor grad, Tensor indices, int pieces, int dim) -> Tensor");
  library.def("cpu_capability() -> str");
  library.def("direct_calls() -> int");  // the address of a RunDirect
  library.def("cpu_vendor() -> str");
  library.def("set_rows_of_torch(int cells) -> ()");
}

template <class Form, int which>
void implement_form(Library& library) {
  constexpr bool with_mask = kOps[which].saved == Saved::kMask;
  const std::string name = Form::op(which).name;
  library.impl(name.c_str(), forward_op<Form, which, false, false>);
  library.impl((name + "_backward").c_str(), op<backward<Form>, which>);
  if constexpr (with_mask) library.impl((name + "_mask").c_str(), forward_op<Form, which, false, true>);
}

template <int which>
void implement(Library& library) {
  constexpr const Op& of = kOps[which];
  const std::string name = of.name;
  implement_form<Plain, which>(library);
  if constexpr (has_bias_form(of)) implement_form<WithBias, which>(library);
  if constexpr (of.is_pointwise()) {
    library.impl((name + "_").c_str(), forward_op<Plain, which, true, false>);
    if constexpr (of.saved == Saved::kMask)
      library.impl((name + "_mask_").c_str(), forward_op<Plain, which, true, true>);
  }
  if constexpr (of.count(Kind::kTile) == 2) {
    library.impl((name + "_packed").c_str(), op<packed_forward, which>);
    library.impl((name + "_packed_backward").c_str(), op<packed_backward, which>);
  }
}

template <int which>
void implement_softmax(Library& library) {
  const std::string name = kSoftmaxOps[which].name;
  library.impl(name.c_str(), op<softmax_forward, which>);
  library.impl((name + "_backward").c_str(), op<softmax_backward, which>);
}

template <int... which>
void implement_all(Library& library, std::integer_sequence<int, which...>) {
  (implement<which>(library), ...);
}
template <int... which>
void implement_all_softmax(Library& library, std::integer_sequence<int, which...>) {
  (implement_softmax<which>(library), ...);
}

}  // namespace
}  // namespace fastact

STABLE_TORCH_LIBRARY(fastact, library) { fastact::define(library); }

STABLE_TORCH_LIBRARY_IMPL(fastact, CPU, library) {
  fastact::implement_all(library, std::make_integer_sequence<int, fastact::kElementwiseCount>());
  fastact::implement_all_softmax(library, std::make_integer_sequence<int, fastact::kSoftmaxCount>());
  library.impl("maxout", fastact::maxout_forward<false>);
  library.impl("maxout_indices", fastact::maxout_forward<true>);
  library.impl("maxout_backward", fastact::maxout_backward);
}

STABLE_TORCH_LIBRARY_IMPL(fastact, CompositeExplicitAutograd, library) {
  library.impl("cpu_capability", fastact::cpu_capability);
  library.impl("direct_calls", fastact::direct_calls);
  library.impl("cpu_vendor", fastact::vendor);
  library.impl("set_rows_of_torch", fastact::set_rows_of_torch);
}
