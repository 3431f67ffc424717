"""gradcheck and gradgradcheck in float64, and gradients in the situations autograd knows."""

from __future__ import annotations

import math

import pytest
import torch
from cases import CASES, DEFAULTS, DETERMINISTIC, DTYPES, LOOPS, Case
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import fastact
from fastact.catalogue import ACTIVATIONS

DETERMINISTIC_DEFAULTS = [case for case in DEFAULTS if case.deterministic]


def away_from_kinks(case: Case, device: str, shape: tuple[int, ...] = (3, 5)) -> Tensor:
    input = torch.randn(case.shape(*shape), dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 2
    for kink in case.activation.kinks(**case.sample):
        near = (input - kink).abs() < 0.05
        input = torch.where(near, input + 0.1, input)
    return input.to(device).requires_grad_()


def repeatable(case: Case):
    """The function with its random numbers drawn anew from the same seed at each call."""

    def call(*arguments: Tensor) -> Tensor:
        torch.manual_seed(7)
        return case.fastact(*arguments)

    return call


def arguments(case: Case, device: str) -> tuple[Tensor, ...]:
    input = away_from_kinks(case, device)
    return (input, *(w.detach().requires_grad_() for w in case.weights(input)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck(case: Case, nodes: str, device: str, on: str) -> None:
    assert gradcheck(repeatable(case), arguments(case, on), check_batched_grad=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradgradcheck(case: Case, nodes: str, device: str, on: str) -> None:
    assert gradgradcheck(repeatable(case), arguments(case, on))


@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.inplace], ids=str)
def test_second_derivatives_in_place(case: Case, nodes: str, device: str, on: str) -> None:
    """What has been overwritten takes part in them."""

    def in_place(input: Tensor) -> Tensor:
        torch.manual_seed(0)
        return case.fastact(input * 1, inplace=True)

    assert gradgradcheck(in_place, arguments(case, on))


@pytest.mark.parametrize("case", DETERMINISTIC_DEFAULTS, ids=str)
def test_tangents_of_gradients(case: Case, nodes: str, device: str, on: str) -> None:
    """Forward-mode differentiation of a backward pass whose forward pass knew nothing of it."""
    input = away_from_kinks(case, on)
    output, stock = case.fastact(input), case.torch(input)
    seeds = [torch.randn(output.shape, dtype=input.dtype).to(on) for _ in range(2)]

    def tangent(y: Tensor) -> Tensor:
        with forward_ad.dual_level():
            (gradient,) = torch.autograd.grad(y, input, forward_ad.make_dual(*seeds))
            return forward_ad.unpack_dual(gradient).tangent

    try:
        expected = tangent(stock)
    except NotImplementedError:  # SiLU's, and what has it in it
        with pytest.raises(NotImplementedError):
            tangent(output)
    else:
        torch.testing.assert_close(tangent(output), expected)


def test_gradients_of_other_kinds(nodes: str, device: str, on: str) -> None:
    """Sparse, negated lazily, a lazy zero, of one number for all."""
    table = torch.randn(6, 3, device=on).requires_grad_()
    rows = torch.tensor([0, 2, 2], device=on)
    gradients = []
    for silu in (fastact.functional.silu, nn.functional.silu):
        (gradient,) = torch.autograd.grad(nn.functional.embedding(rows, silu(table), sparse=True).sum(), table)
        gradients.append(gradient.to_dense())
    torch.testing.assert_close(*gradients)
    imaginary = torch.randn(6, 3, dtype=torch.complex64, device=on).conj().imag
    for grad in (imaginary, torch._efficientzerotensor((6, 3), device=on), torch.ones((), device=on).expand(6, 3)):
        for ours, stock in ((fastact.functional.relu, torch.relu), (fastact.functional.sigmoid, torch.sigmoid)):
            expected, found = (torch.autograd.grad(function(table), table, grad)[0] for function in (stock, ours))
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_create_graph_changes_no_gradient(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    shape = case.shape(91, 11)
    input = torch.linspace(-8, 8, math.prod(shape), dtype=torch.float64).view(shape).to(dtype).to(on).requires_grad_()
    weight = tuple(w.detach().requires_grad_() for w in case.weights(input))
    grad = torch.linspace(3, -3, 1001, dtype=torch.float64).view(91, 11).to(dtype).to(on)
    output = case.fastact(input, *weight)
    plain, composed = (
        torch.autograd.grad(output, (input, *weight), grad, retain_graph=True, create_graph=create_graph)
        for create_graph in (False, True)
    )
    eps = torch.finfo(dtype).eps
    atol = case.value(input) * (eps * case.gradients_summed(grad) + case.torch_error(input, grad=3))
    torch.testing.assert_close(composed[0], plain[0], rtol=2 * eps, atol=atol)
    for got, expected in zip(composed[1:], plain[1:], strict=True):
        torch.testing.assert_close(got, expected, rtol=2 * eps, atol=eps * case.terms(input, grad))


@pytest.mark.parametrize("case", [case for case in LOOPS if case.deterministic], ids=str)
def test_gradients_that_are_views_with_a_sign(case: Case, nodes: str, device: str, on: str) -> None:
    input = away_from_kinks(case, on, (64,))
    output = case.fastact(input)
    values = torch.randn_like(output)
    (got,) = torch.autograd.grad(output, input, torch._neg_view(values), retain_graph=True)
    (expected,) = torch.autograd.grad(output, input, -values, retain_graph=True)
    torch.testing.assert_close(got, expected)
    zeros = torch._efficientzerotensor((64,), dtype=output.dtype, device=on)
    (zero,) = torch.autograd.grad(output, input, zeros)
    assert not zero.any()


@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.activation.weights or c.activation.kind == "gated"], ids=str)
def test_operands_that_are_views_with_a_sign(case: Case, nodes: str, device: str, on: str) -> None:
    """Beside the input: learned tensors and gates."""
    if case.activation.name == "glu":  # takes no gate of its own
        return
    input = torch.randn(4, 6, device=on)
    for operand in case.weights(input) or (torch.randn_like(input),):
        operands = [operand, *case.weights(input)[1:]]
        operands[0] = torch._neg_view(operand)
        expected = case.fastact(input, -operand, *operands[1:])
        torch.testing.assert_close(case.fastact(input, *operands), expected)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.activation.weights or c.activation.kind == "gated"], ids=str)
