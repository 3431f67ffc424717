"""The Triton kernels. A formula stands in its family's file, the loops in `loops`, the launches in `launch`."""

from .launch import backward, forward, prelu, prelu_backward

__all__ = ["backward", "forward", "prelu", "prelu_backward"]
