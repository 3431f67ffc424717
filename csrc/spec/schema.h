// The ops' schemas, from the table.
#pragma once

#include <string>

#include "spec/ops.h"

namespace fastact {

// ", Tensor input, float alpha" and the like.
inline std::string arguments_of(const Op& op, bool with_tiles, bool with_residual = false) {
  std::string text;
  for (int i = 0; i < op.operand_count; ++i) {
    const Operand& operand = op.operands[i];
    const bool is_tile = operand.kind == Kind::kTile, is_residual = operand.kind == Kind::kResidual;
    if ((is_tile && !with_tiles) || (is_residual && !with_residual)) continue;
    text += operand.kind == Kind::kScalar ? ", float " : is_residual ? ", Tensor? " : ", Tensor ";
    text += operand.name;
  }
  return text;
}

// name(Tensor input, …) -> Tensor              name_mask(Tensor input, …) -> (Tensor, Tensor)
// name_(Tensor(a!) input, …) -> ()             name_mask_(Tensor(a!) input, …) -> Tensor
inline std::string forward_schema(const Op& op, bool in_place, bool with_mask) {
  std::string arguments = arguments_of(op, true, true).substr(2);
  if (in_place) arguments.insert(sizeof("Tensor") - 1, "(a!)");
  const char* result = in_place ? (with_mask ? "Tensor" : "()") : (with_mask ? "(Tensor, Tensor)" : "Tensor");
  return std::string(op.name) + (with_mask ? "_mask" : "") + (in_place ? "_" : "") + "(" + arguments + ") -> " + result;
}

// name_backward(Tensor grad, Tensor mask, …) -> Tensor and the like, with a gradient for each tile and channelwise
// operand.
inline std::string backward_schema(const Op& op) {
  std::string saved = op.saved == Saved::kMask ? ", Tensor mask" : op.saved == Saved::kOutput ? ", Tensor output" : "";
  std::string gradients = "Tensor";
  int count = op.count(Kind::kTile) + op.count(Kind::kChannel);
  for (int i = 1; i < count; ++i) gradients += ", Tensor";
  return std::string(op.name) + "_backward(Tensor grad" + saved + arguments_of(op, op.saved == Saved::kInputs) +
         ") -> " + (count == 1 ? gradients : "(" + gradients + ")");
}

// The schema of an op with two tiles for one tensor whose halves along `dim` those are.
inline std::string packed_schema(const Op& op, bool backward) {
  return std::string(op.name) + (backward ? "_packed_backward(Tensor grad, Tensor input" : "_packed(Tensor input") +
         ", int dim, bool gate_first" + arguments_of(op, false) + ") -> Tensor";
}

inline std::string softmax_schema(const char* name, bool backward) {
  return std::string(name) + (backward ? "_backward(Tensor grad, Tensor output" : "(Tensor input") +
         ", int dim, ScalarType dtype) -> Tensor";
}

}  // namespace fastact
