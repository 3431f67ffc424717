"""`fastact.recompute` among what else changes how autograd runs: hooks, checkpoints, threads, transforms, compilers."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recomputed import Net, both, grad_of, hooks_are_gone, kept, mark, memory, recompute, same, seed, step
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import fastact
from fastact.catalogue import ACTIVATIONS

if os.environ.get("FASTACT_NODES") == "python":
    pytest.skip("needs the autograd nodes in C++", allow_module_level=True)


@pytest.fixture(autouse=True)
def _enabled_throughout() -> Iterator[None]:
    with fastact.enable():
        yield
    fastact.disable()
    left = not hooks_are_gone()
    if left:  # tests to come shall not fail too
        torch._C._autograd._pop_saved_tensors_default_hooks()
        sys.modules[fastact.recompute.__module__]._around.module = None
    assert not left


def block(width: int = 16) -> nn.Module:
    """With all that is made again: norms, activations, dropout, a product, a residual."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = F.gelu(m.l0(m.norm(x)))
        return x + m.l1(F.dropout(h * torch.sigmoid(m.gate(x)), 0.2, m.training))

    layers = {"l0": nn.Linear(width, 2 * width), "gate": nn.Linear(width, 2 * width), "l1": nn.Linear(2 * width, width)}
    return Net(forward, norm=nn.LayerNorm(width), **layers)


def network(blocks: int = 2) -> nn.Sequential:
    norm = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.SiLU(inplace=True))
    return nn.Sequential(norm, *(block() for _ in range(blocks)), nn.Linear(16, 3))


def batch() -> Tensor:
    return torch.linspace(-2, 2, 12 * 16).sin().view(12, 16)


def reduces(around: Callable[[], AbstractContextManager[Any]]) -> bool:
    return kept(network, batch(), around=around) < kept(network, batch())


# Where it is entered, and how.


def test_nested_blocks() -> None:
    expected = step(network, batch())
    for outer, inner in ((recompute, recompute), (recompute, lambda: fastact.recompute(min_bytes=1 << 30))):
        around = partial(both, outer, inner)
        same(step(network, batch(), around=around), expected)
        assert kept(network, batch(), around=around) == kept(network, batch(), around=recompute)


def test_a_block_goes_on_after_one_inside() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with recompute():
            x = m.first(x)
        return m.second(x)

    def build() -> nn.Module:
        return Net(forward, first=block(), second=block())

    same(step(build, batch(), around=recompute), step(build, batch()))
    halves = lambda: kept(build, batch())  # noqa: E731
    plain = lambda: Net(lambda m, x: m.second(m.first(x)), first=block(), second=block())  # noqa: E731
    assert kept(build, batch(), around=recompute) == kept(plain, batch(), around=recompute) < halves()


def test_one_block_used_again_and_within_itself() -> None:
    again = recompute()
    expected = step(network, batch())
    for _ in range(2):
        same(step(network, batch(), around=lambda: again), expected)
        assert hooks_are_gone()
    same(step(network, batch(), around=partial(both, lambda: again, lambda: again)), expected)
    assert hooks_are_gone()
    assert reduces(lambda: again)


def test_as_a_decorator() -> None:
    seed(0)
    model = network()

    @fastact.recompute(min_bytes=0)
    def forward(x: Tensor, depth: int = 0) -> Tensor:
        """Runs the model."""
        assert not hooks_are_gone()
        return forward(x, depth - 1) if depth else model(x)

    assert (forward.__name__, forward.__doc__) == ("forward", "Runs the model.")
    for depth in (0, 2):
        assert memory(partial(forward, batch(), depth)).kept < memory(partial(model, batch())).kept
        assert hooks_are_gone()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        @fastact.recompute(min_bytes=0)
        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    same(step(Model, batch()), step(lambda: Net(lambda m, x: m.model(x), model=network()), batch()))
    assert kept(Model, batch()) < kept(network, batch())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exceptions_in_forward(error: type[BaseException]) -> None:
    """Leave nothing behind."""

    def broken(m: Any, x: Tensor) -> Tensor:
        F.silu(m.model(x))
        raise error("in the midst")

    expected = step(network, batch())
    for _ in range(3):
        with pytest.raises(error, match="in the midst"), recompute():
            Net(broken, model=network())(batch())
        assert hooks_are_gone()
    before = kept(network, batch())
    same(step(network, batch()), expected)
    same(step(network, batch(), around=recompute), expected)
    assert kept(network, batch()) == before


