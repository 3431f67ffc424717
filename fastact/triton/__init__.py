"""The Triton kernels, as implementations of the ops torch.ops.fastact (`ops`).

A formula stands in its family's file, a shorter one for 16-bit types in `lowp`. `programs` composes formulas into what
the kernel in `elementwise` computes; `softmax` and `maxout` have kernels of their own. `layout` plans how a kernel goes
through tensors, and `launch` compiles and starts it.
"""

import os

from ..dispatch import interpreting

if interpreting():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton decorates the kernels
