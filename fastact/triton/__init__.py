"""The Triton kernels. A formula stands in its family's file, a shorter one for 16-bit types in `lowp`;
the loops in `elementwise`, the launches in `launch`."""

from .launch import (
    backward,
    forward,
    gated_backward,
    gated_forward,
    learned_backward,
    learned_forward,
    maxout_backward,
    maxout_forward,
    softmax_backward,
    softmax_forward,
)

__all__ = [
    "backward",
    "forward",
    "gated_backward",
    "gated_forward",
    "learned_backward",
    "learned_forward",
    "maxout_backward",
    "maxout_forward",
    "softmax_backward",
    "softmax_forward",
]
