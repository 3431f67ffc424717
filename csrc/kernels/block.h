// The seam between runtime/ (tensors, threads; compiled once) and kernels/ (arithmetic; compiled once per instruction
// set): functions over one block of consecutive elements, called through pointers. One indirect call per block of 2,048
// elements or more costs nothing that can be measured.
#pragma once

#include <cstdint>

#include "spec/ops.h"

namespace fastact {

// Elements that threads take at a time, and the most for which a block function has buffers: 8 KiB for each, in float,
// which stay in L1.
constexpr int64_t kBlock = 2048;
constexpr int64_t kStep = 64;  // what a block function gets is a multiple of this; the runtime pads the tail

// What a block function needs to know beside its operands.
struct Call {
  const double* scalars;     // in the order of the op's schema
  uint64_t seed = 0;         // of the random numbers, where the formula takes one
  bool per_element = false;  // whether a channelwise operand holds a weight for each element, not one for all of them
  int64_t prefetch = 0;      // how many bytes ahead lines are prefetched that will be written; 0 prefetches none
};

// The n elements from element number `first` of the tensor on. Inputs are the tiles that an op takes, the mask of a
// backward, and channelwise operands; outputs are tiles, and behind them the mask (in a forward, where it is not null)
// or, in a backward, the terms whose sums are the gradients of channelwise operands. Channelwise operands and terms are
// in compute type, float or double. In a mask, element i is bit i % 8 of byte i / 8. An output may be one of the
// inputs.
using Block = void (*)(const void* const* inputs, void* const* outputs, int64_t n, int64_t first, const Call& call);

// Outputs number begin to end of a Maxout (maxout.h), in memory order and, unless `indices` is null, the numbers of the
// winners, which backward needs.
using MaxoutForward = void (*)(const void* x, void* y, uint8_t* indices, int64_t begin, int64_t end, int64_t pieces,
                               int64_t inner);
using MaxoutBackward = void (*)(const void* grad, const uint8_t* indices, void* grad_input, int64_t begin, int64_t end,
                                int64_t pieces, int64_t inner);

// Softmax of rows of n consecutive elements, kRowLanes or more, one row after the other. No tensor may be another.
constexpr int64_t kRowLanes = 16;
using SoftmaxRows = void (*)(const void* x, int64_t rows, int64_t n, void* y);
using SoftmaxRowsBackward = void (*)(const void* grad, const void* y, int64_t rows, int64_t n, void* grad_input);

// Other rows go through kLanes columns of numbers side by side, `steps` of them deep. Each column is a row of the
// tensor or, where `count` columns are in use and `period` is less, one part of it: those `period` apart belong to one
// row.
constexpr int64_t kLanes = kStep;
struct Panel {
  void* data;
  int64_t stride;  // from step to step, in elements
};
struct Lanes {
  int64_t count, period;
};
struct SoftmaxBlocks {
  SoftmaxRows rows;
  SoftmaxRowsBackward rows_backward;
  // The largest elements, of each row in all of its lanes, in compute type; of this panel and, unless it is the first,
  // of what the peaks come from.
  void (*peaks)(Panel x, int64_t steps, Lanes lanes, bool first, void* peaks);
  // Per lane, in double, added to `sums` unless it is the first: the sums of 2^64 e^(x - peak), which go to `e`; for a
  // logarithm instead the sums over what lies below the peak and, in sums + kLanes, those over what is at the peak, and
  // `e` is left alone.
  void (*exponentials)(Panel x, int64_t steps, const void* peaks, Panel e, bool first, double* sums);
  // What `write` needs of each row, in all of its lanes, as two numbers in compute type.
  void (*finish)(double* sums, const void* peaks, Lanes lanes, void* high, void* low);
  // The results, from e or, for a logarithm, from x. y may be the source.
  void (*write)(Panel source, int64_t steps, const void* high, const void* low, Panel y);
  // Per lane, in double, added to `sums` unless it is the first: what grad_input needs the sums of.
  void (*terms)(Panel grad, Panel y, int64_t steps, bool first, double* sums);
  // The sum of each row, in all of its lanes, in compute type.
  void (*finish_terms)(double* sums, Lanes lanes, void* rounded);
  // `sums` in compute type. grad_input may be grad.
  void (*gradient)(Panel grad, Panel y, int64_t steps, const void* sums, Panel grad_input);
  bool log, negate;
};

using WidenBlock = void (*)(const void* from, float* to, int64_t n);
using NarrowBlock = void (*)(const float* from, void* to, int64_t n);

// Indexed by dtype (0 float32, 1 float64, 2 float16, 3 bfloat16), by compute type (the first two), or by 16-bit type
// (the last two).
struct InstructionSet {
  const char* name;
  Block forward[kElementwiseCount][4];
  Block backward[kElementwiseCount][4];
  Block add_bias[4];      // tile, channelwise -> their sum, in compute type
  Block add_residual[4];  // numbers in compute type, tile -> their sum, a tile
  MaxoutForward maxout_forward[4];
  MaxoutBackward maxout_backward[4];
  SoftmaxBlocks softmax[kSoftmaxCount][2];
  WidenBlock widen[2];
  NarrowBlock narrow[2];
};

extern const InstructionSet kBaseline;
#if defined(__x86_64__)
extern const InstructionSet kAvx2;
extern const InstructionSet kAvx512;
#endif

}  // namespace fastact
