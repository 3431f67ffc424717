// What the emulated GPU knows of memory, and the allocator that tells it.
#pragma once

#include <cstddef>
#include <cstdint>

// New memory holds copies of this. As 16-bit floats of either kind each half is a NaN that no arithmetic makes; as
// masks or integers four such bytes in a row, at an address divisible by 4, have a chance of 2^-32.
constexpr uint32_t CANARY[4] = {0xffa7ff93, 0xff8dffdb, 0xffe5ffb9, 0xff95ffc3};

extern "C" {
// `canary`: it is filled with CANARY.
void emulator_add_memory(void* begin, size_t bytes, int canary);
// Returns how many bytes it had, 0 if it was not known.
size_t emulator_remove_memory(void* begin);
}
