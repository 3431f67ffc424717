"""What stands around autograd: hooks, modes, checkpoints, threads and processes work as with torch's nodes."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from stock import OPS, TOLERANCE, Watch, assert_stock, functional, node, ours, run_by
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import fastact

EPS = torch.finfo(torch.float32).eps


def numbers(*shape: int) -> Tensor:
    return torch.linspace(-2.9, 2.6, shape[0] * shape[1]).view(shape)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 6), nn.Sigmoid())


def step(model: nn.Module, run: Callable[[nn.Module, Tensor], Tensor] = lambda model, x: model(x)) -> list[Tensor]:
    """The output and all gradients."""
    model.zero_grad()
    input = numbers(4, 6).requires_grad_()
    output = run(model, input)
    output.sum().backward()
    return [output.detach().clone(), input.grad, *(each.grad.clone() for each in model.parameters())]


def same(got: list[Tensor], expected: list[Tensor]) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        # Three layers, each with sums of at most 8 products of order 1, forward and back.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=48 * EPS)


@pytest.fixture
def stock() -> list[Tensor]:
    """The step's results before anything is enabled."""
    assert not fastact.is_enabled()
    return step(network())


# Saved tensors.


@pytest.mark.usefixtures("enabled")
def test_hooks_see_what_fastact_saves() -> None:
    for name in OPS:
        packed: list[Tensor] = []
        unpacked: list[int] = []
        input = numbers(4, 6).requires_grad_()

        def pack(tensor: Tensor, packed: list[Tensor] = packed) -> int:
            packed.append(tensor)
            return len(packed) - 1

        def unpack(i: int, packed: list[Tensor] = packed, unpacked: list[int] = unpacked) -> Tensor:
            unpacked.append(i)
            return packed[i]

        with saved_tensors_hooks(pack, unpack):
            output = functional(name)(input)
        gradient = torch.autograd.grad(output.sum(), input)[0]
        assert output.grad_fn.name() == node(name)
        assert sorted(unpacked) == list(range(len(packed)))
        torch.manual_seed(0)
        if name != "rrelu":
            other = numbers(4, 6).requires_grad_()
            assert torch.equal(gradient, torch.autograd.grad(ours(name)(other).sum(), other)[0])


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "less": lambda x: x[:1].clone(),
    "nothing": lambda x: x.new_zeros(0),
    "another dtype": lambda x: x.float(),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "every other": lambda x: torch.stack([x, x], -1)[..., 0],
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["relu", "sigmoid", "gelu", "softmax", "hardtanh"])
def test_what_hooks_return_is_right_or_an_error(name: str, wrong: str) -> None:
    """Never memory beyond its end, nor in an order that is not its own."""
    input = numbers(40, 60).requires_grad_()
    with fastact.enable(), saved_tensors_hooks(lambda tensor: tensor, WRONG[wrong]):
        output = functional(name)(input)
    assert output.grad_fn.name() == node(name)
    grad = torch.linspace(-1, 1, 2400).view(40, 60)
    with fastact.enable():
        expected = torch.autograd.grad(functional(name)(input), input, grad)[0]
    try:
        got = torch.autograd.grad(output, input, grad)[0]
    except RuntimeError:
        assert wrong != "every other"
    else:
        assert torch.equal(got, expected)


def test_save_on_cpu(stock: list[Tensor]) -> None:
    with fastact.enable(), save_on_cpu():
        same(step(network()), stock)


@pytest.mark.parametrize("name", ["sigmoid", "gelu", "relu"])
def test_mutation_of_what_is_saved(name: str) -> None:
    def call(allowed: bool) -> Tensor:
        input = numbers(4, 6).requires_grad_()
        copied = input.clone()
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            output = functional(name)(copied)
            if allowed:
                output.mul_(2) if name != "gelu" else copied.mul_(2)
            return torch.autograd.grad(output.sum(), input)[0]

    with fastact.enable():
        kept, mutated = call(False), call(True)
    assert torch.equal(mutated, kept * (2 if name != "gelu" else 1))


def test_a_write_over_what_is_saved_is_an_error() -> None:
    def call(name: str) -> list[Tensor]:
        input = numbers(4, 6).requires_grad_()
        copied = input * 1
        output = functional(name)(copied)
        (output if name == "sigmoid" else copied).mul_(2)
        return list(torch.autograd.grad(output.sum(), input))

    with fastact.enable():
        for name in ("sigmoid", "gelu"):
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                call(name)
        call("relu")  # needs the input no more, unlike torch's needs the output


@pytest.mark.parametrize(
    ("write", "failing"),
    [(torch.relu_, 0), (F.hardtanh_, 0), (torch.sigmoid_, 0), (F.elu_, 0), (partial(F.rrelu_, training=True), 1)],
)
@pytest.mark.usefixtures("enabled")
def test_a_hook_that_fails_to_save_leaves_no_gradient(write: Callable[[Tensor], Tensor], failing: int) -> None:
    saved = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        if len(saved) > failing:
            raise RuntimeError("no room")
        return tensor

    product = 2 * torch.ones(3, requires_grad=True)
    with saved_tensors_hooks(save, lambda tensor: tensor), pytest.raises(RuntimeError, match="no room"):
        write(product)
    with pytest.raises(RuntimeError, match="failed to save"):
        product.sum().backward()


