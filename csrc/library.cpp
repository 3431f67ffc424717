// The ops of torch.ops.fastact on the CPU, registered through LibTorch's stable ABI: no Python symbols and no C++ types
// cross the boundary, so one binary serves every Python and every torch from the version in TORCH_TARGET_VERSION on.
//
// For each activation, with its parameters P (activations.h) and, where it is random, `Tensor seed` before them:
//   name(Tensor input, P) -> Tensor                       name_(Tensor(a!) input, P) -> ()
//   name_backward(Tensor grad, Tensor saved, P) -> Tensor
// and, where a mask of one bit per element is saved:
//   name_mask(Tensor input, P) -> (Tensor, Tensor)        name_mask_(Tensor(a!) input, P) -> Tensor
// Those with learned tensors L (one number each, or one per channel; in float32 too where the input has 16 bits):
//   name(Tensor input, L, P) -> Tensor      name_backward(Tensor grad, Tensor input, L, P) -> (Tensor, one for each L)
// Gated units, of two tensors or of one whose halves along `dim` they are:
//   name(Tensor value, Tensor gate) -> Tensor
//   name_backward(Tensor grad, Tensor value, Tensor gate) -> (Tensor, Tensor)
//   name_packed(Tensor input, int dim, bool gate_first) -> Tensor
//   name_packed_backward(Tensor grad, Tensor input, int dim, bool gate_first) -> Tensor
// Maxout over groups of neighbours along `dim`; `indices` are the winners' numbers in their groups, in one byte each:
//   maxout(Tensor input, int pieces, int dim) -> Tensor
//   maxout_indices(Tensor input, int pieces, int dim) -> (Tensor, Tensor)
//   maxout_backward(Tensor grad, Tensor indices, int pieces, int dim) -> Tensor
// Those of rows along a dimension; `dtype`, of the result, is the first operand's or, of 16-bit types, that or float32:
//   name(Tensor input, int dim, ScalarType dtype) -> Tensor
//   name_backward(Tensor grad, Tensor output, int dim, ScalarType dtype) -> Tensor
// Their autograd is in autograd.cpp and fastact/autograd.py.
#include <string>

#include "loops.h"
#include "rows.h"
#include "traits.h"

namespace fastact {
namespace {

// The seed and the parameters, from stack[first] on.
template <Pointwise which>
struct Arguments {
  double parameters[Traits<which>::parameter_count + 1];
  Call call;

  Arguments(StableIValue* stack, int first) : call{parameters, 0} {
    if constexpr (Traits<which>::random) {
      Tensor seed = to<Tensor>(stack[first++]);
      STD_TORCH_CHECK(seed.numel() == 1 && seed.scalar_type() == ScalarType::Long && seed.is_cpu(),
                      "fastact::", Traits<which>::name, ": expected seed to be one int64 on the CPU");
      call.seed = static_cast<uint64_t>(*static_cast<const int64_t*>(seed.data_ptr()));
    }
    for (int i = 0; i < Traits<which>::parameter_count; ++i) parameters[i] = to<double>(stack[first + i]);
  }
  Arguments(const Arguments&) = delete;
};

void check_same(const Tensor& a, const Tensor& b, const char* op) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type() && same_sizes(a, b), "fastact::", op,
                  ": expected tensors of the same dtype and shape");
}

template <Pointwise which, bool save_mask>
void forward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor input = to<Tensor>(stack[0]);
  check_dtype(input, Traits<which>::name);
  Arguments<which> arguments(stack, 1);
  Walk walk = walk_to_new_output({input});
  uint8_t* mask_data = nullptr;
  if constexpr (save_mask) {
    Tensor mask = new_mask(input);
    mask_data = static_cast<uint8_t*>(mask.data_ptr());
    stack[1] = from(mask);
  }
  run_forward(which, walk, mask_data, arguments.call);
  stack[0] = from(walk.tensors.back());
}

template <Pointwise which, bool save_mask>
void forward_in_place(StableIValue* stack, uint64_t, uint64_t) {
  Tensor input = to<Tensor>(stack[0]);
  check_dtype(input, Traits<which>::name);
  Arguments<which> arguments(stack, 1);
  uint8_t* mask_data = nullptr;
  if constexpr (save_mask) {
    Tensor mask = new_mask(input);
    mask_data = static_cast<uint8_t*>(mask.data_ptr());
    stack[0] = from(mask);
  }
  if (auto walk = walk_in_place(input)) {
    run_forward(which, *walk, mask_data, arguments.call);
  } else {
    Walk detour = walk_to_new_output({input});
    run_forward(which, detour, mask_data, arguments.call);
    torch::stable::copy_(input, detour.tensors.back());
  }
}

