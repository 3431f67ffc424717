// torch's batch norm in training on the CPU: statistics, and a map x * scale + shift with one of each per channel.
// `fastact.enable` replaces the statistics of contiguous tensors, over which torch's loop in scalars takes four times
// as long as its own over the map; backward makes outputs again by the map alone (producers.h).
#pragma once

#include <atomic>
#include <cmath>

#include "autograd/forward.h"

namespace fastact {

// Whether the statistics are fastact's at present.
inline std::atomic<bool>& batch_norm_is_replaced() {
  static std::atomic<bool> value{false};
  return value;
}

// `count` zeros or ones, without an allocation where they are few. They must be contiguous, or torch takes a slow loop.
inline Tensor repeated(int number, int64_t count, at::ScalarType dtype) {
  constexpr int64_t kMost = 4096;
  if (count > kMost) return at::full({count}, number, dtype);
  static const Tensor doubles = at::stack({at::zeros({kMost}, at::kDouble), at::ones({kMost}, at::kDouble)});
  static const Tensor floats = doubles.to(at::kFloat);
  const Tensor& from = dtype == at::kDouble ? doubles : floats;
  Tensor found = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(from.storage()),
                                                          DispatchKeySet(DispatchKey::CPU), from.dtype());
  found.unsafeGetTensorImpl()->set_sizes_and_strides(c10::IntArrayRef({count}), c10::IntArrayRef({1}), number * kMost);
  return found;
}

// Whether an optional tensor is there: the dispatcher boxes a missing one as None or as an undefined tensor.
inline bool is_given(const IValue& tensor) { return tensor.isTensor() && tensor.toTensor().defined(); }

// The arguments by which torch's batch norm, in evaluation, is the map.
inline Stack map_of(const IValue& input, const IValue& weight, const IValue& bias, const Tensor& mean,
                    const Tensor& inverse_std) {
  const at::ScalarType dtype = mean.scalar_type();
  const Tensor zeros = repeated(0, mean.numel(), dtype), ones = repeated(1, mean.numel(), dtype);
  const Tensor scale = is_given(weight) ? at::mul(inverse_std, weight.toTensor()) : inverse_std;
  const Tensor shift = at::addcmul(is_given(bias) ? bias.toTensor() : zeros, mean, scale, -1);
  return {input, scale, shift, zeros, ones, false, 0.0, 0.0};
}
inline Tensor apply_batch_norm(const OperatorHandle& batch_norm, Stack arguments) {
  Stack stack = map_of(arguments[0], arguments[1], arguments[2], arguments[3].toTensor(), arguments[4].toTensor());
  batch_norm.callBoxed(&stack);
  return stack[0].toTensor();
}

// Whether that gives the values of this build of torch, bit for bit: a probe
// (docs/findings/037-batch-norm-is-a-map.md).
inline bool is_batch_norm_a_map(const OperatorHandle& batch_norm, at::ScalarType input, at::ScalarType statistics) {
  const auto compare = [&] {
    const at::AutoDispatchBelowADInplaceOrView below;
    const Within guard;
    const auto numbers = [](at::IntArrayRef sizes, double step, at::ScalarType dtype) {
      return at::arange(c10::multiply_integers(sizes), at::kDouble).mul_(step).sin_().to(dtype).view(sizes);
    };
    const Tensor weight = numbers({77}, 1.7, statistics), bias = numbers({77}, 2.3, statistics);
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      const Tensor x = numbers({3, 77, 7, 5}, 0.9, input).contiguous(format);
      Stack stack;
      torch::jit::push(stack, x, weight, bias, IValue(), IValue(), true, 0.1, 1e-5);
      batch_norm.callBoxed(&stack);
      const Tensor ours = apply_batch_norm(batch_norm, {x, weight, bias, stack[1], stack[2]});
      if (!at::equal(stack[0].toTensor(), ours)) return false;
    }
    return true;
  };
  if (statistics != at::kFloat && statistics != at::kDouble) return false;
  static std::mutex mutex;
  static std::map<std::pair<at::ScalarType, at::ScalarType>, bool> known;
  std::lock_guard<std::mutex> lock(mutex);
  const auto [found, is_new] = known.try_emplace({input, statistics});
  if (is_new) found->second = compare();
  return found->second;
}

