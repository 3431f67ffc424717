// Work for threads, in blocks of consecutive elements.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>

#include "kernels/block.h"
#include "simd/flush_to_zero.h"

namespace fastact {

// Splits 0 to count into parts of at least `grain` for the threads, and calls body(begin, end) for each. All block
// functions run in here, with flush-to-zero on. A single part runs at once: torch takes 200 instructions to find out
// that it needs no other thread.
template <class Body>
void parallel(int64_t count, int64_t grain, const Body& body) {
  const auto part = [&](int64_t begin, int64_t end) {
    FlushToZero flush;
    body(begin, end);
  };
  if (count > grain) {
    torch::stable::parallel_for(0, count, grain, part);
  } else if (count > 0) {
    part(0, count);
  }
}

// The least number of elements for a thread, as in ATen: waking a thread costs about as much as 32,768 elements of
// ReLU.
constexpr int64_t kGrain = 32768;

// `rows` runs of `columns` consecutive elements: all that loops know of a tensor's shape. A dense tensor is one row,
// whatever the order of its dimensions; a slice of the last dimension of a dense tensor has many.
struct Shape {
  int64_t rows, columns;
};

// A shape as blocks. visit() calls body(row, column, n, first) for n elements from (row, column) on, the first of which
// is number `first` of the tensor. n is a multiple of kStep, or the rest of a row, less than kStep.
struct Blocks {
  Shape shape;
  int64_t per_row, count;

  explicit Blocks(Shape shape_)
      : shape(shape_), per_row((shape.columns + kBlock - 1) / kBlock), count(shape.rows * per_row) {}

  // Visits up to `together` neighbouring blocks of a row in one call.
  template <class Body>
  void visit(int64_t begin, int64_t end, int64_t together, const Body& body) const {
    for (int64_t i = begin; i < end;) {
      int64_t row = i / per_row, in_row = i % per_row;
      int64_t count = std::min({together, end - i, per_row - in_row});
      int64_t column = in_row * kBlock, n = std::min(count * kBlock, shape.columns - column);
      int64_t first = row * shape.columns + column, whole = n / kStep * kStep;
      if (whole > 0) body(row, column, whole, first);
      if (n > whole) body(row, column + whole, n - whole, first + whole);
      i += count;
    }
  }
};

template <class Body>
void for_each_block(Shape shape, int64_t together, const Body& body) {
  Blocks blocks(shape);
  if (blocks.count == 0) return;
  int64_t grain = std::max<int64_t>(1, kGrain / std::min(kBlock, shape.columns));
  parallel(blocks.count, grain, [&](int64_t begin, int64_t end) { blocks.visit(begin, end, together, body); });
}

// As many blocks together as possible, for bodies without per-element state: a thread's share of a row is one call. The
// hardware prefetches within a loop but not past its end: in blocks of 2,048, ReLU of 2^22 floats took 1.05 to 1.1
// times as long.
constexpr int64_t kAll = std::numeric_limits<int64_t>::max() / kBlock;

}  // namespace fastact
