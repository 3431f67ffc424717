"""Which path a call takes: fastact's kernels, or torch's own function. Decided here and nowhere else."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.util import find_spec
from numbers import Real
from threading import Lock

import torch
from torch import Tensor
from torch.nn import Parameter

from .crossover import CROSSOVER

_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))
_HALVES = frozenset((torch.float16, torch.bfloat16))
_TYPES = frozenset((Tensor, Parameter))
_ANY_ROWS = 1 << 24  # elements, from which huge pages decide
_NEAR = 8  # elements from one of a row to the next, up to which rows brought side by side beat torch's
_TORCHS_ROWS = range(16, 64)  # the elements of a row with which LogSoftmax in float32 is slower than torch's
_SMALLEST = torch.finfo(torch.float32).smallest_normal  # kernels may make zeros of smaller arguments
_LARGEST = {dtype: min(torch.finfo(dtype).max, torch.finfo(torch.float32).max) for dtype in _DTYPES}
"""Of arguments, by the input's dtype: torch refuses larger ones, NaN and infinity, here and there."""

# How many always_kernels() are open, in all threads; the environment's counts as one.
_always_kernels = int(os.environ.get("FASTACT_ALWAYS_KERNELS", "0") not in ("", "0"))
_lock = Lock()


@contextmanager
def always_kernels() -> Iterator[None]:
    """Run kernels also below the measured sizes at which torch's own function is faster (`fastact.crossover`).

    So also at those sizes less memory is kept for backward. It holds for all threads while it is open; what counts is
    the forward call. The environment variable `FASTACT_ALWAYS_KERNELS=1` does the same for a whole process.
    """
    global _always_kernels
    with _lock:
        _always_kernels += 1
    try:
        yield
    finally:
        with _lock:
            _always_kernels -= 1


def takes_kernel(
    name: str, input: Tensor, *parameters: float, inplace: bool = False, learned: tuple[Tensor, ...] = ()
) -> bool:
    """Whether `fastact`'s kernel runs the activation `name` on `input`; if not, the caller hands over to torch.

    The kernels are for plain strided tensors of the four floating dtypes, in eager mode. Everything else (compilation
    and export, function transforms, forward-mode differentiation, tensor subclasses, dispatch modes, tracing, other
    devices and dtypes, arguments that torch refuses) is torch's, so that whatever works there works here, and whatever
    fails there fails here with the same error. `learned` are the tensors that take part beside the input.
    """
    if torch.compiler.is_compiling():
        return False  # Inductor fuses the stock op with its neighbours; a custom kernel would stand in its way
    if type(input) not in _TYPES:
        return False
    for tensor in learned:
        if not _is_plain(tensor, input):
            return False
    training = torch.is_grad_enabled() and (input.requires_grad or any(x.requires_grad for x in learned))
    if not _always_kernels:
        thresholds = CROSSOVER[input.is_cuda][input.element_size() == 2].get(name)
        if thresholds is None or input.numel() < thresholds[training]:
            return False
    return (
        input.dtype in _DTYPES
        and (not parameters or all(_is_taken(parameter, _LARGEST[input.dtype]) for parameter in parameters))
        and ((input.is_cpu and not _interpret) or runs_on_gpu_kernels(input))
        and not (_without_kernels and input.device in _without_kernels)
        and input.layout is torch.strided
        and not input.is_nested
        and not input.is_neg()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and (not torch._C._len_torch_function_stack() or _only_device_contexts())
        and torch.autograd.forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
        and (not inplace or _may_write(input, training))
    )


def _is_taken(parameter: float, largest: float) -> bool:
    """Whether kernels take the argument: a Python or NumPy number, as torch does, that is 0 or within range."""
    if type(parameter) is int:
        if parameter.bit_length() > 63:
            return False
    elif type(parameter) is not float:
        if not isinstance(parameter, Real) or type(parameter).__module__ != "numpy":
            return False
        parameter = float(parameter)
    return parameter == 0 or _SMALLEST <= abs(parameter) <= largest


def is_moderate(divisor: float) -> bool:
    """Whether products of it or its inverse with exponentials stay within float32's range."""
    return 2.0**-60 <= abs(divisor) <= 2.0**60


@lru_cache(256)
def rounded(number: float, dtype: torch.dtype) -> float:
    """The number of the dtype next to this one."""
    return torch.tensor(number, dtype=torch.float64, device="cpu").to(dtype).item()


def _is_plain(operand: Tensor, input: Tensor) -> bool:
    """Whether a kernel that runs on `input` can read this tensor beside it."""
    return (
        type(operand) in _TYPES
        and operand.device == input.device
        and operand.layout is torch.strided
        and not operand.is_nested
        and not operand.is_neg()
    )


# By autocast on a GPU, where torch computes softplus, softmax, powers and expm1 in float32. On the CPU none is.
_WIDENED = frozenset(["squared_relu", "star_relu", "xielu", "softplus", "snake", "softmin", "softmax", "log_softmax"])


def _autocast_widens(name: str, input: Tensor) -> bool:
    return input.is_cuda and name in _WIDENED and torch.is_autocast_enabled("cuda")


def as_autocast(name: str, input: Tensor) -> Tensor:
    """The input as torch's autocast, where it is on, has it for this activation: 16-bit ones widened to float32, which
    the result then has too, or as it is."""
    if type(input) in _TYPES and _autocast_widens(name, input) and input.dtype in _HALVES:
        return input.float()
    return input


