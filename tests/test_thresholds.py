"""Rows of which torch's softmax does the arithmetic: its values, and all else ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fastact.functional as F
from fastact import __main__, thresholds
from fastact.tools import info, tune

pytestmark = pytest.mark.only("cpu")


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield
    thresholds.apply({})


def run(name: str, x: torch.Tensor, dim: int, library: object = F) -> tuple[torch.Tensor, torch.Tensor, str]:
    x = x.detach().requires_grad_()
    y = getattr(library, name)(x, dim)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return y.detach(), torch.autograd.grad(y, x, grad)[0], y.grad_fn.name()


@pytest.mark.parametrize("rows", thresholds.ROWS)
@pytest.mark.parametrize("dtype", thresholds.DTYPES)
@pytest.mark.parametrize("name", thresholds.ACTIVATIONS)
def test_each_kind_of_rows_is_chosen_alone(name: str, dtype: str, rows: str, device: str) -> None:
    kinds = {**tune._STAND_FOR, "near": (64, 100, 4)}
    inputs = {kind: torch.randn(shape).to(getattr(torch, dtype)) for kind, shape in kinds.items()}
    ours = {kind: run(name, x, 1) for kind, x in inputs.items()}
    thresholds.apply({f"{name} {dtype}": [rows]})
    for kind, x in inputs.items():
        y, gradient, node = run(name, x, 1)
        expected = run(name, x, 1, torch.nn.functional) if kind == rows else ours[kind]
        assert torch.equal(y, expected[0]), kind
        assert torch.equal(gradient, expected[1]), kind
        assert node == ours[kind][2], "the node is ours either way"
    for other in {"softmin", *thresholds.ACTIVATIONS} - {name}:
        x = inputs[rows]
        thresholds.apply({})
        before = run(other, x, 1)[0]
        thresholds.apply({f"{name} {dtype}": [rows]})
        assert torch.equal(run(other, x, 1)[0], before)


def test_what_stays_ours(device: str) -> None:
    """Whatever the thresholds: dense tensors in another order, converted ones, rows of one element, small ones."""
    every = {f"{name} {dtype}": list(thresholds.ROWS) for name in thresholds.ACTIVATIONS for dtype in thresholds.DTYPES}
    in_another_order = torch.linspace(-9, 9, 15360).view(2, 20, 24, 16).to(memory_format=torch.channels_last)
    calls = (
        lambda: torch.ops.fastact.log_softmax(in_another_order, 1, torch.float32),
        lambda: F.softmax(torch.linspace(-9, 9, 9600).view(400, 24).bfloat16(), 1, dtype=torch.float32),
        lambda: F.softmax(torch.randn(9600, 1), 1),
        lambda: F.log_softmax(torch.linspace(-9, 9, 8184).view(341, 24), 1),
    )
    for call in calls:
        torch.manual_seed(0)
        thresholds.apply({})
        ours = call()
        torch.manual_seed(0)
        thresholds.apply(every)
        assert torch.equal(call(), ours)
        assert call().stride() == ours.stride()


def test_shipped_thresholds() -> None:
    shipped = json.loads(Path(thresholds.__file__).with_name("thresholds.json").read_text())
    names = {f"{name} {dtype}" for name in thresholds.ACTIVATIONS for dtype in thresholds.DTYPES}
    assert set(shipped) == {"amd avx2", "amd avx512", "intel avx512"}
    for cpu in shipped.values():
        assert set(cpu["rows"]) <= names
        assert all(set(rows) <= set(thresholds.ROWS) for rows in cpu["rows"].values())


@pytest.mark.parametrize(
    ("cpu", "whose"),
    [("amd avx2", "amd avx2"), ("amd avx512", "amd avx512"), (" baseline", "intel avx512")],
)
def test_shipped_thresholds_are_for_a_cpu(monkeypatch: pytest.MonkeyPatch, cpu: str, whose: str) -> None:
    shipped = json.loads(Path(thresholds.__file__).with_name("thresholds.json").read_text())
    monkeypatch.setattr(thresholds, "cpu", lambda: cpu)
    assert thresholds.choice()[0] == shipped[whose]["rows"]


def test_tune_measures_keeps_and_applies(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "as measured" in info.thresholds()
    monkeypatch.setattr(tune, "_ratio", lambda name, dtype, rows, rounds: 0.5 if "apart" in rows else 1.0)
    assert __main__.main(["tune"]) == 0
    said = capsys.readouterr().out
    assert "measured on this machine" in said
    assert "log_softmax float64: 2 to 15 apart, 16 or more apart" in said
    assert said.strip() in info.report()
    assert thresholds.choice()[0] == {
        f"{name} {dtype}": list(thresholds.ROWS[4:]) for name in thresholds.ACTIVATIONS for dtype in thresholds.DTYPES
    }
    x = torch.randn(8, 20, 32, 32)
    assert torch.equal(F.log_softmax(x, 1), torch.nn.functional.log_softmax(x, 1))
    thresholds.cache_file().write_text("no json")
    assert "as measured" in info.thresholds()


def test_tune_races(device: str) -> None:
    assert 0 < tune._ratio("softmax", "float32", "64 or more", rounds=3) < 100