template <Pointwise which>
void backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor grad = to<Tensor>(stack[0]), saved = to<Tensor>(stack[1]);
  check_dtype(grad, Traits<which>::name);
  Arguments<which> arguments(stack, 2);
  if constexpr (Traits<which>::saves_bits) {
    STD_TORCH_CHECK(
        saved.scalar_type() == ScalarType::Byte && saved.numel() == (grad.numel() + 7) / 8 && saved.is_contiguous(),
        "fastact::", Traits<which>::name, "_backward: expected one bit per element of grad");
    Walk walk = walk_to_new_output({grad});
    run_backward(which, walk, static_cast<const uint8_t*>(saved.data_ptr()), arguments.call);
    stack[0] = from(walk.tensors.back());
  } else {
    check_same(grad, saved, Traits<which>::name);
    Walk walk = walk_to_new_output({grad, saved});
    run_backward(which, walk, nullptr, arguments.call);
    stack[0] = from(walk.tensors.back());
  }
}

// A learned tensor as the loops read it: one number, or one per channel (dimension 1 of the input).
template <class T>
LearnedTensor<T> read_learned(const Tensor& tensor, const Tensor& input, const Tensor& walked, const char* op) {
  int64_t count = tensor.numel();
  auto type = tensor.scalar_type();
  bool readable = type == input.scalar_type() || (is_16_bit(input.scalar_type()) && type == ScalarType::Float);
  STD_TORCH_CHECK(readable && tensor.dim() <= 1 && tensor.is_contiguous() &&
                      (count == 1 || (input.dim() >= 2 && input.size(1) == count)),
                  "fastact::", op,
                  ": expected a learned tensor to hold one number or one per channel, in the input's dtype or, beside "
                  "one of 16 bits, float32");
  // The stride of dimension 1 in the order in which elements are walked is the number that share a channel.
  Channels channels{count, count == 1 ? std::max<int64_t>(2, input.numel()) : walked.stride(1)};
  LearnedTensor<T> result{std::vector<T>(round_up(count)), channels};
  T* values = result.values.data();
  Operand operand{static_cast<char*>(tensor.data_ptr()), count, tensor.scalar_type()};
  for (int64_t i = 0; i < count; i += kBlock) {
    int64_t n = std::min(kBlock, count - i);
    const void* source = load_wide(operand, i, n, values + i);
    if (source != values + i) std::memcpy(values + i, source, n * sizeof(T));
  }
  return result;
}

template <class Body>
void with_compute_type(const Tensor& tensor, const Body& body) {
  if (tensor.scalar_type() == ScalarType::Double) {
    body(double());
  } else {
    body(float());
  }
}

// The learned tensors and the parameters, from stack[first] on.
template <LearnedPointwise which>
struct LearnedArguments {
  using Traits = LearnedTraits<which>;
  std::vector<Tensor> tensors;
  double parameters[Traits::parameter_count + 1];
  Call call{parameters, 0};

  LearnedArguments(StableIValue* stack, int first) {
    for (int k = 0; k < Traits::learned; ++k) tensors.push_back(to<Tensor>(stack[first++]));
    for (int i = 0; i < Traits::parameter_count; ++i) parameters[i] = to<double>(stack[first + i]);
  }
  LearnedArguments(const LearnedArguments&) = delete;

  template <class T>
  std::vector<LearnedTensor<T>> read(const Tensor& input, const Tensor& walked) const {
    std::vector<LearnedTensor<T>> learned;
    for (const Tensor& tensor : tensors) learned.push_back(read_learned<T>(tensor, input, walked, Traits::name));
    return learned;
  }
};

template <LearnedPointwise which>
void learned_forward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor input = to<Tensor>(stack[0]);
  check_dtype(input, LearnedTraits<which>::name);
  LearnedArguments<which> arguments(stack, 1);
  Walk walk = walk_to_new_output({input});
  with_compute_type(input, [&](auto type) {
    run_learned(which, walk, arguments.template read<decltype(type)>(input, walk.tensors.back()), arguments.call);
  });
  stack[0] = from(walk.tensors.back());
}

