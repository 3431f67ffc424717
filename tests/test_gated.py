"""What gated units have beside the other activations: two tensors, packed halves along any dimension, either order."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import ARRANGEMENTS, DEFAULTS, DTYPES, SHAPE, Case
from test_values import tolerance_of, torch_error
from torch import Tensor, nn

import fastact
import fastact.functional as F

UNITS = [case for case in DEFAULTS if case.activation.kind == "gated"]
TWO = [case for case in UNITS if case.activation.name != "glu"]


def results(function, inputs: tuple[Tensor, ...], **arguments) -> list[Tensor]:
    """The output and the gradients of all inputs, for a gradient from -2 to 2."""
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    output = function(*inputs, **arguments)
    grad = torch.linspace(-2, 2, output.numel(), dtype=torch.float64).view(output.shape).to(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for got, expected in zip(ours, theirs, strict=True):
        assert torch.equal(got, expected)


# Rows long and short, halves that are dense, and channels that lie innermost.
PACKED = [((4, 256), -1), ((4, 6), -1), ((6, 40), 0), ((2, 8, 5, 7), 1), ((2, 128, 3, 3), 1), ((2, 4, 3), -2)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", UNITS, ids=str)
def test_packed_gives_what_two_tensors_give(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    """However the halves lie, and in either order: the same bits, forward and backward."""
    for shape, dim in PACKED:
        packed = (torch.randn(shape, dtype=torch.float64) * 3).to(dtype).to(on)
        if packed.dim() == 4 and shape[1] == 128:
            packed = packed.to(memory_format=torch.channels_last)
        value, gate = packed.chunk(2, dim)
        ours = results(case.fastact, (packed,), dim=dim)
        tolerance = tolerance_of(case, dtype, packed)
        for got, expected in zip(ours, results(case.torch, (packed.double(),), dim=dim), strict=True):
            torch.testing.assert_close(got, expected.to(dtype), **tolerance)
            tolerance["atol"] += torch_error(case, dtype, packed)
        assert ours[0].stride() == torch.empty_like(value).stride()
        assert ours[1].stride() == packed.stride()
        if case in TWO:
            two = results(case.fastact, (value, gate))
            assert_equal(ours, [two[0], torch.cat(two[1:], dim)])
            swapped = results(case.fastact, (torch.cat((gate, value), dim),), dim=dim, gate_first=True)
            assert_equal(swapped, [two[0], torch.cat((two[2], two[1]), dim)])


@pytest.mark.parametrize("case", [c for c in TWO if c.activation.name in ("swiglu", "bilinear")], ids=str)
def test_arrangements_change_nothing(case: Case, device: str, on: str) -> None:
    value, gate, grad = torch.randn(3, *SHAPE, device=on)
    names = ARRANGEMENTS if device != "emulated" else ("rows of 128", "rows of 256", "last dimension outermost")

    def run(*tensors: Tensor) -> list[Tensor]:
        *inputs, grad = tensors
        inputs = [x.detach().requires_grad_() for x in inputs]
        output = case.fastact(*inputs)
        return [output, *torch.autograd.grad(output, inputs, grad)]

    expected = run(value, gate, grad)
    for of_value, of_gate in itertools.product(names, names):
        for of_grad in {of_value, of_gate, "contiguous"}:
            arranged = (value, of_value), (gate, of_gate), (grad, of_grad)
            assert_equal(run(*(ARRANGEMENTS[name](tensor) for tensor, name in arranged)), expected)


@pytest.mark.parametrize("case", TWO, ids=str)
def test_the_gate_first_in_graphs_of_graphs(case: Case, on: str) -> None:
    value, gate = torch.randn(2, 3, 8, dtype=torch.float64, device=on)
    results = []
    for packed, gate_first in ((torch.cat((value, gate), -1), False), (torch.cat((gate, value), -1), True)):
        packed.requires_grad_()
        (first,) = torch.autograd.grad(case.fastact(packed, gate_first=gate_first).sum(), packed, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), packed)
        halves = [half for each in (first.detach(), second) for half in each.chunk(2, -1)[:: -1 if gate_first else 1]]
        results.append(halves)
    assert_equal(*results)


@pytest.mark.parametrize("case", [c for c in UNITS if c.activation.name in ("reglu", "bilinear")], ids=str)
def test_products_are_torchs_bit_for_bit(case: Case, on: str) -> None:
    for dtype in DTYPES:
        packed = (torch.randn(3, 300, dtype=torch.float64) * 3).to(dtype).to(on)
        assert_equal(*(results(function, (packed,)) for function in case.both()))


@pytest.mark.parametrize("case", TWO, ids=str)
def test_second_gradients_with_tensors_that_depend_on_each_other(case: Case, on: str) -> None:
    """Each input gets the gradient of its own use: of the same tensor twice, or of a value made from the gate."""
    x = torch.linspace(-2, 2, 7, dtype=torch.float64, device=on).requires_grad_()
    for use in (lambda f: f(x, x), lambda f: f(x.square(), x)):
        seconds = []
        for function in case.both():
            (first,) = torch.autograd.grad(use(function).sum(), x, create_graph=True)
            (plain,) = torch.autograd.grad(use(function).sum(), x)
            torch.testing.assert_close(first, plain)
            seconds.append(torch.autograd.grad(first.sum(), x)[0])
        torch.testing.assert_close(*seconds)


@pytest.mark.parametrize("case", TWO, ids=str)
def test_saves_the_two_tensors_themselves(case: Case, on: str) -> None:
    saved = []
    value, gate = (torch.randn(64, device=on, requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.data_ptr()), lambda x: x):
        case.fastact(value, gate)
    assert saved == [value.data_ptr(), gate.data_ptr()]


@pytest.mark.parametrize("case", TWO, ids=str)
def test_tensors_that_differ_are_torchs(case: Case, kernel_calls: list[str], on: str) -> None:
    value, gate = torch.randn(2, 4, 6, device=on)
    for other in (gate[:1], gate.double(), gate.to("meta")):
        outcomes = []
        for function in case.both():
            try:
                outcomes.append(function(value, other))
            except RuntimeError as error:
                outcomes.append(str(error))
        ours, theirs = outcomes
        assert (
            torch.equal(ours, theirs) if isinstance(ours, Tensor) and not ours.is_meta else type(ours) is type(theirs)
        )
    assert kernel_calls == []
    case.fastact(value, gate)
    assert len(kernel_calls) == 1


@pytest.mark.parametrize("case", UNITS, ids=str)
def test_bad_input(case: Case, on: str) -> None:
    x = torch.randn(3, 5, device=on)
    with pytest.raises(RuntimeError, match=r"must be even|expects split_sizes to sum exactly to 5"):
        case.fastact(x)
    with pytest.raises(IndexError, match="out of range"):
        case.fastact(x, dim=2)
    with pytest.raises(IndexError if case in TWO else RuntimeError, match=r"scalars|no dimensions"):
        case.fastact(torch.tensor(1.0, device=on))
    if case in TWO:
        with pytest.raises(RuntimeError, match="must match the size"):
            case.fastact(x, x[:, :4])


def test_modules_take_two_tensors(on: str) -> None:
    value, gate = torch.randn(2, 3, 8, device=on)
    for module, function in ((fastact.SwiGLU(), F.swiglu), (fastact.GEGLU(), F.geglu), (fastact.ReGLU(), F.reglu)):
        assert torch.equal(module(value, gate), function(value, gate))
        scripted = torch.jit.script(module)
        torch.testing.assert_close(scripted(value, gate), function(value, gate))
    assert repr(fastact.SwiGLU(1, gate_first=True)) == "SwiGLU(dim=1, gate_first=True)"
    assert repr(fastact.GEGLU(approximate="tanh")) == "GEGLU(dim=-1, approximate='tanh')"


def test_torchs_bilinear_is_something_else() -> None:
    layer = nn.Bilinear(2, 3, 4)
    assert type(fastact.convert(nn.Sequential(layer))[0]) is nn.Bilinear
    unit = fastact.Bilinear()
    assert not isinstance(unit, nn.Bilinear)
    assert type(fastact.revert(nn.Sequential(unit))[0]) is fastact.Bilinear