def test_gradients_only_where_needed(case: Case, create_graph: bool, nodes: str, device: str, on: str) -> None:
    """Of input and learned tensors, and of value and gate, any one may be the only one that asks for a gradient."""
    input = torch.randn(4, 6, dtype=torch.float64, device=on)
    if case.activation.kind == "gated":
        operands = (input,) if case.activation.name == "glu" else (input, torch.randn_like(input))
    else:
        operands = (input, *case.weights(input))

    def run(*needs: bool) -> tuple[Tensor, ...]:
        tensors = [x.detach().requires_grad_(need) for x, need in zip(operands, needs, strict=True)]
        output = case.fastact(*tensors)
        asking = [x for x in tensors if x.requires_grad]
        return torch.autograd.grad(output, asking, torch.ones_like(output), create_graph=create_graph)

    for i, expected in enumerate(run(*[True] * len(operands))):
        (got,) = run(*(k == i for k in range(len(operands))))
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_third_derivative(case: Case, device: str, on: str) -> None:
    results = []
    for function in case.both():
        input = away_from_kinks(case, on)
        value = function(input)
        for _ in range(3):
            if not value.requires_grad:
                value = torch.zeros_like(input)
                break
            (value,) = torch.autograd.grad(value.sum(), input, create_graph=True, allow_unused=True)
            if value is None:
                value = torch.zeros_like(input)
                break
        results.append(value.detach())
    # Sums of about a dozen terms with coefficients up to 12, of which either side rounds each by half an eps.
    few = 32 * torch.finfo(torch.float64).eps
    torch.testing.assert_close(*results, rtol=few, atol=few)


