"""What a training step keeps for backward, what it takes at most, and how long: fastact beside torch's own ways.

    python bench/memory.py [--models NAME ...] [--methods NAME ...] [--size tiny|real] [--steps N] [--out DIR] [--add]
    python bench/memory.py --report FOLDER ...
    python bench/memory.py --tables FILE ...

The models are zoo.MEMORY_MODELS, the methods METHODS below. A method that needs a library which is not installed, as
torch_remat, or that fails on a model, is noted as such. Writes memory.json, memory.md and memory.png to DIR/HARDWARE.
--add leaves the other models there that the same commit has measured: compiling takes long, and a run can be in parts.
--report makes the last two files again from the first, and --tables puts the tables of all committed results between
the markers of these files.

Bytes are those of torch's CPU allocator as its profiler records them, every allocation and release of a tensor's
storage in any thread: kept is what a forward pass and its loss have allocated and not released once only the loss is
held, the copy of the input that is made within included and parameters, buffers and what was there before left out;
peak is the most that forward and backward hold at once beyond what was there before, new gradients of all parameters
included. What oneDNN and MKL take for themselves inside a call is in neither.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from environment import (
    RESULTS,
    environment,
    folder_of,
    measured_on,
    name_of,
    package_version,
    result_folder,
    write_result,
)
from measure import Meter, Race, settle_heap
from models import difference, gradients, share_weights, training_step, with_tables
from report import ratio_cell, table
from torch import Tensor, nn
from torch._inductor.compile_fx import compile_fx
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from zoo import MEMORY_MODELS, Model, Network, Size

import fastact

Row = dict[str, Any]

GOALS = {
    "efficientnet_b0": 0.55,
    "mobilenetv2_100": 0.55,
    "densenet121": 0.60,
    "gated MLPs": 0.60,
    "GPT-2, torch's GELU": 0.62,
    "Llama": 0.62,
    "convnext_tiny": 0.63,
    "vgg11_bn": 0.65,
    "vit_small_patch16_224": 0.67,
    "BERT": 0.68,
    "swin_tiny_patch4_window7_224": 0.72,
    "resnet50": 0.87,
}
"""Bytes kept under recompute over torch eager's, at most: from who made and who saves each tensor, less a margin. The
others should keep no more than torch eager."""
STEP_GOAL = 1.03
"""Time of a step over torch eager's, at most."""

BLOCK_CLASSES = {
    *("Bottleneck", "DepthwiseSeparableConv", "InvertedResidual", "ConvBnAct", "DenseLayer", "ConvNeXtBlock", "Block"),
    *("SwinTransformerBlock", "BertLayer", "GPT2Block", "LlamaDecoderLayer", "GatedMLP"),
}
"""Classes of what is checkpointed, each by itself: the layers that repeat."""
aten = torch.ops.aten
EXPENSIVE = [
    *(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default),
    *(aten._scaled_dot_product_flash_attention_for_cpu.default, aten._scaled_dot_product_flash_attention.default),
    *(aten._scaled_dot_product_efficient_attention.default, aten._scaled_dot_product_cudnn_attention.default),
]
"""What selective checkpointing keeps the results of."""


# Methods


class Method(NamedTuple):
    apply: Callable[[Network], Network] = lambda network: network
    active: Callable[[], AbstractContextManager[Any]] = nullcontext
    """What is open around a step."""
    library: str = "torch"


def blocks(module: nn.Module) -> list[nn.Module]:
    """What is checkpointed. A VGG has no blocks by themselves: what lies between its poolings is made one."""
    if not any(type(each).__name__ in BLOCK_CLASSES for each in module.modules()):
        parts: list[list[nn.Module]] = [[]]
        for layer in module.features:
            parts[-1].append(layer)
            if isinstance(layer, nn.MaxPool2d):
                parts.append([])
        module.features = nn.Sequential(*(nn.Sequential(*part) for part in parts if part))
        return list(module.features)
    return [each for each in module.modules() if type(each).__name__ in BLOCK_CLASSES]


