// The seam between the loops (loops.h, compiled once) and the arithmetic (kernels.cpp, compiled once per instruction
// set): functions over one block of consecutive elements in compute type, float or double, called through pointers.
// One indirect call per block of up to 2,048 elements costs nothing that can be measured.
#pragma once

#include <cstdint>

#include "activations.h"

namespace fastact {

constexpr int64_t kBlock = 2048;  // elements in a block at most: 8 KiB for each of its float buffers, which stay in L1
constexpr int64_t kStep = 64;     // a block's length is a multiple of this; the loops pad the tail

#define FASTACT_INDEX(Formula, name, parameters) k##Formula,
enum Pointwise : int { FASTACT_POINTWISE(FASTACT_INDEX) kPointwiseCount };
#undef FASTACT_INDEX

// What a block function needs to know beside its operands.
struct Call {
  const double* parameters;  // of the activation, in the order of its schema
  uint64_t seed;             // of the random numbers, where the formula takes one
};

// y = f(x) for n elements, of which the first is element number `first` of the tensor. Where the formula saves bits and
// `bits` is not null, also one bit per element: element i is bit i % 8 of byte i / 8. x and y may be the same.
using ForwardBlock = void (*)(const void* x, void* y, uint8_t* bits, int64_t n, int64_t first, const Call& call);

// grad_input = grad * f'(saved). `saved` is what the formula says: bits, the output or the input.
using BackwardBlock = void (*)(const void* grad, const void* saved, void* grad_input, int64_t n, int64_t first,
                               const Call& call);

using WidenBlock = void (*)(const uint16_t* from, float* to, int64_t n);
using NarrowBlock = void (*)(const float* from, uint16_t* to, int64_t n);

// Indexed by compute type (0 float, 1 double) or by 16-bit type (0 float16, 1 bfloat16).
struct InstructionSet {
  const char* name;
  ForwardBlock forward[kPointwiseCount][2];
  BackwardBlock backward[kPointwiseCount][2];
  // PReLU, with a slope for each element: y = f(x, weight); grad_input and the terms of the weight's gradient.
  void (*prelu[2])(const void* x, const void* weight, void* y, int64_t n);
  void (*prelu_backward[2])(const void* grad, const void* x, const void* weight, void* grad_input, void* terms,
                            int64_t n);
  WidenBlock widen[2];
  NarrowBlock narrow[2];
};

extern const InstructionSet kBaseline;
#if defined(__x86_64__)
extern const InstructionSet kAvx2;
extern const InstructionSet kAvx512;
#endif

}  // namespace fastact
