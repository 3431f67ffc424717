"""Batch norm in training on the CPU under `enable`: its statistics in one pass; all else is torch's."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import needs_nodes
from recomputed import recompute
from torch import Tensor, nn

import fastact

moments = torch.ops.fastact.moments
EPS, EPS64 = (torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64))


@pytest.fixture
def enabled() -> Iterator[None]:
    with fastact.enable(only="batch_norm"):
        yield


def exact(x: Tensor) -> Tensor:
    """In two passes, over numbers less the first: torch's own loses digits of numbers that are far from zero."""
    x = x.double().transpose(0, 1).flatten(1)
    first = x[:, :1].where(x[:, :1].isfinite(), 0)
    mean = (x - first).mean(1, keepdim=True)
    return torch.stack([(first + mean).squeeze(1), (x - first - mean).square().mean(1)])


# The sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 5), (2, 3, 1), (4, 7, 15), (4, 7, 16), (2, 3, 17, 33), (1, 3, 100, 101), (2, 129, 3, 2, 5)]
)
def test_moments(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, dtype=dtype) * 3 + 2
    # Sixteen sums side by side, each with an error of at most an eps an addition (Higham 2002, 4.2), beside a few of
    # the shift's and the reference's.
    additions = x.numel() / x.shape[1] / 16 + 16
    torch.testing.assert_close(moments(x), exact(x), rtol=additions * EPS64, atol=additions * EPS64)


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e6])
def test_moments_of_numbers_far_from_zero(mean: float) -> None:
    """Where squares of the numbers themselves would leave nothing of the variance."""
    x = torch.randn(8, 4, 30, 30, dtype=torch.float64) + mean
    (found_mean, found), (expected_mean, expected) = moments(x), exact(x)
    additions = x.numel() / x.shape[1] / 16 + 16
    torch.testing.assert_close(found_mean, expected_mean, rtol=2 * EPS64, atol=additions * EPS64)
    torch.testing.assert_close(found, expected, rtol=additions * EPS64, atol=0)


def test_moments_after_an_outlier() -> None:
    """The channel's first number is what the others are taken less."""
    x = torch.randn(8, 4, 30, 30)
    x[0, :, 0, 0] = 1e4
    expected = exact(x)
    # What cancels is as much larger as the shift's square is than the variance.
    cancelled = (1e4**2 / expected[1].min()).item()
    torch.testing.assert_close(moments(x), expected, rtol=6 * cancelled * EPS64, atol=0)


def test_moments_of_equal_numbers() -> None:
    x = torch.full((4, 3, 9, 9), 0.1)
    assert moments(x).equal(torch.stack([torch.full((3,), 0.1, dtype=torch.float32).double(), torch.zeros(3).double()]))


@pytest.mark.parametrize("special", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", [0, 5])
def test_moments_of_what_is_not_finite(special: float, place: int) -> None:
    x = torch.randn(2, 3, 40)
    x[0, 1, place] = special
    mean, variance = moments(x)
    expected_mean, expected_variance = exact(x)
    torch.testing.assert_close(mean, expected_mean, equal_nan=True)
    torch.testing.assert_close(variance, expected_variance, equal_nan=True)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(4),
        torch.randn(0, 3, 4),
        torch.randn(2, 3, 4).half(),
        torch.arange(24).view(2, 3, 4),
        torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.randn(2, 3, 8)[..., ::2],
    ],
    ids=["vector", "empty", "float16", "integers", "channels_last", "strided"],
)
def test_moments_refuses(x: Tensor) -> None:
    with pytest.raises(RuntimeError):
        moments(x)


def test_the_same_bits_by_any_number_of_threads_and_instructions(tmp_path: Path) -> None:
    script = """
import sys, torch
import fastact
torch.manual_seed(0)
x = torch.randn(3, 37, 50, 41) + 0.3
results = []
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    results.append(torch.ops.fastact.moments(x))
torch.save(results, sys.argv[1])
"""
    results = []
    for capability in ("default", "avx2", "avx512"):
        file = tmp_path / capability
        environment = {**os.environ, "FASTACT_CPU_CAPABILITY": capability}
        subprocess.run([sys.executable, "-c", script, file], env=environment, check=True)
        results += torch.load(file)
    assert all(each.equal(results[0]) for each in results)


# Batch norm


def both(call: Callable[[], list[Any]]) -> tuple[list[Any], list[Any]]:
    """Results by fastact's statistics and by torch's."""
    with fastact.enable(only="batch_norm"):
        ours = call()
    return ours, call()


def no_further_from_the_truth(ours: list[Tensor], torchs: list[Tensor], truth: list[Tensor]) -> None:
    """Than twice torch's way, or the last digit."""
    for our, their, true in zip(ours, torchs, truth, strict=True):
        scale = true.abs().max()
        error, their_error = ((each - true).abs().max() / scale for each in (our, their))
        assert error <= max(2 * their_error, 2 * EPS)


