// Which instruction set this process uses.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <string_view>

#include "runtime/instruction_sets.h"

namespace fastact {

// Returns the widest instruction set that this CPU has. FASTACT_CPU_CAPABILITY (default, avx2, avx512) asks for a
// narrower one.
inline const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = []() -> const InstructionSet& {
    if constexpr (kIsX86) {
      const char* variable = std::getenv("FASTACT_CPU_CAPABILITY");
      std::string_view limit = variable ? variable : "avx512";
      STD_TORCH_CHECK(limit == "default" || limit == "avx2" || limit == "avx512",
                      "FASTACT_CPU_CAPABILITY must be default, avx2 or avx512, got ", limit);
      for (const InstructionSet* set : instruction_sets())
        if ((set == &kAvx512 && limit == "avx512") || (set == &kAvx2 && limit != "default")) return *set;
    }
    return kBaseline;
  }();
  return chosen;
}

}  // namespace fastact
