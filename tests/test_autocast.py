"""Under autocast: torch's dtypes on every path, and parameters that stay in float32 beside 16-bit inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch
from cases import CASES, DEFAULTS, DETERMINISTIC, DTYPES, Case
from test_memory import saved_tensors, total_bytes
from torch import nn
from torch._subclasses import FakeTensorMode

import fastact
from fastact import dispatch, functional

HALVES = (torch.float16, torch.bfloat16)
# Those whose learned tensors stay in float32: torch's autocast converts PReLU's.
IN_FLOAT32 = [case for case in CASES if case.activation.weights and case.activation.name != "prelu"]


@contextmanager
def autocast_on(device: str) -> Iterator[None]:
    """Also for a GPU that is not there."""
    before = torch.is_autocast_enabled(device)
    torch.set_autocast_enabled(device, True)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before)


@pytest.mark.only("cpu")
@pytest.mark.parametrize("place", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.name != "prelu"], ids=str)
def test_widens_what_torch_widens(case: Case, dtype: torch.dtype, place: str, device: str) -> None:
    """As its dispatcher has it. Fake tensors have a device and a dtype, and no memory."""
    with FakeTensorMode(), autocast_on(place):
        x = torch.empty(case.shape(4, 6), dtype=dtype, device=place)
        widened = dispatch._autocast_widens(case.activation.name, x) and dtype in HALVES
        assert case.stock(x).dtype == (torch.float32 if widened else dtype)


@pytest.mark.only("cpu", "emulated")
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_kernels_give_what_it_widens(
    case: Case, in_python: ModuleType, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the CPU's autocast widened what a GPU's does."""
    monkeypatch.setattr(functional, "softmax_dtype", in_python.softmax_dtype)
    for module in (dispatch, in_python):
        monkeypatch.setattr(module, "_autocast_widens", lambda name, input: name in dispatch._WIDENED)
    name = case.activation.name
    for dtype in HALVES:
        x = case.randn(4, 16, dtype=dtype)
        y = case.fastact(x, *case.weights(x.float() if name in dispatch._WIDENED else x))
        assert y.dtype == (torch.float32 if name in dispatch._WIDENED else dtype)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_autocast(case: Case, device: str, on: str) -> None:
    input = case.randn(4, 16, device=on)
    net = nn.Linear(input.size(1), input.size(1)).to(on)
    outputs = []
    for function in case.both():
        weight = tuple(w.detach().requires_grad_() for w in case.weights(input))
        with torch.autocast(on, dtype=torch.bfloat16):
            for x in (input, net(input)):
                if function == case.torch and on == "cpu" and case in IN_FLOAT32:
                    # Of float32 tensors beside others, some of torch's ops give float32, some round at each step.
                    output = function(x.float(), *weight).to(x.dtype)
                else:
                    output = function(x, *weight)
                outputs.append(output)
                if output.requires_grad:
                    output.float().sum().backward()
                    outputs.extend(w.grad for w in weight)
    half = len(outputs) // 2
    for ours, theirs in zip(outputs[:half], outputs[half:], strict=True):
        assert ours.dtype == theirs.dtype
        # A composite of torch's rounds up to four times by half an eps; float32 has ULPs of both sides, and sums.
        tolerance = (2 if ours.dtype == torch.bfloat16 else 8) * torch.finfo(ours.dtype).eps
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.only("cpu", "emulated")
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", IN_FLOAT32, ids=str)
def test_learned_tensors_in_float32(case: Case, dtype: torch.dtype, nodes: str, device: str) -> None:
    """They and their gradients keep their digits, and the result the input's dtype; it is rounded once."""
    x = case.input("odd", dtype, "cpu").requires_grad_()
    weights = tuple(w.requires_grad_() for w in case.weights(x.float()))
    grad = torch.randn(x.shape).to(dtype)
    with autocast_on("cpu"):
        y = case.fastact(x, *weights)
    found = y, *torch.autograd.grad(y, (x, *weights), grad)
    assert [each.dtype for each in found] == [dtype, dtype] + [torch.float32] * len(weights)
    wide = tuple(each.detach().double().requires_grad_() for each in (x, *weights))
    exact = case.torch(*wide)
    expected = exact, *torch.autograd.grad(exact, wide, grad.double())
    half_an_ulp = torch.finfo(dtype).eps / 2 * 1.02
    float32s = 8 * torch.finfo(torch.float32).eps
    for each, reference in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(each.double(), reference, rtol=half_an_ulp, atol=float32s)
    for each, reference in zip(found[2:], expected[2:], strict=True):
        torch.testing.assert_close(each.double(), reference, rtol=0, atol=float32s * case.terms(x, grad))


@pytest.mark.only("cpu", "emulated")
@pytest.mark.parametrize("case", IN_FLOAT32, ids=str)
def test_saved_bytes_beside_learned_tensors_in_float32(case: Case, nodes: str, device: str) -> None:
    x = case.randn(8, 128, dtype=torch.bfloat16).requires_grad_()
    weights = tuple(w.requires_grad_() for w in case.weights(x.float()))
    with autocast_on("cpu"):
        assert total_bytes(saved_tensors(case.fastact, x, *weights)) == 2 * x.numel()


@pytest.mark.only("cpu", "emulated")
@pytest.mark.parametrize("case", IN_FLOAT32, ids=str)
def test_without_autocast_dtypes_are_torchs(case: Case, device: str) -> None:
    x = case.randn(8, 128, dtype=torch.bfloat16)
    weights = case.weights(x.float())
    assert case.fastact(x, *weights).dtype == case.stock(x, *weights).dtype


@pytest.mark.only("cpu", "emulated")
@pytest.mark.parametrize("name", sorted({case.activation.module for case in IN_FLOAT32}))
def test_models_in_16_bits_stay_in_them(name: str, device: str) -> None:
    module = getattr(fastact, name)().to(torch.bfloat16)
    x = torch.randn(8, 64, dtype=torch.bfloat16).requires_grad_()
    with autocast_on("cpu"):
        y = module(x)
    y.sum().backward()
    assert {each.dtype for each in (y, x.grad, *(p.grad for p in module.parameters()))} == {torch.bfloat16}
