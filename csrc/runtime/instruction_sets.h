// What this CPU is.
#pragma once

#include <vector>

#include "kernels/block.h"

namespace fastact {

// "intel", "amd" or, for others, "".
inline const char* cpu_vendor() {
#if defined(__x86_64__)
  if (__builtin_cpu_is("intel")) return "intel";
  if (__builtin_cpu_is("amd")) return "amd";
#endif
  return "";
}

// The instruction sets that it has, the widest first.
inline std::vector<const InstructionSet*> instruction_sets() {
  std::vector<const InstructionSet*> found = {&kBaseline};
#if defined(__x86_64__)
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2) found.insert(found.begin(), &kAvx2);
  if (avx512) found.insert(found.begin(), &kAvx512);
#endif
  return found;
}

}  // namespace fastact
