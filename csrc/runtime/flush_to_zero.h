// Flush-to-zero: results below the smallest normal number become zeros of their sign.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastact {

// Sets flush-to-zero for this thread, and puts the control bits back at the end of its life. Exact tails end in
// subnormal numbers, and x86 multiplies those in microcode: on an Intel Xeon, nn.Linear(512, 512) took 475 ms instead
// of 2.4 on such inputs. Subnormal inputs are read as they are, since ReLU and its like hand them on. (float16 has
// subnormal numbers of its own, which are normal ones in float32, where they are computed with. Arm multiplies
// subnormal numbers at full pace, and its flush-to-zero would flush inputs too.)
class [[maybe_unused]] FlushToZero {
#if defined(__SSE2__)
 public:
  FlushToZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | _MM_FLUSH_ZERO_ON); }
  // Exceptions raised in between stay raised, as after any arithmetic.
  ~FlushToZero() { _mm_setcsr(before_ | (_mm_getcsr() & _MM_EXCEPT_MASK)); }
  FlushToZero(const FlushToZero&) = delete;

 private:
  unsigned before_;
#endif
};

}  // namespace fastact
