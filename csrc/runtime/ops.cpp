// The ops of torch.ops.fastact on the CPU and on CUDA's GPUs, registered through LibTorch's stable ABI: no Python
// symbols and no C++ types cross the boundary, so one binary serves every Python, and every torch from
// TORCH_TARGET_VERSION on.
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
// For batch norm: the mean and the mean square deviation of each channel, as (2, channels) in float64:
//   moments(Tensor input) -> Tensor
// For fastact.Monitor: adds a dense tensor's elements, divided by `scale`, to a State (runtime/summary.h) in float64:
//   summarize_(Tensor input, Tensor? scale, Tensor(a!) state) -> ()
// And how many elements a dense tensor has, and how many in one of the intervals (low, high] that `bounds` has in its
// rows: added to the first two of `counts`, and written to the last two. It sets the flag of each index of dimension
// `unit_dim` where any element is in none:
//   count_flat_(Tensor input, Tensor bounds, int? unit_dim, Tensor(a!) counts, Tensor(b!) awake, Tensor(c!)?
//   state=None)
//     -> ()
// With a state, it adds the elements to that as `summarize_` does, in the same pass. Threads may call both at once.
// For fastact.L1: the sum of a tensor's absolute values, in its compute type; and on the CPU, for each op of the table,
// a backward of the gradients of the output and of that sum, l1 (of outputs where the mask is set, times their sign):
//   l1_norm(Tensor input) -> Tensor
//   l1_name_backward(Tensor grad, Tensor output, float l1, …) -> Tensor   (or mask, or all tiles)
// autograd/nodes.cpp and fastact/autograd.py make them differentiable.
#include <mutex>
#include <string>

#include "gpu/maxout.h"
#include "gpu/softmax.h"
#include "runtime/bias.h"
#include "runtime/elementwise.h"
#include "runtime/l1.h"
#include "runtime/maxout.h"
#include "runtime/moments.h"
#include "runtime/softmax.h"
#include "runtime/summary.h"
#include "runtime/torch_rows.h"
#include "spec/direct.h"
#include "spec/schema.h"

namespace fastact {
namespace {

void check_same(const Tensor& a, const Tensor& b, const char* op) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type() && same_sizes(a, b) && same_device(a, b), "fastact::", op,
                  ": expected tensors of the same dtype and shape, on one device");
}

// The arguments of an op, from the stack.
struct Arguments {
  std::vector<Tensor> tiles, channelwise;
  std::optional<Tensor> seed;
  double scalars[most(Kind::kScalar) + 1];

