// The ops of torch.ops.fastact on the CPU, registered through LibTorch's stable ABI: no Python symbols and no C++ types
// cross the boundary, so one binary serves every Python and every torch from the version in TORCH_TARGET_VERSION on.
//
// For each activation, with its parameters P (activations.h) and, where it is random, `Tensor seed` before them:
//   name(Tensor input, P) -> Tensor                       name_(Tensor(a!) input, P) -> ()
//   name_backward(Tensor grad, Tensor saved, P) -> Tensor
// and, where one bit per element is saved:
//   name_bits(Tensor input, P) -> (Tensor, Tensor)        name_bits_(Tensor(a!) input, P) -> Tensor
// No autograd is registered: fastact/autograd.py calls these from torch.autograd.Functions.
#include <string>

#include "exponentials.h"
#include "loops.h"
#include "rectifiers.h"
#include "sigmoids.h"

namespace fastact {
namespace {

template <Pointwise which>
struct Traits;

#define FASTACT_TRAITS(Formula, op, schema_parameters)                                                       \
  template <>                                                                                                \
  struct Traits<k##Formula> {                                                                                \
    static constexpr const char* name = #op;                                                                 \
    static constexpr const char* parameters = schema_parameters;                                             \
    static constexpr bool saves_bits = std::is_base_of_v<SavesBits, Formula<float>>;                         \
    static constexpr bool random = std::is_base_of_v<Random, Formula<float>>;                                \
    static constexpr int parameter_count = std::is_empty_v<Formula<float>> ? 0 : sizeof(Formula<float>) / 4; \
  };
FASTACT_POINTWISE(FASTACT_TRAITS)
#undef FASTACT_TRAITS

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

// weight: one number, or one per channel (dimension 1 of the input).
template <class T>
struct Slopes {
  std::vector<T> values;
  Channels channels;

  Slopes(const Tensor& weight, const Tensor& input, const Tensor& walked) {
    int64_t count = weight.numel();
    STD_TORCH_CHECK(weight.scalar_type() == input.scalar_type() && weight.dim() <= 1 && weight.is_contiguous() &&
                        (count == 1 || (input.dim() >= 2 && input.size(1) == count)),
                    "fastact::prelu: expected weight to hold one number or one per channel, in the input's dtype");
    values.resize(round_up(count));
    Operand operand{static_cast<char*>(weight.data_ptr()), count, weight.scalar_type()};
    for (int64_t i = 0; i < count; i += kBlock) {
      int64_t n = std::min(kBlock, count - i);
      const void* source = load(operand, 0, i, n, values.data() + i);
      if (source != values.data() + i) std::memcpy(values.data() + i, source, n * sizeof(T));
    }
    // The stride of dimension 1 in the order in which elements are walked is the number that share a slope.
    channels = {count, count == 1 ? std::max<int64_t>(2, input.numel()) : walked.stride(1)};
  }
};

template <class Body>
void with_compute_type(const Tensor& tensor, const Body& body) {
  if (tensor.scalar_type() == ScalarType::Double) {
    body(double());
  } else {
    body(float());
  }
}

void prelu(StableIValue* stack, uint64_t, uint64_t) {
  Tensor input = to<Tensor>(stack[0]), weight = to<Tensor>(stack[1]);
  check_dtype(input, "prelu");
  Walk walk = walk_to_new_output({input});
  with_compute_type(input, [&](auto type) {
    Slopes<decltype(type)> slopes(weight, input, walk.tensors.back());
    if (slopes.channels.count == 1) {
      double slope = slopes.values[0];
      run_forward(kLeakyReLU, walk, nullptr, Call{&slope, 0});  // the same formula, without a slope per element
    } else {
      run_prelu(walk, slopes.values.data(), slopes.channels);
    }
  });
  stack[0] = from(walk.tensors.back());
}

void prelu_backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor grad = to<Tensor>(stack[0]), input = to<Tensor>(stack[1]), weight = to<Tensor>(stack[2]);
  check_dtype(input, "prelu");
  check_same(grad, input, "prelu_backward");
  Walk walk = walk_to_new_output({grad, input});
  Tensor grad_weight = new_dense(weight);
  with_compute_type(input, [&](auto type) {
    using T = decltype(type);
    Slopes<T> slopes(weight, input, walk.tensors.back());
    auto sums = run_prelu_backward(walk, slopes.values.data(), slopes.channels);
    std::vector<T> rounded(sums.begin(), sums.end());
    rounded.resize(round_up(rounded.size()));
    Operand operand{static_cast<char*>(grad_weight.data_ptr()), weight.numel(), weight.scalar_type()};
    store(operand, 0, 0, weight.numel(), rounded.data());
  });
  stack[0] = from(walk.tensors.back());
  stack[1] = from(grad_weight);
}

void cpu_capability(StableIValue* stack, uint64_t, uint64_t) { stack[0] = from(std::string(instruction_set().name)); }

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

}  // namespace
}  // namespace fastact

STABLE_TORCH_LIBRARY(fastact, library) {
#define FASTACT_DEFINE(Formula, name, parameters) fastact::define<fastact::k##Formula>(library);
  FASTACT_POINTWISE(FASTACT_DEFINE)
  library.def("prelu(Tensor input, Tensor weight) -> Tensor");
  library.def("prelu_backward(Tensor grad, Tensor input, Tensor weight) -> (Tensor, Tensor)");
  library.def("cpu_capability() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(fastact, CPU, library) {
#define FASTACT_IMPLEMENT(Formula, name, parameters) fastact::implement<fastact::k##Formula>(library);
  FASTACT_POINTWISE(FASTACT_IMPLEMENT)
  library.impl("prelu", fastact::prelu);
  library.impl("prelu_backward", fastact::prelu_backward);
}

STABLE_TORCH_LIBRARY_IMPL(fastact, CompositeExplicitAutograd, library) {
  library.impl("cpu_capability", fastact::cpu_capability);
}
