"""One behaviour at every size: nothing but time depends on the number of elements, or on what is open around a call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from cases import CASES, DEFAULTS, DTYPES, LOOPS, Case
from test_memory import saved_tensors
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import fastact
import fastact.functional as F

SIZES = (0, 1, 7, 64, 1000, 4096, 6000, 8192, 70_000, 300_000)


def describe(case: Case, input: Tensor, n: int) -> tuple:
    """What a call leaves: node, dtype of the output, and the dtype and bytes per element of each saved tensor."""
    weights = case.weights(input)
    kept = saved_tensors(case.fastact, input, *weights)
    output = case.fastact(input, *weights)
    saved = sorted((str(x.dtype), x.numel() if x.dim() == 0 else round(x.numel() / n, 1)) for x in kept.values())
    return output.grad_fn.name(), output.dtype, saved


@pytest.mark.only("cpu", "cuda")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_what_is_saved_and_by_which_node(case: Case, dtype: torch.dtype, device: str, on: str) -> None:
    found = {n: describe(case, case.randn(n, dtype=dtype, device=on).requires_grad_(), n) for n in SIZES if n >= 64}
    assert len({str(each) for each in found.values()}) == 1, found
    for n in (0, 1, 7):
        input = case.randn(n, dtype=dtype, device=on).requires_grad_()
        assert case.fastact(input).grad_fn.name() == found[64][0]


@pytest.mark.only("cpu", "cuda")
@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.pointwise], ids=str)
def test_an_element_among_many_is_what_it_is_alone(case: Case, device: str, on: str) -> None:
    if case.activation.random:
        return
    x = torch.linspace(-6, 6, 70_001, device=on)
    whole = case.fastact(x)
    for part in (slice(0, 1), slice(5, 12), slice(64, 128), slice(60_000, 68_192)):
        assert torch.equal(case.fastact(x[part]), whole[part])


@contextlib.contextmanager
def stored_and_restored() -> None:
    with torch.autograd.graph.save_on_cpu():
        yield


class PassFunctions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class PassOps(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


AROUND: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "nothing": contextlib.nullcontext,
    "function mode": PassFunctions,
    "dispatch mode": PassOps,
    "flop counter": lambda: FlopCounterMode(display=False),
    "save_on_cpu": stored_and_restored,
}


@pytest.mark.only("cpu", "cuda")
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_checkpointing_runs_again_what_ran(case: Case, reentrant: bool, around: str, device: str, on: str) -> None:
    """Whatever was open around forward alone."""
    for n in (7, 4096, 6000, 70_000):
        x = case.randn(n, device=on).requires_grad_()
        torch.manual_seed(1)
        expected = case.fastact(x)
        (gradient,) = torch.autograd.grad(expected.sum(), x)
        torch.manual_seed(1)
        with AROUND[around]():
            y = checkpoint(case.fastact, x, use_reentrant=reentrant)
        assert torch.equal(y, expected)
        y.sum().backward()
        assert torch.equal(x.grad, gradient)


@pytest.mark.only("cpu", "cuda")
@pytest.mark.parametrize("n", SIZES[1:])
def test_rrelu_draws_the_same_again(n: int, on: str) -> None:
    for dtype in DTYPES:
        for reentrant in (True, False):
            x = (-torch.ones(n, dtype=dtype, device=on)).requires_grad_()
            y = checkpoint(fastact.RReLU(), x, use_reentrant=reentrant)
            y.sum().backward()
            assert torch.equal(x.grad, -y)  # y = -a


@pytest.mark.parametrize("n", [1, 9, 4096, 70_000])
@pytest.mark.parametrize("case", [case for case in CASES if case.activation.saved == "mask"], ids=str)
def test_double_backward(case: Case, n: int, on: str) -> None:
    if case.activation.random:
        return
    x = torch.linspace(-4, 4, n, device=on).requires_grad_()
    (first,) = torch.autograd.grad(case.fastact(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    slope = torch.autograd.grad(case.fastact(x).sum(), x)[0]
    torch.testing.assert_close(second, 2 * slope * slope)


@pytest.mark.parametrize("n", [1, 64, 4096, 70_000])
def test_leaky_relu_in_place_with_a_negative_slope(n: int, on: str) -> None:
    x = torch.linspace(-3, 3, n, device=on).requires_grad_()
    F.leaky_relu(x * 1, -0.5, inplace=True).sum().backward()
    assert torch.equal(x.grad, torch.where(x > 0, 1.0, -0.5))


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.activation.saved == "output"], ids=str)
def test_a_saved_output_must_not_change(case: Case, n: int, on: str) -> None:
    """ELU, SELU, CELU and LogSigmoid save theirs, where torch saves the input: the same at every size."""
    x = case.randn(n, device=on).requires_grad_()
    y = case.fastact(x)
    y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# In place.

IN_PLACE = [case for case in DEFAULTS if case.activation.inplace and not case.activation.random]


@pytest.mark.parametrize("n", [8, 4096, 70_000])
@pytest.mark.parametrize("case", IN_PLACE, ids=str)
def test_in_place_on_views(case: Case, n: int, on: str) -> None:
    """Of a part of a tensor that needs gradients, as torch's own do."""
    base = torch.randn(3, n, device=on)
    for view in (lambda x: x[1], lambda x: x[:, ::2], lambda x: x.t(), lambda x: x.view(-1)):
        results = []
        for function in (case.fastact, case.stock):
            leaf = base.clone().requires_grad_()
            whole = leaf * 1
            part = view(whole)
            version = whole._version
            assert function(part, inplace=True) is part
            assert whole._version == version + 1
            (gradient,) = torch.autograd.grad((whole * whole.detach()).sum(), leaf)
            results.append((whole.detach(), gradient))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("n", [8, 70_000])
