"""Every op of torch.ops.fastact by torch's own rules for custom ops, and with shapes that agree with its results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import DEFAULTS, LOOPS, Case
from torch import Tensor
from torch.library import opcheck

from fastact.ops import OPS, Op, overload

DEFAULT = {case.activation.name: case for case in DEFAULTS}


def arguments(op: Op, input: Tensor, case: Case) -> list[Any]:
    """The op's inputs, its seed and its scalars."""
    inputs = [input, *case.weights(input)]
    if op.biased:
        bias = torch.linspace(-1, 1, input.size(1) if input.dim() > 1 else 1, device=input.device).to(input.dtype)
        return [input, bias, input.flip(0) if input.dim() else input.clone(), *case.scalars]
    if op.packed:
        return [input, -1, False]
    if op.activation.kind == "gated":
        return list(input.chunk(2, -1))
    if op.activation.kind == "softmax":
        return [input, -1, input.dtype]
    if op.activation.kind == "maxout":
        return [input, *case.scalars, -1]
    return [*inputs, *([torch.tensor(5)] if op.activation.random else []), *case.scalars]


def calls(op: Op, input: Tensor) -> dict[str, tuple]:
    """Each of the op's forms with arguments: itself, what nodes call forward and backward, and in place."""
    case = DEFAULT[op.activation.name]
    given = arguments(op, input, case)
    inputs, rest = given[: op.tensors], given[op.tensors :]
    forms = {op.name: tuple(given), op.saving: tuple(given)}
    if op.in_place:
        forms |= {f"{name}_": (input.clone(), *given[1:]) for name in (op.name, op.saving)}
    result = overload(op.saving)(*given)
    output, *extra = result if isinstance(result, tuple) else (result,)
    saved = extra or ([output] if op.saves == "output" else inputs)
    if op.biased:
        saved = [*(extra or inputs[:1]), inputs[1]]
    return {**forms, f"{op.name}_backward": (torch.randn_like(output), *saved, *rest)}


def names_of(op: Op) -> tuple[list[str], list[str]]:
    """What the catalogue says of the arguments: the tensors of the op's shape, and all others."""
    row = op.activation
    if op.packed:
        return ["input"], ["dim", "gate_first"]
    if row.kind == "gated":
        return ["value", "gate"], []
    if row.kind == "softmax":
        return ["input"], ["dim", "dtype"]
    if row.kind == "maxout":
        return ["input"], [*row.scalars, "dim"]
    return ["input"], [*["bias"] * op.biased, *["seed"] * row.random, *row.weights, *row.scalars]


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_the_table_and_the_catalogue_agree(op: Op) -> None:
    """The schemas, which follow from the table in C++, take and give what the catalogue's row says."""
    tiles, others = names_of(op)
    saved = tiles if op.saves == "input" else [op.saves]
    added = ["residual"] * op.biased
    forward = [*tiles, *others[:1], *added, *others[1:]] if op.biased else [*tiles, *others]
    expected = {
        op.name: (forward, 1),
        op.saving: (forward, 1 + (op.saves in ("mask", "indices"))),
        f"{op.name}_backward": (["grad", *saved, *others], op.tensors - op.biased),
    }
    if op.in_place:
        expected[f"{op.name}_"] = (forward, 0)
        expected[f"{op.saving}_"] = (forward, int(op.saves == "mask"))
    for name, (arguments, results) in expected.items():
        schema = overload(name)._schema
        assert [argument.name for argument in schema.arguments] == arguments, name
        assert len(schema.returns) == results, name


@pytest.mark.only("cpu")
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_opcheck(op: Op, device: str) -> None:
    case = DEFAULT[op.activation.name]
    for name, given in calls(op, case.randn(2, 3, 4).transpose(0, 1)).items():
        opcheck(overload(name), given, test_utils=("test_schema", "test_faketensor"))
    inputs = arguments(op, case.randn(4, 12), case)
    for tensor in inputs[: op.tensors]:
        tensor.requires_grad_()
    compiled = ("test_aot_dispatch_dynamic",) if case in LOOPS else ()  # the op's shapes, and its kind of node
    opcheck(overload(op.name), tuple(inputs), test_utils=("test_schema", "test_autograd_registration", *compiled))


def test_tensors_without_memory_beside_others_are_refused() -> None:
    x, meta = torch.randn(4, 5), torch.randn(5, device="meta")
    for call in (
        lambda ops: ops.prelu(x, meta),
        lambda ops: ops.swiglu(x, x.to("meta")),
        lambda ops: ops.bias_relu(x, torch.randn(5), x.to("meta")),
        lambda ops: ops.relu_backward(x, torch.empty(3, dtype=torch.uint8, device="meta")),
    ):
        with pytest.raises(RuntimeError, match="on the same device, but found cpu and meta"):
            call(torch.ops.fastact)


def on_meta(tensor: Tensor) -> Tensor:
    """Where `to` would make the strides those of a dense tensor."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_shapes_agree_with_results(op: Op, device: str, on: str) -> None:
    """Sizes, strides and dtypes of meta tensors, in whatever order the dimensions lie."""
    case = DEFAULT[op.activation.name]
    for layout in case.layouts():
        input = case.input(layout, torch.float32, on)
        if not input.is_contiguous() and case.activation.random:
            continue
        for name, given in calls(op, input).items():
            results = overload(name)(*given)
            meta = overload(name)(*(on_meta(x) if isinstance(x, Tensor) else x for x in given))
            pairs = [(results, meta)] if isinstance(results, Tensor) else zip(results or (), meta or (), strict=True)
            for result, shape in pairs:
                assert result.shape == shape.shape
                assert result.dtype == shape.dtype
                if result.numel() > 1:
                    assert result.stride() == shape.stride(), (layout, name)