def _of_copies(forward: Callable[..., Any]) -> Callable[..., Any]:
    """With copies of lists: DenseNet's blocks append to the one that their layers get."""
    return lambda *args, **kwargs: forward(*(tuple(a) if isinstance(a, list) else a for a in args), **kwargs)


def _checkpointed(network: Network, **options: Any) -> Network:
    for block in blocks(network.module):
        block.forward = _of_copies(partial(checkpoint, block.forward, use_reentrant=False, **options))
    return network


def _selectively_checkpointed(network: Network) -> Network:
    _out_of_place(network)
    return _checkpointed(network, context_fn=partial(create_selective_checkpoint_contexts, EXPENSIVE))


def _out_of_place(network: Network) -> None:
    """A result that is kept must not be changed in place, as squeeze-and-excitation's activation does."""
    for block in blocks(network.module):
        for layer in block.modules():
            if getattr(layer, "inplace", False):
                layer.inplace = False


class RandomState:
    """For torch_remat, which leaves random numbers to its user."""

    snapshot = staticmethod(torch.get_rng_state)
    restore = staticmethod(torch.set_rng_state)


def _remat(network: Network) -> Network:
    """torch_remat's checkpoint around each block, in which the results of linear and convolution layers are kept."""
    import torch_remat

    def kept(forward: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
        @wraps(forward)
        def call(*args: Any) -> Tensor:
            result = torch_remat.region(forward, name, recompute=False)(*args)
            torch_remat.recompute_needs_tensor(result)
            return result

        return call

    _out_of_place(network)
    for number, block in enumerate(blocks(network.module)):
        for name, layer in block.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) or type(layer).__name__ == "Conv1D":  # transformers' linear
                layer.forward = kept(layer.forward, name)
        around = torch_remat.checkpoint(region_name=f"block {number}", recompute_state_hooks=(RandomState(),))
        block.forward = _of_copies(around(block.forward))
    return network


