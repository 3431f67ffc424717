"""torch's own descriptions of these modules and functions, with torch's results."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import DTYPES, truth

import fastact
from fastact.catalogue import ACTIVATIONS, Activation

pytest.importorskip("expecttest", reason="torch's tests import it")

from torch.testing._internal.common_methods_invocations import op_db, unary_ufuncs
from torch.testing._internal.common_modules import module_db

ROWS = list({row.function: row for row in reversed(ACTIVATIONS.values())}.values())
MODULE_INFOS = {info.module_cls: info for info in module_db}
OP_INFOS = {info.name: info for info in (*unary_ufuncs, *op_db)}
# In eps of the dtype: torch's own 16-bit kernels round in between.
TOLERANCE = {
    dtype: {"rtol": n * torch.finfo(dtype).eps, "atol": n * torch.finfo(dtype).eps}
    for dtype, n in ((torch.float64, 8), (torch.float32, 8), (torch.float16, 3), (torch.bfloat16, 3))
}


def run(function, arguments: tuple, keywords: dict) -> list[torch.Tensor] | Exception:
    arguments = tuple(
        a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a for a in arguments
    )
    torch.manual_seed(0)
    try:
        output = function(*arguments, **keywords)
    except Exception as error:
        return error
    results = [output.detach()]
    inputs = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    if output.requires_grad and inputs:
        results += torch.autograd.grad(output, inputs, torch.ones_like(output))
    return results


def same(ours, theirs, dtype: torch.dtype, what: str) -> None:
    if isinstance(theirs, Exception):
        assert type(ours) is type(theirs), what
        assert str(ours) == str(theirs), what
        return
    assert not isinstance(ours, Exception), (what, ours)
    # Where the output is NaN, torch's vector and scalar code give different gradients; at infinity its gradients can be
    # NaN where they have a limit.
    numbers = ~theirs[0].isnan()
    for got, expected in zip(ours, theirs, strict=True):
        if got.shape == numbers.shape and got is not ours[0]:
            judged = numbers & ~(expected.isnan() & theirs[0].isinf())
            got, expected = got[judged], expected[judged]
        torch.testing.assert_close(got, expected, **TOLERANCE[dtype], equal_nan=True, msg=lambda m: f"{what}: {m}")


def described(row: Activation) -> bool:
    return row.stock in MODULE_INFOS


def test_torch_describes_every_module_here_but_two() -> None:
    undescribed = {row.module for row in ROWS if row.stock and not described(row)}
    assert undescribed <= {"RReLU", "Hardsigmoid"}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", [r for r in ROWS if described(r)], ids=lambda row: row.module)
def test_module_inputs(row: Activation, dtype: torch.dtype, training: bool, device: str, on: str) -> None:
    info = MODULE_INFOS[row.stock]
    tried = 0
    for sample in info.module_inputs_func(info, device=on, dtype=dtype, requires_grad=True, training=training):
        construct, call = sample.constructor_input, sample.forward_input
        ours, theirs = (
            module(*construct.args, **construct.kwargs).to(on, dtype).train(training)
            for module in (getattr(fastact, row.module), row.stock)
        )
        results = [run(module, call.args, call.kwargs) for module in (ours, theirs)]
        same(*results, dtype, f"{row.module}({construct.kwargs})")
        tried += 1
    assert tried > 0


def op_infos(row: Activation) -> list:
    return [info for info in OP_INFOS.values() if info.name in (row.function, f"nn.functional.{row.function}")]


def test_torch_describes_every_function_here() -> None:
    assert all(op_infos(row) for row in ROWS if row.stock_function)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", [r for r in ROWS if r.stock_function], ids=lambda row: row.function)
def test_op_inputs(row: Activation, dtype: torch.dtype, device: str, on: str) -> None:
    tried = 0
    for info in op_infos(row):
        samples = list(info.sample_inputs(on, dtype, requires_grad=True))
        if dtype in (torch.float32, torch.bfloat16):
            samples += itertools.islice(info.reference_inputs(on, dtype, requires_grad=True), 60)
        # Those of a million elements, and threads, are test_accuracy's and test_threads'.
        samples = [sample for sample in samples if sample.input.numel() <= (4096 if device == "emulated" else 1 << 16)]
        if device == "emulated":  # takes a thousand times as long
            samples = samples[:15]
        for sample in samples:
            if row.random and sample.kwargs.get("training", False):
                continue  # torch draws other slopes
            arguments, keywords = (sample.input, *sample.args), sample.kwargs
            ours, theirs = (
                run(function, arguments, keywords)
                for function in (getattr(fastact.functional, row.function), truth(row, dtype))
            )
            if row.limits_at_infinity:  # where torch has NaN
                finite = ~sample.input.isinf()
                ours, theirs = ([result[finite] for result in results] for results in (ours, theirs))
            same(ours, theirs, dtype, f"{row.function}{tuple(sample.input.shape)} {sample.kwargs}")
            tried += 1
    assert tried > 0


@pytest.mark.parametrize("row", [r for r in ROWS if r.stock_function], ids=lambda row: row.function)
def test_op_errors(row: Activation, device: str, on: str) -> None:
    for info in op_infos(row):
        if info.error_inputs_func is None:
            continue
        for error in info.error_inputs(on):
            sample = error.sample_input
            with pytest.raises(error.error_type, match=error.error_regex):
                getattr(fastact.functional, row.function)(sample.input, *sample.args, **sample.kwargs)
