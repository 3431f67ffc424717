"""The C++ libraries: which are there, and what this process has of them."""

from __future__ import annotations

import os
import platform
import sysconfig
import warnings
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

from .nodes import nodes_library


def _load_kernels(library: Path) -> str:
    """Why torch's kernels run in the place of fastact's; nothing where fastact's do."""
    if not library.exists():
        return f"there is no C++ library, which this package was built without, for {platform.platform(terse=True)}"
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"the C++ library failed to load: {error.__cause__ or error}"
    return ""


WHY_NO_KERNELS = _load_kernels(Path(__file__).with_name("libfastact.so"))
HAS_KERNELS = not WHY_NO_KERNELS
"""Whether there are ops of fastact's."""
if WHY_NO_KERNELS:
    warnings.warn(f"fastact runs torch's kernels: {WHY_NO_KERNELS}", RuntimeWarning, stacklevel=2)


def _load_nodes(library: Path) -> str:
    """Why autograd nodes are in Python; nothing where those in C++ run."""
    if os.environ.get("FASTACT_NODES") == "python":
        return "FASTACT_NODES=python asks for them"
    if not library.exists():
        return f"no library for torch {torch.__version__}; a build beside it makes one, or says why not"
    try:
        torch.ops.load_library(library)
    except OSError as error:  # a build of this torch that lacks something
        reason = f"those in C++ failed to load: {error.__cause__ or error}"
        warnings.warn(f"fastact uses slower autograd nodes, in Python: {reason}", stacklevel=2)
        return reason
    return ""


_NODES = Path(__file__).with_name(nodes_library(torch.__version__))
WHY_NO_NODES = WHY_NO_KERNELS or _load_nodes(_NODES)
HAS_NODES = not WHY_NO_NODES
"""Whether autograd nodes are in C++: those are for one release of torch."""


def _load_calls() -> tuple[ModuleType | None, str]:
    """The ops as functions of Python's (csrc/autograd/python.cpp), or why torch's from schemas take their place."""
    if not HAS_NODES:
        return None, WHY_NO_NODES
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None, "Python's stable ABI is for those with a GIL"
    loader = ExtensionFileLoader("fastact._calls", str(_NODES))
    spec = spec_from_loader("fastact._calls", loader)
    assert spec is not None
    try:
        return module_from_spec(spec), ""
    except ImportError as error:
        return None, f"{error}: a build with Python's headers has them"


CALLS, WHY_NO_CALLS = _load_calls()

_Function = TypeVar("_Function", bound=Callable[..., Any])


def answered_in_cpp(function: _Function) -> _Function:
    """The function, or one of its name in C++, which asks it about what is unusual. TorchDynamo must not meet it."""
    return function if CALLS is None else CALLS.question(function.__name__, function)
