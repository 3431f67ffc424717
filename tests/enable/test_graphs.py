"""Where torch makes a graph, torch's ops are in it: the graph is that of a process without fastact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from stock import TOLERANCE, run_by
from torch import Tensor, nn

import fastact

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def graphs() -> tuple[dict[str, object], dict[str, object]]:
    """Those of a process with torch's ops replaced, and of one without fastact."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(HERE / "graphs.py")]
    processes = [
        subprocess.Popen([*command, each], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for each in ("on", "off")
    ]
    made = []
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        made.append(json.loads(out))
    return made[0], made[1]


def test_graphs_are_stock(graphs: tuple[dict[str, object], dict[str, object]]) -> None:
    ours, theirs = graphs
    assert len(theirs) >= 21
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    assert "fastact" not in json.dumps(ours)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(F.gelu(self.linear(x))).softmax(-1)


def test_a_compiled_graph_run_op_by_op_runs_the_kernels() -> None:
    torch.manual_seed(0)
    model, results = Small(), []
    for on in (True, False):
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        input = torch.linspace(-3, 3, 24).view(4, 6).requires_grad_()

        def step(compiled: nn.Module = compiled, input: Tensor = input) -> None:
            output = compiled(input)
            results.append([output.detach(), *torch.autograd.grad(output[:, 0].sum(), input)])

        (fastact.enable if on else fastact.disable)()
        ran = {name for name in run_by(step) if name.startswith("fastact::")}
        names = {"fastact::gelu", "fastact::silu", "fastact::softmax"}
        assert ran == (names | {f"{name}_backward" for name in names} if on else set())
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, **TOLERANCE[torch.float32])


def test_a_graph_made_before_or_after_works_on() -> None:
    """Enabled between compilation, forward and backward."""
    torch.manual_seed(0)
    model, input = Small(), torch.linspace(-3, 3, 24).view(4, 6)
    expected = torch.autograd.grad(model(input)[:, 0].sum(), [*model.parameters()])
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for at_forward in (False, True):
        for at_backward in (False, True):
            (fastact.enable if at_forward else fastact.disable)()
            loss = compiled(input)[:, 0].sum()
            (fastact.enable if at_backward else fastact.disable)()
            for mine, theirs in zip(torch.autograd.grad(loss, [*model.parameters()]), expected, strict=True):
                # A linear layer's gradient sums 4 rows, each a few rounded operations of numbers below 1.
                torch.testing.assert_close(mine, theirs, rtol=0, atol=32 * torch.finfo(torch.float32).eps)
    assert len(torch._dynamo.eval_frame._debug_get_cache_entry_list(Small.forward)) == 1


def test_an_exported_program_runs_the_kernels() -> None:
    model, input = Small().eval(), torch.randn(4, 6)
    expected = model(input)
    with fastact.enable():
        program = torch.export.export(model, (input,)).module()
        ran = run_by(lambda: torch.testing.assert_close(program(input), expected, **TOLERANCE[torch.float32]))
    assert {"fastact::gelu", "fastact::silu", "fastact::softmax"} <= set(ran)


def test_fake_tensors_have_torchs_nodes() -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    with fastact.enable(), FakeTensorMode():
        output = F.relu(torch.empty(3, requires_grad=True))
        assert isinstance(output, FakeTensor)
        assert output.grad_fn.name() == "ReluBackward0"


def test_compiled_autograd() -> None:
    """Which traces fastact's nodes, and calls what their backward calls."""
    torch.manual_seed(0)
    model, input = nn.Sequential(Small(), nn.ReLU(), nn.Sigmoid()), torch.linspace(-3, 3, 24).view(4, 6)
    expected = torch.autograd.grad(model(input)[:, 0].sum(), [*model.parameters()])
    with fastact.enable():
        loss = model(input)[:, 0].sum()
        compile = torch.compile(backend="aot_eager", fullgraph=True)
        with torch._dynamo.compiled_autograd._enable(compile):
            ran = run_by(loss.backward)
    assert {"fastact::gelu_backward", "fastact::relu_backward", "fastact::sigmoid_backward"} <= set(ran)
    for each, theirs in zip(model.parameters(), expected, strict=True):
        # A sum over 4 rows, each a few rounded operations of numbers below 1.
        torch.testing.assert_close(each.grad, theirs, rtol=0, atol=32 * torch.finfo(torch.float32).eps)
