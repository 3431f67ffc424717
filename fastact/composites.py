"""What torch has no function for, of torch's ops: the torch path, and the truth that tests compare with.

Apart from the catalogue so that TorchScript can compile them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_relu(input: Tensor) -> Tensor:
    return F.relu(input).square()


def per_channel(weights: Tensor, input: Tensor) -> Tensor:
    """One number for all, or one for each channel of the input (dimension 1)."""
    if weights.numel() == 1:
        return weights.squeeze()
    return weights.view([-1] + [1] * (input.dim() - 2))


def star_relu(input: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return per_channel(scale, input) * F.relu(input).square() + per_channel(bias, input)


def quick_gelu(input: Tensor) -> Tensor:
    return input * torch.sigmoid(1.702 * input)


def xielu(input: Tensor, alpha_p: Tensor, alpha_n: Tensor, beta: float = 0.5) -> Tensor:
    is_positive = input > 0
    positive = per_channel(alpha_p, input) * input * input
    below = torch.where(is_positive, 0.0, input)  # not clamp, whose derivative at 0 is 1 before torch 2.14, then 0
    negative = per_channel(alpha_n, input) * (torch.expm1(below) - below)
    return torch.where(is_positive, positive, negative) + beta * input


def snake(input: Tensor, alpha: Tensor) -> Tensor:
    alpha = per_channel(alpha, input)
    return input + torch.sin(alpha * input).square() / alpha


def value_and_gate(
    input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False
) -> tuple[Tensor, Tensor]:
    """The two tensors, or the halves of the one."""
    if gate is not None:
        return input, gate
    # Not chunk, which would cut an odd size into unequal parts; this refuses it.
    half = input.size(dim) // 2
    first, second = torch.split_with_sizes(input, [half, half], dim)
    return (second, first) if gate_first else (first, second)


def reglu(input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False) -> Tensor:
    value, gate = value_and_gate(input, gate, dim, gate_first)
    return value * F.relu(gate)


def bilinear(input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False) -> Tensor:
    value, gate = value_and_gate(input, gate, dim, gate_first)
    return value * gate


def geglu(
    input: Tensor, gate: Tensor | None = None, dim: int = -1, approximate: str = "none", gate_first: bool = False
) -> Tensor:
    value, gate = value_and_gate(input, gate, dim, gate_first)
    return value * F.gelu(gate, approximate=approximate)


def swiglu(input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False) -> Tensor:
    value, gate = value_and_gate(input, gate, dim, gate_first)
    return value * F.silu(gate)


def maxout(input: Tensor, pieces: int, dim: int = -1) -> Tensor:
    if pieces < 2 or pieces > 255:
        raise ValueError(f"maxout: pieces must be from 2 to 255, got {pieces}")
    # Not amax, which would share the gradient among equals.
    return input.unflatten(dim, (-1, pieces)).max(dim if dim < 0 else dim + 1).values
