// Means and variances of channels.
#pragma once

#include <cmath>
#include <vector>

#include "runtime/dispatch.h"
#include "runtime/memory.h"
#include "runtime/parallel.h"

namespace fastact {

// The mean of each channel, dimension 1 of a contiguous tensor of float32 or float64, and then each one's mean square
// deviation. One pass: in double, less the channel's first number, the sum of squares loses nothing that a second pass
// would keep.
inline void run_moments(const Tensor& input, double* means, double* variances) {
  const auto sizes = input.sizes();
  const int64_t outer = sizes[0], channels = sizes[1], each = input.numel() / (outer * channels);
  const auto type = input.scalar_type();
  const auto add = instruction_set().add_moments[type_index(type)];
  const auto* data = static_cast<const char*>(input.data_ptr());
  const int64_t bytes = each * input.element_size();
  struct Moments {
    double shift, sums[2];
  };
  parallel(channels, std::max<int64_t>(1, kGrain / (outer * each)), [&](int64_t begin, int64_t end) {
    std::vector<Moments> moments;
    for (int64_t channel = begin; channel < end; ++channel) {
      const char* const first = data + channel * bytes;
      const double number =
          type == ScalarType::Double ? *reinterpret_cast<const double*>(first) : *reinterpret_cast<const float*>(first);
      moments.push_back({std::isfinite(number) ? number : 0, {0, 0}});
    }
    for (int64_t i = 0; i < outer; ++i)  // in the order of the memory
      for (int64_t channel = begin; channel < end; ++channel) {
        Moments& of = moments[channel - begin];
        add(data + (i * channels + channel) * bytes, each, of.shift, of.sums);
      }
    for (int64_t channel = begin; channel < end; ++channel) {
      const auto& [shift, sums] = moments[channel - begin];
      const double mean = sums[0] / static_cast<double>(outer * each);
      means[channel] = shift + mean;
      variances[channel] = std::max(sums[1] / static_cast<double>(outer * each) - mean * mean, 0.0);
    }
  });
}

}  // namespace fastact
