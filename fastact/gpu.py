"""Finds the kernels that the C++ library launches on a GPU (csrc/gpu/): in a bundle, or compiled by Triton.

The library calls `find` by a pointer, once for each kernel and device. No torch op stands between, so no mode of a
user's sees it.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import torch
from torch import Tensor

from . import bundle
from .bundle import Kernel
from .dispatch import note_raised, report_no_kernel, triton_is_installed, warn_once


def runs_on_gpu(tensor: Tensor) -> bool:
    """Whether the GPU's kernels run for the tensor: on its device or, in tests, emulated."""
    return not tensor.is_cpu or torch.ops.fastact.emulate_gpu(None)


def compile(name: str, capability: int) -> Kernel:
    """Compile a kernel by Triton, or take it from Triton's cache. No C compiler and no GPU are needed."""
    from triton.backends.compiler import GPUTarget

    from .triton import sources

    source = sources.source(name)
    compiled = sources.compile(name, GPUTarget("cuda", capability, 32))
    metadata = compiled.metadata
    return Kernel(compiled.kernel, metadata.name, source.num_warps, metadata.shared, source.block, source.tile_rows)


class NoKernel(RuntimeError):
    """Neither a bundle nor Triton has a kernel."""


def find(name: str, capability: int) -> Kernel:
    """The kernel of this name (`fastact.triton.sources`) for a compute capability, 90 say."""
    refused = ""
    try:
        if kernel := bundle.find(name, capability):
            return kernel
    except bundle.Refused as error:
        refused = str(error)
    if not triton_is_installed():
        raise NoKernel(f"Triton is not installed, and {refused or 'there is no bundle of compiled kernels'}")
    if refused:
        warn_once(f"fastact compiles kernels by Triton, since {refused}")
    return compile(name, capability)


class _Image(ctypes.Structure):
    """`Image` in csrc/gpu/kernels.h."""

    _fields_ = [
        ("code", ctypes.c_char_p),
        ("symbol", ctypes.c_char_p),
        ("why", ctypes.c_char_p),
        ("for_all", ctypes.c_int32),
        ("warps", ctypes.c_int32),
        ("shared", ctypes.c_int32),
        ("block", ctypes.c_int64),
        ("tile_rows", ctypes.c_int64),
    ]


_handed_over = threading.local()


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int32, ctypes.POINTER(_Image))
def _find_image(name: bytes, capability: int, image: Any) -> None:
    note_raised(None)
    try:
        kernel = find(name.decode(), capability)
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C, say; nothing is known of the kernel
            return note_raised(error)
        lines = str(error).strip().splitlines() or [""]
        kind = "" if isinstance(error, NoKernel) else f"{type(error).__name__}: "
        _handed_over.now = image[0].why = f"{kind}{lines[0]}".encode()
        image[0].for_all = not triton_is_installed() and not bundle.serves(capability)
        return
    code, symbol = ctypes.c_char_p(kernel.code), kernel.symbol.encode()
    _handed_over.now = code, symbol  # until the thread's next call: the library has loaded it by then
    image[0] = _Image(code, symbol, None, 0, *kernel[2:])


@ctypes.CFUNCTYPE(None, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32)
def _report(device: int, text: bytes, of_all: int) -> None:
    where = torch.device("cpu") if device < 0 else torch.device("cuda", device)
    report_no_kernel(where, text.decode(), bool(of_all))


def install() -> None:
    """Give the library the functions above."""
    addresses = (ctypes.cast(function, ctypes.c_void_p).value for function in (_find_image, _report))
    torch.ops.fastact.set_gpu_callbacks(*addresses)
