"""An L1 penalty on the outputs of activations, whose gradient is made within the activation's own backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from .dispatch import takes, warn_once
from .libraries import HAS_NODES
from .ops import overload

__all__ = ["L1", "l1_norm", "l1_penalty"]

MOST_CALLS = 1000
"""So many penalties that nobody has asked for are a mistake: each keeps the graph of its call."""


if HAS_NODES:
    _of_output = overload("l1_of_output")._op


def l1_norm(output: Tensor) -> Tensor:
    """Sum the absolute values of a tensor, of the output of an activation at the least cost.

    The gradient is that of `output.abs().sum()`: the sign of each element, 0 at zero and NaN. Where a node of fastact's
    has made `output`, it adds this to the gradient that comes from the next layer, before it multiplies by the
    activation's derivative: on the CPU mostly within the same pass over memory, on a GPU in one pass more. docs/l1.md
    lists the activations of which that is true. Hooks on `output`, and gradients with respect to it, do not see the
    penalty's part.

    Of any other tensor the result is `output.abs().sum()`.

    Args:
        output: the tensor. It may be changed in place afterwards wherever the activation allows that.

    Returns:
        One number, as a tensor with a graph.

    Shape:
        Any. The result has none, `()`.

    Dtypes:
        Any that torch sums. 16-bit inputs are summed to float32. Outputs of activations on the CPU are summed in
        float64.

    Saved for backward:
        Nothing more than the activation saves anyway, which has the signs: for ReLU one bit per element.

    Raises:
        TypeError: if `output` is no tensor.

    Examples:
        >>> hidden = fastact.functional.relu(torch.tensor([-1.0, 2.0, 3.0], requires_grad=True))
        >>> loss = hidden.square().sum() + 0.1 * fastact.l1_norm(hidden)
        >>> loss.item()
        13.5

    References:
        Glorot, Bordes & Bengio 2011, Deep Sparse Rectifier Neural Networks
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"fastact.l1_norm: expected a tensor, got {type(output).__name__}")
    if HAS_NODES and takes(output) and not torch._C._are_functorch_transforms_active():
        norm = _of_output(output)
        if norm is not None:
            return norm
    return output.abs().sum(dtype=torch.float32 if output.dtype in (torch.float16, torch.bfloat16) else None)


class _Noted:
    """What a module remembers of its calls. It is shared by replicas; copies and pickles begin with nothing."""

    def __init__(self) -> None:
        self.penalties: list[Tensor] = []
        self.value: Tensor | None = None

    def __reduce__(self) -> tuple[type[_Noted], tuple[()]]:
        return _Noted, ()


class L1(nn.Module):
    """Add an L1 penalty on the output of a module, mostly an activation, to the loss.

    The module's output y is returned unchanged. Each call in training mode with gradients enabled notes the penalty,
    `weight` times the sum of |y|, and `l1_penalty` collects those of a model for the loss. Behind fastact's
    activations, and torch.nn's under `fastact.enable`, the activation's backward kernel makes the gradient, see
    `l1_norm`. Any other module has the penalty by torch's ops.

    What checkpointing computes again is not counted again. With `use_reentrant=True` it runs forward without gradients,
    so that there is no penalty, which a warning says.

    `module` takes its parameters into the `state_dict` under the prefix `module.`. Penalties are no part of copies,
    pickles and the `state_dict`.

    Args:
        module: what is called. Its output must be one tensor.
        weight: at least 0. As an attribute it may be changed at any time.

    Shape:
        The module's.

    Dtypes:
        The module's.

    Saved for backward:
        What the module saves, and nothing more behind an activation that keeps the signs, see `l1_norm`.

    Raises:
        TypeError: if `module` is no module or `weight` no number, and in training if the output is no tensor.
        ValueError: if `weight` is negative or not finite.

    Examples:
        >>> model = nn.Sequential(nn.Linear(64, 256), fastact.L1(fastact.ReLU(), 1e-4), nn.Linear(256, 10))
        >>> output, target = model(torch.randn(8, 64)), torch.randint(10, (8,))
        >>> loss = nn.functional.cross_entropy(output, target) + fastact.l1_penalty(model)
        >>> loss.backward()

    References:
        Glorot, Bordes & Bengio 2011, Deep Sparse Rectifier Neural Networks
    """

    __call__: Callable[..., Tensor]

    def __init__(self, module: nn.Module, weight: float) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"fastact.L1: module must be a torch.nn.Module, got {type(module).__name__}")
        if not isinstance(weight, float | Real):  # to mypy a float is no Real
            raise TypeError(f"fastact.L1: weight must be a number, got {type(weight).__name__}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"fastact.L1: weight must be finite and at least 0, got {weight}")
        self.module = module
        self.weight = weight
        self._noted = _Noted()

    @property
    def value(self) -> Tensor | None:
        """The penalty of the last call that noted one, without a graph; None before the first."""
        return self._noted.value

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        output = self.module(*args, **kwargs)
        if self.training and torch.is_grad_enabled():
            # Also where it is not noted: checkpointing counts on the same tensors being saved again.
            penalty = self.weight * l1_norm(output)
            if is_compiling() or torch._C._current_graph_task_id() == -1:
                self._note(penalty)
            elif torch._C._autograd._top_saved_tensors_default_hooks(True) is None:
                warn_once(
                    "fastact.L1: a forward pass runs within backward, as under torch.utils.checkpoint with "
                    "use_reentrant=True, and its penalty is in no loss; use_reentrant=False counts it"
                )
        return output

    def _note(self, penalty: Tensor) -> None:
        noted = self._noted
        noted.penalties.append(penalty)
        noted.value = penalty.detach()
        if len(noted.penalties) == MOST_CALLS and not is_compiling():
            warn_once(
                f"fastact.L1: {MOST_CALLS} calls have noted a penalty that fastact.l1_penalty has not been asked for; "
                "each keeps its graph"
            )

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"


def l1_penalty(model: nn.Module) -> Tensor:
    """Sum the penalties that the `L1` modules in a model have noted, and forget them.

    Args:
        model: the module, itself included.

    Returns:
        One number to add to the loss, with a graph. It is zero where nothing has been noted since the last call, as in
        evaluation. On several devices penalties add on that of the last one.

    Raises:
        ValueError: if `model` has no `L1` module.

    Examples:
        >>> model = nn.Sequential(fastact.L1(fastact.ReLU(), weight=0.5))
        >>> output = model(torch.tensor([-1.0, 2.0, 4.0], requires_grad=True))
        >>> fastact.l1_penalty(model).item()
        3.0
        >>> fastact.l1_penalty(model).item()
        0.0
    """
    layers = [module for module in model.modules() if isinstance(module, L1)]
    if not layers:
        raise ValueError("fastact.l1_penalty: the model has no fastact.L1 modules")
    penalties: list[Tensor] = []
    for layer in layers:
        penalties += layer._noted.penalties
        layer._noted.penalties.clear()
    if not penalties:
        return torch.zeros(())
    total, *others = (penalty.to(penalties[-1].device) for penalty in penalties)
    for penalty in others:
        total = total + penalty
    return total
