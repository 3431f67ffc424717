"""The autograd of every activation: what is saved, and which kernel runs.

`apply` and `apply_prelu` are given a tensor that takes the kernel path (`fastact.path`). Where no gradient is needed
they run the kernel alone; else a `torch.autograd.Function`, one class per activation for the sake of a readable
`grad_fn`.

Backward runs the fused kernel. Where its own result must be differentiable (`create_graph=True`), or the incoming
gradient is not a plain tensor (batched gradients), it is composed of torch ops instead.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import cpu
from .catalogue import ACTIVATIONS, Activation
from .path import runs_on_gpu_kernels


def backend(input: Tensor) -> ModuleType:
    """The module whose kernels run on the tensor's device."""
    if runs_on_gpu_kernels(input):
        from . import kernels

        return kernels
    return cpu


def _draw_seed(device: torch.device) -> Tensor:
    """One number from torch's generator for the device, where it stays: so `torch.manual_seed`, recomputation under
    checkpointing and replay of CUDA graphs all give what they should."""
    return torch.empty((), dtype=torch.int64, device=device).random_()


def _needs_torch_ops(grad: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        or type(grad) is not Tensor
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.is_legacy_batchedtensor(grad)
        or grad.is_neg()
        or grad._is_zerotensor()
    )


def _in_layout(grad: Tensor, strides: tuple[int, ...] | None) -> Tensor:
    """The gradient in the memory order of the output, which is the order of the bits. No strides mean contiguous."""
    if strides is None:
        return grad.contiguous()
    if grad.stride() == strides:
        return grad
    return torch.empty_strided(grad.shape, strides, dtype=grad.dtype, device=grad.device).copy_(grad)


class _Pointwise(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, activation: Activation, inplace: bool, parameters: tuple) -> Tensor:
        saves_bits = activation.saved == "bits"
        if activation.saved == "input":
            saved = input.clone() if inplace else input
        output, bits = backend(input).forward(activation, input, parameters, inplace, saves_bits)
        if inplace:
            ctx.mark_dirty(input)
        if saves_bits:
            saved = bits
            ctx.strides = None if output.is_contiguous() else output.stride()
        elif activation.saved == "output":
            saved = output
        # The seed of a random activation is a tensor: saved like the rest, so that hooks on saved tensors see it.
        ctx.save_for_backward(saved, *parameters[: activation.random])
        ctx.activation = activation
        ctx.parameters = parameters[activation.random :]
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        activation: Activation = ctx.activation
        saved, *seed = ctx.saved_tensors
        parameters = (*seed, *ctx.parameters)
        if not _needs_torch_ops(grad):
            if activation.saved == "bits":
                grad = _in_layout(grad, ctx.strides)
            return backend(grad).backward(activation, grad, saved, parameters), None, None, None
        return _differentiable_backward(activation, grad, saved, parameters, ctx), None, None, None


def _wide(tensor: Tensor) -> Tensor:
    """16-bit types compute in float32 here too, and round once."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _differentiable_backward(
    activation: Activation, grad: Tensor, saved: Tensor, parameters: tuple, ctx: Any
) -> Tensor:
    if activation.saved == "bits":
        # The gradient is linear in grad and does not otherwise depend on the input: the kernel gives the factor.
        with torch.no_grad():
            wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
            ones = _in_layout(torch.ones(grad.shape, dtype=wide, device=saved.device), ctx.strides)
            factor = backend(ones).backward(activation, ones, saved, parameters)
        gradient = _wide(grad) * factor
        return torch.where(factor == 0, torch.zeros_like(gradient), gradient).to(grad.dtype)
    if activation.saved == "output":
        assert activation.derivative_from_output is not None
        return (_wide(grad) * activation.derivative_from_output(_wide(saved), *parameters)).to(grad.dtype)
    named = dict(zip(activation.parameters, parameters, strict=True))
    return _torch_gradient(activation, grad, (saved,), named)[0]


def _torch_gradient(
    activation: Activation, grad: Tensor, inputs: tuple[Tensor, ...], named: dict[str, Any]
) -> tuple[Tensor, ...]:
    """The gradient of torch's own function at the saved inputs, differentiable with respect to them and to grad."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        wide = tuple(_wide(x if x.requires_grad else x.detach().requires_grad_()) for x in inputs)
        output = activation.reference(*wide, **named)
        gradients = torch.autograd.grad(output, wide, _wide(grad), create_graph=create_graph)
        return tuple(gradient.to(x.dtype) for gradient, x in zip(gradients, inputs, strict=True))


_FUNCTIONS: dict[Activation, type[_Pointwise]] = {
    row: type(row.module, (_Pointwise,), {"__module__": __name__}) for row in ACTIVATIONS.values() if not row.weight
}


class PReLU(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(input, weight)
        return backend(input).prelu(input, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        if _needs_torch_ops(grad):
            return _torch_gradient(ACTIVATIONS["prelu"], grad, (input, weight), {})
        return backend(grad).prelu_backward(grad, input, weight)


def apply(activation: Activation, input: Tensor, inplace: bool, *parameters: float) -> Tensor:
    """Run a pointwise activation's kernel, with a node in the autograd graph where gradients are needed."""
    if activation.random:
        parameters = (_draw_seed(input.device), *parameters)
    if input.requires_grad and torch.is_grad_enabled():
        return _FUNCTIONS[activation].apply(input, activation, inplace, parameters)
    output, _ = backend(input).forward(activation, input, parameters, inplace, False)
    if inplace:
        torch.autograd.graph.increment_version(input)
    return output


def apply_prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Run PReLU's kernel, with a node in the autograd graph where gradients are needed."""
    if (input.requires_grad or weight.requires_grad) and torch.is_grad_enabled():
        return PReLU.apply(input, weight)
    return backend(input).prelu(input, weight)
