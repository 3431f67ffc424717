"""Which calls run fastact's ops, and which are torch's. Decided here, and beside tensors' layouts nowhere else. For
what is usual `csrc/autograd/python.cpp` gives the same answers, sooner.

A call is fastact's whenever the input is a plain tensor of a floating dtype in eager mode and torch accepts its
arguments: whatever its size. So what is saved for backward, the node in the graph, the random numbers and the errors
are the same for one element and for a billion. From here on torch's dispatcher chooses (`fastact.ops`).
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from importlib.util import find_spec
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.nn import Parameter

from .libraries import answered_in_cpp

NUMBERS = {torch.float16: 5, torch.float32: 6, torch.float64: 7, torch.bfloat16: 15}
"""torch's of the dtypes. It takes a number from Python 1 us sooner than a dtype."""
DTYPES = frozenset(NUMBERS)
DTYPE_OF = {number: dtype for dtype, number in NUMBERS.items()}
_HALVES = frozenset((torch.float16, torch.bfloat16))
_TYPES = frozenset((Tensor, Parameter))
_any_autocast = torch._C._is_any_autocast_enabled
_FITS_ALL = torch.finfo(torch.float16).max
_LARGEST = {dtype: min(torch.finfo(dtype).max, torch.finfo(torch.float32).max) for dtype in DTYPES}
"""Of scalar arguments, by the input's dtype: torch refuses larger ones, NaN and infinity, here and there."""


def always_kernels() -> AbstractContextManager[None]:
    """Do nothing: fastact's ops run at every size.

    Deprecated since 0.2. Before, small tensors took torch's path, and this switched that off. So did the environment
    variable `FASTACT_ALWAYS_KERNELS`, which means nothing any more.

    Returns:
        A context manager.

    Examples:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", FutureWarning)
        ...     with fastact.always_kernels():
        ...         fastact.functional.relu(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    if not is_compiling():
        warnings.warn(
            "fastact.always_kernels does nothing: kernels run at every size. It will be gone in 0.4",
            FutureWarning,
            stacklevel=2,
        )
    return nullcontext()


if "FASTACT_ALWAYS_KERNELS" in os.environ:
    warnings.warn(
        "fastact: the environment variable FASTACT_ALWAYS_KERNELS does nothing: kernels run at every size. Unset it: "
        "from 0.4 on nothing is said of it",
        FutureWarning,
        stacklevel=2,
    )


def takes(input: Tensor) -> bool:
    """Whether fastact's op takes this input; if not, the caller hands over to torch's function.

    Compilation, export and tracing see torch's functions, so that their graphs are the stock ones: Inductor fuses those
    with their neighbours. Tensor subclasses and other dtypes are torch's too, and so is what is no tensor at all:
    whatever fails there fails here with the same error. Layouts, devices, function transforms and modes are looked at
    by the ops (`csrc/autograd/nodes.cpp`, `fastact/ops.py`).
    """
    return not is_dynamo_compiling() and takes_in_eager_mode(input)


def takes_all(input: Tensor, *others: Tensor) -> bool:
    """The same for a call with weights or a gate beside the input."""
    return not is_dynamo_compiling() and takes_in_eager_mode(input, *others)


@answered_in_cpp
def takes_in_eager_mode(input: Tensor, *others: Tensor) -> bool:
    """Of calls that TorchDynamo does not see."""
    if (
        type(input) not in _TYPES
        or input.dtype not in DTYPES
        or torch._C._get_tracing_state() is not None
        or (torch._C._len_torch_dispatch_stack() and makes_graph())
    ):
        return False
    return all(type(other) in _TYPES and other.device == input.device for other in others)


def makes_graph() -> bool:
    """Whether a mode is on that makes a graph of the ops it sees."""
    mode = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(key) is not None for key in (mode.FAKE, mode.PROXY, mode.FUNCTIONAL))


@answered_in_cpp
def contiguous(input: Tensor) -> Tensor:
    """The input of an op whose result is contiguous in torch whatever the input is, as callers that view it expect."""
    if input.layout is not torch.strided or input.is_contiguous() or input.is_neg():  # the first and last are torch's
        return input
    return input.contiguous()


def _is_moderate(divisor: float) -> bool:
    """Whether products of it or its inverse with exponentials stay within float32's range."""
    return 2.0**-60 <= abs(divisor) <= 2.0**60


