"""What Maxout has beside the other activations: pieces, groups along any dimension, ties, and its layer."""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES
from torch import Tensor, nn

import fastact
import fastact.functional as F
from fastact.composites import maxout

# Groups side by side, in runs of neighbours short and long, over the whole tensor, and with channels innermost.
SHAPES = [((5, 33), -1), ((7, 5, 9), 1), ((2, 3, 2100), 1), ((3, 40), 0), ((2, 3, 5, 7), 1), ((2, 3, 4, 5), -1)]


def outputs(function, input: Tensor, *arguments) -> list[Tensor]:
    input = input.detach().requires_grad_()
    output = function(input, *arguments)
    grad = torch.linspace(-2, 2, output.numel(), dtype=torch.float64).view(output.shape).to(output)
    return [output.detach(), *torch.autograd.grad(output, input, grad)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pieces", [2, 3, 4, 5, 255])
def test_values_ties_and_nan_are_torchs(pieces: int, dtype: torch.dtype, device: str, on: str) -> None:
    """Few different numbers, so that most groups have several winners."""
    shapes = SHAPES if device != "emulated" or pieces < 255 else SHAPES[:1]
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0, -1.0], dtype=torch.float64)
    for shape, dim in shapes:
        sizes = list(shape)
        sizes[dim] *= pieces
        numbers = torch.randint(len(special), sizes, generator=torch.Generator().manual_seed(1))
        numbers[torch.rand(sizes, generator=torch.Generator().manual_seed(2)) < 0.95] = 6  # NaN is rare
        input = special[numbers].to(dtype).to(on)
        if len(shape) == 4:
            input = input.to(memory_format=torch.channels_last)
        (ours, our_grad), (theirs, torchs_grad) = (outputs(each, input, pieces, dim) for each in (F.maxout, maxout))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(ours.signbit() & ~ours.isnan(), theirs.signbit() & ~theirs.isnan())
        assert torch.equal(our_grad, torchs_grad)
        assert our_grad.stride() == input.stride()


@pytest.mark.parametrize("function", [F.maxout, lambda *arguments: fastact.Maxout(*arguments[1:])(arguments[0])])
def test_bad_arguments(function, on: str) -> None:
    x = torch.randn(4, 6, device=on)
    for pieces in (1, 0, -2, 256):
        with pytest.raises(ValueError, match=f"from 2 to 255, got {pieces}"):
            function(torch.randn(4, 512, device=on), pieces)  # which all but one divide
    with pytest.raises(RuntimeError, match="multiply up to the size of dim 1"):
        function(x, 4)
    with pytest.raises(IndexError, match="out of range"):
        function(x, 2, 2)
    with pytest.raises((IndexError, RuntimeError), match="no dimensions"):
        function(torch.tensor(1.0, device=on), 2)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layer(bias: bool, on: str) -> None:
    layer = fastact.MaxoutLinear(5, 3, 4, bias=bias, device=on, dtype=torch.float64)
    input = torch.randn(7, 5, dtype=torch.float64, device=on)
    weight = layer.linear.weight.view(3, 4, 5)
    pieces = torch.einsum("bi,opi->bop", input, weight)
    if bias:
        pieces = pieces + layer.linear.bias.view(3, 4)
    output = layer(input)
    torch.testing.assert_close(output, pieces.amax(-1))
    output.sum().backward()
    won = nn.functional.one_hot(pieces.argmax(-1), 4).double()
    expected = torch.einsum("bop,bi->opi", won, input)
    torch.testing.assert_close(layer.linear.weight.grad.view(3, 4, 5), expected)
    assert set(layer.state_dict()) == ({"linear.weight", "linear.bias"} if bias else {"linear.weight"})
    scripted = torch.jit.script(layer)
    torch.testing.assert_close(scripted(input), output)
