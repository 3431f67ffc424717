"""What torch.ops.fastact.summarize_ and count_flat_ count, against torch's ops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fastact.monitor import statistics
from fastact.monitor.statistics import Summary

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
BOUNDS = {
    "none": [],
    "relu": [(-math.inf, 0.0)],
    "two": [(-math.inf, -1.5), (1.5, math.inf)],
    "eight": list(pairwise(torch.linspace(-2, 2, 17).tolist()))[::2],
}


class Ways(NamedTuple):
    """What counts, on the input's device."""

    summarize_: Callable[[Tensor, Tensor | None, Tensor], None]
    count_flat_: Callable[[Tensor, Tensor, int | None, Tensor, Tensor], None]
    rounding: float = 0.0
    """Of sums of 32-bit numbers, relative to the sum of their terms' sizes."""


# float32 adds up to 32 terms, each a rounded difference or its square: 31 additions and up to 3 roundings before.
BY_OPS = Ways(torch.ops.fastact.summarize_, torch.ops.fastact.count_flat_, rounding=34 * 2.0**-24)
BY_TORCH = Ways(statistics._add_by_torch, statistics._count_flat_by_torch)


def summary(*inputs: Tensor, by: Ways = BY_OPS, scale: float | None = None) -> Summary:
    device = inputs[0].device
    state = torch.tensor(Summary(), dtype=torch.float64, device=device)
    divisor = None if scale is None else torch.tensor(scale, dtype=torch.float64, device=device)
    for input in inputs:
        by.summarize_(input, divisor, state)
    return Summary(*state.tolist())


def flatness(
    input: Tensor,
    bounds: list[tuple[float, float]],
    unit_dim: int | None,
    by: Ways = BY_OPS,
    was_awake: bool = False,
) -> tuple[list[float], Tensor]:
    device, units = input.device, 0 if unit_dim is None else input.shape[unit_dim]
    bounds_tensor = torch.tensor(bounds, dtype=torch.float64, device=device).reshape(-1, 2)
    counts = torch.zeros(4, dtype=torch.float64, device=device)
    awake = torch.full((units,), was_awake, device=device)
    by.count_flat_(input, bounds_tensor, unit_dim, counts, awake)
    return counts.tolist(), awake


def check(input: Tensor, bounds: list[tuple[float, float]], unit_dim: int | None, by: Ways = BY_OPS) -> None:
    numbers = input.float() if input.itemsize < 4 else input  # bounds are rounded to the type that is computed in
    counts, awake = flatness(input, bounds, unit_dim, by)
    expected_counts, expected_awake = flatness(numbers, bounds, unit_dim, BY_TORCH)
    assert counts == expected_counts == [input.numel(), counts[1], input.numel(), counts[1]]
    assert torch.equal(awake, expected_awake)
    counts_then, awake_still = flatness(input, bounds, unit_dim, by, was_awake=True)
    assert counts_then == counts
    assert awake_still.all()


def check_summary(input: Tensor, by: Ways = BY_OPS) -> None:
    found, expected = summary(input, by=by), summary(input, by=BY_TORCH)
    assert found._replace(mean=0, squares=0) == expected._replace(mean=0, squares=0)
    finite = input[input.isfinite()].double()
    if finite.numel():
        size = finite.abs().max().item()
        # Terms are differences from numbers that are among them, in no block more than the range.
        differences = (finite - finite.median()).abs()
        rounding = by.rounding if input.dtype != torch.float64 else 0.0
        mean_off, squares_off = rounding * differences.mean().item(), rounding * differences.square().sum().item()
        assert found.mean == pytest.approx(finite.mean().item(), rel=1e-13, abs=1e-14 * size + mean_off)
        squares = (finite - finite.mean()).square().sum().item()
        assert found.squares == pytest.approx(squares, rel=1e-11, abs=1e-20 * size**2 + squares_off)


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
    check_summary(input)
    for unit_dim in (None, *range(-1, len(shape))):
        check(input, bounds, unit_dim)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 2049), (300, 512), (4, 5, 7, 7), (3, 4, 64), (2, 70, 2100)], ids=str)
