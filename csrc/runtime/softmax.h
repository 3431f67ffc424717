// From tensors to panels and rows, for softmax along any dimension.
#pragma once

#include <cmath>
#include <limits>
#include <memory>

#include "runtime/layout.h"

namespace fastact {

// A dense tensor seen from one dimension: outer_size x dim_size x inner_size elements, in this order in memory,
// whatever the order of the other dimensions.
struct OuterDimInner {
  int64_t outer_size, dim_size, inner_size;
};

inline OuterDimInner outer_dim_inner(const Tensor& dense, int64_t dim) {
  int64_t numel = dense.numel();
  if (numel == 0) return {0, 0, 0};
  if (dense.dim() == 0 || dense.size(dim) == 1) return {1, 1, numel};
  int64_t row = dense.size(dim), inner = dense.stride(dim);
  return {numel / (row * inner), row, inner};
}

// Rows that are processed together: `steps` times `lanes` elements, with `stride` between steps; the last step may have
// fewer lanes. Lanes `period` apart belong to one row.
// A transposed tile holds short rows, `inner` of them interleaved in memory, which are copied into columns.
struct Tile {
  int64_t offset, stride, steps, lanes, last_lanes, period;
  int64_t inner = 0;

  bool transposed() const { return inner > 0; }
  Lanes in_use() const { return {lanes, period}; }
  int64_t lanes_at(int64_t step) const { return step + 1 == steps ? last_lanes : lanes; }
};

// Cuts a tensor into tiles. If rows are side by side in memory, each gets a lane. Otherwise one row is spread over all
// lanes or, where that would leave most of them empty, short rows are transposed.
class Tiling {
 public:
  explicit Tiling(OuterDimInner shape) : shape_(shape) {
    if (shape.outer_size == 0) {
      count = 0;
    } else if (shape.inner_size >= kLanes) {
      tiles_across_ = (shape.inner_size + kLanes - 1) / kLanes;
      count = shape.outer_size * tiles_across_;
    } else if (shape.dim_size * shape.inner_size > kShort) {
      count = shape.outer_size;
    } else {
      together_ = kLanes / shape.inner_size;
      count = (shape.outer_size + together_ - 1) / together_;
    }
  }

  Tile operator[](int64_t index) const {
    auto [outer, row, inner] = shape_;
    if (tiles_across_ > 0) {
      int64_t first = index % tiles_across_ * kLanes, lanes = std::min(kLanes, inner - first);
      return {index / tiles_across_ * row * inner + first, inner, row, lanes, lanes, lanes};
    }
    if (together_ > 0) {
      int64_t first = index * together_, lanes = std::min(together_, outer - first) * inner;
      return {first * row * inner, 0, row, lanes, lanes, lanes, inner};
    }
    int64_t n = row * inner, lanes = kLanes / inner * inner, steps = (n + lanes - 1) / lanes;
    return {index * n, lanes, steps, lanes, n - (steps - 1) * lanes, inner};
  }

  int64_t count;

 private:
  static constexpr int64_t kShort = 64;
  OuterDimInner shape_;
  int64_t tiles_across_ = 0, together_ = 0;
};

// The least number of elements for a thread. It is less than kGrain since each element has an exponential: with two
// threads 32,768 elements take 0.7 of one thread's time, 16,384 take 0.9, and 8,192 are a tie.
constexpr int64_t kRowGrain = 8192;
constexpr int64_t kChunk = 65536 / kLanes;     // steps that fit into the cache
constexpr int64_t kWritten = kBlock / kLanes;  // steps that are written together

// A buffer for steps of full lanes in compute type, aligned to a cache line.
template <class T>
class Scratch {
  struct alignas(64) Step {
    T numbers[kLanes];
  };

 public:
  explicit Scratch(int64_t steps) : steps_(steps > 0 ? new Step[steps] : nullptr) {}
  T* data() const { return reinterpret_cast<T*>(steps_.get()); }

 private:
  std::unique_ptr<Step[]> steps_;
};

// Some steps of a tile of a tensor.
template <class T>
struct Part {
  const Strided& operand;
  const Tile& tile;
  int64_t first, steps;

  // Whether blocks can work on it in the tensor's memory.
  bool is_panel() const {
    return !is_16_bit(operand.type) && !tile.transposed() && tile.lanes_at(first) == kLanes &&
           tile.lanes_at(first + steps - 1) == kLanes;
  }
  int64_t offset(int64_t step) const { return tile.offset + (first + step) * tile.stride; }
  Panel in_place() const { return {operand.at(0, offset(0)), tile.stride}; }

  // Calls body(step, n) for runs of n elements that are consecutive in memory and in lanes, from a step on.
  template <class Body>
  void for_each_run(const Body& body) const {
    if (tile.lanes == kLanes && tile.stride == kLanes) {
      body(0, (steps - 1) * kLanes + tile.lanes_at(first + steps - 1));
    } else {
      for (int64_t step = 0; step < steps; ++step) body(step, tile.lanes_at(first + step));
    }
  }

