"""The benchmark's arithmetic, on figures made by hand, and one row really measured. Nothing here asserts a speed."""

from __future__ import annotations

import copy
import gc
import json
import os
import re
import sys
from collections import Counter
from importlib.util import find_spec
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import batch_norm
import enabled
import environment
import exhaustive
import gpu_smoke
import host
import instructions
import l1
import measure
import memory
import models
import monitor
import numpy as np
import page_faults
import pytest
import report
import run
import test_speed
import torch
import zoo

import fastact
from fastact import ops
from fastact.catalogue import ACTIVATIONS
from fastact.tools import accuracy

ROOT = Path(__file__).parents[2]


def _row(activation: str, ours: float, peer: float, **changes: Any) -> dict[str, Any]:
    info = {
        "activation": activation,
        "level": "op",
        "direction": "backward",
        "passes": "",
        "dtype": "float32",
        "numel": 1000,
        "layout": "contiguous",
        "threads": 1,
        "seconds": ours,
        "rounds": 7,
        "moved_bytes": 12000,
        "saved_bytes": 125,
        "peak_bytes": None,
        "peers": [
            {
                "peer": "aten.x",
                "seconds": peer,
                "ratio_quartiles": [0.9 * peer / ours, 1.1 * peer / ours],
                "saved_bytes": 4000,
                "peak_bytes": None,
            }
        ],
        "limits": {"copy": {"seconds": 1e-6, "bytes": 8000}, "stream": {"seconds": 2e-6, "bytes": 12000}},
    }
    return info | changes


@pytest.fixture
def raw() -> dict[str, Any]:
    return {
        "environment": {
            "device": "cpu",
            "hardware": {"cpu": "Some(R) CPU @ 2GHz", "cores": 2, "threads": 2, "instruction_set": "avx2"},
            "versions": {"python": "3.11", "torch": "2.13", "triton": None, "fastact": "0.1"},
            "date": "2026-01-02 03:04 UTC",
            "commit": None,
            "load_average_before": 0.0,
        },
        "rows": [
            _row("tanh", ours=3e-6, peer=6e-6),
            _row("relu", ours=4e-6, peer=3e-6),
            _row("elu", ours=4e-6, peer=1e-6),
            _row("elu", ours=2e-6, peer=8e-6, level="module", direction="both", threads=2, numel=1 << 20),
        ],
        "missing": [{"row": "rrelu", "why": "out of time"}],
    }


def test_figures(raw: dict[str, Any]) -> None:
    summary = report.summarise(raw)
    row = summary["rows"][0]
    assert (row["ns"], row["peer_ns"], row["ratio"]) == pytest.approx((3000, 6000, 2))
    # 12,000 bytes in 3 µs are 4 GB/s; the copy ran at 8 GB/s, two reads and a write at 6.
    assert row["fraction_of_copy"] == pytest.approx(0.5)
    assert row["fraction_of_stream"] == pytest.approx(4 / 6)
    assert row["saved_bytes_per_element"] == pytest.approx(0.125)
    assert row["peer_saved_bytes_per_element"] == pytest.approx(4)
    assert summary["environment"]["copy_gb_per_s"]["4000 bytes, 1 threads"] == pytest.approx(8)


def test_losses_come_first(raw: dict[str, Any]) -> None:
    summary = report.summarise(raw)
    assert [row["activation"] for row in report.losses(summary["rows"])] == ["elu", "relu"]
    text = report.report(summary)
    assert text.index("## Where fastact loses") < text.index("**0.25**") < text.index("**0.75**")
    assert text.index("**0.75**") < text.index("## By activation") < text.index("## All rows")
    assert "`rrelu`: out of time" in text
    names = [line.split(" | ")[0].strip("| ") for line in report.short_table(summary).splitlines()[2:]]
    slow_torch = "*geometric mean, torch at half a copy's speed or less*"
    assert names == ["*geometric mean*", slow_torch, "elu", "relu", "tanh"]
    mean, of_slow = (line.split(" | ") for line in report.short_table(summary).splitlines()[2:4])
    assert mean[1:3] == ["**0.72**", "4.00"]  # of 2, 0.75 and 0.25; of ELU's module alone
    assert of_slow[1:3] == ["1.22 (2)", "4.00 (1)"]  # not ELU forward: torch's takes less than a copy


def test_instructions_stand_beside_the_times(raw: dict[str, Any]) -> None:
    counted = [{"activation": "tanh", "direction": "backward", "instructions_per_element": {"avx2": 1.25, "avx512": 9}}]
    summary = report.summarise(raw)
    report.add_instructions(summary, counted)
    rows = {row["activation"]: row for row in summary["rows"]}
    assert (rows["tanh"]["instructions_per_element"], rows["relu"]["instructions_per_element"]) == (1.25, None)
    assert "| 1.25 |" in report.report(summary)


