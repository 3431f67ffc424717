"""Coverage: what it tells of calls, and that the program never notices."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

import fastact
from fastact import coverage, libraries, ops, thresholds
from fastact.catalogue import ACTIVATIONS, torch_module
from fastact.coverage import Calls, Coverage
from fastact.enable import TORCH_OPS
from fastact.tools.accuracy import bind

pytestmark = pytest.mark.skipif(not libraries.HAS_NODES, reason="torch's ops are seen in C++")


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    before = dict(vars(ops.run))
    yield
    fastact.disable()
    assert vars(ops.run) == before
    assert not coverage._watchers


def _forward(seen: Coverage) -> Calls:
    """The one row that is not backward's."""
    (row,) = [row for row in seen.rows if not row.backward]
    return row


def _line() -> int:
    """The caller's."""
    return sys._getframe(1).f_lineno


# What it tells


@pytest.mark.parametrize("name", TORCH_OPS)
def test_every_op_of_torch_that_enable_replaces(name: str) -> None:
    row, x = ACTIVATIONS[name], torch.randn(64)
    call = bind(row.reference, row, {**row.samples[0], **row.weight_values(0)}, x)
    ways = {}
    for choice in ({"only": name}, {"only": "relu" if name != "relu" else "silu"}, {"only": []}):
        with fastact.enable(**choice), Coverage() as seen:
            call(x.clone().requires_grad_()).sum().backward()
        found = _forward(seen)
        assert (found.calls, found.activation, found.dtype) == (1, name, "float32")
        assert found.op.strip("_") in (TORCH_OPS[name].removeprefix("aten::").strip("_"), name)
        ways[found.why] = found.ran
        ours = [each for each in seen.rows if each.op == f"fastact::{name}_backward" and each.ran]
        assert len(ours) == found.ran or name == "glu"  # whose op of halves has a name of its own
    assert ways == {"": True, "not among those enabled": False, "fastact is not enabled": False}


@pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=lambda row: row.name)
@pytest.mark.parametrize("inference", [False, True])
def test_every_function_of_fastact(row: Any, inference: bool) -> None:
    module = getattr(fastact, row.module)(**row.arguments(dim=1))
    x = torch.randn(3, 4 * row.divisor, 5)
    with torch.inference_mode(inference), Coverage() as seen:
        output = module(x)
    (found,) = [
        row for row in seen.rows if row.op.startswith("fastact::")
    ]  # xIELU's weights have a softplus of torch's
    assert (found.ran, found.why, found.calls, found.elements) == (True, "", 1, output.numel())
    assert (found.activation, found.softmax) == (row.name, row.kind == "softmax")
    assert found.op.startswith(f"fastact::{row.name}")
    assert found.place.module == row.module


