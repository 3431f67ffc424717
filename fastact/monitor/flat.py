"""Where an activation is flat: exact intervals of its input, from the formula's row."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..catalogue import Activation
from ..enable import torch_kernels

FLAT = 0.05
"""A smooth activation is flat where its derivative is below this share of its maximum, or of 1 where that is larger."""


def flat_intervals(activation: Activation, arguments: dict[str, Any]) -> tuple[Tensor | None, bool]:
    """The inputs (low, high] at which the activation is flat, see `Row`, exact at kinks, as rows of float64 on the CPU;
    None where that is not told. And whether to call it saturation.

    Raises TypeError if an argument is not a number.
    """
    if not activation.pointwise:
        return None, False
    for name, value in arguments.items():
        if not isinstance(value, Real):
            raise TypeError(f"{name} is a {type(value).__name__}, not a number")
    return _intervals(activation, tuple(arguments.items()))


@lru_cache(256)
def _intervals(activation: Activation, scalars: tuple[tuple[str, Any], ...]) -> tuple[Tensor | None, bool]:
    # A model may be running, under modes, transforms, tracing and hooks on saved tensors, all of which see what is
    # computed in their thread.
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(_compute, activation, dict(scalars)).result()


def _compute(activation: Activation, arguments: dict[str, Any]) -> tuple[Tensor | None, bool]:
    kinks = [kink for kink in activation.kinks(**arguments) if math.isfinite(kink)]
    with torch.device("cpu"), torch_kernels():
        # Where a slope is learned, any but 1 shows on which side.
        arguments |= {name: torch.full((1,), low, dtype=torch.float64) for name, (low, _) in activation.weights.items()}

        def slopes_at(inputs: Tensor) -> Tensor:
            inputs = inputs.clone().requires_grad_()
            output = activation.reference(inputs, **arguments, **activation.options)
            return torch.autograd.grad(output.sum(), inputs)[0]

        # Fine where most activations bend, and by orders of magnitude up to wherever arguments may move that.
        positive = torch.cat(
            (torch.linspace(0, 30, 3001, dtype=torch.float64), torch.logspace(-8, 8, 1025, dtype=torch.float64))
        )
        edges = torch.cat((-positive, positive, torch.tensor(kinks, dtype=torch.float64)))
        outermost = 2 * edges.abs().max()
        edges = torch.cat((edges, torch.stack((-outermost, outermost)))).unique()
        middles = (edges[1:] + edges[:-1]) / 2
        slopes = slopes_at(middles)
        middles, slopes = middles[slopes.isfinite()], slopes[slopes.isfinite()]
        two_lines = slopes.diff().count_nonzero() == 1
        if activation.weights and not two_lines:
            return None, False
        least = FLAT * slopes.abs().max().clamp(max=1)

        def is_flat(slopes: Tensor) -> Tensor:
            return slopes != 1 if two_lines else slopes.abs() < least

        flat = is_flat(slopes)
        changes = (flat[1:] != flat[:-1]).nonzero().flatten()
        low, high, before = middles[changes], middles[changes + 1], flat[changes]
        for _ in range(80):  # bisection, to the last digit
            middle = (low + high) / 2
            same = is_flat(slopes_at(middle)) == before
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    found = [min(kinks, key=lambda kink: abs(kink - edge), default=edge) for edge in high.tolist()]
    edges_found = [
        kink if math.isclose(kink, edge, rel_tol=1e-9, abs_tol=1e-9) else edge
        for kink, edge in zip(found, high.tolist(), strict=True)
    ]
    bounds = [-math.inf, *edges_found, math.inf]
    states = [bool(flat[0]), *(not state for state in before.tolist())]
    found_flat = [bound for bound, state in zip(pairwise(bounds), states, strict=True) if state]
    return torch.tensor(found_flat, dtype=torch.float64, device="cpu").reshape(-1, 2), bool(not two_lines)
