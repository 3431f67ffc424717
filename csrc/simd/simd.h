// Operations that compilers do not find by themselves, under the same names for each instruction set. The compiler's
// flags choose one of the files below, which defines:
//
//   kVector                             the size of a vector in bytes
//   kHasFma                             whether fused multiply-adds exist
//   Floats                              a vector of floats
//     fma(a, b, c)
//     minimum(a, b)                     a if it is less, else b: a NaN in b passes
//     any_less(a, b), all_less(a, b)
//     permute8(eight, number)           for each lane, eight[number & 7], of the bits of `number`
//   Words                               a vector of 64-bit words
//     mul_even(a, b)                    the products of their low halves
//     even_words(a, b), odd_words(a, b) the even or odd words of a and b, alternating
//   promote<n>(from, to), demote<n>(from, to)
//                                       convert n 16-bit numbers, a step unless n is given, to float and back, to
//                                       nearest even
//   write_mask(keep, x, mask)           writes keep(x) of each number of a step as a bit
//   unpack_mask(bits, flags)            unpacks the bits of a step to flags, -1 or 0
#pragma once

#if defined(__AVX512DQ__)
#include "simd/avx512.h"
#elif defined(__AVX2__)
#include "simd/avx2.h"
#elif defined(__SSE2__)
#include "simd/sse2.h"
#elif defined(__aarch64__)
#include "simd/neon.h"
#else
#include "simd/generic.h"
#endif