  // Calls body(lane, place) for each row of a transposed tile, with the number of its first element.
  template <class Body>
  void for_each_row(const Body& body) const {
    for (int64_t lane = 0; lane < tile.lanes; ++lane)
      body(lane, lane / tile.inner * tile.inner * steps + lane % tile.inner);
  }

  // Returns all lanes, with `padding` in unused ones. Copies into `scratch` if necessary.
  Panel read(T padding, T* scratch, T* spare) const {
    if (is_panel()) return in_place();
    if (tile.transposed()) {
      auto* from = static_cast<const T*>(load_promoted(operand, offset(0), tile.lanes * steps, spare));
      for_each_row([&](int64_t lane, int64_t place) {
        for (int64_t step = 0; step < steps; ++step) scratch[step * kLanes + lane] = from[place + step * tile.inner];
      });
      for (int64_t step = 0; step < steps; ++step)
        std::fill(scratch + step * kLanes + tile.lanes, scratch + (step + 1) * kLanes, padding);
    } else {
      for_each_run([&](int64_t step, int64_t n) {
        T* to = scratch + step * kLanes;
        auto* from = static_cast<const T*>(load_promoted(operand, offset(step), n, to));
        if (from != to) std::copy_n(from, n, to);
        std::fill(to + n, to + round_up(n), padding);
      });
    }
    return {scratch, kLanes};
  }

  // Returns where results go before write().
  Panel target(T* scratch) const { return is_panel() ? in_place() : Panel{scratch, kLanes}; }

  void write(const T* scratch, T* spare) const {
    if (is_panel()) return;
    if (tile.transposed()) {
      for_each_row([&](int64_t lane, int64_t place) {
        for (int64_t step = 0; step < steps; ++step) spare[place + step * tile.inner] = scratch[step * kLanes + lane];
      });
      store_demoted(operand, offset(0), tile.lanes * steps, spare);
    } else {
      for_each_run([&](int64_t step, int64_t n) { store_demoted(operand, offset(step), n, scratch + step * kLanes); });
    }
  }
};

inline Panel from_step(Panel panel, int64_t step, int64_t element_size) {
  return {static_cast<char*>(panel.data) + step * panel.stride * element_size, panel.stride};
}

// Calls body(first, steps) for parts of a tile that fit into the cache.
template <class Body>
void for_each_chunk(const Tile& tile, const Body& body) {
  for (int64_t first = 0; first < tile.steps; first += kChunk) body(first, std::min(kChunk, tile.steps - first));
}

// Calls body(step, steps) for parts of a chunk that are written together.
template <class Body>
void for_each_written(const Tile& tile, int64_t steps, const Body& body) {
  int64_t most = tile.transposed() ? steps : kWritten;
  for (int64_t step = 0; step < steps; step += most) body(step, std::min(most, steps - step));
}

// Calls body(tile, scratch, scratch, scratch) for each tile, with three buffers for a chunk.
template <class T, class Body>
void for_each_tile(OuterDimInner shape, const Body& body) {
  Tiling tiling(shape);
  if (tiling.count == 0) return;
  const Tile largest = tiling[0];
  int64_t grain = std::max<int64_t>(1, kRowGrain / (largest.steps * largest.lanes));
  parallel(tiling.count, grain, [&](int64_t begin, int64_t end) {
    int64_t steps = std::min(kChunk, largest.steps);
    Scratch<T> first(steps), second(steps), third(steps);
    for (int64_t i = begin; i < end; ++i) body(tiling[i], first.data(), second.data(), third.data());
  });
}

// A part of a dense tensor in compute type: the tensor's memory or, of 16-bit types, a copy in `scratch`.
template <class T>
class Wide {
 public:
  Wide(const Strided& operand, int64_t offset, int64_t n, T* scratch)
      : operand_(operand),
        offset_(offset),
        n_(n),
        data_(copies() ? static_cast<void*>(scratch) : operand.at(0, offset)) {}
  T* target() const { return static_cast<T*>(data_); }
  const T* read() const {
    if (copies()) load_promoted(operand_, offset_, n_, data_);
    return target();
  }
  void write() const {
    if (copies()) store_demoted(operand_, offset_, n_, data_);
  }