  Arguments(const Op& op, StableIValue* stack, bool with_tiles, bool with_residual = false) {
    int scalar = 0;
    if (with_tiles) tiles.reserve(Plan::kMostTensors);
    for (int i = 0; i < op.operand_count; ++i) {
      switch (op.operands[i].kind) {
        case Kind::kTile:
          if (with_tiles) tiles.push_back(to<Tensor>(*stack++));
          break;
        case Kind::kSeed:
          seed = to<Tensor>(*stack++);
          STD_TORCH_CHECK(seed->numel() == 1 && seed->scalar_type() == ScalarType::Long, "fastact::", op.name,
                          ": expected seed to be one int64");
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

 private:
  void read_residual(const std::optional<Tensor>& residual) {
    if (residual) tiles.push_back(*residual);
  }
};

void check_tiles(const Op& op, const std::vector<Tensor>& tiles, const std::optional<Tensor>& seed) {
  check_dtype(tiles[0], op.name);
  for (size_t i = 1; i < tiles.size(); ++i) check_same(tiles[0], tiles[i], op.name);
  STD_TORCH_CHECK(!seed || same_device(*seed, tiles[0]), "fastact::", op.name, ": expected seed on the input's device");
}

// The tensors of a call.
struct Tensors {
  std::vector<Tensor> read, channelwise, written;
  std::optional<Tensor> mask_read, mask_written, seed;
  std::vector<Tensor> sums{};  // gradients of the channelwise ones

  uint64_t seed_value() const { return seed ? *static_cast<const uint64_t*>(seed->data_ptr()) : 0; }
  template <class T>
  std::vector<Weights<T>> weights(const Op& op) const {
    std::vector<Weights<T>> weights;
    for (const Tensor& tensor : channelwise) weights.emplace_back(tensor, written[0], op.name);
    return weights;
  }
  Plan plan(const RowRules& rules, bool dense = false) const {
    std::vector<Tensor> all;
    all.reserve(Plan::kMostTensors);
    all.insert(all.end(), read.begin(), read.end());
    all.insert(all.end(), written.begin(), written.end());
    return Plan(std::move(all), written.size(), rules, dense);
  }

  Tensors copied_to_cpu() const {
    const auto each = [](const std::vector<Tensor>& tensors) {
      std::vector<Tensor> copies;
      for (const Tensor& tensor : tensors) copies.push_back(copy_to_cpu(tensor));
      return copies;
    };
    const auto one = [](const std::optional<Tensor>& tensor) {
      return tensor ? std::optional<Tensor>(copy_to_cpu(*tensor)) : std::nullopt;
    };
    return {each(read), each(channelwise), each(written), one(mask_read), one(mask_written), one(seed), each(sums)};
  }
  void copy_results_of(const Tensors& other) {
    for (size_t i = 0; i < written.size(); ++i) torch::stable::copy_(written[i], other.written[i]);
    for (size_t i = 0; i < sums.size(); ++i) torch::stable::copy_(sums[i], other.sums[i]);
  }
};

// Runs a backward on the device of its tensors or, where a GPU has no kernel for it, on copies on the CPU: what is
// saved is for kernels to read, and the gradient must not be lost. (Of a forward, torch's op takes the place.)
template <class OnGpu, class OnCpu>
void run_somewhere(Tensors& tensors, const OnGpu& on_gpu, const OnCpu& on_cpu) {
  if (!gpu::runs_here(tensors.read[0])) return on_cpu(tensors);
  try {
    return on_gpu(tensors);
  } catch (const gpu::ForNow&) {
    throw;
  } catch (const gpu::Unavailable&) {
    // A graph that is captured could not hold the way to the CPU.
    if (gpu::is_captured(tensors.read[0])) throw;
  }
  const Tensors copies = tensors.copied_to_cpu();
  on_cpu(copies);
  tensors.copy_results_of(copies);
}

uint8_t* bytes_of(const std::optional<Tensor>& tensor) {
  return tensor ? static_cast<uint8_t*>(tensor->data_ptr()) : nullptr;
}
gpu::Beside beside(const Tensors& tensors) {
  return {bytes_of(tensors.mask_read), bytes_of(tensors.mask_written), bytes_of(tensors.seed)};
}

// The ops of the table: one block function each.
struct Plain {
  static constexpr bool kBiased = false;
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
  static constexpr bool kOnGpu = true;
};

// Those with a bias: chains of blocks.
struct WithBias {
  static constexpr bool kBiased = true;
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
  static constexpr bool kOnGpu = true;
};

// Those where the gradient of the outputs' L1 norm joins theirs: backward alone.
struct WithL1 {
  static const Op& op(int which) { return kL1Ops[which]; }
  template <class T>
  static L1Backward<T> backward(int which, const Plan& plan) {
    return {which, type_index(plan.type())};
  }
  static bool backward_reads_weights(int) { return true; }
  static constexpr bool kOnGpu = false;
};

template <class Form>
void forward_on_gpu(int which, const Tensors& tensors, const double* scalars) {
  const gpu::Launcher launcher(tensors.written[0]);
  Plan plan = tensors.plan(kGpuRows);
  gpu::ElementwiseKernel kernel{
      {which, Form::kBiased, tensors.mask_written ? gpu::Part::kMask : gpu::Part::kForward, plan.type()}};
  kernel.residual = Form::kBiased && plan.input_count == 2;
  gpu::run(launcher, kernel, plan, beside(tensors), {tensors.channelwise, tensors.written[0], Form::op(which).name},
           scalars);
  plan.finish();
}

// Writes the output and, if there is one, the mask.
template <class Form>
void run_forward(int which, const Tensors& tensors, const double* scalars) {
  if (gpu::runs_here(tensors.written[0])) return forward_on_gpu<Form>(which, tensors, scalars);
  Plan plan = tensors.plan(kCpuRows);
  with_compute_type(plan.type(), [&](auto number) {
    using T = decltype(number);
    ElementwiseRun<T, decltype(Form::template forward<T>(which, plan))> run{Form::template forward<T>(which, plan),
                                                                            Call{scalars, tensors.seed_value()}, plan};
    run.mask_written = bytes_of(tensors.mask_written);
    run.weights = tensors.weights<T>(Form::op(which));
    run.run();
  });
  plan.finish();
}

template <class Form>
void forward(int which, StableIValue* stack, bool in_place, bool with_mask) {
  const Op& op = Form::op(which);
  Arguments arguments(op, stack, true, true);
  check_tiles(op, arguments.tiles, arguments.seed);
  const Tensor input = arguments.tiles[0];
  const Tensor output = in_place ? input : new_dense(input);
  std::optional<Tensor> mask;
  if (with_mask) mask = new_mask(input);
  run_forward<Form>(
      which,
      {std::move(arguments.tiles), std::move(arguments.channelwise), {output}, {}, mask, std::move(arguments.seed)},
      arguments.scalars);
  if (!in_place) *stack++ = from(output);
  if (mask) *stack++ = from(*mask);
}

template <class Form>
void backward_on_cpu(int which, const Tensors& tensors, const double* scalars) {
  Plan plan = tensors.plan(kCpuRows);
  with_compute_type(plan.type(), [&](auto number) {
    using T = decltype(number);
    ElementwiseRun<T, decltype(Form::template backward<T>(which, plan))> run{Form::template backward<T>(which, plan),
                                                                             Call{scalars, tensors.seed_value()}, plan};
    run.mask_read = bytes_of(tensors.mask_read);
    run.weights = tensors.weights<T>(Form::op(which));
    run.reads_weights = Form::backward_reads_weights(which);
    for (const Weights<T>& each : run.weights) run.sums.emplace_back(each.channels, run.slices(plan));
    run.run();
    for (size_t k = 0; k < run.sums.size(); ++k) run.sums[k].template write<T>(tensors.sums[k]);
  });
  plan.finish();
}

template <class Form>
void backward_on_gpu(int which, const Tensors& tensors, const double* scalars) {
  const gpu::Launcher launcher(tensors.written[0]);
  const gpu::Weights weights(tensors.channelwise, tensors.written[0], Form::op(which).name);
  const bool sums = !tensors.sums.empty();
  Plan plan = tensors.plan(kGpuRows, sums);
  const gpu::OpPart part{which, Form::kBiased, gpu::Part::kBackward, plan.type()};
  if (sums) {
    gpu::run_with_sums(launcher, {part}, plan, beside(tensors), weights, Form::backward_reads_weights(which), scalars,
                       tensors.sums);
  } else {
    gpu::run(launcher, {part}, plan, beside(tensors), weights, scalars);
  }
  plan.finish();
}

// Writes the gradients.
template <class Form>
void run_backward(int which, Tensors tensors, const double* scalars) {
  const auto on_cpu = [&](const Tensors& there) { backward_on_cpu<Form>(which, there, scalars); };
  if constexpr (Form::kOnGpu) {
    run_somewhere(tensors, [&](const Tensors& here) { backward_on_gpu<Form>(which, here, scalars); }, on_cpu);
  } else {
    on_cpu(tensors);
  }
}

template <class Form>
void backward(int which, StableIValue* stack) {
  const Op& op = Form::op(which);
  const bool saves_inputs = op.saved == Saved::kInputs;
  Tensors tensors;
  tensors.read.push_back(to<Tensor>(stack[0]));
  std::optional<Tensor> saved;
  if (!saves_inputs) saved = to<Tensor>(stack[1]);
  Arguments arguments(op, stack + (saves_inputs ? 1 : 2), saves_inputs);
  if (op.saved == Saved::kOutput) arguments.tiles.push_back(*saved);
  tensors.read.insert(tensors.read.end(), arguments.tiles.begin(), arguments.tiles.end());
  check_tiles(op, tensors.read, arguments.seed);
  const Tensor& grad = tensors.read[0];
  if (op.saved == Saved::kMask) {
    STD_TORCH_CHECK(saved->scalar_type() == ScalarType::Byte && saved->numel() == (grad.numel() + 7) / 8 &&
                        saved->is_contiguous() && same_device(*saved, grad),
                    "fastact::", op.name, "_backward: expected one bit per element of grad");
    tensors.mask_read = saved;
  }
  // A gradient has the order of dimensions of its tensor or, if that was not saved, of grad.
  for (const Tensor& like : op.saved == Saved::kMask ? tensors.read : arguments.tiles)
    tensors.written.push_back(new_dense(like));
  for (const Tensor& each : arguments.channelwise) tensors.sums.push_back(new_dense(each));
  tensors.channelwise = std::move(arguments.channelwise);
  tensors.seed = std::move(arguments.seed);
  run_backward<Form>(which, tensors, arguments.scalars);
  for (const auto* results : {&tensors.written, &tensors.sums})
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
  const Arguments arguments(op, stack + 3, false);
  Tensors tensors;
  tensors.read = halves(op, input, read_dim(stack[1], input, op.name), to<bool>(stack[2]));
  check_dtype(input, op.name);
  tensors.written = {new_dense(tensors.read[0])};
  run_forward<Plain>(which, tensors, arguments.scalars);
  stack[0] = from(tensors.written[0]);
}

void packed_backward(int which, StableIValue* stack) {
  const Op& op = kOps[which];
  const Tensor grad = to<Tensor>(stack[0]), input = to<Tensor>(stack[1]);
  const int64_t dim = read_dim(stack[2], input, op.name);
  const bool gate_first = to<bool>(stack[3]);
  const Arguments arguments(op, stack + 4, false);
  Tensors tensors;
  tensors.read = halves(op, input, dim, gate_first);
  tensors.read.insert(tensors.read.begin(), grad);
  check_tiles(op, tensors.read, {});
  const Tensor grad_input = new_dense(input);
  tensors.written = halves(op, grad_input, dim, gate_first);
  run_backward<Plain>(which, tensors, arguments.scalars);
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
  Tensor output = shape.new_tensor(input.scalar_type(), input);
  const bool on_gpu = gpu::runs_here(input);
  std::optional<Tensor> indices;
  if (with_indices || on_gpu) indices = shape.new_tensor(ScalarType::Byte, input);
  if (on_gpu) {
    gpu::run_maxout(false, output.numel(), pieces, shape.inner, {input, output, *indices});
  } else {
    run_maxout(input, pieces, shape.inner, output, with_indices ? &*indices : nullptr);
  }
  if (with_indices) stack[1] = from(*indices);
  stack[0] = from(output);
}

void maxout_backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor grad = to<Tensor>(stack[0]), indices = to<Tensor>(stack[1]);
  check_dtype(grad, "maxout");
  int64_t pieces = to<int64_t>(stack[2]), dim = read_pieces_dim(stack[3], indices, pieces);
  STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Byte && same_sizes(grad, indices) && same_device(grad, indices),
                  "fastact::maxout_backward: expected indices to hold one byte for each element of grad");
  if (!is_dense(indices)) indices = torch::stable::contiguous(indices);
  if (!same_layout(grad, indices)) grad = copy_in_layout(grad, indices);
  Grouped shape = grouped(indices, dim, pieces, 1);
  Tensors tensors;
  tensors.read = {grad, indices};
  tensors.written = {shape.new_tensor(grad.scalar_type(), grad)};
  run_somewhere(
      tensors,
      [&](const Tensors& here) {
        gpu::run_maxout(true, grad.numel(), pieces, shape.inner, {here.read[0], here.read[1], here.written[0]});
      },
      [&](const Tensors& there) {
        run_maxout_backward(there.read[0], there.read[1], pieces, shape.inner, there.written[0]);
      });
  stack[0] = from(tensors.written[0]);
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
  const bool on_gpu = gpu::runs_here(input);
  if (!on_gpu && torch_is_faster(which, input, dim, type)) {
    stack[0] = from(torchs_softmax(which, input, dim));
    return;
  }
  if (!is_dense(input)) input = dense_copy(input, input);
  const Tensor output = new_tensor(input.sizes().data(), input.strides().data(), input.dim(), type, input);
  stack[0] = from(output);
  if (on_gpu)
    return gpu::run_softmax(gpu::Launcher(input), which, false, gpu::SoftmaxRows::of(input, dim),
                            {whole(input), whole(output)});
  with_compute_type(input.scalar_type(), [&](auto number) {
    run_softmax<decltype(number)>(which, outer_dim_inner(input, dim), whole(input), whole(output));
  });
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
  if (!gpu::runs_here(output) && torch_is_faster(which, output, dim, type)) {
    stack[0] = from(torchs_softmax_backward(which, grad, output, dim));
    return;
  }
  Tensors tensors;
  tensors.read = {grad, output};
  tensors.written = {new_tensor(output.sizes().data(), output.strides().data(), output.dim(), type, output)};
  run_somewhere(
      tensors,
      [&](const Tensors& here) {
        gpu::run_softmax(gpu::Launcher(output), which, true, gpu::SoftmaxRows::of(output, dim),
                         {whole(here.read[0]), whole(here.read[1]), whole(here.written[0])});
      },
      [&](const Tensors& there) {
        with_compute_type(grad.scalar_type(), [&](auto number) {
          run_softmax_backward<decltype(number)>(which, outer_dim_inner(output, dim), whole(there.read[0]),
                                                 whole(there.read[1]), whole(there.written[0]));
        });
      });
  stack[0] = from(tensors.written[0]);
}

bool run_direct_softmax(const DirectCall& call, ScalarType type, bool on_gpu) {
  const int which = call.which - kElementwiseCount;
  const int64_t n = call.columns;
  const auto whole = [&](const void* data) { return Strided{static_cast<char*>(const_cast<void*>(data)), 0, type}; };
  const Strided first = whole(call.inputs[0]), second = whole(call.inputs[1]), written = whole(call.outputs[0]);
  if (on_gpu) {
    const auto rows = gpu::SoftmaxRows::of(n, call.row_size, call.inner);
    return call.backward ? gpu::run_softmax_if_loaded(call.device, which, true, rows, {first, second, written})
                         : gpu::run_softmax_if_loaded(call.device, which, false, rows, {first, written});
  }
  if (torch_is_faster(which, type, n, call.row_size, call.inner)) return false;
  const OuterDimInner shape = call.row_size == 1
                                  ? OuterDimInner{1, 1, n}
                                  : OuterDimInner{n / (call.row_size * call.inner), call.row_size, call.inner};
  with_compute_type(type, [&](auto number) {
    using T = decltype(number);
    if (call.backward) {
      run_softmax_backward<T>(which, shape, first, second, written);
    } else {
      run_softmax<T>(which, shape, first, written);
    }
  });
  return true;
}

bool run_direct(const DirectCall& call) {
  const bool on_gpu = call.device >= 0 || gpu::emulating();
  const auto type = static_cast<ScalarType>(call.dtype);
  if (call.which >= kElementwiseCount) return run_direct_softmax(call, type, on_gpu);
  const Op& op = kOps[call.which];
  const size_t tiles = op.count(Kind::kTile);
  const size_t read = call.backward ? 1 + (op.saved == Saved::kMask ? 0 : tiles) : tiles;
  const Plan plan(type, {call.rows, call.columns}, read, call.inputs, call.input_strides, call.backward ? tiles : 1,
                  call.outputs, call.output_strides);
  if (!plan.keeps(on_gpu ? kGpuRows : kCpuRows)) return false;
  if (on_gpu) {
    const gpu::Part part = call.backward ? gpu::Part::kBackward : call.mask ? gpu::Part::kMask : gpu::Part::kForward;
    const gpu::Beside beside{call.backward ? call.mask : nullptr, call.backward ? nullptr : call.mask, call.seed};
    return gpu::run_if_loaded(call.device, {{call.which, false, part, type}}, plan, beside,
                              gpu::Weights(call.weight, call.channels, call.repeats), call.scalars);
  }
  const auto& blocks = call.backward ? instruction_set().backward : instruction_set().forward;
  const Block block = blocks[call.which][type_index(type)];
  with_compute_type(type, [&](auto number) {
    const uint64_t seed = call.seed ? *static_cast<const uint64_t*>(call.seed) : 0;
    ElementwiseRun<decltype(number)> run{block, Call{call.scalars, seed}, plan};
    if (call.backward) {
      run.mask_read = call.mask;
    } else {
      run.mask_written = call.mask;
    }
    if (call.weight) run.weights.emplace_back(call.weight, type, Channels{call.channels, call.repeats});
    run.run();
  });
  return true;
}

void moments(StableIValue* stack, uint64_t, uint64_t) {
  const auto input = to<Tensor>(stack[0]);
  const auto type = input.scalar_type();
  STD_TORCH_CHECK((type == ScalarType::Float || type == ScalarType::Double) && input.dim() >= 2 && input.numel() > 0 &&
                      input.is_contiguous(),
                  "fastact::moments: expected a contiguous tensor of float32 or float64 with channels");
  const int64_t sizes[] = {2, input.size(1)}, strides[] = {input.size(1), 1};
  Tensor result = new_tensor(sizes, strides, 2, ScalarType::Double, input);
  auto* means = static_cast<double*>(result.data_ptr());
  run_moments(input, means, means + input.size(1));
  stack[0] = from(result);
}

void l1_norm(StableIValue* stack, uint64_t, uint64_t) {
  auto input = to<Tensor>(stack[0]);
  check_dtype(input, "l1_norm");
  if (!is_dense(input)) input = dense_copy(input, input);
  const auto type = input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor result = new_tensor(nullptr, nullptr, 0, type, input);
  const double norm = run_l1_norm(input);
  with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    *static_cast<T*>(result.data_ptr()) = static_cast<T>(norm);
  });
  stack[0] = from(result);
}

