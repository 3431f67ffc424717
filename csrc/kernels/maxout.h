// Maxout: the largest of each group of `pieces` inputs, and its number in the group. The pieces of an output are
// `inner` elements apart: output i is the largest of inputs (i / inner * pieces + p) * inner + i % inner. Nothing is
// computed, so nothing is converted, and blocks need no padding.
#pragma once

#include "kernels/tiles.h"
#include "simd/step.h"

namespace fastact {
namespace {

// Numbers are compared by keys: the number itself or, of 16 bits, its sign and magnitude as an integer, with NaNs above
// infinity.
template <class T>
struct Comparable {
  using Bits = std::make_unsigned_t<Flag<T>>;
  static T key(Bits x) { return bit_cast<T>(x); }
};
template <int kInfinity>
struct Comparable16 {
  using Bits = uint16_t;
  static int16_t key(uint16_t x) {
    int16_t magnitude = static_cast<int16_t>(x & 0x7fff);
    int16_t number = static_cast<int16_t>(x >> 15 ? -magnitude : magnitude);
    return magnitude > kInfinity ? int16_t{0x7fff} : number;
  }
};
template <>
struct Comparable<Float16> : Comparable16<0x7c00> {};
template <>
struct Comparable<BFloat16> : Comparable16<0x7f80> {};

// Returns a where the condition holds, else b, by a mask: scalar code would have an unpredictable branch.
template <class Bits>
inline Bits choose(bool condition, Bits a, Bits b) {
  return static_cast<Bits>(b ^ ((a ^ b) & (Bits(0) - static_cast<Bits>(condition))));
}

// Updates the best number and its index. As in torch, the first of equal numbers stays, and so does the first NaN.
template <class C>
inline void meet(typename C::Bits x, typename C::Bits piece, typename C::Bits& best, typename C::Bits& winner) {
  auto key = C::key(x), best_key = C::key(best);
  bool better = !(key <= best_key) & (best_key == best_key);
  best = choose(better, x, best);
  winner = choose(better, piece, winner);
}

// Computes n outputs. Their first pieces are `step` apart, the pieces of one output are `apart`. Small steps are
// compile-time constants, which turns strided loads into shuffles.
template <class C, int kStep>
FASTACT_FLATTEN void maxout_run(const typename C::Bits* __restrict__ x, int64_t step, int64_t apart, int64_t pieces,
                                typename C::Bits* __restrict__ y, typename C::Bits* __restrict__ winners, int64_t n) {
  if (kStep > 0) step = kStep;
  FASTACT_VECTORIZE for (int64_t i = 0; i < n; ++i) {
    auto best = x[i * step];
    typename C::Bits winner = 0;
    meet<C>(x[i * step + apart], 1, best, winner);
    y[i] = best;
    winners[i] = winner;
  }
  for (int64_t p = 2; p < pieces; ++p) {
    FASTACT_VECTORIZE for (int64_t i = 0; i < n; ++i) {
      auto best = y[i];
      auto winner = winners[i];
      meet<C>(x[i * step + p * apart], static_cast<typename C::Bits>(p), best, winner);
      y[i] = best;
      winners[i] = winner;
    }
  }
}

template <class Bits, int kPieces>
void spread_few(const Bits* __restrict__ grad, const Bits* __restrict__ winners, Bits* __restrict__ grad_input,
                int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t p = 0; p < kPieces; ++p)
      grad_input[i * kPieces + p] = choose(winners[i] == static_cast<Bits>(p), grad[i], Bits(0));
}

template <class Bits>
void spread_adjacent(const Bits* __restrict__ grad, const Bits* __restrict__ winners, int64_t pieces,
                     Bits* __restrict__ grad_input, int64_t n) {
  __builtin_memset(grad_input, 0, n * pieces * sizeof(Bits));
  for (int64_t i = 0; i < n; ++i) grad_input[i * pieces + winners[i]] = grad[i];
}

template <class Bits>
void spread_apart(const Bits* __restrict__ grad, const Bits* __restrict__ winners, int64_t pieces, int64_t inner,
                  Bits* __restrict__ grad_input, int64_t n) {
  for (int64_t p = 0; p < pieces; ++p)
    FASTACT_VECTORIZE for (int64_t i = 0; i < n; ++i) grad_input[p * inner + i] =
        choose(winners[i] == static_cast<Bits>(p), grad[i], Bits(0));
}

// Winners are kept as wide as the numbers they belong to, in a buffer of kChunk. As bytes, loops would take 64 elements
// at a time, and leave short runs to scalar code.
constexpr int64_t kChunk = 512;

// Calls body(begin, n) for chunks of outputs begin to end. Chunks are shorter for many pieces, so that the inputs stay
// in L1 from piece to piece.
template <class Body>
inline void for_each_chunk(int64_t begin, int64_t end, int64_t pieces, const Body& body) {
  const int64_t most = pieces <= 16 ? kChunk : 16 * kChunk / pieces;
  for (; begin < end; begin += most) body(begin, end - begin < most ? end - begin : most);
}

// Splits n outputs from number `begin` on into runs within one group. Calls body(input, offset, n) with the number of a
// run's first piece and its distance from `begin`.
template <class Body>
inline void for_each_run_in_groups(int64_t begin, int64_t n, int64_t pieces, int64_t inner, const Body& body) {
  int64_t group = begin / inner, at = begin % inner;
  for (int64_t offset = 0; offset < n; ++group, at = 0) {
    int64_t run = inner - at < n - offset ? inner - at : n - offset;
    body(group * pieces * inner + at, offset, run);
    offset += run;
  }
}

template <class C>
void maxout_forward(const void* x_, void* y_, uint8_t* indices, int64_t begin, int64_t end, int64_t pieces,
                    int64_t inner) {
  auto* x = static_cast<const typename C::Bits*>(x_);
  auto* y = static_cast<typename C::Bits*>(y_);
  alignas(64) typename C::Bits winners[kChunk];
  for_each_chunk(begin, end, pieces, [&](int64_t first, int64_t n) {
    if (inner == 1) {
      auto run = pieces == 2   ? maxout_run<C, 2>
                 : pieces == 3 ? maxout_run<C, 3>
                 : pieces == 4 ? maxout_run<C, 4>
                               : maxout_run<C, 0>;
      run(x + first * pieces, pieces, 1, pieces, y + first, winners, n);
    } else {
      for_each_run_in_groups(first, n, pieces, inner, [&](int64_t input, int64_t offset, int64_t count) {
        maxout_run<C, 1>(x + input, 1, inner, pieces, y + first + offset, winners + offset, count);
      });
    }
    if (indices)
      for (int64_t i = 0; i < n; ++i) indices[first + i] = static_cast<uint8_t>(winners[i]);
  });
}

template <class Bits>
void maxout_backward(const void* grad_, const uint8_t* indices, void* grad_input_, int64_t begin, int64_t end,
                     int64_t pieces, int64_t inner) {
  auto* grad = static_cast<const Bits*>(grad_);
  auto* grad_input = static_cast<Bits*>(grad_input_);
  alignas(64) Bits winners[kChunk];
  for_each_chunk(begin, end, pieces, [&](int64_t first, int64_t n) {
    for (int64_t i = 0; i < n; ++i) winners[i] = indices[first + i];
    const Bits* from = grad + first;
    Bits* to = grad_input + first * pieces;
    if (inner > 1) {
      for_each_run_in_groups(first, n, pieces, inner, [&](int64_t input, int64_t offset, int64_t count) {
        spread_apart(from + offset, winners + offset, pieces, inner, grad_input + input, count);
      });
    } else if (pieces == 2) {
      spread_few<Bits, 2>(from, winners, to, n);
    } else if (pieces == 3) {
      spread_few<Bits, 3>(from, winners, to, n);
    } else {
      spread_adjacent(from, winners, pieces, to, n);
    }
  });
}

}  // namespace
}  // namespace fastact
