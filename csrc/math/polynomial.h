// Polynomials with constant coefficients.
#pragma once

#include "math/double_float.h"

namespace fastact {
namespace {

// Without fused multiply-add, float's polynomials stay in double and round to float's 24 bits there after each step.
// The results are the same, and that takes half as long as converting to float and back.
inline double rounded_to_float(double x) {
  return bit_cast<double>((bit_cast<uint64_t>(x) + (uint64_t{1} << 28)) & ~((uint64_t{1} << 29) - 1));
}
template <int First, int N>
inline double rounded_polynomial(double x, const float (&c)[N]) {
  if constexpr (First == N - 1) {
    return c[First];
  } else {
    return rounded_to_float(rounded_polynomial<First + 1>(x, c) * x + c[First]);
  }
}

// Returns c[0] + c[1] x + ... + c[N-1] x^(N-1) by Horner's rule, of every Step-th coefficient from First on. It
// recurses at compile time: a loop here would keep the loop around it from being vectorised.
template <int First = 0, int Step = 1, class T, int N>
inline T polynomial(T x, const T (&c)[N]) {
  if constexpr (First + Step >= N) {
    return c[First];
  } else if constexpr (!kHasFma && sizeof(T) == 4 && First == 0 && Step == 1) {
    return static_cast<float>(rounded_polynomial<1>(x, c) * x + c[0]);
  } else {
    return fma(polynomial<First + Step, Step>(x, c), x, c[First]);
  }
}

// Evaluates a polynomial of small x, whose higher terms are small. In double it runs two chains, of the even and of the
// odd terms (Estrin 1960), because one chain of ten fused multiply-adds is bound by latency. Not for polynomials whose
// two sums nearly cancel.
template <class T, int N>
inline T polynomial_of_small(T x, const T (&c)[N]) {
  if constexpr (sizeof(T) == 8) {
    T square = x * x;
    return fma(x, polynomial<1, 2>(square, c), polynomial<0, 2>(square, c));
  } else {
    return polynomial(x, c);
  }
}

}  // namespace
}  // namespace fastact
