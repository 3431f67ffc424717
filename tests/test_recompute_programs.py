"""`fastact.recompute` on random programs: of activations, norms, views, writes in place, casts and what joins them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from recomputed import Around, bits, memory, recompute, seed
from torch import Tensor

import fastact
import fastact.functional as ours

if os.environ.get("FASTACT_NODES") == "python":
    pytest.skip("needs the autograd nodes in C++", allow_module_level=True)

ROWS, WIDTH = 8, 12


def part(x: Tensor, write: Callable[[Tensor], Tensor], index: object) -> Tensor:
    write(x[index])
    return x


def unseen(x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(0.9)
    return x


def chunks(x: Tensor) -> Tensor:
    """With a count of versions of their own."""
    first, second = (x * 1.0).unsafe_chunk(2, -1)
    return torch.cat([first.tanh_(), second.exp().clamp(max=5)], -1)


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(F, name) for name in ("gelu", "silu", "relu", "elu", "mish", "hardswish", "hardtanh", "softplus")},
    **{name: getattr(torch, name) for name in ("tanh", "sigmoid", "relu_", "tanh_", "sigmoid_", "clone", "neg")},
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "leaky_relu_": lambda x: F.leaky_relu_(x, 0.1),
    "silu_": lambda x: F.silu(x, inplace=True),
    "hardtanh_": F.hardtanh_,
    "elu_": F.elu_,
    "prelu": lambda x: F.prelu(x, x.new_full((1,), 0.2)),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "softmax": lambda x: F.softmax(x, -1),
    "softmax of columns": lambda x: F.softmax(x, 0),
    "swiglu": lambda x: ours.swiglu(torch.cat([x, x * 0.5], -1)),
    "geglu of two": lambda x: ours.geglu(x, x.roll(1, 0)),
    "maxout": lambda x: ours.maxout(torch.cat([x, -x], -1), 2),
    "snake": lambda x: ours.snake(x, x.new_full((1,), 1.2)),
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "rms norm": lambda x: F.rms_norm(x, x.shape[-1:]),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "group norm": lambda x: F.group_norm(x, 3),
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout_": lambda x: F.dropout(x, 0.3, inplace=True),
    "times": lambda x: x * 1.7,
    "times_": lambda x: x.mul_(1.3),
    "plus": lambda x: x + 0.3,
    "plus_": lambda x: x.add_(0.2),
    "square": lambda x: x.clamp(-3, 3).square(),
    "bfloat16": lambda x: x.bfloat16(),
    "float32": lambda x: x.float(),
    "float64": lambda x: x.double(),
    "roll": lambda x: x.roll((1, 2), (0, -1)),
    "transposed": lambda x: x.mT.contiguous().mT,
    "halves swapped": lambda x: torch.cat(x.chunk(2, -1)[::-1], -1),
    "padded": lambda x: F.pad(x, (1, 1))[:, 1:-1],
    "expanded": lambda x: x[:, :1].expand(-1, WIDTH) * x,
    "half_": lambda x: part(x, lambda y: y.mul_(1.1), (slice(None), slice(6))),
    "every other_": lambda x: part(x, torch.tanh_, (slice(None), slice(None, None, 2))),
    "unseen_": unseen,
    "chunks": chunks,
    "gate of itself": lambda x: x * x.detach().sigmoid(),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "scaled sum": lambda a, b: torch.add(a, b, alpha=0.5),
    "product": torch.mul,
    "sum_": lambda a, b: a.add_(b),
    "product_": lambda a, b: a.mul_(b),
    "copy_": lambda a, b: a.copy_(b),
    "quotient": lambda a, b: a / (1 + b * b),
    "joined": lambda a, b: torch.cat([a.float()[:, :6], b.float()[:, 6:]], -1),
    "where": lambda a, b: torch.where(a > 0, a, b.to(a.dtype)),
    "bias_act": lambda a, b: ours.bias_act(a, a.new_ones(WIDTH), b.to(a.dtype), "silu"),
    "attention": lambda a, b: F.scaled_dot_product_attention(*(y.float()[None, None] for y in (a, b, b)))[0, 0],
}
LINEAR = ("linear", "linear of a product")
NAMES = [*UNARY, *BINARY, *BINARY, *LINEAR * 4]
MASKS = ("relu", "tanh", "dropout", "maxout", "norm", "swish", "act", "_", "attention")  # some of whose parts are bits

Program = list[tuple[str, float, float]]


def program_of(number: int) -> Program:
    chance = random.Random(number)
    return [(chance.choice(NAMES), chance.random(), chance.random()) for _ in range(chance.randint(4, 14))]


def values(program: Program, leaves: list[Tensor]) -> list[Tensor]:
    """Of each step; it takes what was computed last or some time before."""
    x, *weights = leaves
    found = [F.linear(x, weights[0])]
    for name, first, second in program:
        a, b = found[-1 - int(first * first * len(found))], found[int(second * len(found))]
        if name == "linear":
            found.append(F.linear(a.float(), weights[int(second * 3)]))
        elif name == "linear of a product":
            found.append(F.linear(a.float(), weights[int(second * 3)] * 1.5))
        else:
            found.append(UNARY[name](a) if name in UNARY else BINARY[name](a, b))
    return found


def leaves_of(number: int) -> list[Tensor]:
    seed(number)
    weights = [(torch.randn(WIDTH, WIDTH) / 3).requires_grad_() for _ in range(3)]
    return [torch.randn(ROWS, WIDTH).requires_grad_(number % 2 == 0), *weights]


def run(program: Program, number: int, around: Around, of_all: bool = False) -> list[Tensor] | None:
    """The last value and the leaves' gradients; nothing where torch forbids a write or finds one over what it saved."""
    leaves = leaves_of(number)
    try:
        with around(), torch.autocast("cpu", torch.bfloat16, enabled=number % 3 == 0):
            found = values(program, leaves)
        chosen = [each for each in (found if of_all else found[-1:]) if each.requires_grad]
        del found
        gradients = torch.autograd.grad(
            sum((each.double() * torch.linspace(-1, 1.5, WIDTH)).sum() for each in chosen),
            [each for each in leaves if each.requires_grad],
            allow_unused=True,
        )
    except RuntimeError as error:
        assert any(word in str(error) for word in ("inplace", "in-place", "memory location", "does not require grad"))  # noqa: PT017
        return None
    return [*chosen, *(each for each in gradients if each is not None), torch.get_rng_state()]