_CONDITIONS: dict[str, Callable[..., bool]] = {
    "rrelu": lambda lower, upper: lower <= upper,
    "hardtanh": lambda min_val, max_val: min_val <= max_val,
    "elu": lambda alpha: alpha >= 0,  # or the derivative does not follow from the output
    "celu": lambda alpha: alpha > 0 and _is_moderate(alpha),
    "hardshrink": lambda lambd: lambd >= 0,
    "softshrink": lambda lambd: lambd >= 0,
    "softplus": lambda beta, threshold: _is_moderate(beta),
}
"""Of the scalars that an op takes; the others are torch's to compute with or to refuse."""


@answered_in_cpp
def accepts(name: str, input: Tensor, *scalars: float) -> bool:
    """Whether the op takes these scalar arguments: numbers in the range of the input's dtype, on its conditions."""
    for number in scalars:
        if not (type(number) is float and -_FITS_ALL <= number <= _FITS_ALL) and not _fits(number, input.dtype):
            return False
    condition = _CONDITIONS.get(name)
    return condition is None or condition(*scalars)


def _fits(number: Any, dtype: torch.dtype) -> bool:
    """Whether it is a Python or NumPy number in the dtype's range."""
    largest = _LARGEST[dtype]
    if type(number) is int:
        return abs(number) <= min(largest, 2**63 - 1)
    if type(number) is not float and (not isinstance(number, Real) or type(number).__module__ != "numpy"):
        return False
    return abs(float(number)) <= largest


@answered_in_cpp
def rounded(number: float, input: Tensor) -> float:
    """The number of a 16-bit input's dtype next to this one. To the others the ops round by themselves."""
    return _rounded(number, input.dtype) if input.dtype in _HALVES else number


@lru_cache(256)
def _rounded(number: float, dtype: torch.dtype) -> float:
    return torch.tensor(number, dtype=torch.float64, device="cpu").to(dtype).item()


# By autocast on a GPU, where torch computes softplus, softmax, powers and expm1 in float32. On the CPU none is.
_WIDENED = frozenset(["squared_relu", "star_relu", "xielu", "softplus", "snake", "softmin", "softmax", "log_softmax"])


def autocast_dtype(input: Tensor) -> torch.dtype | None:
    """The dtype of what torch's autocast converts, where it is on for the input's device."""
    if not _any_autocast():
        return None
    device = input.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device) and input.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return None


def _autocast_widens(name: str, input: Tensor) -> bool:
    return input.is_cuda and name in _WIDENED and torch.is_autocast_enabled("cuda")


def as_autocast(name: str, input: Tensor) -> Tensor:
    """The input as torch's autocast, where it is on, has it for this activation: 16-bit ones widened to float32, which
    the result then has too, or as it is."""
    if type(input) in _TYPES and _autocast_widens(name, input) and input.dtype in _HALVES:
        return input.float()
    return input


def keeps_dtype(input: Tensor, *weights: Tensor) -> bool:
    """Whether the result has the 16-bit input's dtype although a weight is in float32. So it is under autocast on the
    CPU: the parameters stay in float32 there, and torch, which widens no activation, has it so for PReLU."""
    return (
        isinstance(input, Tensor)
        and input.dtype in _HALVES
        and input.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and all(isinstance(weight, Tensor) for weight in weights)
        and any(weight.dtype == torch.float32 for weight in weights)
    )


@answered_in_cpp
def weights_fit(input: Tensor, *weights: Tensor) -> bool:
    """Whether each weight holds one number, or one per channel (dimension 1), in the input's dtype or, where the result
    keeps that, in float32."""
    dtype = input.dtype
    for weight in weights:
        if weight.dtype != dtype and not (weight.dtype == torch.float32 and keeps_dtype(input, weight)):
            return False
        if weight.layout is not torch.strided or weight.dim() > 1 or not weight.is_contiguous():
            return False
        channels = weight.numel()
        if channels != 1 and (input.dim() < 2 or channels != input.size(1)):
            return False
    return True


