// Numbers as their bits.
#pragma once

#include <cstdint>
#include <type_traits>

namespace fastact {
namespace {  // each instruction set has its own copy, which the linker must not merge with another's

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// An integer as wide as a number, with all bits set or none.
template <class T>
using Flag = std::conditional_t<sizeof(T) == 2, int16_t, std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;

}  // namespace
}  // namespace fastact
