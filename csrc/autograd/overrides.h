// Overrides of torch's own activation ops, aten::relu and the like, by fastact's: at the autograd keys, where a call
// gets fastact's node, and at the devices' keys, where calls from below autograd arrive.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <cmath>

#include "autograd/batch_norm.h"

namespace fastact {

// The ops that stand in for torch's are numbered as in kOps, then as in kSoftmaxOps.
constexpr int kStandIns = kElementwiseCount + kSoftmaxCount;
constexpr int kTorchs = -1;
static_assert(kStandIns <= 64);

inline const char* stand_in_name(int which) {
  return which < kElementwiseCount ? kOps[which].name : kSoftmaxOps[which - kElementwiseCount].name;
}

// One bit for each op that stands in for torch's at present.
inline std::atomic<uint64_t>& active() {
  static std::atomic<uint64_t> bits{0};
  return bits;
}

// One bit for each GPU on which kernels cannot run.
inline std::atomic<uint64_t>& gpus_left() {
  static std::atomic<uint64_t> bits{0};
  return bits;
}

// How calls of torch's ops become calls of fastact's. Each function pushes the arguments for fastact's op, from those
// of torch's, and returns the number of the op, or kTorchs where torch's must run.
using Pushed = c10::SmallVector<IValue, 6>;
using Translate = int (*)(Arguments, Pushed&);

inline void push_number(Pushed& to, const IValue& scalar) {
  // A complex number becomes one that no op accepts.
  const at::Scalar number = scalar.toScalar();
  to.emplace_back(number.isComplex() ? NAN : number.toDouble());
}

// `tensors` tensors, then numbers.
template <int which, size_t tensors = 1>
int same(Arguments from, Pushed& to) {
  for (size_t i = 0; i < from.size(); ++i) {
    if (i < tensors) {
      to.push_back(from[i]);
    } else {
      push_number(to, from[i]);
    }
  }
  return which;
}

inline int hardtanh(Arguments from, Pushed& to) {
  same<kHardtanh>(from, to);
  const size_t low = to.size() - 2;
  if (to[low].toDouble() != 0 || to[low + 1].toDouble() != 6) return kHardtanh;
  to.resize(low);
  return kReLU6;
}

// torch's ELU has two more parameters, by which SELU and CELU call it. The tensors are pushed already.
inline int elu_kind(const IValue& alpha, const IValue& scale, const IValue& input_scale, Pushed& to) {
  for (const IValue* each : {&alpha, &scale, &input_scale})
    if (each->toScalar().isComplex()) return kTorchs;
  constexpr double kSeluAlpha = 1.6732632423543772848170429916717, kSeluScale = 1.0507009873554804934193349852946;
  const double a = alpha.toScalar().toDouble(), s = scale.toScalar().toDouble(), i = input_scale.toScalar().toDouble();
  if (i == 1 && a == kSeluAlpha && s == kSeluScale) return kSELU;
  if (s != 1 || (i != 1 && i != 1 / a)) return kTorchs;
  to.emplace_back(a);
  return i == 1 ? kELU : kCELU;
}
inline int elu(Arguments from, Pushed& to) {
  to.push_back(from[0]);
  return elu_kind(from[1], from[2], from[3], to);
}

inline int gelu_kind(const IValue& approximate) {
  const auto text = approximate.toStringView();
  return text == "none" ? kGELU : text == "tanh" ? kGELUTanh : kTorchs;
}
inline int gelu(Arguments from, Pushed& to) {
  to.push_back(from[0]);
  return gelu_kind(from[1]);
}

inline int glu(Arguments from, Pushed& to) {
  to.append({from[0], from[1], false});
  return can_be_halved(from[0].toTensor(), from[1].toInt()) ? kGLU : kTorchs;
}

inline int prelu(Arguments from, Pushed& to) {
  const Tensor &input = from[0].toTensor(), &weight = from[1].toTensor();
  to.append({from[0], from[1]});
  const bool fits = weight.device() == input.device() && weight.is_contiguous() && fits_channels(weight, input);
  return fits ? kPReLU : kTorchs;
}

inline int rrelu(Arguments from, Pushed& to) {
  if (!from[3].toBool()) return kTorchs;  // which is leaky_relu
  to.push_back(from[0]);
  to.emplace_back();  // the seed, which is drawn when nothing can fail any more
  push_number(to, from[1]);
  push_number(to, from[2]);
  return kRReLU;
}

inline bool has_dim(const Tensor& tensor, int64_t dim) {
  const int64_t dims = std::max<int64_t>(1, tensor.dim());
  return -dims <= dim && dim < dims;
}
template <int kind>
int softmax(Arguments from, Pushed& to) {
  const Tensor& input = from[0].toTensor();
  const bool widens = from[2].toBool();  // which torch does to float16 on a GPU, and nowhere else
  to.push_back(from[0]);
  to.push_back(from[1]);
  to.emplace_back(static_cast<int64_t>(widens ? at::kFloat : input.scalar_type()));
  const bool valid = !widens || (input.is_cuda() && input.scalar_type() == at::kHalf);
  return valid && has_dim(input, from[1].toInt()) ? kElementwiseCount + kind : kTorchs;
}

// Of the backward ops: (grad, what was saved, …).
inline int elu_backward(Arguments from, Pushed& to) {
  if (!from[4].toBool()) return kTorchs;  // the input was saved
  to.append({from[0], from[5]});
  return elu_kind(from[1], from[2], from[3], to);
}
inline int gelu_backward(Arguments from, Pushed& to) {
  to.append({from[0], from[1]});
  return gelu_kind(from[2]);
}
inline int glu_backward(Arguments from, Pushed& to) {
  to.append({from[0], from[1], from[2], false});
  return can_be_halved(from[1].toTensor(), from[2].toInt()) ? kGLU : kTorchs;
}
template <int kind>
int softmax_backward(Arguments from, Pushed& to) {
  to.append(from.begin(), from.end());
  const Tensor& grad = from[0].toTensor();
  const auto input = static_cast<at::ScalarType>(from[3].toInt());
  const bool fits = input == grad.scalar_type() || (grad.is_cuda() && input == at::kHalf);
  return fits && grad.is_contiguous() && has_dim(grad, from[2].toInt()) ? kElementwiseCount + kind : kTorchs;
}

// Whether fastact's backward takes these, pushed: torch's also broadcasts and promotes. Where they lie in memory in
// different ways, torch chooses how the result does.
inline bool match(int which, Arguments pushed) {
  const Tensor &grad = pushed[0].toTensor(), &saved = pushed[1].toTensor();
  if (which != kGLU) return same_layout(grad, saved);
  return grad.scalar_type() == saved.scalar_type() &&
         grad.sizes() == c10::IntArrayRef(halved_sizes(saved, pushed[2].toInt())) && grad.is_contiguous() &&
         saved.is_contiguous();
}

// The kernel of an op with these arguments after its input, as torch's C++ hands them on: unboxed. To put them on a
// stack takes a twentieth of a call of few elements.
struct Override;
template <class... Given>
torch::CppFunction with(Override);

// An op of torch's. Those that are made of other ops for most devices stand here all the same where the whole saves
// less than its parts, or has one pass instead of several.
struct Overridden {
  const char* name;
  Translate translate;
  uint64_t stand_ins;                                 // all that `translate` can return
  torch::CppFunction (*unboxed)(Override) = nullptr;  // of a forward op
};
template <class... Which>
constexpr uint64_t bits(Which... which) {
  return (... | (uint64_t{1} << which));
}

inline constexpr Overridden kForwards[] = {
    {"relu", same<kReLU>, bits(kReLU), with<>},
    {"leaky_relu", same<kLeakyReLU>, bits(kLeakyReLU), with<const at::Scalar&>},
    {"rrelu", rrelu, bits(kRReLU), with<const at::Scalar&, const at::Scalar&, bool, std::optional<at::Generator>>},
    {"threshold", same<kThreshold>, bits(kThreshold), with<const at::Scalar&, const at::Scalar&>},
    {"hardtanh", hardtanh, bits(kHardtanh, kReLU6), with<const at::Scalar&, const at::Scalar&>},
    {"prelu", prelu, bits(kPReLU), with<const Tensor&>},
    {"elu", elu, bits(kELU, kSELU, kCELU), with<const at::Scalar&, const at::Scalar&, const at::Scalar&>},
    {"celu", same<kCELU>, bits(kCELU), with<const at::Scalar&>},
    {"sigmoid", same<kSigmoid>, bits(kSigmoid), with<>},
    {"tanh", same<kTanh>, bits(kTanh), with<>},
    {"hardsigmoid", same<kHardsigmoid>, bits(kHardsigmoid), with<>},
    {"silu", same<kSiLU>, bits(kSiLU), with<>},
    {"gelu", gelu, bits(kGELU, kGELUTanh), with<std::string_view>},
    {"mish", same<kMish>, bits(kMish), with<>},
    {"hardswish", same<kHardswish>, bits(kHardswish), with<>},
    {"hardshrink", same<kHardshrink>, bits(kHardshrink), with<const at::Scalar&>},
    {"softshrink", same<kSoftshrink>, bits(kSoftshrink), with<const at::Scalar&>},
    {"softplus", same<kSoftplus>, bits(kSoftplus), with<const at::Scalar&, const at::Scalar&>},
    {"log_sigmoid", same<kLogSigmoid>, bits(kLogSigmoid), with<>},
    {"glu", glu, bits(kGLU), with<int64_t>},
    {"_softmax", softmax<kSoftmax>, bits(kElementwiseCount + kSoftmax), with<int64_t, bool>},
    {"_log_softmax", softmax<kLogSoftmax>, bits(kElementwiseCount + kLogSoftmax), with<int64_t, bool>},
};

// Of what torch's nodes and its compiled graphs call. (Where a mask is saved here, torch saves a tensor that no kernel
// reads.)
inline constexpr Overridden kBackwards[] = {
    {"elu_backward", elu_backward, bits(kELU, kSELU, kCELU)},
    {"sigmoid_backward", same<kSigmoid, 2>, bits(kSigmoid)},
    {"tanh_backward", same<kTanh, 2>, bits(kTanh)},
    {"silu_backward", same<kSiLU, 2>, bits(kSiLU)},
    {"gelu_backward", gelu_backward, bits(kGELU, kGELUTanh)},
    {"mish_backward", same<kMish, 2>, bits(kMish)},
    {"hardswish_backward", same<kHardswish, 2>, bits(kHardswish)},
    {"softplus_backward", same<kSoftplus, 2>, bits(kSoftplus)},
    {"glu_backward", glu_backward, bits(kGLU)},
    {"_softmax_backward_data", softmax_backward<kSoftmax>, bits(kElementwiseCount + kSoftmax)},
    {"_log_softmax_backward_data", softmax_backward<kLogSoftmax>, bits(kElementwiseCount + kLogSoftmax)},
};

// The conditions of fastact/dispatch.py: numbers in the dtype's range, for which the formulas hold.
inline bool accepts(int which, at::ScalarType dtype, Arguments pushed) {
  const double largest = dtype == at::kHalf       ? 65504.0
                         : dtype == at::kBFloat16 ? 0x1.fep127
                                                  : double{std::numeric_limits<float>::max()};
  double numbers[most(Kind::kScalar) + 1] = {};
  size_t count = 0;
  for (const IValue& each : pushed) {
    if (!each.isDouble()) continue;
    const double number = numbers[count++] = each.toDouble();
    if (!(std::abs(number) <= largest)) return false;
  }
  const auto is_moderate = [](double divisor) { return 0x1p-60 <= std::abs(divisor) && std::abs(divisor) <= 0x1p60; };
  switch (which) {
    case kRReLU:
    case kHardtanh:
      return numbers[0] <= numbers[1];
    case kELU:
    case kHardshrink:
    case kSoftshrink:
      return numbers[0] >= 0;
    case kCELU:
      return numbers[0] > 0 && is_moderate(numbers[0]);
    case kSoftplus:
      return is_moderate(numbers[0]);
    default:
      return true;
  }
}

// torch rounds Hardshrink's lambd to the input's dtype.
inline double rounded(double number, at::ScalarType dtype) {
  if (dtype == at::kHalf) return static_cast<c10::Half>(static_cast<float>(number));
  if (dtype == at::kBFloat16) return static_cast<c10::BFloat16>(static_cast<float>(number));
  return number;
}

// One number from the generator, as `draw_seed` in fastact/ops.py: with nobody looking on, past the dispatcher.
inline Tensor draw_seed(const Tensor& input, const std::optional<at::Generator>& generator) {
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  if (input.is_cuda() || is_watched()) return at::randint(most, {}, generator, input.options().dtype(at::kLong));
  auto* from = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  Tensor seed = at::detail::empty_cpu({}, at::kLong);
  std::lock_guard<std::mutex> lock(from->mutex_);
  *seed.mutable_data_ptr<int64_t>() = static_cast<int64_t>(from->random64() % most);
  return seed;
}

// Whether torch's result is contiguous whatever the input is, as callers that view it expect.
inline bool is_dense_in_torch(int which) {
  return which == kLogSigmoid || which == kRReLU || which >= kElementwiseCount;
}

// How a call reaches one of fastact's ops: the handles of its forms.
struct StandIn {
  const NodeSpec* op;
  std::optional<OperatorHandle> plain, in_place;
};
inline const StandIn& stand_in_of(int which) {
  static const auto all = [] {
    std::array<StandIn, kStandIns> made;
    for (int i = 0; i < kStandIns; ++i) {
      std::string name = stand_in_name(i);
      if (i < kElementwiseCount && kOps[i].count(Kind::kTile) == 2) name += "_packed";
      made[i] = {&ops().at(name), find(name), {}};
      if (has_op(name + "_")) made[i].in_place = find(name + "_");
    }
    return made;
  }();
  return all[which];
}

// Why a call is torch's, in words for users (watch.h says how); null where fastact's op takes it.
using Why = const char*;

// Of a call that fastact's op would take, if it were among those that stand in.
inline constexpr char kNotWanted[] = "not wanted";

// Of a call with this tensor, beside the first one. Subclasses, tracing and transforms see torch's ops, so that their
// graphs are the stock ones.
inline Why why_torchs(const Tensor& tensor, const Tensor& first) {
  if (!tensor.defined()) return "no tensor";
  if (!has_kernel_dtype(tensor)) return "dtype {dtype}";
  if (tensor.scalar_type() != first.scalar_type()) return "tensors of two dtypes";
  if (tensor.key_set().has(DispatchKey::Python)) return "tensor subclass {type}";
  if (!is_plain(tensor)) {
    if (tensor.layout() != at::kStrided) return "layout {layout}";
    if (tensor._fw_grad(0).defined()) return "forward-mode gradient";
    return tensor.is_neg() ? "lazy negative" : "function transform";
  }
  if (!tensor.is_cpu() && ((gpus_left().load() >> (tensor.get_device() & 63)) & 1))
    return "kernels cannot run on {device}";
  return nullptr;
}

// The kernel of one of torch's ops at one key.
struct Override : c10::OperatorKernel {
  enum class Form { kFunctional, kInPlace, kOut, kBackward };