def test_exceptions_in_a_functions_call() -> None:
    """torch's errors are torch's, and what follows is remade as before."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = F.gelu(m.l0(x))
        for wrong in (lambda: y * torch.ones(7), lambda: F.layer_norm(y, (5,)), lambda: F.dropout(y, 2.0)):
            with pytest.raises((RuntimeError, ValueError)):
                wrong()
        return m.l1(F.dropout(y, 0.1))

    def build() -> nn.Module:
        return Net(forward, l0=nn.Linear(16, 32), l1=nn.Linear(32, 3))

    same(step(build, batch(), around=recompute), step(build, batch()))
    assert kept(build, batch(), around=recompute) < kept(build, batch())


def test_exceptions_in_backward() -> None:
    """A pass that ends in its midst leaves no tensor behind, and another goes through."""
    seed(0)
    model, x = network(), batch()

    def fail(grad: Tensor) -> Tensor:
        raise ZeroDivisionError("in backward")

    def passes() -> None:
        with recompute():
            h = model[1](model[0](x))
            output = model[3](model[2](h))
        handle = h.register_hook(fail)
        with pytest.raises(ZeroDivisionError):
            output.sum().backward(retain_graph=True)
        handle.remove()
        model.zero_grad()
        output.sum().backward()

    passes()
    gradients = [each.grad.clone() for each in model.parameters()]
    model.zero_grad()
    seed(0)
    other = network()
    other.load_state_dict(model.state_dict())
    assert len(gradients) == len(list(other.parameters()))
    model.zero_grad()
    assert memory(lambda: (passes(), model.zero_grad())).kept == 0


def test_without_gradients() -> None:
    model = network()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            bare = memory(partial(model, batch())).kept
            with recompute():
                assert memory(partial(model, batch())).kept == bare
    with recompute(), torch.no_grad(), torch.enable_grad():
        assert memory(partial(model, batch())).kept < bare + kept(network, batch())


def test_gradients_switched_on_and_off_inside() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = m.first(x)
            with torch.enable_grad():
                x = m.second(x)
        return m.third(x.relu())

    def build() -> nn.Module:
        return Net(forward, first=block(), second=block(), third=block())

    same(step(build, batch(), around=recompute), step(build, batch()))


# Other hooks on saved tensors.


class Doubled:
    """Hooks that keep copies, and count."""

    def __init__(self) -> None:
        self.packed = self.unpacked = 0

    def __call__(self) -> saved_tensors_hooks:
        def pack(tensor: Tensor) -> Tensor:
            self.packed += 1
            return tensor.detach().clone()

        def unpack(tensor: Tensor) -> Tensor:
            self.unpacked += 1
            return tensor

        return saved_tensors_hooks(pack, unpack)


OTHERS: dict[str, Callable[[], Any]] = {"save_on_cpu": lambda: save_on_cpu, "copies": Doubled}


@pytest.mark.parametrize("name", OTHERS)
def test_other_hooks_inside(name: str) -> None:
    """Those decide what they see, and before and behind them it works."""
    hooks = OTHERS[name]()

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        with hooks():
            x = m.second(x)
        return m.third(x)

    def build() -> nn.Module:
        return Net(forward, first=block(), second=block(), third=block())

    same(step(build, batch(), around=recompute), step(build, batch()))
    assert kept(build, batch(), around=recompute) < kept(build, batch())
    if isinstance(hooks, Doubled):
        assert hooks.packed > 0
        assert hooks.unpacked > 0


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore:fastact.recompute:RuntimeWarning")
def test_other_hooks_around(name: str) -> None:
    """It has no effect there."""
    hooks = OTHERS[name]()
    same(step(network, batch(), around=partial(both, hooks, recompute)), step(network, batch()))
    assert kept(network, batch(), around=partial(both, hooks, recompute)) == kept(network, batch(), around=hooks)


def test_a_warning_says_once_that_other_hooks_are_around() -> None:
    from fastact import dispatch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dispatch._reported.text = "" if hasattr(dispatch._reported, "text") else None
        for _ in range(3):
            with save_on_cpu(), recompute():
                pass
    assert len([each for each in caught if "fastact.recompute" in str(each.message)]) <= 1


def test_where_hooks_are_forbidden() -> None:
    """torch's own error, or no effect; and nothing is left of it."""
    expected = step(network, batch())
    with torch.autograd.graph.disable_saved_tensors_hooks("none here"), contextlib.suppress(RuntimeError):
        same(step(network, batch(), around=recompute), expected)
    assert hooks_are_gone()
    same(step(network, batch(), around=recompute), expected)
    assert reduces(recompute)


@pytest.mark.parametrize("outside", [False, True], ids=["inside", "around"])
@pytest.mark.filterwarnings("ignore:fastact.recompute:RuntimeWarning")
def test_mutation_on_saved_tensors(outside: bool) -> None:
    allow = torch.autograd.graph.allow_mutation_on_saved_tensors

    def gradients(*around: Callable[[], AbstractContextManager[Any]]) -> list[Tensor]:
        seed(0)
        first, last = nn.Linear(16, 24), nn.Linear(24, 3)
        with contextlib.ExitStack() as stack:
            for each in around:
                stack.enter_context(each())
            h = first(batch())
            y = F.gelu(h)
            z = last(y)
            y.mul_(2)
            h.add_(1)
            return list(torch.autograd.grad(z.sum(), [*first.parameters(), *last.parameters()]))

    for mine, theirs in zip(
        gradients(*((allow, recompute) if outside else (recompute, allow))), gradients(allow), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_what_a_node_shows_of_what_it_saved() -> None:
    seed(0)
    first, last = nn.Linear(16, 24), nn.Linear(24, 3)
    with recompute():
        y = torch.tanh(first(batch()))
        z = last(F.dropout(F.layer_norm(y, (24,)), 0.2))
        w = (y * 2).exp().square()
    seed(0)
    with recompute():
        dropped = F.dropout(F.layer_norm(y, (24,)), 0.2)
    del dropped
    for _ in range(2):
        saved = z.grad_fn._saved_mat1
        assert saved.shape == (12, 24)
        assert torch.equal(z.grad_fn._saved_mat1, saved)
        assert torch.equal(w.grad_fn._saved_self, (y * 2).exp())
    before = saved.clone()
    z.sum().backward()
    assert torch.equal(saved, before)
    assert torch.equal(last.weight.grad, torch.ones(3, 12) @ before)
    with pytest.raises(RuntimeError, match="after they have already been freed"):
        _ = z.grad_fn._saved_mat1


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        result = F.gelu(x) * other
        ctx.save_for_backward(x, other, result)
        return x**3, result

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_result: Tensor) -> tuple[Tensor, Tensor]:
        x, other, result = ctx.saved_tensors
        again = ctx.saved_tensors
        assert all(torch.equal(a, b) for a, b in zip(again, (x, other, result), strict=True))
        return 3 * x**2 * grad + grad_result * result, grad_result * x * other