def _compiled(network: Network, budget: float | None = None) -> Network:
    """A budget comes with its own backend, or two networks of the same class would share what was compiled for one."""

    def within_budget(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        with torch._functorch.config.patch(activation_memory_budget=budget):
            return compile_fx(graph, inputs)

    backend = "inductor" if budget is None else within_budget
    return network._replace(module=torch.compile(network.module, backend=backend))


def _converted(network: Network, recompute: bool = False) -> Network:
    fastact.convert(network.module, recompute=recompute)
    return network


METHODS = {
    "torch eager": Method(),
    "checkpoint": Method(_checkpointed),
    "selective checkpoint": Method(_selectively_checkpointed),
    "torch_remat": Method(_remat, library="torch_remat"),
    "compile": Method(_compiled),
    "compile, budget 0.5": Method(partial(_compiled, budget=0.5)),
    "fastact": Method(_converted, fastact.enable),
    "fastact, recompute": Method(partial(_converted, recompute=True), fastact.enable),
}
"""Checkpoints are around each block (BLOCK_CLASSES), torch's of the kind that is not reentrant. A selective one keeps
the results of EXPENSIVE, torch_remat here those of linear and convolution layers. fastact converts the modules and
replaces torch's ops, with recompute or without."""
EAGER, RECOMPUTE, COMPILE, BUDGET = "torch eager", "fastact, recompute", "compile", "compile, budget 0.5"
PICTURED = {
    EAGER: "#30638e",
    "checkpoint": "#8d99ae",
    COMPILE: "#edae49",
    BUDGET: "#66a182",
    "fastact": "#e8a0ac",
    RECOMPUTE: "#d1495b",
}


HIGHEST_BAR = 150
"""Of the picture, in percent; a number beside a bar says how high it would be."""


# Measurements


def prepared(model: Model, size: Size, method: Method) -> Network:
    """With the same weights and the same input for every method."""
    torch.manual_seed(0)
    return method.apply(model.make(size))


def loss_of(network: Network) -> Tensor:
    """From a copy of the input, so that whoever keeps the input is seen to. What mse_loss returns holds the memory of
    what it is the mean of, hence a copy of that too."""
    inputs = {name: value.clone() if isinstance(value, Tensor) else value for name, value in network.inputs.items()}
    network = network._replace(inputs=inputs)
    return network.loss(network.output()).clone()


def memory(network: Network) -> tuple[int, int]:
    """Bytes kept for backward, and the most that a step holds."""
    network.module.zero_grad()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        loss = loss_of(network)
        with record_function("forward is over"):
            pass
        loss.backward()
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    held = most = kept = 0
    for event in events:
        if event.name() == "forward is over":
            kept = held
        elif event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return kept, most


def meter(active: Callable[[], AbstractContextManager[Any]], step: Callable[[], None]) -> Meter:
    """Seconds of one step."""

    def measure() -> float:
        with active():
            start = perf_counter()
            step()
            return perf_counter() - start

    return measure


def measure(model: Model, methods: Iterable[str], size: Size, steps: int) -> Row:
    """All figures of one model."""
    row: Row = {"model": model.name, "library": model.library, "kept_bytes": {}, "peak_bytes": {}, "difference": {}}
    row |= {"step": {}, "failed": {}}
    meters: dict[str, Meter] = {}
    for name in methods:  # torch eager first
        method = METHODS[name]
        if find_spec(method.library) is None:
            row["failed"][name] = f"{method.library} is not installed"
            continue
        try:
            network = prepared(model, size, method)
            with method.active():
                found = gradients(network)
                row["kept_bytes"][name], row["peak_bytes"][name] = memory(network)
        except Exception as error:  # of one method: it is noted, and the others go on
            if name == EAGER:
                raise
            row["failed"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        if name == EAGER:
            row["parameters"] = sum(parameter.numel() for parameter in network.module.parameters())
            eager, expected = network, found
        elif not name.startswith(COMPILE):  # which drops other units
            row["difference"][name] = difference(found[1], expected[1])
        share_weights(network, eager)
        meters[name] = meter(method.active, training_step(network))
    race = Race(meters, 0)
    for _ in range(steps):
        race.run_round()
    for name in meters:
        row["step"][name] = {
            "ms": race.median(name) * 1e3,
            "ratio": race.ratio(EAGER, name),
            "ratio_quartiles": race.ratio_quartiles(EAGER, name),
        }
    return row


# Text


def share(row: Row, figure: str, name: str) -> float | None:
    """Of torch eager's bytes."""
    return row[figure][name] / row[figure][EAGER] if name in row[figure] else None


def above_goal(row: Row) -> float:
    """How far what recompute keeps is above the goal; negative below it."""
    kept = share(row, "kept_bytes", RECOMPUTE)
    return -GOALS.get(row["model"], 1) if kept is None else kept - GOALS.get(row["model"], 1)


def losses_first(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=above_goal, reverse=True)


def measured_methods(rows: Sequence[Row]) -> list[str]:
    return [name for name in METHODS if any(name in row["step"] for row in rows)]


def _share_cell(row: Row, figure: str, name: str, most: float = 1) -> str:
    """Bold where fastact takes more than it should, as far as the digits shown say so."""
    value = share(row, figure, name)
    if value is None:
        return ""
    return f"**{value:.2f}**" if name.startswith("fastact") and round(value, 2) > most else f"{value:.2f}"


def kept_table(rows: Sequence[Row]) -> str:
    methods = measured_methods(rows)
    headings = ["model", f"{EAGER}, MiB", *methods[1:], "goal"]
    lines = []
    for row in losses_first(rows):
        goal = GOALS.get(row["model"], 1)
        cells = [
            _share_cell(row, "kept_bytes", name, goal if name == RECOMPUTE else 1) for name in methods if name != EAGER
        ]
        lines.append([row["model"], f"{row['kept_bytes'][EAGER] / 2**20:.1f}", *cells, f"{goal:.2f}"])
    return table(headings, lines)


def peak_table(rows: Sequence[Row]) -> str:
    methods = measured_methods(rows)
    lines = (
        [
            row["model"],
            f"{row['peak_bytes'][EAGER] / 2**20:.1f}",
            *(_share_cell(row, "peak_bytes", name) for name in methods if name != EAGER),
        ]
        for row in losses_first(rows)
    )
    return table(["model", f"{EAGER}, MiB", *methods[1:]], lines)


def step_table(rows: Sequence[Row]) -> str:
    """The slowest of fastact's first."""
    methods = measured_methods(rows)

    def worst(row: Row) -> float:
        return min((step["ratio"] for name, step in row["step"].items() if name.startswith("fastact")), default=1)

    def cell(row: Row, name: str) -> str:
        if name not in row["step"]:
            return ""
        ratio, (low, high) = row["step"][name]["ratio"], row["step"][name]["ratio_quartiles"]
        shown = ratio_cell(ratio) if name.startswith("fastact") else f"{ratio:.2f}"
        return f"{shown} ({low:.2f} to {high:.2f})"

    lines = (
        [
            row["model"],
            f"{row['step'][EAGER]['ms']:.0f}",
            *(cell(row, name) for name in methods if name != EAGER),
        ]
        for row in sorted(rows, key=worst)
    )
    return table(["model", f"{EAGER}, ms", *methods[1:]], lines)


def long_table(rows: Sequence[Row]) -> str:
    """All figures, a line for each model and method."""
    lines = (
        [
            row["model"],
            row["library"],
            f"{row['parameters'] / 1e6:.1f}",
            name,
            f"{row['kept_bytes'][name] / 2**20:.2f}",
            f"{row['peak_bytes'][name] / 2**20:.2f}",
            f"{step['ms']:.1f}",
            f"{row['difference'][name]:.1g}" if name in row["difference"] else "",
        ]
        for row in losses_first(rows)
        for name, step in row["step"].items()
    )
    headings = ["model", "library", "million parameters", "method", "kept MiB", "peak MiB", "ms", "gradient differs"]
    return table(headings, lines, numbers_from=4)


def verdict(rows: Sequence[Row]) -> str:
    """What recompute reaches of its goals."""
    ours = [row for row in rows if RECOMPUTE in row["step"]]
    if not ours:
        return "Without recompute."
    missed = [row["model"] for row in losses_first(ours) if round(above_goal(row), 3) > 0]
    more = [row["model"] for row in ours if row["kept_bytes"][RECOMPUTE] > row["kept_bytes"][EAGER]]
    slow = [row["model"] for row in ours if 1 / row["step"][RECOMPUTE]["ratio"] > STEP_GOAL]
    compiled = [row for row in ours if COMPILE in row["kept_bytes"]]
    below = sum(row["kept_bytes"][RECOMPUTE] <= row["kept_bytes"][COMPILE] for row in compiled)
    return (
        f"Recompute misses its goal of bytes kept in {len(missed)} of {len(ours)} models{_named(missed)}, keeps more "
        f"than torch eager in {len(more)}{_named(more)}, takes more than {STEP_GOAL} times its time in "
        f"{len(slow)}{_named(slow)}, and keeps at most what torch.compile keeps in {below} of {len(compiled)}."
    )


def _named(models: Sequence[str]) -> str:
    return f" ({', '.join(models)})" if models else ""


LIBRARIES = ("torch", "timm", "transformers", "torch_remat")
EXPLAINED = (
    "Of torch eager's bytes, how many each method keeps after forward and loss: each storage once, parameters and "
    "buffers aside, the input included. Bold: fastact keeps more than torch eager or, with recompute, than its goal. "
    "Worst first."
)


def short_table(rows: Sequence[Row]) -> str:
    """Bytes and speed in one cell, of every third model, from the one of which fastact keeps most to that of which it
    keeps least."""
    methods = [name for name in measured_methods(rows) if name in PICTURED]
    by_kept = sorted(rows, key=lambda row: share(row, "kept_bytes", RECOMPUTE) or 1, reverse=True)

    def cell(row: Row, name: str) -> str:
        if name not in row["step"]:
            return ""
        speed, (low, high) = row["step"][name]["ratio"], row["step"][name]["ratio_quartiles"]
        if low < 1 < high:
            shown = f"≈{speed:.2f}"
        else:
            shown = ratio_cell(speed) if name.startswith("fastact") else f"{speed:.2f}"
        return f"{_share_cell(row, 'kept_bytes', name)} / {shown}"

    lines = (
        [
            row["model"],
            f"{row['kept_bytes'][EAGER] / 2**20:.0f} MiB / {row['step'][EAGER]['ms']:.0f} ms",
            *(cell(row, name) for name in methods if name != EAGER),
        ]
        for row in by_kept[::3]
    )
    return table(["model", *methods], lines)


def short_block(result: dict[str, Any]) -> str:
    """For the README."""
    return (
        f"{short_table(result['rows'])}\n\nBytes kept for backward / speed of a training step, relative to torch "
        f"eager's; bold: fastact keeps more, or is slower; ≈: the run does not decide. Every third of "
        f"{len(result['rows'])} models, in the order of bytes kept under recompute. float32, random weights, small "
        f"batches. {measured_on(result, LIBRARIES)}"
    )


def _parts(result: dict[str, Any]) -> list[str]:
    """All tables, with their headings."""
    rows = result["rows"]
    parts = [
        f"{measured_on(result, LIBRARIES)} float32, random weights; steps (forward, loss, backward, SGD) in turns, "
        f"{result['steps']} of each method. Load average before: {result['environment']['load_average_before']:.1f}.",
        verdict(rows),
        f"## Kept for backward\n\n{EXPLAINED}\n\n{kept_table(rows)}",
        f"## Peak of a step\n\nOf torch eager's, with the gradients of all parameters, which every method makes. "
        f"Bold: fastact takes more.\n\n{peak_table(rows)}",
        f"## Time of a step\n\ntorch eager's time over the method's: above 1 the method is faster; in brackets the "
        f"quartiles of that ratio within a round. Bold: fastact is slower than torch eager.\n\n{step_table(rows)}",
        f"## All figures\n\n{long_table(rows)}",
    ]
    failed = [
        (f"{row['model']}, {name}", row["failed"].get(name, "left out of this run"))
        for row in rows
        for name in METHODS
        if name in row["failed"] or (name in measured_methods(rows) and name not in row["step"])
    ]
    failed += [(each["model"], each["why"]) for each in result["missing"]]
    if failed:
        parts.append("## Not measured\n\n" + "\n".join(f"- {what}: {why}" for what, why in failed))
    return parts


def long_block(result: dict[str, Any]) -> str:
    """For the docs."""
    first, *rest = _parts(result)
    picture = f"![Bytes kept for backward](../bench/results/{folder_of(result['environment'])}/memory.png)"
    return "\n\n".join([first, picture, *rest])


BLOCKS = {"memory": short_block, "memory-in-full": long_block}


def report(result: dict[str, Any]) -> str:
    where = result["environment"]
    return (
        "\n\n".join(
            (
                f"# Memory of training steps: {name_of(where)}",
                f"Made by `python bench/memory.py`, {where['date']}, commit {where['commit']}.",
                "![Bytes kept for backward](memory.png)",
                *_parts(result),
            )
        )
        + "\n"
    )


def draw(result: dict[str, Any], path: Path) -> None:
    """A bar for each method, in groups by model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = sorted(result["rows"], key=lambda row: share(row, "kept_bytes", RECOMPUTE) or 1)
    methods = [name for name in PICTURED if any(name in row["kept_bytes"] for row in rows)]
    figure, axes = plt.subplots(figsize=(max(6, 1.5 + 0.85 * len(rows)), 4.2), layout="constrained")
    width = 0.8 / len(methods)
    for place, name in enumerate(methods):
        heights = [100 * (share(row, "kept_bytes", name) or 0) for row in rows]
        places = [group + (place - (len(methods) - 1) / 2) * width for group in range(len(rows))]
        axes.bar(places, heights, width, color=PICTURED[name], label=name, zorder=2)
        for x, height in zip(places, heights, strict=True):
            if height > HIGHEST_BAR:
                axes.annotate(f"{height:.0f}", (x + width / 2, HIGHEST_BAR), va="top", fontsize=8)
    axes.set_ylim(top=min(HIGHEST_BAR, axes.get_ylim()[1]))
    names = [row["model"].split("_patch")[0].replace("_", "\n").replace(", ", ",\n") for row in rows]
    labels = [f"{name}\n{row['kept_bytes'][EAGER] / 2**20:.0f} MiB" for name, row in zip(names, rows, strict=True)]
    axes.set_xticks(range(len(rows)), labels, fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    axes.margins(x=0.01)
    axes.set_ylabel("bytes kept for backward,\n% of torch eager's")
    axes.grid(axis="y", color="#e5e5e5", zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(methods), frameon=False)
    where = result["environment"]
    figure.suptitle(f"{name_of(where)}, torch {where['versions']['torch']}", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


# Command


def write(folder: Path, result: dict[str, Any]) -> None:
    write_result(folder, "memory", result, report(result))
    draw(result, folder / "memory.png")


def committed() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/memory.json"))]


def surroundings() -> dict[str, Any]:
    where = environment("cpu") | {"load_average_before": os.getloadavg()[0]}
    where["versions"] |= {name: package_version(name) for name in ("timm", "transformers", "torch_remat")}
    return where


def earlier_rows(where: dict[str, Any], size: Size, steps: int, folder: Path) -> list[Row]:
    """Of the same commit, versions and hardware."""
    result = json.loads((folder / "memory.json").read_text())
    now = {name: where[name] for name in ("date", "load_average_before")}
    if (result["environment"] | now, result["size"], result["steps"]) != (where, size, steps):
        raise SystemExit(f"{folder / 'memory.json'} was measured otherwise: nothing can be added to it")
    return result["rows"]


def run(
    models: Iterable[Model], methods: Sequence[str], size: Size, steps: int, where: dict[str, Any], earlier: list[Row]
) -> Iterator[dict[str, Any]]:
    """The result after each model."""
    rows = list(earlier)
    missing: list[dict[str, str]] = []
    for model in models:
        if find_spec(model.library) is None:
            missing.append({"model": model.name, "why": f"{model.library} is not installed"})
            continue
        torch._dynamo.reset()
        start = perf_counter()
        rows = [row for row in rows if row["model"] != model.name] + [measure(model, methods, size, steps)]
        figures = (
            f"{name} {share(rows[-1], 'kept_bytes', name):.2f}, {step['ratio']:.2f}"
            for name, step in rows[-1]["step"].items()
            if name != EAGER
        )
        print(f"{model.name}, {perf_counter() - start:.0f} s: {'; '.join(figures)}", flush=True)
        yield {"environment": where, "size": size, "steps": steps, "rows": rows, "missing": missing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MEMORY_MODELS, default=list(MEMORY_MODELS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS)[1:], default=list(METHODS)[1:], metavar="NAME")
    parser.add_argument("--size", choices=("tiny", "real"), default="real")
    parser.add_argument("--steps", type=int, default=4, help="timed of each method")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results go to DIR/HARDWARE")
    parser.add_argument("--add", action="store_true", help="keep the other models' results that are there")
    parser.add_argument("--report", nargs="+", type=Path, metavar="FOLDER", help="folders with a memory.json")
    parser.add_argument("--tables", nargs="+", type=Path, metavar="FILE", help="put the committed tables there instead")
    options = parser.parse_args()
    if options.tables:
        for path in options.tables:
            path.write_text(with_tables(path.read_text(), committed(), BLOCKS))
        return
    if options.report:
        for folder in options.report:
            write(folder, json.loads((folder / "memory.json").read_text()))
        return
    settle_heap()
    where = surroundings()
    folder = result_folder(where, options.out)
    earlier = earlier_rows(where, options.size, options.steps, folder) if options.add else []
    models = [MEMORY_MODELS[name] for name in options.models]
    for result in run(models, [EAGER, *options.methods], options.size, options.steps, where, earlier):
        write(folder, result)
    print(f"\n{verdict(result['rows'])}\n\n{kept_table(result['rows'])}")


if __name__ == "__main__":
    main()
