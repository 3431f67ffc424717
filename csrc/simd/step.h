// How innermost loops are written.
#pragma once

#include <cstdint>

namespace fastact {
constexpr int64_t kStep = 64;  // elements of an innermost loop
}

// Iterations are independent, even where output and input are the same memory. The constant trip count leaves the
// compiler no remainder to handle: every element takes the same instructions, wherever it stands.
#if defined(__clang__)
#define FASTACT_VECTORIZE _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTACT_VECTORIZE _Pragma("GCC ivdep")
#endif
// Inlines every call in a function's body, however often the callee is used: a loop with one call left in it is not
// vectorised.
#define FASTACT_FLATTEN __attribute__((flatten))
#define FASTACT_FOR_EACH_IN_STEP(i) FASTACT_VECTORIZE for (int64_t i = 0; i < kStep; ++i)