def test_functions_of_the_users_own() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = F.silu(m.l0(x))
        a, b = Cubed.apply(y, y.mT.contiguous().mT * 2.0)
        return m.l1(a), m.l1(b * torch.tanh(a))

    def build() -> nn.Module:
        return Net(forward, l0=nn.Linear(16, 32), l1=nn.Linear(32, 3))

    same(step(build, batch(), around=recompute), step(build, batch()))


# Checkpoints.


def checkpointed(
    reentrant: bool, run: Callable[..., Any] = checkpoint, second: Callable[[], nn.Module] = block, **more: Any
) -> Callable[[], nn.Module]:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        x = run(m.second, x, use_reentrant=reentrant, **more)
        return m.third(x)

    return lambda: Net(forward, first=block(), second=second(), third=block())


@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
def test_checkpoints_inside(reentrant: bool) -> None:
    build = checkpointed(reentrant, second=lambda: nn.Sequential(network(1), nn.Linear(3, 16)))
    for autocast in (False, True):
        cast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=autocast)
        expected = step(build, batch(), around=cast)
        same(step(build, batch(), around=partial(both, cast, recompute)), expected)
        same(step(build, batch(), around=partial(both, recompute, cast)), expected)
    assert kept(build, batch(), around=recompute) < kept(build, batch())


@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
def test_checkpoints_around(reentrant: bool) -> None:
    """Of a function that opens it: nothing is kept of that but the input, with or without."""

    def second(m: Any, x: Tensor) -> Tensor:
        with recompute():
            return m.model(x)

    def forward(m: Any, x: Tensor, opens: bool) -> Tensor:
        x = m.first(x)
        return m.third(checkpoint(partial(second, m) if opens else m.model, x, use_reentrant=reentrant))

    def build(opens: bool) -> nn.Module:
        return Net(partial(forward, opens=opens), first=block(), model=network(1), third=nn.Linear(3, 2))

    same(step(partial(build, True), batch()), step(partial(build, False), batch()))
    assert kept(partial(build, True), batch()) <= kept(partial(build, False), batch())
    same(step(partial(build, True), batch(), around=recompute), step(partial(build, False), batch()))


@pytest.mark.parametrize("policy", ["MUST_SAVE", "PREFER_RECOMPUTE", "products"])
@pytest.mark.parametrize("around", [False, True], ids=["inside", "around"])
def test_selective_checkpoints(around: bool, policy: str) -> None:
    def choose(context: Any, op: Any, *args: Any, **keywords: Any) -> CheckpointPolicy:
        if policy == "products":
            return CheckpointPolicy.MUST_SAVE if "mm" in str(op) else CheckpointPolicy.PREFER_RECOMPUTE
        return CheckpointPolicy[policy]

    contexts = partial(create_selective_checkpoint_contexts, choose)

    def evaluating(*arguments: Any) -> Callable[[], nn.Module]:  # where dropout would overwrite what torch caches
        return lambda: checkpointed(False, *arguments, context_fn=contexts)().eval()

    build = evaluating()
    expected = step(build, batch())
    if around:

        def opening(function: Callable[..., Tensor], x: Tensor, **keywords: Any) -> Tensor:
            def opened(x: Tensor) -> Tensor:
                with recompute():
                    return function(x)

            return checkpoint(opened, x, **keywords)

        same(step(evaluating(opening), batch()), expected)
    else:
        same(step(build, batch(), around=recompute), expected)


def test_checkpoints_in_checkpoints_with_blocks_in_between() -> None:
    def inner(m: Any, x: Tensor) -> Tensor:
        with recompute():
            return m.second(checkpoint(m.first, x, use_reentrant=False))

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.third(checkpoint(partial(inner, m), x, use_reentrant=False))

    def build() -> nn.Module:
        return Net(forward, first=block(), second=block(), third=block())

    plain = lambda: Net(lambda m, x: m.third(m.second(m.first(x))), first=block(), second=block(), third=block())  # noqa: E731
    same(step(build, batch(), around=recompute), step(plain, batch()))


# The graph in backward.


def test_backward_twice() -> None:
    seed(0)
    model, x = network(), batch().requires_grad_()
    inputs = [x, *model.parameters()]
    with recompute():
        loss = model(x).square().sum()
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    second = torch.autograd.grad(loss, inputs, retain_graph=True)
    third = torch.autograd.grad(loss, inputs)
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, inputs)


def test_nothing_remade_is_held_after_backward() -> None:
    """Whether or not the graph is, nor while it waits."""
    seed(0)
    model, x = network(), batch().requires_grad_()

    def steps() -> Any:
        with recompute():
            loss = model(x).square().sum()
        mark("forward")
        for name in ("first", "second"):
            torch.autograd.grad(loss, [x], retain_graph=True)
            mark(name)
        torch.autograd.grad(loss, [model[3].weight], retain_graph=True)  # a part of the graph alone
        mark("part")
        return loss

    marks = memory(steps).marks
    assert marks["forward"] == marks["first"] == marks["second"] == marks["part"]


