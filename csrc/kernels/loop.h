// How the kernels' innermost loops are written.
#pragma once

#include "kernels/block.h"

// Iterations are independent even where output and input are the same block. kStep-long inner loops with a constant
// trip count leave the compiler no remainder to handle: every element takes the same instructions, wherever it stands.
#if defined(__clang__)
#define FASTACT_VECTORIZE _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTACT_VECTORIZE _Pragma("GCC ivdep")
#endif
// Every call in a function's body is inlined, however often the callee is used: one call left in a loop, and it is not
// vectorised.
#define FASTACT_FLATTEN __attribute__((flatten))
#define FASTACT_FOR_EACH_IN_STEP(i) FASTACT_VECTORIZE for (int64_t i = 0; i < kStep; ++i)
