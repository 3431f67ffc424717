// The instruction set's intrinsics, and how wide its vectors are.
#pragma once

#if defined(__x86_64__)
#pragma GCC diagnostic push  // of registers that GCC 12's own header leaves undefined on purpose (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fastact {
namespace {
// Bytes.
#if defined(__AVX512DQ__)
constexpr int kVector = 64;
#elif defined(__AVX2__)
constexpr int kVector = 32;
#else
constexpr int kVector = 16;
#endif
}  // namespace
}  // namespace fastact