def test_the_peak_of_backward() -> None:
    """Of a deep network, with one tensor made again at a time."""

    def build() -> nn.Module:
        return nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.GELU()) for _ in range(12)), nn.Linear(16, 3))

    seed(0)
    model, x = build(), torch.randn(512, 16)

    def whole(around: Callable[[], AbstractContextManager[Any]]) -> None:
        with around():
            loss = model(x).sum()
        loss.backward()
        model.zero_grad()

    whole(recompute)
    tensor = x.nbytes
    without, now = memory(partial(whole, nullcontext)), memory(partial(whole, recompute))
    assert now.peak <= without.peak - 9 * tensor
    assert now.kept == without.kept == 0


def test_one_kernel_for_each_tensor() -> None:
    """However many read it."""
    seed(0)
    first, last = nn.Linear(16, 32), nn.ModuleList(nn.Linear(32, 3) for _ in range(4))
    with recompute():
        y = F.gelu(first(batch()))
        z = torch.tanh(first(F.layer_norm(batch(), (16,))))
        w = F.silu(F.mish(y))
        losses = [each(y) for each in last] + [each(w) for each in last] + [last[0](z), y * z]
    loss = sum(each.sum() for each in losses)
    with torch.profiler.profile() as profile:
        loss.backward()
    ran = [event.name for event in profile.events() if event.name.removeprefix("fastact::") in ACTIVATIONS]
    assert sorted(ran) == [
        "fastact::gelu",
        "fastact::mish",
        "fastact::silu",
    ]  # tanh keeps its output, as its own node does


def test_parts_of_the_graph() -> None:
    """Gradients of tensors in its midst, one after the other."""

    def results(around: Callable[[], AbstractContextManager[Any]]) -> list[Tensor]:
        seed(0)
        model, x = network(), batch().requires_grad_()
        with around():
            a = model[0](x)
            b = F.gelu(model[1](a))
            c = model[2](b)
            output = model[3](c)
        found = []
        for outputs, inputs in (
            ((output,), (c,)),
            ((output,), (b, c)),
            ((c,), (b,)),
            ((b, output), (a,)),
            ((c,), (x, a)),
        ):
            found += torch.autograd.grad(outputs, inputs, [grad_of(each) for each in outputs], retain_graph=True)
        found += torch.autograd.grad(b, x, grad_of(b))  # frees a part of what the others need
        found += torch.autograd.grad(output, c, grad_of(output))
        return found

    for mine, theirs in zip(results(recompute), results(nullcontext), strict=True):
        assert torch.equal(mine, theirs)


def test_losses_one_after_another() -> None:
    """Of one trunk, of which backward frees each time only its own part."""

    def results(around: Callable[[], AbstractContextManager[Any]]) -> list[Tensor]:
        seed(0)
        model, heads = network(), [nn.Linear(16, 2) for _ in range(3)]
        with around():
            trunk = F.gelu(model[1](model[0](batch())))
            shared = trunk.detach().requires_grad_()
            losses = [head(F.silu(shared) * shared).square().sum() for head in heads]
        for loss in losses:
            loss.backward()
        trunk.backward(shared.grad)
        return [each.grad for each in (*model[:2].parameters(), *(p for head in heads for p in head.parameters()))]

    for mine, theirs in zip(results(recompute), results(nullcontext), strict=True):
        assert torch.equal(mine, theirs)


SECOND: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "relu": torch.relu,
    "softmax": lambda x: F.softmax(x, -1),
    "swiglu": lambda x: fastact.functional.swiglu(x).repeat(1, 2),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:]),
    "group_norm": lambda x: F.group_norm(x, 2),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "mul": lambda x: x * x.sigmoid(),
    "add": lambda x: x.sigmoid() + 2 * x,
    "dropout": lambda x: F.dropout(x, 0.0) * 1.5,
    "double": lambda x: x.float().double(),
    "clone": lambda x: x.clone(),
    "roll": lambda x: x.roll(1, 1),
}


