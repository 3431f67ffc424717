"""Where a GPU's kernels cannot be had, torch's ops do the work, and it is said once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from cases import LOOPS, Case
from torch import Tensor

from fastact import dispatch, gpu
from fastact import functional as F

pytestmark = pytest.mark.only("emulated", "cuda")


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dispatch, "_without_kernels", set())
    torch.ops.fastact.forget_kernels()
    yield
    torch.ops.fastact.forget_kernels()


def break_kernels(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of forward or backward."""
    find = gpu.find

    def find_some(name: str, capability: int) -> gpu.Kernel:
        if (" backward " in name) == (direction == "backward"):
            raise OSError("No space left on device.\nAt all.")
        return find(name, capability)

    torch.ops.fastact.forget_kernels()
    monkeypatch.setattr(gpu, "find", find_some)


def arguments(case: Case, on: str) -> tuple[Tensor, ...]:
    x = case.randn(40, 6, device=on).t() if case.activation.pointwise else case.randn(6, 40, device=on)
    return (x.requires_grad_(), *(w.requires_grad_() for w in case.weights(x)))


@pytest.mark.parametrize("case", [case for case in LOOPS if not case.activation.random], ids=str)
def test_forward_is_torchs(case: Case, device: str, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = arguments(case, on)
    break_kernels("forward", monkeypatch)
    said = (
        rf"fastact runs torch's op on (cpu|cuda:0) where a kernel is missing \({case.activation.name} "
        r"(forward|mask) float32.*: OSError: No space left on device\.\)$"
    )
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
    with pytest.warns(RuntimeWarning, match="No space left"):
        y = F.rrelu(x.clone(), 0.25, 0.5, training=True, inplace=True)
    assert ((0.25 * x >= y) & (y >= 0.5 * x)).all()
    monkeypatch.setattr(dispatch, "_without_kernels", set())
    z = x.clone()
    with pytest.warns(RuntimeWarning, match="relu forward float32"):
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
    with pytest.warns(RuntimeWarning, match="No space left"):
        found = torch.autograd.grad(y, inputs, grad)
    few = case.terms(inputs[0], grad) if case.activation.weights else 2
    for a, b in zip(found, expected, strict=True):
        eps = torch.finfo(a.dtype).eps
        assert a.device == b.device
        torch.testing.assert_close(a, b, rtol=8 * eps, atol=few * eps)


def test_nothing_is_tried_where_no_kernel_can_be_had(device: str, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(gpu, "triton_is_installed", lambda: False)
    monkeypatch.setattr(gpu.bundle, "find", lambda name, capability: asked.append(name))
    monkeypatch.setattr(gpu.bundle, "serves", lambda capability: False)
    x = torch.randn(100, device=on)
    with pytest.warns(RuntimeWarning, match="from now on, since Triton is not installed, and there is no bundle"):
        assert torch.equal(F.silu(x), torch.nn.functional.silu(x))
    assert torch.equal(F.gelu(x), torch.nn.functional.gelu(x))
    assert asked == ["silu forward float32"]
    assert {place.type for place in dispatch._without_kernels} == {torch.device(on).type}


def test_a_warning_may_be_an_error(device: str, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_kernels("forward", monkeypatch)
    x = torch.randn(100, device=on)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="No space left"):
            F.silu(x)


def test_other_errors_are_raised(device: str, on: str) -> None:
    """Also after a kernel could not be had."""
    x = torch.randn(100, device=on)
    with pytest.raises(RuntimeError, match="one per channel"):
        torch.ops.fastact.prelu(x, torch.ones(3, device=on))


@pytest.mark.only("cuda")
def test_first_call_in_a_capture(device: str) -> None:
    x = torch.randn(1000, device=device)
    graph = torch.cuda.CUDAGraph()
    with pytest.warns(RuntimeWarning, match="before the capture"), torch.cuda.graph(graph):
        y = F.relu(x)
    x.neg_()
    graph.replay()
    assert torch.equal(y, x.relu())
