"""Compiles kernels for the arguments of a launch, keeps them, and starts them on the tensors' device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.compiler import ASTSource, CompiledKernel

from ..dispatch import KernelUnavailable, NotLoaded, interpreting

COMPUTE_TYPE = {
    torch.float32: tl.float32,
    torch.float16: tl.float32,
    torch.bfloat16: tl.float32,
    torch.float64: tl.float64,
}
"""What formulas compute in, by the dtype of tensors."""

# 64 bytes per thread of four warps: four 128-bit accesses in flight for each operand. For float64, whose divisions are
# calls, half of that: with more numbers alive across the calls, some are spilled.
BLOCK_SIZE = {torch.float64: 512, torch.float32: 2048, torch.float16: 4096, torch.bfloat16: 4096}
_NAMES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.uint8: "u8",
    torch.int64: "i64",
}


def cdiv(a: int, b: int) -> int:
    return -(-a // b)  # triton.cdiv takes a tenth of a whole launch for that


def power_of_2_from(n: int) -> int:
    return 1 << (n - 1).bit_length()


class Launch(NamedTuple):
    """A kernel, its grid and its threads, and its arguments: first those that it reads, then those that it writes."""

    kernel: Any
    programs: int
    num_warps: int
    arguments: tuple

    @property
    def ins(self) -> tuple[Tensor, ...]:
        return self.arguments[0]

    @property
    def outs(self) -> tuple[Tensor, ...]:
        return self.arguments[1]

    @property
    def name(self) -> str:
        """What profilers show of it."""
        return f"fastact_{self.argument('NAME')}"

    @property
    def kind(self) -> str:
        """Equal for launches that run the same compiled kernel."""
        return repr((self.kernel.__name__, self.num_warps, self.signature()))

    def argument(self, name: str) -> Any:
        return self.arguments[self.kernel.arg_names.index(name)]

    def signature(self) -> tuple[dict[str, Any], dict[tuple, Any], dict[tuple, list]]:
        """What the compiler is told of the arguments: types; by their place, constants and what divides by 16.

        Integers that are 1 become constants, as in Triton's own launches; those in tuples do not."""
        types, constants, attributes = {}, {}, {}

        def type_of(argument: Any, *place: int) -> Any:
            if isinstance(argument, Tensor):
                if argument.data_ptr() % 16 == 0:
                    attributes[place] = [["tt.divisibility", 16]]
                return f"*{_NAMES[argument.dtype]}"
            if isinstance(argument, tuple) and argument:
                return tuple(type_of(each, *place, i) for i, each in enumerate(argument))
            if type(argument) is float:
                return "fp64"
            if type(argument) is int and (argument != 1 or len(place) > 1):
                if argument % 16 == 0:
                    attributes[place] = [["tt.divisibility", 16]]
                return "i64" if argument >= 1 << 31 else "i32"
            constants[place] = argument
            return "constexpr"

        for i, (parameter, argument) in enumerate(zip(self.kernel.params, self.arguments, strict=True)):
            if parameter.is_constexpr:
                types[parameter.name], constants[(i,)] = "constexpr", argument
            else:
                types[parameter.name] = parameter.annotation_type or type_of(argument, i)
        return types, constants, attributes

    def compile(self, target: Any = None) -> CompiledKernel:
        """For a GPU or the current one; from Triton's cache, if it is there."""
        options = {"num_warps": self.num_warps, "enable_fp_fusion": False}  # formulas say themselves where they fuse
        return triton.compile(ASTSource(self.kernel, *self.signature()), target=target, options=options)


def kernel_name(specialization: Any) -> str:
    """The same for `triton.jit`."""
    return f"fastact_{specialization.constants['NAME']}"


_recorded: list[Launch] | None = None


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """In all threads, launches only go into this list, and outputs hold nothing: tensors may be on any device."""
    global _recorded
    _recorded = launches = []
    try:
        yield launches
    finally:
        _recorded = None


def launch(kernel: Any, programs: int, device: torch.device, *arguments: Any, num_warps: int = 4) -> None:
    """Runs a kernel. Among its parameters those with a type, and then the constants, come last."""
    if programs == 0:
        return
    launch = Launch(kernel, programs, num_warps, arguments)
    if _recorded is not None:
        _recorded.append(launch)
    elif device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            _start(launch, device)
    else:
        _start(launch, device)


_compiled: dict[tuple, CompiledKernel] = {}
_ends: dict[int, tuple[int, int]] = {}
"""Of kernels, how many arguments from the end on are not specialized, having a type; and how many of them constants."""


def _start(launch: Launch, device: torch.device) -> None:
    key = () if interpreting() else _key(launch, device)
    if key in _compiled:
        _compiled[key][(launch.programs, 1, 1)](*launch.arguments)
        return
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise NotLoaded(launch.name)
    try:
        _start_anew(launch, key)
    except Exception as error:
        why = f"Triton could not compile or launch a kernel ({launch.kernel.__name__})"
        raise KernelUnavailable(device, why, error) from error


def _start_anew(launch: Launch, key: tuple) -> None:
    if interpreting():
        launch.kernel[(launch.programs,)](*launch.arguments)
    else:
        compiled = launch.compile()
        compiled[(launch.programs, 1, 1)](*launch.arguments)
        _compiled[key] = compiled


def _key(launch: Launch, device: torch.device) -> tuple:
    """All that a compiled kernel depends on; it is made at each launch, `Launch.signature` only to compile."""
    kernel, _, num_warps, arguments = launch
    if id(kernel) not in _ends:
        constants = sum(parameter.is_constexpr for parameter in kernel.params)
        annotated = sum(bool(parameter.annotation_type) for parameter in kernel.params)
        _ends[id(kernel)] = -constants - annotated, -constants
    specialized, variable = _ends[id(kernel)]
    return (
        id(kernel),
        device.index,
        num_warps,
        *map(_kind_of, arguments[:specialized]),
        *[each if type(each) in _BY_VALUE else id(each) for each in arguments[variable:]],
    )


_BY_VALUE = frozenset((int, bool, str, tuple, type(None)))


def _kind_of(argument: Any) -> Any:
    """What `Launch.signature` tells of an argument."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if type(argument) is tuple:
        return tuple(map(_kind_of, argument))
    if type(argument) is int:
        return (argument % 16 == 0) + 2 * (argument == 1) + 4 * (argument >= 1 << 31)
    if type(argument) is float:
        return float
    return id(argument)  # a formula or a function, which lives as long as the package
