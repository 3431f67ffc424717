"""Drop-in activations for PyTorch, with fused forward and backward kernels for CPU and GPU.

>>> import torch, fastact
>>> fastact.LeakyReLU(0.1)(torch.tensor([-1.0, 2.0]))
tensor([-0.1000,  2.0000])
"""

from . import autograd as _autograd  # noqa: F401 (registers nodes)
from . import docstrings as _docstrings
from . import functional, modules
from .convert import Conversion, conversion, convert, revert
from .coverage import Coverage
from .dispatch import always_kernels
from .enable import disable, enable, is_enabled, overrides
from .l1 import L1, l1_norm, l1_penalty
from .modules import *  # noqa: F403
from .monitor import Monitor
from .plot import plot
from .recompute import recompute
from .register import register_timm, register_transformers
from .saved import saved

_docstrings.complete()

__version__ = "0.2.0"

__all__ = [
    "L1",
    "Conversion",
    "Coverage",
    "Monitor",
    "always_kernels",
    "conversion",
    "convert",
    "disable",
    "enable",
    "functional",
    "is_enabled",
    "l1_norm",
    "l1_penalty",
    "overrides",
    "plot",
    "recompute",
    "register_timm",
    "register_transformers",
    "revert",
    "saved",
]
__all__ += modules.__all__