def test_backward_twice() -> None:
    with fastact.enable():
        input = numbers(4, 6).requires_grad_()
        loss = torch.sigmoid(input).sum()
        first, second = (torch.autograd.grad(loss, input, retain_graph=keep)[0] for keep in (True, False))
        assert torch.equal(first, second)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            torch.autograd.grad(loss, input)


# The graph.


@pytest.mark.usefixtures("enabled")
def test_the_graph() -> None:
    for name in OPS:
        input = numbers(4, 6).requires_grad_()
        output = functional(name)(input)
        made = output.grad_fn
        assert made.next_functions[0][0].variable is input
        assert (made.metadata, output.output_nr, output.is_leaf) == ({}, 0, False)
        seen: list[str] = []
        made.register_prehook(lambda grads, seen=seen: seen.append("before"))
        made.register_hook(lambda into, out, seen=seen: seen.append("after"))
        output.register_hook(lambda grad, seen=seen: seen.append("tensor"))
        output.retain_grad()
        output.sum().backward()
        assert seen == ["tensor", "before", "after"]
        assert output.grad.shape == output.shape
        with pytest.raises(RuntimeError, match="graph leaves"):
            copy.deepcopy(output)
        loaded = pickle.loads(pickle.dumps(output.detach()))
        assert torch.equal(loaded, output)


def test_module_hooks_and_in_place_modules() -> None:
    def call() -> list[object]:
        seen: list[object] = []
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.SiLU())
        with torch.no_grad():
            model[0].weight.copy_(torch.eye(6))
            model[0].bias.zero_()
        for each in model:
            each.register_forward_hook(lambda module, into, out: seen.append(out.detach().clone()))
        model[2].register_full_backward_hook(lambda module, into, out: seen.append(into[0]))
        model(numbers(4, 6)).sum().backward()
        return [seen, model[0].weight.grad]

    assert_stock(call, size=8)


def test_anomaly_mode() -> None:
    with pytest.warns(UserWarning, match="Anomaly Detection"):
        anomalies = torch.autograd.detect_anomaly(check_nan=True)
    with fastact.enable(), anomalies:
        input = numbers(4, 6).requires_grad_()
        F.gelu(input).sum().backward()
        bad = torch.full((3,), float("nan"), requires_grad=True)
        with pytest.raises(RuntimeError, match=r"SigmoidBackward.* returned nan"):
            torch.sigmoid(bad).sum().backward()


def test_deterministic_algorithms(stock: list[Tensor]) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with fastact.enable():
            same(step(network()), stock)
    finally:
        torch.use_deterministic_algorithms(False)


# Modes and subclasses.


def test_checkpoints(stock: list[Tensor]) -> None:
    for reentrant in (False, True):
        with fastact.enable():
            same(step(network(), lambda model, x, r=reentrant: checkpoint(model, x, use_reentrant=r)), stock)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("at_forward", [False, True])
def test_checkpoints_over_a_change(stock: list[Tensor], reentrant: bool, at_forward: bool) -> None:
    """Enabled or disabled between forward and recomputation: a clear error where what is saved differs, or right."""

    def run(model: nn.Module, x: Tensor) -> Tensor:
        (fastact.enable if at_forward else fastact.disable)()
        output = checkpoint(model, x, use_reentrant=reentrant)
        (fastact.disable if at_forward else fastact.enable)()
        return output

    if reentrant:
        same(step(network(), run), stock)
    else:
        with pytest.raises(torch.utils.checkpoint.CheckpointError):
            step(network(), run)


def test_selective_checkpoints_by_torchs_ops(stock: list[Tensor]) -> None:
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    seen: set[str] = set()

    def policy(context: object, op: object, *args: object, **keywords: object) -> CheckpointPolicy:
        seen.add(str(op))
        saved = op in (torch.ops.aten.addmm.default, torch.ops.aten.gelu.default)
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

    def run(model: nn.Module, x: Tensor) -> Tensor:
        contexts = lambda: create_selective_checkpoint_contexts(policy)  # noqa: E731
        return checkpoint(model, x, use_reentrant=False, context_fn=contexts)

    with fastact.enable():
        same(step(network(), run), stock)
    assert "fastact.gelu.default" in seen


def test_other_modes_see_the_call() -> None:
    from torch.overrides import TorchFunctionMode
    from torch.utils.flop_counter import FlopCounterMode

    functions: list[str] = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            functions.append(func.__name__)
            return func(*args, **(kwargs or {}))

    input = numbers(4, 6)
    with fastact.enable(), Functions():
        F.gelu(input)
    assert functions == ["gelu"]
    counts = []
    for on in (True, False):
        (fastact.enable if on else fastact.disable)()
        with FlopCounterMode(display=False) as counter:
            step(network())
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


class Meters(Tensor):
    """Keeps its class through torch's functions."""


