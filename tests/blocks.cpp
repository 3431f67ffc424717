// Writes what the block functions give for many inputs, with one NaN for all: for comparing processors without torch.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/block.h"

namespace fastact {
namespace {

constexpr int64_t kCount = kBlock;

// Of all magnitudes, most of them where curves bend, and special values.
template <class T>
std::vector<T> inputs() {
  using Limits = std::numeric_limits<T>;
  std::vector<T> x = {T(0),          -T(0),  Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN(),
                      Limits::max(), T(0.5), -Limits::max(),     Limits::min(),       Limits::denorm_min()};
  uint64_t state = 1;
  while (x.size() < kCount) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    auto mantissa = static_cast<double>(state >> 40) / (1 << 24);
    int exponent = static_cast<int>(state >> 20 & 63) - 48;
    x.push_back(
        static_cast<T>(std::ldexp(state & 1 ? 1 + mantissa : -1 - mantissa, x.size() % 3 ? exponent / 8 : exponent)));
  }
  return x;
}

template <class T>
void write(const char* name, std::vector<T> y) {
  for (T& each : y)
    if (std::isnan(each)) each = std::fabs(std::numeric_limits<T>::quiet_NaN());
  std::printf("%s %d\n", name, static_cast<int>(sizeof(T)));
  std::fwrite(y.data(), sizeof(T), y.size(), stdout);
}

// Numbers of 16 bits are uint16_t here, and written as what they stand for.
template <class T>
void run(const InstructionSet& set, int type, const std::vector<T>& x) {
  using Compute = std::conditional_t<sizeof(T) == 2, float, T>;
  const double scalars[] = {0.5, 1.5, 0.75, 1.25};
  const Call call = {scalars, 12345};
  const std::vector<T> grad(x.rbegin(), x.rend());
  std::vector<T> y(kCount), other(kCount), third(kCount);
  std::vector<Compute> terms[most(Kind::kChannel)];
  std::vector<uint8_t> mask(kCount);
  auto show = [&](const std::string& name, const std::vector<T>& numbers) {
    if constexpr (sizeof(T) == 2) {
      std::vector<Compute> promoted(kCount);
      set.promote[type - 2](numbers.data(), promoted.data(), kCount);
      write(name.c_str(), promoted);
    } else {
      write(name.c_str(), numbers);
    }
  };
  const Compute weights[] = {Compute(1.25), Compute(0.75)};
  for (int which = 0; which < kElementwiseCount; ++which) {
    const Op& op = kOps[which];
    const std::string name = op.name;
    const bool is_gated = op.count(Kind::kTile) == 2;
    std::vector<const void*> tiles = {x.data()}, of_channels;
    if (is_gated) tiles.insert(tiles.begin(), grad.data());
    std::vector<void*> sums;
    for (int k = 0; k < op.count(Kind::kChannel); ++k) {
      of_channels.push_back(&weights[k]);
      terms[k].resize(kCount);
      sums.push_back(terms[k].data());
    }
    std::vector<const void*> inputs = tiles;
    inputs.insert(inputs.end(), of_channels.begin(), of_channels.end());
    void* outputs[] = {y.data(), op.saved == Saved::kMask ? mask.data() : nullptr};
    set.forward[which][type](inputs.data(), outputs, kCount, 0, call);
    show(name, y);
    inputs = {is_gated ? y.data() : grad.data()};
    if (op.saved == Saved::kMask) inputs.push_back(mask.data());
    if (op.saved == Saved::kOutput) inputs.push_back(y.data());
    if (op.saved == Saved::kInputs) inputs.insert(inputs.end(), tiles.begin(), tiles.end());
    inputs.insert(inputs.end(), of_channels.begin(), of_channels.end());
    std::vector<void*> gradients = {other.data()};
    if (is_gated) gradients.push_back(third.data());
    gradients.insert(gradients.end(), sums.begin(), sums.end());
    set.backward[which][type](inputs.data(), gradients.data(), kCount, 0, call);
    show(name + " backward", other);
    if (is_gated) show(name + " gate", third);
    for (size_t k = 0; k < sums.size(); ++k) write((name + " terms").c_str(), terms[k]);
  }
}

template <class T>
void run_softmax(const InstructionSet& set) {
  constexpr int64_t steps = kCount / kLanes;
  for (int which = 0; which < kSoftmaxCount; ++which) {
    const SoftmaxBlocks& blocks = set.softmax[which][sizeof(T) == 8];
    std::vector<T> x = inputs<T>(), y(kCount), e(kCount), peaks(kLanes), high(kLanes), low(kLanes);
    std::vector<double> sums(2 * kLanes);
    for (T& each : x)
      if (!std::isfinite(each)) each = 0;
    const Panel from = {x.data(), kLanes}, raised = {e.data(), kLanes}, to = {y.data(), kLanes};
    const Lanes lanes = {kLanes, kLanes};
    blocks.row_max(from, steps, lanes, true, peaks.data());
    blocks.exponentials(from, steps, peaks.data(), raised, true, sums.data());
    blocks.finalize(sums.data(), peaks.data(), lanes, high.data(), low.data());
    blocks.write(blocks.log ? from : raised, steps, high.data(), low.data(), to);
    write("softmax", y);
    blocks.terms(from, to, steps, true, sums.data());
    blocks.finalize_terms(sums.data(), lanes, low.data());
    blocks.gradient(from, to, steps, low.data(), raised);
    write("softmax backward", e);
    const int64_t columns = 100;  // no multiple of a vector's elements
    blocks.rows(x.data(), kCount / columns, columns, y.data());
    write("softmax of rows", y);
    blocks.rows_backward(x.data(), y.data(), kCount / columns, columns, e.data());
    write("softmax of rows backward", e);
  }
}

// What differs for tensors of 16 bits.
void run_softmax_of_16_bits(const InstructionSet& set) {
  for (int which = 0; which < kSoftmaxCount; ++which) {
    for (int type = 2; type < 4; ++type) {
      const SoftmaxBlocks& blocks = set.softmax[which][type];
      const int64_t columns = 100;
      std::vector<float> x = inputs<float>(), y(kCount);
      for (float& each : x)
        if (!std::isfinite(each)) each = 0;
      blocks.rows(x.data(), kCount / columns, columns, y.data());
      write("softmax of rows", y);
      std::vector<uint16_t> grad(kCount), output(kCount), grad_input(kCount);
      set.demote[type - 2](x.data(), grad.data(), kCount);
      set.demote[type - 2](y.data(), output.data(), kCount);
      blocks.rows_backward(grad.data(), output.data(), kCount / columns, columns, grad_input.data());
      set.promote[type - 2](grad_input.data(), y.data(), kCount);
      write("softmax of rows backward", y);
    }
  }
}

void convert(const InstructionSet& set) {
  std::vector<uint16_t> halves(1 << 16);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  for (int type = 0; type < 2; ++type) {
    std::vector<float> wide(halves.size()), again(halves.size());
    std::vector<uint16_t> narrow(halves.size());
    set.promote[type](halves.data(), wide.data(), halves.size());
    write("widened", wide);
    // Between two neighbours, exactly half way, and on either side of that.
    for (uint32_t part : {0x1000u, 0xfffu, 0x1001u, 0x8000u, 0x7fffu, 0x8001u}) {
      for (size_t i = 0; i < wide.size(); ++i) {
        uint32_t bits;
        std::memcpy(&bits, &wide[i], 4);
        bits = std::isfinite(wide[i]) ? bits | part : bits;
        std::memcpy(&again[i], &bits, 4);
      }
      set.demote[type](again.data(), narrow.data(), again.size());
      set.promote[type](narrow.data(), again.data(), again.size());
      write("narrowed", again);
    }
  }
}

}  // namespace
}  // namespace fastact

int main() {
  fastact::convert(fastact::kBaseline);
  fastact::run_softmax<float>(fastact::kBaseline);
  fastact::run_softmax<double>(fastact::kBaseline);
  fastact::run_softmax_of_16_bits(fastact::kBaseline);
  fastact::run(fastact::kBaseline, 0, fastact::inputs<float>());
  fastact::run(fastact::kBaseline, 1, fastact::inputs<double>());
  std::vector<uint16_t> halves(fastact::kCount);
  for (int type = 0; type < 2; ++type) {
    fastact::kBaseline.demote[type](fastact::inputs<float>().data(), halves.data(), fastact::kCount);
    fastact::run(fastact::kBaseline, 2 + type, halves);
  }
}
