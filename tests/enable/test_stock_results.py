"""What a caller sees of torch's ops is the same with fastact's in their place: shapes, strides, versions, errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES
from stock import IN_PLACE, OPS, OUT, assert_stock, aten, functional, node, run_by
from torch import Tensor

import fastact

aten_ops = torch.ops.aten


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, few of them large enough for torch's derivatives to lose more than some eps by cancellation."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def _inference() -> Tensor:
    with torch.inference_mode():
        return numbers(4, 6)


TAKEN: dict[str, Callable[[], Tensor]] = {
    **{str(dtype): lambda dtype=dtype: numbers(4, 6, dtype=dtype) for dtype in DTYPES},
    "no rows": lambda: numbers(0, 6),
    "no columns": lambda: numbers(4, 0),
    "0-d": lambda: numbers(),
    "one": lambda: numbers(1, 1, 2),
    "expanded": lambda: numbers(4, 1).expand(4, 6),
    "transposed": lambda: numbers(6, 4).t(),
    "channels_last": lambda: numbers(2, 4, 6, 6).to(memory_format=torch.channels_last),
    "every other": lambda: numbers(4, 12)[:, ::2],
    "slice": lambda: numbers(4, 12)[:, 3:9],
    "imaginary parts": lambda: torch.complex(numbers(4, 6), numbers(4, 6)).imag,
    "inference": _inference,
}
LEFT: dict[str, Callable[[], Tensor]] = {
    "int": lambda: numbers(4, 6).int(),
    "bool": lambda: numbers(4, 6) > 0,
    "complex": lambda: torch.complex(numbers(4, 6), numbers(4, 6)),
    "float8": lambda: numbers(4, 6).to(torch.float8_e4m3fn),
    "meta": lambda: numbers(4, 6).to("meta"),
    "mkldnn": lambda: numbers(4, 6).to_mkldnn(),
}
IN_PARTS: dict[str, Callable[[], Tensor]] = {  # torch calls the op again, with a plain tensor
    "lazy negative": lambda: torch._neg_view(numbers(4, 6)),
    "lazy conjugate": lambda: torch.complex(numbers(4, 6), numbers(4, 6)).conj().imag,
    "zero": lambda: torch._efficientzerotensor((4, 6)),
    "sparse": lambda: numbers(4, 6).to_sparse(),
    "sparse rows": lambda: numbers(4, 6).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([numbers(2, 6), numbers(3, 6)]),
    "jagged": lambda: torch.nested.nested_tensor([numbers(2, 6), numbers(3, 6)], layout=torch.jagged),
}
INPUTS = {**TAKEN, **LEFT, **IN_PARTS}


def leaf(input: Tensor) -> Tensor:
    can = input.is_floating_point() or input.is_complex()
    return input.detach().clone().requires_grad_() if can and not input.is_inference() else input


def gradient(output: Tensor, input: Tensor, grad: Tensor) -> Tensor:
    """The gradient, but for its strides."""
    found = torch.autograd.grad(output, input, grad)[0]
    return found.contiguous() if found.layout == torch.strided else found


@pytest.mark.parametrize("layout", INPUTS)
def test_results(layout: str) -> None:
    make = INPUTS[layout]
    for name in OPS:
        if (name, layout) in (("rrelu", "torch.float16"), ("hardsigmoid", "torch.float64")):
            continue  # torch has none, and a sixth in float32
        call, same = functional(name), {"values": name != "rrelu", "what": name}

        def differentiated(call: Callable = call) -> object:
            input = leaf(make())
            output = call(input)
            return [output, output.requires_grad and gradient(output, input, torch.ones_like(output))]

        def without_gradients(call: Callable = call, context: Callable = torch.no_grad) -> Tensor:
            with context():
                return call(leaf(make()))

        assert_stock(lambda call=call: call(make()), **same)
        assert_stock(differentiated, **same)
        assert_stock(without_gradients, **same)
        assert_stock(lambda run=without_gradients: run(context=torch.inference_mode), **same)


@pytest.mark.parametrize("layout", INPUTS)
def test_fastact_runs_on_plain_tensors_alone(layout: str) -> None:
    names = set(OPS) - ({"glu"} if INPUTS[layout]().dim() == 0 else set())  # which torch refuses

    def calls() -> None:
        for name in names:
            with contextlib.suppress(RuntimeError):  # many, with other tensors than plain ones
                functional(name)(INPUTS[layout]())

    with fastact.enable():
        ran = {op for op in run_by(calls) if op.startswith("fastact::")}
    if layout == "inference":  # has no autograd, at whose keys these are replaced
        names -= {"logsigmoid", "rrelu"}
    all_of_them = {f"fastact::{name}{'_packed' * (name == 'glu')}" for name in names}
    assert ran == all_of_them if layout in TAKEN else bool(ran) == (layout in IN_PARTS)


def test_gradients_have_torchs_strides() -> None:
    """Where the incoming gradient lies in memory as the output does, or has no layout. Elsewhere they lie as the output
    does; torch's mostly as the incoming gradient. (GLU's lie as the input does, and torch's are contiguous.)"""
    gradients: dict[str, Callable[[Tensor], Tensor]] = {
        "as the output": torch.ones_like,
        "expanded": lambda output: torch.ones(()).expand(output.shape),
        "lazy negative": lambda output: torch._neg_view(torch.ones_like(output)),
    }
    for name in OPS.keys() - {"glu"}:
        for layout in ("no rows", "expanded", "transposed", "channels_last", "every other"):
            for kind, grad in gradients.items():

                def call(name: str = name, layout: str = layout, grad: Callable = grad) -> Tensor:
                    input = INPUTS[layout]().detach().requires_grad_()
                    output = functional(name)(input)
                    return torch.autograd.grad(output, input, grad(output))[0].resolve_neg()

                assert_stock(call, values=name != "rrelu", what=f"{name} {layout} {kind}")