class _Subclass(Tensor):
    """With a `__torch_dispatch__` of its own."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> _Subclass:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(lambda each: each.inner if isinstance(each, cls) else each, (args, kwargs or {}))
        return tree_map(lambda each: cls(each) if isinstance(each, Tensor) else each, func(*args, **kwargs))


@pytest.mark.parametrize(
    ("call", "ran", "why"),
    [
        (lambda x: torch.relu(x.int()), False, "dtype int32"),
        (lambda x: torch.tanh(x.to(torch.complex64)), False, "dtype complex64"),
        (lambda x: torch.relu(x.to_sparse()), True, "layout sparse_coo"),
        (lambda x: torch.sigmoid(_Subclass(x)), True, "tensor subclass _Subclass"),
        (lambda x: F.softplus(x, beta=1e30), False, "scalar out of range"),
        (lambda x: torch.sigmoid(x, out=torch.empty(0, dtype=torch.float64)), False, "tensors of two dtypes"),
        (lambda x: torch.sigmoid(x, out=torch.empty(12)[::2]), False, "out of another dtype or layout"),
        (lambda x: torch.relu(torch._neg_view(x)), True, "lazy negative"),
        (lambda x: F.rrelu(x, 0.1, 0.2), True, "arguments that the kernel does not take"),
        (lambda x: torch.func.jvp(torch.tanh, (x,), (x,)), True, "forward-mode gradient"),
        (lambda x: torch.func.grad(lambda x: torch.tanh(x).sum())(x), True, "function transform"),
        (lambda x: torch.vmap(fastact.functional.snake, (0, None))(x, torch.ones(1)), False, "function transform"),
        (lambda x: fastact.functional.bias_act(x[None], x, None, "gelu"), True, ""),
        (lambda x: fastact.functional.relu(x.int()), False, "dtype int32"),
        (lambda x: F.selu(x), True, ""),
        (lambda x: F.glu(x, 0), True, ""),
        (lambda x: torch.jit.script(nn.ReLU())(x), True, ""),
    ],
)
def test_why_a_call_is_torchs(call: Callable[[Tensor], Any], ran: bool, why: str) -> None:
    with fastact.enable(), Coverage() as seen:
        call(torch.randn(6))
    found = _forward(seen)
    assert (found.ran, found.why, found.calls) == (ran, why, 1)


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_rows_that_torch_computes(enabled: bool, name: str) -> None:
    x = torch.randn(256, 40, requires_grad=True)
    thresholds.apply({f"{name} float32": ["32 to 63"]})
    try:
        with fastact.enable(only=name if enabled else []), Coverage() as seen:
            getattr(fastact.functional, name)(x, 1).sum().backward()  # its rows are torch's
            getattr(fastact.functional, name)(x, 0).sum().backward()  # these are not
            if enabled:
                getattr(F, name)(x, 1)
    finally:
        thresholds.apply({})
    faster = "torch computes these softmax rows faster"
    expected = {(f"fastact::{name}", faster), (f"fastact::{name}", "")}
    expected |= {(f"fastact::{name}_backward", faster), (f"fastact::{name}_backward", "")}
    expected |= {(f"_{name}", faster)} if enabled else set()
    assert {(row.op, row.why) for row in seen.rows} == expected
    assert all(row.ran == (not row.why) for row in seen.rows)
    assert seen.share() == seen.share(softmax=True) == (1 / 3 if enabled else 1 / 2)


def test_shares_and_their_words() -> None:
    with Coverage() as seen:
        assert str(seen).startswith("No activation call was seen.\n")
        with fastact.enable(exclude="tanh"):
            torch.relu(torch.ones(60)).tanh_()
            torch.softmax(torch.ones(40), 0)
        F.elu(torch.ones(40))
    assert (seen.share(), seen.share(softmax=True), seen.share(softmax=False)) == (0.5, 1, 60 / 160)
    *rows, end = str(seen).split("\n\n")
    assert end.splitlines()[:3] == [
        "50.0% of activation elements ran fastact's kernels (2 of 4 calls).",
        "Softmax alone 100.0%, all others 37.5%.",
        "20.0% would go to fastact with fastact.enable().",
    ]
    (table,) = rows
    assert [line.split(maxsplit=5)[1:] for line in table.splitlines()[2:4]] == [
        ["relu", "float32", "1", "60", "fastact"],
        ["tanh_", "float32", "1", "60", "torch: not among those enabled"],
    ]


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True)), fastact.SiLU()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.act(x) + F.mish(x)


def test_the_place() -> None:
    net = nn.Sequential(_Block())
    with Coverage() as seen:
        for _ in range(2):
            start = _line()
            torch.tanh(net(torch.randn(2, 6)))
    places = {row.place.module: (row.place.line - start, row.calls) for row in seen.rows}
    body = _Block.forward.__code__.co_firstlineno - start
    assert places == {
        "0.layers.0.1": (body + 2, 2),
        "0.layers.1": (body + 2, 2),
        "0.act": (body + 3, 2),
        "0": (body + 3, 2),
        "": (1, 2),
    }
    assert {row.place.file for row in seen.rows} == {__file__}
    assert f"tools/{Path(__file__).name}:{start + 1} " in str(seen)


def test_a_module_in_no_tree_has_its_class_for_a_name() -> None:
    class Holder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.ReLU()(x)

    with Coverage() as seen:
        Holder()(torch.ones(2))
        nn.ReLU()(torch.ones(2))
    assert {row.place.module for row in seen.rows} == {"ReLU"}


def test_backward_and_its_second() -> None:
    with fastact.enable(), Coverage() as seen:
        x = torch.randn(5, requires_grad=True)
        (gradient,) = torch.autograd.grad(torch.tanh(x).sum(), x, create_graph=True)
        gradient.sum().backward()
    assert {(row.ran, row.why) for row in seen.rows if row.op == "fastact::tanh_backward"} == {
        (True, ""),
        (False, "composed of torch's ops"),
    }


# Who calls


def test_threads_each_count() -> None:
    x = torch.randn(100)
    with fastact.enable(), Coverage() as seen:
        workers = [threading.Thread(target=lambda: [torch.relu(x) for _ in range(50)]) for _ in range(4)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
    assert (_forward(seen).calls, _forward(seen).elements) == (200, 20_000)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_computes_again(reentrant: bool) -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh())
    with fastact.enable(), Coverage() as seen:
        checkpoint(net, torch.randn(2, 6, requires_grad=True), use_reentrant=reentrant).sum().backward()
    calls = {(row.op, row.place.module): row.calls for row in seen.rows}
    assert calls.pop(("fastact::tanh_backward", "")) == calls.pop(("fastact::relu_backward", "")) == 1
    # Unless all of it has to be, no more is computed again than is needed: the Tanh's output is not.
    assert calls == {("relu", "1"): 2, ("tanh", "3"): 1 + reentrant}


def test_coverages_within_each_other_and_again() -> None:
    x = torch.ones(3)
    outer, inner = Coverage(), Coverage()
    torch.relu(x)
    with outer:
        torch.relu(x)
        for _ in range(2):
            with inner:
                torch.relu(x)
                assert _forward(inner).calls == 1, "each block begins anew"
        torch.relu(x)
    torch.relu(x)
    assert [sum(row.calls for row in each.rows) for each in (outer, inner)] == [4, 1]


# The program goes on as it would


@pytest.mark.parametrize("enabled", [False, True])
def test_results_and_nodes_are_the_same(enabled: bool) -> None:
    found: list = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    def everything() -> list:
        torch.manual_seed(0)
        found.clear()
        for row in ACTIVATIONS.values():
            for numel in (24, 240):
                x = torch.randn(2, numel, 3, requires_grad=True)
                ours = getattr(fastact, row.module)(**row.arguments(dim=1))
                for module in (ours, torch_module(row, ours, **row.arguments(dim=1))):
                    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
                        output = module(x)
                    found.extend((output, output.grad_fn.name(), *torch.autograd.grad(output.sum(), x)))
        return list(found)

    with fastact.enable(only=None if enabled else []):
        expected = everything()
        with Coverage():
            seen = everything()
    for a, b in zip(seen, expected, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


class _Ops(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [_Ops, _Functions])
def test_modes_see_what_they_would(mode: type) -> None:
    def step() -> list:
        net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.CELU(), fastact.Snake(), fastact.Softmax(1))
        with mode() as watching:
            net(torch.ones(3, 6)).sum().backward()
            torch.vmap(fastact.functional.squared_relu)(torch.ones(3, 6))
            torch.sigmoid(_Subclass(torch.ones(3)))
        return watching.seen

    with fastact.enable():
        expected = step()
        with Coverage() as seen:
            assert step() == expected
    assert sum(row.calls for row in seen.rows if not row.backward) == 6


def test_no_tensor_is_kept() -> None:
    gone: list = []

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first = weakref.ref(x)
            x = torch.relu(x)
            second = weakref.ref(x)
            x = fastact.functional.gelu(x * 1)
            gc.collect()
            gone.extend((first() is None, second() is None))
            return x

    with fastact.enable(), torch.no_grad(), Coverage() as seen:
        nn.Sequential(nn.Tanh(), Net())(torch.randn(4))
        output = weakref.ref(torch.relu(torch.randn(3)))
        assert output() is None
        assert len(seen.rows) == 4
    assert gone == [False, True]  # the first is the argument, which torch's frames hold


def test_an_error_here_is_none_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("no place")

    monkeypatch.setattr(coverage, "place", fail)
    with fastact.enable(), Coverage() as seen:
        torch.relu(torch.randn(3, requires_grad=True)).sum().backward()
        fastact.functional.relu(torch.randn(3))
    assert seen.rows == []


def test_an_error_of_the_programs_is_its_own() -> None:
    x = torch.ones(3, requires_grad=True)
    with fastact.enable(), Coverage() as seen:
        for call in (lambda: torch.relu_(x), lambda: torch.softmax(x, 3), lambda: fastact.functional.softmax(x, 3)):
            with pytest.raises((RuntimeError, IndexError), match=r"leaf Variable|Dimension out of range"):
                call()
        assert seen.rows == []
        torch.relu(x)
    assert _forward(seen).calls == 1


def test_compiled_graphs_stay_and_are_not_seen() -> None:
    graphs: list = []

    def backend(module: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append([node.target for node in module.graph.nodes if node.op == "call_function"])
        return lambda x: (x,)

    compiled = torch.compile(lambda x: fastact.functional.gelu(torch.relu(x)), backend=backend)
    with fastact.enable(), Coverage() as seen:
        compiled(torch.randn(3))
        torch.export.export(nn.ReLU(), (torch.randn(3),))
    torch._dynamo.reset()
    assert graphs == [[torch.relu, F.gelu]]
    assert seen.rows == []
    assert "torch.compile" in str(seen)


# python -m fastact coverage

_PROGRAM = """
import os, sys
import torch
from helper import act

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return torch.relu(torch.ones(3))

