// x86's intrinsics.
#pragma once

#pragma GCC diagnostic push
#if !defined(__clang__)  // of registers that GCC 12's own header leaves undefined on purpose (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