def _plain(write: Callable, make: Callable[[], Tensor]) -> list[Tensor]:
    input = make()
    return [write(input), input]


def _of_a_copy(write: Callable, make: Callable[[], Tensor]) -> list[Tensor]:
    input = leaf(make())
    copy = input.clone()
    result = write(copy)
    assert result is copy
    return [copy, copy.requires_grad and gradient(copy, input, torch.ones_like(copy))]


def _of_a_view(write: Callable, make: Callable[[], Tensor]) -> list[Tensor]:
    input = leaf(make())
    copy = input.clone()
    view = copy[1:]
    write(view)
    return [copy, view, copy.requires_grad and gradient(copy, input, torch.ones_like(copy))]


def _of_the_base(write: Callable, make: Callable[[], Tensor]) -> list[Tensor]:
    base = make()
    view = base[1:]
    write(base)
    return [base, view]


def _of_one_of_several_views(write: Callable, make: Callable[[], Tensor]) -> list[Tensor]:
    return [write(leaf(make()).clone().chunk(2)[0])]


def _of_an_unsafe_chunk(write: Callable, make: Callable[[], Tensor]) -> list[Tensor]:
    input = leaf(make())
    first, second = input.clone().unsafe_chunk(2)
    write(first)
    return [first, second, first.requires_grad and gradient(first + second, input, torch.ones_like(first))]


def _of_a_leaf(write: Callable, make: Callable[[], Tensor]) -> Tensor:
    return write(leaf(make()))


