"""`python -m fastact`, end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from cases import needs_nodes

import fastact
from fastact import libraries, ops, thresholds
from fastact.__main__ import main
from fastact.catalogue import ACTIVATIONS
from fastact.coverage import Coverage
from fastact.tools import accuracy, info, tune, validate


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fastact", *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(validate, "_RANDOM_INPUTS", 1 << 12)
    monkeypatch.setattr(validate, "_NUMEL", {"cpu": 1 << 12, "cuda": 1 << 12})


def test_info():
    result = run("info")
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert torch.__version__ in rows["torch"]
    assert ops.instruction_set() in rows["Kernels"]
    assert rows["Bundle"].split() == ["Bundle", "none"]
    assert set(ACTIVATIONS) <= set(rows)
    assert rows["relu"].split()[-2:] == (["aten::relu", "no"] if libraries.HAS_NODES else ["-", "-"])
    assert rows["snake"].split()[-2:] == ["-", "-"]


def test_info_as_json():
    there = os.environ | {"FASTACT_NODES": "python", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "fastact", "info", "--json"]
    told = json.loads(subprocess.check_output(command, text=True, env=there, timeout=120))
    by_python = dict.fromkeys(("Autograd", "Calls"), "")
    assert {**told["environment"], **by_python} == {**info.environment(), **by_python}
    assert told["environment"]["Autograd"] == "nodes in Python (FASTACT_NODES=python asks for them)"
    assert told["environment"]["Compiler"].startswith(("GCC ", "Clang "))
    assert told["variables"] == {name: value for name, value in there.items() if name.startswith("FASTACT_")}
    rows = {row["name"]: row for row in told["activations"]}
    assert set(rows) == set(ACTIVATIONS)
    assert rows["relu"]["saved"] == "mask"
    assert rows["relu"]["replaces"] is None  # which nodes in Python cannot
    assert told["rows_of_torch"]["rows"] == thresholds.choice()[0]


@needs_nodes
def test_info_says_what_is_enabled():
    with fastact.enable(exclude="gelu"):
        rows = {line.split()[0]: line.split() for line in info.report().splitlines() if line}
    assert [rows[name][-1] for name in ("relu6", "gelu", "gelu_tanh", "maxout")] == ["yes", "no", "no", "-"]


def test_info_without_triton(monkeypatch):
    monkeypatch.setattr(info, "triton_is_installed", lambda: False)
    rows = {line.split()[0]: line.split() for line in info.report().splitlines() if line}
    assert rows["Triton"] == ["Triton", "not", "installed"]
    assert "torch" in rows["relu"]


def test_warmup_without_triton(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(SystemExit):
        main(["warmup", "--target", "sm_90"])
    assert "Triton is not installed" in capsys.readouterr().err


def test_info_and_validate_import_nothing_heavy():
    code = "import sys, {}; print(sorted({{'triton', 'matplotlib', 'tqdm', 'numpy'}} & set(sys.modules)))"
    loaded = [
        subprocess.check_output([sys.executable, "-c", code.format(name)], text=True)
        for name in ("torch", "fastact.__main__")
    ]
    assert loaded[0] == loaded[1]


def test_validate(tmp_path):
    file = tmp_path / "results.json"
    result = run("validate", "--activations", "leaky_relu", "softsign", "--json", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [line.split()[:2] for line in result.stdout.splitlines()[2:6]]
    assert rows == [[name, way] for name in ("leaky_relu", "softsign") for way in ("forward", "derivative")]
    results = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert len(results["accuracy"]) == 2 * 2 * 3
    assert all(row["held"] for row in results["accuracy"])
    assert all(row["ratio"] > 0 and row["fraction_of_copy"] > 0 for row in results["throughput"])


@pytest.mark.usefixtures("quick")
def test_validate_fails_where_a_bound_is_broken(monkeypatch, capsys):
    arguments = ["validate", "--activations", "relu", "softsign"]
    assert main(arguments) == 0
    assert "OUT OF BOUNDS" not in capsys.readouterr().out
    monkeypatch.setattr(accuracy, "ROUNDED_ULPS", 0.1)
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "! 0.50 of 0.1 ulp" in out
    assert out.count("OUT OF BOUNDS: softsign") == 4  # forward and derivative of two 16-bit types


@needs_nodes
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["sigmoid", "hardtanh", "softmax"])
def test_what_is_compared_with_is_torchs_own(name, monkeypatch, tmp_path):
    """Also where fastact is enabled: torch's ops run torch's kernels then, for the thread that measures."""
    monkeypatch.setattr(tune, "_STAND_FOR", dict.fromkeys(thresholds.ROWS, (4, 4)))
    monkeypatch.setattr(tune, "cache_file", lambda: tmp_path / "thresholds.json")
    x = torch.randn(5)
    try:
        with fastact.enable(), Coverage() as seen:
            validate.validate([ACTIVATIONS[name]])
            tune.tune(rounds=1)
            assert {row.op.partition("::")[0] for row in seen.rows} == {"fastact"}
            torch.relu(x)
        assert {row.op for row in seen.rows if "::" not in row.op} == {"relu"}
    finally:
        thresholds.apply({})


@pytest.mark.usefixtures("quick")
def test_a_loss_of_speed_is_shown_and_does_not_fail(monkeypatch, capsys):
    right = validate.throughput

    def slow(*arguments):
        return tuple(replace(row, seconds=2 * row.torch_seconds) for row in right(*arguments))

    monkeypatch.setattr(validate, "throughput", slow)
    assert main(["validate", "--activations", "relu"]) == 0
    assert capsys.readouterr().out.count("0.50 (loss)") == 2


@pytest.mark.usefixtures("quick")
def test_progress_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        assert main(["validate", "--activations", "relu"]) == 0
        shown = capsys.readouterr().err
        assert shown.endswith("4 of 4, 0 s left  \n") if terminal else shown == ""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("relu", 4 + 4 + 1 / 8, 4 + 1 / 8 + 4),  # x, y, the bits; grad, the bits, grad_input
        ("sigmoid", 4 + 4, 4 + 4 + 4),
        ("silu", 4 + 4, 4 + 4 + 4),
        ("swiglu", 8 + 4, 4 + 8 + 8),  # of each output two inputs, and two gradients
        ("maxout", 8 + 4 + 1, 4 + 1 + 8),
    ],
)
def test_bytes_moved_for_each_output(name, forward, backward, monkeypatch):
    monkeypatch.setattr(validate, "_seconds", lambda call, device: 1.0)
    moved = [each.bytes_per_element for each in validate.throughput(ACTIVATIONS[name], "cpu")]
    assert moved == [forward, backward]


def test_exhaustive_inputs_are_all_of_float32():
    activation = ACTIVATIONS["tanh"]
    chunks = list(validate.inputs(activation, {}, torch.float32, exhaustive=True))
    ends = [chunk.args[1:] for chunk in chunks]
    assert ends[0][0] == 0
    assert ends[-1][1] == 1 << 32
    assert all(stop == start for (_, stop), (start, _) in pairwise(ends))
    assert chunks[0]()[1].item() == 2.0**-149
    assert chunks[-1]().view(torch.int32)[-1].item() == -1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_validate_says_where_there_is_no_gpu():
    result = run("validate", "--device", "cuda")
    assert result.returncode == 2
    assert "torch sees no GPU" in result.stderr


class TestPlot:
    def test_writes_a_picture(self, tmp_path, capsys):
        file = tmp_path / "curves.svg"
        names = ["relu", "gelu:approximate=tanh", "elu:alpha=0.5", "softplus:beta=3,threshold=5"]
        assert main(["plot", *names, "--range", "-6", "6", "--derivatives", "2", "--out", str(file)]) == 0
        assert file.read_text().startswith("<?xml")
        assert capsys.readouterr() == ("", "")

    def test_draws_what_is_asked_for(self, tmp_path, monkeypatch):
        calls = []
        monkeypatch.setattr("fastact.__main__.plot", lambda *modules, **shown: calls.append((modules, shown)))
        main(["plot", "elu:alpha=0.5", "gelu_tanh", "--range", "-6", "7.5", "--no-overlay", "--out", "a.html"])
        main(["plot", "relu", "--derivatives", "0", "--out", "b.pdf"])
        ((elu, gelu), shown), (_, defaults) = calls
        assert (type(elu), elu.alpha) == (fastact.ELU, 0.5)
        assert (type(gelu), gelu.approximate) == (fastact.GELU, "tanh")
        assert shown == {"derivatives": 1, "range": (-6.0, 7.5), "file": Path("a.html"), "overlay": False}
        assert defaults == {"derivatives": 0, "range": (-5, 5), "file": Path("b.pdf"), "overlay": None}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["rely"], "fastact has no activation named 'rely'; did you mean 'relu'"),
            (["elu:beta=1"], "elu does not take 'beta'; elu takes alpha"),
            (["relu:alpha=1"], "relu does not take 'alpha'; relu takes no arguments"),
            (["elu:alpha"], "'elu:alpha' is none like"),
            (["elu:"], "'elu:' is none like"),
            (["elu:alpha=x"], "ELU(alpha=x) cannot be drawn: elu(): argument 'alpha' (position 2) must be Number"),
            (["softplus:beta=0,threshold=1"], "Softplus(beta=0, threshold=1) cannot be drawn: division by zero"),
            (["hardtanh:min_val=2"], "hardtanh refuses min_val=2"),
            (["relu", "--range", "1", "0"], "range must be two finite numbers, the smaller first, got (1.0, 0.0)"),
            (["relu", "--out", "curves.doc"], "curves.doc: the suffix must be one of"),
            (["relu", "--out", "no/such/folder.svg"], "No such file or directory"),
        ],
    )
    def test_says_what_is_wrong(self, arguments, message, capsys):
        with pytest.raises(SystemExit) as exit:
            main(["plot", "--out", "curves.svg", *arguments])
        assert exit.value.code == 2
        assert message in capsys.readouterr().err

    def test_without_matplotlib(self):
        code = "import sys; sys.modules['matplotlib'] = None; from fastact.__main__ import main; main()"
        command = [sys.executable, "-c", code, "plot", "relu", "--out", "curves.svg"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert result.returncode == 2
        assert "pictures need matplotlib: pip install 'fastact[plot]'" in result.stderr