  const Overridden& overridden;
  const Form form;
  const bool at_autograd;
  const size_t arguments;
  const c10::SafeKernelFunction torchs;

  Override(const Overridden& overridden, Form form, bool at_autograd, const OperatorHandle& aten, DispatchKey key)
      : overridden(overridden),
        form(form),
        at_autograd(at_autograd),
        arguments(aten.schema().arguments().size()),
        torchs(aten.getComputedKernelForDispatchKey(key)) {}

  // Boxed: the arguments are on a stack.
  void operator()(const OperatorHandle& aten, DispatchKeySet keys, Stack* stack) {
    const size_t begin = stack->size() - arguments;
    Tensor output = run(torch::jit::last(*stack, arguments), [&] {
      torchs.callBoxed(aten, keys, stack);
      return torch::jit::pop(*stack).toTensor();
    });
    stack->resize(begin);
    stack->emplace_back(std::move(output));
  }

  // The same with all arguments in an array, from which they may be moved.
  Tensor operator()(DispatchKeySet keys, IValue* from) const {
    return run(Arguments(from, arguments), [&] {
      Stack stack(std::make_move_iterator(from), std::make_move_iterator(from + arguments));
      torchs.callBoxed(torchs.opHandle(), keys, &stack);
      return std::move(stack[0]).toTensor();
    });
  }