void check_seen(const Tensor& input, const char* op) {
  check_dtype(input, op);
  STD_TORCH_CHECK(input.is_cpu() && input.numel() > 0 && is_dense(input), "fastact::", op,
                  ": expected a dense tensor with elements");
}
// Returns the numbers of a tensor on the CPU that has `numel` of them in float64.
double* float64(const Tensor& tensor, int64_t numel, const char* expected) {
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Double && tensor.numel() == numel &&
                      tensor.is_contiguous(),
                  "fastact: expected ", expected, " in float64");
  return static_cast<double*>(tensor.data_ptr());
}

// Held where a result is added to what is kept, not while it is computed.
std::mutex& adding() {
  static std::mutex mutex;
  return mutex;
}
State* state_of(const Tensor& tensor) {
  return reinterpret_cast<State*>(float64(tensor, sizeof(State) / sizeof(double), "a state"));
}

void summarize(StableIValue* stack, uint64_t, uint64_t) {
  const auto input = to<Tensor>(stack[0]);
  const auto scale = to<std::optional<Tensor>>(stack[1]);
  const auto state = to<Tensor>(stack[2]);
  check_seen(input, "summarize_");
  State* const kept = state_of(state);
  Summary found = summary_of(input);
  if (scale) {
    const double by = *float64(*scale, 1, "a scale of one number");
    found.mean /= by;
    found.squares /= by * by;
    found.least /= by;
    found.most /= by;
  }
  const std::lock_guard lock(adding());
  kept->add(found);
}

