// Launches of the elementwise kernels: flat walks, and backward with sums over channels. Their names and parameters
// stand in fastact/triton/sources.py.
#pragma once

#include <vector>

#include "gpu/launch.h"
#include "runtime/channels.h"

namespace fastact::gpu {

inline const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    default:
      return "bfloat16";
  }
}

enum class Family : uint64_t { kElementwise, kSums, kParts, kSoftmax, kMaxout };

// Numbers side by side in 64 bits. The family, which says what they are, is last: so no two share a key.
class Key {
 public:
  explicit Key(Family family) : family_(static_cast<uint64_t>(family)) {}

  Key& add(uint64_t number, int bits) {
    bits_ = bits_ << bits | number;
    return *this;
  }
  operator uint64_t() const { return bits_ << 3 | family_; }

 private:
  uint64_t bits_ = 0, family_;
};

// What a kernel of an op computes: the output, that and the mask, or the gradients.
enum class Part : uint64_t { kForward, kMask, kBackward };
inline const char* name_of(Part part) {
  return part == Part::kForward ? "forward" : part == Part::kMask ? "mask" : "backward";
}

// An op of the table, or its form with a bias.
struct OpPart {
  int which;
  bool biased;
  Part part;
  ScalarType type;

  const Op& op() const { return biased ? kBiasOps[which] : kOps[which]; }
  Key key(Family family) const {
    return Key(family).add(which, 7).add(biased, 1).add(static_cast<uint64_t>(part), 2).add(type_index(type), 2);
  }
  std::string name() const { return std::string(op().name) + " " + name_of(part) + " " + name_of(type); }
};

// How the weights of channels lie beside the elements: there is one number for all; all of eight neighbours share one
// (kOne), have one each, side by side (kNext), or have two at most (kTwo); or anything else.
enum class Channel : uint64_t { kNone, kNumber, kOne, kNext, kTwo, kAny };

struct ElementwiseKernel : OpPart {
  bool residual = false, unaligned = false, rows = false;
  Channel channel = Channel::kNone;
  bool float_weights = false, wide = false;

  // Whether each element's channel is found by itself.
  bool by_element() const { return channel == Channel::kTwo || channel == Channel::kAny; }
  Key key() const {
    return OpPart::key(Family::kElementwise)
        .add(residual, 1)
        .add(unaligned, 1)
        .add(rows, 1)
        .add(static_cast<uint64_t>(channel), 3)
        .add(float_weights, 1)
        .add(wide, 1);
  }
  std::string name() const {
    static constexpr const char* kChannels[] = {
        "", " channel=number", " channel=one", " channel=next", " channel=two", " channel=any"};
    return OpPart::name() + (residual ? " residual" : "") + (unaligned ? " unaligned" : "") + (rows ? " rows" : "") +
           kChannels[static_cast<int>(channel)] + (float_weights ? " weights=float32" : "") + (wide ? " wide" : "");
  }
};

// What an op takes beside tiles and scalars, as pointers.
struct Beside {
  const uint8_t* mask_read = nullptr;
  uint8_t* mask_written = nullptr;
  const void* seed = nullptr;
};

// The weights of an op, brought to one dtype and one length: one number, or one for each channel.
class Weights {
 public:
  int64_t count = 1, inner = 1;
  bool are_float = false;  // beside tiles of 16 bits

  Weights(const std::vector<Tensor>& channelwise, const Tensor& walked, const char* op) {
    for (const Tensor& tensor : channelwise) {
      check_channelwise(tensor, walked, op);
      count = tensor.numel() == 1 ? count : tensor.numel();
      are_float = are_float || tensor.scalar_type() != walked.scalar_type();
    }
    if (count > 1) inner = walked.stride(1);
    const ScalarType type = are_float ? ScalarType::Float : walked.scalar_type();
    for (const Tensor& tensor : channelwise) {
      if (is_like(tensor, type)) {
        tensors_.push_back(tensor);
      } else {
        Tensor like = new_tensor(&count, &kNextTo, 1, type, tensor);
        torch::stable::copy_(like, tensor);  // one number is for all
        tensors_.push_back(like);
      }
      numbers_[size_++] = tensors_.back().data_ptr();
    }
  }
  // Of the tiles' dtype, or none.
  Weights(const void* numbers, int64_t count, int64_t inner) : count(count), inner(inner) {
    if (numbers) numbers_[size_++] = numbers;
  }

  // Tensors for the sums that are gradients of these: those to be written, or new ones of this dtype and length.
  std::vector<Tensor> totals(const std::vector<Tensor>& written) const {
    std::vector<Tensor> found;
    for (size_t i = 0; i < written.size(); ++i)
      found.push_back(is_like(written[i], tensors_[i].scalar_type()) ? written[i] : new_dense(tensors_[i]));
    return found;
  }
  void add_to(Parameters& parameters) const {
    for (int i = 0; i < size_; ++i) parameters.add(numbers_[i]);
  }

