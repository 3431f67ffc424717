// Which calls kernels take: those with plain tensors, outside of transforms and tracing.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include <utility>

#include "autograd/specs.h"

namespace fastact {

// Kernels read plain memory. Everything else is torch's: wrappers of transforms, lazy conjugates and negatives, sparse
// and nested layouts, tensors with a tangent. (Tensor subclasses get the op itself, as they get any; the public
// functions call none with them.)
inline bool is_plain(const Tensor& tensor) {
  constexpr DispatchKeySet plain({DispatchKey::Dense, DispatchKey::ADInplaceOrView, DispatchKey::AutogradFunctionality,
                                  DispatchKey::Python, DispatchKey::PythonTLSSnapshot});
  const DispatchKeySet keys = tensor.key_set() - plain - c10::autocast_dispatch_keyset;
  return (DispatchKeySet(DispatchKeySet::RAW, keys.raw_repr() & ~c10::full_backend_mask)).empty() &&
         !tensor._fw_grad(0).defined();
}

inline bool has_kernel_dtype(const Tensor& tensor) {
  const at::ScalarType dtype = tensor.scalar_type();
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble;
}

// Whether a graph is being made, of fake tensors whose class is no reason to leave the ops.
inline bool is_tracing() {
  using c10::impl::TorchDispatchModeKey, c10::impl::TorchDispatchModeTLS;
  return TorchDispatchModeTLS::any_modes_set() && (TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::FAKE) ||
                                                   TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::PROXY) ||
                                                   TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::FUNCTIONAL));
}

// Whether calls are torch's because of a transform or a graph that is being made.
inline bool in_transform() {
  constexpr DispatchKeySet transforms({DispatchKey::FuncTorchDynamicLayerFrontMode,
                                       DispatchKey::FuncTorchDynamicLayerBackMode, DispatchKey::FuncTorchVmapMode,
                                       DispatchKey::VmapMode, DispatchKey::Functionalize});
  return c10::impl::tls_local_dispatch_key_set().included_.has_any(transforms) || is_tracing();
}

// Whether backward must be composed of torch's ops: its result is to be differentiated, or the gradient is no plain
// tensor.
inline bool needs_torch_ops(const Tensor& grad) {
  constexpr DispatchKeySet special({DispatchKey::Python, DispatchKey::FuncTorchDynamicLayerFrontMode,
                                    DispatchKey::FuncTorchDynamicLayerBackMode, DispatchKey::FuncTorchGradWrapper,
                                    DispatchKey::FuncTorchBatched, DispatchKey::Batched, DispatchKey::Functionalize,
                                    DispatchKey::Negative, DispatchKey::ZeroTensor});
  // Modes are no reason: they see the kernel's op.
  const DispatchKeySet active = c10::impl::tls_local_dispatch_key_set().included_ - DispatchKeySet(DispatchKey::Python);
  return at::GradMode::is_enabled() || grad.layout() != at::kStrided || grad._fw_grad(0).defined() ||
         ((grad.key_set() | active).has_any(special) && !is_tracing());
}

// Whether this thread's calls of torch's ops are torch's, whatever stands in for them elsewhere (overrides.h): within
// an op that stands in for one, and where an op's gradient is composed of torch's. (Some softmaxes are computed by
// torch's kernels, and a GPU may have no others.)
inline bool& within() {
  static thread_local bool is_within = false;
  return is_within;
}
struct Within {
  const bool before = std::exchange(within(), true);
  Within() = default;
  ~Within() { within() = before; }
  Within(const Within&) = delete;
};

}  // namespace fastact