def _of_a_leaf_without_gradients(write: Callable, make: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad():
        return write(leaf(make()))


def _of_a_detached(write: Callable, make: Callable[[], Tensor]) -> list[Tensor]:
    copy = leaf(make()).clone()
    square = copy * copy
    write(copy.detach())
    square.sum().backward()  # fails, by the version
    return [copy]


def _of_a_normal_tensor_in_inference_mode(write: Callable, make: Callable[[], Tensor]) -> list[Tensor]:
    input = make()
    with torch.inference_mode():
        return [write(input), input]


def _in_inference_mode(write: Callable, make: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode():
        return write(make())


WRITES = [_plain, _of_a_copy, _of_a_view, _of_the_base, _of_one_of_several_views, _of_an_unsafe_chunk, _of_a_leaf]
WRITES += [_of_a_leaf_without_gradients, _of_a_detached, _of_a_normal_tensor_in_inference_mode, _in_inference_mode]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__[1:])
def test_in_place(write: Callable) -> None:
    layouts = ("torch.float32", "torch.bfloat16", "no rows", "0-d", "expanded", "transposed", "slice", "every other")
    for name in IN_PLACE:
        for layout in (*layouts, "inference", "int", "lazy negative", "sparse", "jagged"):

            def call(name: str = name, layout: str = layout) -> object:
                result = write(aten(name, "_"), INPUTS[layout])
                versions = [
                    each._version
                    for each in (result if isinstance(result, list) else [result])
                    if not each.is_inference()
                ]
                return [result, versions]

            assert_stock(call, values=name != "rrelu", what=f"{name} {layout}")


SCALARS = [
    0,
    1,
    -1,
    2.5,
    -0.5,
    float("inf"),
    -float("inf"),
    float("nan"),
    1e300,
    1e39,
    1e-45,
    65505.0,
    1e20,
    1e-30,
    2**63,
]
SCALARS += [2**70, True, 1j, np.float32(0.5), np.int64(2), torch.tensor(0.5), torch.tensor([0.5]), "a", None]
WITH_SCALARS: dict[str, Callable] = {
    "leaky_relu": lambda x, s: F.leaky_relu(x, s),
    "elu": lambda x, s: F.elu(x, s),
    "elu's scale": lambda x, s: aten_ops.elu(x, 1, s),
    "elu's input scale": lambda x, s: aten_ops.elu(x, 2, 1, s),
    "celu": lambda x, s: F.celu(x, s),
    "hardtanh": lambda x, s: F.hardtanh(x, -1, s),
    "threshold": lambda x, s: F.threshold(x, s, 0.1),
    "threshold's value": lambda x, s: F.threshold(x, 0.1, s),
    "softplus": lambda x, s: F.softplus(x, s),
    "softplus's threshold": lambda x, s: F.softplus(x, 1, s),
    "hardshrink": lambda x, s: F.hardshrink(x, s),
    "softshrink": lambda x, s: F.softshrink(x, s),
    "rrelu": lambda x, s: F.rrelu(x, 0.25, s, training=True).sign(),
    "rrelu between equal bounds": lambda x, s: F.rrelu(x, s, s, training=True),
    "rrelu in evaluation": lambda x, s: F.rrelu(x, 0.25, s),
    "softmax": lambda x, s: F.softmax(x, s, _stacklevel=5),
    "log_softmax": lambda x, s: F.log_softmax(x, s, _stacklevel=5),
    "half to float": lambda x, s: aten_ops._softmax(x, -1, bool(s)),
    "glu": lambda x, s: F.glu(x, s),
    "gelu": lambda x, s: F.gelu(x, approximate=s),
}


def differentiated(function: Callable, *more: object, dtype: torch.dtype = torch.float32) -> Callable[[], list[Tensor]]:
    def call() -> list[Tensor]:
        input = numbers(4, 6, dtype=dtype).requires_grad_()
        output = function(input, *more)
        return [output, *torch.autograd.grad(output, input, torch.ones_like(output))]

    return call


@pytest.mark.parametrize("what", WITH_SCALARS)
def test_scalar_arguments(what: str) -> None:
    for dtype in (torch.float32, torch.float16):
        if dtype == torch.float16 and what.startswith("rrelu") and "evaluation" not in what:
            continue  # torch has none
        for scalar in SCALARS:
            size = abs(float(scalar)) if isinstance(scalar, (int, float)) else 1.0  # of what may cancel
            call = differentiated(WITH_SCALARS[what], scalar, dtype=dtype)
            assert_stock(call, size=max(1.0, size), what=f"{scalar} {dtype}")


@pytest.mark.parametrize("what", WITH_SCALARS)
def test_no_tensor_is_an_error(what: str) -> None:
    for input in (1, None, "a", [1.0]):
        with pytest.raises((TypeError, AttributeError, RuntimeError)):
            WITH_SCALARS[what](input, 1)
        assert_stock(lambda input=input: WITH_SCALARS[what](input, 1))


@pytest.mark.parametrize("dim", range(-3, 4))
def test_dims_and_dtypes_of_softmax(dim: int) -> None:
    for function in (torch.softmax, torch.log_softmax):
        for input in (numbers(), numbers(4, 6), numbers(0, 3), numbers(3, 0), numbers(4, 6).half()):
            for dtype in (None, torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.complex64):
                assert_stock(lambda f=function, x=input, t=dtype: f(x, dim, dtype=t), what=f"{input.shape} {dtype}")
    for input in (numbers(), numbers(4, 6), numbers(0, 4), numbers(4, 0), numbers(4, 5), numbers(3, 6).t()):
        assert_stock(lambda x=input: F.glu(x, dim))


@pytest.mark.parametrize("shape", [(4, 6), (6,), (), (0, 6), (2, 6, 3, 3)], ids=str)
def test_weights_of_prelu(shape: tuple[int, ...]) -> None:
    quarter = torch.full((6,), 0.25)
    weights = [
        quarter,
        quarter[:1],
        quarter[0],
        quarter[:4],
        quarter[None],
        quarter.double(),
        quarter.half(),
        quarter[:0],
    ]
    weights += [
        torch.full((12,), 0.25)[::2],
        quarter[:1].expand(6),
        quarter.int(),
        quarter.to("meta"),
        quarter.to_sparse(),
    ]
    for i, weight in enumerate([*weights, None, 0.3]):

        def call(weight: object = weight) -> list[Tensor]:
            input = numbers(*shape).requires_grad_()
            differentiable = isinstance(weight, Tensor) and weight.is_floating_point()
            weight = weight.detach().clone().requires_grad_() if differentiable else weight
            output = torch.prelu(input, weight)
            return [output, *torch.autograd.grad(output, (input, weight), torch.ones_like(output))]

        # The weight's gradient is a sum of at most 108 numbers of order 1, in another order.
        assert_stock(call, size=108, what=f"weight {i}")


OUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "right": torch.empty_like,
    "empty": lambda x: x.new_empty(0),
    "no elements of much memory": lambda x: x.new_empty(50)[:0],
    "empty of another dtype": lambda x: torch.empty(0, dtype=torch.float64),
    "another size": lambda x: x.new_empty(3),
    "bfloat16": lambda x: torch.empty_like(x, dtype=torch.bfloat16),
    "float64": lambda x: torch.empty_like(x, dtype=torch.float64),
    "int": lambda x: torch.empty_like(x, dtype=torch.int32),
    "the input": lambda x: x,
    "overlaps": lambda x: x[1:],
    "needs a gradient": lambda x: torch.empty_like(x).requires_grad_(),
    "every other": lambda x: x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])[..., ::2],
    "meta": lambda x: torch.empty_like(x, device="meta"),
    "expanded": lambda x: x.new_zeros(1).expand(x.shape),
}


