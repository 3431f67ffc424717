// What a monitor asks of a tensor, in one pass over its memory.
#pragma once

#include <cmath>
#include <optional>

#include "runtime/channels.h"
#include "runtime/parallel.h"

namespace fastact {

// The least number above `low`, as open intervals begin there. In arithmetic that flushes to zero, the least above zero
// is a normal one.
template <class T>
double next_above(double low) {
  const T rounded = static_cast<T>(low);
  if (std::isinf(rounded)) return rounded;
  return rounded == 0 ? std::numeric_limits<T>::min() : std::nextafter(rounded, std::numeric_limits<T>::infinity());
}

// A dense tensor's memory as rows of one length, but for the last, and what is noted of each.
class SummaryRows {
 public:
  SummaryRows(const Tensor& input, const double* bounds, int64_t intervals, std::optional<Channels> units)
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

  // Writes the summary and, where there are units, whether any element of each is not flat.
  void run(Summary& summary, bool* awake) const {
    const int64_t slices = std::max<int64_t>(1, std::min({numel_ / kGrain, rows_, kMostSlices}));
    const int64_t units = units_ ? units_->count : 0;
    std::vector<Summary> parts(slices);
    std::vector<char> flags(slices * units);
    parallel(slices, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        with_compute_type(memory_.type, [&](auto zero) {
          slice<decltype(zero)>(rows_ * i / slices, rows_ * (i + 1) / slices, parts[i], flags.data() + i * units);
        });
    });
    for (const Summary& part : parts) merge(summary, part);
    std::fill_n(awake, units, false);
    for (int64_t slice = 0; slice < slices; ++slice)
      for (int64_t unit = 0; unit < units; ++unit) awake[unit] |= flags[slice * units + unit] != 0;
  }

 private:
  static constexpr int64_t kMostSlices = 64;

  template <class T>
  void slice(int64_t begin, int64_t end, Summary& summary, char* awake) const {
    using Flag = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
    std::vector<Flag> flags(flag_each_ ? length_ + kRowLanes : 0);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row * length_, n = std::min(length_, numel_ - first);
      const double flat = summary.flat;
      add<T>(first, n, flag_each_ ? flags.data() : nullptr, summary);
      if (units_ && !flag_each_ && summary.flat - flat < static_cast<double>(n)) awake[row % units_->count] = 1;
    }
    if (!flag_each_) return;
    const int64_t used = std::min(length_, numel_);
    for (int64_t i = 0, unit = 0; i < used; ++unit) {  // without a division for each
      if (unit == units_->count) unit = 0;
      for (const int64_t end_of_unit = i + units_->inner; i < end_of_unit; ++i)
        if (flags[i]) awake[unit] = 1;
    }
  }

  template <class T, class Flag>
  void add(int64_t first, int64_t n, Flag* flags, Summary& summary) const {
    const auto summarize = instruction_set().summarize[sizeof(T) == 8];
    if (!is_16_bit(memory_.type)) {
      summarize(memory_.at(0, first), n, bounds_, intervals_, flags, summary);
      return;
    }
    alignas(64) float buffer[kBlock];
    for (int64_t i = 0; i < n; i += kBlock) {
      const int64_t some = std::min(kBlock, n - i);
      summarize(load_promoted(memory_, first + i, some, buffer), some, bounds_, intervals_, flags ? flags + i : nullptr,
                summary);
    }
  }

  Strided memory_;
  int64_t numel_, intervals_, length_, rows_;
  std::optional<Channels> units_;
  bool flag_each_ = false;
  double bounds_[2 * kMostIntervals];
};

}  // namespace fastact
