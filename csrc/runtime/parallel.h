// Work shared out among threads, in blocks of consecutive elements.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>

#include "kernels/block.h"
#include "runtime/flush_to_zero.h"

namespace fastact {

// Calls body(begin, end) for the parts of 0 to count, of `grain` or more, that threads share out. All block functions
// run in here: without subnormal results.
template <class Body>
void parallel(int64_t count, int64_t grain, const Body& body) {
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    FlushToZero flush;
    body(begin, end);
  });
}

// A thread gets at least this many elements, as in ATen: waking one up costs about what 32,768 elements of ReLU do.
constexpr int64_t kGrain = 32768;

// `rows` runs of `columns` consecutive elements: all that the loops know of a tensor's shape. A dense tensor, whatever
// the order of its dimensions, is one row; a slice of the last dimension of a dense tensor is many.
struct Shape {
  int64_t rows, columns;
};

// The shape cut into blocks, which threads share out: visit() calls body(row, column, n, first) for the n elements from
// (row, column) on, the first of which is number `first` of the tensor. Either n is a multiple of kStep or less than
// kStep: what is left at a row's end.
struct Blocks {
  Shape shape;
  int64_t per_row, count;

  explicit Blocks(Shape shape_)
      : shape(shape_), per_row((shape.columns + kBlock - 1) / kBlock), count(shape.rows * per_row) {}

  // Blocks of a row that follow one another are visited `together`, that many at a time.
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

// Blocks together that bodies take which hold nothing of their own for each element: all that a thread has of a row.
// The processor looks ahead in memory, but not beyond the end of a loop: in blocks of 2,048, ReLU of 2^22 floats took
// 1.05 to 1.1 times as long.
constexpr int64_t kAll = std::numeric_limits<int64_t>::max() / kBlock;

}  // namespace fastact
