// How the tensors of an op are walked together: one plan for any number of them.
#pragma once

#include <cstring>
#include <initializer_list>
#include <numeric>
#include <optional>
#include <utility>

#include "runtime/dispatch.h"
#include "runtime/memory.h"
#include "runtime/parallel.h"

namespace fastact {

// A tensor as blocks see it: rows of consecutive elements.
struct Strided {
  char* data;
  int64_t row_stride;  // in elements
  ScalarType type;

  int64_t element_size() const { return is_16_bit(type) ? 2 : type == ScalarType::Double ? 8 : 4; }
  char* at(int64_t row, int64_t column) const { return data + (row * row_stride + column) * element_size(); }
};

// What rows must be like, so that a device's kernels run on them where they lie: in elements, but for the alignment of
// the tensor in bytes. Anything else is copied.
struct RowRules {
  int64_t shortest, multiple, stride_multiple, alignment;

  bool allow(int64_t columns, int64_t stride) const {
    return columns >= shortest && columns % multiple == 0 && stride >= columns && stride % stride_multiple == 0;
  }
};
// Short or ragged rows would be little but tails, and their masks would share bytes.
inline constexpr RowRules kCpuRows{kStep, 8, 1, 1};
// On a GPU an eighth (fastact/triton/elementwise.py) lies in one row, and each begins where a 128-bit access may.
inline constexpr RowRules kGpuRows{8, 8, 8, 16};

inline bool is_aligned(const void* data, int64_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; }
inline bool is_aligned(const Tensor& tensor, int64_t bytes) {
  return bytes == 1 || is_aligned(tensor.data_ptr(), bytes);
}

// The length of a tensor's runs of consecutive elements and the one distance between them, if its dimensions, in this
// order from the outermost to the innermost, have them.
struct Rows {
  int64_t columns, stride;
};
inline std::optional<Rows> row_strided(const Tensor& tensor, const std::vector<int64_t>& order, const RowRules& rules) {
  auto sizes = tensor.sizes(), strides = tensor.strides();
  int64_t columns = 1, rows = 1, stride = 0;
  for (auto place = order.rbegin(); place != order.rend(); ++place) {
    int64_t i = *place;
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
  if (!is_aligned(tensor, rules.alignment)) return std::nullopt;
  if (rows > 1 && !rules.allow(columns, stride)) return std::nullopt;
  return Rows{columns, rows > 1 ? stride : columns};
}

// Walks inputs and outputs of equal sizes and one dtype together, in the order of the first output in memory. A tensor
// that cannot be walked in place is replaced by a dense copy; `finish` copies replaced outputs back.
struct Plan {
  static constexpr size_t kMostTensors = 1 + 2 * most(Kind::kTile);  // grad, tiles and their gradients

  Shape shape{0, 0};
  size_t input_count, output_count;
  Strided strided[kMostTensors];  // inputs, then outputs

  // `dense`: in no rows.
  Plan(std::vector<Tensor> inputs_and_outputs, size_t outputs, const RowRules& rules, bool dense = false)
      : input_count(inputs_and_outputs.size() - outputs),
        output_count(outputs),
        tensors_(std::move(inputs_and_outputs)),
        type_(tensors_[0].scalar_type()) {
    const Tensor& leader = tensors_[input_count];
    int64_t numel = leader.numel();
    if (numel == 0) return;
    bool flat = is_dense(leader);
    for (const Tensor& tensor : tensors_) flat = flat && same_layout(tensor, leader);
    // Beside aligned inputs an unaligned one costs more than its copy: no wide accesses for any of them.
    for (const Tensor& tensor : tensors_) flat = flat && (input_count == 1 || is_aligned(tensor, rules.alignment));
    if (flat) {
      shape = {1, numel};
      for (size_t i = 0; i < tensors_.size(); ++i) place(i, numel);
    } else {
      plan_rows(numel, rules, dense);
    }
  }
  // Of tiles that lie in rows of the same length.
  Plan(ScalarType type, Shape shape, size_t inputs, const void* const* input, const int64_t* input_strides,
       size_t outputs, void* const* output, const int64_t* output_strides)
      : shape(shape), input_count(inputs), output_count(outputs), type_(type) {
    for (size_t i = 0; i < inputs; ++i)
      strided[i] = {static_cast<char*>(const_cast<void*>(input[i])), input_strides[i], type};
    for (size_t i = 0; i < outputs; ++i) strided[inputs + i] = {static_cast<char*>(output[i]), output_strides[i], type};
  }
  Plan(const Plan&) = delete;

  ScalarType type() const { return type_; }
  const Strided& input(size_t i) const { return strided[i]; }
  const Strided& output(size_t i) const { return strided[input_count + i]; }

  // Whether kernels can walk all tiles where they lie.
  bool keeps(const RowRules& rules) const {
    const bool aligned = shape.rows > 1 || input_count > 1;
    for (size_t i = 0; i < input_count + output_count; ++i) {
      if (aligned && !is_aligned(strided[i].data, rules.alignment)) return false;
      if (shape.rows > 1 && !rules.allow(shape.columns, strided[i].row_stride)) return false;
    }
    return true;
  }

  void finish() {
    for (auto& [output, dense] : replaced_) torch::stable::copy_(output, dense);
  }

 private:
  void place(size_t i, int64_t stride) { strided[i] = {static_cast<char*>(tensors_[i].data_ptr()), stride, type_}; }

  void plan_rows(int64_t numel, const RowRules& rules, bool densely) {
    const Tensor leader = tensors_[input_count];
    std::vector<int64_t> order(leader.dim());
    std::iota(order.begin(), order.end(), 0);
    auto strides = leader.strides();
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });
    int64_t columns = numel;
    std::vector<std::optional<Rows>> rows;
    for (const Tensor& tensor : tensors_) {
      rows.push_back(row_strided(tensor, order, rules));
      if (rows.back() && !densely) columns = std::min(columns, rows.back()->columns);
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!rows[i] || (rows[i]->columns != columns && rows[i]->columns != numel)) {
        Tensor dense = i < input_count ? dense_copy(tensors_[i], leader) : new_dense(leader);
        if (i >= input_count) replaced_.emplace_back(tensors_[i], dense);
        tensors_[i] = dense;
        rows[i] = Rows{numel, numel};
      }
      place(i, rows[i]->columns == columns ? rows[i]->stride : columns);
    }
    shape = {numel / columns, columns};
  }

  std::vector<Tensor> tensors_;  // keeps copies alive
  ScalarType type_;
  std::vector<std::pair<Tensor, Tensor>> replaced_;
};