if __name__ == "__main__":
    print("arguments", sys.argv[1:], __name__, sys.modules["__main__"].__file__ == __file__)
    rows = sum(len(each) for each in torch.utils.data.DataLoader(Rows(), num_workers=1))
    print("rows", rows, flush=True)
    act(torch.ones(7, 3))
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    {end}
"""


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(fastact.__file__).parents[1])
    command = [sys.executable, "-m", "fastact", "coverage", *arguments]
    environment = {"PYTHONPATH": root, "PATH": "", "HOME": str(cwd)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment)


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "helper.py").write_text("import torch\n\ndef act(x):\n    return torch.nn.functional.silu(x)\n")

    def write(end: str) -> Path:
        (folder / "program.py").write_text(_PROGRAM.format(end=end))
        return folder / "program.py"

    return write


def test_a_script_with_its_status(program: Callable[[str], Path], tmp_path: Path) -> None:
    path = program("sys.exit(7)")
    result = _run("--exclude", "relu,gelu", str(path), "--epochs", "3", "-m", cwd=tmp_path)
    assert result.returncode == 7, result.stderr
    assert result.stderr == ""
    assert result.stdout.startswith("arguments ['--epochs', '3', '-m'] __main__ True\nrows 4\n\nwhere ")
    (row,) = [line for line in result.stdout.splitlines() if "silu" in line]
    assert row.split() == [f"{tmp_path.name}/programs/helper.py:4", "silu", "float32", "1", "21", "fastact"]


def test_a_script_that_raises(program: Callable[[str], Path], tmp_path: Path) -> None:
    result = _run("--disabled", str(program("raise KeyError('mine')")), cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.endswith("KeyError: 'mine'\n")
    assert "torch: fastact is not enabled" in result.stdout
    assert "100.0% would go to fastact" in result.stdout


def test_a_module(program: Callable[[str], Path], tmp_path: Path) -> None:
    path = program("sys.exit('goodbye')")
    result = _run("--only", "silu", "-m", "program", "-x", cwd=path.parent)
    assert (result.returncode, result.stderr) == (1, "goodbye\n")
    assert "arguments ['-x'] __main__ True" in result.stdout
    assert "100.0% of activation elements" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "there is no nowhere.py"),
        (["--only", "rel", "x.py"], "did you mean 'relu'"),
        (["--only", "softsign", __file__], "torch has no op for softsign"),
        (["--disabled", "--only", "relu", __file__], "without --only"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from fastact.__main__ import main

    with pytest.raises(SystemExit) as exit:
        main(["coverage", *arguments])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
