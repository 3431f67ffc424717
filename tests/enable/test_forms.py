"""Every op of torch's that is replaced, in each form in which it can be called, runs fastact's op."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES
from stock import IN_PLACE, METHODS, OPS, OUT, TOLERANCE, Watch, aten, functional, method, module, node, ours, run_by
from torch import Tensor, nn

import fastact
from fastact.catalogue import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("enabled")


def numbers(dtype: torch.dtype) -> Tensor:
    """Between kinks: no formula jumps there, for which rounding would decide."""
    return (torch.arange(-60, 60, dtype=torch.float64) / 16 + 1 / 64).view(4, 30).to(dtype)


def in_place(name: str) -> Callable[[Tensor], Tensor]:
    def call(input: Tensor) -> Tensor:
        copy = input.clone()
        assert aten(name, "_")(copy) is copy
        return copy

    return call


FORMS = {
    "function": (functional, OPS),
    "op": (aten, OPS),
    "method": (method, METHODS),
    "in place": (in_place, IN_PLACE),
}
FORMS["module"] = (module, [name for name in OPS if ACTIVATIONS[name].stock])
CALLS = [pytest.param(name, make(name), id=f"{name} {form}") for form, (make, names) in FORMS.items() for name in names]


def same(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(got, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "call"), CALLS)
def test_values_and_gradients_are_fastacts(name: str, call: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    results = []
    for function in (call, ours(name)):
        torch.manual_seed(0)
        input = numbers(dtype).requires_grad_()
        output = function(input)
        assert output.grad_fn.name() == node(name)
        gradient = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape).to(dtype)
        output.backward(gradient)
        results.append((output.detach(), input.grad))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*results, strict=True))
    if name == "rrelu":
        return  # torch draws other slopes
    fastact.disable()
    input = numbers(dtype).requires_grad_()
    output = call(input)
    assert output.grad_fn.name() != node(name)
    output.backward(gradient)
    same(results[0][0], output.detach(), dtype)
    if (name, dtype) != ("hardsigmoid", torch.float64):  # torch's has a sixth in float32
        same(results[0][1], input.grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OUT)
def test_out_is_fastacts(name: str, dtype: torch.dtype) -> None:
    input = numbers(dtype)
    expected = ours(name)(input)
    out = torch.full_like(expected, 7)
    version = out._version
    assert aten(name, overload="out")(input, out=out) is out
    assert out._version == version + 1
    if name in ("glu", "logsigmoid"):  # of which torch has the form for others alone
        fastact.disable()
        assert torch.equal(out, aten(name)(input))
    else:
        assert torch.equal(out, expected)


@pytest.mark.parametrize("name", sorted({*IN_PLACE} - {"rrelu"}))
def test_nothing_is_allocated_in_place_or_for_out(name: str) -> None:
    input = numbers(torch.float32)
    out = torch.empty_like(input)
    with torch.profiler.profile(profile_memory=True) as profile:
        aten(name, "_")(input)
        aten(name, overload="out")(out, out=out)
    assert not any(event.name.startswith("aten::empty") for event in profile.events())


@pytest.mark.parametrize("name", OPS)
def test_dispatch_modes_see_fastacts_op(name: str) -> None:
    with Watch() as watch:
        functional(name)(numbers(torch.float32))
    assert len(watch.ours) == 1
    with Watch() as watch:
        output = functional(name)(numbers(torch.float32).requires_grad_())
        output.backward(torch.ones_like(output))
    assert len(watch.ours) == 2
    assert watch.ours[1].endswith("_backward.default")


def test_profiler_sees_fastacts_ops() -> None:
    input = numbers(torch.float32).requires_grad_()
    names = run_by(lambda: F.gelu(input).sum().backward())
    assert {"aten::gelu", "fastact::gelu", "fastact::gelu_backward"} <= set(names)


def test_script_calls() -> None:
    @torch.jit.script
    def scripted(x: Tensor) -> Tensor:
        return F.softmax(F.gelu(F.relu(x)), -1)

    with Watch() as watch:
        scripted(numbers(torch.float32))
    assert [name.split(".")[1] for name in watch.ours] == ["relu", "gelu", "softmax"]


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_call_from_cpp(cell: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    layer, input = cell(5, 7, dtype=torch.float64), torch.randn(3, 2, 5, dtype=torch.float64)
    results = []
    for on in (True, False):
        (fastact.enable if on else fastact.disable)()
        layer.zero_grad()
        with Watch() as watch:
            output, _ = layer(input)
            output.sum().backward()
        assert bool(watch.ours) == on
        results.append([output.detach(), *(each.grad for each in layer.parameters())])
    for mine, theirs in zip(*results, strict=True):
        # Errors of a step pass through three steps, each a few rounded operations of numbers of order 1.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=64 * torch.finfo(torch.float64).eps)


def test_attention_calls_softmax_from_cpp() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    query, key, value = torch.randn(3, 2, 4, 8, 16, dtype=torch.float64).requires_grad_()
    results: list[Tensor] = []

    def call() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            output = F.scaled_dot_product_attention(query, key, value)
            results.extend((output.detach(), *torch.autograd.grad(output.sum(), (query, key, value))))

    assert {"fastact::softmax", "fastact::softmax_backward"} <= set(run_by(call))
    fastact.disable()
    assert not any(name.startswith("fastact") for name in run_by(call))
    for mine, theirs in zip(results[:4], results[4:], strict=True):
        # Sums of 8 products of rounded numbers, of order 10 at most.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=80 * torch.finfo(torch.float64).eps)


@pytest.mark.parametrize("name", ["elu", "celu", "selu", "hardtanh", "relu6"])
def test_each_of_an_ops_activations_is_chosen_by_arguments(name: str) -> None:
    """torch has ELU for SELU and CELU, and Hardtanh for ReLU6."""
    family = [row for row, op in OPS.items() if op == OPS[name]] if name != "celu" else ["celu"]
    with fastact.enable(only=name):
        for row in family:
            watch_input = numbers(torch.float32).requires_grad_()
            assert (functional(row)(watch_input).grad_fn.name() == node(row)) == (row == name)
