// From tensors to blocks: layouts, dtypes, threads and tails, each handled here and nowhere else.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <string_view>
#include <vector>

#include "instruction_sets.h"
#include "subnormals.h"

namespace fastact {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::detail::from;
using torch::stable::detail::to;

// The widest instruction set this CPU has; FASTACT_CPU_CAPABILITY (default, avx2, avx512) can ask for a narrower one.
inline const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = []() -> const InstructionSet& {
#if defined(__x86_64__)
    const char* variable = std::getenv("FASTACT_CPU_CAPABILITY");
    std::string_view limit = variable ? variable : "avx512";
    STD_TORCH_CHECK(limit == "default" || limit == "avx2" || limit == "avx512",
                    "FASTACT_CPU_CAPABILITY must be default, avx2 or avx512, got ", limit);
    for (const InstructionSet* set : instruction_sets())
      if ((set == &kAvx512 && limit == "avx512") || (set == &kAvx2 && limit != "default")) return *set;
#endif
    return kBaseline;
  }();
  return chosen;
}

// Calls body(begin, end) for the parts of 0 to count, of `grain` or more, that threads share out. All block functions
// run in here: without subnormal results.
template <class Body>
void parallel(int64_t count, int64_t grain, const Body& body) {
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    FlushToZero flush;
    body(begin, end);
  });
}

// A thread gets at least this many elements, as in ATen: waking one up costs about what 32,768 elements of ReLU do.
constexpr int64_t kGrain = 32768;

inline bool is_16_bit(ScalarType type) { return type == ScalarType::Half || type == ScalarType::BFloat16; }
inline int half_index(ScalarType type) { return type == ScalarType::BFloat16 ? 1 : 0; }
inline int type_index(ScalarType type) {
  return is_16_bit(type) ? 2 + half_index(type) : type == ScalarType::Double ? 1 : 0;
}

inline void check_dtype(const Tensor& tensor, const char* op) {
  auto type = tensor.scalar_type();
  STD_TORCH_CHECK(is_16_bit(type) || type == ScalarType::Float || type == ScalarType::Double, "fastact::", op,
                  ": expected float16, bfloat16, float32 or float64");
}

// `rows` runs of `columns` consecutive elements: all that the loops know of a tensor's shape. A dense tensor, whatever
// the order of its dimensions, is one row; a slice of the last dimension of a dense tensor is many.
struct Shape {
  int64_t rows, columns;
};

struct Operand {
  char* data;
  int64_t row_stride;  // in elements
  ScalarType type;

  int64_t element_size() const { return is_16_bit(type) ? 2 : type == ScalarType::Double ? 8 : 4; }
  char* at(int64_t row, int64_t column) const { return data + (row * row_stride + column) * element_size(); }
};