def test_second_derivative_of_xielu_at_zero(device: str, on: str) -> None:
    """Zero belongs to the half of the exponential, whatever the derivative of torch's clamp is there: 0 since 2.14."""
    alpha = torch.tensor([0.8], dtype=torch.float64, device=on)
    for function in (fastact.functional.xielu, ACTIVATIONS["xielu"].reference):
        zero = torch.zeros(3, dtype=torch.float64, device=on, requires_grad=True)
        (slope,) = torch.autograd.grad(function(zero, alpha, alpha).sum(), zero, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), zero)
        torch.testing.assert_close(slope, torch.full_like(zero, 0.5))
        torch.testing.assert_close(curvature, alpha.expand(3))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_checkpoint_recomputes_the_same(case: Case, device: str, on: str) -> None:
    input = away_from_kinks(case, on)
    for use_reentrant in (False, True):
        torch.manual_seed(11)
        expected = case.fastact(input * 1)
        (expected_grad,) = torch.autograd.grad(expected.square().sum(), input)
        torch.manual_seed(11)
        got = checkpoint(lambda x: case.fastact(x * 1), input, use_reentrant=use_reentrant)
        input.grad = None
        got.square().sum().backward()
        assert torch.equal(got, expected)
        assert torch.equal(input.grad, expected_grad)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_backward_twice_needs_retain_graph(case: Case, device: str, on: str) -> None:
    input = away_from_kinks(case, on)
    output = case.fastact(input)
    (first,) = torch.autograd.grad(output.sum(), input, retain_graph=True)
    (second,) = torch.autograd.grad(output.sum(), input)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(output.sum(), input)


@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.activation.saved in ("input", "output")], ids=str)
def test_overwriting_what_is_saved_is_an_error(case: Case, device: str, on: str) -> None:
    start = away_from_kinks(case, on)
    input = start * 1
    output = case.fastact(input)
    (output if case.activation.saved == "output" else input).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.activation.inplace], ids=str)
def test_overwriting_what_others_saved_is_an_error(case: Case, nodes: str, device: str, on: str) -> None:
    start = away_from_kinks(case, on)
    input = start * 1
    square = input * input
    case.fastact(input, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.sum().backward()


@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.activation.saved in ("mask", "indices")], ids=str)
def test_bits_survive_overwriting(case: Case, device: str, on: str) -> None:
    start = away_from_kinks(case, on)
    torch.manual_seed(2)
    (expected,) = torch.autograd.grad(case.fastact(start).sum(), start)
    torch.manual_seed(2)
    input = start * 1
    output = case.fastact(input)
    with torch.no_grad():
        input.zero_()
    (got,) = torch.autograd.grad((output * 1).sum(), start)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_names_in_the_graph(case: Case, device: str, on: str) -> None:
    output = case.fastact(away_from_kinks(case, on))
    name = output.grad_fn.name()
    assert name.startswith(case.activation.module)
    assert name.endswith("Backward")


def test_prelu_gradients_only_where_needed(device: str, on: str) -> None:
    import fastact.functional as F

    input, weight = torch.randn(4, 3, device=on), torch.full((3,), 0.2, device=on)
    only_weight = weight.clone().requires_grad_()
    F.prelu(input, only_weight).sum().backward()
    expected = torch.where(input > 0, 0, input).sum(0)
    torch.testing.assert_close(only_weight.grad, expected)
    only_input = input.clone().requires_grad_()
    F.prelu(only_input, weight).sum().backward()
    torch.testing.assert_close(only_input.grad, torch.where(input > 0, torch.ones_like(input), weight.expand(4, 3)))


def test_prelu_weight_gradient_keeps_its_digits(device: str, on: str) -> None:
    """A plain float32 running sum of this many terms would lose three digits."""
    import fastact.functional as F

    n = 2**20 if device != "emulated" else 2**14
    input = -torch.rand(n, device=on, generator=torch.Generator(on).manual_seed(0))
    weight = torch.full((1,), 0.25, device=on, requires_grad=True)
    F.prelu(input, weight).backward(torch.ones_like(input))
    expected = input.double().sum()
    assert abs(weight.grad.double() - expected).item() <= torch.finfo(torch.float32).eps * abs(expected).item()


def test_shared_weight_with_create_graph(device: str, on: str) -> None:
    """The second node's input depends on its weight: the gradient of its own use alone is asked for."""
    import fastact.functional as F

    input = torch.randn(5, dtype=torch.float64, device=on)
    weight = torch.full((1,), 0.3, dtype=torch.float64, device=on, requires_grad=True)
    output = F.prelu(F.prelu(input, weight), weight).sum()
    (plain,) = torch.autograd.grad(output, weight, retain_graph=True)
    (composed,) = torch.autograd.grad(output, weight, create_graph=True)
    torch.testing.assert_close(composed, plain)


