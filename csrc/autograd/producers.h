// torch's own ops whose outputs can be made again in backward (remake.h): cheap ones, which stand before and behind
// activations. Each runs as it would, and is remembered.
#pragma once

#include <c10/util/ScopeExit.h>

#include "autograd/overrides.h"

namespace fastact {

// A mask of dropout, with two values, as one bit per element. Its elements must lie in one piece.
inline Tensor bits_of(const Tensor& mask) {
  const at::AutoDispatchBelowADInplaceOrView below;
  static const OperatorHandle relu_mask = find("relu_mask");
  const Tensor flat = mask.as_strided({mask.numel()}, {1});
  Stack stack = {flat.scalar_type() == at::kBool ? flat.to(at::kHalf) : flat};
  relu_mask.callBoxed(&stack);
  return stack[1].toTensor();
}
// The mask again, from its bits, the value of those that are set, sizes and strides.
inline Tensor mask_from_bits(const OperatorHandle& relu_backward, Stack arguments) {
  const Tensor bits = arguments[0].toTensor(), value = arguments[1].toTensor();
  const auto sizes = arguments[2].toIntVector(), strides = arguments[3].toIntVector();
  const bool is_bool = value.scalar_type() == at::kBool;
  Tensor all =
      at::empty({c10::multiply_integers(sizes)}, value.options().dtype(is_bool ? at::kHalf : value.scalar_type()));
  Stack stack = {all.fill_(value), bits};
  relu_backward.callBoxed(&stack);
  const Tensor mask = stack[0].toTensor();
  return (is_bool ? mask.to(at::kBool) : mask).as_strided(sizes, strides);
}
inline Call call_for_mask(const Tensor& mask, const Tensor& value) {
  static const OperatorHandle relu_backward = find("relu_backward");
  return {mask_from_bits, relu_backward, {bits_of(mask), value, mask.sizes(), mask.strides()}, 0, {}};
}

// The share of elements that the dropout in progress keeps; 0 while there is none.
inline double& kept_share() {
  static thread_local double share = 0;
  return share;
}

// Remembers the mask of the dropout in progress, before its node saves it.
inline void remember_mask(Registry& registry, const Tensor& mask) {
  if (!mask.defined() || !registry.takes(mask)) return;
  const Tensor value = at::ones({}, mask.options());
  // As torch computes it, to the bit.
  registry.remember(mask, call_for_mask(mask, mask.scalar_type() == at::kBool ? value : value.div_(kept_share())));
}

// What to keep in the place of a tensor that a node saves; null if that is the tensor.
inline std::unique_ptr<Packed> pack(const Tensor& tensor) {
  Registry* const registry = Registry::open();
  if (!registry) return {};
  if (kept_share() > 0 && tensor.scalar_type() == at::kBool) remember_mask(*registry, tensor);
  return registry->pack(tensor);
}

// One of torch's ops at an autograd key.
struct Producer : c10::OperatorKernel {
  enum class Kind { kOp, kProduct, kBatchNorm, kDropout, kFusedDropout };

  const Kind kind;
  const OperatorHandle again;  // the op itself, or what it is when not in place
  const c10::SafeKernelFunction torchs;
  const size_t arguments, results;

  Producer(Kind kind, const OperatorHandle& op, const OperatorHandle& again, DispatchKey key)
      : kind(kind),
        again(again),
        torchs(op.getComputedKernelForDispatchKey(key)),
        arguments(op.schema().arguments().size()),
        results(op.schema().returns().size()) {}

  void operator()(const OperatorHandle& op, DispatchKeySet keys, Stack* stack) {
    Registry* const registry = Registry::open();
    if (!registry || !at::GradMode::is_enabled()) return torchs.callBoxed(op, keys, stack);
    const Stack given = torch::jit::last(*stack, arguments).vec();
    std::optional<Call> call;
    double share = 0;
    if (kind == Kind::kDropout || kind == Kind::kFusedDropout) {
      share = 1 - given[1].toDouble();
    } else if (kind != Kind::kBatchNorm) {
      if (kind == Kind::kProduct && kept_share() > 0) remember_mask(*registry, given[1].toTensor());
      call = registry->note(again, given);
    }
    {
      const double before = std::exchange(kept_share(), share);
      const auto restore = c10::make_scope_exit([&] { kept_share() = before; });
      torchs.callBoxed(op, keys, stack);
    }
    const auto found = torch::jit::last(*stack, results);
    const Tensor& output = found[0].toTensor();
    if (kind == Kind::kDropout || !output.requires_grad()) return;
    if (kind == Kind::kBatchNorm) call = note_batch_norm(*registry, given, found);
    if (kind == Kind::kFusedDropout) call = note_fused_dropout(*registry, given, found);
    if (given[0].isTensor() && given[0].toTensor().device() != output.device()) call.reset();
    registry->remember(output, std::move(call));
  }