inline bool is_dense(const Tensor& tensor) {
  if (tensor.is_contiguous()) return true;
  auto sizes = tensor.sizes(), strides = tensor.strides();
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (size_t i = 0; i < sizes.size(); ++i)
    if (sizes[i] != 1) dims.emplace_back(strides[i], sizes[i]);
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (auto [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

inline bool same_sizes(const Tensor& a, const Tensor& b) {
  auto a_sizes = a.sizes(), b_sizes = b.sizes();
  return a_sizes.size() == b_sizes.size() && std::equal(a_sizes.begin(), a_sizes.end(), b_sizes.begin());
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  auto sizes = a.sizes(), a_strides = a.strides(), b_strides = b.strides();
  for (size_t i = 0; i < sizes.size(); ++i)
    if (sizes[i] != 1 && a_strides[i] != b_strides[i]) return false;
  return true;
}

// The length of the row-major tensor's consecutive runs and the one distance between them, or nothing. With an `order`
// of the dimensions, from the outermost to the innermost: of the tensor permuted so.
struct Rows {
  int64_t columns, stride;
};
inline std::optional<Rows> row_strided(const Tensor& tensor, const int64_t* order = nullptr) {
  auto sizes = tensor.sizes(), strides = tensor.strides();
  int64_t columns = 1, rows = 1, stride = 0;
  for (int64_t place = static_cast<int64_t>(sizes.size()) - 1; place >= 0; --place) {
    int64_t i = order ? order[place] : place;
    if (sizes[i] == 1) continue;
    if (rows == 1 && strides[i] == columns) {
      columns *= sizes[i];
    } else if (rows == 1) {
      rows = sizes[i], stride = strides[i];
    } else if (strides[i] == stride * rows) {
      rows *= sizes[i];
    } else {
      return std::nullopt;
    }
  }
  // Short or ragged rows would leave the block functions little but tails, and bits that share a byte.
  if (rows > 1 && (columns < kStep || columns % 8 != 0 || stride < columns)) return std::nullopt;
  return Rows{columns, rows > 1 ? stride : columns};
}

// Asks for huge pages where a tensor to be written has memory that glibc maps anew at each allocation, as it does from
// 32 MiB on (mallopt(3), M_MMAP_THRESHOLD). The system clears new memory page by page as it is written, several times
// as fast by 2 MiB as by 4 KiB (bench/page_faults.py). FASTACT_HUGE_PAGES=0 leaves memory as it comes; where
// /sys/kernel/mm/transparent_hugepage/enabled says `never`, so does the system.
inline void prefer_huge_pages(const Tensor& written) {
#if defined(__linux__)
  static const bool wanted = [] {
    const char* variable = std::getenv("FASTACT_HUGE_PAGES");
    return !variable || std::string_view(variable) != "0";
  }();
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  if (!wanted || written.numel() == 0) return;
  int64_t last = 0;
  for (int64_t i = 0; i < written.dim(); ++i) last += (written.size(i) - 1) * written.stride(i);
  auto size = static_cast<uintptr_t>(last + 1) * written.element_size();
  if (size < uintptr_t{32} << 20) return;
  auto begin = reinterpret_cast<uintptr_t>(written.data_ptr());
  uintptr_t first = (begin + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(first), (begin + size) / page * page - first, MADV_HUGEPAGE);
#else
  (void)written;
#endif
}

// Straight to the allocator: empty_like through the dispatcher takes 0.6 us longer, a fifth of a small call.
inline Tensor new_tensor(const int64_t* sizes, const int64_t* strides, int64_t dim, ScalarType type) {
  int32_t dtype = to<int32_t>(from(type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, &handle));
  Tensor tensor(handle);
  prefer_huge_pages(tensor);
  return tensor;
}

// A new tensor of the same sizes, dtype and order of dimensions.
inline Tensor new_dense(const Tensor& tensor) {
  if (is_dense(tensor))
    return new_tensor(tensor.sizes().data(), tensor.strides().data(), tensor.dim(), tensor.scalar_type());
  Tensor result = torch::stable::empty_like(tensor);
  prefer_huge_pages(result);
  return result;
}

// One bit per element of `tensor`.
inline Tensor new_mask(const Tensor& tensor) {
  int64_t bytes = (tensor.numel() + 7) / 8, stride = 1;
  return new_tensor(&bytes, &stride, 1, ScalarType::Byte);
}

inline Tensor dense_copy(const Tensor& tensor, const Tensor& layout) {
  Tensor copy = new_dense(layout);
  torch::stable::copy_(copy, tensor);
  return copy;
}

inline Tensor copy_in_layout(const Tensor& tensor, const Tensor& dense) {
  Tensor copy = new_tensor(dense.sizes().data(), dense.strides().data(), dense.dim(), tensor.scalar_type());
  torch::stable::copy_(copy, tensor);
  return copy;
}

// One half of a tensor along a dimension of even size, as a view.
inline Tensor half(const Tensor& tensor, int64_t dim, bool second) {
  auto tensor_sizes = tensor.sizes(), strides = tensor.strides();
  std::vector<int64_t> sizes(tensor_sizes.begin(), tensor_sizes.end());
  sizes[dim] /= 2;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(tensor.get(), tensor.dim(), sizes.data(), strides.data(),
                                                        second ? sizes[dim] * strides[dim] : 0, &handle));
  return Tensor(handle);
}

// How the tensors of one op are walked, element by element, in step. Inputs that cannot be walked so are copied.
struct Walk {
  Shape shape;
  std::vector<Tensor> tensors;  // keeps the copies alive
  std::vector<Operand> operands;
};

inline Walk walk(std::vector<Tensor> tensors, Shape shape) {
  Walk result{shape, std::move(tensors), {}};
  for (const Tensor& tensor : result.tensors) {
    int64_t stride = shape.columns;
    if (shape.rows > 1)
      if (auto rows = row_strided(tensor); rows->columns == shape.columns) stride = rows->stride;
    result.operands.push_back({static_cast<char*>(tensor.data_ptr()), stride, tensor.scalar_type()});
  }
  return result;
}

// Inputs of equal sizes, in step with a new output that has the layout of the last input; the output is the walk's last
// tensor.
inline Walk walk_to_new_output(std::vector<Tensor> inputs) {
  Tensor& leader = inputs.back();
  int64_t numel = leader.numel();
  bool flat = is_dense(leader);
  for (const Tensor& input : inputs) flat = flat && same_layout(input, leader);
  if (!flat && numel > 0) {  // without elements, any layout will do
    int64_t columns = numel;
    bool by_rows = true;
    for (const Tensor& input : inputs) {
      auto rows = row_strided(input);
      by_rows = by_rows && rows && (rows->columns == numel || columns == numel || rows->columns == columns);
      if (by_rows) columns = std::min(columns, rows->columns);
    }
    if (by_rows) {
      Tensor output = torch::stable::new_empty(leader, leader.sizes());
      prefer_huge_pages(output);
      inputs.push_back(output);
      return walk(std::move(inputs), {numel / columns, columns});
    }
    if (!is_dense(leader)) leader = dense_copy(leader, leader);
    for (Tensor& input : inputs)
      if (!same_layout(input, leader)) input = dense_copy(input, leader);
  }
  inputs.push_back(new_dense(inputs.back()));
  return walk(std::move(inputs), {1, numel});
}

// One tensor, written in place; nothing if it cannot be walked as it lies.
inline std::optional<Walk> walk_in_place(const Tensor& tensor) {
  int64_t numel = tensor.numel();
  if (numel == 0 || is_dense(tensor)) return walk({tensor, tensor}, {1, numel});
  auto rows = row_strided(tensor);
  if (!rows) return std::nullopt;
  return walk({tensor, tensor}, {numel / rows->columns, rows->columns});
}

// Inputs and given outputs of equal sizes, in step, where they lie; what cannot be walked so is replaced by a dense
// tensor, from which `finish` fills the output that it stands in for.
struct WalkInStep : Walk {
  std::vector<std::pair<Tensor, Tensor>> replaced;

  void finish() {
    for (auto& [output, dense] : replaced) torch::stable::copy_(output, dense);
  }
};

inline WalkInStep walk_in_step(std::vector<Tensor> inputs, const std::vector<Tensor>& outputs) {
  const Tensor& leader = outputs.front();
  int64_t numel = leader.numel(), columns = numel;
  size_t input_count = inputs.size();
  WalkInStep result{{{0, 0}, std::move(inputs), {}}, {}};
  result.tensors.insert(result.tensors.end(), outputs.begin(), outputs.end());
  std::vector<int64_t> order(leader.dim());
  std::iota(order.begin(), order.end(), 0);
  auto strides = leader.strides();
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });
  std::vector<std::optional<Rows>> rows;
  for (const Tensor& tensor : result.tensors) {
    rows.push_back(row_strided(tensor, order.data()));
    if (rows.back()) columns = std::min(columns, rows.back()->columns);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    Tensor& tensor = result.tensors[i];
    if (!rows[i] || (rows[i]->columns != columns && rows[i]->columns != numel)) {
      Tensor dense = new_dense(leader);
      if (i < input_count) {
        torch::stable::copy_(dense, tensor);
      } else {
        result.replaced.emplace_back(tensor, dense);
      }
      tensor = dense;
      rows[i] = Rows{numel, numel};
    }
    int64_t stride = rows[i]->columns == columns ? rows[i]->stride : columns;
    result.operands.push_back({static_cast<char*>(tensor.data_ptr()), stride, tensor.scalar_type()});
  }
  if (numel > 0) result.shape = {numel / columns, columns};
  return result;
}

