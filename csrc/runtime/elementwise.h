// From tensors to blocks, for all elementwise ops.
#pragma once

#include "runtime/channels.h"

namespace fastact {

// One call of an elementwise op. The plan says where the tiles are. Masks are in the order in which the plan walks the
// elements.
template <class T, class Function = Block>
struct ElementwiseRun {
  Function block;
  Call call;
  const Plan& plan;
  const uint8_t* mask_read = nullptr;
  uint8_t* mask_written = nullptr;
  std::vector<Weights<T>> weights{};
  bool reads_weights = true;
  std::vector<ChannelSums> sums{};

  void run() {
    if (plan.shape.rows == 0) return;
    const Strided &first = plan.input(0), &written = plan.output(0);
    // Prefetching 2 KiB ahead gains on Intel's CPUs; AMD's Zen 5 loses 5 to 15%. It is on only where the lines ahead
    // belong to the output alone: behind a row of a larger tensor is other memory, and in place the lines are being
    // read anyway.
    static const int64_t distance = std::string_view(cpu_vendor()) == "intel" ? 2048 : 0;
    call.prefetch = first.data != written.data && written.row_stride == plan.shape.columns ? distance : 0;
    call.per_element = reads_weights &&
                       std::any_of(weights.begin(), weights.end(), [](auto& each) { return each.channels.count > 1; });
    if (sums.empty()) {
      for_each_block(plan.shape, call.per_element || !std::is_same_v<Function, Block> ? 1 : kAll,
                     [this](int64_t row, int64_t column, int64_t n, int64_t at) { run_block(row, column, n, at, 0); });
    } else {
      // The slices depend on the tensor alone, so the sums do not depend on the number of threads.
      Blocks blocks(plan.shape);
      const int64_t count = slices(plan);
      parallel(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t slice = begin; slice < end; ++slice) {
          blocks.visit(
              blocks.count * slice / count, blocks.count * (slice + 1) / count, 1,
              [&](int64_t row, int64_t column, int64_t n, int64_t at) { run_block(row, column, n, at, slice); });
        }
      });
    }
  }
  static int64_t slices(const Plan& plan) {
    return std::clamp<int64_t>(plan.shape.rows * plan.shape.columns / kGrain, 1, 64);
  }

 private:
  static constexpr int kTiles = 1 + most(Kind::kTile), kChannels = most(Kind::kChannel);

  // Runs n elements from (row, column) on, the first of which is number `at`.
  void run_block(int64_t row, int64_t column, int64_t n, int64_t at, int64_t slice) {
    Buffer read[kTiles], written[kTiles];
    uint8_t tail_mask[kStep / 8] = {};
    alignas(64) T spread_weights[kChannels][kBlock], terms[kChannels][kBlock];
    const void* inputs[kTiles + 1 + kChannels];
    void* outputs[kTiles + 1 + kChannels] = {};
    const int64_t padded = round_up(n), mask_bytes = (n + 7) / 8;
    int in = 0, out = 0;
    for (size_t i = 0; i < plan.input_count; ++i) inputs[in++] = load(plan.input(i), row, column, n, read[i].bytes);
    if (mask_read && n != padded) std::memcpy(tail_mask, mask_read + at / 8, mask_bytes);
    if (mask_read) inputs[in++] = n == padded ? mask_read + at / 8 : tail_mask;
    for (size_t k = 0; k < weights.size(); ++k) {
      inputs[in++] = call.per_element ? spread_weights[k] : weights[k].values.data();
      if (call.per_element) spread(weights[k].values.data(), weights[k].channels, at, n, spread_weights[k]);
    }
    for (size_t i = 0; i < plan.output_count; ++i)
      outputs[out++] = destination(plan.output(i), row, column, n, written[i].bytes);
    if (mask_written) outputs[out++] = n == padded ? mask_written + at / 8 : tail_mask;
    for (size_t k = 0; k < sums.size(); ++k) outputs[out++] = terms[k];
    block(inputs, outputs, padded, at, call);
    for (size_t i = 0; i < plan.output_count; ++i) store(plan.output(i), row, column, n, outputs[i]);
    if (mask_written && n != padded) std::memcpy(mask_written + at / 8, tail_mask, mask_bytes);
    for (size_t k = 0; k < sums.size(); ++k)
      sums[k].add(slice, static_cast<const T*>(outputs[plan.output_count + k]), at, n);
  }
};

}  // namespace fastact
