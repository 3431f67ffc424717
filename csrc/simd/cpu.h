// The CPU that this process runs on.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fastact {

#if defined(__x86_64__)
constexpr bool kIsX86 = true;
inline bool has_f16c() {  // which Clang's builtin does not know by name
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline const char* cpu_vendor() { return __builtin_cpu_is("intel") ? "intel" : __builtin_cpu_is("amd") ? "amd" : ""; }
#else
constexpr bool kIsX86 = false;
inline bool has_avx2() { return false; }
inline bool has_avx512() { return false; }
inline const char* cpu_vendor() { return ""; }
#endif

}  // namespace fastact
