"""Keep less for backward: what one cheap op makes of what is kept anyway is made again in backward."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.utils._contextlib import _DecoratorContextManager
from torch.utils.hooks import RemovableHandle

from .dispatch import warn_once
from .libraries import HAS_NODES
from .torch_ops import hide_from_graphs, needs_nodes

__all__ = ["recompute"]

MIN_BYTES = 16 * 1024
"""By default, smaller tensors are kept: a hook on a saved tensor takes 2 us, an op in backward a few more."""

_graph = torch._C._autograd


class recompute(_DecoratorContextManager):
    """Make the outputs of cheap ops again in backward instead of keeping them.

    It is a context manager or a decorator around forward.

    A linear layer behind an activation keeps the activation's output, although the activation keeps its own input, from
    which one pass makes that output again. Inside this block the linear layer keeps a recipe instead. So does every
    layer that would keep

    - the output of an activation: fastact's modules and functions and, where `fastact.enable` is on, torch's; gated
      units, softmax and `bias_act` too;
    - the output of a normalisation of torch's: batch, layer, group, instance and RMS norm;
    - the output of dropout, or its mask, which is kept as one bit per element;
    - a sum, a product, a copy (`clone`, `roll`, padding) or a cast, such as autocast's;
    - a view of any of these, or the output of several, one behind the other.

    Forward computes what it did without the block. Backward runs the same kernels again on the same numbers, so that
    gradients are those without the block, bit for bit. Layers that keep the same tensor share one that is made again. A
    tensor is kept as it is where its recipe would read what nobody keeps, where it has been written to since, and where
    it is small. Where a later layer keeps the output of ReLU, ReLU6, Hardtanh or LeakyReLU, their own bit mask goes.

    Backward then reads what forward has read, so this must be as it was. Writing to it in place, be it a parameter, is
    an error in backward. Writing by `.data` or NumPy, which torch does not see, spoils gradients. That holds even for
    what is kept by a node that takes no part in backward.

    It has no effect without gradients, in graphs that `torch.compile` makes (its partitioner does the like), and inside
    a transform of torch.func; a transform inside a block is torch's error, as with any hooks on saved tensors. Inside
    `torch.utils.checkpoint` and other such hooks, as `torch.autograd.graph.save_on_cpu`, those decide, and a block that
    is opened there does nothing. A block is of the thread that opens it. docs/recompute.md says more.

    Args:
        min_bytes: tensors with fewer bytes are kept as they are.

    Raises:
        TypeError: if `min_bytes` is not an int.
        ValueError: if `min_bytes` is negative.
        RuntimeError: if the library of autograd nodes for this release of torch is missing; and in backward, as from
            torch itself, if a tensor that is needed was changed in place.

    Examples:
        >>> model = nn.Sequential(nn.Linear(64, 256), fastact.GELU(), nn.Linear(256, 64))
        >>> with fastact.recompute():
        ...     loss = model(torch.randn(128, 64)).sum()
        >>> loss.backward()
        >>> @fastact.recompute()
        ... def forward(x):
        ...     return model(x)
        >>> forward(torch.randn(128, 64)).sum().backward()

    References:
        Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, for computing again; here op by op
    """

    def __init__(self, min_bytes: int = MIN_BYTES) -> None:
        needs_nodes("fastact.recompute")
        if not isinstance(min_bytes, int):
            raise TypeError(f"fastact.recompute: min_bytes must be an int, not {type(min_bytes).__name__}")
        if min_bytes < 0:
            raise ValueError(f"fastact.recompute: min_bytes must not be negative, not {min_bytes}")
        self.min_bytes = min_bytes
        self._opened: list[bool] = []

    def clone(self) -> recompute:
        return type(self)(self.min_bytes)

    def __enter__(self) -> recompute:  # type: ignore[override]
        opens = not is_compiling() and _can_open()
        self._opened.append(opens)
        if opens:
            hide_from_graphs(_PRODUCERS)
            _leave_out_of_graphs()
            hooks = Hooks(self.min_bytes)
            _graph._push_saved_tensors_default_hooks(hooks.pack, hooks.unpack)
            torch.ops.fastact.open_registry(self.min_bytes)
        return self

    def __exit__(self, *error: object) -> None:
        if self._opened.pop():
            torch.ops.fastact.close_registry()
            _graph._pop_saved_tensors_default_hooks()


def _overloads() -> Iterator[torch._ops.OpOverload]:
    for name in torch.ops.fastact.producers() if HAS_NODES else ():
        packet, _, overload = name.partition(".")
        if hasattr(torch.ops.aten, packet):
            yield getattr(getattr(torch.ops.aten, packet), overload or "default")


_PRODUCERS = list(_overloads())
"""torch's ops whose kernels at the autograd keys the registry replaces."""


