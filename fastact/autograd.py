"""The part of the ops' autograd that is in Python: differentiable backward, and nodes where those in C++ are missing.

A node's backward runs the fused kernel. Where its own result must be differentiable (`create_graph=True`), or the
incoming gradient is not a plain tensor (batched gradients), it is composed of torch ops instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .composites import per_channel
from .dispatch import makes_graph
from .libraries import HAS_KERNELS, HAS_NODES
from .ops import OPS, Op, decomposition, decomposition_in_place, library, overload, reference


def _wide(tensor: Tensor) -> Tensor:
    """16-bit types compute in float32 here too, and round once."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _in_layout(grad: Tensor, strides: Sequence[int]) -> Tensor:
    """The gradient in the memory order of the output, which is the order of the mask. No strides mean contiguous."""
    if not strides:
        return grad.contiguous()
    if grad.stride() == tuple(strides):
        return grad
    return torch.empty_strided(grad.shape, strides, dtype=grad.dtype, device=grad.device).copy_(grad)


def _gradient_by_mask(
    op: Op, grad: Tensor, saved: Sequence[Tensor], scalars: Sequence, strides: Sequence[int]
) -> Tensor:
    """The gradient is linear in grad, and depends on the input only by jumps: the kernel gives the factor. The last of
    `saved`, if the graph needs them, are tensors of zeros in the inputs' places in the graph."""
    mask, *rest = saved
    random = rest[: op.activation.random]
    with torch.no_grad():
        wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
        ones = _in_layout(torch.ones(grad.shape, dtype=wide, device=mask.device), strides)
        factor = overload(f"{op.name}_backward")(ones, mask, *random, *scalars)
    for stand_in in rest[op.activation.random :]:  # the factor depends on the input, with a derivative of zero
        factor = torch.where(torch.ones_like(factor, dtype=torch.bool), factor, stand_in)
    gradient = _wide(grad) * factor
    return torch.where(factor == 0, torch.zeros_like(gradient), gradient).to(grad.dtype)


def _gradient_by_indices(grad: Tensor, indices: Tensor, pieces: int, dim: int) -> Tensor:
    after = dim % grad.dim() + 1  # the pieces' own dimension, for now
    numbers = torch.arange(pieces, device=indices.device, dtype=indices.dtype)
    won = indices.unsqueeze(after) == numbers.view(-1, *[1] * (grad.dim() - after))
    shape = [size * pieces if i == after - 1 else size for i, size in enumerate(grad.shape)]
    return torch.where(won, grad.unsqueeze(after), 0.0).reshape(shape)


def _gradient_by_inputs(op: Op, grad: Tensor, inputs: Sequence[Tensor], scalars: tuple) -> list[Tensor]:
    """The gradient of torch's own function at the saved inputs, differentiable with respect to them and to grad."""
    create_graph = torch.is_grad_enabled()
    if op.activation.limits_at_infinity:  # which derivatives have reached between these, in float64; torch's have NaN
        inputs = [torch.where(x < -1e4, -1e4, torch.where(x > 60, 60.0, x)) for x in inputs]
    with torch.enable_grad():
        # Aliases: one input may depend on another, or be the same tensor, and each gets the gradient of its own use.
        wide = tuple(_wide((x if x.requires_grad else x.detach().requires_grad_()).view_as(x)) for x in inputs)
        gradients = torch.autograd.grad(reference(op, wide, scalars), wide, _wide(grad), create_graph=create_graph)
        return [gradient.to(x.dtype) for gradient, x in zip(gradients, inputs, strict=True)]


def _biased_gradients(op: Op, grad: Tensor, saved: list[Tensor], scalars: list, strides: list[int]) -> list[Tensor]:
    """Those of input, bias and residual."""
    if op.saves == "mask":
        mask, bias, *stand_ins = saved
        if stand_ins:
            stand_ins[1] = per_channel(stand_ins[1], grad)
        grad_input = _gradient_by_mask(OPS[op.activation.name], grad, [mask, *stand_ins], scalars, strides)
        return [grad_input, grad_input.sum_to_size(per_channel(bias, grad).shape).view(bias.shape), grad]
    return [*_gradient_by_inputs(op, grad, saved, tuple(scalars)), grad]


def differentiable_backward(
    name: str, grad: Tensor, saved: list[Tensor], scalars: list[float], strides: list[int]
) -> list[Tensor]:
    """The gradients of the op's tensors, composed of torch's ops. Nodes call it with what they saved; integers among
    the scalars come as numbers too."""
    op = OPS[name]
    activation = op.activation
    if op.biased:
        return _biased_gradients(op, grad, saved, scalars, strides)
    if activation.saved == "mask":
        return [_gradient_by_mask(op, grad, saved, scalars, strides)]
    if activation.saved == "indices":
        return [_gradient_by_indices(grad, saved[0], *map(int, scalars))]
    if activation.gradient_from_output is not None:  # autograd converts to the input's dtype
        return [activation.gradient_from_output(_wide(grad), _wide(saved[0]), int(scalars[0]))]
    if activation.derivative_from_output is not None:
        return [(_wide(grad) * activation.derivative_from_output(_wide(saved[0]), *scalars)).to(grad.dtype)]
    whole = (int(scalars[0]), bool(scalars[1])) if op.packed else tuple(scalars)
    return _gradient_by_inputs(op, grad, saved, whole)


# Nodes in Python, by the rules of csrc/autograd/nodes.cpp.


def _is_plain(tensor: Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
        and torch.autograd.forward_ad.unpack_dual(tensor).tangent is None
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
    )