void count_flat(StableIValue* stack, uint64_t, uint64_t) {
  const auto input = to<Tensor>(stack[0]), bounds = to<Tensor>(stack[1]);
  auto unit_dim = to<std::optional<int64_t>>(stack[2]);
  const auto counts = to<Tensor>(stack[3]), awake = to<Tensor>(stack[4]);
  const auto state = to<std::optional<Tensor>>(stack[5]);
  check_seen(input, "count_flat_");
  const int64_t intervals = bounds.numel() / 2;
  STD_TORCH_CHECK(intervals <= kMostIntervals, "fastact::count_flat_: expected up to ", kMostIntervals, " intervals");
  const double* const ends = float64(bounds, 2 * intervals, "bounds as (intervals, 2)");
  double* const totals = float64(counts, 4, "four counts");
  std::optional<Channels> units;
  if (unit_dim) {
    if (*unit_dim < 0) *unit_dim += input.dim();
    STD_TORCH_CHECK(0 <= *unit_dim && *unit_dim < input.dim(), "fastact::count_flat_: the input has ", input.dim(),
                    " dimensions, none of which is unit_dim");
    const int64_t count = input.size(*unit_dim);
    units = {count, count == 1 ? input.numel() : input.stride(*unit_dim)};
    STD_TORCH_CHECK(
        awake.is_cpu() && awake.scalar_type() == ScalarType::Bool && awake.numel() == count && awake.is_contiguous(),
        "fastact::count_flat_: expected a bool for each of ", count, " units");
  }
  auto* const flags = static_cast<bool*>(awake.data_ptr());
  if (units) {
    // Once all units have been awake, as after a call or two in most networks, which element is whose tells no more.
    const std::lock_guard lock(adding());
    if (std::all_of(flags, flags + units->count, [](bool each) { return each; })) units.reset();
  }
  State* const kept = state ? state_of(*state) : nullptr;
  const FlatRows::Found found = FlatRows(input, ends, intervals, units).count(kept);
  const std::lock_guard lock(adding());
  totals[0] += totals[2] = static_cast<double>(input.numel());
  totals[1] += totals[3] = static_cast<double>(found.flat);
  for (size_t i = 0; i < found.awake.size(); ++i) flags[i] |= found.awake[i] != 0;
  if (kept) kept->add(found.summary);
}

