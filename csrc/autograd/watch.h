// Calls of activations as `fastact.Coverage` sees them: each is reported to fastact/coverage.py, which looks whence it
// came. Nothing else changes by it: no mode is on, and kernels run as they would.
#pragma once

#include <atomic>

#include "autograd/plain.h"

namespace fastact {

inline std::atomic<bool>& watching() {
  static std::atomic<bool> is_on{false};
  return is_on;
}
// Where a graph is made, nothing is computed that could be counted.
inline bool is_seen() { return watching().load(std::memory_order_relaxed) && !is_tracing(); }

// A call while it runs. What it calls itself, as torch's CELU does ELU, is a part of it and no call of its own.
struct SeenCall {
  bool kernel_ran = false;    // fastact's, for the call or a part of it
  bool torch_within = false;  // torch's op ran within fastact's: of some softmaxes torch does the arithmetic

  SeenCall() {
    if (!outermost()) outermost() = this;
  }
  ~SeenCall() {
    if (is_outermost()) outermost() = nullptr;
  }
  SeenCall(const SeenCall&) = delete;

  bool is_outermost() const { return outermost() == this; }
  // Of this thread.
  static SeenCall*& outermost() {
    static thread_local SeenCall* call = nullptr;
    return call;
  }

  // The op by its own name and, where that is known, by that of the op that stands in for it; why it is torch's in
  // words, with {dtype} and the like for what Python looks up of the tensor that it is about, or nothing; and whether
  // it is torch's only because nobody wants it to be fastact's.
  void report(const std::string& op, const std::string& row, const char* why, bool unwanted, const Tensor& about,
              const Tensor& output) const {
    static const OperatorHandle seen = find("seen");
    Stack stack;
    torch::jit::push(stack, op, row, std::string(why ? why : ""), unwanted, kernel_ran, torch_within, about,
                     numel(output));
    // Straight to the function, past the modes of users.
    seen.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &stack);
  }

 private:
  static int64_t numel(const Tensor& tensor) {
    try {
      return tensor.numel();
    } catch (const std::exception&) {  // of a subclass without numbers for sizes
      return 0;
    }
  }
};

}  // namespace fastact
