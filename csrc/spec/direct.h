// A call of a kernel by pointers, without tensors and without the dispatcher: what libfastact.so offers the library of
// autograd nodes, for tensors whose elements lie in one piece. Through the dispatcher and the stable ABI a call of few
// elements takes a third of torch's own longer (docs/findings/033).
#pragma once

#include <cstdint>

namespace fastact {

// Of an op with one tile and, in forward, at most one channelwise operand, which holds one number; or of a softmax.
struct DirectCall {
  int which;  // place in kOps or, behind them, in kSoftmaxOps
  bool backward;
  int8_t dtype;           // as c10::ScalarType numbers them
  const void* inputs[2];  // forward: the input; backward: the output's gradient and, unless a mask is, what was saved
  void* output;
  uint8_t* mask;  // forward: written, unless it is null; backward: read, where the op saves one
  int64_t n;
  const double* scalars;
  uint64_t seed;            // of random numbers
  const void* weight;       // of the dtype; null without a channelwise operand
  int64_t row_size, inner;  // of a softmax: elements in a row, and how far apart they lie
};
// Returns whether the kernel has run: torch computes some softmaxes.
using RunDirect = bool (*)(const DirectCall&);

}  // namespace fastact
