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

  // Returns how many elements are flat, and sets the flag of each unit of which any is not.
  int64_t count(bool* awake) const {
    const int64_t slices = std::min(summary_slices(numel_), rows_), units = units_ ? units_->count : 0;
    std::vector<int64_t> flat(slices);
    std::vector<char> flags(slices * units);
    parallel(slices, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        with_compute_type(memory_.type, [&](auto zero) {
          flat[i] = slice<decltype(zero)>(rows_ * i / slices, rows_ * (i + 1) / slices, flags.data() + i * units);
        });
    });
    for (int64_t slice = 0; slice < slices; ++slice)
      for (int64_t unit = 0; unit < units; ++unit) awake[unit] |= flags[slice * units + unit] != 0;
    return std::accumulate(flat.begin(), flat.end(), int64_t{0});
  }

 private:
  template <class T>
  int64_t slice(int64_t begin, int64_t end, char* awake) const {
    using Flag = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
    std::vector<Flag> flags(flag_each_ ? length_ : 0);
    int64_t total = 0;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row * length_, n = std::min(length_, numel_ - first);
      const int64_t flat = count_row<T>(first, n, flag_each_ ? flags.data() : nullptr);
      if (units_ && !flag_each_ && flat < n) awake[row % units_->count] = 1;
      total += flat;
    }
    if (!flag_each_) return total;
    const int64_t units = units_->count, inner = units_->inner;
    for (int64_t begin = 0; begin < std::min(length_, numel_); begin += units * inner)
      for (int64_t unit = 0; unit < units; ++unit) {
        Flag any = 0;
        for (int64_t i = 0; i < inner; ++i) any |= flags[begin + unit * inner + i];
        awake[unit] |= any != 0;
      }
    return total;
  }

  template <class T, class Flag>
  int64_t count_row(int64_t first, int64_t n, Flag* flags) const {
    const auto count_flat = instruction_set().count_flat[sizeof(T) == 8];
    alignas(64) T buffer[kBlock];
    int64_t total = 0;
    for (int64_t i = 0; i < n; i += kBlock) {
      const int64_t some = std::min(kBlock, n - i);
      total += count_flat(load_promoted(memory_, first + i, some, buffer), some, bounds_, intervals_,
                          flags ? flags + i : nullptr);
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
