"""What the elementwise kernel computes: functions of the operands' values xs, the scalars p and formulas f.

Each returns a tuple of the outputs' values. The formulas are those of the families, or shorter ones for 16-bit types.
"""

import triton
import triton.language as tl


@triton.jit
def forward(xs, p, f):
    """The output and, where there is a second formula, the mask."""
    if len(f) == 1:
        return (f[0](xs[0], p),)
    else:
        return f[0](xs[0], p), f[1](xs[0], p)


@triton.jit
def random_forward(xs, p, f):
    """The same of an input and random numbers."""
    if len(f) == 1:
        return (f[0](xs[0], xs[1], p),)
    else:
        return f[0](xs[0], xs[1], p), f[1](xs[0], p)


@triton.jit
def derivative_backward(xs, p, f):
    """The input's gradient from the output's and a saved tensor, whose formula is the derivative."""
    return (xs[0] * f[0](xs[1], p),)


@triton.jit
def gradient_backward(xs, p, f):
    """The same with a formula of its own for the gradient."""
    return (f[0](xs[0], xs[1], p),)


@triton.jit
def mask_backward(xs, p, f):
    """The same from a mask. Gradients that it drops have a formula, and so may those that it keeps."""
    kept = xs[0] if len(f) == 1 else f[1](xs[0], p)
    return (tl.where(xs[1], kept, f[0](xs[0], p)),)


@triton.jit
def random_mask_backward(xs, p, f):
    return (tl.where(xs[1], xs[0], f[0](xs[0], xs[2], p)),)


@triton.jit
def weighted_forward(xs, p, f):
    """The output of an activation with weights, which follow the input."""
    return (f[0](xs[0], xs[1:], p),)


@triton.jit
def weighted_backward(xs, p, f):
    """The gradients of the input and of each weight, whose terms are summed."""
    gradients = ()
    for i in tl.static_range(len(f)):
        gradients += (f[i](xs[0], xs[1], xs[2:], p),)
    return gradients


@triton.jit
def gated_forward(xs, p, f):
    return (xs[0] * f[0](xs[1], p),)


@triton.jit
def gated_backward(xs, p, f):
    """The gradients of value and gate, from f's formula and its derivative's, or from one for both."""
    if len(f) == 1:
        return f[0](xs[0], xs[1], xs[2])
    else:
        return xs[0] * f[0](xs[2], p), xs[0] * xs[1] * f[1](xs[2], p)


@triton.jit
def recomputed_backward(xs, p, f):
    """The input's gradient where the derivative's formula, the first, is of the output, which is computed again."""
    return (xs[0] * f[0](f[1](xs[1], p), p),)


@triton.jit
def bias_forward(xs, p, f):
    """What f[0] computes, with the formulas in f[1], of the sum of the first input and the last, a bias; in between may
    be a residual to add."""
    ys = f[0]((xs[0] + xs[len(xs) - 1],), p, f[1])
    if len(xs) == 2:
        return ys
    else:
        return (ys[0] + xs[1],) + ys[1:]  # noqa: RUF005


@triton.jit
def bias_backward(xs, p, f):
    """The gradients of input and bias, of which f[0] computes the former from a mask or from both."""
    saved = xs[1] if len(xs) == 2 else xs[1] + xs[2]
    gradient = f[0]((xs[0], saved), p, f[1])[0]
    return gradient, gradient
