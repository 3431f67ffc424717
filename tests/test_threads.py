"""How many threads share the work shows in no result. Sizes are just above those from which threads are woken."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, DEFAULTS, LOOPS, Case, threads
from test_softmax import NAMES
from test_values import gradients, leaf
from torch import Tensor

import fastact.functional as F

pytestmark = pytest.mark.only("cpu")

# A thread has 32,768 elements at least, in blocks of 2,048 or in rows; of softmax's rows 8,192.
FLAT = {"two shares": (32768 + 1,), "four shares": (3 * 32768 + 77,)}
CHANNELS = {"channels innermost": (25000, 5), "channels apart": (3, 5, 7001)}
ROWS = (1100, 256)  # of which the first half is taken: rows that do not follow one another


def assert_equal(one: list[Tensor], others: list[list[Tensor]]) -> None:
    for other in others:
        for expected, got in zip(one, other, strict=True):
            assert torch.equal(got, expected)


def by_threads(function) -> tuple[list[Tensor], list[list[Tensor]]]:
    """What one thread gives, and what two and three do. All is kept: no result gets the memory of an equal one."""
    results = []
    for count in (1, 2, 3):
        torch.manual_seed(3)
        with threads(count):
            results.append(list(function()))
    return results[0], results[1:]


def inputs_of(case: Case, dtype: torch.dtype) -> list[Tensor]:
    shapes = [*CHANNELS.values()] if case.per_channel else [*FLAT.values()]
    rows = case.randn(*ROWS, dtype=dtype)
    return [*(case.randn(*shape, dtype=dtype) for shape in shapes), rows[:, : rows.shape[1] // 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case in LOOPS or case.per_channel], ids=str)
def test_forward_and_backward(case: Case, dtype: torch.dtype, device: str) -> None:
    for input in inputs_of(case, dtype):
        with torch.no_grad():
            assert_equal(*by_threads(lambda input=input: [case.fastact(input)]))
        assert_equal(*by_threads(lambda input=input: gradients(case, case.fastact, input)))


@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.inplace], ids=str)
def test_in_place(case: Case, device: str) -> None:
    """A thread that goes on into the next one's share applies the activation twice."""
    for input in inputs_of(case, torch.float32):

        def plain(input: Tensor = input) -> list[Tensor]:
            strided = input._base.clone()[:, : input.shape[1]] if input._is_view() else input.clone()
            return [case.fastact(strided, inplace=True)]

        def training(input: Tensor = input) -> list[Tensor]:
            start = leaf(input)
            output = case.fastact(start * 1, inplace=True)
            return [output.detach(), *torch.autograd.grad(output, start, torch.ones_like(output))]

        assert_equal(*by_threads(plain))
        assert_equal(*by_threads(training))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "dim"),
    [
        ((700, 300), 1),  # rows as they lie
        ((3, 70_000), 1),
        ((5000, 7), 1),  # short ones brought side by side
        ((1200, 5, 3), 1),
        ((60, 50, 5), 1),  # many lanes for a row
        ((4, 100, 500), 1),  # rows that lie side by side
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_rows(name: str, shape: tuple[int, ...], dim: int, dtype: torch.dtype, device: str) -> None:
    input, grad = torch.randn(2, *shape).to(dtype)
    input = leaf(input)

    def both() -> list[Tensor]:
        output = getattr(F, name)(input, dim)
        return [output.detach(), *torch.autograd.grad(output, input, grad)]

    assert_equal(*by_threads(both))


@pytest.mark.parametrize("pieces", [2, 3, 5])
@pytest.mark.parametrize(("shape", "dim"), [((30_001,), 0), ((3, 2, 9001), 1)], ids=str)
def test_maxout(shape: tuple[int, ...], dim: int, pieces: int, device: str) -> None:
    sizes = [pieces * size if i == dim else size for i, size in enumerate(shape)]
    input = torch.randint(4, sizes).float().requires_grad_()

    def both() -> list[Tensor]:
        output = F.maxout(input, pieces, dim)
        return [output.detach(), *torch.autograd.grad(output, input, torch.rand(shape))]

    assert_equal(*by_threads(both))