 private:
  struct Answer {
    int which = kTorchs;
    size_t refused = 0;  // the number of the argument that the reason is about
    Tensor output;
  };

  // Returns the output of fastact's op, or that of torch's.
  template <class Torchs>
  Tensor run(Arguments from, const Torchs& run_torchs) const {
    const uint64_t wanted = active().load(std::memory_order_relaxed) & overridden.stand_ins;
    if (is_seen()) return run_seen(wanted, from, run_torchs);
    if (wanted == 0 || within()) return run_torchs();
    Answer answer;
    if (run_ours(wanted, from, answer)) return run_torchs();
    return std::move(answer.output);
  }

  // The same for a call that is to be reported.
  template <class Torchs>
  Tensor run_seen(uint64_t wanted, Arguments from, const Torchs& run_torchs) const {
    SeenCall call;
    SeenCall& whole = *SeenCall::outermost();
    if (within()) {
      whole.torch_within = true;
      return run_torchs();
    }
    Answer answer;
    const std::vector<IValue> given = from.vec();
    const Why why = run_ours(wanted, from, answer);
    if (why) answer.output = run_torchs();
    whole.kernel_ran |= !why;
    whole.torch_within |= why && !call.is_outermost();
    if (call.is_outermost())
      call.report(torchs.opHandle().operator_name().name, row_of(answer.which), why == kNotWanted ? "" : why,
                  why == kNotWanted, given[answer.refused].toTensor(), answer.output);
    return std::move(answer.output);
  }