 private:
  bool copies() const { return is_16_bit(operand_.type); }
  const Strided& operand_;
  int64_t offset_, n_;
  void* data_;
};

// Whether block functions process rows in memory order. Not if rows of 16-bit types are so long that, promoted, they
// would leave the cache.
inline bool are_consecutive(OuterDimInner shape, bool promoted) {
  constexpr int64_t most_promoted = 1 << 18;
  return shape.inner_size == 1 && shape.dim_size >= kRowLanes && !(promoted && shape.dim_size > most_promoted);
}

// Calls body(offset, rows, scratch, scratch) for consecutive rows: a thread's whole share or, if they are `promoted`,
// as many as fit into the cache, with two buffers for them.
template <class T, class Body>
void for_each_rows(OuterDimInner shape, bool promoted, const Body& body) {
  const int64_t in_cache = std::max<int64_t>(1, kBlock / shape.dim_size);
  const int64_t steps = promoted ? round_up(in_cache * shape.dim_size) / kLanes : 0;
  const int64_t grain = std::max<int64_t>(1, kRowGrain / shape.dim_size);
  parallel(shape.outer_size, grain, [&](int64_t begin, int64_t end) {
    Scratch<T> first(steps), second(steps);
    const int64_t together = promoted ? in_cache : end - begin;
    for (int64_t row = begin; row < end; row += together)
      body(row * shape.dim_size, std::min(together, end - row), first.data(), second.data());
  });
}

template <class T>
void run_softmax(int which, OuterDimInner shape, const Strided& x, const Strided& y) {
  const SoftmaxBlocks& blocks = instruction_set().softmax[which][type_index(y.type)];
  const bool promoted = is_16_bit(x.type);
  if (are_consecutive(shape, promoted)) {
    return for_each_rows<T>(shape, promoted, [&](int64_t offset, int64_t rows, T* scratch, T* other) {
      Wide<T> from(x, offset, rows * shape.dim_size, scratch), to(y, offset, rows * shape.dim_size, other);
      blocks.rows(from.read(), rows, shape.dim_size, to.target());
      to.write();
    });
  }
  const T infinity = std::numeric_limits<T>::infinity(), padding = blocks.negate ? infinity : -infinity;
  for_each_tile<T>(shape, [&](const Tile& tile, T* scratch, T* spare, T*) {
    alignas(64) T row_max[kLanes], high[kLanes], low[kLanes];
    alignas(64) double sums[2 * kLanes];
    const Panel e = {scratch, kLanes};
    Panel panel;
    for_each_chunk(tile, [&](int64_t first, int64_t steps) {
      T before[kLanes];
      if (first > 0) std::copy_n(row_max, kLanes, before);
      panel = Part<T>{x, tile, first, steps}.read(padding, scratch, spare);
      blocks.row_max(panel, steps, tile.in_use(), first == 0, row_max);
      for (int64_t i = 0; first > 0 && i < kLanes; ++i) {
        if (row_max[i] == before[i]) continue;
        double factor = std::exp(static_cast<double>(before[i]) - static_cast<double>(row_max[i]));
        sums[i] = blocks.log ? (sums[i] + sums[kLanes + i]) * factor : sums[i] * factor;
        sums[kLanes + i] = 0;
      }
      blocks.exponentials(panel, steps, row_max, e, first == 0, sums);
    });
    blocks.finalize(sums, row_max, tile.in_use(), high, low);
    for_each_chunk(tile, [&](int64_t first, int64_t steps) {
      if (tile.steps > kChunk) {
        panel = Part<T>{x, tile, first, steps}.read(padding, scratch, spare);
        if (!blocks.log) blocks.exponentials(panel, steps, row_max, e, true, sums);
      }
      for_each_written(tile, steps, [&](int64_t step, int64_t n) {
        Part<T> part{y, tile, first + step, n};
        T* buffer = scratch + step * kLanes;
        Panel source = from_step(blocks.log ? panel : e, step, sizeof(T));
        blocks.write(source, n, high, low, part.target(buffer));
        part.write(buffer, spare);
      });
    });
  });
}

template <class T>
void run_softmax_backward(int which, OuterDimInner shape, const Strided& grad, const Strided& y,
                          const Strided& grad_input) {
  const SoftmaxBlocks& blocks = instruction_set().softmax[which][type_index(y.type)];
  const bool promoted = y.type != grad_input.type;  // a float32 output was made of 16-bit numbers
  if (are_consecutive(shape, promoted)) {
    return for_each_rows<T>(shape, promoted, [&](int64_t offset, int64_t rows, T* scratch, T*) {
      void* const written = promoted ? static_cast<void*>(scratch) : grad_input.at(0, offset);
      blocks.rows_backward(grad.at(0, offset), y.at(0, offset), rows, shape.dim_size, written);
      if (promoted) store_demoted(grad_input, offset, rows * shape.dim_size, scratch);
    });
  }
  for_each_tile<T>(shape, [&](const Tile& tile, T* grad_scratch, T* y_scratch, T* spare) {
    alignas(64) double sums[kLanes];
    alignas(64) T rounded[kLanes];
    Panel grads, ys;
    auto read = [&](int64_t first, int64_t steps) {
      grads = Part<T>{grad, tile, first, steps}.read(0, grad_scratch, spare);
      ys = Part<T>{y, tile, first, steps}.read(0, y_scratch, spare);
    };
    for_each_chunk(tile, [&](int64_t first, int64_t steps) {
      read(first, steps);
      blocks.terms(grads, ys, steps, first == 0, sums);
    });
    blocks.finalize_terms(sums, tile.in_use(), rounded);
    for_each_chunk(tile, [&](int64_t first, int64_t steps) {
      if (tile.steps > kChunk) read(first, steps);
      for_each_written(tile, steps, [&](int64_t step, int64_t n) {
        Part<T> part{grad_input, tile, first + step, n};
        T* buffer = grad_scratch + step * kLanes;
        blocks.gradient(from_step(grads, step, sizeof(T)), from_step(ys, step, sizeof(T)), n, rounded,
                        part.target(buffer));
        part.write(buffer, spare);
      });
    });
  });
}

}  // namespace fastact
