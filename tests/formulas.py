"""A function for the elementwise kernel. Triton reads its source, and so it has a file."""

import triton
import triton.language as tl


@triton.jit
def three_of_each(xs, p, f):
    """A tile of three tiles, three weights and three scalars; three sums."""
    tl.static_assert(len(xs) == 6 and len(p) == 3)
    y = xs[0] * xs[3] * p[0] + xs[1] * xs[4] * p[1] + xs[2] * xs[5] * p[2]
    return y, xs[0], xs[1], xs[2]
