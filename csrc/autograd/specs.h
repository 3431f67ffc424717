// The differentiable ops, from the table: their operators, and what their nodes save.
#pragma once

#include <torch/library.h>

#include <map>

#include "spec/ops.h"

namespace fastact {

using at::IValue;
using Arguments = c10::ArrayRef<at::IValue>;
using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::OperatorHandle;
using torch::jit::Stack;

// What backward reads beside the incoming gradient. A mask has one bit per element, in the order in which the output
// lies in memory; indices have the output's layout.
enum class Saves { kInputs, kOutput, kMask, kIndices };

// One differentiable op. Its schema is: tensors, a seed if it is random, scalars.
struct NodeSpec {
  std::string name, module;
  size_t tiles, tensors;  // of the op's shape; all, with the channelwise ones and a residual
  bool random;
  Saves saves;
  bool adds_last = false;  // the last tensor, the residual, is added to the result or missing; nothing of it is saved
  bool packed = false;     // value and gate are halves of the one tensor

  std::optional<OperatorHandle> plain{}, saving{}, saving_in_place{}, backward{}, l1_backward{};
  size_t arguments = 0;  // of the forward ops
  int direct = -1;       // place in kOps and then kSoftmaxOps, if it can be called by pointers (spec/direct.h)
  // A softmax's last scalar is the output's dtype; backward takes the input's there.
  bool ends_in_dtype = false;
};

inline OperatorHandle find(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(("fastact::" + name).c_str(), "");
}

inline NodeSpec spec_of(const Op& op) {
  const Saves saves = op.saved == Saved::kMask     ? Saves::kMask
                      : op.saved == Saved::kOutput ? Saves::kOutput
                                                   : Saves::kInputs;
  const size_t tiles = op.count(Kind::kTile), residuals = op.count(Kind::kResidual);
  return {op.name,        op.module, tiles,        tiles + op.count(Kind::kChannel) + residuals,
          op.is_random(), saves,     residuals > 0};
}

// Every differentiable op, from the table.
inline std::vector<NodeSpec> differentiable_ops() {
  std::vector<NodeSpec> found;
  for (int which = 0; which < kElementwiseCount; ++which) {
    const Op& op = kOps[which];
    found.push_back(spec_of(op));
    if (op.count(Kind::kChannel) <= 1) found.back().direct = which;
    if (op.count(Kind::kTile) == 2) {
      found.push_back({std::string(op.name) + "_packed", op.module, 1, 1, false, found.back().saves, false, true});
      found.back().direct = which;
    }
    if (has_bias_form(op)) found.push_back(spec_of(kBiasOps[which]));
  }
  for (int which = 0; which < kSoftmaxCount; ++which) {
    found.push_back({kSoftmaxOps[which].name, kSoftmaxOps[which].module, 1, 1, false, Saves::kOutput});
    found.back().direct = kElementwiseCount + which;
  }
  found.push_back({"maxout", "Maxout", 1, 1, false, Saves::kIndices});
  return found;
}

inline bool has_op(const std::string& name) {
  return c10::Dispatcher::singleton().findSchema({"fastact::" + name, ""}).has_value();
}

// The table's ops with their handles, made once.
inline std::map<std::string, NodeSpec>& ops() {
  static std::map<std::string, NodeSpec> all = [] {
    std::map<std::string, NodeSpec> made;
    for (NodeSpec& op : differentiable_ops()) {
      const std::string saving = op.name + (op.saves == Saves::kMask      ? "_mask"
                                            : op.saves == Saves::kIndices ? "_indices"
                                                                          : "");
      op.plain = find(op.name);
      op.saving = find(saving);
      if (has_op(saving + "_")) op.saving_in_place = find(saving + "_");
      op.backward = find(op.name + "_backward");
      if (const std::string l1 = "l1_" + op.name + "_backward"; has_op(l1)) op.l1_backward = find(l1);
      const auto& arguments = op.saving->schema().arguments();
      op.arguments = arguments.size();
      op.ends_in_dtype = arguments.back().name() == "dtype";
      made.emplace(op.name, std::move(op));
    }
    return made;
  }();
  return all;
}

}  // namespace fastact
