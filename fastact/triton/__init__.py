"""The Triton kernels.

A formula stands in its family's file, a shorter one for 16-bit types in `lowp`. `programs` composes formulas into what
the kernels in `elementwise` compute; `softmax` and `maxout` have kernels of their own. `sources` finds what a kernel's
name stands for, and compiles it. `summary` has the kernels that count what a monitor sees, and launches them.
"""
