// The seam between the loops (loops.h, compiled once) and the arithmetic (kernels.cpp, compiled once per instruction
// set): functions over one block of consecutive elements in compute type, float or double, called through pointers.
// One indirect call per block of 2,048 elements or more costs nothing that can be measured.
#pragma once

#include <cstdint>

#include "activations.h"

namespace fastact {

// Elements that are shared out among threads together, and the most for which a block function has buffers: 8 KiB for
// each, in float, which stay in L1.
constexpr int64_t kBlock = 2048;
constexpr int64_t kStep = 64;  // what a block function gets is a multiple of this; the loops pad the tail

#define FASTACT_INDEX(Formula, name, parameters) k##Formula,
enum Pointwise : int { FASTACT_POINTWISE(FASTACT_INDEX) kPointwiseCount };
#undef FASTACT_INDEX
#define FASTACT_INDEX(Formula, name, learned, parameters) k##Formula,
enum LearnedPointwise : int { FASTACT_LEARNED(FASTACT_INDEX) kLearnedCount };
#undef FASTACT_INDEX
#define FASTACT_INDEX(Formula, name) k##Formula,
enum GatedUnit : int { FASTACT_GATED(FASTACT_INDEX) kGatedCount };
enum SoftmaxKind : int { FASTACT_SOFTMAX(FASTACT_INDEX) kSoftmaxCount };
#undef FASTACT_INDEX
constexpr int kMostLearned = 2;  // tensors of one activation

// What a block function needs to know beside its operands.
struct Call {
  const double* parameters;  // of the activation, in the order of its schema
  uint64_t seed;             // of the random numbers, where the formula takes one
  int64_t ahead = 0;         // the bytes by which lines are asked for before they are written
};

// y = f(x) for n elements, of which the first is element number `first` of the tensor. Where the formula saves bits and
// `bits` is not null, also one bit per element: element i is bit i % 8 of byte i / 8. x and y may be the same.
using ForwardBlock = void (*)(const void* x, void* y, uint8_t* bits, int64_t n, int64_t first, const Call& call);

// grad_input = grad * f'(saved). `saved` is what the formula says: bits, the output or the input.
using BackwardBlock = void (*)(const void* grad, const void* saved, void* grad_input, int64_t n, int64_t first,
                               const Call& call);

// y = f(x) where learned[k] holds the k-th learned tensor's number for each element or, unless `each`, the one number
// for all. Backward writes grad_input, and the terms whose sums are the gradients of the learned tensors.
using LearnedForwardBlock = void (*)(const void* x, const void* const* learned, bool each, void* y, int64_t n,
                                     const Call& call);
using LearnedBackwardBlock = void (*)(const void* grad, const void* x, const void* const* learned, bool each,
                                      void* grad_input, void* const* terms, int64_t n, const Call& call);

// out = value * f(gate), and the gradients of both. Any of the outputs may be one of the inputs.
using GatedForwardBlock = void (*)(const void* value, const void* gate, void* out, int64_t n);
using GatedBackwardBlock = void (*)(const void* grad, const void* value, const void* gate, void* grad_value,
                                    void* grad_gate, int64_t n);

// Outputs number begin to end of a Maxout (maxout.h), in memory order, and unless `indices` is null the winners'
// numbers, which are what backward needs.
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
  ForwardBlock forward[kPointwiseCount][4];
  BackwardBlock backward[kPointwiseCount][4];
  LearnedForwardBlock learned_forward[kLearnedCount][4];
  LearnedBackwardBlock learned_backward[kLearnedCount][4];
  GatedForwardBlock gated_forward[kGatedCount][4];
  GatedBackwardBlock gated_backward[kGatedCount][4];
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