  // The name of the op that stands in, or would; nothing where that is open.
  const char* row_of(int which) const {
    if (which != kTorchs) return stand_in_name(which);
    const uint64_t all = overridden.stand_ins;
    if ((all & (all - 1)) != 0) return "";
    which = 0;
    while (!(all >> which & 1)) ++which;
    return stand_in_name(which);
  }

  // Runs fastact's op, or returns why not. That the op is wanted is asked last, so that the answer says whether it
  // would run.
  Why run_ours(uint64_t wanted, Arguments from, Answer& answer) const {
    for (size_t i = 0; i < arguments; ++i) {
      if (!from[i].isTensor()) continue;
      answer.refused = i;
      if (const Why why = why_torchs(from[i].toTensor(), from[0].toTensor())) return why;
    }
    answer.refused = 0;
    if (at_autograd && in_transform()) return "function transform";
    Pushed to;
    const int which = answer.which = overridden.translate(form == Form::kOut ? from.slice(0, arguments - 1) : from, to);
    if (which == kTorchs) return "arguments that the kernel does not take";
    const Tensor& input = from[0].toTensor();
    // Which torch refuses to write, but by some ops.
    if (form == Form::kInPlace && at::has_internal_overlap(input) == at::MemOverlap::Yes)
      return "elements in one place";
    if (!accepts(which, input.scalar_type(), to)) return "scalar out of range";
    if (form == Form::kBackward && !match(which, to)) return "gradient of another shape, dtype or layout";
    if (!((wanted >> which) & 1)) return kNotWanted;
    if (form == Form::kFunctional && is_dense_in_torch(which) && !input.is_contiguous()) to[0] = input.contiguous();
    if (which == kHardshrink) to[1] = rounded(to[1].toDouble(), input.scalar_type());
    if (which == kRReLU) to[1] = draw_seed(input, from[4].toOptional<at::Generator>());
    const StandIn& stand_in = stand_in_of(which);
    if (input.is_cuda() && !stand_in.plain->hasKernelForDispatchKey(DispatchKey::CUDA)) return "no kernel for {device}";
    try {
      if (form == Form::kOut) {
        answer.output = from.back().toTensor();
        if (!write_out(*stand_in.op, answer.output, to)) return "out of another dtype or layout";
      } else {
        answer.output = call(stand_in, to);
      }
    } catch (const std::exception&) {
      // A GPU's kernel may not compile or load; it has said so (fastact/dispatch.py). Other errors are torch's too.
      if (!input.is_cuda()) throw;
      return "the kernel failed on {device}";
    }
    return nullptr;
  }