@pytest.mark.parametrize("within", [False, True], ids=["behind", "inside"])
@pytest.mark.parametrize("name", SECOND)
def test_double_backward(name: str, within: bool) -> None:
    """With backward inside the block, what that keeps is made again too."""
    function = SECOND[name]

    def results(around: Callable[[], AbstractContextManager[Any]]) -> list[Tensor]:
        seed(0)
        x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)

        def first(y: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(y, (x, weight), grad_of(y), create_graph=True)

        with around():
            y = function(function(x @ weight) @ weight) @ weight
            gradients = first(y) if within else ()
        gradients = gradients or first(y)
        second = torch.autograd.grad(
            sum(each.square().sum() for each in gradients), (x, weight), create_graph=True, allow_unused=True
        )
        third = torch.autograd.grad(sum(each.square().sum() for each in second), (x, weight), allow_unused=True)
        return [y, *gradients, *second, *third]

    for mine, theirs in zip(results(recompute), results(nullcontext), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", SECOND)
def test_gradgradcheck(name: str) -> None:
    seed(0)
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        with recompute():
            return SECOND[name](x @ weight) @ weight

    if name == "double":
        return  # rounds to float32, which finite differences see
    assert torch.autograd.gradcheck(function, (x, weight))
    assert torch.autograd.gradgradcheck(function, (x, weight))


def test_batched_gradients() -> None:
    seed(0)
    model, x = network(), batch().requires_grad_()
    with recompute():
        output = model(x).sum(0)
    many = torch.eye(3)
    one_by_one = [torch.autograd.grad(output, x, each, retain_graph=True)[0] for each in many]
    (batched,) = torch.autograd.grad(output, x, many, retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(batched, torch.stack(one_by_one))
    (again,) = torch.autograd.grad(output, x, many[0])
    assert torch.equal(again, one_by_one[0])


def test_hooks_on_tensors_modules_and_nodes() -> None:
    def results(around: Callable[[], AbstractContextManager[Any]]) -> list[Any]:
        seed(0)
        model, x, found = network(), batch().requires_grad_(), []
        for each in model:
            each.register_full_backward_hook(lambda m, into, out: found.append(out[0].clone()))
            each.register_forward_hook(lambda m, args, out: out * 1.0)
            each.register_full_backward_pre_hook(lambda m, out: (out[0] * 2,))
        with around():
            h = F.gelu(model[1](x))
            h.retain_grad()
            h.register_hook(lambda grad: grad * 0.5)
            h.grad_fn.register_prehook(lambda grads: found.append(grads[0].clone()))
            output = model[3](model[2](h))
        output.sum().backward()
        return [output, h.grad, x.grad, *found]

    for mine, theirs in zip(results(recompute), results(nullcontext), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
def test_anomaly_mode() -> None:
    expected = step(network, batch())
    with torch.autograd.detect_anomaly(check_nan=True):
        same(step(network, batch(), around=recompute), expected)


def test_accumulated_gradients_and_optimisers() -> None:
    def results(around: Callable[[], AbstractContextManager[Any]]) -> list[Tensor]:
        seed(0)
        model = network()
        for foreach in (False, True):
            optimizer = torch.optim.AdamW(model.parameters(), 0.01, foreach=foreach)
            for _ in range(3):
                for part in batch().chunk(2):
                    with around():
                        loss = model(part).square().sum()
                    loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        return [*model.parameters(), *model.buffers()]

    for mine, theirs in zip(results(recompute), results(nullcontext), strict=True):
        assert torch.equal(mine, theirs)


def test_a_long_chain() -> None:
    """Of which each is made of the one before."""

    def forward(m: Any, x: Tensor) -> Tensor:
        for _ in range(300):
            x = torch.tanh(F.gelu(x)) * 1.5
        return m.last(x)

    def build() -> nn.Module:
        return Net(forward, last=nn.Linear(16, 3))

    x = batch().requires_grad_()
    same(step(build, x, around=recompute), step(build, x))
    assert kept(build, x, around=recompute) <= kept(build, x)


# Threads.


def test_backward_in_another_thread() -> None:
    expected = step(network, batch())
    seed(3)
    model = network()
    with recompute():
        output = model(batch())
    thread = threading.Thread(target=output.backward, args=(grad_of(output),))
    thread.start()
    thread.join()
    for name, each in model.named_parameters():
        assert torch.equal(each.grad, expected[f"gradient of {name}"])


def test_parts_of_backward_in_threads_at_once() -> None:
    """All of whom need the same tensors made again."""
    seed(0)
    model, x = network(), batch().requires_grad_()
    with recompute():
        output = model(x)
    expected = [
        torch.autograd.grad(output, x, each, retain_graph=True)[0] for each in [grad_of(output) * i for i in range(6)]
    ]
    found: list[Any] = [None] * 6
    ready = threading.Barrier(6)

    def work(i: int) -> None:
        ready.wait()
        for _ in range(5):
            found[i] = torch.autograd.grad(output, x, grad_of(output) * i, retain_graph=True)[0]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_blocks_in_two_threads_at_once() -> None:
    """Each is its own thread's, and a third has none."""
    weights = network().state_dict()
    inside, errors = threading.Barrier(3), []

    def gradients(around: Callable[[], AbstractContextManager[Any]], wait: bool) -> list[Tensor]:
        model = network().eval()
        model.load_state_dict(weights)
        if wait:
            inside.wait(timeout=60)
        with around():
            if wait:
                inside.wait(timeout=60)
                assert hooks_are_gone() == (around is nullcontext)
            output = model(batch())
            if wait:
                inside.wait(timeout=60)
        output.backward(grad_of(output))
        return [each.grad for each in model.parameters()]

    expected = gradients(nullcontext, False)

    def work(around: Callable[[], AbstractContextManager[Any]]) -> None:
        try:
            for _ in range(5):
                for mine, theirs in zip(gradients(around, True), expected, strict=True):
                    assert torch.equal(mine, theirs)
        except BaseException as error:
            errors.append(error)
            inside.abort()

    workers = [threading.Thread(target=work, args=(each,)) for each in (recompute, recompute, nullcontext)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert not errors, errors


def test_a_block_is_of_its_thread_alone() -> None:
    sizes = []
    with recompute():
        thread = threading.Thread(target=lambda: sizes.append(kept(network, batch())))
        thread.start()
        thread.join()
    assert sizes == [kept(network, batch())]


def test_a_thread_that_ends_within_a_block() -> None:
    """Leaves a graph that another thread runs."""
    found = []

    def work() -> None:
        seed(3)
        block = recompute()
        block.__enter__()
        model = network()
        found.append((model, model(batch())))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    model, output = found[0]
    output.backward(grad_of(output))
    expected = step(network, batch())
    for name, each in model.named_parameters():
        assert torch.equal(each.grad, expected[f"gradient of {name}"])


# Memory over time.


def test_a_hundred_steps() -> None:
    """Of which none leaves anything, without the collector of cycles."""
    seed(0)
    model, x = network(), batch()

    def steps(count: int) -> None:
        for _ in range(count):
            with recompute():
                loss = model(x).sum()
            loss.backward()
            model.zero_grad()
            del loss

    steps(2)
    assert memory(partial(steps, 100)).kept == 0


def test_many_steps_inside_one_block() -> None:
    """A loop of training inside of it, backward too: memory is flat, and no step is slower for those before."""
    seed(0)
    model, x = network(), batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def loop() -> None:
        with recompute():
            for i in range(50):
                loss = model(x).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                del loss
                mark(f"{i}")

    loop()
    marks = memory(loop).marks
    assert len({marks[f"{i}"] for i in range(2, 50)}) == 1
    assert memory(loop).kept == 0

    def trained(around: Callable[[], AbstractContextManager[Any]]) -> list[Tensor]:
        seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        with around():
            for _ in range(5):
                model(x).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        return list(model.parameters())

    for mine, theirs in zip(trained(recompute), trained(nullcontext), strict=True):
        assert torch.equal(mine, theirs)


def test_graphs_never_run_backward() -> None:
    seed(0)
    model, x = network(), batch()

    def forward(count: int) -> None:
        for _ in range(count):
            with recompute():
                model(x)
        with recompute():
            for _ in range(count):
                model(x)

    forward(1)
    assert memory(partial(forward, 20)).kept == 0


def test_graphs_of_graphs_are_freed() -> None:
    seed(0)
    model, x = network(), batch().requires_grad_()

    def penalty() -> None:
        with recompute():
            (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            loss = gradient.square().sum()
        loss.backward()
        model.zero_grad()
        x.grad = None

    penalty()
    assert memory(penalty).kept == 0


def test_no_object_of_a_cycle_is_left() -> None:
    """Nor of Python's own."""
    seed(0)
    model, x = network(), batch()

    def one() -> None:
        with recompute():
            loss = model(x).sum()
        loss.backward()
        model.zero_grad()

    one()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        one()
        assert gc.collect() == 0
    finally:
        gc.enable()


# Compilers and transforms.


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 24), nn.LayerNorm(24), nn.GELU(), nn.Linear(24, 3))


def close(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """A compiler has torch's formulas, not fastact's: within torch's own bounds for float32."""
    assert got.keys() == expected.keys()
    for name, each in got.items():
        torch.testing.assert_close(each, expected[name], msg=lambda m, name=name: f"{name}: {m}")


def compiled(model: nn.Module, backend: str = "aot_eager", **more: Any) -> nn.Module:
    return Net(torch.compile(lambda m, x: m.model(x), backend=backend, **more), model=model)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_inside(backend: str) -> None:
    """Compiles once, whichever block is open."""

    def build() -> nn.Module:
        return compiled(small(), backend, fullgraph=True)

    expected = step(build, batch())
    close(step(build, batch(), around=recompute), expected)
    model = build()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            with recompute():
                output = model(batch())
            output.sum().backward()


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_compiled_function_that_opens_it() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with recompute():
            return m.model(x)

    def build() -> nn.Module:
        return Net(torch.compile(forward, backend="aot_eager"), model=small())

    close(step(build, batch()), step(lambda: Net(lambda m, x: m.model(x), model=small()), batch()))

    @torch.compile(backend="aot_eager")
    @fastact.recompute(min_bytes=0)
    def decorated(m: nn.Module, x: Tensor) -> Tensor:
        return m.model(x)

    close(step(lambda: Net(decorated, model=small()), batch()), step(build, batch()))


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_compiled_part_between_others() -> None:
    """What it takes in may be made again."""

    def build() -> nn.Module:
        middle = compiled(nn.Sequential(nn.Linear(32, 32), nn.SiLU()), fullgraph=True)
        return nn.Sequential(nn.Linear(16, 32), nn.GELU(), middle, nn.Dropout(0.2), nn.Linear(32, 3))

    same(step(build, batch(), around=recompute), step(build, batch()))
    assert kept(build, batch(), around=recompute) <= kept(build, batch())


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_autograd(backend: str) -> None:
    from torch._dynamo import compiled_autograd

    seed(3)
    model = small()
    with recompute():
        output = model(batch())
    expected = step(small, batch())
    with compiled_autograd._enable(torch.compile(backend=backend)):
        output.backward(grad_of(output))
    for name, each in model.named_parameters():
        torch.testing.assert_close(each.grad, expected[f"gradient of {name}"])
    same(step(small, batch(), around=recompute), expected)


def test_export_inside() -> None:
    with recompute():
        program = torch.export.export(small().eval(), (batch(),))
    assert "fastact" not in str(program.graph)
    assert hooks_are_gone()


@pytest.mark.filterwarnings("ignore:fastact.recompute:RuntimeWarning")
def test_transforms() -> None:
    """Either they work, with the same results, or torch says that they cannot under hooks; nothing is left of it."""
    from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap

    seed(0)
    model = small()
    weights = {name: each.detach() for name, each in model.named_parameters()}
    x, tangent = batch(), torch.ones(12, 16)

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, weights, (x,)).square().sum()

    calls: dict[str, Callable[[], Any]] = {
        "grad": lambda: grad(loss)(weights, x),
        "vmap": lambda: vmap(model)(x),
        "jvp": lambda: jvp(model, (x,), (tangent,)),
        "vjp": lambda: vjp(model, x)[1](torch.ones(12, 3)),
        "jacrev": lambda: jacrev(model)(x[0]),
        "jacfwd": lambda: jacfwd(model)(x[0]),
        "per sample": lambda: vmap(grad(loss), (None, 0))(weights, x[:, None]),
        "hessian": lambda: torch.func.hessian(lambda x: model(x).square().sum())(x[0]),
    }
    undisturbed = step(network, batch())

    def leaves(value: Any) -> list[Tensor]:
        return torch.utils._pytree.tree_leaves(value)

    for name, call in calls.items():
        expected = leaves(call())
        with recompute():
            try:
                got = leaves(call())
            except RuntimeError as error:
                assert "hooks" in str(error), name  # noqa: PT017
                got = expected
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs, msg=name)

        def opening(call: Callable[[], Any] = call) -> Any:
            forward = model.forward
            model.forward = fastact.recompute(min_bytes=0)(forward)
            try:
                return call()
            finally:
                del model.forward

        try:
            got = leaves(opening())
        except RuntimeError as error:
            assert "hooks" in str(error), name  # noqa: PT017
            got = expected
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs, msg=name)
        assert hooks_are_gone()
    same(step(network, batch(), around=recompute), undisturbed)
    assert reduces(recompute)


def test_forward_mode() -> None:
    import torch.autograd.forward_ad as fwAD

    seed(0)
    model, x = small(), batch().requires_grad_()
    found = []
    for around in (nullcontext, recompute):
        with fwAD.dual_level(), around():
            output = model(fwAD.make_dual(x, torch.ones_like(x)))
            value, tangent = fwAD.unpack_dual(output)
            found.append((value, tangent, torch.autograd.grad(value.sum(), x)[0]))
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


def test_functionals_of_autograd() -> None:
    from torch.autograd import functional

    seed(0)
    model, x = small(), batch()[:2]

    def forward(x: Tensor) -> Tensor:
        with recompute():
            return model(x)

    for run in (functional.jacobian, partial(functional.jacobian, create_graph=True)):
        assert torch.equal(run(forward, x), run(model, x))
    total, of_model = (lambda x: forward(x).square().sum()), (lambda x: model(x).square().sum())
    assert torch.equal(functional.hessian(total, x), functional.hessian(of_model, x))
    assert torch.equal(functional.hvp(total, x, x)[1], functional.hvp(of_model, x, x)[1])


def test_modes() -> None:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    class Ops(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    expected = step(network, batch())
    for mode in (Functions, Ops, lambda: FlopCounterMode(display=False)):
        same(step(network, batch(), around=partial(both, mode, recompute)), expected)
        same(step(network, batch(), around=partial(both, recompute, mode)), expected)
        with mode():  # backward too
            same(step(network, batch(), around=recompute), expected)
    counts = []
    for around in (nullcontext, recompute):
        with FlopCounterMode(display=False) as counter:
            step(network, batch(), around=around)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]  # no product is run again


def test_default_dtype_and_device() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        same(step(network, batch(), around=recompute), step(network, batch()))
    finally:
        torch.set_default_dtype(torch.float32)


def test_deterministic_algorithms() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        same(step(network, batch(), around=recompute), step(network, batch()))
    finally:
        torch.use_deterministic_algorithms(False)


def test_generators_are_left_alone() -> None:
    """Backward draws nothing, whatever has been drawn since."""
    seed(0)
    layer = nn.Linear(16, 32)
    with recompute():
        loss = layer(F.dropout(F.rrelu(layer(batch()), training=True), 0.4)[:, :16]).square().sum()
    (expected,) = torch.autograd.grad(loss, layer.weight, retain_graph=True)
    seed(12345)
    torch.rand(10)
    state = torch.get_rng_state()
    (gradient,) = torch.autograd.grad(loss, layer.weight)
    assert torch.equal(gradient, expected)
    assert torch.equal(torch.get_rng_state(), state)


# Models of other makes.


def test_parametrisations_and_weight_norm() -> None:
    def build(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
        return nn.Sequential(wrap(nn.Linear(16, 16)), nn.SiLU(), wrap(nn.Linear(16, 16)), nn.GELU(), nn.Linear(16, 3))

    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        same(step(partial(build, wrap), batch(), around=recompute), step(partial(build, wrap), batch()))


def test_models_copied_and_pickled_meanwhile() -> None:
    seed(0)
    model = network()
    with recompute():
        output = model(batch())
        copied = copy.deepcopy(model)
        loaded = pickle.loads(pickle.dumps(model.state_dict()))
    output.sum().backward()
    assert loaded.keys() == copied.state_dict().keys()


# By `enable` and `convert`.


def test_enabled_with_recompute() -> None:
    fastact.disable()
    build = lambda: nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 3))  # noqa: E731
    x = torch.randn(64, 64)
    of_torch, expected_torch = kept(build, x), step(build, x)
    fastact.enable()
    before, expected = kept(build, x), step(build, x)
    fastact.enable(recompute=True)
    assert kept(build, x) == before - 4 * 64 * 256
    same(step(build, x), expected)
    with recompute():
        same(step(build, x), expected)
    fastact.disable()
    assert hooks_are_gone()
    assert kept(build, x) == of_torch
    same(step(build, x), expected_torch)
    with fastact.enable(recompute=True):
        assert kept(build, x) == before - 4 * 64 * 256
        with fastact.enable(only="relu"):
            assert kept(build, x) in (of_torch, before)
        assert kept(build, x) == before - 4 * 64 * 256
    assert kept(build, x) == of_torch
    fastact.enable(recompute=True)
    fastact.enable()  # replaces what was chosen
    assert kept(build, x) == before


def test_enabled_with_recompute_and_exceptions() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            F.gelu(x)
            raise ValueError("in the midst")

    with fastact.enable(recompute=True):
        for _ in range(3):
            with pytest.raises(ValueError, match="in the midst"):
                nn.Sequential(nn.Linear(16, 32), Broken())(batch())
            assert hooks_are_gone()
        same(step(network, batch()), step(network, batch()))


def test_converted_with_recompute() -> None:
    fastact.disable()

    def build(**arguments: Any) -> nn.Module:
        layers = nn.Linear(64, 256), nn.GELU(), nn.Sequential(nn.Linear(256, 64), nn.Mish(), nn.Linear(64, 3))
        model = nn.Sequential(*layers)
        return fastact.convert(model, **arguments) if arguments else model

    x = torch.randn(64, 64)
    converted, remaking = partial(build, only=["gelu", "mish"]), partial(build, recompute=True)
    expected = step(converted, x)
    same(step(remaking, x), expected)
    assert kept(remaking, x) == kept(converted, x) - 4 * 64 * (256 + 64)
    assert kept(lambda: fastact.revert(remaking()), x) == kept(build, x)
    same(step(lambda: fastact.revert(remaking()), x), step(build, x))
    model = remaking()
    assert model.state_dict().keys() == build().state_dict().keys()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert kept(lambda other=other: other, x) == kept(remaking, x)
    fastact.convert(model, recompute=True)  # twice is once
    assert kept(lambda: model, x) == kept(remaking, x)
    assert kept(lambda: fastact.revert(model), x) == kept(build, x)


def test_recompute_needs_the_nodes() -> None:
    import subprocess
    from pathlib import Path

    environment = {**os.environ, "FASTACT_NODES": "python", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, "-c", "import fastact; fastact.recompute()"], capture_output=True, text=True, env=environment
    )
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: fastact.recompute needs fastact's C++ library for torch"), last


