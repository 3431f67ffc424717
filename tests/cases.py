"""The catalogue as test cases: each activation with each of its sample arguments, on each kind of input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastact.functional as F
from fastact.catalogue import ACTIVATIONS, Activation

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    activation: Activation
    keywords: tuple[tuple[str, Any], ...]
    per_channel: bool = False

    def __str__(self) -> str:
        label = ",".join(f"{name}={value:g}" for name, value in self.keywords)
        return f"{self.activation.name}({label}{'per channel' if self.per_channel else ''})"

    @property
    def deterministic(self) -> bool:
        """Whether torch draws the same: not random, or random between equal bounds."""
        return not self.activation.random or dict(self.keywords)["lower"] == dict(self.keywords)["upper"]

    def _arguments(self, input: Tensor) -> tuple[Tensor, ...]:
        if not self.activation.weight:
            return (input,)
        count = input.shape[1] if self.per_channel and input.dim() > 1 else 1
        weight = torch.linspace(-0.5, 1.5, count + 1, dtype=torch.float64)[1:]
        return input, weight.to(input.dtype).to(input.device)

    def _keywords(self, **more: Any) -> dict[str, Any]:
        return {**dict(self.keywords), **self.activation.extras, **more}

    def fastact(self, input: Tensor, *weight: Tensor, **more: Any) -> Tensor:
        arguments = (input, *weight) if weight else self._arguments(input)
        return getattr(F, self.activation.name)(*arguments, **self._keywords(**more))

    def torch(self, input: Tensor, *weight: Tensor, **more: Any) -> Tensor:
        arguments = (input, *weight) if weight else self._arguments(input)
        try:
            return self.activation.reference(*arguments, **self._keywords(**more))
        except NotImplementedError:  # torch has no float16 RReLU on the CPU
            wide = (argument.float() for argument in arguments)
            return self.activation.reference(*wide, **self._keywords(**more)).to(input.dtype)

    def weight(self, input: Tensor) -> tuple[Tensor, ...]:
        """The learned tensor that goes with this input, if there is one."""
        return self._arguments(input)[1:]

    def both(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        return self.fastact, self.torch


def _cases() -> list[Case]:
    cases = []
    for activation in ACTIVATIONS.values():
        for sample in activation.samples:
            cases.append(Case(activation, tuple(sample.items())))
            if activation.weight:
                cases.append(Case(activation, tuple(sample.items()), per_channel=True))
    return cases


CASES = _cases()
DETERMINISTIC = [case for case in CASES if case.deterministic]
DEFAULTS = [next(case for case in CASES if case.activation is activation) for activation in ACTIVATIONS.values()]
"""One case per activation: its default arguments."""


def _strided(tensor: Tensor) -> Tensor:
    """The same values as every other element of a larger tensor."""
    wide = torch.zeros(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype, device=tensor.device)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def _chunk(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, torch.zeros_like(tensor)], dim=-1).chunk(2, dim=-1)[0]


LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "0-d": ((), lambda x: x),
    "empty": ((0,), lambda x: x),
    "empty 2-d": ((3, 0), lambda x: x),
    "one": ((1,), lambda x: x),
    "odd": ((7, 3, 11), lambda x: x),
    "63": ((63,), lambda x: x),
    "65": ((65,), lambda x: x),
    "several blocks": ((9001,), lambda x: x),
    "unaligned": ((1001,), lambda x: x[1:]),
    "transposed": ((6, 40), lambda x: x.t()),
    "transposed 4-d": ((4, 6, 5, 8), lambda x: x.transpose(1, 3)),
    "channels_last": ((2, 5, 6, 7), lambda x: x.to(memory_format=torch.channels_last)),
    "channels_last_3d": ((2, 3, 4, 5, 3), lambda x: x.to(memory_format=torch.channels_last_3d)),
    "chunk": ((5, 128), _chunk),
    "chunk of narrow rows": ((40, 24), _chunk),
    "chunk 3-d": ((3, 4, 96), _chunk),
    "rows": ((12, 200), lambda x: x[::2]),
    "every other": ((5, 33), _strided),
    "every other row, transposed": ((6, 40), lambda x: x.t()[::2]),
    "expanded": ((4, 1), lambda x: x.expand(4, 70)),
    "expanded rows": ((1, 64), lambda x: x.expand(5, 64)),
    "sliced channels_last": ((2, 6, 5, 5), lambda x: x.to(memory_format=torch.channels_last)[:, 1:5]),
    "slice of middle": ((4, 6, 64), lambda x: x[:, 1:4]),
}


def random_input(layout: str, dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
    shape, arrange = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    return arrange(values.to(dtype).to(device))


SPECIAL = (
    0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-45, 1e-40, -1e-40, 1.1754944e-38, -1.1754944e-38,
    1e-20, -1e-20, 1.0, -1.0, 20.0, -20.0, 88.0, -88.0, 88.8, -88.8, 103.0, -103.0, 200.0, -200.0,
    3.4028235e38, -3.4028235e38,
)  # fmt: skip
"""Zeros, infinities, NaN, subnormals, and both sides of where exponentials overflow and vanish."""
