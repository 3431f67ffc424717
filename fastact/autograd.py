"""The autograd of every activation: what is saved, and which kernel runs.

The `apply` functions are given a tensor that takes the kernel path (`fastact.path`). Where no gradient is needed
they run the kernel alone; else, on the CPU, an op with a node of its own in C++ (csrc/autograd/nodes.cpp), or a
`torch.autograd.Function`, one class per activation for the sake of a readable `grad_fn`.

Backward runs the fused kernel. Where its own result must be differentiable (`create_graph=True`), or the incoming
gradient is not a plain tensor (batched gradients), it is composed of torch ops instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_map_only

from . import cpu
from .catalogue import ACTIVATIONS, Activation
from .composites import value_and_gate
from .path import KernelUnavailable, NotLoaded, fall_back, runs_on_gpu_kernels


def backend(input: Tensor) -> ModuleType:
    """The module whose kernels run on the tensor's device."""
    if runs_on_gpu_kernels(input):
        try:
            from . import kernels
        except Exception as error:
            raise KernelUnavailable(input.device, "it cannot import its kernels", error) from error
        return kernels
    return cpu


def _torch_op(activation: Activation, error: KernelUnavailable, *inputs: Tensor, **arguments: Any) -> Tensor:
    """What runs in place of a forward kernel that cannot."""
    fall_back(error)
    return activation.reference(*inputs, **arguments, **activation.keywords)


def _run_backward(part: str, activation: Activation, *arguments: Any) -> Any:
    """The kernel of a node whose forward kernel has run. If this one cannot, the C++ kernels on the CPU take its place:
    what is saved is for kernels to read, and the gradient must not be lost."""
    grad = arguments[0]
    try:
        return kernels_part(backend(grad), part)(activation, *arguments)
    except NotLoaded:  # nor could the graph hold the way to the CPU
        raise
    except KernelUnavailable as error:
        fall_back(error)
    there = tree_map_only(Tensor, lambda x: x.cpu(), arguments)
    result = getattr(cpu, part)(activation, *there)
    return tree_map_only(Tensor, lambda x: x.to(grad.device), result)


def _draw_seed(device: torch.device) -> Tensor:
    """One number from torch's generator for the device, where it stays: so `torch.manual_seed`, recomputation under
    checkpointing and replay of CUDA graphs all give what they should."""
    return torch.empty((), dtype=torch.int64, device=device).random_()


def _needs_torch_ops(grad: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        or type(grad) is not Tensor
        or grad.layout is not torch.strided
        or torch.autograd.forward_ad._current_level >= 0  # it may have a tangent
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.is_legacy_batchedtensor(grad)
        or grad.is_neg()
        or grad._is_zerotensor()
    )


def _in_layout(grad: Tensor, strides: Sequence[int] | None) -> Tensor:
    """The gradient in the memory order of the output, which is the order of the bits. No strides mean contiguous."""
    if strides is None:
        return grad.contiguous()
    if grad.stride() == tuple(strides):
        return grad
    return torch.empty_strided(grad.shape, strides, dtype=grad.dtype, device=grad.device).copy_(grad)


def _link(input: Tensor) -> Tensor:
    """No elements, but the input's place in the graph: all that a second derivative of zeros needs of it."""
    return input.expand(0, *input.shape).clone()


class _Pointwise(Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, activation: Activation, inplace: bool, parameters: tuple, extra: tuple[Tensor, ...]
    ) -> Tensor:
        """`extra`, in a tuple since it has no gradient of its own, holds the input's link where bits are saved; in
        place, where the input is saved, a copy that is part of the graph."""
        saves_bits = activation.saved == "bits"
        (saved,) = extra or (input,)
        output, bits = backend(input).forward(activation, input, parameters, inplace, saves_bits)
        if inplace:
            ctx.mark_dirty(input)
        ctx.strides = None
        if saves_bits:
            saved = bits
            ctx.strides = None if output.is_contiguous() else output.stride()
        elif activation.saved == "output":
            saved = output
        # The seed of a random activation is a tensor: saved like the rest, so that hooks on saved tensors see it.
        ctx.save_for_backward(saved, *(extra if saves_bits else ()), *parameters[: activation.random])
        ctx.activation = activation
        ctx.parameters = parameters[activation.random :]
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        activation: Activation = ctx.activation
        saved, *rest = ctx.saved_tensors
        link, seed = (rest[:1], rest[1:]) if activation.saved == "bits" else ([], rest)
        parameters = (*seed, *ctx.parameters)
        if not _needs_torch_ops(grad):
            if activation.saved == "bits":
                grad = _in_layout(grad, ctx.strides)
            gradient = _run_backward("backward", activation, grad, saved, parameters)
        else:
            stand_in = link[0].sum(0) if link and torch.is_grad_enabled() else None
            gradient = _differentiable_backward(activation, grad, saved, parameters, ctx.strides, stand_in)
        return gradient, None, None, None, None