def keeps_dtype(input: Tensor, *learned: Tensor) -> bool:
    """Whether the result has the 16-bit input's dtype although a learned tensor is in float32. So it is under autocast
    on the CPU: the parameters stay in float32 there, and torch, which widens no activation, has it so for PReLU."""
    return (
        isinstance(input, Tensor)
        and input.dtype in _HALVES
        and input.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and all(isinstance(tensor, Tensor) for tensor in learned)
        and any(tensor.dtype == torch.float32 for tensor in learned)
    )


def learned_fit(input: Tensor, *learned: Tensor) -> bool:
    """Whether each learned tensor holds one number, or one per channel (dimension 1), in the input's dtype or, where
    the result keeps that, in float32."""
    return all(
        (tensor.dtype == input.dtype or (tensor.dtype == torch.float32 and keeps_dtype(input, tensor)))
        and tensor.dim() <= 1
        and tensor.is_contiguous()
        and (tensor.numel() == 1 or (input.dim() >= 2 and tensor.numel() == input.size(1)))
        for tensor in learned
    )


def softmax_dtype(name: str, input: Tensor, dim: int, dtype: torch.dtype | None) -> torch.dtype | None:
    """The dtype of a softmax along `dim`, as torch and its autocast have it; nothing where torch must see the call, or
    is faster with such rows."""
    dims = max(1, input.dim())
    if type(dim) is not int or not -dims <= dim < dims:
        return None
    if not (_always_kernels or name == "softmin" or runs_on_gpu_kernels(input) or _rows_pay_off(name, input, dim)):
        return None
    autocast = _autocast_widens(name, input)
    if dtype is None:
        return torch.float32 if autocast and input.dtype != torch.float64 else input.dtype
    return dtype if dtype in _DTYPES and not autocast else None


def _rows_pay_off(name: str, input: Tensor, dim: int) -> bool:
    """On the CPU, beside CROSSOVER, which is of long rows of consecutive elements: shorter ones, and rows whose
    elements lie far apart in memory, for which torch's kernels are good. (For a softmin torch makes a pass more.)"""
    if input.dim() == 0 or input.numel() >= _ANY_ROWS:
        return True
    if input.stride(dim) != 1:
        return input.stride(dim) <= _NEAR
    return name != "log_softmax" or input.element_size() == 2 or input.size(dim) not in _TORCHS_ROWS


def divides(input: Tensor, dim: int, parts: int) -> bool:
    """Whether the input can be cut along `dim` into so many parts of one size."""
    if type(dim) is not int or type(parts) is not int or parts < 2:
        return False
    return -input.dim() <= dim < input.dim() and input.size(dim) % parts == 0


def takes_gated_kernel(name: str, inputs: tuple[Tensor, ...], dim: int = -1) -> bool:
    """The same for a gated unit: `inputs` are value and gate, or the one tensor whose halves along `dim` they are."""
    input, *gate = inputs
    if not takes_kernel(name, input, learned=tuple(gate)):
        return False
    if not gate:
        return divides(input, dim, 2)
    return gate[0].dtype == input.dtype and gate[0].shape == input.shape


def _may_write(input: Tensor, training: bool) -> bool:
    """Where torch refuses to work in place, or has special rules for it, torch must see the call."""
    if training and (input.is_leaf or input._is_view()):
        return False
    return not input.is_inference() and 0 not in input.stride()


# Tests send CPU tensors down the GPU path, in Triton's interpreter: the same choice of path, layouts, grids and tails.
_interpret = os.environ.get("FASTACT_INTERPRET", "0") not in ("", "0")


def interpreting() -> bool:
    """Whether the Triton kernels run in Triton's interpreter, on CPU tensors."""
    return _interpret


def runs_on_gpu_kernels(input: Tensor) -> bool:
    """Whether the Triton kernels run on the tensor's device."""
    return (input.is_cuda and triton_is_installed()) or (_interpret and input.is_cpu)


class KernelUnavailable(RuntimeError):
    """A GPU kernel cannot be compiled or launched, for good."""

    def __init__(self, device: torch.device, why: str, cause: Exception) -> None:
        lines = str(cause).strip().splitlines() or [""]
        super().__init__(
            f"fastact runs torch's ops on {device} from now on, since {why}: {type(cause).__name__}: {lines[0]}"
        )
        self.device = device


class NotLoaded(KernelUnavailable):
    """For now: CUDA loads no kernel while a graph is captured."""

    def __init__(self, kernel: str) -> None:
        RuntimeError.__init__(
            self,
            f"fastact's kernel ({kernel}) has not run yet, and CUDA loads none while a graph is captured: run the step "
            "once before the capture. Torch's op is captured in its place, where that is possible.",
        )


_without_kernels: set[torch.device] = set()


def fall_back(error: KernelUnavailable) -> None:
    """Say why torch's op runs in place of a kernel; from now on, unless it is for now."""
    if not isinstance(error, NotLoaded):
        _without_kernels.add(error.device)
    _warn_once(str(error))


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=6)


@cache
def triton_is_installed() -> bool:
    return find_spec("triton") is not None


def _only_device_contexts() -> bool:
    """`torch.set_default_device` and `with torch.device(...)` are function modes too, and concern only new tensors."""
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._device import DeviceContext

    return all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