 private:
  std::optional<Call> note_batch_norm(Registry& registry, Arguments given, Arguments found) const {
    std::vector<IValue> arguments = given.vec();
    if (!given[5].toBool()) return registry.note(again, arguments);
    const at::ScalarType input = given[0].toTensor().scalar_type(), statistics = found[1].toTensor().scalar_type();
    const auto fits = [&](const IValue& weight) {
      return !is_given(weight) || weight.toTensor().scalar_type() == statistics;
    };
    // Other layouts have a loop of their own.
    const bool is_dense =
        given[0].toTensor().is_contiguous() || given[0].toTensor().is_contiguous(at::MemoryFormat::ChannelsLast);
    if (is_dense && given[0].toTensor().is_cpu() && fits(given[1]) && fits(given[2]) &&
        is_batch_norm_a_map(again, input, statistics))
      return registry.note(again, {given[0], given[1], given[2], found[1], found[2]}, apply_batch_norm, 3);
    arguments[3] = arguments[4] = IValue();  // the running ones have been updated
    return registry.note(again, arguments);
  }

  std::optional<Call> note_fused_dropout(Registry& registry, Arguments given, Arguments found) const {
    const double p = given[1].toDouble();
    if (!given[2].isNone() && !given[2].toBool()) return {};
    return registry.note(again, {given[0], found[1], p == 1 ? 0 : 1 / (1 - p)});
  }
};

struct ProducerRow {
  const char *name, *overload;
  Producer::Kind kind;
  const char* again;

  std::string full_name() const { return std::string(name) + (*overload ? "." : "") + overload; }
};
inline constexpr ProducerRow kProducers[] = {
    {"mul", "Tensor", Producer::Kind::kProduct, "mul"},
    {"mul_", "Tensor", Producer::Kind::kProduct, "mul"},
    {"add", "Tensor", Producer::Kind::kOp, "add"},
    {"add_", "Tensor", Producer::Kind::kOp, "add"},
    {"constant_pad_nd", "", Producer::Kind::kOp, "constant_pad_nd"},
    {"_to_copy", "", Producer::Kind::kOp, "_to_copy"},
    {"clone", "", Producer::Kind::kOp, "clone"},
    {"roll", "", Producer::Kind::kOp, "roll"},
    {"native_layer_norm", "", Producer::Kind::kOp, "native_layer_norm"},
    {"native_group_norm", "", Producer::Kind::kOp, "native_group_norm"},
    {"_fused_rms_norm", "", Producer::Kind::kOp, "_fused_rms_norm"},
    {"native_batch_norm", "", Producer::Kind::kBatchNorm, "native_batch_norm"},
    {"cudnn_batch_norm", "", Producer::Kind::kBatchNorm, "cudnn_batch_norm"},
    {"miopen_batch_norm", "", Producer::Kind::kBatchNorm, "miopen_batch_norm"},
    {"dropout", "", Producer::Kind::kDropout, "dropout"},
    {"dropout_", "", Producer::Kind::kDropout, "dropout"},
    {"native_dropout", "", Producer::Kind::kFusedDropout, "native_dropout_backward"},
};
inline std::vector<std::string> producers() {
  std::vector<std::string> names;
  for (const ProducerRow& row : kProducers) names.push_back(row.full_name());
  return names;
}

inline void install_producers() {
  auto& dispatcher = c10::Dispatcher::singleton();
  install([&](torch::Library& library, DispatchKey key) {
    if (!is_autograd(key)) return;
    for (const ProducerRow& row : kProducers) {
      const auto op = dispatcher.findSchema({std::string("aten::") + row.name, row.overload});
      const auto again = dispatcher.findSchema({std::string("aten::") + row.again, row.overload});
      if (!op || !again || !op->hasComputedKernelForDispatchKey(key) || op->hasKernelForDispatchKey(key)) continue;
      // What is made of other ops on this device is remembered as those.
      const DispatchKey below = key == DispatchKey::AutogradCPU ? DispatchKey::CPU : DispatchKey::CUDA;
      if (row.kind == Producer::Kind::kOp && op->hasKernelForDispatchKey(DispatchKey::CompositeImplicitAutograd) &&
          !op->hasKernelForDispatchKey(below))
        continue;
      library.impl(row.full_name().c_str(),
                   torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Producer>(row.kind, *op, *again, key)));
    }
  });
}

// Opens this thread's registry, for outputs of so many bytes at least.
inline void open_registry(int64_t least_bytes) {
  static std::once_flag installed;
  std::call_once(installed, install_producers);
  Registry::current() = std::make_unique<Registry>(least_bytes);
}

}  // namespace fastact