  // How channels lie beside eight neighbours.
  Channel channel() const {
    if (size_ == 0) return Channel::kNone;
    if (count == 1) return Channel::kNumber;
    // Which are read eight at a time.
    const bool aligned = std::all_of(numbers_, numbers_ + size_,
                                     [](const void* numbers) { return is_aligned(numbers, kGpuRows.alignment); });
    if (inner == 1 && count % 8 == 0 && aligned) return Channel::kNext;
    return inner % 8 == 0 ? Channel::kOne : inner > 8 ? Channel::kTwo : Channel::kAny;
  }

 private:
  static constexpr int64_t kNextTo = 1;
  std::vector<Tensor> tensors_;
  const void* numbers_[most(Kind::kChannel)];
  int size_ = 0;

  bool is_like(const Tensor& tensor, ScalarType type) const {
    return tensor.scalar_type() == type && tensor.numel() == count;
  }
};

// Writes sums into a gradient of another dtype, or into one number that is to hold their sum.
inline void settle(const Tensor& sums, Tensor written) {
  Tensor total = sums;
  if (sums.numel() != written.numel() || sums.dim() != written.dim()) {
    std::array<StableIValue, 2> stack{from(sums), from(std::optional<ScalarType>())};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sum", "", stack.data(), TORCH_ABI_VERSION));
    total = to<Tensor>(stack[0]);
  }
  torch::stable::copy_(written, total);
}

inline bool is_unaligned(const Plan& plan) {
  bool unaligned = false;
  for (size_t i = 0; i < plan.input_count + plan.output_count; ++i)
    unaligned = unaligned || reinterpret_cast<uintptr_t>(plan.strided[i].data) % kGpuRows.alignment != 0;
  return unaligned;
}

// Says in the description of a kernel how the tensors lie.
inline void describe(ElementwiseKernel& kernel, const Plan& plan, const Weights& weights) {
  kernel.unaligned = is_unaligned(plan);
  kernel.rows = plan.shape.rows > 1;
  kernel.channel = weights.channel();
  kernel.float_weights = weights.are_float;
  const bool by_element = kernel.by_element();
  const bool divides = kernel.rows || by_element || kernel.channel == Channel::kOne || kernel.channel == Channel::kNext;
  const int64_t n = plan.shape.rows * plan.shape.columns;
  // A place in a row is in elements.
  kernel.wide = divides && needs_wide(std::max(by_element ? n : n / 8, kernel.rows ? plan.shape.columns : 0));
}

inline void start(const Launcher& launcher, const ElementwiseKernel& kernel, const Kernel& found, const Plan& plan,
                  const Beside& beside, const Weights& weights, const double* scalars) {
  const size_t tiles = plan.input_count + plan.output_count;
  const int64_t n = plan.shape.rows * plan.shape.columns;
  Parameters parameters;
  for (size_t i = 0; i < plan.input_count; ++i) parameters.add(plan.strided[i].data);
  if (beside.mask_read) parameters.add(beside.mask_read);
  if (beside.seed) parameters.add(beside.seed);
  weights.add_to(parameters);
  for (size_t i = plan.input_count; i < tiles; ++i) parameters.add(plan.strided[i].data);
  if (beside.mask_written) parameters.add(beside.mask_written);
  if (kernel.rows) {
    parameters.add(Divider(plan.shape.columns / 8, kernel.wide));
    for (size_t i = 0; i < tiles; ++i) parameters.add(plan.strided[i].row_stride);
  }
  if (kernel.channel == Channel::kOne) parameters.add(Divider(weights.inner / 8, kernel.wide));
  if (kernel.by_element()) parameters.add(Divider(weights.inner, kernel.wide));
  if (kernel.channel == Channel::kNext) parameters.add(Divider(weights.count / 8, kernel.wide));
  if (kernel.by_element() || kernel.channel == Channel::kOne) parameters.add(Divider(weights.count, kernel.wide));
  for (int i = 0; i < kernel.op().count(Kind::kScalar); ++i) parameters.add(scalars[i]);
  parameters.add(n);
  launcher.start(found, divide_up(n, found.block), parameters);
}

// Computes the plan's outputs from its inputs.
inline void run(const Launcher& launcher, ElementwiseKernel kernel, const Plan& plan, const Beside& beside,
                const Weights& weights, const double* scalars) {
  if (plan.shape.rows * plan.shape.columns == 0) return;
  describe(kernel, plan, weights);
  start(launcher, kernel, launcher.find(kernel), plan, beside, weights, scalars);
}