@pytest.mark.parametrize("case", IN_PLACE, ids=str)
def test_in_place_is_refused_where_torch_refuses(case: Case, n: int, nodes: str, on: str) -> None:
    def leaf() -> Tensor:
        return torch.randn(n, device=on, requires_grad=True)

    def view_of_a_leaf() -> Tensor:
        return leaf()[1:]

    def expanded() -> Tensor:
        return torch.randn(1, device=on).expand(n)

    def inference() -> Tensor:
        with torch.inference_mode():
            return torch.randn(n, device=on)

    def one_of_many() -> Tensor:
        return (leaf() * 1).split(4)[0]

    for make in (leaf, view_of_a_leaf, expanded, inference, one_of_many):
        if make is expanded and case.activation.name == "threshold":
            continue  # torch writes all elements into the one
        outcomes = []
        for function in (case.fastact, case.stock):
            x = make()
            before = x.detach().clone()
            with pytest.raises(RuntimeError) as error:
                function(x, inplace=True)
            # torch writes into inference tensors before it refuses them
            assert torch.equal(x, before) or (make is inference and (function == case.stock or nodes == "Python"))
            outcomes.append(str(error.value))
        assert outcomes[0] == outcomes[1]


# Compiled.


@pytest.mark.only("cpu")
@pytest.mark.parametrize("case", [case for case in LOOPS if case.deterministic], ids=str)
def test_compiled_autograd_in_one_graph(case: Case, nodes: str, device: str) -> None:
    from torch._dynamo import compiled_autograd

    if nodes == "Python":
        pytest.skip("Dynamo breaks the graph at nodes in Python")
    torch._dynamo.reset()
    x = case.randn(8, 8).requires_grad_()
    weights = tuple(w.requires_grad_() for w in case.weights(x))
    expected = torch.autograd.grad(case.fastact(x, *weights).sum(), (x, *weights))
    y = case.fastact(x * 1, *weights)
    with compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        y.sum().backward()
    for ours, each in zip((x, *weights), expected, strict=True):
        torch.testing.assert_close(ours.grad, each, rtol=0, atol=0)


def test_a_models_layers_are_the_same_for_any_batch(on: str) -> None:
    """The nodes in the graph of a network, for one image and for many."""
    net = nn.Sequential(nn.Linear(8, 64), fastact.ReLU(), nn.Linear(64, 64), fastact.ELU(), fastact.GELU()).to(on)

    def names(batch: int) -> list[str]:
        found, nodes = [], [net(torch.randn(batch, 8, device=on)).grad_fn]
        while nodes:
            node = nodes.pop()
            found.append(node.name())
            nodes += [edge for edge, _ in node.next_functions if edge is not None]
        return found

    assert names(1) == names(5000)


# What is open around a call.


@pytest.mark.parametrize("case", IN_PLACE, ids=str)
def test_in_place_where_saved_tensors_may_change(case: Case, on: str) -> None:
    """torch keeps a copy of what another node has saved, which it finds by the version before the write."""
    results = []
    for function in (case.fastact, case.stock):
        x = torch.linspace(-2, 2, 9, device=on).requires_grad_()
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            y = x * 1
            z = y.sin()
            function(y, inplace=True)
            (gradient,) = torch.autograd.grad(z.sum(), x)
        with torch.autograd.graph.allow_mutation_on_saved_tensors(), torch.no_grad():
            w = x.detach().clone()
            function(w, inplace=True)
        results.append((gradient, w))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.only("cpu", "cuda")
def test_nested_and_negative_tensors_in_inference_mode(on: str) -> None:
    with torch.inference_mode():
        values = torch.nested.nested_tensor([torch.randn(2, 4, device=on), torch.randn(4, 4, device=on)])
        for ours, theirs in ((F.relu, torch.relu), (F.silu, nn.functional.silu), (F.tanh, torch.tanh)):
            for got, expected in zip(ours(values).unbind(), theirs(values).unbind(), strict=True):
                assert torch.equal(got, expected)
        lazy = torch.randn(5, dtype=torch.complex64, device=on).conj().imag
        expected = lazy.relu()
        assert torch.equal(F.relu(lazy, inplace=True), expected)


@pytest.mark.only("cpu", "cuda")
@pytest.mark.parametrize("policy", ["MUST_SAVE", "PREFER_RECOMPUTE"])
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_selective_checkpointing(case: Case, policy: str, on: str) -> None:
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    def contexts():
        return create_selective_checkpoint_contexts(lambda *_, **__: CheckpointPolicy[policy])

    x = case.randn(40, device=on).requires_grad_()
    torch.manual_seed(1)
    (expected,) = torch.autograd.grad(case.fastact(x.sin()).sum(), x)
    torch.manual_seed(1)
    checkpoint(lambda x: case.fastact(x.sin()), x, use_reentrant=False, context_fn=contexts).sum().backward()
    assert torch.equal(x.grad, expected)
