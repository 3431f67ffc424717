// Sums of numbers in compute type, in double.
#pragma once

#include "kernels/row_vectors.h"

namespace fastact {
namespace {

using Sums = RowVectors<double>;  // sixteen lanes hide the latency of additions

template <class T>
inline Sums::Vector load_double(const T* from) {
  typedef T Part __attribute__((vector_size(Sums::lanes * sizeof(T))));
  Part part;
  __builtin_memcpy(&part, from, sizeof part);
  return __builtin_convertvector(part, Sums::Vector);
}
inline double in_order(const Sums& sums) {
  alignas(64) double lanes[kRowLanes];
  sums.store(lanes);
  double total = 0;
  for (double lane : lanes) total += lane;
  return total;
}

// Returns the sum of n terms or, with `sizes`, of their absolute values.
template <class T, bool sizes>
inline double sum_of(const void* terms_, int64_t n) {
  constexpr int64_t count = Sums::count;
  auto* terms = static_cast<const T*>(terms_);
  const int64_t whole = n / kRowLanes * kRowLanes;
  const auto of = [](Sums::Vector each) {
    if constexpr (!sizes) return each;
    return Sums::Vector(RowVectors<int64_t>::Vector(each) & INT64_MAX);
  };
  Sums sums;
  for (int64_t i = 0; i < whole; i += kRowLanes)
    FASTACT_FOR_EACH_VECTOR(k) sums.vectors[k] += of(load_double(terms + i + k * Sums::lanes));
  alignas(64) double lanes[kRowLanes] = {};
  for (int64_t i = whole; i < n; ++i) lanes[i - whole] = terms[i];
  const Sums last(lanes);
  FASTACT_FOR_EACH_VECTOR(k) sums.vectors[k] += of(last.vectors[k]);
  return in_order(sums);
}
template <class T>
double sum(const void* terms, int64_t n) {
  return sum_of<T, false>(terms, n);
}
template <class T>
double sum_of_sizes(const void* terms, int64_t n) {
  return sum_of<T, true>(terms, n);
}

// Adds the sums of n numbers less `shift`, and of their squares, to sums[0] and sums[1].
template <class T>
void add_moments(const void* numbers_, int64_t n, double shift, double* sums) {
  constexpr int64_t count = Sums::count;
  auto* numbers = static_cast<const T*>(numbers_);
  const int64_t whole = n / kRowLanes * kRowLanes;
  Sums first, second;
  for (int64_t i = 0; i < whole; i += kRowLanes) {
    FASTACT_FOR_EACH_VECTOR(k) {
      const Sums::Vector less = load_double(numbers + i + k * Sums::lanes) - shift;
      first.vectors[k] += less;
      second.vectors[k] += less * less;
    }
  }
  sums[0] += in_order(first);
  sums[1] += in_order(second);
  for (int64_t i = whole; i < n; ++i) {
    const double less = numbers[i] - shift;
    sums[0] += less;
    sums[1] += less * less;
  }
}

// Adds n terms to a sum each.
template <class T>
void add_each(const void* terms_, int64_t n, double* sums) {
  auto* terms = static_cast<const T*>(terms_);
  FASTACT_VECTORIZE for (int64_t i = 0; i < n; ++i) sums[i] += terms[i];
}

}  // namespace
}  // namespace fastact