void direct_calls(StableIValue* stack, uint64_t, uint64_t) {
  stack[0] = from(static_cast<int64_t>(reinterpret_cast<intptr_t>(&run_direct)));
}
void cpu_capability(StableIValue* stack, uint64_t, uint64_t) { stack[0] = from(std::string(instruction_set().name)); }
void set_rows_of_torch(StableIValue* stack, uint64_t, uint64_t) { rows_of_torch() = to<int64_t>(stack[0]); }
void emulate_gpu(StableIValue* stack, uint64_t, uint64_t) {
  const auto value = to<std::optional<bool>>(stack[0]);
  stack[0] = from(value ? gpu::emulating().exchange(*value) : gpu::emulating().load());
}
void set_gpu_callbacks(StableIValue* stack, uint64_t, uint64_t) {
  gpu::python() = {reinterpret_cast<gpu::FindImage>(to<int64_t>(stack[0])),
                   reinterpret_cast<gpu::Report>(to<int64_t>(stack[1]))};
}
void forget_kernels(StableIValue*, uint64_t, uint64_t) { gpu::kernel_table().clear(); }
void vendor(StableIValue* stack, uint64_t, uint64_t) { stack[0] = from(std::string(cpu_vendor())); }
void compiler(StableIValue* stack, uint64_t, uint64_t) {
#if defined(__clang__)
  stack[0] = from(std::string(__VERSION__));  // which begins with its name
#else
  stack[0] = from(std::string("GCC " __VERSION__));
#endif
}

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
    library.def(backward_schema(kL1Ops[which]).c_str());
  }
  for (const SoftmaxOp& op : kSoftmaxOps)
    for (bool backward : {false, true}) library.def(softmax_schema(op.name, backward).c_str());
  library.def("maxout(Tensor input, int pieces, int dim) -> Tensor");
  library.def("maxout_indices(Tensor input, int pieces, int dim) -> (Tensor, Tensor)");
  library.def("maxout_backward(Tensor grad, Tensor indices, int pieces, int dim) -> Tensor");
  library.def("moments(Tensor input) -> Tensor");
  library.def("summarize_(Tensor input, Tensor? scale, Tensor(a!) state) -> ()");
  library.def(
      "count_flat_(Tensor input, Tensor bounds, int? unit_dim, Tensor(a!) counts, Tensor(b!) awake, "
      "Tensor(c!)? state=None) -> ()");
  library.def("l1_norm(Tensor input) -> Tensor");
  library.def("cpu_capability() -> str");
  library.def("direct_calls() -> int");  // the address of a RunDirect
  library.def("cpu_vendor() -> str");
  library.def("compiler() -> str");
  library.def("set_rows_of_torch(int cells) -> ()");
  library.def("set_gpu_callbacks(int find_image, int report) -> ()");  // addresses; see gpu/kernels.h
  library.def("emulate_gpu(bool? value) -> bool");                     // returns what it was
  library.def("forget_kernels() -> ()");
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
template <int... which>
void implement_l1(Library& library, std::integer_sequence<int, which...>) {
  (library.impl((std::string(kL1Ops[which].name) + "_backward").c_str(), op<backward<WithL1>, which>), ...);
}
void implement_ops(Library& library) {
  implement_all(library, std::make_integer_sequence<int, kElementwiseCount>());
  implement_all_softmax(library, std::make_integer_sequence<int, kSoftmaxCount>());
  library.impl("maxout", maxout_forward<false>);
  library.impl("maxout_indices", maxout_forward<true>);
  library.impl("maxout_backward", maxout_backward);
}

}  // namespace
}  // namespace fastact

STABLE_TORCH_LIBRARY(fastact, library) { fastact::define(library); }

STABLE_TORCH_LIBRARY_IMPL(fastact, CPU, library) {
  fastact::implement_ops(library);
  fastact::implement_l1(library, std::make_integer_sequence<int, fastact::kElementwiseCount>());
  library.impl("moments", fastact::moments);
  library.impl("summarize_", fastact::summarize);
  library.impl("count_flat_", fastact::count_flat);
  library.impl("l1_norm", fastact::l1_norm);
}
STABLE_TORCH_LIBRARY_IMPL(fastact, CUDA, library) { fastact::implement_ops(library); }

STABLE_TORCH_LIBRARY_IMPL(fastact, CompositeExplicitAutograd, library) {
  library.impl("cpu_capability", fastact::cpu_capability);
  library.impl("direct_calls", fastact::direct_calls);
  library.impl("cpu_vendor", fastact::vendor);
  library.impl("compiler", fastact::compiler);
  library.impl("set_rows_of_torch", fastact::set_rows_of_torch);
  library.impl("set_gpu_callbacks", fastact::set_gpu_callbacks);
  library.impl("emulate_gpu", fastact::emulate_gpu);
  library.impl("forget_kernels", fastact::forget_kernels);
}
