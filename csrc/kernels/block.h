// The interface between runtime/ (tensors and threads, compiled once) and kernels/ (arithmetic, compiled once per
// instruction set): functions over one block of consecutive elements, called through pointers. An indirect call per
// block of 2,048 elements or more has no measurable cost.
#pragma once

#include <cstdint>

#include "simd/step.h"
#include "spec/ops.h"

namespace fastact {

// The number of elements that a thread takes at a time, and the most for which a block function has buffers. A buffer
// of floats takes 8 KiB of L1.
constexpr int64_t kBlock = 2048;

// What a block function takes beside its operands.
struct Call {
  const double* scalars;     // in the order of the op's schema
  uint64_t seed = 0;         // of the random numbers, where the formula takes one
  bool per_element = false;  // whether a channelwise operand holds a weight for each element, not one for all of them
  int64_t prefetch = 0;      // how many bytes ahead lines are prefetched that will be written; 0 prefetches none
};

// Computes n elements, a multiple of kStep, from number `first` of the tensor on. The runtime pads the tail.
// Inputs are the op's tiles, then a mask (backward), then channelwise operands. Outputs are tiles, then a mask
// (forward; null if not wanted) or the terms that sum to channelwise gradients (backward). Channelwise operands and
// terms are in compute type, float or double. Element i of a mask is bit i % 8 of byte i / 8. An output may be the same
// memory as an input.
using Block = void (*)(const void* const* inputs, void* const* outputs, int64_t n, int64_t first, const Call& call);

// Computes outputs number begin to end of a Maxout (maxout.h) in memory order and, unless `indices` is null, the
// numbers of the winners.
using MaxoutForward = void (*)(const void* x, void* y, uint8_t* indices, int64_t begin, int64_t end, int64_t pieces,
                               int64_t inner);
using MaxoutBackward = void (*)(const void* grad, const uint8_t* indices, void* grad_input, int64_t begin, int64_t end,
                                int64_t pieces, int64_t inner);

// Softmax of rows of n >= kRowLanes consecutive elements, one after the other: forward in compute type, backward in the
// type of the output and its gradient. Buffers must not alias.
constexpr int64_t kRowLanes = 16;
using SoftmaxRows = void (*)(const void* x, int64_t rows, int64_t n, void* y);
using SoftmaxRowsBackward = void (*)(const void* grad, const void* y, int64_t rows, int64_t n, void* grad_input);

// Other rows are processed in panels of kLanes columns, `steps` deep. `count` columns are in use. A row occupies every
// period-th of them, so with period == count each column is a row:
//
//   count 6, period 3:   row  0 1 2 0 1 2   in columns 0 to 5
constexpr int64_t kLanes = kStep;
struct Panel {
  void* data;
  int64_t stride;  // elements from one step to the next
};
struct Lanes {
  int64_t count, period;
};
struct SoftmaxBlocks {
  SoftmaxRows rows;
  SoftmaxRowsBackward rows_backward;
  // Writes the maximum of each row to all of its lanes, in compute type. Continues from what `row_max` holds, unless
  // this is the first panel.
  void (*row_max)(Panel x, int64_t steps, Lanes lanes, bool first, void* row_max);
  // Adds, per lane and in double, the sums of e = 2^64 e^(x - row_max). Starts from 0 if this is the first panel. Of a
  // logarithm it adds the sums over elements below the maximum to sums[0, kLanes) and those over elements equal to it
  // to sums[kLanes, 2 kLanes), and leaves `e` alone.
  void (*exponentials)(Panel x, int64_t steps, const void* row_max, Panel e, bool first, double* sums);
  // Writes what `write` needs of each row to all of its lanes, as two numbers in compute type.
  void (*finalize)(double* sums, const void* row_max, Lanes lanes, void* high, void* low);
  // Writes the outputs, from e or, of a logarithm, from x. y may be the source.
  void (*write)(Panel source, int64_t steps, const void* high, const void* low, Panel y);
  // Adds, per lane and in double, the terms whose sums the gradient needs.
  void (*terms)(Panel grad, Panel y, int64_t steps, bool first, double* sums);
  // Writes the sum of each row to all of its lanes, in compute type.
  void (*finalize_terms)(double* sums, Lanes lanes, void* rounded);
  // Takes `sums` in compute type. grad_input may be grad.
  void (*gradient)(Panel grad, Panel y, int64_t steps, const void* sums, Panel grad_input);
  bool log, negate;
};

// What a monitor asks of numbers: of the finite ones, how many, their mean, the sum of squared deviations from it and
// both extremes; of all, how many are zero, NaN and infinite.
struct Summary {
  double count = 0, mean = 0, squares = 0, least = __builtin_inf(), most = -__builtin_inf();
  double zeros = 0, nan = 0, infinite = 0;
};
// Adds other numbers' summary, as Chan, Golub and LeVeque 1979 do means and squares.
static inline void merge(Summary& to, const Summary& other) {
  to.zeros += other.zeros;
  to.nan += other.nan;
  to.infinite += other.infinite;
  if (other.count == 0) return;
  const double count = to.count + other.count, delta = other.mean - to.mean;
  to.mean += delta * (other.count / count);
  to.squares += other.squares + delta * delta * (to.count * other.count / count);
  to.count = count;
  to.least = other.least < to.least ? other.least : to.least;
  to.most = other.most > to.most ? other.most : to.most;
}
constexpr int64_t kMostIntervals = 8;

using PromoteBlock = void (*)(const void* from, float* to, int64_t n);
using DemoteBlock = void (*)(const float* from, void* to, int64_t n);

// Indexed by dtype (0 float32, 1 float64, 2 float16, 3 bfloat16), by compute type (the first two), or by 16-bit type
// (the last two).
struct InstructionSet {
  const char* name;
  Block forward[kElementwiseCount][4];
  Block backward[kElementwiseCount][4];
  Block add_bias[4];      // tile, channelwise operand -> their sum in compute type
  Block add_residual[4];  // numbers in compute type, tile -> their sum as a tile
  Block add_l1[4];        // grad, output or null -> grad + l1 sign(output) or grad + l1; l1 is the first scalar
  double (*sum[2])(const void* terms, int64_t n);
  double (*sum_of_sizes[2])(const void* terms, int64_t n);
  void (*add_each[2])(const void* terms, int64_t n, double* sums);  // one term to each sum
  void (*add_moments[2])(const void* numbers, int64_t n, double shift, double* sums);
  void (*summarize[2])(const void* numbers, int64_t n, Summary& summary);
  int64_t (*count_flat[2])(const void* numbers, int64_t n, const double* bounds, int64_t intervals, void* awake);
  MaxoutForward maxout_forward[4];
  MaxoutBackward maxout_backward[4];
  SoftmaxBlocks softmax[kSoftmaxCount][4];  // by the output's dtype
  PromoteBlock promote[2];
  DemoteBlock demote[2];
};

extern const InstructionSet kBaseline;
extern const InstructionSet kAvx2;  // these two on x86 only
extern const InstructionSet kAvx512;

}  // namespace fastact
