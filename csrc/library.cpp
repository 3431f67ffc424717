// The ops of torch.ops.fastact on the CPU, registered through LibTorch's stable ABI: no Python symbols and no C++ types
// cross the boundary, so one binary serves every Python and every torch from the version in TORCH_TARGET_VERSION on.
//
// For each activation, with its parameters P (activations.h) and, where it is random, `Tensor seed` before them:
//   name(Tensor input, P) -> Tensor                       name_(Tensor(a!) input, P) -> ()
//   name_backward(Tensor grad, Tensor saved, P) -> Tensor
// and, where one bit per element is saved:
//   name_bits(Tensor input, P) -> (Tensor, Tensor)        name_bits_(Tensor(a!) input, P) -> Tensor
// Those with learned tensors L (one number each, or one per channel; in float32 too where the input has 16 bits):
//   name(Tensor input, L, P) -> Tensor      name_backward(Tensor grad, Tensor input, L, P) -> (Tensor, one for each L)
// Gated units:
//   name(Tensor value, Tensor gate) -> Tensor
//   name_backward(Tensor grad, Tensor value, Tensor gate, Tensor(a!) grad_value, Tensor(b!) grad_gate) -> ()
// Maxout, on tensors that are dense in one memory order, in which the pieces of an output lie `inner` apart:
//   maxout(Tensor input, int pieces, int inner, Tensor(a!) output, Tensor(b!) indices) -> ()
//   maxout_backward(Tensor grad, Tensor indices, int pieces, int inner, Tensor(a!) grad_input) -> ()
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
  auto a_sizes = a.sizes(), b_sizes = b.sizes();
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type() && a_sizes.size() == b_sizes.size() &&
                      std::equal(a_sizes.begin(), a_sizes.end(), b_sizes.begin()),
                  "fastact::", op, ": expected tensors of the same dtype and shape");
}

template <Pointwise which, bool save_bits>
void forward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor input = to<Tensor>(stack[0]);
  check_dtype(input, Traits<which>::name);
  Arguments<which> arguments(stack, 1);
  Walk walk = walk_to_new_output({input});
  uint8_t* bits_data = nullptr;
  if constexpr (save_bits) {
    Tensor bits = new_bits(input);
    bits_data = static_cast<uint8_t*>(bits.data_ptr());
    stack[1] = from(bits);
  }
  run_forward(which, walk, bits_data, arguments.call);
  stack[0] = from(walk.tensors.back());
}

template <Pointwise which, bool save_bits>
void forward_in_place(StableIValue* stack, uint64_t, uint64_t) {
  Tensor input = to<Tensor>(stack[0]);
  check_dtype(input, Traits<which>::name);
  Arguments<which> arguments(stack, 1);
  uint8_t* bits_data = nullptr;
  if constexpr (save_bits) {
    Tensor bits = new_bits(input);
    bits_data = static_cast<uint8_t*>(bits.data_ptr());
    stack[0] = from(bits);
  }
  if (auto walk = walk_in_place(input)) {
    run_forward(which, *walk, bits_data, arguments.call);
  } else {
    Walk detour = walk_to_new_output({input});
    run_forward(which, detour, bits_data, arguments.call);
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

template <GatedUnit which>
void gated_forward(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = GatedTraits<which>::name;
  Tensor value = to<Tensor>(stack[0]), gate = to<Tensor>(stack[1]);
  check_dtype(value, op);
  check_same(value, gate, op);
  Tensor output = new_dense(value);
  run_gated(which, walk_in_step({value, gate}, {output}));
  stack[0] = from(output);
}

template <GatedUnit which>
void gated_backward(StableIValue* stack, uint64_t, uint64_t) {
  std::vector<Tensor> tensors;
  for (int i = 0; i < 5; ++i) tensors.push_back(to<Tensor>(stack[i]));
  check_dtype(tensors[0], GatedTraits<which>::name);
  for (const Tensor& tensor : tensors) check_same(tensors[0], tensor, GatedTraits<which>::name);
  for (int i : {3, 4}) prefer_huge_pages(tensors[i]);
  WalkInStep walk = walk_in_step({tensors[0], tensors[1], tensors[2]}, {tensors[3], tensors[4]});
  run_gated_backward(which, walk);
  walk.finish();
}

// `longer` has the pieces, `shorter` and `indices` one element of each group.
void check_maxout(const Tensor& longer, const Tensor& shorter, const Tensor& indices, int64_t pieces, int64_t inner) {
  check_dtype(longer, "maxout");
  STD_TORCH_CHECK(shorter.scalar_type() == longer.scalar_type() && indices.scalar_type() == ScalarType::Byte &&
                      pieces >= 2 && pieces <= 255 && inner >= 1 && longer.numel() == shorter.numel() * pieces &&
                      shorter.numel() % inner == 0 && indices.numel() == shorter.numel() && is_dense(longer) &&
                      is_dense(shorter) && is_dense(indices),
                  "fastact::maxout: expected dense tensors, of 2 to 255 pieces and of one byte for each group of them");
}

void maxout_forward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor input = to<Tensor>(stack[0]), output = to<Tensor>(stack[3]), indices = to<Tensor>(stack[4]);
  int64_t pieces = to<int64_t>(stack[1]), inner = to<int64_t>(stack[2]);
  check_maxout(input, output, indices, pieces, inner);
  prefer_huge_pages(output);
  run_maxout(input, pieces, inner, output, indices);
}

void maxout_backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor grad = to<Tensor>(stack[0]), indices = to<Tensor>(stack[1]), grad_input = to<Tensor>(stack[4]);
  int64_t pieces = to<int64_t>(stack[2]), inner = to<int64_t>(stack[3]);
  check_maxout(grad_input, grad, indices, pieces, inner);
  prefer_huge_pages(grad_input);
  run_maxout_backward(grad, indices, pieces, inner, grad_input);
}

// The dimension, counted from the front.
int64_t read_dim(StableIValue value, const Tensor& tensor, const char* op) {
  int64_t dim = to<int64_t>(value), dims = std::max<int64_t>(1, tensor.dim());
  STD_TORCH_CHECK(-dims <= dim && dim < dims, "fastact::", op, ": expected dim from ", -dims, " to ", dims - 1,
                  ", got ", dim);
  return dim < 0 ? dim + dims : dim;
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
    library.def((name + "_bits(Tensor input" + rest + " -> (Tensor, Tensor)").c_str());
    library.def((name + "_bits_(Tensor(a!) input" + rest + " -> Tensor").c_str());
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
    library.impl((name + "_bits").c_str(), forward<which, true>);
    library.impl((name + "_bits_").c_str(), forward_in_place<which, true>);
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
  std::string name = GatedTraits<which>::name, outputs = "Tensor(a!) grad_value, Tensor(b!) grad_gate";
  library.def((name + "(Tensor value, Tensor gate) -> Tensor").c_str());
  library.def((name + "_backward(Tensor grad, Tensor value, Tensor gate, " + outputs + ") -> ()").c_str());
}

template <GatedUnit which>
void implement_gated(torch::stable::detail::StableLibrary& library) {
  std::string name = GatedTraits<which>::name;
  library.impl(name.c_str(), gated_forward<which>);
  library.impl((name + "_backward").c_str(), gated_backward<which>);
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
  library.def("maxout(Tensor input, int pieces, int inner, Tensor(a!) output, Tensor(b!) indices) -> ()");
  library.def("maxout_backward(Tensor grad, Tensor indices, int pieces, int inner, Tensor(a!) grad_input) -> ()");
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
  library.impl("maxout", fastact::maxout_forward);
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