inline int64_t round_up(int64_t n) { return (n + kStep - 1) / kStep * kStep; }

// A block of n elements, rounded up to kStep: the tensor's own memory where that will do, else a buffer.
inline const void* load(const Operand& operand, int64_t row, int64_t column, int64_t n, void* buffer) {
  const char* source = operand.at(row, column);
  int64_t padded = round_up(n), size = operand.element_size();
  if (n == padded) return source;
  std::memcpy(buffer, source, n * size);
  std::memset(static_cast<char*>(buffer) + n * size, 0, (padded - n) * size);
  return buffer;
}

inline void* destination(const Operand& operand, int64_t row, int64_t column, int64_t n, void* buffer) {
  return n % kStep != 0 ? buffer : operand.at(row, column);
}

inline void store(const Operand& operand, int64_t row, int64_t column, int64_t n, const void* buffer) {
  char* target = operand.at(row, column);
  if (buffer != target) std::memcpy(target, buffer, n * operand.element_size());
}

// n consecutive elements of a tensor in compute type, rounded up to kStep: where they lie, or in the buffer.
inline const void* load_wide(const Operand& operand, int64_t column, int64_t n, void* buffer) {
  if (!is_16_bit(operand.type)) return load(operand, 0, column, n, buffer);
  auto widen = instruction_set().widen[half_index(operand.type)];
  auto* to = static_cast<float*>(buffer);
  uint16_t tail[kStep];
  int64_t whole = n / kStep * kStep;
  widen(operand.at(0, column), to, whole);
  if (n != whole) widen(load(operand, 0, column + whole, n - whole, tail), to + whole, kStep);
  return buffer;
}
inline void store_narrow(const Operand& operand, int64_t column, int64_t n, const void* buffer) {
  if (!is_16_bit(operand.type)) return store(operand, 0, column, n, buffer);
  auto narrow = instruction_set().narrow[half_index(operand.type)];
  auto* from = static_cast<const float*>(buffer);
  uint16_t tail[kStep];
  int64_t whole = n / kStep * kStep;
  narrow(from, operand.at(0, column), whole);
  if (n == whole) return;
  narrow(from + whole, tail, kStep);
  store(operand, 0, column + whole, n - whole, tail);
}