// The same if the kernel is loaded; else returns false.
inline bool run_if_loaded(int device, ElementwiseKernel kernel, const Plan& plan, const Beside& beside,
                          const Weights& weights, const double* scalars) {
  describe(kernel, plan, weights);
  const Kernel* found = Launcher::loaded(kernel, device);
  if (found) start(Launcher(device), kernel, *found, plan, beside, weights, scalars);
  return found;
}

// Backward with sums: a dense tensor as [outer, count, inner], of which each channel is summed.
enum class Summed : uint64_t { kNumber, kInner, kOuter };

struct SumsKernel : OpPart {
  bool unaligned = false;
  Summed summed = Summed::kNumber;
  bool ragged = false, float_weights = false, wide = false;

  Key key() const {
    return OpPart::key(Family::kSums)
        .add(unaligned, 1)
        .add(static_cast<uint64_t>(summed), 2)
        .add(ragged, 1)
        .add(float_weights, 1)
        .add(wide, 1);
  }
  std::string name() const {
    static constexpr const char* kSummed[] = {"number", "inner", "outer"};
    return OpPart::name() + (unaligned ? " unaligned" : "") + " channel=" + kSummed[static_cast<int>(summed)] +
           (ragged ? " ragged" : "") + (float_weights ? " weights=float32" : "") + (wide ? " wide" : "");
  }
};

// The second stage, which adds the parts of sums.
struct PartsKernel {
  ScalarType parts, weights;
  int sums;

  Key key() const { return Key(Family::kParts).add(type_index(parts), 2).add(type_index(weights), 2).add(sums, 4); }
  std::string name() const {
    return std::string("parts ") + name_of(parts) + " " + name_of(weights) + " " + std::to_string(sums);
  }
};

// Computes the plan's outputs, and a tensor of sums for each of the op's weights. (A bias beside a mask is summed but
// not read.)
inline void run_with_sums(const Launcher& launcher, SumsKernel kernel, const Plan& plan, const Beside& beside,
                          const Weights& weights, bool reads_weights, const double* scalars,
                          const std::vector<Tensor>& written) {
  const int64_t n = plan.shape.rows * plan.shape.columns, count = weights.count;
  const int sums = static_cast<int>(written.size());
  if (n == 0) {
    for (Tensor total : written) torch::stable::zero_(total);
    return;
  }
  const std::vector<Tensor> totals = weights.totals(written);
  const int64_t inner = count == 1 ? n : weights.inner, outer = n / (count * inner);
  kernel.unaligned = is_unaligned(plan);
  kernel.summed = count == 1 ? Summed::kNumber : inner == 1 ? Summed::kOuter : Summed::kInner;
  kernel.ragged = count > 1 && (inner == 1 ? count : inner) % 8 != 0;
  kernel.float_weights = reads_weights && weights.are_float;
  const int64_t unit = kernel.ragged ? 1 : 8;  // elements that the dividend counts
  kernel.wide = kernel.summed == Summed::kInner && needs_wide(std::max(outer * inner / unit, inner));
  const Kernel& found = launcher.find(kernel);
  const int64_t groups = kernel.summed == Summed::kOuter ? divide_up(count, found.block) : count;
  const int64_t tiles =
      kernel.summed == Summed::kOuter ? divide_up(outer, found.tile_rows) : divide_up(outer * inner, found.block);
  const int64_t wanted = divide_up(kProgramsPerMultiprocessor * launcher.multiprocessors(), groups);
  const int64_t splits = std::min(wanted, tiles);
  const ScalarType type = plan.type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const int64_t length = sums * splits * count, stride = 1;
  const Tensor parts = new_tensor(&length, &stride, 1, type, totals[0]);
  Parameters parameters;
  for (size_t i = 0; i < plan.input_count; ++i) parameters.add(plan.strided[i].data);
  if (beside.mask_read) parameters.add(beside.mask_read);
  if (reads_weights) weights.add_to(parameters);
  for (size_t i = 0; i < plan.output_count; ++i) parameters.add(plan.output(i).data);
  parameters.add(parts.data_ptr());
  for (int i = 0; i < kernel.op().count(Kind::kScalar); ++i) parameters.add(scalars[i]);
  for (int64_t number : {outer, count, inner, splits}) parameters.add(number);
  if (kernel.summed == Summed::kInner) parameters.add(Divider(inner / unit, kernel.wide));
  launcher.start(found, groups * splits, parameters);

  const Kernel& adding = launcher.find(PartsKernel{type, totals[0].scalar_type(), sums});
  Parameters of_parts;
  of_parts.add(parts.data_ptr());
  for (const Tensor& total : totals) of_parts.add(total.data_ptr());
  for (int64_t number : {splits, count}) of_parts.add(number);
  launcher.start(adding, divide_up(count, adding.block), of_parts);
  for (int i = 0; i < sums; ++i)
    if (totals[i].get() != written[i].get()) settle(totals[i], written[i]);
}

}  // namespace fastact::gpu