// The kernel of native_batch_norm on the CPU, while it is replaced.
struct BatchNorm : c10::OperatorKernel {
  // Below, torch's takes as long.
  static constexpr int64_t kLeastElements = 1 << 14, kLeastTogether = 16;

  const c10::SafeKernelFunction torchs;

  explicit BatchNorm(const OperatorHandle& aten) : torchs(aten.getComputedKernelForDispatchKey(DispatchKey::CPU)) {}

  void operator()(const OperatorHandle& aten, DispatchKeySet keys, Stack* stack) {
    constexpr size_t arguments = 8;
    if (within() || !batch_norm_is_replaced().load(std::memory_order_relaxed) ||
        !takes(torch::jit::last(*stack, arguments)))
      return torchs.callBoxed(aten, keys, stack);
    const std::vector<IValue> given = torch::jit::pop(*stack, arguments);
    const at::AutoDispatchBelowADInplaceOrView below;
    static const OperatorHandle moments = find("moments");
    Stack found = {given[0]};
    moments.callBoxed(&found);
    const auto [mean, inverse_std] = statistics(given, found[0].toTensor());
    Stack map = map_of(given[0], given[1], given[2], mean, inverse_std);
    torchs.callBoxed(aten, keys, &map);
    torch::jit::push(*stack, map[0], mean, inverse_std);
  }

 private:
  static bool takes(Arguments given) {
    const Tensor& input = given[0].toTensor();
    if (!given[5].toBool() || input.scalar_type() != at::kFloat || input.dim() < 3 || !input.is_contiguous() ||
        input.numel() < kLeastElements || input.stride(1) < kLeastTogether)
      return false;
    for (size_t i = 1; i <= 4; ++i) {
      if (!is_given(given[i])) continue;
      const Tensor& each = given[i].toTensor();
      if (each.scalar_type() != at::kFloat || !each.is_contiguous() || each.sizes() != input.sizes().slice(1, 1))
        return false;
    }
    return is_given(given[3]) == is_given(given[4]);  // or torch's error
  }

  // In the input's dtype; brings the running ones up to date.
  static std::pair<Tensor, Tensor> statistics(const std::vector<IValue>& given, const Tensor& moments) {
    const int64_t channels = moments.size(1), count = given[0].toTensor().numel() / channels;
    const double momentum = given[6].toDouble(), eps = given[7].toDouble();
    const double *means = moments.const_data_ptr<double>(), *variances = means + channels;
    const auto numbers = [&](const IValue& from) {
      return is_given(from) ? from.toTensor().mutable_data_ptr<float>() : nullptr;
    };
    float *running_mean = numbers(given[3]), *running_variance = numbers(given[4]);
    const Tensor mean = at::detail::empty_cpu({channels}, at::kFloat),
                 inverse_std = at::detail::empty_cpu({channels}, at::kFloat);
    float *mean_of = mean.mutable_data_ptr<float>(), *inverse_std_of = inverse_std.mutable_data_ptr<float>();
    for (int64_t i = 0; i < channels; ++i) {
      mean_of[i] = static_cast<float>(means[i]);
      const double added = variances[i] + eps;
      inverse_std_of[i] = static_cast<float>(added == 0 ? 0 : 1 / std::sqrt(added));  // as torch
      if (running_mean) running_mean[i] = static_cast<float>(momentum * means[i] + (1 - momentum) * running_mean[i]);
      if (!running_variance) continue;
      const double unbiased = variances[i] * static_cast<double>(count) / static_cast<double>(count - 1);
      running_variance[i] = static_cast<float>(momentum * unbiased + (1 - momentum) * running_variance[i]);
    }
    return {mean, inverse_std};
  }
};

inline void install_batch_norm(torch::Library& library, DispatchKey key) {
  const auto aten = c10::Dispatcher::singleton().findSchema({"aten::native_batch_norm", ""});
  if (key != DispatchKey::CPU || !aten || !aten->hasComputedKernelForDispatchKey(key)) return;
  library.impl("native_batch_norm", torch::CppFunction::makeFromBoxedFunctor(std::make_unique<BatchNorm>(*aten)));
}

}  // namespace fastact