def step(
    x: Tensor, affine: bool = True, running: bool = True, momentum: float = 0.1, eps: float = 1e-5
) -> list[Tensor]:
    """Output, gradients and the running statistics of a step, in the input's dtype."""
    generator, channels, options = torch.Generator().manual_seed(1), x.shape[1], {"dtype": x.dtype}
    x = x.detach().requires_grad_()
    weight, bias = (torch.rand(channels, generator=generator).to(x.dtype).requires_grad_() for _ in range(2))
    means, variances = torch.full((channels,), 0.5, **options), torch.full((channels,), 2.0, **options)
    stored = (means, variances) if running else (None, None)
    learned = (weight, bias) if affine else (None, None)
    y = F.batch_norm(x, *stored, *learned, True, momentum, eps)
    y.backward(torch.sin(torch.arange(y.numel(), **options)).view(y.shape))
    return [y.detach(), x.grad, *((weight.grad, bias.grad) if affine else ()), *(stored if running else ())]


@needs_nodes
@pytest.mark.parametrize("shape", [(4, 8, 32, 32), (2, 3, 5000), (3, 40, 7, 7, 9), (1, 4, 64, 65)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("running", [True, False])
def test_no_further_from_the_truth_than_torchs(shape: tuple[int, ...], affine: bool, running: bool) -> None:
    x = torch.randn(shape) * 2 + 1
    ours, torchs = both(lambda: step(x, affine, running))
    no_further_from_the_truth(ours, torchs, step(x.double(), affine, running))


@needs_nodes
def test_it_is_the_kernel_that_runs(enabled: None) -> None:
    x = torch.randn(4, 8, 32, 32)
    with torch.profiler.profile() as recorded:
        F.batch_norm(x, None, None, training=True)
    assert "fastact::moments" in {event.key for event in recorded.key_averages()}


@needs_nodes
@pytest.mark.parametrize(("momentum", "eps"), [(0.0, 1e-5), (1.0, 1e-3), (0.3, 1e-8)])
def test_momentum_and_eps(momentum: float, eps: float) -> None:
    x = torch.randn(4, 8, 32, 32)
    ours, torchs = both(lambda: step(x, momentum=momentum, eps=eps))
    no_further_from_the_truth(ours, torchs, step(x.double(), momentum=momentum, eps=eps))


@needs_nodes
def test_modules_count_their_batches() -> None:
    def call() -> list[Tensor]:
        torch.manual_seed(0)
        module = nn.BatchNorm2d(8, momentum=None)
        for _ in range(3):
            module(torch.randn(4, 8, 32, 32))
        module.eval()
        output = module(torch.randn(4, 8, 32, 32)).detach()
        return [output, module.running_mean, module.running_var, module.num_batches_tracked]

    ours, torchs = both(call)
    for our, their in zip(ours, torchs, strict=True):
        torch.testing.assert_close(our, their)


UNTOUCHED = {
    "evaluation": lambda: F.batch_norm(torch.randn(4, 8, 32, 32), torch.zeros(8), torch.ones(8)),
    "channels_last": lambda: F.batch_norm(
        torch.randn(4, 8, 32, 32).contiguous(memory_format=torch.channels_last), None, None, training=True
    ),
    "short channels": lambda: F.batch_norm(torch.randn(512, 16, 15), None, None, training=True),
    "a matrix": lambda: F.batch_norm(torch.randn(512, 64), None, None, training=True),
    "float64": lambda: F.batch_norm(torch.randn(4, 8, 32, 32).double(), None, None, training=True),
    "bfloat16": lambda: F.batch_norm(torch.randn(4, 8, 32, 32).bfloat16(), None, None, training=True),
    "small": lambda: F.batch_norm(torch.randn(4, 8, 4, 4), None, None, training=True),
    "layer norm": lambda: F.layer_norm(torch.randn(4, 8, 32, 32), (32, 32)),
    "group norm": lambda: F.group_norm(torch.randn(4, 8, 32, 32), 2),
}


@needs_nodes
@pytest.mark.parametrize("name", UNTOUCHED)
def test_all_else_is_torchs(name: str) -> None:
    with torch.profiler.profile() as recorded:
        torch.manual_seed(0)
        with fastact.enable(only="batch_norm"):
            ours = UNTOUCHED[name]()
        torch.manual_seed(0)
        assert UNTOUCHED[name]().equal(ours)
    assert "fastact::moments" not in {event.key for event in recorded.key_averages()}


@needs_nodes
@pytest.mark.parametrize("place", [3, 4])
def test_one_running_statistic_without_the_other_is_torchs_error(place: int, enabled: None) -> None:
    statistics = [None, None]
    statistics[place - 3] = torch.ones(8)
    with pytest.raises(ValueError, match="must either both be None or neither be None"):
        torch.native_batch_norm(torch.randn(4, 8, 32, 32), None, None, *statistics, True, 0.1, 1e-5)


@needs_nodes
def test_instance_norm_is_batch_norm() -> None:
    x = torch.randn(2, 4, 64, 65) * 3 + 1
    ours, torchs = both(lambda: [F.instance_norm(x)])
    torch.testing.assert_close(ours, torchs)


@needs_nodes
@pytest.mark.parametrize("parameter", ["weight", "bias", "running_mean", "running_var"])
def test_a_parameter_of_another_dtype_layout_or_shape_is_torchs(parameter: str) -> None:
    """And if that is an error, torch's."""

    def call(make: Callable[[], Tensor]) -> list[Any]:
        given = {name: torch.ones(8) for name in ("running_mean", "running_var", "weight", "bias")}
        given[parameter] = make()
        try:
            return [
                F.batch_norm(
                    torch.randn(4, 8, 32, 32, generator=torch.Generator().manual_seed(0)), **given, training=True
                )
            ]
        except RuntimeError as error:
            return [str(error)]

    made: list[Callable[[], Tensor]] = [lambda: torch.ones(16)[::2], lambda: torch.ones(8).double()]
    made += [partial(torch.ones, *shape) for shape in ((7,), (1, 8), (8, 1), (2, 4), (1, 8, 1, 1))]
    for make in made:
        ours, torchs = both(lambda make=make: call(make))
        assert type(ours[0]) is type(torchs[0])
        assert ours[0] == torchs[0] if isinstance(ours[0], str) else ours[0].equal(torchs[0])


@needs_nodes
@pytest.mark.parametrize(("channels", "size"), [(5000, 4), (3, 80)])
def test_recompute_makes_its_output_again_to_the_bit(channels: int, size: int, enabled: None) -> None:
    x, weight = torch.randn(2, channels, size, size), torch.randn(4, channels, 1, 1)

    def run(around: AbstractContextManager[Any]) -> list[Tensor]:
        norm = nn.BatchNorm2d(channels)
        leaf, kernel = x.clone().requires_grad_(), weight.clone().requires_grad_()
        with around:
            y = F.conv2d(norm(leaf.sin()).relu(), kernel)
        y.square().sum().backward()
        return [y.detach(), leaf.grad, kernel.grad, norm.weight.grad, norm.running_var]

    for ours, expected in zip(run(recompute()), run(nullcontext()), strict=True):
        assert ours.equal(expected)


@needs_nodes
def test_gradients_of_gradients() -> None:
    x = torch.randn(2, 4, 53, 59)

    def second(x: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        y = F.batch_norm(x, None, None, training=True).pow(3).mean()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        return [first.detach(), *torch.autograd.grad(first.square().sum(), x)]

    ours, torchs = both(lambda: second(x))
    no_further_from_the_truth(ours, torchs, second(x.double()))


@needs_nodes
def test_a_constant_channel_without_eps_gives_the_bias() -> None:
    """Of 1 / sqrt(0) torch makes 0."""

    def call() -> list[Tensor]:
        x, weight, bias = torch.ones(4, 8, 32, 32, requires_grad=True), torch.ones(8), torch.arange(8.0)
        y = torch.batch_norm(x, weight, bias, None, None, True, 0.1, 0.0, False)
        (grad,) = torch.autograd.grad(y.sum(), x)
        return [y.detach(), grad, F.instance_norm(torch.ones(2, 8, 64, 64), eps=0.0)]

    ours, torchs = both(call)
    assert all(our.equal(their) for our, their in zip(ours, torchs, strict=True))


@needs_nodes
@pytest.mark.parametrize("scale", [1e-20, 1e30])
def test_squares_beyond_float32(scale: float, enabled: None) -> None:
    x = torch.randn(4, 8, 32, 32) * scale
    expected = F.batch_norm(x.double(), None, None, training=True, eps=1e-5 * scale**2)
    ours = F.batch_norm(x, None, None, training=True, eps=1e-5 * scale**2)
    assert (ours - expected).abs().max() <= 4 * EPS * expected.abs().max()  # scale, shift, product and sum round


# The switch


@needs_nodes
def test_it_comes_with_all_and_goes_by_name() -> None:
    def is_replaced() -> bool:
        return "batch_norm" in torch.ops.fastact.overriding()

    assert not is_replaced()
    with fastact.enable():
        assert is_replaced()
        with fastact.enable(exclude="batch_norm"):
            assert fastact.is_enabled()
            assert not is_replaced()
        assert is_replaced()
    with fastact.enable(only=["relu"]):
        assert not is_replaced()
    with fastact.enable(only=["relu", "batch_norm"]):
        assert is_replaced()
    with fastact.enable(exclude=["relu", "batch_norm"]):
        assert not is_replaced()
    assert not is_replaced()
