// Sums of terms in compute type, in double.
#pragma once

#include "kernels/row_vectors.h"

namespace fastact {
namespace {

// Returns the sum of n terms. Sixteen lanes hide the latency of additions.
template <class T>
double sum(const void* terms_, int64_t n) {
  using Sums = RowVectors<double>;
  typedef T Part __attribute__((vector_size(Sums::lanes * sizeof(T))));
  constexpr int64_t count = Sums::count;
  auto* terms = static_cast<const T*>(terms_);
  const int64_t whole = n / kRowLanes * kRowLanes;
  Sums sums;
  for (int64_t i = 0; i < whole; i += kRowLanes) {
    FASTACT_FOR_EACH_VECTOR(k) {
      Part part;
      __builtin_memcpy(&part, terms + i + k * Sums::lanes, sizeof part);
      sums.vectors[k] += __builtin_convertvector(part, Sums::Vector);
    }
  }
  alignas(64) double lanes[kRowLanes];
  sums.store(lanes);
  for (int64_t i = whole; i < n; ++i) lanes[i - whole] += terms[i];
  double total = 0;
  for (double lane : lanes) total += lane;
  return total;
}

// Adds n terms to a sum each.
template <class T>
void add_each(const void* terms_, int64_t n, double* sums) {
  auto* terms = static_cast<const T*>(terms_);
  FASTACT_VECTORIZE for (int64_t i = 0; i < n; ++i) sums[i] += terms[i];
}

}  // namespace
}  // namespace fastact
