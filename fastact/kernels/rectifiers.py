"""Rectifiers: csrc/rectifiers.h in Triton. `p` holds the activation's parameters in the order of the catalogue row."""

import triton
import triton.language as tl


@triton.jit
def relu_forward(x, p):
    return tl.where(x < 0, 0.0, x)


@triton.jit
def relu_keep(x, p):
    return (x <= 0) == 0


@triton.jit
def relu_dropped(grad, p):
    return tl.zeros_like(grad)


@triton.jit
def leaky_relu_forward(x, p):
    return tl.where(x > 0, x, x * p[0])


@triton.jit
def leaky_relu_keep(x, p):
    return x > 0


@triton.jit
def leaky_relu_dropped(grad, p):
    return grad * p[0]


@triton.jit
def _rrelu_slope(u, p):
    return u.to(p[0].dtype) * (p[1] - p[0]) + p[0]


@triton.jit
def rrelu_forward(x, u, p):
    return tl.where(x <= 0, x * _rrelu_slope(u, p), x)


@triton.jit
def rrelu_keep(x, p):
    return (x <= 0) == 0


@triton.jit
def rrelu_dropped(grad, u, p):
    return grad * _rrelu_slope(u, p)


@triton.jit
def prelu_forward(x, weight):
    return tl.where(x > 0, x, x * weight)


@triton.jit
def prelu_grad_input(grad, x, weight):
    return tl.where(x > 0, grad, grad * weight)


@triton.jit
def prelu_grad_weight(grad, x):
    return tl.where(x > 0, 0.0, grad * x)