LINEAR = [case for case in DETERMINISTIC if case.activation.saved == "mask"]


@pytest.mark.parametrize(
    ("case", "inplace"),
    [(case, inplace) for case in LINEAR for inplace in (False, True) if case.activation.inplace >= inplace],
    ids=str,
)
def test_second_derivative_of_what_is_linear_by_parts(
    case: Case, inplace: bool, nodes: str, device: str, on: str
) -> None:
    """Zeros, as in torch, and not none: autograd has to see that the gradient depends on the input."""
    input = away_from_kinks(case, on)
    output = case.fastact(input * 1, **({"inplace": True} if inplace else {}))
    (first,) = torch.autograd.grad(output.sum(), input, create_graph=True)
    for _ in range(2):  # the second derivative, and the third
        (zeros,) = torch.autograd.grad(first.sum(), input, create_graph=True)
        assert torch.equal(zeros, torch.zeros_like(input))
        first = first + zeros
    # The gradient goes on to what the gradient came from, and more than one derivative can be asked for at once.
    grad = torch.randn_like(output).requires_grad_()
    (first,) = torch.autograd.grad(case.fastact(input), input, grad, create_graph=True)
    through, zeros = torch.autograd.grad(first.square().sum(), (grad, input))
    assert torch.equal(zeros, torch.zeros_like(input))
    (expected,) = torch.autograd.grad(case.fastact(input), input, 2 * first.detach())
    torch.testing.assert_close(through, expected)


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_second_derivatives_in_batches(case: Case, nodes: str, device: str, on: str) -> None:
    """Also where the derivative with respect to the incoming gradient is differentiated, as jvp() does."""
    input = away_from_kinks(case, on, (5,))
    grads = torch.randn(3, 5, dtype=torch.float64, device=on)
    (batch,) = torch.autograd.grad(case.fastact(input), input, grads, is_grads_batched=True, create_graph=True)
    jacobian = torch.autograd.functional.jacobian(case.fastact, input, vectorize=True, create_graph=True)
    for first in (batch, jacobian):
        assert torch.equal(torch.autograd.grad(first.sum(), input)[0], torch.zeros_like(input))
    torch.testing.assert_close(batch, grads * jacobian.diagonal())
    _, product = torch.autograd.functional.jvp(case.fastact, input, grads[0], create_graph=True, strict=True)
    torch.testing.assert_close(product, batch[0])
    assert torch.equal(torch.autograd.grad(product.sum(), input)[0], torch.zeros_like(input))


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_hessian_is_strict(case: Case, nodes: str, device: str, on: str) -> None:
    input = away_from_kinks(case, on, (1, 6)).detach()
    hessian = torch.autograd.functional.hessian(lambda x: case.fastact(x).sum(), input, strict=True)
    assert torch.equal(hessian, torch.zeros_like(hessian))


def test_gradient_penalty_reaches_biases(nodes: str, device: str, on: str) -> None:
    torch.manual_seed(0)
    stock = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1)).to(on)
    ours = fastact.convert(nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1)).to(on))
    ours.load_state_dict(stock.state_dict())
    input = torch.randn(256, 2, device=on)
    for net in (stock, ours):
        x = input.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        (gradient.norm(dim=1) - 1).square().mean().backward()
    for name, expected in stock.named_parameters():
        got = dict(ours.named_parameters())[name].grad
        assert (got is None) == (expected.grad is None), name
        if got is not None:
            torch.testing.assert_close(got, expected.grad)


SMOOTH = [case for case in DETERMINISTIC if case.activation.pointwise and case.activation.saved != "mask"]


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_second_derivative_at_kinks_is_torchs(case: Case, device: str, on: str) -> None:
    points = [0.0, *case.activation.kinks(**case.sample)]
    seconds = []
    for function in (case.fastact, case.stock):
        input = torch.tensor([points], device=on).requires_grad_()
        (first,) = torch.autograd.grad(function(input).sum(), input, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), input)
        seconds.append(second)
    few = 8 * torch.finfo(torch.float32).eps  # sums of a few terms of the order of 1
    torch.testing.assert_close(*seconds, rtol=few, atol=few)
