// The instruction sets of this CPU.
#pragma once

#include <vector>

#include "kernels/block.h"
#include "simd/cpu.h"

namespace fastact {

// Returns the instruction sets that this CPU has, the widest first.
inline std::vector<const InstructionSet*> instruction_sets() {
  std::vector<const InstructionSet*> found;
  if constexpr (kIsX86) {
    if (has_avx512()) found.push_back(&kAvx512);
    if (has_avx2()) found.push_back(&kAvx2);
  }
  found.push_back(&kBaseline);
  return found;
}

}  // namespace fastact
