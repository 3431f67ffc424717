"""The kernels that count what a monitor sees on a GPU, held to what tests/test_summary.py asks of the CPU's."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import test_summary
import torch
from gpu import emulator
from test_summary import BOUNDS, DTYPES, check, check_summary, numbers, summary
from torch import Tensor, nn

from fastact.monitor import Monitor, Row, statistics
from fastact.triton import summary as kernels

pytestmark = pytest.mark.only("cuda", "emulated")

BY_TRITON = test_summary.Ways(kernels.summarize_, kernels.count_flat_)


@pytest.fixture(autouse=True)
def _ptx(device: str) -> Iterator[None]:
    with emulator.ptx_only() if device == "emulated" else nullcontext():
        yield


# Tiles of many units and of one; parts of tiles; programs of more than one tile.
SHAPES = [(1, 1), (1, 3), (1000, 3), (5, 2049), (4, 5, 7, 7), (600, 16, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape: tuple[int, ...], on: str) -> None:
    input = numbers(*shape).to(on)
    check_summary(input, BY_TRITON)
    for unit_dim in (None, *range(-1, len(shape))):
        check(input, BOUNDS["two"], unit_dim, BY_TRITON)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype, on: str) -> None:
    input = numbers(30, 50, dtype=dtype).to(on)
    check_summary(input, BY_TRITON)
    check(input, BOUNDS["eight"], 1, BY_TRITON)


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
def test_bounds(bounds: list, on: str) -> None:
    check(numbers(30, 50).to(on), bounds, 1, BY_TRITON)


@pytest.mark.parametrize("unit_dim", [0, 1, 2, 3])
def test_layouts(unit_dim: int, on: str) -> None:
    input = numbers(3, 5, 6, 70).to(on)
    check_summary(input.permute(3, 0, 2, 1), BY_TRITON)
    check(input.to(memory_format=torch.channels_last), BOUNDS["relu"], unit_dim, BY_TRITON)
    check(input.permute(3, 0, 2, 1), BOUNDS["relu"], unit_dim, BY_TRITON)
    unaligned = input[:1].flatten()[1:2001].view(10, 1, 10, 20)
    check_summary(unaligned, BY_TRITON)
    check(unaligned.transpose(0, 2), BOUNDS["relu"], unit_dim, BY_TRITON)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(special: float, on: str) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for place in (0, 1999, -1):
            input = numbers(40, 50, dtype=dtype).to(on)
            input.view(-1)[place] = special
            check_summary(input, BY_TRITON)
            check(input, BOUNDS["two"], 1, BY_TRITON)
        check_summary(torch.full((3, 50), special, dtype=dtype, device=on), BY_TRITON)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_subnormal_numbers_are_not_zero(dtype: torch.dtype, on: str) -> None:
    input = torch.full((3, 7), torch.finfo(dtype).smallest_normal / 4, dtype=dtype, device=on)
    assert summary(input, by=BY_TRITON).zeros == 0
    assert summary(-0.0 * input, by=BY_TRITON).zeros == 21
    check(input, [(0, 1)], 1, BY_TRITON)


@pytest.mark.parametrize(
    ("low", "high"), [(-1, 1), (0, 1), (-math.inf, -1), (1, math.inf), (2.0**-100, 2), (0.1, 0.2), (1e300, math.inf)]
)
def test_bounds_belong_above(low: float, high: float, on: str) -> None:
    input = torch.tensor([[-1.0, 0.0, 0.1, 2.0**-100, 0.2, 1.0, 2.0, math.inf]], device=on)
    for each in (input, input.double(), input.bfloat16()):
        counts, awake = test_summary.flatness(each, [(low, high)], 1, BY_TRITON)
        expected, expected_awake = test_summary.flatness(each.cpu(), [(low, high)], 1)
        assert counts == expected
        assert torch.equal(awake.cpu(), expected_awake)


@pytest.mark.parametrize(("mean", "spread"), [(1e6, 1.0), (0.9999, 1e-5), (1e30, 1e29), (1e-30, 1e-31)])
def test_a_small_spread_around_any_mean(mean: float, spread: float, on: str) -> None:
    input = (mean + spread * torch.randn(700, 1000, dtype=torch.float64)).float()
    input[0, :300] = math.nan
    check_summary(input.to(on), BY_TRITON)


def test_an_outlier_comes_first(on: str) -> None:
    input = numbers(300, 1000).to(on)
    input[0, 0] = 1e6
    found, exact = summary(input, by=BY_TRITON), input.double()
    assert found.squares == pytest.approx((exact - exact.mean()).square().sum().item(), rel=1e-10)


def test_a_state_is_of_all_tensors(on: str) -> None:
    test_summary.check_a_state_of_all_tensors(BY_TRITON, on)


def test_a_scale_divides(on: str) -> None:
    test_summary.check_a_scale(BY_TRITON, on)


@pytest.mark.parametrize("shape", [(40000, 3), (2, 600, 2)], ids=["many slices", "many units"])
def test_the_last_element_alone_is_awake(shape: tuple[int, ...], on: str) -> None:
    input = torch.full(shape, -1.0, device=on)
    input.view(-1)[-1] = 1
    check(input, BOUNDS["relu"], 1, BY_TRITON)


def test_the_last_tensor_is_told_apart(on: str) -> None:
    counts = torch.zeros(4, dtype=torch.float64, device=on)
    awake = torch.zeros(3, dtype=torch.bool, device=on)
    bounds = torch.tensor([[-math.inf, 0.0]], dtype=torch.float64, device=on)
    for input in (torch.tensor([[-1.0, 1.0, -1.0]]), torch.tensor([[-1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]])):
        kernels.count_flat_(input.to(on), bounds, 1, counts, awake)
    assert counts.tolist() == [9, 7, 6, 5]
    assert awake.tolist() == [False, True, True]


@pytest.mark.only("emulated")
def test_more_elements_than_32_bits_number(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the last programs read the tensor's memory and no other. What programs wrote that did not run is
    not added up."""
    for name in ("_add_summaries", "_add_counts"):
        monkeypatch.setattr(kernels, name, defaultdict(lambda: lambda *_, **__: None))
    emulator.select_blocks([0, -1])
    try:
        for shape in ((2**22 + 1, 512), (64, 2**25 + 1)):
            input = torch.empty(shape, dtype=torch.float16)
            summary(input, by=BY_TRITON)
            for unit_dim in (0, 1):
                test_summary.flatness(input, BOUNDS["relu"], unit_dim, BY_TRITON)
    finally:
        emulator.select_blocks()