  // Writes the result into a tensor of the caller's. What would have to be copied is torch's.
  static bool write_out(const NodeSpec& op, const Tensor& out, Arguments pushed) {
    const Tensor& input = pushed[0].toTensor();
    if (op.direct < 0 || !run_direct() || !in_one_piece(input) || out.scalar_type() != input.scalar_type() ||
        at::get_overlap_status(input, out) == at::MemOverlapStatus::Partial)
      return false;
    if (out.numel() == 0 && input.is_contiguous()) out.resize_(input.sizes());
    return in_one_piece(out) && same_layout(out, input) && run_directly(op, pushed, out, {});
  }

  Tensor call(const StandIn& stand_in, Arguments pushed) const {
    const Within guard;
    if (form == Form::kBackward) {
      Stack stack(pushed.begin(), pushed.end());
      at::AutoDispatchBelowADInplaceOrView below;
      stand_in.op->backward->callBoxed(&stack);
      return std::move(stack[0]).toTensor();
    }
    const bool in_place = form == Form::kInPlace;
    const Forward forward(*stand_in.op, in_place);
    const OperatorHandle& called = in_place ? *stand_in.in_place : *stand_in.plain;
    return at_autograd ? forward.run(called, pushed) : forward.run_kernel(called, pushed);
  }
};

template <class... Given>
torch::CppFunction with(Override op) {
  if (op.form == Override::Form::kInPlace)
    return torch::CppFunction([op](DispatchKeySet keys, Tensor& input, Given... given) -> Tensor& {
      IValue arguments[] = {input, given...};
      op(keys, arguments);
      return input;
    });
  return torch::CppFunction([op](DispatchKeySet keys, const Tensor& input, Given... given) {
    IValue arguments[] = {input, given...};
    return op(keys, arguments);
  });
}

inline bool is_autograd(DispatchKey key) { return key == DispatchKey::AutogradCPU || key == DispatchKey::AutogradCUDA; }

// Puts an override before torch's kernel at a key, if torch has one there.
inline void override_at(torch::Library& library, DispatchKey key, const std::string& name, const Overridden& op,
                        Override::Form form) {
  const std::string overload = form == Override::Form::kOut ? "out" : "";
  const auto aten = c10::Dispatcher::singleton().findSchema({"aten::" + name, overload});
  if (!aten || !aten->hasComputedKernelForDispatchKey(key)) return;
  const bool at_autograd = is_autograd(key);
  // torch has none for these keys alone: this is another library's, and may go away with it.
  if (at_autograd && aten->hasKernelForDispatchKey(key)) return;
  // Below autograd, what is made of other ops is those: it leaves it to them to refuse and to count what they write,
  // and where graphs are made torch asks whether the op has a kernel of its own.
  if (!at_autograd && aten->hasKernelForDispatchKey(DispatchKey::CompositeImplicitAutograd) &&
      !aten->hasKernelForDispatchKey(key))
    return;
  const Override kernel(op, form, at_autograd, *aten, key);
  const bool is_boxed = form == Override::Form::kOut || form == Override::Form::kBackward;
  library.impl(
      (overload.empty() ? name : name + "." + overload).c_str(),
      is_boxed ? torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Override>(kernel)) : op.unboxed(kernel));
}