@answered_in_cpp
def softmax_dtype(input: Tensor, dim: int | None, dtype: torch.dtype | None) -> int:
    """The number of the dtype of a softmax along `dim`, as torch and its autocast have it; 0 where torch must see the
    call."""
    if type(dim) is not int or (dim != -1 and not _has_dim(input, dim)):
        return 0
    if _autocast_widens("softmax", input):
        if dtype is not None:
            return 0
        return NUMBERS[torch.float64 if input.dtype == torch.float64 else torch.float32]
    return NUMBERS[input.dtype] if dtype is None else NUMBERS.get(dtype, 0)


def _has_dim(input: Tensor, dim: int) -> bool:
    dims = input.dim() or 1
    return -dims <= dim < dims


def softmax_input(input: Tensor, dtype: torch.dtype) -> Tensor:
    """The input in the dtype that is asked for, unless that is float32 and it has 16 bits: kernels widen those as they
    read."""
    if input.dtype == dtype or (dtype == torch.float32 and input.dtype in _HALVES):
        return input
    return input.to(dtype)


def divides(input: Tensor, dim: int, parts: int) -> bool:
    """Whether the input can be cut along `dim` into so many parts of one size."""
    if type(dim) is not int or type(parts) is not int or parts < 2 or input.is_nested:
        return False
    return -input.dim() <= dim < input.dim() and input.size(dim) % parts == 0


def is_like(other: Tensor, input: Tensor) -> bool:
    """Whether two tensors have one shape and dtype."""
    return not (input.is_nested or other.is_nested) and other.dtype == input.dtype and other.shape == input.shape


def takes_gated(input: Tensor, gate: Tensor | None, dim: int) -> bool:
    """Whether fastact's op takes a gated unit of value and gate, or of one tensor whose halves along `dim` they are."""
    if gate is None:
        return takes(input) and divides(input, dim, 2)
    return takes_all(input, gate) and is_like(gate, input)


def triton_is_installed() -> bool:
    return find_spec("triton") is not None


_without_kernels: set[torch.device] = set()


class _Reported(threading.local):
    text: str | None = None
    raised: BaseException | None = None


_reported = _Reported()


def report_no_kernel(device: torch.device, text: str, of_all: bool) -> None:
    """Say that torch's op runs in place of a GPU's kernel or, from now on, of all, and why. The C++ library calls this,
    and then raises a RuntimeError of the same text."""
    _reported.text = text
    if _reported.raised is not None:
        return
    if of_all:
        _without_kernels.add(device)
        if device.type == "cuda" and hasattr(torch.ops.fastact, "leave_gpu"):  # nor does `fastact.enable`
            torch.ops.fastact.leave_gpu(device.index)
    try:
        warn_once(text)
    except BaseException as raised:  # by a filter of warnings, say
        note_raised(raised)


def note_raised(error: BaseException | None) -> None:
    """Keep what was raised while the library waited: no exception comes through it."""
    _reported.raised = error


@cache
def warn_once(text: str) -> None:
    """Warn, unless this process did so by the same text before."""
    warnings.warn(text, RuntimeWarning, stacklevel=6)


def guarded(op: Callable[..., Any], decomposition: Callable[..., Any]) -> Callable[..., Any]:
    """The op or, on a device whose kernels cannot run, torch's ops in its place."""

    def call(*arguments: Any) -> Any:  # which takes 0.3 us less than to name the first
        if not _without_kernels or arguments[0].device not in _without_kernels:
            try:
                return op(*arguments)
            except RuntimeError as error:
                if _reported.text is None or _reported.text not in str(error):
                    if "API call failed" in str(error):  # the library's; torch itself says which, and by its class
                        torch.empty_like(arguments[0])
                    raise
                raised, _reported.raised = _reported.raised, None
                if raised is not None:
                    raise raised from None
        return decomposition(*arguments)

    return call
