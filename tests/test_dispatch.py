"""Which calls run fastact's kernels, and that all the others are torch's, with torch's results and errors."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import pytest
import torch
from cases import CASES, DEFAULTS, DETERMINISTIC, LOOPS, Case
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import fastact.functional as F
from fastact import libraries
from fastact.catalogue import ACTIVATIONS
from fastact.ops import OPS


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_kernels_run(case: Case, kernel_calls: list[str], on: str) -> None:
    input = case.randn(40, device=on).requires_grad_()
    case.fastact(input).sum().backward()
    op = OPS.get(f"{case.activation.name}_packed", OPS[case.activation.name])
    assert kernel_calls == [op.saving, f"{op.name}_backward"]


@pytest.mark.only("cpu")
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_profiler_shows_the_ops(case: Case, device: str) -> None:
    input = case.randn(40).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        case.fastact(input).sum().backward()
    names = {event.key for event in profiler.key_averages()}
    op = f"fastact::{case.activation.name}"
    assert names & {op, f"{op}_mask", f"{op}_packed", f"{op}_indices"}
    assert names & {f"{op}_backward", f"{op}_packed_backward"}


@pytest.mark.only("cpu")
def test_nodes_are_in_cpp(device: str, pytestconfig: pytest.Config) -> None:
    """Where the library for this torch has been built, as it is from source."""
    nodes = {case.activation.name: case.fastact(case.randn(4).requires_grad_()).grad_fn for case in DEFAULTS}
    in_cpp = {name for name, node in nodes.items() if type(node).__name__ == "CppFunction"}
    assert in_cpp == (set(ACTIVATIONS) if pytestconfig.getoption("--nodes") == "C++" else set())
    assert (libraries.CALLS is not None) == (pytestconfig.getoption("--nodes") == "C++"), libraries.WHY_NO_CALLS


@pytest.mark.only("cpu")
@pytest.mark.parametrize("case", [case for case in LOOPS if case.deterministic], ids=str)
def test_compiled_autograd(case: Case, nodes: str, device: str) -> None:
    from torch._dynamo import compiled_autograd

    leaf = case.randn(5).requires_grad_()
    (expected,) = torch.autograd.grad(case.fastact(leaf).sum(), leaf)
    output = case.fastact(leaf * 1)
    with compiled_autograd._enable(lambda graph: graph):
        output.sum().backward()
    torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=0)


@pytest.mark.only("cuda")
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_profiler_shows_the_gpu_kernels(case: Case, device: str) -> None:
    input = case.randn(4096, device=device).requires_grad_()
    case.fastact(input).sum().backward()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        case.fastact(input).sum().backward()
        torch.cuda.synchronize()
    names = {event.key for event in profiler.key_averages()}
    assert {f"fastact_{case.activation.name}_{direction}" for direction in ("forward", "backward")} <= names


@pytest.mark.parametrize("case", [c for c in DETERMINISTIC if not c.activation.random], ids=str)
def test_function_transforms(case: Case, device: str, on: str) -> None:
    input = case.randn(3, 4, dtype=torch.float64, device=on)
    weight = case.weights(input)

    def ours(x: Tensor) -> Tensor:
        return case.fastact(x, *weight).square().sum()

    def theirs(x: Tensor) -> Tensor:
        return case.stock(x, *weight).square().sum()

    for transform in (
        torch.func.grad,
        torch.func.hessian,
        lambda f: lambda x: torch.func.vmap(f)(x.unsqueeze(1)),
        lambda f: lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
        lambda f: lambda x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    ):
        try:
            expected = transform(theirs)(input)
        except (NotImplementedError, RuntimeError) as error:  # Hardsigmoid has no second derivative
            with pytest.raises(type(error)):
                transform(ours)(input)
            continue
        torch.testing.assert_close(transform(ours)(input), expected)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_batched_gradients(case: Case, device: str, on: str) -> None:
    batch = torch.randn(5, 3, 4, dtype=torch.float64, device=on)
    results = []
    for function in case.both():
        shape = case.shape(3, 4)
        input = torch.linspace(-2, 2, math.prod(shape), dtype=torch.float64, device=on).view(shape).requires_grad_()
        results.append(torch.autograd.grad(function(input), input, batch, is_grads_batched=True)[0])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_forward_mode(case: Case, device: str, on: str) -> None:
    import torch.autograd.forward_ad as fwAD

    input, tangent = case.randn(2, 3, 4, dtype=torch.float64, device=on)
    results = []
    for function in case.both():
        with fwAD.dual_level():
            try:
                output = function(fwAD.make_dual(input, tangent))
                results.append(fwAD.unpack_dual(output).tangent)
            except NotImplementedError as error:
                results.append(str(error)[:60])
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        torch.testing.assert_close(*results)


class Logged(Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_other_tensors_are_torchs(case: Case, kernel_calls: list[str], nodes: str, on: str) -> None:
    values = case.randn(2, 4, device=on)
    weight = case.weights(values)
    for input in (
        values.as_subclass(Logged),
        torch.randn(values.shape, dtype=torch.complex64, device=on).conj().imag,  # negative bit
    ):
        got, expected = case.fastact(input, *weight), case.torch(input, *weight)
        assert type(got) is type(expected)
        assert torch.equal(got.resolve_neg(), expected.resolve_neg())
    assert kernel_calls == []
    meta = case.fastact(values.to("meta"), *(w.to("meta") for w in weight))
    assert meta.device.type == "meta"
    assert meta.stride() == case.fastact(values, *weight).stride()


def outcome(function, *arguments: Tensor) -> Tensor | tuple[type, str]:
    try:
        return function(*arguments)
    except Exception as error:
        return type(error), str(error)


def unlike() -> list[Tensor]:
    """Of sizes 2 and 6, but not strided."""
    values = torch.linspace(-2, 2, 12).view(2, 6)
    with warnings.catch_warnings(record=True):  # of prototypes
        nested = [torch.nested.nested_tensor(list(values), layout=layout) for layout in (torch.strided, torch.jagged)]
    return [values.to_sparse(), values.to_sparse_csr(), values.to_mkldnn(), *nested]


def assert_same_outcome(ours: Tensor | tuple, theirs: Tensor | tuple) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, tuple):
        assert ours == theirs
    else:
        assert ours.layout == theirs.layout
        torch.testing.assert_close(*(x.values() if x.is_nested else x.to_dense() for x in (ours, theirs)))


@pytest.mark.only("cpu")
@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.deterministic], ids=str)
def test_unlike_inputs_are_torchs(case: Case, kernel_calls: list[str]) -> None:
    for input in unlike():
        weights = case.weights(torch.empty(()))
        assert_same_outcome(*(outcome(function, input, *weights) for function in (case.fastact, case.stock)))
    assert kernel_calls == []


@pytest.mark.only("cpu")
@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.activation.weights or c.activation.kind == "gated"], ids=str)
def test_unlike_operands_are_torchs(case: Case, kernel_calls: list[str]) -> None:
    """Learned tensors and gates beside a plain input."""
    if case.activation.name == "glu":  # takes no gate of its own
        return
    input = torch.randn(2, 6)
    weights = Case(case.activation, case.sample, per_channel=True).weights(input)
    ones = [torch.ones(2, 6), torch.ones(6)]  # as a gate, as numbers per channel
    for operand in (*unlike(), *(x.as_subclass(Logged) for x in ones), *(torch._neg_view(x) for x in ones)):
        operands = (operand, *weights[1:])
        assert_same_outcome(*(outcome(function, input, *operands) for function in (case.fastact, case.stock)))
    assert kernel_calls == []


@pytest.mark.parametrize("case", [case for case in LOOPS if case.deterministic], ids=str)
def test_function_modes_see_the_ops(case: Case, nodes: str, on: str) -> None:
    from torch.overrides import TorchFunctionMode

    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    input = case.randn(3, 4, device=on)
    for mode in (Watch(), torch.device(on)):
        with mode:
            assert torch.equal(case.fastact(input), case.fastact(input))
    op = OPS.get(f"{case.activation.name}_packed", OPS[case.activation.name])
    assert f"fastact.{op.name}.default" in seen or f"fastact.{op.name}" in seen, seen


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_traces_hold_torchs_ops(case: Case, nodes: str, on: str) -> None:
    input = case.randn(3, 4, device=on)
    traced = torch.jit.trace(case.fastact, (input, *case.weights(input)), check_trace=False)
    assert "aten::" in str(traced.graph)
    assert "fastact::" not in str(traced.graph)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_modes_that_make_graphs_see_torchs_ops(case: Case, kernel_calls: list[str], nodes: str, on: str) -> None:
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    input = case.randn(3, 4, device=on)
    graph = make_fx(case.fastact)(input)
    assert "fastact" not in graph.code
    torch.testing.assert_close(graph(input), case.stock(input))
    with FakeTensorMode():
        assert case.fastact(case.randn(3, 4)).shape == (3, 4)
    assert kernel_calls == []


BAD_CALLS = [
    ("relu", lambda f, t: f(None)),
    ("relu", lambda f, t: f([1.0])),
    ("relu", lambda f, t: f(t.bool())),
    ("relu", lambda f, t: f(t.to(torch.complex64))),
    ("relu", lambda f, t: f()),
    ("sigmoid", lambda f, t: f("x")),
    ("tanh", lambda f, t: f(None)),
    ("leaky_relu", lambda f, t: f(t, "steep")),
    ("leaky_relu", lambda f, t: f(t, None)),
    ("leaky_relu", lambda f, t: f(t.int())),
    ("elu", lambda f, t: f(t, "steep")),
    ("elu", lambda f, t: f(t.long())),
    ("rrelu", lambda f, t: f(t, 0.5, 0.1, True)),
    ("rrelu", lambda f, t: f(t, 0.1, float("inf"), True)),
    ("rrelu", lambda f, t: f(t, 0.1, float("inf"))),
    ("elu", lambda f, t: f(t, 1e39)),
    ("celu", lambda f, t: f(t, 0.0)),
    ("celu", lambda f, t: f(t, -1.0)),
    ("softplus", lambda f, t: f(t, 0.0)),
    ("softplus", lambda f, t: f(t, 0)),
    ("hardshrink", lambda f, t: f(t, -0.5)),
    ("softshrink", lambda f, t: f(t, -0.5)),
    ("hardtanh", lambda f, t: f(t, 1.0, -1.0)),
    ("gelu", lambda f, t: f(t, approximate="exact")),
    ("elu", lambda f, t: f(t, 10**400)),
    ("rrelu", lambda f, t: f(t, float("nan"), 0.1, True)),
    ("prelu", lambda f, t: f(t, torch.ones(3, device=t.device))),
    ("prelu", lambda f, t: f(t, torch.ones(1, dtype=torch.float64, device=t.device))),
    ("prelu", lambda f, t: f(t, torch.ones(2, 2, device=t.device))),
    ("prelu", lambda f, t: f(t, 0.25)),
    ("prelu", lambda f, t: f(t, torch.ones(1, device="meta"))),
]


@pytest.mark.parametrize(("name", "call"), BAD_CALLS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BAD_CALLS)])
def test_errors_are_torchs(name: str, call, device: str, on: str) -> None:
    input = torch.randn(4, 4, device=on)
    outcomes = []
    for function in (getattr(F, name), ACTIVATIONS[name].reference):
        try:
            outcomes.append(call(function, input))
        except Exception as error:
            outcomes.append(error)
    ours, theirs = outcomes
    if isinstance(theirs, Exception):
        assert type(ours) is type(theirs)
        assert str(ours) == str(theirs) or "missing" in str(ours)
    else:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.weights], ids=str)
def test_learned_tensors_that_are_torchs(case: Case, kernel_calls: list[str], on: str) -> None:
    """Kernels read one number after another, of one dtype and dimension."""
    input = torch.randn(4, 3, 2, device=on)
    good = Case(case.activation, case.sample, per_channel=True).weights(input)
    case.fastact(input, *good)
    assert len(kernel_calls) == 1
    for k in range(len(good)):
        apart = torch.stack((good[k], -good[k]), dim=1)[:, 0]
        for other in (apart, good[k].double()):
            weights = [other if i == k else each for i, each in enumerate(good)]
            outcomes = []
            for function in case.both():
                try:
                    outcomes.append(function(input, *weights))
                except RuntimeError as error:
                    outcomes.append(str(error))
            ours, theirs = outcomes
            assert torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs
    assert len(kernel_calls) == 1


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_integers_give_what_torch_gives(dtype: torch.dtype, device: str, on: str) -> None:
    input = torch.arange(10, device=on).to(dtype)
    for name in ("relu", "sigmoid", "tanh", "softsign"):
        assert torch.equal(getattr(F, name)(input), getattr(nn.functional, name)(input))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inference_mode(case: Case, device: str, on: str) -> None:
    with torch.inference_mode():
        input = case.randn(10, device=on)
        output = case.fastact(input)
        assert output.is_inference()
        if case.activation.inplace:
            assert case.fastact(input, inplace=True) is input


def test_elu_with_negative_alpha_is_torchs(kernel_calls: list[str], on: str) -> None:
    results = []
    for function in (F.elu, nn.functional.elu):
        input = torch.linspace(-2, 2, 9, device=on).requires_grad_()
        output = function(input, alpha=-1.5)
        (grad,) = torch.autograd.grad(output.sum(), input)
        results.append((output.detach(), grad))
    assert kernel_calls == []
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_import_is_light() -> None:
    code = (
        "import sys, fastact, torch; fastact.ReLU()(torch.randn(100000, requires_grad=True)).sum().backward();"
        "print([m for m in ('triton', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout.strip() == "[]", output.stderr


@pytest.mark.only("cuda")
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_side_stream_and_graph_replay(case: Case, device: str) -> None:
    input = case.randn(10_000, device=device)
    grad = torch.randn(10_000, device=device)
    weights = case.weights(input)  # before the capture, which a copy from the CPU would break

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        y = case.fastact(x, *weights)
        return y.detach(), torch.autograd.grad(y, x, grad)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(input)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(input)
    input.copy_(torch.randn_like(input))
    graph.replay()
    if case.deterministic:
        for a, b in zip(captured, step(input), strict=True):
            assert torch.equal(a, b)
    else:
        first = captured[0].clone()
        graph.replay()
        assert not torch.equal(captured[0], first), "each replay draws anew"