// A buffer for a ragged end of any dtype.
struct alignas(64) Buffer {
  char bytes[kStep * 8];
};

// The shape cut into blocks, which threads share out: visit() calls body(row, column, n, first) for the n elements from
// (row, column) on, the first of which is number `first` of the tensor. Either n is a multiple of kStep or less than
// kStep: what is left at a row's end.
struct Blocks {
  Shape shape;
  int64_t per_row, count;

  explicit Blocks(Shape shape_)
      : shape(shape_), per_row((shape.columns + kBlock - 1) / kBlock), count(shape.rows * per_row) {}

  // Blocks of a row that follow one another are visited `together`, that many at a time.
  template <class Body>
  void visit(int64_t begin, int64_t end, int64_t together, const Body& body) const {
    for (int64_t i = begin; i < end;) {
      int64_t row = i / per_row, in_row = i % per_row;
      int64_t count = std::min({together, end - i, per_row - in_row});
      int64_t column = in_row * kBlock, n = std::min(count * kBlock, shape.columns - column);
      int64_t first = row * shape.columns + column, whole = n / kStep * kStep;
      if (whole > 0) body(row, column, whole, first);
      if (n > whole) body(row, column + whole, n - whole, first + whole);
      i += count;
    }
  }
};

template <class Body>
void for_each_block(Shape shape, int64_t together, const Body& body) {
  Blocks blocks(shape);
  if (blocks.count == 0) return;
  int64_t grain = std::max<int64_t>(1, kGrain / std::min(kBlock, shape.columns));
  parallel(blocks.count, grain, [&](int64_t begin, int64_t end) { blocks.visit(begin, end, together, body); });
}

// Blocks together that bodies take which hold nothing of their own for each element: all that a thread has of a row.
// The processor looks ahead in memory, but not beyond the end of a loop: in blocks of 2,048, ReLU of 2^22 floats took
// 1.05 to 1.1 times as long.
constexpr int64_t kAll = std::numeric_limits<int64_t>::max() / kBlock;