def _needs_torch_ops(grad: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        or not _is_plain(grad)
        or (type(grad) is not Tensor and not makes_graph())
        or torch._C._are_functorch_transforms_active()
    )


class _Node(Function):
    @staticmethod
    def forward(ctx: Any, op: Op, in_place: bool, others: tuple, links: tuple[Tensor, ...], *inputs: Any) -> Tensor:
        """`others` are the seed and the scalars. `links`, in a tuple since they have no gradient of their own, are the
        inputs' places in the graph where a mask is saved; in place, where the input is saved, a copy of it."""
        activation = op.activation
        with torch._C._AutoDispatchBelowADInplaceOrView():  # mark_dirty counts the version
            result = overload(op.saving + "_" * in_place)(*inputs, *others)
        ctx.strides = []
        if op.saves in ("mask", "indices"):
            output, *saved = (inputs[0], result) if in_place else result
            if op.biased:  # of which only the shape is needed: it may change before backward
                saved.append(torch.empty_like(inputs[1]))
            if op.saves == "mask" and not output.is_contiguous():
                ctx.strides = output.stride()
        else:
            output = inputs[0] if in_place else result
            saved = [output] if op.saves == "output" else list(links or inputs[: 2 if op.biased else None])
        if in_place:
            ctx.mark_dirty(output)
        # The seed is a tensor: saved like the rest, so that hooks on saved tensors see it.
        ctx.save_for_backward(*saved, *others[: activation.random], *(links if op.saves == "mask" else ()))
        ctx.op, ctx.has_residual = op, inputs[-1] is not None
        ctx.scalars = others[activation.random :]
        if activation.kind == "softmax":
            ctx.scalars = (*ctx.scalars[:-1], inputs[0].dtype)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        op: Op = ctx.op
        saved = list(ctx.saved_tensors)
        by_mask = op.saves == "mask"
        links = [saved.pop() for _ in range(1 + op.biased)][::-1] if by_mask else []
        gradients: Any
        if _needs_torch_ops(grad):
            if torch.is_grad_enabled():
                saved += [link.sum(0) for link in links]
            scalars = [float(each) if isinstance(each, (int, float)) else 0.0 for each in ctx.scalars]
            gradients = differentiable_backward(op.name, grad, saved, scalars, list(ctx.strides))
        else:
            grad = _in_layout(grad, ctx.strides) if by_mask else grad
            with torch._C._AutoDispatchBelowADInplaceOrView():
                gradients = overload(f"{op.name}_backward")(grad, *saved, *ctx.scalars)
                gradients = (*gradients, grad) if op.biased else gradients
        gradients = [gradients] if isinstance(gradients, Tensor) else list(gradients)
        if op.biased and not ctx.has_residual:
            gradients[-1] = None
        return None, None, None, None, *gradients


def _kernel_with_node(op: Op, in_place: bool) -> Callable[..., Any]:
    """What nodes in C++ do, as the op's kernel at the autograd keys."""
    node: type[_Node] = type("Bias" * op.biased + op.activation.module, (_Node,), {"__module__": __name__})
    decomposed = decomposition_in_place(op) if in_place else decomposition(op)
    plain = overload(op.name + "_" * in_place)
    tensors = op.tensors + op.activation.random

    def run(*arguments: Any) -> Any:
        if not all(each is None or _is_plain(each) for each in arguments[:tensors]):
            return decomposed(*arguments)
        inputs, others = arguments[: op.tensors], arguments[op.tensors :]
        training = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
        if in_place and not _may_write(inputs[0], training):
            return decomposed(*arguments)
        if not training:
            with torch._C._AutoDispatchBelowAutograd():
                return plain(*arguments)
        links: tuple[Tensor, ...] = ()
        if op.saves == "mask":  # no elements, but all that a second derivative of zeros needs of an input
            links = tuple(x.expand(0, *x.shape).clone() for x in inputs[: 1 + op.biased])
        elif in_place and op.activation.saved == "input":
            links = (inputs[0].clone(),)
        output = node.apply(op, in_place, others, links, *inputs)
        return None if in_place else output

    return run


def _may_write(input: Tensor, training: bool) -> bool:
    """Where torch refuses to work in place, or has rules for it that no Function can follow, torch sees the call."""
    if training and (input.is_leaf or input._is_view()):
        return False
    return 0 not in input.stride() and (not input.is_inference() or torch.is_inference_mode_enabled())


def _count_version(op: Op) -> Callable[..., Any]:
    """The kernel of an op in place at ADInplaceOrView, where torch counts the versions of a tensor."""

    def run(input: Tensor, *arguments: Any) -> None:
        if not _may_write(input, False):
            return decomposition_in_place(op)(input, *arguments)
        with torch._C._AutoDispatchBelowADInplaceOrView():
            overload(f"{op.name}_")(input, *arguments)
        torch.autograd.graph.increment_version(input)
        return None

    return run


if HAS_NODES:
    library.impl("differentiable_backward", differentiable_backward, "CompositeImplicitAutograd")
elif HAS_KERNELS:
    for op in OPS.values():
        for in_place in (False, True) if op.in_place else (False,):
            library.impl(op.name + "_" * in_place, _kernel_with_node(op, in_place), "Autograd")
            decomposed = decomposition_in_place(op) if in_place else decomposition(op)
            library.impl(op.name + "_" * in_place, decomposed, "FuncTorchDynamicLayerFrontMode")
        if op.in_place:
            library.impl(f"{op.name}_", _count_version(op), "ADInplaceOrView")