def test_how_threads_scale(raw: dict[str, Any]) -> None:
    assert "## Threads" not in report.report(report.summarise(raw))
    raw["rows"].append(_row("elu", ours=3e-6, peer=1e-5, level="module", direction="both", threads=1, numel=1 << 20))
    lines = report.report(report.summarise(raw)).partition("## Threads")[2].splitlines()
    assert lines[6] == "| elu | 1.50 | 1.25 |"


def test_rows_outlast_a_run_that_is_cut_off(raw: dict[str, Any], tmp_path: Path) -> None:
    """They are in a file, the last perhaps in part; an older summary beside them is not theirs."""
    lines = [
        {"environment": raw["environment"]},
        *({"row": row} for row in raw["rows"]),
        {"missing": raw["missing"][0]},
    ]
    environment.write_result(tmp_path, "summary", report.summarise(raw | {"rows": raw["rows"][:1]}))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*map(json.dumps, lines), json.dumps(lines[1])[:40]]))
    os.utime(tmp_path / "summary.json", (0, 0))
    assert report.read(file) == raw
    assert report.load(tmp_path) == report.summarise(raw)


def stages() -> list[tuple[int, str]]:
    """Of bench/gpu.sh: the limit of each, and its command."""
    script = (ROOT / "bench" / "gpu.sh").read_text().replace("\\\n", " ")
    return [(int(limit), rest) for limit, rest in re.findall(r"\bstage \S+ (\d+) (.*)", script)]


def test_the_stages_on_a_gpu_fit_its_visit() -> None:
    limits = [limit * (1 + ("$tool" in command)) for limit, command in stages()]
    assert len(limits) > 10
    # "rest" has what the others leave.
    assert sum(limits) - max(limits) <= 535


@pytest.mark.parametrize("quick", [False, True])
def test_rows_on_a_gpu(quick: bool) -> None:
    """Each has a name of its own, and each part that a stage measures has rows."""
    rows = [*test_speed.cuda_rows(quick)]
    assert len({*map(str, rows)}) == len(rows)
    parts = {row.part for row in rows}
    expressions = [found[1] for _, command in stages() if (found := re.search(r'-k\s+"([^"$]*)', command))]
    asked = {*re.findall(r"\w+", " ".join(expressions))} - {"or", "and", "not", "squared_relu", "float16"}
    assert asked >= parts
    assert quick or asked == parts
    for part in parts:  # which no other word of a name holds
        assert all((part in str(row)) == (row.part == part) for row in rows)


def test_host_times(raw: dict[str, Any]) -> None:
    """The one furthest from its goal comes first."""
    call = lambda: None  # noqa: E731
    rows = [host.Row(name, "function", passes, call, call) for name, passes in (("b", "both"), ("a", "forward"))]
    for row, ours in zip(rows, (6.0, 5.5), strict=True):
        row.best.update(fastact=ours, torch=1.25)
    text = host.report(raw["environment"], host.results(rows))
    assert "1 of 2 rows miss their goal" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert lines == [
        "| a | function | forward | 5.50 | 1.25 | **+4.25** | 4 |",
        "| b | function | both | 6.00 | 1.25 | +4.75 | 5 |",
    ]


def test_host_calls_are_torchs_and_ours() -> None:
    """Each row computes one thing in two ways."""
    for row in host.rows("cpu"):
        results = [each if isinstance(each, tuple) else (each,) for each in (row.fastact(), row.torch())]
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected)


def test_a_wrong_kernel_is_seen() -> None:
    a, b = torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([1.0, float("nan"), 3.5])
    assert gpu_smoke.difference(a, a, 1e-6)[0] == 0
    found, where = gpu_smoke.difference(b, a, 0.0625)
    assert (found, where) == (2.0, "element 2 is 3.5, on the CPU 3")
    assert gpu_smoke.difference(a, b[:2], 1)[0] == gpu_smoke.difference(a, torch.zeros(3), 1)[0] == float("inf")


