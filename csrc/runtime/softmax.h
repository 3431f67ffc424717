// From tensors to panels, for activations of a whole row along any dimension: what loops.h is to pointwise ones.
#pragma once

#include <cmath>
#include <limits>
#include <memory>

#include "runtime/layout.h"

namespace fastact {

// A dense tensor around one of its dimensions: its elements in memory are number (o * row + r) * inner + i, whatever
// the order of the other dimensions.
struct Around {
  int64_t outer, row, inner;
};

inline Around around(const Tensor& dense, int64_t dim) {
  int64_t numel = dense.numel();
  if (numel == 0) return {0, 0, 0};
  if (dense.dim() == 0 || dense.size(dim) == 1) return {1, 1, numel};
  int64_t row = dense.size(dim), inner = dense.stride(dim);
  return {numel / (row * inner), row, inner};
}

// Rows that are walked together: `steps` times `lanes` elements, `stride` apart, of which the last step may have fewer.
// Lanes that are `period` apart belong to the same row. Transposed: one row after another in memory, `inner` of them
// element by element, to be brought side by side.
struct Tile {
  int64_t offset, stride, steps, lanes, last_lanes, period;
  int64_t inner = 0;

  bool transposed() const { return inner > 0; }
  Lanes in_use() const { return {lanes, period}; }
  int64_t lanes_at(int64_t step) const { return step + 1 == steps ? last_lanes : lanes; }
};

// A lane for each row where rows lie side by side in memory; else many lanes for one row or, if that would leave most
// of them empty, short rows brought side by side.
class Tiling {
 public:
  explicit Tiling(Around shape) : shape_(shape) {
    if (shape.outer == 0) {
      count = 0;
    } else if (shape.inner >= kLanes) {
      tiles_across_ = (shape.inner + kLanes - 1) / kLanes;
      count = shape.outer * tiles_across_;
    } else if (shape.row * shape.inner > kShort) {
      count = shape.outer;
    } else {
      together_ = kLanes / shape.inner;
      count = (shape.outer + together_ - 1) / together_;
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
  Around shape_;
  int64_t tiles_across_ = 0, together_ = 0;
};

// Elements for which a thread is worth waking, fewer than kGrain since each has an exponential: with two threads 32,768
// take 0.7 of one's time, 16,384 0.9, and 8,192 are a tie.
constexpr int64_t kRowGrain = 8192;
constexpr int64_t kChunk = 65536 / kLanes;     // steps that stay in the cache together
constexpr int64_t kWritten = kBlock / kLanes;  // steps that are written at a time

// Room for steps of full lanes in compute type, from the start of a cache line on.
template <class T>
class Scratch {
  struct alignas(64) Step {
    T numbers[kLanes];
  };

 public:
  explicit Scratch(int64_t steps) : steps_(new Step[steps]) {}
  T* data() const { return steps_[0].numbers; }

 private:
  std::unique_ptr<Step[]> steps_;
};

// Some steps of a tile of a tensor.
template <class T>
struct Part {
  const Strided& operand;
  const Tile& tile;
  int64_t first, steps;

  // Whether it can be worked on as it lies in memory.
  bool is_panel() const {
    return !is_16_bit(operand.type) && !tile.transposed() && tile.lanes_at(first) == kLanes &&
           tile.lanes_at(first + steps - 1) == kLanes;
  }
  int64_t offset(int64_t step) const { return tile.offset + (first + step) * tile.stride; }
  Panel in_place() const { return {operand.at(0, offset(0)), tile.stride}; }

  // Calls body(step, n) for runs of n elements, from a step on, that are consecutive in memory and in full lanes.
  template <class Body>
  void for_each_run(const Body& body) const {
    if (tile.lanes == kLanes && tile.stride == kLanes) {
      body(0, (steps - 1) * kLanes + tile.lanes_at(first + steps - 1));
    } else {
      for (int64_t step = 0; step < steps; ++step) body(step, tile.lanes_at(first + step));
    }
  }

  // Calls body(lane, place) for the rows of a transposed tile, with the number of each one's first element.
  template <class Body>
  void for_each_row(const Body& body) const {
    for (int64_t lane = 0; lane < tile.lanes; ++lane)
      body(lane, lane / tile.inner * tile.inner * steps + lane % tile.inner);
  }

  // All lanes of it, those beyond the tile with `padding` in them; if it must be copied, into `scratch`.
  Panel read(T padding, T* scratch, T* spare) const {
    if (is_panel()) return in_place();
    if (tile.transposed()) {
      auto* from = static_cast<const T*>(load_wide(operand, offset(0), tile.lanes * steps, spare));
      for_each_row([&](int64_t lane, int64_t place) {
        for (int64_t step = 0; step < steps; ++step) scratch[step * kLanes + lane] = from[place + step * tile.inner];
      });
      for (int64_t step = 0; step < steps; ++step)
        std::fill(scratch + step * kLanes + tile.lanes, scratch + (step + 1) * kLanes, padding);
    } else {
      for_each_run([&](int64_t step, int64_t n) {
        T* to = scratch + step * kLanes;
        auto* from = static_cast<const T*>(load_wide(operand, offset(step), n, to));
        if (from != to) std::copy_n(from, n, to);
        std::fill(to + n, to + round_up(n), padding);
      });
    }
    return {scratch, kLanes};
  }

  // Where results go before write().
  Panel target(T* scratch) const { return is_panel() ? in_place() : Panel{scratch, kLanes}; }

  void write(const T* scratch, T* spare) const {
    if (is_panel()) return;
    if (tile.transposed()) {
      for_each_row([&](int64_t lane, int64_t place) {
        for (int64_t step = 0; step < steps; ++step) spare[place + step * tile.inner] = scratch[step * kLanes + lane];
      });
      store_narrow(operand, offset(0), tile.lanes * steps, spare);
    } else {
      for_each_run([&](int64_t step, int64_t n) { store_narrow(operand, offset(step), n, scratch + step * kLanes); });
    }
  }
};

inline Panel from_step(Panel panel, int64_t step, int64_t element_size) {
  return {static_cast<char*>(panel.data) + step * panel.stride * element_size, panel.stride};
}

// body(first, steps) for the parts of a tile that stay in the cache.
template <class Body>
void for_each_chunk(const Tile& tile, const Body& body) {
  for (int64_t first = 0; first < tile.steps; first += kChunk) body(first, std::min(kChunk, tile.steps - first));
}

// body(step, steps) for the parts of a chunk that are written at a time.
template <class Body>
void for_each_written(const Tile& tile, int64_t steps, const Body& body) {
  int64_t most = tile.transposed() ? steps : kWritten;
  for (int64_t step = 0; step < steps; step += most) body(step, std::min(most, steps - step));
}

// body(tile, scratch...) with room for one chunk in each of three.
template <class T, class Body>
void for_each_tile(Around shape, const Body& body) {
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

// A part of a dense tensor in compute type: where it lies or, of 16 bits, in `scratch`.
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
    if (copies()) load_wide(operand_, offset_, n_, data_);
    return target();
  }
  void write() const {
    if (copies()) store_narrow(operand_, offset_, n_, data_);
  }

 private:
  bool copies() const { return is_16_bit(operand_.type); }
  const Strided& operand_;
  int64_t offset_, n_;
  void* data_;
};

// Whether block functions take the rows as they lie in memory. Not where rows of 16 bits are so long that, widened,
// they would leave the cache.
inline bool are_consecutive(Around shape, std::initializer_list<Strided> operands) {
  constexpr int64_t longest = 1 << 18;
  bool widened = std::any_of(operands.begin(), operands.end(), [](auto& each) { return is_16_bit(each.type); });
  return shape.inner == 1 && shape.row >= kRowLanes && !(widened && shape.row > longest);
}

// body(offset, rows, scratch...) for rows that follow one another: all that a thread has or, where they are `widened`,
// as many as stay in the cache, with room for them in three.
template <class T, class Body>
void for_each_rows(Around shape, bool widened, const Body& body) {
  const int64_t few = std::max<int64_t>(1, kBlock / shape.row);
  const int64_t steps = widened ? round_up(few * shape.row) / kLanes : 0;
  const int64_t grain = std::max<int64_t>(1, kRowGrain / shape.row);
  parallel(shape.outer, grain, [&](int64_t begin, int64_t end) {
    Scratch<T> first(steps), second(steps), third(steps);
    const int64_t together = widened ? few : end - begin;
    for (int64_t row = begin; row < end; row += together)
      body(row * shape.row, std::min(together, end - row), first.data(), second.data(), third.data());
  });
}

template <class T>
void run_softmax(int which, Around shape, const Strided& x, const Strided& y) {
  const SoftmaxBlocks& blocks = instruction_set().softmax[which][sizeof(T) == 8];
  if (are_consecutive(shape, {x, y})) {
    return for_each_rows<T>(shape, is_16_bit(x.type), [&](int64_t offset, int64_t rows, T* scratch, T* other, T*) {
      Wide<T> from(x, offset, rows * shape.row, scratch), to(y, offset, rows * shape.row, other);
      blocks.rows(from.read(), rows, shape.row, to.target());
      to.write();
    });
  }
  const T infinity = std::numeric_limits<T>::infinity(), padding = blocks.negate ? infinity : -infinity;
  for_each_tile<T>(shape, [&](const Tile& tile, T* scratch, T* spare, T*) {
    alignas(64) T peaks[kLanes], high[kLanes], low[kLanes];
    alignas(64) double sums[2 * kLanes];
    const Panel e = {scratch, kLanes};
    Panel panel;
    for_each_chunk(tile, [&](int64_t first, int64_t steps) {
      T before[kLanes];
      if (first > 0) std::copy_n(peaks, kLanes, before);
      panel = Part<T>{x, tile, first, steps}.read(padding, scratch, spare);
      blocks.peaks(panel, steps, tile.in_use(), first == 0, peaks);
      for (int64_t i = 0; first > 0 && i < kLanes; ++i) {
        if (peaks[i] == before[i]) continue;
        double factor = std::exp(static_cast<double>(before[i]) - static_cast<double>(peaks[i]));
        sums[i] = blocks.log ? (sums[i] + sums[kLanes + i]) * factor : sums[i] * factor;
        sums[kLanes + i] = 0;
      }
      blocks.exponentials(panel, steps, peaks, e, first == 0, sums);
    });
    blocks.finish(sums, peaks, tile.in_use(), high, low);
    for_each_chunk(tile, [&](int64_t first, int64_t steps) {
      if (tile.steps > kChunk) {
        panel = Part<T>{x, tile, first, steps}.read(padding, scratch, spare);
        if (!blocks.log) blocks.exponentials(panel, steps, peaks, e, true, sums);
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
void run_softmax_backward(int which, Around shape, const Strided& grad, const Strided& y, const Strided& grad_input) {
  const SoftmaxBlocks& blocks = instruction_set().softmax[which][sizeof(T) == 8];
  if (are_consecutive(shape, {grad, grad_input})) {
    const bool widened = is_16_bit(grad_input.type);
    return for_each_rows<T>(shape, widened, [&](int64_t offset, int64_t rows, T* scratch, T* other, T* third) {
      const int64_t n = rows * shape.row;
      Wide<T> from(grad, offset, n, scratch), output(y, offset, n, other), to(grad_input, offset, n, third);
      blocks.rows_backward(from.read(), output.read(), rows, shape.row, to.target());
      to.write();
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
    blocks.finish_terms(sums, tile.in_use(), rounded);
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