template <LearnedPointwise which>
void learned_backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor grad = to<Tensor>(stack[0]), input = to<Tensor>(stack[1]);
  check_dtype(input, LearnedTraits<which>::name);
  check_same(grad, input, LearnedTraits<which>::name);
  LearnedArguments<which> arguments(stack, 2);
  Walk walk = walk_to_new_output({grad, input});
  FlushToZero flush;  // of the sums over slices, and of what they are rounded to
  with_compute_type(input, [&](auto type) {
    using T = decltype(type);
    auto sums =
        run_learned_backward(which, walk, arguments.template read<T>(input, walk.tensors.back()), arguments.call);
    for (size_t k = 0; k < sums.size(); ++k) {
      Tensor gradient = new_dense(arguments.tensors[k]);
      std::vector<T> rounded(sums[k].begin(), sums[k].end());
      rounded.resize(round_up(rounded.size()));
      Operand operand{static_cast<char*>(gradient.data_ptr()), gradient.numel(), gradient.scalar_type()};
      store_narrow(operand, 0, gradient.numel(), rounded.data());
      stack[1 + k] = from(gradient);
    }
  });
  stack[0] = from(walk.tensors.back());
}

template <GatedUnit which>
struct GatedTraits;

#define FASTACT_TRAITS(Formula, op)          \
  template <>                                \
  struct GatedTraits<k##Formula> {           \
    static constexpr const char* name = #op; \
  };
FASTACT_GATED(FASTACT_TRAITS)
#undef FASTACT_TRAITS

// The dimension, counted from the front.
int64_t read_dim(StableIValue value, const Tensor& tensor, const char* op) {
  int64_t dim = to<int64_t>(value), dims = std::max<int64_t>(1, tensor.dim());
  STD_TORCH_CHECK(-dims <= dim && dim < dims, "fastact::", op, ": expected dim from ", -dims, " to ", dims - 1,
                  ", got ", dim);
  return dim < 0 ? dim + dims : dim;
}

template <GatedUnit which>
Tensor run_gated_unit(const Tensor& value, const Tensor& gate) {
  check_dtype(value, GatedTraits<which>::name);
  check_same(value, gate, GatedTraits<which>::name);
  Tensor output = new_dense(value);
  run_gated(which, walk_in_step({value, gate}, {output}));
  return output;
}

template <GatedUnit which>
void run_gated_unit_backward(const Tensor& grad, const Tensor& value, const Tensor& gate, const Tensor& grad_value,
                             const Tensor& grad_gate) {
  check_dtype(grad, GatedTraits<which>::name);
  for (const Tensor* other : {&value, &gate}) check_same(grad, *other, GatedTraits<which>::name);
  WalkInStep walk = walk_in_step({grad, value, gate}, {grad_value, grad_gate});
  run_gated_backward(which, walk);
  walk.finish();
}

template <GatedUnit which>
void gated_forward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor value = to<Tensor>(stack[0]), gate = to<Tensor>(stack[1]);
  stack[0] = from(run_gated_unit<which>(value, gate));
}

template <GatedUnit which>
void gated_backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor grad = to<Tensor>(stack[0]), value = to<Tensor>(stack[1]), gate = to<Tensor>(stack[2]);
  Tensor grad_value = new_dense(value), grad_gate = new_dense(gate);
  run_gated_unit_backward<which>(grad, value, gate, grad_value, grad_gate);
  stack[0] = from(grad_value);
  stack[1] = from(grad_gate);
}

// The halves of a tensor along a dimension.
struct Halves {
  Tensor value, gate;

  Halves(const Tensor& packed, int64_t dim, bool gate_first, const char* op) : value(packed), gate(packed) {
    STD_TORCH_CHECK(packed.dim() > 0 && packed.size(dim) % 2 == 0, "fastact::", op,
                    ": expected a tensor whose size along dim ", dim, " is even");
    value = half(packed, dim, gate_first);
    gate = half(packed, dim, !gate_first);
  }
};

template <GatedUnit which>
void packed_forward(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = GatedTraits<which>::name;
  Tensor input = to<Tensor>(stack[0]);
  Halves halves(input, read_dim(stack[1], input, op), to<bool>(stack[2]), op);
  stack[0] = from(run_gated_unit<which>(halves.value, halves.gate));
}

