"""Where Triton is installed and cannot do its work, torch's ops do, and it is said once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from cases import LOOPS, Case
from torch import Tensor

from fastact import dispatch
from fastact import functional as F

pytestmark = pytest.mark.only("interpret", "cuda")


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dispatch, "_without_kernels", set())
    dispatch._warn_once.cache_clear()
    yield
    dispatch._warn_once.cache_clear()


def break_kernels(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastact.triton import launch

    start = launch._start_anew

    def start_anew(started: launch.Launch, key: tuple) -> None:
        if started.name.endswith(direction):
            raise RuntimeError("Failed to find C compiler.\nSet CC.")
        start(started, key)

    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(launch, "_start_anew", start_anew)


def arguments(case: Case, on: str) -> tuple[Tensor, ...]:
    x = case.randn(40, 6, device=on).t() if case.activation.pointwise else case.randn(6, 40, device=on)
    return (x.requires_grad_(), *(w.requires_grad_() for w in case.weights(x)))


@pytest.mark.parametrize("case", [case for case in LOOPS if not case.activation.random], ids=str)
def test_forward_is_torchs(case: Case, device: str, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = arguments(case, on)
    break_kernels("forward", monkeypatch)
    said = r"runs torch's ops on (cpu|cuda:0) from now on, since .*: RuntimeError: Failed to find C compiler\.$"
    with pytest.warns(RuntimeWarning, match=said):
        outputs = [case.fastact(*inputs)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs.append(case.fastact(*inputs))
    expected = case.stock(*inputs)
    for y in outputs:
        assert torch.equal(y, expected)
        for a, b in zip(
            torch.autograd.grad(y.sum(), inputs),
            torch.autograd.grad(expected.sum(), inputs, retain_graph=True),
            strict=True,
        ):
            assert torch.equal(a, b)


def test_torchs_op_works_in_place_and_draws(device: str, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_kernels("forward", monkeypatch)
    x = -torch.rand(100, device=on)
    with pytest.warns(RuntimeWarning, match="C compiler"):
        y = F.rrelu(x.clone(), 0.25, 0.5, training=True, inplace=True)
    assert ((0.25 * x >= y) & (y >= 0.5 * x)).all()
    monkeypatch.setattr(dispatch, "_without_kernels", set())
    z = x.clone()
    assert F.relu(z, inplace=True) is z
    assert not z.any()


@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_backward_keeps_the_gradient(case: Case, device: str, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node whose forward kernel has run."""
    inputs = arguments(case, on)
    y = case.fastact(*inputs)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, inputs, grad, retain_graph=True)
    break_kernels("backward", monkeypatch)
    with pytest.warns(RuntimeWarning, match="C compiler"):
        found = torch.autograd.grad(y, inputs, grad)
    few = case.terms(inputs[0], grad) if case.activation.weights else 2
    for a, b in zip(found, expected, strict=True):
        eps = torch.finfo(a.dtype).eps
        assert a.device == b.device
        torch.testing.assert_close(a, b, rtol=8 * eps, atol=few * eps)


def test_nothing_is_loaded_while_a_graph_is_captured(device: str, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastact.triton import launch

    real = launch._start
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(dispatch.NotLoaded, match="run the step once before the capture"):
        real(launch.Launch(SimpleNamespace(arg_names=["NAME"]), 1, 4, ("relu_forward",)), torch.device("cuda", 0))

    def start(launch, *others):
        raise dispatch.NotLoaded(launch.name)

    x = torch.randn(100, device=on, requires_grad=True)
    before = F.relu(x)
    monkeypatch.setattr(launch, "_start", start)
    with pytest.warns(RuntimeWarning, match="Torch's op is captured in its place"):
        y = F.relu(x)
    assert torch.equal(y, before)
    assert type(y.grad_fn).__name__ == "ReluBackward0"
    with pytest.raises(dispatch.NotLoaded):
        before.sum().backward()
    monkeypatch.undo()
    assert F.relu(x).grad_fn.name() == "ReLUBackward"


@pytest.mark.only("cuda")
def test_first_call_in_a_capture(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastact.triton import launch

    monkeypatch.setattr(launch, "_compiled", {})
    x = torch.randn(1000, device=device)
    graph = torch.cuda.CUDAGraph()
    with pytest.warns(RuntimeWarning, match="before the capture"), torch.cuda.graph(graph):
        y = F.relu(x)
    x.neg_()
    graph.replay()
    assert torch.equal(y, x.relu())
