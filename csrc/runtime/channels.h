// Channelwise operands: weights spread over the elements, and sums over each channel.
#pragma once

#include <algorithm>
#include <vector>

#include "runtime/layout.h"

namespace fastact {

// How a per-channel parameter repeats over the elements: `inner` consecutive elements share one.
struct Channels {
  int64_t count, inner;
};

// Calls body(channel, offset, length) for the runs of elements within the n from `first` on whose channel is the same
// (inner > 1) or goes up by one with each element (inner == 1: the channels lie innermost).
template <class Body>
void for_each_channel(Channels channels, int64_t first, int64_t n, const Body& body) {
  int64_t run = channels.inner == 1 ? channels.count : channels.inner;
  int64_t channel = channels.inner == 1 ? first % channels.count : first / channels.inner % channels.count;
  int64_t left = run - first % run;
  for (int64_t offset = 0; offset < n; offset += left, left = run) {
    left = std::min(left, n - offset);
    body(channel, offset, left);
    channel = channels.inner == 1 || channel + 1 == channels.count ? 0 : channel + 1;
  }
}

// One number per channel, spread over the elements.
template <class T>
void spread(const T* values, Channels channels, int64_t first, int64_t n, T* each) {
  for_each_channel(channels, first, n, [&](int64_t channel, int64_t offset, int64_t length) {
    if (channels.inner == 1) {
      std::copy_n(values + channel, length, each + offset);
    } else {
      std::fill_n(each + offset, length, values[channel]);
    }
  });
  std::fill(each + n, each + round_up(n), T(1));
}

// Sixteen partial sums, so that the additions do not wait for one another.
template <class T>
double sum(const T* terms, int64_t n) {
  double lanes[16] = {};
  int64_t whole = n / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16)
    for (int64_t lane = 0; lane < 16; ++lane) lanes[lane] += terms[i + lane];
  for (int64_t i = whole; i < n; ++i) lanes[i - whole] += terms[i];
  double total = 0;
  for (double lane : lanes) total += lane;
  return total;
}

// A channelwise operand: its weights in compute type, and how they repeat.
template <class T>
struct Weights {
  std::vector<T> values;
  Channels channels;

  // `walked` is a dense tensor in the order in which elements are walked.
  Weights(const Tensor& tensor, const Tensor& walked, const char* op) {
    int64_t count = tensor.numel();
    auto type = tensor.scalar_type(), walked_type = walked.scalar_type();
    bool readable = type == walked_type || (is_16_bit(walked_type) && type == ScalarType::Float);
    STD_TORCH_CHECK(readable && tensor.dim() <= 1 && tensor.is_contiguous() &&
                        (count == 1 || (walked.dim() >= 2 && walked.size(1) == count)),
                    "fastact::", op,
                    ": expected a channelwise tensor to hold one number or one per channel, in the input's dtype or, "
                    "beside one of 16 bits, float32");
    // The stride of dimension 1 is the number of neighbours that share a channel.
    channels = {count, count == 1 ? std::max<int64_t>(2, walked.numel()) : walked.stride(1)};
    values.resize(round_up(count));
    Strided strided{static_cast<char*>(tensor.data_ptr()), count, type};
    for (int64_t i = 0; i < count; i += kBlock) {
      int64_t n = std::min(kBlock, count - i);
      const void* source = load_wide(strided, i, n, values.data() + i);
      if (source != values.data() + i) std::memcpy(values.data() + i, source, n * sizeof(T));
    }
  }
};

// Sums of terms over each channel, in double, in slices that are added at the end.
class ChannelSums {
 public:
  ChannelSums(Channels channels, int64_t slices)
      : channels_(channels), slices_(slices), sums_(slices * channels.count) {}

  template <class T>
  void add(int64_t slice, const T* terms, int64_t first, int64_t n) {
    double* sums = sums_.data() + slice * channels_.count;
    for_each_channel(channels_, first, n, [&](int64_t channel, int64_t offset, int64_t length) {
      if (channels_.inner == 1) {
        for (int64_t i = 0; i < length; ++i) sums[channel + i] += terms[offset + i];
      } else {
        sums[channel] += sum(terms + offset, length);
      }
    });
  }

  // The sums as a tensor like the operand's.
  template <class T>
  Tensor write(const Tensor& operand) const {
    FlushToZero flush;
    Tensor result = new_dense(operand);
    std::vector<T> rounded(round_up(channels_.count));
    for (int64_t channel = 0; channel < channels_.count; ++channel) {
      double total = sums_[channel];
      for (int64_t slice = 1; slice < slices_; ++slice) total += sums_[slice * channels_.count + channel];
      rounded[channel] = static_cast<T>(total);
    }
    Strided strided{static_cast<char*>(result.data_ptr()), channels_.count, result.scalar_type()};
    store_narrow(strided, 0, channels_.count, rounded.data());
    return result;
  }

 private:
  Channels channels_;
  int64_t slices_;
  std::vector<double> sums_;
};

}  // namespace fastact