def _can_open() -> bool:
    """Whether hooks may be pushed here, and none of others' are there."""
    if not _graph._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]
        return False  # in a transform
    there = _graph._top_saved_tensors_default_hooks(True)
    if there is None:
        return True
    pack = there[0]
    ours = isinstance(getattr(pack, "__self__", None), Hooks)
    if not ours and getattr(pack, "__module__", "") != "torch.utils.checkpoint":  # which makes all again
        warn_once(
            "fastact.recompute: other hooks on saved tensors are in place, so it does nothing here; enter it outside "
            "of them, or around those parts of the model that are"
        )
    return False


class Hooks:
    """The pair of hooks: what is packed is a tensor that stands for a recipe, or a pair of a tensor and its version."""

    def __init__(self, min_bytes: int) -> None:
        self._min_bytes = min_bytes
        self._pack = torch.ops.fastact.pack.default._op  # without the 0.3 us of OpOverload.__call__
        self._unpack = torch.ops.fastact.unpack.default._op

    def pack(self, tensor: Tensor) -> Any:
        if tensor.numel() * 8 >= self._min_bytes:
            packed = self._pack(tensor)
            if packed is not None:
                return packed
        # Without its history: a node that keeps its own output would keep itself.
        return tensor.detach() if tensor.requires_grad else tensor, tensor._version

    def unpack(self, packed: Any) -> Tensor:
        if type(packed) is not tuple:
            return self._unpack(packed)
        tensor, version = packed
        if tensor._version != version:  # torch does not look, where there are hooks
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"[{tensor.type()} {list(tensor.shape)}] is at version {tensor._version}; expected version {version} "
                "instead. Hint: enable anomaly detection to find the operation that failed to compute its gradient, "
                "with torch.autograd.set_detect_anomaly(True)."
            )
        return tensor

    unpack._torchdynamo_disable = True  # type: ignore[attr-defined]


def _leave_out_of_graphs() -> None:
    """Let compiled autograd's graph break at the hook, and Dynamo run it as it is: what torch.compiler.disable does,
    whose wrapper each call would pay for."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is not None:
        dynamo.skip_code(Hooks.pack.__code__)
        dynamo.skip_code(Hooks.unpack.__code__)


class _Around(threading.local):
    """The block that a module's call has opened in this thread."""

    module: nn.Module | None = None
    block: recompute | None = None
    call: FrameType | None = None

    def is_stale(self) -> bool:
        """Whether that call has ended unseen: torch runs no hook after a KeyboardInterrupt, nor one that is removed."""
        if self.call is None:
            return False
        try:
            self.call.clear()  # what runs refuses
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        if self.block is not None:
            self.block.__exit__()
        self.module = self.block = self.call = None


_around = _Around()


def _open_around(module: nn.Module, args: object) -> None:
    if is_compiling():  # first: Dynamo follows no further
        return
    if _around.is_stale():
        _around.close()
    if _around.module is None and torch.is_grad_enabled() and _can_open():
        _around.block = recompute()
        _around.block.__enter__()
        _around.module, _around.call = module, sys._getframe(1)


def _close_around(module: nn.Module, args: object, output: object) -> None:
    if not is_compiling() and _around.module is module:
        _around.close()


def recompute_around(module: nn.Module) -> None:
    """Open a block around each call of the module."""
    needs_nodes("fastact.recompute")
    if _open_around not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_open_around, prepend=True)
        module.register_forward_hook(_close_around, always_call=True)


def no_recompute_around(module: nn.Module) -> None:
    """Take back `recompute_around`, if that was called."""
    for hooks, ours in ((module._forward_pre_hooks, _open_around), (module._forward_hooks, _close_around)):
        for number in [number for number, hook in hooks.items() if hook is ours]:
            del hooks[number]
            module._forward_hooks_always_called.pop(number, None)


_around_all: list[RemovableHandle] = []


def is_around_all() -> bool:
    return bool(_around_all)


def all_modules_are_watched() -> bool:
    """Whether anybody else has hooks on every module."""
    of_all = nn.modules.module
    return len(_around_all) < sum(
        map(
            len,
            (
                of_all._global_forward_hooks,
                of_all._global_forward_pre_hooks,
                of_all._global_backward_hooks,
                of_all._global_backward_pre_hooks,
            ),
        )
    )


def recompute_around_all(value: bool) -> None:
    """Open a block around each outermost call of a module, or do so no more."""
    if value and not _around_all:
        _around_all.append(nn.modules.module.register_module_forward_pre_hook(_open_around))
        _around_all.append(nn.modules.module.register_module_forward_hook(_close_around, always_call=True))
    if not value:
        _around.close()
    while not value and _around_all:
        _around_all.pop().remove()
