"""torch.ops.fastact.summary, against torch's ops in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fastact.monitor import _merged, _Summary, _summary_by_torch

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
BOUNDS = {
    "none": [],
    "relu": [(-math.inf, 0.0)],
    "two": [(-math.inf, -1.5), (1.5, math.inf)],
    "eight": list(pairwise(torch.linspace(-2, 2, 17).tolist()))[::2],
}


def summary(input: Tensor, bounds: list[tuple[float, float]], unit_dim: int | None) -> tuple[_Summary, Tensor]:
    bounds_tensor = torch.tensor(bounds, dtype=torch.float64).reshape(-1, 2)
    totals, awake = torch.ops.fastact.summary(input, bounds_tensor, unit_dim)
    assert (totals.dtype, awake.dtype) == (torch.float64, torch.bool)
    return _Summary(*totals.tolist()), awake


def check(input: Tensor, bounds: list[tuple[float, float]], unit_dim: int | None) -> None:
    found, awake = summary(input, bounds, unit_dim)
    numbers = input.float() if input.itemsize < 4 else input  # bounds are rounded to the type that is computed in
    totals, expected_awake = _summary_by_torch(numbers, bounds, unit_dim)
    expected = _Summary(*totals.tolist())
    assert found._replace(mean=0, squares=0) == expected._replace(mean=0, squares=0)
    if unit_dim is None:
        assert awake.numel() == 0
    else:
        assert torch.equal(awake, expected_awake)
    finite = input[input.isfinite()].double()
    if finite.numel():
        size = finite.abs().max().item()
        assert found.mean == pytest.approx(finite.mean().item(), rel=1e-13, abs=1e-14 * size)
        squares = (finite - finite.mean()).square().sum().item()
        assert found.squares == pytest.approx(squares, rel=1e-11, abs=1e-20 * size**2)


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Some are zero, and the first and last units are flat almost everywhere."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)
    values[values.abs() < 0.1] = 0
    if values.dim() > 1:
        values[:, 0] = -2
        values[:, -1] = -3
        values[-1, -1] = 1
    return values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1),
        (3, 1),
        (1, 3),
        (2, 17),
        (1000, 3),
        (5, 2049),
        (300, 512),
        (2, 3, 4),
        (4, 5, 7, 7),
        (3, 4, 64),
        (2, 70, 2100),
    ],
    ids=str,
)
def test_shapes(shape: tuple[int, ...], bounds: list, dtype: torch.dtype) -> None:
    input = numbers(*shape, dtype=dtype)
    for unit_dim in (None, *range(-1, len(shape))):
        check(input, bounds, unit_dim)


@pytest.mark.parametrize("unit_dim", [None, 0, 1, 2, 3])
def test_layouts(unit_dim: int | None) -> None:
    input = numbers(3, 5, 6, 70)
    check(input.to(memory_format=torch.channels_last), BOUNDS["relu"], unit_dim)
    check(input.permute(3, 0, 2, 1), BOUNDS["relu"], unit_dim)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 5, 16, 1999, -1])
@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(special: float, place: int, dtype: torch.dtype) -> None:
    input = numbers(40, 50, dtype=dtype)
    input.view(-1)[place] = special
    for bounds in BOUNDS.values():
        check(input, bounds, 1)
    check(torch.full((3, 50), special, dtype=dtype), BOUNDS["two"], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_subnormal_numbers_are_not_zero(dtype: torch.dtype) -> None:
    input = torch.full((3, 7), torch.finfo(dtype).smallest_normal / 4, dtype=dtype)
    assert summary(input, [], None)[0].zeros == 0
    assert summary(-0.0 * input, [], None)[0].zeros == 21


def test_bounds_belong_above() -> None:
    input = torch.tensor([[-1.0, 0.0, 2.0**-100, 1.0, 2.0]])
    for low, high, flat in ((-1, 1, 3), (0, 1, 2), (-math.inf, -1, 1), (1, math.inf, 1), (2.0**-100, 2, 2)):
        assert summary(input, [(low, high)], 1)[0].flat == flat
        assert summary(input.double(), [(low, high)], 1)[0].flat == flat


@pytest.mark.parametrize(("mean", "spread"), [(1e6, 1.0), (1000.0, 0.01), (0.9999, 1e-5), (1e30, 1e29), (1e-30, 1e-31)])
def test_a_small_spread_around_any_mean(mean: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    input = (mean + spread * torch.randn(200, 1000, generator=generator, dtype=torch.float64)).float()
    check(input, [], None)


def test_an_outlier_comes_first() -> None:
    input = numbers(300, 1000)
    input[0, 0] = 1e6
    found, exact = summary(input, [], None)[0], input.double()
    assert found.squares == pytest.approx((exact - exact.mean()).square().sum().item(), rel=1e-10)


def test_threads_do_not_matter() -> None:
    input, found = numbers(700, 513), []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(summary(input, BOUNDS["two"], 1))
    torch.set_num_threads(before)
    for totals, awake in found[1:]:
        assert totals == found[0][0]
        assert torch.equal(awake, found[0][1])


def test_merging_is_a_summary_of_all() -> None:
    parts = [numbers(10 + step, 33) + step for step in range(5)]
    parts.append(torch.full((2, 2), math.nan))
    bounds = torch.zeros(0, 2, dtype=torch.float64)
    totals = torch.stack([torch.ops.fastact.summary(part, bounds, None)[0] for part in parts])
    merged = _Summary(*_merged(totals).tolist())
    whole = summary(torch.cat([part.flatten() for part in parts]), [], None)[0]
    assert tuple(merged) == pytest.approx(tuple(whole), rel=1e-12)
    assert merged.nan == 4


@pytest.mark.parametrize(
    ("input", "bounds", "unit_dim", "match"),
    [
        (torch.ones(2, 2).int(), torch.zeros(0, 2, dtype=torch.float64), None, "expected float16, bfloat16"),
        (torch.ones(0, 2), torch.zeros(0, 2, dtype=torch.float64), None, "a dense tensor with elements"),
        (torch.ones(4, 4)[:, ::2], torch.zeros(0, 2, dtype=torch.float64), None, "a dense tensor with elements"),
        (torch.ones(2, 2), torch.zeros(9, 2, dtype=torch.float64), None, "bounds of up to 8 intervals"),
        (torch.ones(2, 2), torch.zeros(1, 2), None, "in float64"),
        (torch.ones(2, 2), torch.zeros(1, 2, dtype=torch.float64), 2, "has 2 dimensions, none of which is unit_dim"),
        (torch.ones(2, 2), torch.zeros(1, 2, dtype=torch.float64), -3, "has 2 dimensions, none of which is unit_dim"),
    ],
)  # fmt: skip
def test_refuses(input: Tensor, bounds: Tensor, unit_dim: int | None, match: str) -> None:
    with pytest.raises(RuntimeError, match=match):
        torch.ops.fastact.summary(input, bounds, unit_dim)