// Calls `body` with a library and the key that its kernels are for, for each key at which torch's kernels are replaced.
// They stay: other threads may be calling torch's ops whenever they would be taken back. While none is active, they
// cost a call the price of one more function.
template <class Body>
void install(const Body& body) {
  struct Silent : c10::WarningHandler {  // torch warns of kernels that replace others
    void process(const c10::Warning&) override {}
  } silent;
  c10::WarningUtils::WarningHandlerGuard guard(&silent);
  for (const DispatchKey key :
       {DispatchKey::AutogradCPU, DispatchKey::CPU, DispatchKey::AutogradCUDA, DispatchKey::CUDA}) {
    if ((key == DispatchKey::AutogradCUDA || key == DispatchKey::CUDA) && !at::hasCUDA()) continue;
    // Never destroyed: torch's ops are called until the process has ended.
    body(*new torch::Library(torch::Library::IMPL, "aten", key, __FILE__, __LINE__), key);
  }
}

// Registers all overrides, once.
inline void install_overrides() {
  install([](torch::Library& library, DispatchKey key) {
    install_batch_norm(library, key);
    for (const Overridden& op : kForwards) {
      override_at(library, key, op.name, op, Override::Form::kFunctional);
      override_at(library, key, std::string(op.name) + "_", op, Override::Form::kInPlace);
    }
    if (is_autograd(key)) return;  // nothing that is differentiated arrives there
    if (key == DispatchKey::CPU)
      for (const Overridden& op : kForwards) override_at(library, key, op.name, op, Override::Form::kOut);
    for (const Overridden& op : kBackwards) override_at(library, key, op.name, op, Override::Form::kBackward);
  });
}