// A call that asks early for the lines of its output where that was measured to gain, 2 KiB ahead: on Intel's CPUs
// (AMD's Zen 5 loses 5 to 15%), if the lines are the output's alone. Beyond a row of a larger tensor lies another's
// memory, and in place the lines are being read anyway.
inline Call looking_ahead(Call call, const Operand& input, const Operand& output, Shape shape) {
  static const int64_t ahead = std::string_view(cpu_maker()) == "intel" ? 2048 : 0;
  call.ahead = input.data != output.data && output.row_stride == shape.columns ? ahead : 0;
  return call;
}

// y = f(x), and one bit per element where `bits` is not null. The walk's tensors are x and y.
inline void run_forward(Pointwise which, const Walk& walk, uint8_t* bits, const Call& call_) {
  const Operand x = walk.operands[0], y = walk.operands[1];
  const Call call = looking_ahead(call_, x, y, walk.shape);
  auto block = instruction_set().forward[which][type_index(x.type)];
  for_each_block(walk.shape, kAll, [&](int64_t row, int64_t column, int64_t n, int64_t first) {
    Buffer buffer;
    uint8_t tail_bits[kStep / 8];
    int64_t padded = round_up(n);
    const void* source = load(x, row, column, n, buffer.bytes);
    void* target = destination(y, row, column, n, buffer.bytes);
    uint8_t* target_bits = bits == nullptr ? nullptr : n == padded ? bits + first / 8 : tail_bits;
    block(source, target, target_bits, padded, first, call);
    store(y, row, column, n, target);
    if (target_bits == tail_bits) std::memcpy(bits + first / 8, tail_bits, (n + 7) / 8);
  });
}

// grad_input = grad * f'(saved). The walk's tensors are grad, saved (unless `bits` is given in its place), grad_input.
inline void run_backward(Pointwise which, const Walk& walk, const uint8_t* bits, const Call& call_) {
  const Operand grad = walk.operands[0], saved = walk.operands[1], grad_input = walk.operands.back();
  const Call call = looking_ahead(call_, grad, grad_input, walk.shape);
  auto block = instruction_set().backward[which][type_index(grad.type)];
  for_each_block(walk.shape, kAll, [&](int64_t row, int64_t column, int64_t n, int64_t first) {
    Buffer grad_buffer, saved_buffer;
    int64_t padded = round_up(n);
    const void* source = load(grad, row, column, n, grad_buffer.bytes);
    const void* other = saved_buffer.bytes;
    if (bits == nullptr) {
      other = load(saved, row, column, n, saved_buffer.bytes);
    } else if (n == padded) {
      other = bits + first / 8;
    } else {
      std::memset(saved_buffer.bytes, 0, padded / 8);
      std::memcpy(saved_buffer.bytes, bits + first / 8, (n + 7) / 8);
    }
    void* target = destination(grad_input, row, column, n, grad_buffer.bytes);
    block(source, other, target, padded, first, call);
    store(grad_input, row, column, n, target);
  });
}

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

// A learned tensor: its numbers in compute type, and how they repeat.
template <class T>
struct LearnedTensor {
  std::vector<T> values;
  Channels channels;
};

// What the block functions read of learned tensors: single numbers as they are or, if any tensor has one per channel,
// all of them spread over the block's elements.
template <class T>
struct LearnedBlock {
  alignas(64) T each[kMostLearned][kBlock];
  const void* pointers[kMostLearned];
  bool spread_out;

  explicit LearnedBlock(const std::vector<LearnedTensor<T>>& learned) : spread_out(per_channel(learned)) {
    for (size_t k = 0; k < learned.size(); ++k) pointers[k] = spread_out ? each[k] : learned[k].values.data();
  }
  static bool per_channel(const std::vector<LearnedTensor<T>>& learned) {
    return std::any_of(learned.begin(), learned.end(), [](auto& tensor) { return tensor.channels.count > 1; });
  }
  void move_to(const std::vector<LearnedTensor<T>>& learned, int64_t first, int64_t n) {
    if (!spread_out) return;
    for (size_t k = 0; k < learned.size(); ++k)
      spread(learned[k].values.data(), learned[k].channels, first, n, each[k]);
  }
};

