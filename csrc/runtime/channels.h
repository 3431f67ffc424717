// Channelwise operands: weights are spread over the elements, gradients summed over each channel.
#pragma once

#include <algorithm>
#include <vector>

#include "runtime/layout.h"

namespace fastact {

// How channels repeat over the elements: `inner` consecutive elements share one.
struct Channels {
  int64_t count, inner;
};

// Splits n elements from number `first` on into runs, and calls body(channel, offset, length) for each. In a run all
// elements share the channel or, where the channels are innermost (inner == 1), the channel goes up by one with each
// element.
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

// Writes each element's weight, given one for each channel.
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

// `walked` is a dense tensor in the order in which elements are walked.
inline void check_channelwise(const Tensor& tensor, const Tensor& walked, const char* op) {
  const int64_t count = tensor.numel();
  const auto type = tensor.scalar_type(), walked_type = walked.scalar_type();
  const bool readable = type == walked_type || (is_16_bit(walked_type) && type == ScalarType::Float);
  STD_TORCH_CHECK(readable && tensor.dim() <= 1 && tensor.is_contiguous() && same_device(tensor, walked) &&
                      (count == 1 || (walked.dim() >= 2 && walked.size(1) == count)),
                  "fastact::", op,
                  ": expected a channelwise tensor to hold one number or one per channel, on the input's device and in "
                  "its dtype or, beside one of 16 bits, float32");
}

// The weights of a channelwise operand, in compute type.
template <class T>
struct Weights {
  std::vector<T> values;
  Channels channels;

  Weights(const Tensor& tensor, const Tensor& walked, const char* op) {
    check_channelwise(tensor, walked, op);
    const int64_t count = tensor.numel();
    // Neighbours share a channel as far as the stride of dimension 1 reaches.
    channels = {count, count == 1 ? std::max<int64_t>(2, walked.numel()) : walked.stride(1)};
    read(tensor.data_ptr(), tensor.scalar_type());
  }
  // Numbers of the tensor's dtype.
  Weights(const void* numbers, ScalarType type, Channels channels) : channels(channels) { read(numbers, type); }

 private:
  void read(const void* data, ScalarType type) {
    const int64_t count = channels.count;
    values.resize(round_up(count));
    Strided strided{static_cast<char*>(const_cast<void*>(data)), count, type};
    for (int64_t i = 0; i < count; i += kBlock) {
      int64_t n = std::min(kBlock, count - i);
      const void* source = load_promoted(strided, i, n, values.data() + i);
      if (source != values.data() + i) std::memcpy(values.data() + i, source, n * sizeof(T));
    }
  }
};

// Sums over each channel, in double, in slices that are added at the end.
class ChannelSums {
 public:
  ChannelSums(Channels channels, int64_t slices)
      : channels_(channels), slices_(slices), sums_(slices * channels.count) {}

  template <class T>
  void add(int64_t slice, const T* terms, int64_t first, int64_t n) {
    const InstructionSet& set = instruction_set();
    constexpr int compute_type = sizeof(T) == 8;
    double* sums = sums_.data() + slice * channels_.count;
    for_each_channel(channels_, first, n, [&](int64_t channel, int64_t offset, int64_t length) {
      if (channels_.inner == 1) {
        set.add_each[compute_type](terms + offset, length, sums + channel);
      } else {
        sums[channel] += set.sum[compute_type](terms + offset, length);
      }
    });
  }

  // Writes the sums into a tensor like the operand.
  template <class T>
  void write(const Tensor& result) const {
    FlushToZero flush;
    std::vector<T> rounded(round_up(channels_.count));
    for (int64_t channel = 0; channel < channels_.count; ++channel) {
      double total = sums_[channel];
      for (int64_t slice = 1; slice < slices_; ++slice) total += sums_[slice * channels_.count + channel];
      rounded[channel] = static_cast<T>(total);
    }
    Strided strided{static_cast<char*>(result.data_ptr()), channels_.count, result.scalar_type()};
    store_demoted(strided, 0, channels_.count, rounded.data());
  }

 private:
  Channels channels_;
  int64_t slices_;
  std::vector<double> sums_;
};

}  // namespace fastact
