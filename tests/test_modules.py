"""The modules stand in for torch.nn's wherever those are used."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

import fastact
from fastact import modules
from fastact.catalogue import ACTIVATIONS, Activation, torch_module

CONSTRUCTORS: dict[str, tuple[dict, ...]] = {
    "ReLU": ({}, {"inplace": True}),
    "LeakyReLU": ({}, {"negative_slope": 0.2}, {"inplace": True}),
    "PReLU": ({}, {"num_parameters": 4}, {"init": 0.1}),
    "RReLU": ({}, {"lower": 0.2, "upper": 0.2}, {"inplace": True}),
    "Threshold": ({"threshold": 0.1, "value": -3.0}, {"threshold": 0.0, "value": 1.0, "inplace": True}),
    "Hardtanh": ({}, {"min_val": -2.0, "max_val": 0.5}, {"inplace": True}),
    "ReLU6": ({}, {"inplace": True}),
    "SELU": ({}, {"inplace": True}),
    "CELU": ({}, {"alpha": 0.5}, {"inplace": True}),
    "Hardsigmoid": ({}, {"inplace": True}),
    "Hardshrink": ({}, {"lambd": 1.5}),
    "SiLU": ({}, {"inplace": True}),
    "GELU": ({}, {"approximate": "tanh"}),
    "Mish": ({}, {"inplace": True}),
    "Hardswish": ({}, {"inplace": True}),
    "Softplus": ({}, {"beta": 2.0, "threshold": 5.0}),
    "Softshrink": ({}, {"lambd": 1.5}),
    "ELU": ({}, {"alpha": 0.5}, {"inplace": True}),
    "GLU": ({}, {"dim": 1}),
    "GEGLU": ({}, {"approximate": "tanh", "dim": 1}),
    "ReGLU": ({}, {"dim": 1}, {"gate_first": True}),
    "Maxout": ({"pieces": 2}, {"pieces": 4, "dim": 1}),
    "Softmin": ({"dim": 1}, {"dim": -1}),
    "Softmax": ({"dim": 1}, {"dim": -1}),
    "LogSoftmax": ({"dim": 1}, {"dim": -1}),
}
ROWS = {name: row for row in reversed(ACTIVATIONS.values()) for name in (row.module, *row.further_modules)}
MODULES = [(name, keywords) for name in modules.__all__ if name in ROWS for keywords in CONSTRUCTORS.get(name, ({},))]
STOCK = [(name, keywords) for name, keywords in MODULES if name in ROWS[name].twins]


def test_every_activation_of_torch_has_its_twin() -> None:
    """So that one which a later torch brings is noticed."""
    torchs = set(nn.modules.activation.__all__) - {"MultiheadAttention"}
    assert torchs <= {name for name, _ in STOCK}


def pair(name: str, keywords: dict, device: str) -> tuple[nn.Module, nn.Module]:
    ours, row = getattr(fastact, name)(**keywords), ROWS[name]
    theirs = getattr(nn, name)(**keywords) if name in row.twins else torch_module(row, ours, **keywords)
    return ours.to(device), theirs.to(device)


def output_and_grads(module: nn.Module, on: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    input = torch.randn(3, 4, 6, device=on, requires_grad=True)
    output = module(input * 1)
    output.square().sum().backward()
    return [output.detach(), input.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize(("name", "keywords"), STOCK, ids=str)
def test_is_a_drop_in(name: str, keywords: dict) -> None:
    ours, theirs = pair(name, keywords, "cpu")
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)


@pytest.mark.parametrize(("name", "keywords"), MODULES, ids=str)
def test_gives_what_torch_gives(name: str, keywords: dict, device: str, on: str) -> None:
    ours, theirs = pair(name, keywords, on)
    if name == "RReLU":
        ours.eval(), theirs.eval()
    for a, b in zip(output_and_grads(ours, on), output_and_grads(theirs, on), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.only("cpu", "cuda")  # the emulated GPU does not know the memory of tensors that come from files
@pytest.mark.parametrize(("name", "keywords"), MODULES, ids=str)
def test_copies_and_pickles(name: str, keywords: dict, device: str, on: str) -> None:
    module = pair(name, keywords, on)[0].eval()
    expected = output_and_grads(module, on)
    module.zero_grad()
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
    ):
        assert type(twin) is type(module)
        for a, b in zip(output_and_grads(twin, on), expected, strict=True):
            assert torch.equal(a, b)


def test_every_module_has_its_function_and_row() -> None:
    assert set(ROWS) == set(modules.__all__) - {"MaxoutLinear"}
    assert all(callable(getattr(fastact.functional, row.function)) for row in ROWS.values())
    for name in ROWS:
        assert getattr(fastact, name) is getattr(modules, name)


@pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=lambda row: row.name)
def test_signature_is_torchs(row: Activation) -> None:
    ours = inspect.signature(getattr(fastact.functional, row.function))
    try:
        theirs = inspect.signature(row.stock_function or row.reference)
    except ValueError:  # a builtin
        theirs = None
    if theirs is not None:
        assert [(p.name, p.default) for p in ours.parameters.values()] == [
            (p.name, p.default) for p in theirs.parameters.values()
        ]
    if row.stock:
        assert str(inspect.signature(getattr(fastact, row.module))) == str(inspect.signature(row.stock))


def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Sequential(nn.PReLU(4), nn.ELU()), nn.Flatten(), nn.Linear(16, 3)
    )


def test_convert_and_revert_in_place() -> None:
    net = model()
    calls = []
    net[1].register_forward_hook(lambda *_: calls.append("hook"))
    net.eval()
    input = torch.randn(2, 1, 4, 4)
    expected, parameters, modules = net(input), list(net.parameters()), list(net.modules())
    calls.clear()

    assert fastact.convert(net) is net
    assert [type(m) for m in (net[1], net[2][0], net[2][1])] == [fastact.ReLU, fastact.PReLU, fastact.ELU]
    assert type(net[0]) is nn.Conv2d
    torch.testing.assert_close(net(input), expected)
    assert calls == ["hook"]
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    assert not net[1].training
    assert net[1].inplace

    fastact.revert(net)
    assert [type(m) for m in net.modules()] == [type(m) for m in model().modules()]
    assert type(fastact.convert(nn.Tanh())) is fastact.Tanh


def test_convert_leaves_subclasses_alone() -> None:
    class Mine(nn.ReLU):
        def forward(self, input):
            return input + 1

    assert type(fastact.convert(nn.Sequential(Mine()))[0]) is Mine


@pytest.mark.parametrize(("name", "keywords"), MODULES, ids=str)
def test_torchscript_and_tracing(name: str, keywords: dict, on: str, device: str) -> None:
    ours, theirs = (m.eval() for m in pair(name, keywords, on))
    net = nn.Sequential(nn.Linear(4, 4).to(on), ours).eval()
    input = torch.randn(2, 4, 4, device=on)
    scripted = torch.jit.script(net)
    torch.testing.assert_close(scripted(input), net(input))
    assert type(net[1]) is type(ours), "scripting must not change the model"
    torch.testing.assert_close(torch.jit.trace(ours, input.clone())(input.clone()), theirs(input.clone()))


# In composites of learned tensors, the tensors' sizes choose between branches.
@pytest.mark.parametrize(("name", "keywords"), [m for m in MODULES if m in STOCK or not ROWS[m[0]].weights], ids=str)
def test_symbolic_trace(name: str, keywords: dict) -> None:
    ours, theirs = (m.eval() for m in pair(name, keywords, "cpu"))
    try:
        torch.fx.symbolic_trace(theirs)
    except torch.fx.proxy.TraceError:
        return  # torch's cannot be traced either
    optional = {name: None for name in inspect.signature(ours.forward).parameters if name != "input"}
    graph = torch.fx.symbolic_trace(ours, concrete_args=optional)
    input = torch.randn(2, 4, 6)
    torch.testing.assert_close(graph(input.clone()), theirs(input.clone()))


def constants(node: torch.fx.Node) -> dict:
    """The arguments of a call that are no tensors, by name where the function has names."""
    arguments, keywords = enumerate(node.args), node.kwargs
    with contextlib.suppress(TypeError, ValueError):  # methods and builtins
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
        bound.apply_defaults()
        arguments, keywords = (), bound.arguments
    return {name: a for name, a in (*arguments, *keywords.items()) if not isinstance(a, torch.fx.Node)}


def compiled_graph(module: nn.Module, input: torch.Tensor) -> list[str]:
    graphs: list[list[str]] = []

    def backend(graph: torch.fx.GraphModule, _):
        # Not the names of the placeholders: they follow those of forward's arguments, which torch spells in many ways.
        calls = [node for node in graph.graph.nodes if node.op.startswith("call_")]
        graphs.append([f"{node.op} {node.target} {constants(node)}" for node in calls])
        return graph.forward

    torch._dynamo.reset()
    torch.compile(module, backend=backend, fullgraph=True)(input)
    (graph,) = graphs
    return graph


@pytest.mark.parametrize(("name", "keywords"), MODULES, ids=str)
def test_compiles_to_the_stock_modules_graph(name: str, keywords: dict) -> None:
    for training in (True, False) if name == "RReLU" else (True,):
        ours, theirs = (m.train(training) for m in pair(name, keywords, "cpu"))
        input = torch.randn(2, 4, 6)
        assert compiled_graph(ours, input.clone()) == compiled_graph(theirs, input.clone())


@pytest.mark.parametrize("name", ["ReLU", "PReLU", "Tanh"])
def test_export(name: str) -> None:
    ours, theirs = pair(name, {}, "cpu")
    input = torch.randn(2, 4)
    programs = [torch.export.export(nn.Sequential(m), (input,)) for m in (ours, theirs)]
    targets = [[str(node.target) for node in program.graph.nodes] for program in programs]
    assert targets[0] == targets[1]
