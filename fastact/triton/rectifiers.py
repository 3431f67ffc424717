"""Rectifiers: csrc/activations/rectifiers.h in Triton. `p` holds the scalars in the order of the catalogue's row."""

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
def threshold_forward(x, p):
    return tl.where(x <= p[0], p[1], x)


@triton.jit
def threshold_keep(x, p):
    return (x <= p[0]) == 0


@triton.jit
def threshold_dropped(grad, p):
    return tl.zeros_like(grad)


@triton.jit
def hardtanh_forward(x, p):
    return tl.where(x < p[0], p[0], tl.where(x > p[1], p[1], x))


@triton.jit
def hardtanh_keep(x, p):
    return ((x <= p[0]) | (x >= p[1])) == 0


@triton.jit
def hardtanh_dropped(grad, p):
    return tl.zeros_like(grad)


@triton.jit
def relu6_forward(x, p):
    return hardtanh_forward(x, (0.0, 6.0))


@triton.jit
def relu6_keep(x, p):
    return hardtanh_keep(x, (0.0, 6.0))


@triton.jit
def relu6_dropped(grad, p):
    return tl.zeros_like(grad)


@triton.jit
def squared_relu_forward(x, p):
    return tl.where(x < 0, 0.0, x * x)


@triton.jit
def squared_relu_gradient(grad, x, p):
    return tl.where(x <= 0, 0.0, grad * (2.0 * x))


@triton.jit
def prelu_forward(x, w, p):
    return tl.where(x > 0, x, x * w[0])


@triton.jit
def prelu_grad_input(grad, x, w, p):
    return tl.where(x > 0, grad, grad * w[0])


@triton.jit
def prelu_grad_weight(grad, x, w, p):
    return tl.where(x > 0, 0.0, grad * x)


@triton.jit
def star_relu_forward(x, w, p):
    r = tl.where(x < 0, 0.0, x)
    return tl.fma(w[0] * r, r, w[1] + tl.zeros_like(r))


@triton.jit
def star_relu_grad_input(grad, x, w, p):
    return tl.where(x <= 0, 0.0, grad * (2.0 * (w[0] * x)))


@triton.jit
def star_relu_grad_scale(grad, x, w, p):
    r = tl.where(x < 0, 0.0, x)
    return grad * (r * r)


@triton.jit
def star_relu_grad_bias(grad, x, w, p):
    return grad
