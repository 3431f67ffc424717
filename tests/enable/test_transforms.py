"""Derivatives of every kind through torch's functions: transforms, forward mode, higher orders."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from stock import OPS, assert_stock, functional, node, run_by
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import fastact

SMOOTH = [name for name in OPS if name != "rrelu"]  # which draws, and torch.func has no rule for it


def numbers(*shape: int) -> Tensor:
    """Between kinks."""
    return torch.linspace(-2.9, 2.6, shape[0] * shape[1], dtype=torch.float64).view(shape)


@pytest.mark.parametrize("name", SMOOTH)
def test_transforms_are_torchs(name: str) -> None:
    function, x, v = functional(name), numbers(2, 4), numbers(2, 4).cos()
    if name == "hardsigmoid":
        x, v = x.float(), v.float()  # in float64 torch's derivative has a sixth in float32

    def loss(x: Tensor) -> Tensor:
        return function(x).square().sum()

    calls = [
        lambda: grad(loss)(x),
        lambda: vmap(function)(x),
        lambda: vmap(grad(loss))(x),
        lambda: jvp(function, (x,), (v,)),
        lambda: vjp(function, x)[1](torch.ones_like(function(x))),
        lambda: jacrev(function)(x),
        lambda: jacfwd(function)(x),
        lambda: vmap(function, in_dims=1, out_dims=1)(x) if name not in ("glu", "softmax", "log_softmax") else None,
    ]
    if name not in ("hardsigmoid", "prelu"):  # of which torch lacks a second derivative or a rule
        calls += [lambda: hessian(loss)(x), lambda: grad(lambda y: grad(loss)(y).square().sum())(x)]
    for i, call in enumerate(calls):
        result = assert_stock(call, size=64, what=f"{name} {i}")  # sums of some terms of order 10
        assert not isinstance(result, Exception), (name, i, result)


@pytest.mark.usefixtures("enabled")
def test_torchs_ops_run_inside_a_transform_and_fastacts_around_it() -> None:
    x = numbers(2, 4).requires_grad_()
    outside = torch.tanh(x)

    def inside(y: Tensor) -> Tensor:
        return F.gelu(y).sum() + F.gelu(x.detach()).sum()

    assert not any("fastact::gelu_backward" in name for name in run_by(lambda: grad(inside)(x.detach())))
    output = F.gelu(outside)
    assert (outside.grad_fn.name(), output.grad_fn.name()) == (node("tanh"), node("gelu"))


@pytest.mark.parametrize("name", SMOOTH)
def test_dual_numbers(name: str) -> None:
    def call() -> tuple[Tensor, Tensor]:
        with forward_ad.dual_level():
            output = functional(name)(forward_ad.make_dual(numbers(2, 4), numbers(2, 4).cos()))
            return tuple(forward_ad.unpack_dual(output))

    result = assert_stock(call)
    assert isinstance(result, tuple)


def derivatives(name: str, orders: int, dtype: torch.dtype) -> list[Tensor]:
    x = numbers(3, 4).to(dtype).requires_grad_()
    weights = numbers(3, 4).cos().to(dtype)
    found = [functional(name)(x)]
    for _ in range(orders):
        terms = found[-1] * (weights if found[-1].shape == weights.shape else 1)
        if not terms.requires_grad:  # torch's derivative of what is linear by parts is no function of x
            break
        found += torch.autograd.grad(terms.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True)
    return [each.detach() for each in found]


@pytest.mark.parametrize("name", SMOOTH)
def test_third_order(name: str) -> None:
    with fastact.enable():
        ours = derivatives(name, 3, torch.float64)
    theirs = derivatives(name, 1 if name == "hardsigmoid" else 3, torch.float64)
    for i, (mine, expected) in enumerate(zip(ours, theirs, strict=False)):
        # Third derivatives are up to ten terms of order 10. Hardsigmoid's first has a sixth in float32 in torch.
        eps = torch.finfo(torch.float32 if name == "hardsigmoid" else torch.float64).eps
        torch.testing.assert_close(mine, expected, rtol=0, atol=100 * eps, msg=lambda m, i=i: f"{i}: {m}")
    assert all(float(each.abs().max()) == 0 for each in ours[len(theirs) :])


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", SMOOTH)
def test_gradcheck(name: str) -> None:
    x = numbers(2, 4).requires_grad_()
    assert functional(name)(x).grad_fn.name() == node(name)
    assert torch.autograd.gradcheck(
        functional(name), (x,), check_batched_grad=True, check_forward_ad=name != "hardsigmoid"
    )
    assert torch.autograd.gradgradcheck(functional(name), (x,))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus, nn.Mish, nn.Sigmoid, nn.ELU])
def test_physics_informed_step(activation: type[nn.Module]) -> None:
    """The Laplacian by two backward passes, and the gradient of its square by a third."""

    def step() -> list[Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 1)).double()
        points = torch.rand(16, 2, dtype=torch.float64).requires_grad_()
        (first,) = torch.autograd.grad(network(points).sum(), points, create_graph=True)
        laplacian = sum(torch.autograd.grad(first[:, i].sum(), points, create_graph=True)[0][:, i] for i in range(2))
        (laplacian - 1).square().mean().backward()
        return [laplacian.detach(), *(each.grad for each in network.parameters() if each.grad is not None)]

    # Some ten layers of sums of 8 products of order 1, three times over.
    result = assert_stock(step, size=100)
    assert isinstance(result, list)
    with fastact.enable():
        assert f"fastact::{activation.__name__.lower()}" in run_by(step)


def test_per_sample_gradients_of_a_module() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3), nn.LogSoftmax(-1)).double()
    parameters = dict(network.named_parameters())
    inputs = torch.randn(5, 4, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], input: Tensor) -> Tensor:
        return -functional_call(network, parameters, (input[None],))[0, 1]

    result = assert_stock(lambda: list(vmap(grad(loss), in_dims=(None, 0))(parameters, inputs).values()), size=8)
    assert isinstance(result, list)
