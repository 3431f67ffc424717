"""torch's own descriptions of its ops and modules, through torch's functions, with fastact's in their place."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import DTYPES
from stock import TOLERANCE, node
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db, unary_ufuncs
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.opinfo.core import OpInfo

import fastact
from fastact.catalogue import ACTIVATIONS, Activation

ROWS = {row: ACTIVATIONS[row] for rows in torch.ops.fastact.overridable().values() for row in rows}
FUNCTIONS = {row.function for row in ROWS.values()} - {"rrelu"}  # which draws other numbers than torch's
NAMES = FUNCTIONS | {f"nn.functional.{name}" for name in FUNCTIONS}
OP_INFOS: dict[str, OpInfo] = {
    f"{info.name} {info.variant_test_name}".strip(): info for info in (*unary_ufuncs, *op_db) if info.name in NAMES
}
MODULE_INFOS = {row.stock: row for row in ROWS.values() if row.stock}


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [each for item in value for each in tensors(item)] if isinstance(value, (tuple, list)) else []


def run(call: Callable[..., Tensor], input: Tensor, args: tuple, kwargs: dict, out: bool = False) -> Any:
    """The result with gradients and what can be seen of it, or the exception; and the node's name."""
    input, *args = (
        each.detach().clone().requires_grad_(each.requires_grad) if isinstance(each, Tensor) else each
        for each in (input, *args)
    )
    try:
        output = call(input, *args, **kwargs)
        if out:
            target = output.new_full(output.shape, 7)
            output = call(input.detach(), *args, **kwargs, out=target)
            assert output is target
    except Exception as error:
        return type(error), str(error)
    wanted = [each for each in (input, *args) if isinstance(each, Tensor) and each.requires_grad]
    found = [output.detach()]
    if output.requires_grad and output.dtype.is_floating_point:
        found += torch.autograd.grad(output, wanted, torch.ones_like(output), allow_unused=True)
    return found, output.stride(), output.grad_fn and output.grad_fn.name()


def compare(call: Callable[..., Tensor], input: Tensor, args: tuple, kwargs: dict, what: str, out: bool = False) -> str:
    """Assert that both come to the same; return the name of the node with torch's op replaced."""
    torch.default_generator.manual_seed(0)
    theirs = run(call, input, args, kwargs, out)
    torch.default_generator.manual_seed(0)
    with fastact.enable():
        ours = run(call, input, args, kwargs, out)
    if isinstance(theirs[0], type):
        assert ours == theirs, what
        return ""
    assert not isinstance(ours[0], type), (what, ours)
    assert ours[0][0].dtype == theirs[0][0].dtype, what
    assert ours[1] == theirs[1] or ours[0][0].numel() == 0, what
    numbers = ~theirs[0][0].isnan()
    for i, (mine, expected) in enumerate(zip(ours[0], theirs[0], strict=True)):
        if i > 0 and mine.shape == numbers.shape:  # at NaN torch's loops differ, at infinity it has NaN
            judged = numbers & ~(expected.isnan() & theirs[0][0].isinf()) & ~input.isinf()
            mine, expected = mine[judged], expected[judged]
        elif i == 0 and mine.shape == input.shape:
            mine, expected = mine[~input.isinf()], expected[~input.isinf()]
        # In float64 torch has a sixth in Hardsigmoid's derivative, and 1 / alpha in CELU, in float32.
        coarse = mine.dtype == torch.float64 and any(each in what for each in ("hardsigmoid", "celu", "CELU"))
        tolerance = TOLERANCE.get(torch.float32 if coarse else mine.dtype, {"rtol": 0, "atol": 0})
        torch.testing.assert_close(mine, expected, **tolerance, equal_nan=True, msg=lambda m: f"{what}: {m}")
    return ours[2] or ""


def test_torch_describes_all_but_a_few() -> None:
    described = {name.split()[0].removeprefix("nn.functional.") for name in OP_INFOS}
    assert described == FUNCTIONS


@pytest.mark.parametrize("name", OP_INFOS)
def test_op(name: str) -> None:
    info, nodes = OP_INFOS[name], set()
    for dtype in DTYPES:
        if not info.supports_dtype(dtype, "cpu"):
            continue
        samples = itertools.chain(
            itertools.islice(info.sample_inputs("cpu", dtype, requires_grad=True), 10),
            itertools.islice(info.reference_inputs("cpu", dtype, requires_grad=True), 10 * (dtype == torch.float32)),
        )
        for sample in samples:
            if sample.input.numel() > 4096:
                continue
            what = f"{name} {tuple(sample.input.shape)} {sample.args} {sample.kwargs}"
            forms = {"function": info.op, "method": info.method_variant, "in place": info.inplace_variant}
            for form, call in forms.items():
                if call is None:
                    continue
                write = form == "in place"

                def of(x: Tensor, *args: Any, call: Callable = call, write: bool = write, **kwargs: Any) -> Tensor:
                    return call(x.clone() if write else x, *args, **kwargs)

                nodes.add(compare(of, sample.input, sample.args, sample.kwargs, f"{what} {form}"))
            if info.supports_out:
                compare(info.op, sample.input, sample.args, sample.kwargs, f"{what} out", out=True)
    if not info.supports_dtype(torch.float32, "cpu"):
        return  # the complex variant
    function = info.name.removeprefix("nn.functional.")
    assert {node(row) for row, activation in ROWS.items() if activation.function == function} & nodes


@pytest.mark.parametrize("name", [name for name in OP_INFOS if OP_INFOS[name].error_inputs_func])
def test_op_errors(name: str) -> None:
    info = OP_INFOS[name]
    for error in info.error_inputs("cpu"):
        sample = error.sample_input
        with fastact.enable(), pytest.raises(error.error_type, match=error.error_regex):
            info.op(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize("row", MODULE_INFOS.values(), ids=lambda row: row.module)
def test_module(row: Activation) -> None:
    infos = [info for info in module_db if info.module_cls is row.stock]
    assert infos or row.module in ("RReLU", "Hardsigmoid")
    for info, dtype, training in itertools.product(infos, DTYPES, (True, False)):
        for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training):
            construct, call = sample.constructor_input, sample.forward_input
            module = row.stock(*construct.args, **construct.kwargs).to(dtype).train(training)
            compare(module, call.args[0], call.args[1:], call.kwargs, f"{row.module} {construct.kwargs} {dtype}")