class Interrupted(nn.Module):
    """Ends its forward with what it is told to, once."""

    def __init__(self, error: BaseException | None, inner: nn.Module) -> None:
        super().__init__()
        self.error, self.inner = error, inner

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return x


@pytest.mark.parametrize("next_is", ["same", "another"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("by", ["enable", "convert"])
def test_interrupted_calls(by: str, error: type[BaseException], next_is: str) -> None:
    """Of a model that opens a block by itself: none is open after the next call, whichever model's."""
    before = kept(lambda: Interrupted(None, network()), batch())
    with fastact.enable(recompute=True) if by == "enable" else nullcontext():
        models = [Interrupted(error(), network()), Interrupted(None, network())]
        if by == "convert":
            for each in models:
                fastact.convert(each, recompute=True)
        with pytest.raises(error):
            models[0](batch())
        model = models[next_is == "another"]
        assert memory(partial(model, batch())).kept <= before
        assert hooks_are_gone()


def test_switched_off_after_an_interrupted_call() -> None:
    fastact.enable(recompute=True)
    with pytest.raises(KeyboardInterrupt):
        Interrupted(KeyboardInterrupt(), network())(batch())
    fastact.disable()
    assert hooks_are_gone()


def test_switched_off_in_midst_of_a_call() -> None:
    """The block that is open ends with the call."""

    class Switching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner[0](x)
            fastact.disable()
            return self.inner[3](self.inner[2](self.inner[1](x)))

    fastact.enable(recompute=True)
    output = Switching()(batch())
    assert hooks_are_gone()
    output.sum().backward()
    assert hooks_are_gone()
    assert not fastact.is_enabled()


def test_a_module_that_calls_itself() -> None:
    class Tree(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = block(), block()

        def forward(self, x: Tensor, depth: int = 3) -> Tensor:
            return self.last(F.gelu(self(self.inner(x), depth - 1))) if depth else x

    expected = step(Tree, batch())
    same(step(lambda: fastact.convert(Tree(), recompute=True), batch()), expected)
    with fastact.enable(recompute=True):
        same(step(Tree, batch()), expected)
    assert hooks_are_gone()


def test_hooks_of_modules_that_raise() -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError

    with fastact.enable(recompute=True):
        for register in (nn.Module.register_forward_pre_hook, nn.Module.register_forward_hook):
            model = network()
            for each in (model, model[1]):
                handle = register(each, fail)
                with pytest.raises(ZeroDivisionError):
                    model(batch())
                assert hooks_are_gone()
                handle.remove()
            same(step(network, batch()), step(network, batch()))


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_models_while_enabled_with_recompute() -> None:
    expected = step(lambda: Net(lambda m, x: m.model(x), model=small()), batch())
    with fastact.enable(recompute=True):
        close(step(lambda: compiled(small(), fullgraph=True), batch()), expected)
        model = small()
        model.compile(backend="aot_eager")
        output = model(batch())
        with torch._dynamo.config.patch(error_on_recompile=True):
            for _ in range(3):
                output = model(batch())
        output.sum().backward()
        assert hooks_are_gone()
        torch.export.export(small().eval(), (batch(),))
        assert hooks_are_gone()
        parts = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.LayerNorm(64))
        for part in (parts[1], parts[3]):  # within whose graphs torch calls the hooks: it does not look into them
            part.compile(backend="aot_eager")
        parts(torch.randn(256, 16)).sum().backward()
        assert hooks_are_gone()


def test_scripted_and_traced_modules() -> None:
    seed(0)
    model = small()
    for make in (torch.jit.script, partial(torch.jit.trace, example_inputs=(batch(),))):
        with recompute():
            made = make(model)
        assert hooks_are_gone()
        found = []
        for around in (nullcontext, recompute):
            for _ in range(4):  # until it is optimised
                model.zero_grad()
                with around():
                    output = made(F.gelu(batch().requires_grad_() * 2))
                output.backward(grad_of(output))
            found.append([output, *(each.grad.clone() for each in model.parameters())])
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_two_threads_of_torchs() -> None:
    """Kernels that share their work among threads make the same again."""

    def build() -> nn.Module:
        convolutions = [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Dropout(0.1)]
        return nn.Sequential(*convolutions, nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.GELU(), nn.Conv2d(8, 2, 1))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.randn(4, 8, 40, 40)
        same(step(build, x, around=fastact.recompute), step(build, x))
    finally:
        torch.set_num_threads(before)