template <GatedUnit which>
void packed_backward(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = GatedTraits<which>::name;
  Tensor grad = to<Tensor>(stack[0]), input = to<Tensor>(stack[1]), grad_input = new_dense(input);
  int64_t dim = read_dim(stack[2], input, op);
  bool gate_first = to<bool>(stack[3]);
  Halves halves(input, dim, gate_first, op), written(grad_input, dim, gate_first, op);
  run_gated_unit_backward<which>(grad, halves.value, halves.gate, written.value, written.gate);
  stack[0] = from(grad_input);
}

// The dimension of a Maxout, whose pieces it can be grouped by.
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

Operand whole(const Tensor& tensor) { return {static_cast<char*>(tensor.data_ptr()), 0, tensor.scalar_type()}; }

// `wide` may be float32 where `narrow` is a 16-bit type.
void check_widening(ScalarType narrow, ScalarType wide, const char* op) {
  STD_TORCH_CHECK(narrow == wide || (is_16_bit(narrow) && wide == ScalarType::Float), "fastact::", op,
                  ": expected one dtype, or float32 made of a 16-bit type");
}

template <SoftmaxKind which>
void softmax_forward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor input = to<Tensor>(stack[0]);
  auto type = to<ScalarType>(stack[2]);
  check_dtype(input, SoftmaxTraits<which>::name);
  check_widening(input.scalar_type(), type, SoftmaxTraits<which>::name);
  int64_t dim = read_dim(stack[1], input, SoftmaxTraits<which>::name);
  if (!is_dense(input)) input = dense_copy(input, input);
  Tensor output = new_tensor(input.sizes().data(), input.strides().data(), input.dim(), type);
  with_compute_type(input, [&](auto number) {
    run_softmax<decltype(number)>(which, around(input, dim), whole(input), whole(output));
  });
  stack[0] = from(output);
}

template <SoftmaxKind which>
void softmax_backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor grad = to<Tensor>(stack[0]), output = to<Tensor>(stack[1]);
  auto type = to<ScalarType>(stack[3]);
  check_dtype(grad, SoftmaxTraits<which>::name);
  check_same(grad, output, SoftmaxTraits<which>::name);
  check_widening(type, grad.scalar_type(), SoftmaxTraits<which>::name);
  int64_t dim = read_dim(stack[2], grad, SoftmaxTraits<which>::name);
  if (!is_dense(output)) output = dense_copy(output, output);
  if (!same_layout(grad, output)) grad = dense_copy(grad, output);
  Tensor grad_input = new_tensor(output.sizes().data(), output.strides().data(), output.dim(), type);
  with_compute_type(grad, [&](auto number) {
    run_softmax_backward<decltype(number)>(which, around(output, dim), whole(grad), whole(output), whole(grad_input));
  });
  stack[0] = from(grad_input);
}

void cpu_capability(StableIValue* stack, uint64_t, uint64_t) { stack[0] = from(std::string(instruction_set().name)); }
void maker(StableIValue* stack, uint64_t, uint64_t) { stack[0] = from(std::string(cpu_maker())); }

template <Pointwise which>
void define(torch::stable::detail::StableLibrary& library) {
  using T = Traits<which>;
  std::string name = T::name, rest = std::string(T::random ? ", Tensor seed" : "") + T::parameters + ")";
  library.def((name + "(Tensor input" + rest + " -> Tensor").c_str());
  library.def((name + "_(Tensor(a!) input" + rest + " -> ()").c_str());
  library.def((name + "_backward(Tensor grad, Tensor saved" + rest + " -> Tensor").c_str());
  if constexpr (T::saves_bits) {
    library.def((name + "_mask(Tensor input" + rest + " -> (Tensor, Tensor)").c_str());
    library.def((name + "_mask_(Tensor(a!) input" + rest + " -> Tensor").c_str());
  }
}

template <Pointwise which>
void implement(torch::stable::detail::StableLibrary& library) {
  using T = Traits<which>;
  std::string name = T::name;
  library.impl(name.c_str(), forward<which, false>);
  library.impl((name + "_").c_str(), forward_in_place<which, false>);
  library.impl((name + "_backward").c_str(), backward<which>);
  if constexpr (T::saves_bits) {
    library.impl((name + "_mask").c_str(), forward<which, true>);
    library.impl((name + "_mask_").c_str(), forward_in_place<which, true>);
  }
}

template <LearnedPointwise which>
void define_learned(torch::stable::detail::StableLibrary& library) {
  using T = LearnedTraits<which>;
  std::string name = T::name, rest = std::string(T::tensors) + T::parameters + ") -> ", gradients = "Tensor";
  for (int k = 0; k < T::learned; ++k) gradients += ", Tensor";
  library.def((name + "(Tensor input" + rest + "Tensor").c_str());
  library.def((name + "_backward(Tensor grad, Tensor input" + rest + "(" + gradients + ")").c_str());
}