// Returns torch's ops and the names of those of fastact's that can stand in for each.
inline std::vector<std::pair<std::string, std::vector<std::string>>> overridable() {
  std::vector<std::pair<std::string, std::vector<std::string>>> found;
  for (const Overridden& op : kForwards) {
    found.emplace_back(op.name, std::vector<std::string>());
    for (int which = 0; which < kStandIns; ++which)
      if (op.stand_ins >> which & 1) found.back().second.emplace_back(stand_in_name(which));
  }
  return found;
}

inline void install_overrides_once() {
  static std::once_flag installed;
  std::call_once(installed, install_overrides);
}

inline constexpr char kBatchNorm[] = "batch_norm";

// Returns the names of fastact's ops that stand in for torch's at present, with batch norm's.
inline std::vector<std::string> overriding() {
  const uint64_t bits = active().load(std::memory_order_relaxed);
  std::vector<std::string> names;
  for (int which = 0; which < kStandIns; ++which)
    if (bits >> which & 1) names.emplace_back(stand_in_name(which));
  if (batch_norm_is_replaced()) names.emplace_back(kBatchNorm);
  return names;
}

// Makes these ops, by fastact's names, stand in for torch's, and no others.
inline void set_overrides(const std::vector<std::string>& names) {
  const auto is_named = [&](const char* name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  uint64_t bits = 0;
  for (int which = 0; which < kStandIns; ++which)
    if (is_named(stand_in_name(which))) bits |= uint64_t{1} << which;
  if (!names.empty()) install_overrides_once();
  batch_norm_is_replaced() = is_named(kBatchNorm);
  active().store(bits, std::memory_order_relaxed);
}

}  // namespace fastact
