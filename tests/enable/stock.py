"""What tests of `fastact.enable` share: torch's ops in all their forms, and a call's outcome with it and without."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastact
from fastact.catalogue import ACTIVATIONS, SELU_ALPHA, SELU_SCALE

OPS: dict[str, str] = {
    row: op for op, rows in torch.ops.fastact.overridable().items() for row in rows if (op, row) != ("elu", "celu")
}
"""torch's op for each activation that has one."""
ARGUMENTS: dict[str, tuple] = {
    "relu6": (0.0, 6.0),
    "selu": (SELU_ALPHA, SELU_SCALE),
    "rrelu": (1 / 8, 1 / 3, True),
    "softmax": (-1, False),
    "log_softmax": (-1, False),
    "gelu_tanh": (),
}
"""Of the op, where they are not the catalogue's."""
IN_PLACE = [name for name, op in OPS.items() if hasattr(torch.ops.aten, f"{op}_")]
OUT = [name for name, op in OPS.items() if "out" in getattr(torch.ops.aten, op).overloads()]
METHODS = [name for name in OPS if hasattr(Tensor, name) and name != "rrelu"]  # Tensor has no such method in full
TOLERANCE = {
    dtype: {"rtol": n * torch.finfo(dtype).eps, "atol": n * torch.finfo(dtype).eps}
    for dtype, n in ((torch.float64, 8), (torch.float32, 8), (torch.float16, 3), (torch.bfloat16, 3))
}
"""In eps of the dtype, as in test_torch_suite.py: a formula's few roundings here and there, and torch's 16-bit kernels
round in between."""


def node(name: str) -> str:
    """The name of fastact's node in the graph; torch's end in a digit."""
    return "GELUTanhBackward" if name == "gelu_tanh" else f"{ACTIVATIONS[name].module}Backward"


def aten(name: str, suffix: str = "", overload: str = "default") -> Callable[..., Any]:
    """torch's op as a function of the input alone, but for `out`."""
    op = getattr(getattr(torch.ops.aten, OPS[name] + suffix), overload)
    arguments = ARGUMENTS.get(name, tuple(ACTIVATIONS[name].arguments().values()))
    keywords = {"approximate": "tanh"} if name == "gelu_tanh" else {}

    def call(input: Tensor, **more: Any) -> Any:
        weights = (torch.full((1,), 0.25, dtype=input.dtype),) if name == "prelu" else ()
        return op(input, *weights, *arguments, **keywords, **more)

    return call


def functional(name: str) -> Callable[..., Any]:
    """torch's function of the input alone."""
    row = ACTIVATIONS[name]

    def call(input: Tensor) -> Tensor:
        weights = (torch.full((1,), 0.25, dtype=input.dtype),) if name == "prelu" else ()
        return row.reference(input, *weights, **{**row.arguments(), **row.keywords})

    return call


def ours(name: str) -> Callable[..., Any]:
    """fastact's function of the input alone."""
    row = ACTIVATIONS[name]

    def call(input: Tensor) -> Tensor:
        weights = (torch.full((1,), 0.25, dtype=input.dtype),) if name == "prelu" else ()
        return getattr(fastact.functional, row.function)(input, *weights, **{**row.arguments(), **row.keywords})

    return call


def method(name: str) -> Callable[[Tensor], Any]:
    row = ACTIVATIONS[name]
    keywords = {key: value for key, value in row.arguments().items() if key != "approximate"}
    return lambda input: getattr(input, name)(
        *([torch.full((1,), 0.25).to(input)] if name == "prelu" else []), **keywords
    )


def module(name: str) -> Callable[[Tensor], Any]:
    row = ACTIVATIONS[name]
    return lambda input: row.stock(**row.arguments()).to(input.dtype)(input)


def run_by(call: Callable[[], Any]) -> list[str]:
    """The names of all ops that the call runs, on whatever thread and from wherever in C++."""
    with torch.profiler.profile() as profile:
        call()
    return [event.name for event in profile.events() if "::" in event.name]


class Watch(TorchDispatchMode):
    """The names of the ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))

    @property
    def ours(self) -> list[str]:
        return [name for name in self.seen if name.startswith("fastact.")]


def describe(value: Any) -> Any:
    """All that a caller can see of a result but its values."""
    if isinstance(value, (tuple, list)):
        return [describe(each) for each in value]
    if not isinstance(value, Tensor):
        return value
    seen = [
        type(value),
        value.dtype,
        value.layout,
        value.device,
        value.requires_grad,
        value.is_leaf,
        value.is_inference(),
    ]
    if value.is_nested or value.layout != torch.strided:
        return seen
    # Without elements, or along dimensions of one, strides mean nothing.
    strides = [stride for size, stride in zip(value.shape, value.stride(), strict=True) if size != 1 and value.numel()]
    return [*seen, value.shape, strides, value.is_neg()]


def outcome(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """The result or the exception, and the texts of warnings."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed keeps the stack for other devices
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            result = error
    once = ("Sparse CSR", "The PyTorch API of nested", "torch.quantize_per", "`torch.jit")  # in a process
    return result, [text for text in (str(each.message) for each in caught) if not text.startswith(once)]


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in tensors(each)]
    return [value] if isinstance(value, Tensor) else []


def assert_stock(call: Callable[[], Any], values: bool = True, size: float = 1, what: str = "") -> Any:
    """Assert that the call comes to the same with torch's ops replaced: results in all that can be seen of them, with
    values but for rounding of numbers up to `size`, or errors and warnings. Returns the result, or the error."""
    fastact.disable()
    expected, warned = outcome(call)
    with fastact.enable():
        got, warned_now = outcome(call)
    if isinstance(expected, Exception) or isinstance(got, Exception):
        assert (type(got), str(got)) == (type(expected), str(expected)), what
        return got
    assert describe(got) == describe(expected), what
    assert warned_now == warned, what
    for mine, theirs in zip(tensors(got), tensors(expected), strict=True):
        if values and mine.layout == torch.strided and not mine.is_nested and mine.device.type != "meta":
            rtol, atol = TOLERANCE.get(mine.dtype, {"rtol": 0, "atol": 0}).values()
            kwargs = {"rtol": rtol, "atol": atol * size, "equal_nan": True}
            torch.testing.assert_close(mine, theirs, **kwargs, msg=lambda m: f"{what}: {m}")
    return got