template <LearnedPointwise which>
void implement_learned(torch::stable::detail::StableLibrary& library) {
  std::string name = LearnedTraits<which>::name;
  library.impl(name.c_str(), learned_forward<which>);
  library.impl((name + "_backward").c_str(), learned_backward<which>);
}

template <GatedUnit which>
void define_gated(torch::stable::detail::StableLibrary& library) {
  std::string name = GatedTraits<which>::name, halves = "int dim, bool gate_first) -> Tensor";
  library.def((name + "(Tensor value, Tensor gate) -> Tensor").c_str());
  library.def((name + "_backward(Tensor grad, Tensor value, Tensor gate) -> (Tensor, Tensor)").c_str());
  library.def((name + "_packed(Tensor input, " + halves).c_str());
  library.def((name + "_packed_backward(Tensor grad, Tensor input, " + halves).c_str());
}

template <GatedUnit which>
void implement_gated(torch::stable::detail::StableLibrary& library) {
  std::string name = GatedTraits<which>::name;
  library.impl(name.c_str(), gated_forward<which>);
  library.impl((name + "_backward").c_str(), gated_backward<which>);
  library.impl((name + "_packed").c_str(), packed_forward<which>);
  library.impl((name + "_packed_backward").c_str(), packed_backward<which>);
}

}  // namespace
}  // namespace fastact

STABLE_TORCH_LIBRARY(fastact, library) {
#define FASTACT_DEFINE(Formula, name, parameters) fastact::define<fastact::k##Formula>(library);
  FASTACT_POINTWISE(FASTACT_DEFINE)
#define FASTACT_DEFINE_LEARNED(Formula, name, learned, parameters) \
  fastact::define_learned<fastact::k##Formula>(library);
  FASTACT_LEARNED(FASTACT_DEFINE_LEARNED)
#define FASTACT_DEFINE_GATED(Formula, name) fastact::define_gated<fastact::k##Formula>(library);
  FASTACT_GATED(FASTACT_DEFINE_GATED)
  library.def("maxout(Tensor input, int pieces, int dim) -> Tensor");
  library.def("maxout_indices(Tensor input, int pieces, int dim) -> (Tensor, Tensor)");
  library.def("maxout_backward(Tensor grad, Tensor indices, int pieces, int dim) -> Tensor");
#define FASTACT_DEFINE_SOFTMAX(Formula, name)                               \
  library.def(#name "(Tensor input, int dim, ScalarType dtype) -> Tensor"); \
  library.def(#name "_backward(Tensor grad, Tensor output, int dim, ScalarType dtype) -> Tensor");
  FASTACT_SOFTMAX(FASTACT_DEFINE_SOFTMAX)
  library.def("cpu_capability() -> str");
  library.def("cpu_maker() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(fastact, CPU, library) {
#define FASTACT_IMPLEMENT(Formula, name, parameters) fastact::implement<fastact::k##Formula>(library);
  FASTACT_POINTWISE(FASTACT_IMPLEMENT)
#define FASTACT_IMPLEMENT_LEARNED(Formula, name, learned, parameters) \
  fastact::implement_learned<fastact::k##Formula>(library);
  FASTACT_LEARNED(FASTACT_IMPLEMENT_LEARNED)
#define FASTACT_IMPLEMENT_GATED(Formula, name) fastact::implement_gated<fastact::k##Formula>(library);
  FASTACT_GATED(FASTACT_IMPLEMENT_GATED)
  library.impl("maxout", fastact::maxout_forward<false>);
  library.impl("maxout_indices", fastact::maxout_forward<true>);
  library.impl("maxout_backward", fastact::maxout_backward);
#define FASTACT_IMPLEMENT_SOFTMAX(Formula, name)                      \
  library.impl(#name, fastact::softmax_forward<fastact::k##Formula>); \
  library.impl(#name "_backward", fastact::softmax_backward<fastact::k##Formula>);
  FASTACT_SOFTMAX(FASTACT_IMPLEMENT_SOFTMAX)
}

STABLE_TORCH_LIBRARY_IMPL(fastact, CompositeExplicitAutograd, library) {
  library.impl("cpu_capability", fastact::cpu_capability);
  library.impl("cpu_maker", fastact::maker);
}