def _wide(tensor: Tensor) -> Tensor:
    """16-bit types compute in float32 here too, and round once."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _differentiable_backward(
    activation: Activation,
    grad: Tensor,
    saved: Tensor,
    parameters: tuple,
    strides: Sequence[int] | None,
    stand_in: Tensor | None = None,
) -> Tensor:
    """`stand_in`, where bits are saved, is a tensor of zeros in the input's place in the graph."""
    if activation.saved == "bits":
        # The gradient is linear in grad and does not otherwise depend on the input: the kernel gives the factor.
        with torch.no_grad():
            wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
            ones = _in_layout(torch.ones(grad.shape, dtype=wide, device=saved.device), strides)
            factor = _run_backward("backward", activation, ones, saved, parameters)
        if stand_in is not None:  # the factor depends on the input, with a derivative of zero
            factor = torch.where(torch.ones_like(factor, dtype=torch.bool), factor, stand_in)
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
    if activation.limits_at_infinity:  # which derivatives have reached between these, in float64 too; torch's have NaN
        inputs = tuple(torch.where(x < -1e4, -1e4, torch.where(x > 60, 60.0, x)) for x in inputs)
    with torch.enable_grad():
        # Aliases: one input may depend on another, or be the same tensor, and each gets the gradient of its own use.
        wide = tuple(_wide((x if x.requires_grad else x.detach().requires_grad_()).view_as(x)) for x in inputs)
        output = activation.reference(*wide, **named, **activation.keywords)
        gradients = torch.autograd.grad(output, wide, _wide(grad), create_graph=create_graph)
        return tuple(gradient.to(x.dtype) for gradient, x in zip(gradients, inputs, strict=True))


def _differentiable_softmax_backward(activation: Activation, grad: Tensor, output: Tensor, dim: int) -> Tensor:
    assert activation.gradient_from_output is not None
    return activation.gradient_from_output(_wide(grad), _wide(output), dim)