def test_both_in_one_pass(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    def summarize_too(input: Tensor, scale: None, state: Tensor) -> None:
        counts, awake = torch.zeros(4, dtype=torch.float64), torch.zeros(shape[1], dtype=torch.bool)
        BY_OPS.count_flat_(input, torch.tensor(BOUNDS["relu"], dtype=torch.float64), 1, counts, awake, state)
        assert (counts.tolist(), awake.tolist()) == (expected[0], expected[1].tolist())

    input = numbers(*shape, dtype=dtype)
    input.view(-1)[-1] = math.nan
    expected = flatness(input, BOUNDS["relu"], 1)
    check_summary(input, BY_OPS._replace(summarize_=summarize_too))


@pytest.mark.parametrize("unit_dim", [None, 0, 1, 2, 3])
def test_layouts(unit_dim: int | None) -> None:
    input = numbers(3, 5, 6, 70)
    check_summary(input.permute(3, 0, 2, 1))
    check(input.to(memory_format=torch.channels_last), BOUNDS["relu"], unit_dim)
    check(input.permute(3, 0, 2, 1), BOUNDS["relu"], unit_dim)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 5, 16, 1999, -1])
@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(special: float, place: int, dtype: torch.dtype) -> None:
    input = numbers(40, 50, dtype=dtype)
    input.view(-1)[place] = special
    check_summary(input)
    check_summary(torch.full((3, 50), special, dtype=dtype))
    for bounds in BOUNDS.values():
        check(input, bounds, 1)
    check(torch.full((3, 50), special, dtype=dtype), BOUNDS["two"], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_subnormal_numbers_are_not_zero(dtype: torch.dtype) -> None:
    input = torch.full((3, 7), torch.finfo(dtype).smallest_normal / 4, dtype=dtype)
    assert summary(input).zeros == 0
    assert summary(-0.0 * input).zeros == 21


def test_bounds_belong_above() -> None:
    input = torch.tensor([[-1.0, 0.0, 2.0**-100, 1.0, 2.0]])
    for low, high, flat in ((-1, 1, 3), (0, 1, 2), (-math.inf, -1, 1), (1, math.inf, 1), (2.0**-100, 2, 2)):
        assert flatness(input, [(low, high)], 1)[0][1] == flat
        assert flatness(input.double(), [(low, high)], 1)[0][1] == flat


@pytest.mark.parametrize(("mean", "spread"), [(1e6, 1.0), (1000.0, 0.01), (0.9999, 1e-5), (1e30, 1e29), (1e-30, 1e-31)])
def test_a_small_spread_around_any_mean(mean: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    input = (mean + spread * torch.randn(200, 1000, generator=generator, dtype=torch.float64)).float()
    check_summary(input)


def test_an_outlier_comes_first() -> None:
    input = numbers(300, 1000)
    input[0, 0] = 1e6
    found, exact = summary(input), input.double()
    assert found.squares == pytest.approx((exact - exact.mean()).square().sum().item(), rel=BY_OPS.rounding)


def test_threads_do_not_matter() -> None:
    input, found = numbers(700, 513), []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append((summary(input), *flatness(input, BOUNDS["two"], 1)))
    torch.set_num_threads(before)
    for totals, counts, awake in found[1:]:
        assert (totals, counts) == found[0][:2]
        assert torch.equal(awake, found[0][2])


def check_a_state_of_all_tensors(by: Ways, device: str = "cpu") -> None:
    parts = [numbers(10 + step, 33).to(device) + step for step in range(5)]
    parts[3][2, 1], parts[4][0, 0] = math.nan, math.inf
    merged = Summary()
    for part in parts:
        merged = merged.merged(summary(part, by=by)._replace(first_bad=math.inf))
    found = summary(*parts, by=by)
    whole = summary(torch.cat([part.flatten() for part in parts]).cpu().double())
    assert (found.nan, found.inf, found.tensors, found.first_bad) == (1, 1, 5, 3)
    # torch's ops round each difference from a mean to float32. Those that others sum are about as large as the mean, 2.
    rel = torch.finfo(torch.float32).eps if by is BY_TORCH else max(1e-12, 2 * by.rounding)
    assert tuple(found[:8]) == pytest.approx(tuple(whole[:8]), rel=rel)
    assert tuple(merged[:8]) == pytest.approx(tuple(whole[:8]), rel=rel)


def check_a_scale(by: Ways, device: str = "cpu") -> None:
    input = numbers(20, 33)
    expected, found = summary(input.double() / 1024), summary(input.to(device), by=by, scale=1024.0)
    rel = (
        torch.finfo(torch.float32).eps
        if by is BY_TORCH
        else max(1e-12, by.rounding * (input.std() / input.mean()).abs().item())
    )
    assert tuple(found) == pytest.approx(tuple(expected), rel=rel)


@pytest.mark.parametrize("by", [BY_OPS, BY_TORCH], ids=["ops", "torch"])
def test_a_state_is_of_all_tensors(by: Ways) -> None:
    check_a_state_of_all_tensors(by)


@pytest.mark.parametrize("by", [BY_OPS, BY_TORCH], ids=["ops", "torch"])
def test_a_scale_divides(by: Ways) -> None:
    check_a_scale(by)


STATE, NONE = torch.tensor(Summary(), dtype=torch.float64), torch.zeros(0, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("input", "scale", "state", "match"),
    [
        (torch.ones(2, 2).int(), None, STATE, "expected float16, bfloat16"),
        (torch.ones(0, 2), None, STATE, "a dense tensor with elements"),
        (torch.ones(4, 4)[:, ::2], None, STATE, "a dense tensor with elements"),
        (torch.ones(2, 2), None, STATE.float(), "a state in float64"),
        (torch.ones(2, 2), None, STATE[1:], "a state in float64"),
        (torch.ones(2, 2), torch.ones(2, dtype=torch.float64), STATE, "a scale of one number in float64"),
    ],
)
def test_refuses(input: Tensor, scale: Tensor | None, state: Tensor, match: str) -> None:
    with pytest.raises(RuntimeError, match=match):
        torch.ops.fastact.summarize_(input, scale, state)


@pytest.mark.parametrize(
    ("input", "bounds", "unit_dim", "counts", "match"),
    [
        (torch.ones(2, 2).int(), NONE, None, 4, "expected float16, bfloat16"),
        (torch.ones(4, 4)[:, ::2], NONE, None, 4, "a dense tensor with elements"),
        (torch.ones(2, 2), torch.zeros(9, 2, dtype=torch.float64), None, 4, "up to 8 intervals"),
        (torch.ones(2, 2), torch.zeros(1, 2), None, 4, "in float64"),
        (torch.ones(2, 2), NONE, 2, 4, "has 2 dimensions, none of which is unit_dim"),
        (torch.ones(2, 2), NONE, -3, 4, "has 2 dimensions, none of which is unit_dim"),
        (torch.ones(2, 2), NONE, None, 2, "four counts in float64"),
        (torch.ones(2, 3), NONE, 1, 4, "a bool for each of 3 units"),
    ],
)
def test_refuses_to_count(input: Tensor, bounds: Tensor, unit_dim: int | None, counts: int, match: str) -> None:
    with pytest.raises(RuntimeError, match=match):
        torch.ops.fastact.count_flat_(
            input, bounds, unit_dim, torch.zeros(counts, dtype=torch.float64), torch.zeros(2, dtype=torch.bool)
        )


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile(capability: int) -> None:
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fastact.triton import summary as kernels

    pointers = {"x_ptr": "*bf16", "flags_ptr": "*i1", "awake_ptr": "*i1"}
    constants = {"PARTS": 512, "BLOCK": 1024, "UNITS": 32, "REST": 32, "SLICES": 32, "INTERVALS": 2}
    for kernel in (kernels._summarize, kernels._add_summaries, kernels._count_flat, kernels._add_counts):
        signature = {
            name: "constexpr" if name in constants else pointers.get(name, "*fp64" if name.endswith("_ptr") else "i64")
            for name in kernel.arg_names
        }
        used = {name: constants[name] for name, type in signature.items() if type == "constexpr"}
        compiled = compile(
            ASTSource(kernel, signature, used), target=GPUTarget("cuda", capability, 32), options=kernels._OPTIONS
        )
        assert compiled.asm["cubin"]
        assert compiled.metadata.name.startswith("fastact_")