def test_what_goes_wrong_on_a_gpu_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an error is raised, a number is off, or torch's op took a kernel's place."""
    is_right, line = gpu_smoke.check(("relu", "float32"), "cpu", ((2, 3),))
    assert (is_right, line.split()[:3]) == (True, ["ok", "relu", "float32"])
    results = gpu_smoke.results

    def fail(*_: Any) -> None:
        raise RuntimeError("no luck\nat all")

    def miss(*arguments: Any) -> list[torch.Tensor]:
        gpu_smoke.MISSING.append("no kernel")
        return results(*arguments)

    def add(*arguments: Any) -> list[torch.Tensor]:
        calls.append(arguments)
        output, *gradients = results(*arguments)
        return [output + (len(calls) % 2), *gradients]

    calls: list[Any] = []
    for broken, text in ((fail, "RuntimeError: no luck"), (miss, "no kernel"), (add, "2x3, output: element ")):
        monkeypatch.setattr(gpu_smoke, "results", broken)
        is_right, line = gpu_smoke.check(("relu", "float32"), "cpu", ((2, 3),))
        assert not is_right
        assert line.startswith("WRONG  relu")
        assert text in line


def test_page_faults() -> None:
    calls = {name: {"ms": 1.25, "page_faults": 16384} for name in page_faults.CALLS}
    text = page_faults.report(dict.fromkeys(page_faults.SETTINGS, calls), environment.environment("cpu"))
    assert "| as it is | nothing | 1.2 ms, 16,384 faults |" in text
    assert "| huge pages, by glibc | `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` |" in text


def test_instructions_are_counted_in_the_inner_loop() -> None:
    code = [
        "push %rbp", "mov %rsp,%rbp", "vmovaps %ymm1,-0x20(%rbp)", "vmulps %ymm0,%ymm0,%ymm1",
        "vmovups %ymm1,(%rdi)", "add $0x20,%rdi", "jne 3", "cmp %rax,%rdi", "jne 1",
    ]  # fmt: skip
    assert instructions.per_element(list(enumerate(code))) == 4 / 8
    looked_up = [
        *code,
        "vpermps %ymm2,%ymm3,%ymm1", "vmovups %ymm1,(%rdi)", "vmovups %ymm1,0x20(%rdi)", "jne 9",
    ]  # fmt: skip
    assert instructions.per_element(list(enumerate(looked_up))) == 4 / 16  # beyond the table takes longer


def test_the_docs_block_is_replaced(raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment.write_result(tmp_path, "summary", report.summarise(raw))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nformer figures\n{report.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "--table", str(page)])
    report.main()
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "former" not in text
    assert report.short_table(report.summarise(raw)) in text
    assert (tmp_path / "roofline.png").stat().st_size > 1000
    assert json.loads((tmp_path / "summary.json").read_text()) == report.summarise(raw)

    older = tmp_path / "older"
    older.mkdir()
    info = raw["environment"] | {"date": "2001-01-01 00:00 UTC"}
    environment.write_result(older, "summary", report.summarise(raw | {"environment": info}))
    monkeypatch.setattr(sys, "argv", ["report.py", str(older), str(tmp_path), "--table", str(page)])
    report.main()
    latest, _, folded = page.read_text().partition("<details")
    assert report.short_table(report.summarise(raw)) in latest
    assert "2001-01-01" in folded
    assert "2001-01-01" not in latest


def test_committed_tables_are_those_of_the_committed_summaries() -> None:
    folders = [path.parent for path in environment.RESULTS.glob("*/summary.json")]
    summaries = {folder: report.load(folder) for folder in folders}
    for folder, summary in summaries.items():
        assert (folder / "report.md").read_text() == report.report(summary), "run bench/report.py"
    page = (ROOT / "docs" / "op-benchmark.md").read_text()
    assert report.replace_block(page, report.tables(summaries.values())) == page, "run bench/report.py"


@pytest.mark.parametrize("count", range(1, 7))
def test_contenders_follow_each_other_equally_often(count: int) -> None:
    orders = measure.balanced_orders(count)
    followers = Counter(pair for order in orders for pair in pairwise(order))
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert set(followers) == set(permutations(range(count), 2))
    assert len(set(followers.values())) <= 1
    firsts = Counter(order[0] for order in orders)
    assert len(firsts) == count
    assert len(set(firsts.values())) == 1


def test_contenders_take_turns() -> None:
    order = []

    def meter(name: str, seconds: float) -> measure.Meter:
        return lambda: order.append(name) or seconds

    race = measure.Race({"a": meter("a", 1.0), "b": meter("b", 3.0)}, seconds=0).run()
    assert order == ["a", "b", *["a", "b", "b", "a"] * 3]
    assert race.rounds == 6 >= measure.FEWEST_ROUNDS
    assert race.ratio("b", to="a") == 3
    assert race.ratio_quartiles("b", to="a") == [3, 3]
    race.times = {"a": [1, 1, 4], "b": [2, 8, 8]}  # the machine slows down meanwhile
    assert race.ratio("b", to="a") == 2


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_cases_come_from_the_catalogue(name: str) -> None:
    """The op of fastact and the op of torch that a row compares compute the same, in both directions."""
    activation = ACTIVATIONS[name]
    case = measure.Case(activation, torch.float32, 2048)
    assert case.output.numel() == 2048
    if not activation.random:
        torch.testing.assert_close(case.module(case.input), case.output)
    for direction in ("forward", "backward") if activation.pointwise else ():
        ours, moved = case.raw_op(direction, keep_mask=False)
        assert moved >= case.input.nbytes + case.output.nbytes
        theirs = case.aten_op(direction).call
        if not activation.random:
            results = [x if isinstance(x, torch.Tensor) else x[0] for x in (ours(), theirs())]
            torch.testing.assert_close(*results)
    assert case.saved(case.module).total <= case.saved(case.stock).total


def tables_written(text: str) -> dict[str, Any]:
    scope: dict[str, Any] = {"__package__": "fastact"}
    exec(text, scope)
    return scope


def test_a_row_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run.py", "--quick", "--seconds=0.01", f"--out={tmp_path}", "-k", "leaky_relu-op-forward-float32"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("PYTHONPATH", str(Path(fastact.__file__).parents[1]))
    assert run.main() == 0
    (folder,) = tmp_path.iterdir()
    (row,) = json.loads((folder / "summary.json").read_text())["rows"]
    assert (row["activation"], row["direction"], row["peer"]) == ("leaky_relu", "forward", "aten.leaky_relu")
    assert row["rounds"] >= measure.FEWEST_ROUNDS
    assert row["ns"] > 0
    assert row["ratio"] == pytest.approx(row["peer_ns"] / row["ns"])
    assert "| leaky_relu |" in capsys.readouterr().out


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXXFLAGS", "-O0")  # compiles in a third of the time
        return exhaustive.build(tmp_path_factory.mktemp("exhaustive"))


# Around 1, where tails begin, and the last finite numbers, infinity and NaN.
PATTERNS = [(0x3F800000, 0x3F802000), (0xC1900000, 0xC1902000), (0x7F7FF000, 0x7F801000)]


# Two truths in float64, each to a few tens of its ULPs, in float32's.
TRUTHS_APART = 64 * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps


@pytest.mark.parametrize("patterns", PATTERNS, ids=[hex(first) for first, _ in PATTERNS])
@pytest.mark.parametrize("name", ["hardsigmoid", "gelu", "softplus", "elu", "celu", "star_relu", "xielu", "geglu"])
def test_exhaustive_errors_are_those_of_the_tests(program: Path, name: str, patterns: tuple[int, int]) -> None:
    activation = ACTIVATIONS[name]
    rows = exhaustive.of_formula(program, name, patterns)
    x = accuracy.bit_patterns(torch.float32, *patterns)
    expected = accuracy.measure(activation, accuracy.samples(activation)[0], x)
    for row, each in zip(rows, expected, strict=True):
        assert (row["direction"], row["bound"], row["sample"]) == (each.direction, each.bound, each.sample)
        assert row["errors"][ops.instruction_set()] == pytest.approx(each.error, abs=TRUTHS_APART)
        assert row["error_of_truth"] < TRUTHS_APART


def test_exhaustive_errors_of_slices(program: Path) -> None:
    first, middle, last = 0x3F800000, 0x3F801000, 0x3F803000
    whole, *slices = (
        exhaustive.of_formula(program, "gelu", each) for each in [(first, last), (first, middle), (middle, last)]
    )
    assert exhaustive.merge(slices) == whole
    for row in slices[1]:
        row["held"] = False
    assert not any(row["held"] for row in exhaustive.merge(slices))


def test_exhaustive_errors_and_their_table(program: Path) -> None:
    found = {
        "relu": exhaustive.of_torch("relu", PATTERNS[2]),
        "silu": exhaustive.of_formula(program, "silu", PATTERNS[0]),
    }
    found["silu"][0]["errors"][ops.instruction_set()] = 7.0
    found["silu"][0]["held"] = False
    where = environment.environment("cpu")
    text = exhaustive.report({name: {"environment": where, "rows": rows} for name, rows in found.items()})
    (line,) = [line for line in text.splitlines() if line.startswith("| silu() | forward")]
    assert "| 7.000 |" in line
    assert "| 2 ulp (!) |" in line
    assert text.endswith("in: relu() forward, relu() derivative.\n")


def test_results_say_what_the_libraries_were_held_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.LIMITS:
        monkeypatch.delenv(name, raising=False)
    free = environment.environment("cpu")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    held = environment.environment("cpu")
    assert held["hardware"]["held_to"] == "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2"
    assert "held_to" not in free["hardware"]
    instructions = ops.instruction_set()
    assert environment.name_of(held) == environment.name_of(free).replace(instructions, f"held to {instructions}")


@pytest.fixture(scope="module")
def measured_models() -> dict[str, Any]:
    """Of the models that need torch alone."""
    names = ("MLP, GELU", "MLP, LeakyReLU")
    *_, result = models.run([zoo.MODELS[name] for name in names], ["stock", "converted"], "tiny", 4, "cpu")
    return result


def test_models_are_measured(measured_models: dict[str, Any]) -> None:
    """Kernels that save bits show in what a whole model keeps."""
    gelu, leaky_relu = measured_models["rows"]
    hidden = 4 * 16 * 128 * 4  # four layers' activations
    assert gelu["kept_bytes"]["converted"] == gelu["kept_bytes"]["stock"]
    assert leaky_relu["kept_bytes"]["stock"] - leaky_relu["kept_bytes"]["converted"] == hidden - hidden // 32
    for row in (gelu, leaky_relu):
        reached = {mode: row["coverage"][mode]["activations"] for mode in ("stock", "converted")}
        assert reached["converted"] == {"elements": 2 * hidden // 4, "share": 1}  # forward and backward
        assert reached["stock"] == {"elements": 2 * hidden // 4, "share": 0}
        assert row["step"]["stock"]["ratio"] == 1
        low, high = row["step"]["converted"]["ratio_quartiles"]
        assert 0 < low <= high
    assert leaky_relu["difference"]["converted"] == {"output": 0, "gradient": 0}
    assert 0 < gelu["difference"]["converted"]["gradient"] < 1e-5


def test_a_model_that_fails_to_compile_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> None:
        raise RuntimeError("no compiler")

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile(module, backend=fail))
    (result,) = models.run([zoo.MODELS["MLP, GELU"]], ["stock", "converted", "compiled"], "tiny", 4, "cpu")
    assert [*result["rows"][0]["step"]] == ["stock", "converted"]
    assert "- MLP, GELU, compiled: " in models.report(result)


def test_ops_are_counted_once() -> None:
    """Composites, ops in place, ops that save bits, and softmax apart."""
    x = torch.randn(4, 8, requires_grad=True)
    with models.Count() as count:
        y = torch.nn.functional.selu(x)
        torch.nn.functional.relu_(y * 1)
        fastact.functional.relu(x * 1, inplace=True)
        fastact.functional.softmax(x, -1).sum().backward()
        torch.nn.functional.softmax(x, -1)
    assert count.elements == {
        "aten.elu": 32, "aten.relu_": 32, "fastact.relu_mask_": 32, "fastact.softmax": 32,
        "fastact.softmax_backward": 32, "aten._softmax": 32,
    }  # fmt: skip
    found = models.coverage(count.elements)
    assert found["activations"] == {"elements": 96, "share": 1 / 3}
    assert found["softmax"] == {"elements": 96, "share": 2 / 3}
    assert found["left_to_torch"] == {"aten.elu": 32, "aten.relu_": 32, "aten._softmax": 32}
    names = ("relu_", "gelu_backward", "_softmax_backward_data", "_prelu_kernel_backward", "threshold")
    assert [*map(models.base_name, names)] == ["relu", "gelu", "_softmax", "_prelu_kernel", "threshold"]


def test_tables_of_models(measured_models: dict[str, Any]) -> None:
    """Losses first, means at the top, what was not measured, and all of it between the markers."""
    result = copy.deepcopy(measured_models)
    for row, ratio in zip(result["rows"], (1.25, 0.8), strict=True):
        row["step"]["converted"] |= {"ratio": ratio, "ratio_quartiles": [0.9 * ratio, 1.1 * ratio]}
    result["rows"][0]["coverage"]["converted"]["activations"]["share"] = 0.99999
    result["missing"] = [{"model": "resnet18", "why": "timm is not installed"}]
    _, _, mean, *lines = models.short_table(result["rows"]).splitlines()
    assert mean.startswith("| *geometric mean* | 1.00 |")
    assert [line.split(" | ")[:2] for line in lines] == [["| MLP, LeakyReLU", "**0.80**"], ["| MLP, GELU", "1.25"]]
    assert [line.split(" | ")[-1] for line in lines] == ["100% |", "99.9% |"]
    text = models.report(result)
    assert "- resnet18: timm is not installed" in text
    assert "| converted | " in text
    assert "**0.80** | 0.72 to 0.88 |" in text

    older = result | {"environment": result["environment"] | {"date": "2001-01-01 00:00 UTC"}}
    short, full = (" outdated ".join(report.markers(name)) for name in ("models", "models-in-full"))
    page = f"a\n{short}\nb\n{full}\n"
    filled = models.with_tables(page, [older, result])
    latest, _, folded = filled.partition("<details")
    assert filled.startswith("a\n<!-- models:begin -->\nMeasured on ")
    assert "outdated" not in filled
    assert models.short_block(result) in latest
    assert "2001-01-01" in folded
    assert models.long_block(result) in folded
    assert "Not measured yet" in models.with_tables(page, [])


def test_committed_tables_are_those_of_the_committed_models() -> None:
    for result in models.committed():
        folder = environment.RESULTS / environment.folder_of(result["environment"])
        assert (folder / "models.md").read_text() == models.report(result), "run bench/models.py"
    page = ROOT / "docs" / "model-benchmark.md"
    text = page.read_text()
    assert models.with_tables(text, models.committed()) == text, f"run bench/models.py --tables {page.name}"


TOKENS, WIDTH, HIDDEN = 128, 32, 96
NARROW, WIDE = 4 * TOKENS * WIDTH, 4 * TOKENS * HIDDEN  # bytes of a layer's input, and of each tensor within; >= 16 KiB


@pytest.fixture(scope="module")
def measured_memory() -> dict[str, Any]:
    """Of two gated MLPs."""

    def build(size: zoo.Size) -> zoo.Network:
        layers = torch.nn.Sequential(zoo.GatedMLP(WIDTH, HIDDEN), zoo.GatedMLP(WIDTH, HIDDEN))
        return zoo.Network(layers, {"input": torch.randn(TOKENS, WIDTH)}, zoo._distance)

    model = zoo.Model("gated MLPs", "torch", build)
    methods = [name for name in memory.METHODS if not name.startswith(("compile", "torch_remat"))]
    *_, result = memory.run([model], methods, "tiny", 4, memory.surroundings(), [])
    return result


def test_kept_bytes_are_those_of_the_tensors(measured_memory: dict[str, Any]) -> None:
    """Of a gated MLP torch keeps its input, the gate before and after SiLU, the other projection, and their product."""
    (row,) = measured_memory["rows"]
    assert not row["failed"]
    loss = 2 * NARROW + 4  # the output and what it is compared with, and the loss
    kept = row["kept_bytes"]
    assert kept["torch eager"] == 2 * (NARROW + 4 * WIDE) + loss
    assert kept["fastact"] == 2 * (NARROW + 3 * WIDE) + loss
    assert kept["fastact, recompute"] == 2 * (NARROW + 2 * WIDE) + loss
    assert 0 <= kept["selective checkpoint"] - kept["fastact, recompute"] < 32 << 10  # and the state of random numbers
    assert 0 <= kept["checkpoint"] - (2 * NARROW + loss) < 32 << 10
    network = memory.prepared(zoo.MEMORY_MODELS["gated MLPs"], "tiny", memory.METHODS["torch eager"])
    hooks = models.kept_bytes(network._replace(inputs={"input": network.inputs["input"].clone()}))
    narrow = 4 * 16 * 32
    assert memory.memory(network)[0] == hooks + 2 * narrow + 4


def test_peaks_and_gradients_beside_torch_eager(measured_memory: dict[str, Any]) -> None:
    (row,) = measured_memory["rows"]
    gradients = 2 * 3 * 4 * WIDTH * HIDDEN
    for name, peak in row["peak_bytes"].items():
        assert peak >= max(row["kept_bytes"][name], gradients)
    assert row["peak_bytes"]["torch eager"] > row["peak_bytes"]["fastact, recompute"]
    assert row["difference"]["checkpoint"] == row["difference"]["selective checkpoint"] == 0
    assert 0 < row["difference"]["fastact, recompute"] < 1e-5


@pytest.mark.parametrize("name", zoo.MEMORY_MODELS)
def test_models_are_checkpointed_block_by_block(name: str) -> None:
    model = zoo.MEMORY_MODELS[name]
    if find_spec(model.library) is None:  # not by importing it: timm needs a stand-in first
        pytest.skip(f"needs {model.library}")
    methods = (memory.METHODS["torch eager"], memory.METHODS["selective checkpoint"])
    stock, checkpointed = (memory.prepared(model, "tiny", method) for method in methods)
    assert [*stock.module.parameters()][-1].shape == [*checkpointed.module.parameters()][-1].shape
    (_, expected), (_, gradients) = models.gradients(stock), models.gradients(checkpointed)
    assert models.difference(gradients, expected) == 0
    gc.freeze()  # or all that the libraries import would be searched for garbage, twice
    kept = [memory.memory(network)[0] for network in (checkpointed, stock)]
    gc.unfreeze()
    assert kept[0] < kept[1]


def test_memory_tables_say_what_is_lost(measured_memory: dict[str, Any], tmp_path: Path) -> None:
    result = copy.deepcopy(measured_memory)
    (row,) = result["rows"]
    row["kept_bytes"] |= {"torch eager": 100 << 20, "fastact": 101 << 20, "fastact, recompute": 62 << 20, "compile": 1}
    row["peak_bytes"] |= {"torch eager": 100, "fastact, recompute": 110, "compile": 1}
    step = {"ms": 1.0, "ratio": 0.9, "ratio_quartiles": [0.8, 1.0]}
    row["step"] |= {"fastact, recompute": step, "compile": step}
    row["failed"]["torch_remat"] = "torch_remat is not installed"
    better = copy.deepcopy(row) | {"model": "another"}
    better["step"]["fastact, recompute"] = step | {"ratio": 1.1}
    result["rows"].insert(0, better)  # without a goal: not more than torch
    assert [line.split(" | ")[0] for line in memory.kept_table(result["rows"]).splitlines()[2:]] == [
        "| gated MLPs",
        "| another",
    ]
    text = memory.report(result)
    assert "| gated MLPs | 100.0 |" in text
    assert "| **1.01** | **0.62** | 0.60 |" in text
    assert "| **1.01** | 0.62 | 1.00 |" in text
    assert "**1.10**" in text
    assert "**0.90** (0.80 to 1.00)" in text
    assert "misses its goal of bytes kept in 1 of 2 models (gated MLPs), keeps more than torch eager in 0, " in text
    assert "takes more than 1.03 times its time in 1 (gated MLPs), and keeps at most what torch.compile keeps" in text
    assert "keeps in 0 of 2." in text
    assert "- gated MLPs, torch_remat: torch_remat is not installed" in text
    memory.write(tmp_path, result)
    assert (tmp_path / "memory.md").read_text() == text
    assert memory.earlier_rows(memory.surroundings(), "tiny", 4, tmp_path) == result["rows"]
    with pytest.raises(SystemExit, match="measured otherwise"):
        memory.earlier_rows(memory.surroundings(), "real", 4, tmp_path)
    assert (tmp_path / "memory.png").stat().st_size > 10_000


def test_the_readmes_table_has_every_third_model(measured_memory: dict[str, Any]) -> None:
    rows = []
    for kept in (40, 60, 20, 80):
        row = copy.deepcopy(measured_memory["rows"][0]) | {"model": f"keeps {kept}"}
        row["kept_bytes"] |= {"torch eager": 100, "fastact": 101, "fastact, recompute": kept}
        rows.append(row)
    _, _, *lines = memory.short_table(rows).splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| keeps 80", "| keeps 20"]
    assert all(" | **1.01** / " in line for line in lines)


def test_committed_tables_are_those_of_the_committed_memory() -> None:
    for result in memory.committed():
        folder = environment.RESULTS / environment.folder_of(result["environment"])
        assert (folder / "memory.md").read_text() == memory.report(result), "run bench/memory.py --report"
    for page in (ROOT / "README.md", ROOT / "docs" / "memory-benchmark.md"):
        text = page.read_text()
        assert models.with_tables(text, memory.committed(), memory.BLOCKS) == text, f"run --tables {page.name}"


def test_batch_norm_is_timed_and_compared() -> None:
    rows = list(batch_norm.measure([(2, 4, 32, 32)], seconds=0))
    for way in batch_norm.WAYS:
        assert rows[0]["us"][way] > 0
        assert 0 < rows[0]["error"][way] < 1e-5
    assert not fastact.is_enabled()
    rows[0]["ratio"] = 2.0  # whatever the machine was doing
    rows.append({**rows[0], "shape": [3, 1], "ratio": 0.5})
    lines = batch_norm.report(environment.environment("cpu"), 0.25, rows).splitlines()
    assert "load average before: 0.2" in lines[2]
    assert lines[6].startswith("| 3 x 1 | 0.00 |")
    assert "**0.50**" in lines[6]
    assert lines[7].startswith("| 2 x 4 x 32 x 32 | 0.03 |")


def test_a_monitor_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(monitor.NETWORKS, "2 x 8", (lambda: monitor.mlp(2, 8), (4, 8)))
    (row,) = monitor.measure(["2 x 8"], seconds=0)
    assert all(row["ms"][way] > 0 for way in monitor.WAYS)
    assert all(row["overhead"][way] > -1 and low < high for way, (low, high) in row["overhead_range"].items())
    row["overhead"] = {"every=1": 0.0421, "every=20": -0.002}
    row["overhead_range"] = dict.fromkeys(row["overhead"], (-0.01, 0.05))
    lines = monitor.report(environment.environment("cpu"), 0.25, [row]).splitlines()
    assert "load average before: 0.2" in lines[2]
    assert lines[-1].startswith("| 2 x 8 | 4 x 8 |")
    assert lines[-1].endswith("| +4.2% | -1.0% to +5.0% | -0.2% | -1.0% to +5.0% |")


def test_a_monitors_overhead_is_no_neighbours() -> None:
    """Which takes half of the time in a tenth of the rounds."""
    random = np.random.default_rng(0)
    race = monitor.Steps({"unwatched": lambda: 1.0, "every=20": lambda: 1.0}, seconds=0)
    for name, looked_at in (("unwatched", 1.0), ("every=20", 1.1)):
        steps = 1 + 0.01 * random.random((200, monitor.STEPS))
        steps[:, 0] *= looked_at
        steps[random.random(200) < 0.1] *= 2
        race.steps[name] = steps.tolist()
    overhead, (low, high) = race.overhead("every=20", "unwatched")
    assert overhead == pytest.approx(0.1 / monitor.STEPS, rel=0.1)  # of which the medians' error is a sixth
    assert low < 0.1 / monitor.STEPS < high


def test_tutorial_hooks_see_what_a_monitor_sees() -> None:
    torch.manual_seed(0)
    model = monitor.convolutions()
    with monitor.tutorial_hooks(model) as seen, fastact.Monitor(model) as watching:
        model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    for row in watching.report().rows:
        assert seen[row.layer][0] == pytest.approx(row.mean, rel=1e-4)
        assert seen[row.layer][2] == pytest.approx(row.sparsity, rel=1e-6)
        assert seen[f"{row.layer} gradient"][0] > 0
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_an_l1_penalty_is_timed() -> None:
    workloads = (l1.Mlp(2, 8, 4), l1.Alone(4096))
    for workload in workloads:  # the same loss and gradients each way
        networks = [workload.network(way) for name, way in l1.WAYS.items() if name != l1.NONE]
        losses = [network.loss(network.output()) for network in networks]
        torch.testing.assert_close(losses[1:], losses[:1] * 2)
    rows = list(l1.measure(workloads, seconds=0))
    assert all(row["us"][way] > 0 for row in rows for way in l1.WAYS)
    # A bit for each element, and the penalty, its sum and the loss; or the output, and what is as large.
    assert rows[1]["kept"][l1.OURS] < 4096 / 8 + 64 < 4 * 4096 <= rows[1]["kept"]["fastact.ReLU"]
    rows[0]["ratio"] = {l1.OURS: 1.0, l1.NONE: 0.9, "torch.nn.ReLU": 0.95, "fastact.ReLU": 1.5}
    lines = l1.report(environment.environment("cpu"), 0.25, rows).splitlines()
    assert "load average before: 0.2" in lines[2]
    assert lines[6].startswith("| MLP, 2 x 8, batch 4 |")
    assert "| 0.90 |" in lines[6]
    assert "| **0.95** |" in lines[6]


def test_torchs_functions_are_timed_in_pairs_of_processes() -> None:
    rows = enabled.measure(["relu"], [16, enabled.IN_ONE_PROCESS], seconds=0, pairs=2)
    assert [row["direction"] for row in rows] == 2 * list(enabled.DIRECTIONS)
    assert all(row["ratios"][0] <= row["ratio"] <= row["ratios"][1] for row in rows)
    assert all(row["seconds"]["enabled"] > 0 and row["seconds"]["stock"] > 0 for row in rows)
    assert not fastact.is_enabled()


def test_the_report_of_torchs_functions_has_losses_first() -> None:
    ratios = {"relu": (1.5, 1.2), "gelu": (2.0, 0.9)}
    rows = [
        {"name": name, "numel": numel, "direction": direction, "ratio": ratio, "ratios": [ratio]}
        for name, both in ratios.items()
        for numel, ratio in zip((16, 256), both, strict=True)
        for direction in enabled.DIRECTIONS
    ]
    text = enabled.report(environment.environment("cpu"), {"disabled": 1.5e-7, "other dtype": -2e-8}, rows)
    assert "+0.15 us after" in text
    assert "-0.02 us of int64" in text
    table = text.partition("## Forward\n")[2].partition("##")[0].strip().splitlines()
    assert table[0] == "| activation | 2^4 | 2^8 |"
    assert table[2:] == [
        "| *geometric mean* | 1.73 | 1.04 |",
        "| gelu | 2.00 | **0.90** |",
        "| relu | 1.50 | 1.20 |",
    ]