class _Learned(Function):
    @staticmethod
    def forward(ctx: Any, activation: Activation, parameters: tuple, input: Tensor, *learned: Tensor) -> Tensor:
        ctx.save_for_backward(input, *learned)
        ctx.activation, ctx.parameters = activation, parameters
        return backend(input).learned_forward(activation, input, learned, parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        activation: Activation = ctx.activation
        input, *learned = ctx.saved_tensors
        if _needs_torch_ops(grad):
            named = dict(zip(activation.parameters, ctx.parameters, strict=True))
            return None, None, *_torch_gradient(activation, grad, (input, *learned), named)
        return None, None, *_run_backward("learned_backward", activation, grad, input, learned, ctx.parameters)


def _differentiable_backward_of_node(
    name: str, grad: Tensor, saved: list[Tensor], parameters: list[float], strides: list[int]
) -> list[Tensor]:
    """What the nodes in C++ call where they need torch's ops."""
    activation = ACTIVATIONS[name]
    if activation.kind == "softmax":  # autograd converts to the input's dtype
        return [_differentiable_softmax_backward(activation, grad, saved[0], int(parameters[0]))]
    if activation.kind == "learned":
        return list(
            _torch_gradient(activation, grad, tuple(saved), dict(zip(activation.parameters, parameters, strict=True)))
        )
    return [_differentiable_backward(activation, grad, saved[0], tuple(parameters), strides or None, *saved[1:])]


if cpu.HAS_NODES:
    _library = torch.library.Library("fastact", "IMPL")
    _library.impl("differentiable_backward", _differentiable_backward_of_node, "CompositeImplicitAutograd")


def _gated_forward_on_gpu(
    kernels: ModuleType, activation: Activation, inputs: Sequence[Tensor], dim: int, gate_first: bool
) -> Tensor:
    return kernels.gated_forward(activation, *value_and_gate(*inputs, dim=dim, gate_first=gate_first))


def _gated_backward_on_gpu(
    kernels: ModuleType, activation: Activation, grad: Tensor, inputs: Sequence[Tensor], dim: int, gate_first: bool
) -> tuple[Tensor, ...]:
    halves = partial(value_and_gate, dim=dim, gate_first=gate_first)
    gradients = tuple(map(torch.empty_like, inputs))
    kernels.gated_backward(activation, grad, *halves(*inputs), *halves(*gradients))
    return gradients


def group_by_pieces(input: Tensor, pieces: int, dim: int) -> tuple[Tensor, Tensor, int]:
    """The input of a Maxout, made dense; its output, still empty, in the same order of dimensions; and how far apart
    the pieces of an output lie."""
    if not (input.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(input)):
        input = input.contiguous()
    shape = list(input.shape)
    shape[dim] //= pieces
    if input.numel() == 0:
        return input, input.new_empty(shape), 1
    inner = input.stride(dim)
    strides = [stride // pieces if stride > inner else stride for stride in input.stride()]
    return input, input.new_empty_strided(shape, strides), inner


def _maxout_forward_on_gpu(
    kernels: ModuleType, activation: Activation, input: Tensor, pieces: int, dim: int
) -> tuple[Tensor, Tensor]:
    input, output, inner = group_by_pieces(input, pieces, dim)
    indices = torch.empty_like(output, dtype=torch.uint8)
    kernels.maxout_forward(activation, input, output, indices, pieces, inner)
    return output, indices


def _maxout_backward_on_gpu(
    kernels: ModuleType, activation: Activation, grad: Tensor, indices: Tensor, pieces: int, dim: int
) -> Tensor:
    """The gradient, with the pieces of a group as far apart as numbers of neighbouring groups are in `indices`."""
    shape, strides, inside = list(indices.shape), list(indices.stride()), 1
    for other, (size, stride) in enumerate(zip(shape, indices.stride(), strict=True)):
        if indices.numel() == 0:
            break
        if stride < indices.stride(dim):
            inside *= size
        elif other != dim:
            strides[other] *= pieces
    shape[dim] *= pieces
    grad_input = grad.new_empty_strided(shape, strides)
    kernels.maxout_backward(activation, _in_layout(grad, indices.stride()), indices, grad_input, pieces, inside)
    return grad_input


_ON_GPU = {
    "gated_forward": _gated_forward_on_gpu,
    "gated_backward": _gated_backward_on_gpu,
    "maxout_forward": _maxout_forward_on_gpu,
    "maxout_backward": _maxout_backward_on_gpu,
}
"""What the GPU's kernels write into tensors that they are given, the CPU's return."""


def kernels_part(kernels: ModuleType, part: str) -> Callable[..., Any]:
    """A function of a backend, with the CPU's arguments and results."""
    if kernels is cpu or part not in _ON_GPU:
        return getattr(kernels, part)
    return partial(_ON_GPU[part], kernels)


class _Gated(Function):
    @staticmethod
    def forward(ctx: Any, activation: Activation, dim: int, gate_first: bool, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.activation, ctx.dim, ctx.gate_first = activation, dim, gate_first
        return kernels_part(backend(inputs[0]), "gated_forward")(activation, inputs, dim, gate_first)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        activation, inputs = ctx.activation, ctx.saved_tensors
        if _needs_torch_ops(grad):
            named = {"dim": ctx.dim, "gate_first": True} if ctx.gate_first else {"dim": ctx.dim}
            return None, None, None, *_torch_gradient(activation, grad, inputs, named)
        arguments = (grad, inputs, ctx.dim, ctx.gate_first)
        return None, None, None, *_run_backward("gated_backward", activation, *arguments)


class _Maxout(Function):
    @staticmethod
    def forward(ctx: Any, activation: Activation, input: Tensor, pieces: int, dim: int) -> Tensor:
        output, indices = kernels_part(backend(input), "maxout_forward")(activation, input, pieces, dim)
        ctx.save_for_backward(indices)
        ctx.activation, ctx.pieces, ctx.dim = activation, pieces, dim % input.dim()
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        if _needs_torch_ops(grad):
            after = ctx.dim + 1  # the pieces' own dimension, for now
            numbers = torch.arange(ctx.pieces, device=indices.device, dtype=indices.dtype)
            won = indices.unsqueeze(after) == numbers.view(-1, *[1] * (indices.dim() - ctx.dim - 1))
            shape = list(indices.shape)
            shape[ctx.dim] *= ctx.pieces
            return None, torch.where(won, grad.unsqueeze(after), 0.0).reshape(shape), None, None
        arguments = (grad, indices, ctx.pieces, ctx.dim)
        return None, _run_backward("maxout_backward", ctx.activation, *arguments), None, None


class _Softmax(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, activation: Activation, dim: int, dtype: torch.dtype) -> Tensor:
        output = backend(input).softmax_forward(activation, input, dim, dtype)
        ctx.save_for_backward(output)
        ctx.activation, ctx.dim, ctx.dtype = activation, dim, input.dtype
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        activation: Activation = ctx.activation
        (output,) = ctx.saved_tensors
        if _needs_torch_ops(grad):
            gradient = _differentiable_softmax_backward(activation, grad, output, ctx.dim).to(ctx.dtype)
        else:
            gradient = _run_backward("softmax_backward", activation, grad, output, ctx.dim, ctx.dtype)
        return gradient, None, None, None


_BASES = {
    "pointwise": _Pointwise,
    "learned": _Learned,
    "softmax": _Softmax,
    "gated": _Gated,
    "maxout": _Maxout,
}
_FUNCTIONS: dict[Activation, type[Function]] = {
    row: type(row.module, (_BASES[row.kind],), {"__module__": __name__}) for row in ACTIVATIONS.values()
}


def apply(name: str, input: Tensor, inplace: bool, *parameters: float) -> Tensor:
    """Run a pointwise activation's kernel, with a node in the autograd graph where gradients are needed."""
    activation = ACTIVATIONS[name]
    arguments = (_draw_seed(input.device), *parameters) if activation.random else parameters
    try:
        kernels = backend(input)
        if input.requires_grad and torch.is_grad_enabled():
            if kernels is cpu and cpu.HAS_NODES and not activation.random:
                return cpu.forward(activation, input, arguments, inplace, False)[0]
            extra = ()
            if activation.saved == "bits":
                extra = (_link(input),)
            elif inplace and activation.saved == "input":
                extra = (input.clone(),)
            return _FUNCTIONS[activation].apply(input, activation, inplace, arguments, extra)
        output, _ = kernels.forward(activation, input, arguments, inplace, False)
    except KernelUnavailable as error:
        named = dict(zip(activation.parameters, parameters, strict=True))
        return _torch_op(activation, error, input, **named, **({"inplace": True} if inplace else {}))
    if inplace:
        torch.autograd.graph.increment_version(input)
    return output


def _need_gradients(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def apply_learned(name: str, input: Tensor, learned: tuple[Tensor, ...], *parameters: float) -> Tensor:
    """The same for an activation with learned tensors."""
    activation = ACTIVATIONS[name]
    try:
        kernels = backend(input)
        if _need_gradients(input, *learned) and not (kernels is cpu and cpu.HAS_NODES):
            return _FUNCTIONS[activation].apply(activation, parameters, input, *learned)
        return kernels.learned_forward(activation, input, learned, parameters)
    except KernelUnavailable as error:
        named = dict(zip(activation.parameters, parameters, strict=True))
        return _torch_op(activation, error, input, *learned, **named)


def apply_gated(name: str, inputs: tuple[Tensor, ...], dim: int, gate_first: bool) -> Tensor:
    """The same for a gated unit, of value and gate or of the tensor whose halves along `dim` they are."""
    activation = ACTIVATIONS[name]
    try:
        if _need_gradients(*inputs):
            return _FUNCTIONS[activation].apply(activation, dim, gate_first, *inputs)
        return kernels_part(backend(inputs[0]), "gated_forward")(activation, inputs, dim, gate_first)
    except KernelUnavailable as error:
        return _torch_op(activation, error, *inputs, dim=dim, **({"gate_first": True} if gate_first else {}))


def apply_maxout(name: str, input: Tensor, pieces: int, dim: int) -> Tensor:
    """The same for Maxout."""
    activation = ACTIVATIONS[name]
    try:
        if _need_gradients(input):
            return _FUNCTIONS[activation].apply(activation, input, pieces, dim)
        output, _ = kernels_part(backend(input), "maxout_forward")(activation, input, pieces, dim)
        return output
    except KernelUnavailable as error:
        return _torch_op(activation, error, input, pieces=pieces, dim=dim)


def apply_softmax(name: str, input: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """The same for an activation of rows along `dim`. The result has the dtype; kernels widen 16-bit inputs as they
    read them, other inputs are converted first."""
    activation = ACTIVATIONS[name]
    if dtype != input.dtype and not (dtype == torch.float32 and input.dtype.itemsize == 2):
        input = input.to(dtype)
    try:
        kernels = backend(input)
        if _need_gradients(input) and not (kernels is cpu and cpu.HAS_NODES):
            return _FUNCTIONS[activation].apply(input, activation, dim, dtype)
        return kernels.softmax_forward(activation, input, dim, dtype)
    except KernelUnavailable as error:
        return _torch_op(activation, error, input, dim=dim, dtype=dtype)