inline int64_t round_up(int64_t n) { return (n + kStep - 1) / kStep * kStep; }

// Returns n elements, padded to a multiple of kStep: the tensor's own memory where n is one, else a buffer.
inline const void* load(const Strided& operand, int64_t row, int64_t column, int64_t n, void* buffer) {
  const char* source = operand.at(row, column);
  int64_t padded = round_up(n), size = operand.element_size();
  if (n == padded) return source;
  std::memcpy(buffer, source, n * size);
  std::memset(static_cast<char*>(buffer) + n * size, 0, (padded - n) * size);
  return buffer;
}

inline void* destination(const Strided& operand, int64_t row, int64_t column, int64_t n, void* buffer) {
  return n % kStep != 0 ? buffer : operand.at(row, column);
}

inline void store(const Strided& operand, int64_t row, int64_t column, int64_t n, const void* buffer) {
  char* target = operand.at(row, column);
  if (buffer != target) std::memcpy(target, buffer, n * operand.element_size());
}

// Returns n consecutive elements in compute type, padded to a multiple of kStep: the tensor's own memory where
// possible, else the buffer.
inline const void* load_promoted(const Strided& operand, int64_t column, int64_t n, void* buffer) {
  if (!is_16_bit(operand.type)) return load(operand, 0, column, n, buffer);
  auto promote = instruction_set().promote[half_index(operand.type)];
  auto* to = static_cast<float*>(buffer);
  uint16_t tail[kStep];
  int64_t whole = n / kStep * kStep;
  promote(operand.at(0, column), to, whole);
  if (n != whole) promote(load(operand, 0, column + whole, n - whole, tail), to + whole, kStep);
  return buffer;
}
inline void store_demoted(const Strided& operand, int64_t column, int64_t n, const void* buffer) {
  if (!is_16_bit(operand.type)) return store(operand, 0, column, n, buffer);
  auto demote = instruction_set().demote[half_index(operand.type)];
  auto* from = static_cast<const float*>(buffer);
  uint16_t tail[kStep];
  int64_t whole = n / kStep * kStep;
  demote(from, operand.at(0, column), whole);
  if (n == whole) return;
  demote(from + whole, tail, kStep);
  store(operand, 0, column + whole, n - whole, tail);
}

// A buffer for a tail of any dtype.
struct alignas(64) Buffer {
  char bytes[kStep * 8];
};

}  // namespace fastact
