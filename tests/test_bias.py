"""The ops with a bias and a residual: what their parts give one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import DEFAULTS, DTYPES, Case
from torch import Tensor

ROWS = [case for case in DEFAULTS if case.activation.kind == "pointwise" and not case.activation.random]
LAYOUTS = {
    "rows": lambda: torch.randn(5, 67),
    "several blocks": lambda: torch.randn(3, 7, 30, 33),
    "channels last": lambda: torch.randn(2, 70, 8, 9).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(40, 6).t(),
    "half of the rows": lambda: torch.randn(6, 256)[:, :128],
    "every other": lambda: torch.randn(5, 66)[:, ::2],
    "empty": lambda: torch.randn(0, 3),
}
pytestmark = pytest.mark.only("cpu")


def op(name: str) -> Any:
    return getattr(torch.ops.fastact, name)


def parts(case: Case, x: Tensor) -> tuple[Tensor, Tensor]:
    """The activation of x, and what its backward needs."""
    row = case.activation
    if row.saved == "bits":
        return op(f"{row.name}_mask")(x, *case.parameters)
    y = op(row.name)(x, *case.parameters)
    return y, y if row.saved == "output" else x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_bias_ops_are_their_parts(case: Case, dtype: torch.dtype, device: str) -> None:
    """Bit for bit in the type that is computed in, from which 16-bit results are rounded once."""
    name, parameters = f"bias_{case.activation.name}", case.parameters
    wide = torch.promote_types(dtype, torch.float32)
    for layout, make in LAYOUTS.items():
        x, residual, grad = ((make() * 3).to(dtype) for _ in range(3))
        for bias in (torch.randn(x.size(1)).to(dtype), torch.randn(1).to(wide)):
            per_channel = bias.to(wide) if len(bias) == 1 else bias.to(wide).view(-1, *[1] * (x.dim() - 2))
            y, saved = parts(case, x.to(wide) + per_channel)
            assert torch.equal(op(name)(x, bias, None, *parameters), y.to(dtype)), layout
            assert torch.equal(op(name)(x, bias, residual, *parameters), (y + residual.to(wide)).to(dtype)), layout
            kept = x
            if case.activation.saved == "bits":
                output, kept = op(f"{name}_mask")(x, bias, residual, *parameters)
                assert torch.equal(output, op(name)(x, bias, residual, *parameters))
            grad_input, grad_bias = op(f"{name}_backward")(grad, kept, bias, *parameters)
            expected = op(f"{case.activation.name}_backward")(torch.empty_like(y).copy_(grad), saved, *parameters)
            assert torch.equal(grad_input, expected.to(dtype)), layout
            assert grad_bias.dtype == bias.dtype
            dims = [dim for dim in range(x.dim()) if dim != 1 or len(bias) == 1]
            torch.testing.assert_close(grad_bias, expected.double().sum(dims).view_as(bias).to(bias.dtype))


def test_bias_ops_refuse_what_they_cannot_read(device: str) -> None:
    x = torch.randn(4, 6)
    for call in (
        lambda: op("bias_relu")(x, torch.randn(4), None),
        lambda: op("bias_relu")(x, torch.randn(6).double(), None),
        lambda: op("bias_relu")(x, torch.randn(6), x[:2]),
        lambda: op("bias_relu")(x.int(), torch.randn(6), None),
        lambda: op("bias_silu_backward")(x, x.double(), torch.randn(6)),
    ):
        with pytest.raises(RuntimeError, match="fastact::bias_"):
            call()