def test_subclasses() -> None:
    def call() -> list[Tensor]:
        input = numbers(4, 6).as_subclass(Meters).requires_grad_()
        output = F.silu(torch.relu(input))
        return [output, *torch.autograd.grad(output.sum(), input)]

    got = assert_stock(call)
    assert isinstance(got, list)
    assert type(got[0]) is Meters
    with fastact.enable():
        assert "fastact::silu" in run_by(call)


def test_wrapper_subclasses_see_torchs_ops() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    with fastact.enable(), Watch() as watch:
        input = TwoTensor(numbers(4, 6), numbers(4, 6)).requires_grad_()
        output = F.gelu(input)
        output.sum().backward()
    assert output.grad_fn.name() == "GeluBackward0"
    assert not watch.ours
    with fastact.enable():
        ran = run_by(lambda: F.gelu(TwoTensor(numbers(4, 6), numbers(4, 6))))
    assert ran.count("fastact::gelu") == 2


def test_parametrized_and_shared_parameters() -> None:
    class Positive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.softplus(x)

    def call() -> list[Tensor]:
        torch.manual_seed(0)
        layer = nn.Linear(6, 6)
        nn.utils.parametrize.register_parametrization(layer, "weight", Positive())
        slope = nn.PReLU(6)
        F.prelu(slope(layer(numbers(4, 6))), slope.weight).sum().backward()
        return [each.grad for each in (*layer.parameters(), *slope.parameters())]

    assert isinstance(assert_stock(call, size=64), list)  # sums of 4 rows of 6 products of order 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    def call() -> list[Tensor]:
        torch.manual_seed(0)
        layer, slope = nn.Linear(6, 6), nn.PReLU()
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        with torch.autocast("cpu", dtype):
            results = [functional(name)(layer(numbers(4, 6))) for name in OPS if name not in ("rrelu", "prelu")]
            results += [slope(layer(numbers(4, 6))), F.scaled_dot_product_attention(*[layer(numbers(4, 6))[None]] * 3)]
        scaler.scale(sum(each.float().sum() for each in results)).backward()
        optimizer = torch.optim.SGD(layer.parameters(), 0.0)
        scaler.step(optimizer)
        return [*results, slope.weight.grad]

    # The weight's gradient is a sum of 24 rounded numbers of order 1, the scale 4.
    assert isinstance(assert_stock(call, size=96), list)


# Threads and processes.


def test_backward_in_another_thread(stock: list[Tensor]) -> None:
    results: list[list[Tensor]] = []
    with fastact.enable():
        model, input = network(), numbers(4, 6).requires_grad_()
        output = model(input)
        thread = threading.Thread(target=output.sum().backward)
        thread.start()
        thread.join()
        results.append([output.detach(), input.grad, *(each.grad for each in model.parameters())])
        thread = threading.Thread(target=lambda: results.append(step(network())))
        thread.start()
        thread.join()
    for each in results:
        same(each, stock)


def test_threads_while_another_enables_and_disables(stock: list[Tensor]) -> None:
    fastact.enable()
    done, errors = threading.Event(), []

    def work() -> None:
        try:
            for _ in range(40):
                same(step(network_here()), stock)
        except BaseException as error:
            errors.append(error)

    weights = network().state_dict()

    def network_here() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 6), nn.Sigmoid())
        model.load_state_dict(weights)
        return model

    def toggle() -> None:
        while not done.is_set():
            fastact.enable(only=["relu", "gelu"])
            fastact.disable()

    workers = [threading.Thread(target=work) for _ in range(3)]
    toggler = threading.Thread(target=toggle)
    for thread in (toggler, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    toggler.join()
    assert not errors


def _report(connection, enable: bool) -> None:
    if enable:
        fastact.enable()
    torch.set_num_threads(1)
    output = F.gelu(numbers(4, 6).requires_grad_())
    output.sum().backward()
    connection.send((fastact.is_enabled(), output.grad_fn.name()))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(("method", "enable"), [("fork", False), ("spawn", True)])
def test_processes(method: str, enable: bool) -> None:
    """A forked process inherits what is enabled; a spawned one enables by itself."""
    context = multiprocessing.get_context(method)
    with fastact.enable():
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_report, args=(there, enable))
        process.start()
        assert here.recv() == (True, "GELUBackward")
        process.join()
    assert process.exitcode == 0


class Activated(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[Tensor, bool]:
        with Watch() as watch:
            return F.gelu(torch.full((3,), float(i))), bool(watch.ours)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_data_loader_workers() -> None:
    with fastact.enable():
        loader = torch.utils.data.DataLoader(Activated(), batch_size=2, num_workers=1, multiprocessing_context="fork")
        batches = list(loader)
    assert all(seen.all() for _, seen in batches)
    expected = F.gelu(torch.arange(4.0))[:, None].expand(4, 3)
    torch.testing.assert_close(torch.cat([each for each, _ in batches]), expected, **TOLERANCE[torch.float32])


def test_a_state_dict_and_a_saved_module_are_stock() -> None:
    with fastact.enable():
        model = network()
        buffer = io.BytesIO()
        torch.save(model, buffer)
    assert b"fastact" not in buffer.getvalue()
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert isinstance(loaded[1], nn.ReLU)