class TestMonitor:
    @pytest.fixture(autouse=True)
    def _on_a_gpu(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if device == "emulated":
            monkeypatch.setattr(statistics, "has_kernel", lambda tensor: False)
            monkeypatch.setattr(statistics, "has_gpu_kernel", lambda tensor: True)
        monkeypatch.setattr(statistics, "_without_triton", set())

    def row(self, on: str) -> Row:
        module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).to(on)
        input = torch.arange(20.0, device=on).reshape(4, 5) - 10
        for parameter in module.parameters():
            nn.init.constant_(parameter, 0.1) if parameter.dim() < 2 else nn.init.eye_(parameter)
        with Monitor(module) as monitor:
            monitor.grad_scale = 4.0
            module(input).sum().backward()
        (row,) = monitor.report().rows
        return row

    def check(self, row: Row, expected: Row) -> None:
        numbers = {name: value for name, value in vars(expected).items() if isinstance(value, float)}
        assert replace(row, **numbers) == expected
        assert {name: getattr(row, name) for name in numbers} == pytest.approx(numbers, rel=torch.finfo().eps)

    def test_counts_by_kernels(self, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: Tensor) -> None:
            raise AssertionError("torch's ops count")

        with monkeypatch.context() as patch:
            patch.setattr(statistics, "_add_by_torch", refused)
            patch.setattr(statistics, "_count_flat_by_torch", refused)
            by_kernels = self.row(on)
        monkeypatch.setattr(statistics, "has_gpu_kernel", lambda tensor: False)
        self.check(self.row(on), by_kernels)

    def test_without_triton(self, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
        by_kernels = self.row(on)
        monkeypatch.setattr(statistics, "triton_is_installed", lambda: False)
        monkeypatch.setattr(kernels, "summarize_", None)
        monkeypatch.setattr(kernels, "count_flat_", None)
        self.check(self.row(on), by_kernels)

    def test_a_kernel_that_does_not_compile(self, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
        by_kernels, calls = self.row(on), []

        class Broken:
            def __getitem__(self, grid: tuple[int]) -> None:
                calls.append(grid)
                raise RuntimeError("no such kernel\nat all")

        monkeypatch.setattr(kernels, "_add_counts", Broken())
        with pytest.warns(RuntimeWarning, match="counts by torch's ops on .*: RuntimeError: no such kernel$") as warned:
            self.check(self.row(on), by_kernels)
        assert len(warned) == len(calls) == 1
