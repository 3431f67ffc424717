"""The ops as functions of Python's (csrc/autograd/python.cpp): what they give, and what they leave to others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cases import DTYPES
from test_ops import DEFAULT, arguments
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from fastact import dispatch, libraries
from fastact.dispatch import NUMBERS
from fastact.ops import OPS, Op, overload

pytestmark = [
    pytest.mark.only("cpu"),
    pytest.mark.skipif(libraries.CALLS is None, reason="the other kind of nodes has none"),
]


def refuse(*arguments: Any) -> Any:
    raise AssertionError(f"left to others: {arguments}")


FORMS = [(op, name) for op in OPS.values() for name in (op.name, f"{op.name}_")[: 1 + op.in_place]]
GIVEN = {"plain": nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}


@pytest.mark.parametrize("mode", GIVEN)
@pytest.mark.parametrize(("op", "name"), FORMS, ids=[name for _, name in FORMS])
def test_it_gives_what_the_op_gives(op: Op, name: str, mode: str, device: str) -> None:
    case = DEFAULT[op.activation.name]
    results = []
    values = case.randn(4, 12)
    for function in (libraries.CALLS.op(name, refuse), overload(name)):
        with GIVEN[mode]():
            given = arguments(op, values.clone(), case)
            if op.activation.kind == "softmax":
                given[-1] = NUMBERS[given[-1]]
            leaves = [each.requires_grad_() for each in given[: op.tensors]] if mode == "plain" else []
            if name != op.name:  # a leaf is not written in place
                given[0] = given[0] * 1
            output = function(*given)
            if name != op.name:
                assert output is given[0] or output is None
                output = given[0]
        node = output.grad_fn.name() if output.grad_fn else None
        version = None if output.is_inference() else output._version
        grads = torch.autograd.grad(output.square().sum(), leaves) if leaves else ()
        results.append(([output.detach(), *grads], [output.stride(), node, version]))
    (ours, our_facts), (theirs, their_facts) = results
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    assert our_facts == their_facts


class Subclass(Tensor):
    pass


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


MODES: dict[str, Callable[[], AbstractContextManager]] = {
    "function mode": FunctionMode,
    "dispatch mode": DispatchMode,
    "profiler": lambda: profile(activities=[ProfilerActivity.CPU], acc_events=True),
    "autocast": lambda: torch.autocast("cpu"),
    "below autograd": torch._C._AutoDispatchBelowAutograd,
}


@pytest.mark.parametrize("mode", MODES)
def test_who_looks_on_sees_the_op(mode: str, device: str) -> None:
    seen = []
    function = libraries.CALLS.op("relu", lambda *given: seen.append(given) or 5)
    x = torch.randn(3)
    with MODES[mode]():
        assert function(x) == 5
    assert len(seen) == 1
    assert seen[0][0] is x


def unusual() -> dict[str, tuple[str, tuple]]:
    x = torch.randn(2, 6)
    return {
        "no tensor": ("relu", (None,)),
        "a number": ("relu", (1.0,)),
        "a subclass": ("relu", (x.as_subclass(Subclass),)),
        "a sparse tensor": ("relu", (x.to_sparse(),)),
        "a lazy negative": ("relu", (torch._neg_view(x),)),
        "a lazy negative in place": ("relu_", (torch._neg_view(x),)),
        "another weight": ("prelu", (x, None)),
        "another residual": ("bias_relu", (x, x[0], 1.0)),
        "too few": ("leaky_relu", (x,)),
        "too many": ("relu", (x, x)),
        "none": ("relu", ()),
        "a bool for a float": ("leaky_relu", (x, True)),
        "an int that no float has": ("leaky_relu", (x, 2**70)),
        "NumPy's number": ("leaky_relu", (x, np.float64(0.5))),
        "a tensor for a float": ("leaky_relu", (x, torch.tensor(0.5))),
        "a float for an int": ("softmax", (x, 1.0, 6)),
        "a bool for an int": ("softmax", (x, True, 6)),
        "an int that does not fit": ("softmax", (x, 2**70, 6)),
        "an int for a bool": ("swiglu_packed", (x, 1, 0)),
    }


@pytest.mark.parametrize("what", unusual())
def test_what_is_unusual_goes_to_others(what: str, device: str) -> None:
    name, given = unusual()[what]
    seen = []
    assert libraries.CALLS.op(name, lambda *given: seen.append(given) or "theirs")(*given) == "theirs"
    assert [list(map(id, each)) for each in seen] == [list(map(id, given))]


def test_inside_a_transform_it_goes_to_others(device: str) -> None:
    function = libraries.CALLS.op("relu", overload("relu"))
    x = torch.tensor([[-1.0, 2.0]])
    assert torch.equal(torch.func.vmap(function)(x), x.relu())
    assert torch.equal(torch.func.grad(lambda x: function(x).sum())(x), torch.tensor([[0.0, 1.0]]))
    tangent = torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]
    assert torch.equal(tangent, torch.tensor([[0.0, 1.0]]))


def test_errors_come_through(device: str) -> None:
    relu, relu_ = (libraries.CALLS.op(name, overload(name)._op) for name in ("relu", "relu_"))
    x = torch.randn(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="relu"):
        relu(5)
    with pytest.raises(TypeError, match="keyword"):
        relu(input=x)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        relu_(x)

    def pack(tensor: Tensor) -> None:
        raise LookupError("no room")

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed),
        pytest.raises(LookupError, match="no room"),
    ):
        relu(x)
    with pytest.raises(KeyError, match="theirs"):
        libraries.CALLS.op("relu", lambda x: {}["theirs"])(None)


def test_functions_of_no_op(device: str) -> None:
    with pytest.raises(RuntimeError, match="fastact::relus"):
        libraries.CALLS.op("relus", refuse)
    with pytest.raises(TypeError):
        libraries.CALLS.op("relu")


X, CHANNELS = torch.zeros(2, 3), torch.zeros(3)
ANY = [
    *(torch.zeros(2, dtype=dtype) for dtype in (*DTYPES, torch.int32, torch.complex64)),
    Parameter(X),
    X.as_subclass(Subclass),
    X.to("meta"),
    X.t(),
    X.to_sparse(),
    torch.zeros(()),
    torch._neg_view(X),
    None,
    Tensor,
]
ANY_NUMBERS = [
    0.0,
    -0.0,
    0.3,
    -1.0,
    1,
    0,
    7e4,
    3.4e38,
    1e39,
    -1e39,
    2**70,
    -(2**63),
    math.inf,
    math.nan,
    2.0**-61,
    True,
    "1",
]
ANY_NUMBERS += [np.float64(0.3), np.int64(1)]


def questions() -> Iterator[tuple[str, tuple]]:
    for any in ANY:
        yield "takes_in_eager_mode", (any,)
        yield "takes_in_eager_mode", (X, any)
        if isinstance(any, Tensor):
            yield "contiguous", (any,)
            yield "weights_fit", (X, any)
            yield "weights_fit", (X, CHANNELS, any)
    for channels in (0, 1, 2, 3):
        yield "weights_fit", (X, torch.zeros(channels))
        yield "weights_fit", (CHANNELS, torch.zeros(channels))
        yield "weights_fit", (X, torch.zeros(channels, dtype=torch.half))
    for dtype in DTYPES:
        input = torch.zeros(2, dtype=dtype)
        yield from (("rounded", (number, input)) for number in (0.3, 0.5, 0.0, 6e4))
        for number in ANY_NUMBERS:
            for name in ("leaky_relu", "elu", "celu", "hardshrink", "softshrink"):
                yield "accepts", (name, input, number)
            for name in ("rrelu", "hardtanh", "threshold", "softplus"):
                yield "accepts", (name, input, number, 0.5)
        for dim in (0, -1, 1, -2, 2**70, True, None, 0.0):
            yield from (("softmax_dtype", (input, dim, asked)) for asked in (None, torch.float32, torch.int32))
    yield from (("softmax_dtype", (torch.zeros(()), dim, None)) for dim in (0, -1, 1))
    yield from (("softmax_dtype", (X, dim, None)) for dim in (1, -2, 2, -3))


def test_answers_in_cpp_are_those_in_python(in_python: ModuleType, device: str) -> None:
    for name, given in questions():
        expected, answer = (outcome(getattr(module, name), *given) for module in (in_python, dispatch))
        if isinstance(expected, Tensor):
            assert answer is expected or (answer is not given[0] and torch.equal(answer, expected)), (name, given)
        else:
            assert (type(answer), answer) == (type(expected), expected), (name, given)


def outcome(function: Callable, *given: Any) -> Any:
    try:
        return function(*given)
    except Exception as error:
        return type(error), str(error)


def test_usual_questions_are_answered_in_cpp(device: str) -> None:
    usual = {
        "takes_in_eager_mode": ((X, CHANNELS), True),
        "accepts": (("softplus", X, 1.0, 20), True),
        "rounded": ((0.5, X), 0.5),
        "contiguous": ((X,), X),
        "weights_fit": ((X, CHANNELS), True),
        "softmax_dtype": ((X, -1, None), NUMBERS[torch.float32]),
    }
    for name, (given, expected) in usual.items():
        assert libraries.CALLS.question(name, refuse)(*given) is expected, name


def test_seeds_are_those_of_torch(device: str) -> None:
    draw = libraries.CALLS.question("draw_seed", refuse)
    seeds = []
    for function in (draw, lambda input: torch.randint(2**63 - 1, ())):
        torch.manual_seed(3)
        seeds.append([function(X).item() for _ in range(5)])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 5