@pytest.fixture(params=["torch", "enabled"])
def setting(request: pytest.FixtureRequest) -> Iterator[str]:
    with fastact.enable() if request.param == "enabled" else nullcontext():
        yield request.param


@pytest.mark.parametrize("hundred", range(6))
@pytest.mark.usefixtures("setting")
def test_results(hundred: int) -> None:
    """Are bit for bit those without. An error comes only where torch has it too once all values are used."""
    for number in range(100 * hundred, 100 * hundred + 100):
        program = program_of(number)
        expected = run(program, number, nullcontext)
        if expected is None:
            continue
        got = run(program, number, recompute)
        if got is None:
            assert run(program, number, nullcontext, of_all=True) is None, (number, program)
            continue
        for mine, theirs in zip(got, expected, strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(bits(mine), bits(theirs)), (number, program)


def kept(program: Program, number: int, around: Around) -> int:
    leaves = leaves_of(number)

    def forward() -> list[Tensor]:
        with around(), torch.autocast("cpu", torch.bfloat16, enabled=number % 3 == 0):
            return [each.sum() for each in values(program, leaves)]  # no branch goes at once

    return memory(forward).kept


def test_bytes() -> None:
    """Are never more than torch's, but for the bits that fastact's nodes keep by themselves, and seldom the same."""
    of_torch, with_recompute = 0, 0
    for number in range(1000, 1040):
        program = program_of(number)
        try:
            theirs = kept(program, number, nullcontext)
        except RuntimeError:
            continue  # torch forbids a write
        a_bit_each = sum(ROWS * WIDTH // 8 + 8 for name, *_ in program if any(part in name for part in MASKS))
        assert kept(program, number, recompute) <= theirs + a_bit_each, (number, program)
        with fastact.enable():
            before, now = kept(program, number, nullcontext), kept(program, number, recompute)
        assert now <= min(before, theirs) + a_bit_each, (number, program)
        of_torch, with_recompute = of_torch + theirs, with_recompute + now
    assert with_recompute < 0.75 * of_torch
