// A call of a kernel by pointers, without tensors and without the dispatcher: what libfastact.so offers the library of
// autograd nodes, for tensors whose elements lie in one piece. Through the dispatcher and the stable ABI a call of few
// elements takes a third of torch's own longer (docs/findings/033).
#pragma once

#include <cstdint>

namespace fastact {

// Of an op with, in forward, at most one channelwise operand, and in backward none; or of a softmax.
struct DirectCall {
  int which;  // place in kOps or, behind them, in kSoftmaxOps
  bool backward;
  int8_t dtype;           // as c10::ScalarType numbers them
  int device;             // CUDA's number of it, or -1 for the CPU
  int64_t rows, columns;  // of tiles; one row unless some are halves of larger tensors
  // Forward: from the tiles the output. Backward: from the output's gradient and, unless a mask is, what was saved the
  // tiles' gradients. Rows lie so many elements apart.
  const void* inputs[3];
  void* outputs[2];
  int64_t input_strides[3], output_strides[2];
  uint8_t* mask;  // forward: written, unless it is null; backward: read, where the op saves one
  const double* scalars;
  const void* seed;           // of random numbers, on the device
  const void* weight;         // of the dtype; null without a channelwise operand
  int64_t channels, repeats;  // numbers that it holds, and elements side by side that share one
  int64_t row_size, inner;    // of a softmax: elements in a row, and how far apart they lie
};
// Returns whether the kernel has run. Torch computes some softmaxes; a GPU's kernel may not be loaded yet; and rows may
// lie as no kernel reads them.
using RunDirect = bool (*)(const DirectCall&);

}  // namespace fastact