// The walk's tensors are x and y.
template <class T>
void run_learned(LearnedPointwise which, const Walk& walk, const std::vector<LearnedTensor<T>>& learned,
                 const Call& call_) {
  const Operand x = walk.operands[0], y = walk.operands[1];
  const Call call = looking_ahead(call_, x, y, walk.shape);
  auto block = instruction_set().learned_forward[which][type_index(x.type)];
  int64_t together = LearnedBlock<T>::per_channel(learned) ? 1 : kAll;
  for_each_block(walk.shape, together, [&](int64_t row, int64_t column, int64_t n, int64_t first) {
    Buffer buffer;
    LearnedBlock<T> numbers(learned);
    numbers.move_to(learned, first, n);
    const void* source = load(x, row, column, n, buffer.bytes);
    void* target = destination(y, row, column, n, buffer.bytes);
    block(source, numbers.pointers, numbers.spread_out, target, round_up(n), call);
    store(y, row, column, n, target);
  });
}

// The walk's tensors are grad, x and grad_input. The gradients of the learned tensors are summed in double over a
// number of slices that depends on the tensor alone, so that the number of threads does not show in them. Returns the
// sums for each tensor, one per channel.
template <class T>
std::vector<std::vector<double>> run_learned_backward(LearnedPointwise which, const Walk& walk,
                                                      const std::vector<LearnedTensor<T>>& learned, const Call& call) {
  const Operand grad = walk.operands[0], x = walk.operands[1], grad_input = walk.operands[2];
  auto block = instruction_set().learned_backward[which][type_index(grad.type)];
  Blocks blocks(walk.shape);
  int64_t slices = std::clamp<int64_t>(walk.shape.rows * walk.shape.columns / kGrain, 1, 64);
  std::vector<std::vector<double>> sums;
  for (const auto& tensor : learned) sums.emplace_back(slices * tensor.channels.count);
  parallel(slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slice = begin; slice < end; ++slice) {
      int64_t from = blocks.count * slice / slices, to = blocks.count * (slice + 1) / slices;
      LearnedBlock<T> numbers(learned);
      blocks.visit(from, to, 1, [&](int64_t row, int64_t column, int64_t n, int64_t first) {
        Buffer grad_buffer, x_buffer;
        alignas(64) T terms[kMostLearned][kBlock];
        void* const term_pointers[] = {terms[0], terms[1]};
        numbers.move_to(learned, first, n);
        const void* source = load(grad, row, column, n, grad_buffer.bytes);
        const void* value = load(x, row, column, n, x_buffer.bytes);
        void* target = destination(grad_input, row, column, n, grad_buffer.bytes);
        block(source, value, numbers.pointers, numbers.spread_out, target, term_pointers, round_up(n), call);
        store(grad_input, row, column, n, target);
        for (size_t k = 0; k < learned.size(); ++k) {
          Channels channels = learned[k].channels;
          double* slice_sums = sums[k].data() + slice * channels.count;
          for_each_channel(channels, first, n, [&](int64_t channel, int64_t offset, int64_t length) {
            if (channels.inner == 1) {
              for (int64_t i = 0; i < length; ++i) slice_sums[channel + i] += terms[k][offset + i];
            } else {
              slice_sums[channel] += sum(terms[k] + offset, length);
            }
          });
        }
      });
    }
  });
  for (size_t k = 0; k < learned.size(); ++k) {
    int64_t count = learned[k].channels.count;
    for (int64_t slice = 1; slice < slices; ++slice)
      for (int64_t c = 0; c < count; ++c) sums[k][c] += sums[k][slice * count + c];
    sums[k].resize(count);
  }
  return sums;
}

