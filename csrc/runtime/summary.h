// What a monitor asks of tensors, each in one pass over the memory.
#pragma once

#include <cmath>
#include <numeric>
#include <optional>

#include "runtime/channels.h"
#include "runtime/parallel.h"

namespace fastact {

// Slices of the work, each with a result of its own: as many whatever the number of threads, so that sums do not
// depend on it.
inline int64_t summary_slices(int64_t numel) { return std::max<int64_t>(1, std::min<int64_t>(numel / kGrain, 64)); }

// The summary of a dense tensor.
inline Summary summary_of(const Tensor& input) {
  const Strided memory{static_cast<char*>(input.data_ptr()), 0, input.scalar_type()};
  const int64_t numel = input.numel(), slices = summary_slices(numel);
  const auto summarize = instruction_set().summarize[memory.type == ScalarType::Double];
  std::vector<Summary> parts(slices);
  parallel(slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = numel * i / slices, last = numel * (i + 1) / slices;
      if (!is_16_bit(memory.type)) {
        summarize(memory.at(0, first), last - first, parts[i]);
        continue;
      }
      alignas(64) float buffer[kBlock];
      for (int64_t at = first; at < last; at += kBlock) {
        const int64_t some = std::min(kBlock, last - at);
        summarize(load_promoted(memory, at, some, buffer), some, parts[i]);
      }
    }
  });
  Summary found;
  for (const Summary& part : parts) merge(found, part);
  return found;
}

// What a monitor keeps of many tensors. Its op has it as a tensor of float64.
struct State {
  Summary summary;
  double tensors = 0, first_bad = __builtin_inf();  // how many; the number of the first with NaN or infinity

  void add(const Summary& found) {
    merge(summary, found);
    if (found.nan + found.infinite > 0 && tensors < first_bad) first_bad = tensors;
    tensors += 1;
  }
};

// The least number above `low`, as open intervals begin there. In arithmetic that flushes to zero, the least above zero
// is a normal one.
template <class T>
double next_above(double low) {
  const T rounded = static_cast<T>(low);
  if (std::isinf(rounded)) return rounded;
  return rounded == 0 ? std::numeric_limits<T>::min() : std::nextafter(rounded, std::numeric_limits<T>::infinity());
}

// A dense tensor's memory as rows of one length, but for the last: each a unit's or, where units have few neighbouring
// numbers, some periods of all units.
class FlatRows {
 public:
  // `bounds` has the ends of intervals that are open below.
  FlatRows(const Tensor& input, const double* bounds, int64_t intervals, std::optional<Channels> units)
      : memory_{static_cast<char*>(input.data_ptr()), 0, input.scalar_type()},
        numel_(input.numel()),
        intervals_(intervals),
        units_(units) {
    with_compute_type(memory_.type, [&](auto zero) {
      using T = decltype(zero);
      for (int64_t i = 0; i < intervals; ++i) {
        bounds_[2 * i] = next_above<T>(bounds[2 * i]);
        bounds_[2 * i + 1] = static_cast<T>(bounds[2 * i + 1]);
      }
    });
    if (!units) {
      length_ = 16 * kBlock;
    } else if (units->inner >= kStep) {
      length_ = units->inner;
    } else {
      flag_each_ = true;
      const int64_t period = units->count * units->inner;
      length_ = period * std::max<int64_t>(1, kBlock / period);
    }
    rows_ = (numel_ + length_ - 1) / length_;
  }

  struct Found {
    int64_t flat = 0;
    std::vector<char> awake;  // the units of which any element is not flat
    Summary summary;
  };
  // Counts and, if asked to, summarizes all elements while a block of them is in the cache.
  Found count(bool with_summary) const {
    const int64_t slices = std::min(summary_slices(numel_), rows_), units = units_ ? units_->count : 0;
    std::vector<int64_t> flat(slices);
    std::vector<char> flags(slices * units);
    std::vector<Summary> parts(slices);
    parallel(slices, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        with_compute_type(memory_.type, [&](auto zero) {
          flat[i] = slice<decltype(zero)>(rows_ * i / slices, rows_ * (i + 1) / slices, flags.data() + i * units,
                                          with_summary ? &parts[i] : nullptr);
        });
    });
    Found found{std::accumulate(flat.begin(), flat.end(), int64_t{0}), std::vector<char>(units), {}};
    for (int64_t slice = 0; slice < slices; ++slice) {
      for (int64_t unit = 0; unit < units; ++unit) found.awake[unit] |= flags[slice * units + unit];
      merge(found.summary, parts[slice]);
    }
    return found;
  }

 private:
  // Rows number begin to end, by blocks of whole rows or, of longer ones, of parts.
  template <class T>
  int64_t slice(int64_t begin, int64_t end, char* awake, Summary* summary) const {
    using Flag = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
    const auto count_flat = instruction_set().count_flat[sizeof(T) == 8];
    const auto summarize = instruction_set().summarize[sizeof(T) == 8];
    const int64_t together = std::max<int64_t>(1, kBlock / length_), stop = std::min(end * length_, numel_);
    std::vector<Flag> flags(flag_each_ ? length_ : 0);
    alignas(64) T buffer[kBlock];
    int64_t total = 0, unit = units_ ? begin % units_->count : 0;
    for (int64_t row = begin; row < end; row += together) {
      const int64_t first = row * length_, n = std::min(together * length_, stop - first);
      for (int64_t at = 0; at < n; at += kBlock) {
        const int64_t some = std::min(kBlock, n - at);
        auto* block = static_cast<const T*>(load_promoted(memory_, first + at, some, buffer));
        if (summary) summarize(block, some, *summary);
        for (int64_t of_row = 0; of_row < some; of_row += length_) {
          const int64_t length = std::min(length_, some - of_row);
          const int64_t flat =
              count_flat(block + of_row, length, bounds_, intervals_, flag_each_ ? &flags[at] : nullptr);
          total += flat;
          if (flag_each_ || !units_) continue;
          if (flat < length) awake[unit] = 1;
          if (length_ <= kBlock && ++unit == units_->count) unit = 0;
        }
      }
      if (length_ > kBlock && units_ && ++unit == units_->count) unit = 0;
    }
    if (flag_each_) {
      const int64_t inner = units_->inner, period = units_->count * inner, flagged = std::min(length_, numel_);
      for (int64_t at = period; at < flagged; at += period)
        for (int64_t i = 0; i < period; ++i) flags[i] |= flags[at + i];
      for (int64_t unit = 0; unit < units_->count; ++unit)
        for (int64_t i = 0; i < inner; ++i) awake[unit] |= flags[unit * inner + i] != 0;
    }
    return total;
  }

  Strided memory_;
  int64_t numel_, intervals_, length_, rows_;
  std::optional<Channels> units_;
  bool flag_each_ = false;
  double bounds_[2 * kMostIntervals];
};

}  // namespace fastact