@pytest.mark.parametrize("out", OUTS)
def test_out(out: str) -> None:
    for name in OUT:
        if name.endswith("softmax") and out in ("every other", "expanded"):
            continue  # torch writes these as if they were contiguous, beyond their end
        for layout in ("torch.float32", "torch.float16", "no rows", "transposed", "every other", "int"):
            for needs_gradient in (False, True) if layout == "torch.float32" else (False,):

                def call(name: str = name, layout: str = layout, needs_gradient: bool = needs_gradient) -> list:
                    input = leaf(INPUTS[layout]()) if needs_gradient else INPUTS[layout]()
                    target = OUTS[out](input)
                    assert aten(name, overload="out")(input, out=target) is target
                    return [target, target._version, input]

                assert_stock(call, what=f"{name} {layout} {needs_gradient}")


BACKWARDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "elu": lambda g, y: aten_ops.elu_backward(g, 1.0, 1.0, 1.0, True, y),
    "elu of an input": lambda g, y: aten_ops.elu_backward(g, 1.0, 1.0, 1.0, False, y),
    "celu": lambda g, y: aten_ops.elu_backward(g, 2.0, 1.0, 0.5, True, y),
    "sigmoid": aten_ops.sigmoid_backward,
    "tanh": aten_ops.tanh_backward,
    "silu": aten_ops.silu_backward,
    "gelu": aten_ops.gelu_backward,
    "gelu_tanh": lambda g, x: aten_ops.gelu_backward(g, x, approximate="tanh"),
    "mish": aten_ops.mish_backward,
    "hardswish": aten_ops.hardswish_backward,
    "softplus": lambda g, x: aten_ops.softplus_backward(g, x, 1.0, 20.0),
    "softplus without a slope": lambda g, x: aten_ops.softplus_backward(g, x, 0.0, 20.0),
    "glu": lambda g, x: aten_ops.glu_backward(g, torch.cat([x, x], -1) if x.dim() else x, -1),
    "softmax": lambda g, y: aten_ops._softmax_backward_data(g, y, -1, y.dtype),
    "log_softmax": lambda g, y: aten_ops._log_softmax_backward_data(g, y, -1, y.dtype),
    "softmax of a float64": lambda g, y: aten_ops._softmax_backward_data(g, y, -1, torch.float64),
    "softmax along no dimension": lambda g, y: aten_ops._softmax_backward_data(g, y, 5, y.dtype),
}
LAYOUTS = ["torch.float32", "torch.float64", "no rows", "0-d", "expanded", "transposed", "every other", "lazy negative"]
OPERANDS = {key: INPUTS[key] for key in [*LAYOUTS, "int"]}
OPERANDS |= {"row": lambda: numbers(6), "column": lambda: numbers(4, 1), "3-d": lambda: numbers(2, 4, 6)}
OPERANDS |= {"another shape": lambda: numbers(5, 6), "scalar": lambda: numbers().double()}