// The walk's tensors are value, gate and the output.
inline void run_gated(GatedUnit which, const Walk& walk) {
  const Operand value = walk.operands[0], gate = walk.operands[1], out = walk.operands[2];
  auto block = instruction_set().gated_forward[which][type_index(value.type)];
  for_each_block(walk.shape, kAll, [&](int64_t row, int64_t column, int64_t n, int64_t) {
    Buffer value_buffer, gate_buffer;
    const void* values = load(value, row, column, n, value_buffer.bytes);
    const void* gates = load(gate, row, column, n, gate_buffer.bytes);
    void* target = destination(out, row, column, n, value_buffer.bytes);
    block(values, gates, target, round_up(n));
    store(out, row, column, n, target);
  });
}

// The walk's tensors are grad, value, gate and the gradients of the last two.
inline void run_gated_backward(GatedUnit which, const Walk& walk) {
  const Operand grad = walk.operands[0], value = walk.operands[1], gate = walk.operands[2];
  const Operand grad_value = walk.operands[3], grad_gate = walk.operands[4];
  auto block = instruction_set().gated_backward[which][type_index(grad.type)];
  for_each_block(walk.shape, kAll, [&](int64_t row, int64_t column, int64_t n, int64_t) {
    Buffer grad_buffer, value_buffer, gate_buffer;
    const void* grads = load(grad, row, column, n, grad_buffer.bytes);
    const void* values = load(value, row, column, n, value_buffer.bytes);
    const void* gates = load(gate, row, column, n, gate_buffer.bytes);
    void* for_value = destination(grad_value, row, column, n, value_buffer.bytes);
    void* for_gate = destination(grad_gate, row, column, n, gate_buffer.bytes);
    block(grads, values, gates, for_value, for_gate, round_up(n));
    store(grad_value, row, column, n, for_value);
    store(grad_gate, row, column, n, for_gate);
  });
}

// What a Maxout makes of a dense tensor: sizes and strides in the same order of dimensions, with the size along `dim`
// multiplied or divided; and how far apart in memory the pieces of an output lie.
struct Grouped {
  std::vector<int64_t> sizes, strides;
  int64_t inner = 1;

  Tensor new_tensor(ScalarType type) const {
    return fastact::new_tensor(sizes.data(), strides.data(), static_cast<int64_t>(sizes.size()), type);
  }
};
inline Grouped grouped(const Tensor& dense, int64_t dim, int64_t times, int64_t divided_by) {
  auto sizes = dense.sizes(), strides = dense.strides();
  Grouped result{{sizes.begin(), sizes.end()}, {strides.begin(), strides.end()}};
  result.sizes[dim] = sizes[dim] * times / divided_by;
  if (dense.numel() == 0) return result;
  // By sizes, since the stride of a dimension of one element may be anything.
  const auto is_inside = [&](int64_t other) { return strides[other] < strides[dim]; };
  for (int64_t other = 0; other < dense.dim(); ++other) {
    if (other == dim) continue;
    if (is_inside(other))
      result.inner *= sizes[other];
    else
      result.strides[other] = strides[other] * times / divided_by;
  }
  return result;
}

// Maxout over tensors that are dense in one memory order, in which the pieces of an output lie `inner` apart.
inline void run_maxout(const Tensor& input, int64_t pieces, int64_t inner, const Tensor& output,
                       const Tensor* indices) {
  auto run = instruction_set().maxout_forward[type_index(input.scalar_type())];
  const void* x = input.data_ptr();
  void* y = output.data_ptr();
  auto* winners = indices ? static_cast<uint8_t*>(indices->data_ptr()) : nullptr;
  parallel(output.numel(), std::max<int64_t>(1, kGrain / pieces),
           [&](int64_t begin, int64_t end) { run(x, y, winners, begin, end, pieces, inner); });
}

inline void run_maxout_backward(const Tensor& grad, const Tensor& indices, int64_t pieces, int64_t inner,
                                const Tensor& grad_input) {
  auto run = instruction_set().maxout_backward[type_index(grad.scalar_type())];
  const void* gradients = grad.data_ptr();
  auto* winners = static_cast<const uint8_t*>(indices.data_ptr());
  void* target = grad_input.data_ptr();
  parallel(grad.numel(), std::max<int64_t>(1, kGrain / pieces),
           [&](int64_t begin, int64_t end) { run(gradients, winners, target, begin, end, pieces, inner); });
}

}  // namespace fastact
