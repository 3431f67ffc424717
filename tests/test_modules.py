"""The modules stand in for torch.nn's wherever those are used."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from cases import DEFAULTS, Case
from torch import nn

import fastact
from fastact import modules
from fastact.catalogue import ACTIVATIONS

CONSTRUCTORS: dict[str, tuple[dict, ...]] = {
    "ReLU": ({}, {"inplace": True}),
    "LeakyReLU": ({}, {"negative_slope": 0.2}, {"inplace": True}),
    "PReLU": ({}, {"num_parameters": 4}, {"init": 0.1}),
    "RReLU": ({}, {"lower": 0.2, "upper": 0.2}, {"inplace": True}),
    "ELU": ({}, {"alpha": 0.5}, {"inplace": True}),
}
MODULES = [
    (name, keywords) for name in modules.__all__ if hasattr(nn, name) for keywords in CONSTRUCTORS.get(name, ({},))
]


def pair(name: str, keywords: dict, device: str) -> tuple[nn.Module, nn.Module]:
    return getattr(fastact, name)(**keywords).to(device), getattr(nn, name)(**keywords).to(device)


def output_and_grads(module: nn.Module, on: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    input = torch.randn(3, 4, 5, device=on, requires_grad=True)
    output = module(input * 1)
    output.square().sum().backward()
    return [output.detach(), input.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize(("name", "keywords"), MODULES, ids=str)
def test_is_a_drop_in(name: str, keywords: dict, device: str, on: str) -> None:
    ours, theirs = pair(name, keywords, on)
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    if name == "RReLU":
        ours.eval(), theirs.eval()
    for a, b in zip(output_and_grads(ours, on), output_and_grads(theirs, on), strict=True):
        torch.testing.assert_close(a, b)


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
    rows = {row.module: row for row in ACTIVATIONS.values()}
    assert set(rows) == set(modules.__all__)
    assert {row.name for row in rows.values()} == set(fastact.functional.__all__)
    for name in rows:
        assert getattr(fastact, name) is getattr(modules, name)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_signature_is_torchs(case: Case) -> None:
    import inspect

    ours = inspect.signature(getattr(fastact.functional, case.activation.name))
    try:
        theirs = inspect.signature(getattr(nn.functional, case.activation.name))
    except ValueError:  # a builtin
        theirs = None
    if theirs is not None:
        assert [(p.name, p.default) for p in ours.parameters.values()] == [
            (p.name, p.default) for p in theirs.parameters.values()
        ]
    assert str(inspect.signature(getattr(fastact, case.activation.module))) == str(
        inspect.signature(getattr(nn, case.activation.module))
    )


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


@pytest.mark.parametrize(("name", "keywords"), MODULES, ids=str)
def test_symbolic_trace(name: str, keywords: dict) -> None:
    ours, theirs = (m.eval() for m in pair(name, keywords, "cpu"))
    graph = torch.fx.symbolic_trace(ours)
    input = torch.randn(2, 4, 3)
    torch.testing.assert_close(graph(input.clone()), theirs(input.clone()))


def compiled_graph(module: nn.Module, input: torch.Tensor) -> list[str]:
    graphs: list[list[str]] = []

    def backend(graph: torch.fx.GraphModule, _):
        # Not the names of the placeholders: they follow those of forward's arguments, which torch spells in many ways.
        calls = [node for node in graph.graph.nodes if node.op.startswith("call_")]
        constants = [[a for a in node.args if not isinstance(a, torch.fx.Node)] for node in calls]
        graphs.append([f"{node.op} {node.target} {c} {node.kwargs}" for node, c in zip(calls, constants, strict=True)])
        return graph.forward

    torch._dynamo.reset()
    torch.compile(module, backend=backend, fullgraph=True)(input)
    (graph,) = graphs
    return graph


@pytest.mark.parametrize(("name", "keywords"), MODULES, ids=str)
def test_compiles_to_the_stock_modules_graph(name: str, keywords: dict) -> None:
    for training in (True, False):
        ours, theirs = (m.train(training) for m in pair(name, keywords, "cpu"))
        input = torch.randn(2, 4, 3)
        assert compiled_graph(ours, input.clone()) == compiled_graph(theirs, input.clone())


@pytest.mark.parametrize("name", ["ReLU", "PReLU", "Tanh"])
def test_export(name: str) -> None:
    ours, theirs = pair(name, {}, "cpu")
    input = torch.randn(2, 4)
    programs = [torch.export.export(nn.Sequential(m), (input,)) for m in (ours, theirs)]
    targets = [[str(node.target) for node in program.graph.nodes] for program in programs]
    assert targets[0] == targets[1]