@pytest.mark.parametrize("name", BACKWARDS)
def test_backward_ops(name: str) -> None:
    """Torch's also broadcast and promote, by which no node calls them, but other graphs may."""
    for grad_kind, grad in OPERANDS.items():
        for kind, saved in OPERANDS.items():
            if "softmax" in name and grad().shape != saved().shape:
                continue  # torch reads beyond their ends
            output = -torch.sigmoid(saved()) if name == "log_softmax" else torch.sigmoid(saved())
            assert_stock(lambda g=grad, y=output: BACKWARDS[name](g(), y), what=f"{grad_kind} {kind}")


@pytest.mark.parametrize("name", [name for name in BACKWARDS if " " not in name])
def test_backward_ops_run_fastacts(name: str) -> None:
    grad, saved = numbers(4, 6), torch.rand(4, 6)
    with fastact.enable():
        ran = run_by(lambda: BACKWARDS[name](grad, saved))
    assert f"fastact::{name}{'_packed' * (name == 'glu')}_backward" in ran


def test_results_can_be_viewed_as_torchs() -> None:
    """Torch's softmax, of a transposed input too, is contiguous."""
    with fastact.enable():
        scores = numbers(2, 5, 3).transpose(1, 2).requires_grad_()
        for function in (torch.softmax, torch.log_softmax):
            output = function(scores, -1)
            assert output.grad_fn.name() == node(function.__name__)
            assert output.view(-1).shape == (30,)


def test_float16_rrelu_is_fastacts() -> None:
    """Torch has none on the CPU."""
    with pytest.raises(NotImplementedError):
        torch.rrelu(numbers(4, 6).half(), training=True)
    with fastact.enable():
        assert torch.rrelu(numbers(4, 6).half(), training=True).dtype == torch.float16
