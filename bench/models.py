"""Whole models in training: how many of their activations run as fastact's, and what that does to time and memory.

    python bench/models.py [--models NAME …] [--modes MODE …] [--size tiny|real] [--steps N] [--device cpu|cuda]
                           [--out DIR]
    python bench/models.py --tables docs/model-benchmark.md

The models are those of zoo.py, each as it is ("stock"), within `fastact.enable()` ("enabled"), after
`fastact.convert()` ("converted") and, stock, by torch.compile ("compiled"); a second stock one ("again") shows what the
run cannot tell apart. Writes models.json and models.md to DIR/HARDWARE. With --tables it measures nothing, and puts the
tables of all committed results between the markers of these files.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean
from time import perf_counter
from typing import Any

import torch
from environment import RESULTS, environment, measured_on, name_of, package_version, result_folder, write_result
from measure import Meter, Race, peak_bytes, settle_heap
from report import ratio_cell, replace_block, table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import MODELS, Model, Network, Size

import fastact

Row = dict[str, Any]

MODES = ("stock", "again", "enabled", "converted", "compiled")
OURS = ("enabled", "converted")
LEARNING_RATE = 1e-4  # so small that no loss leaves its range within the steps that are timed

ACTIVATIONS = {
    *("relu", "leaky_relu", "_prelu_kernel", "rrelu_with_noise", "threshold", "hardtanh", "elu", "sigmoid", "tanh"),
    *("hardsigmoid", "silu", "gelu", "mish", "hardswish", "hardshrink", "softshrink", "softplus", "glu"),
    *("log_sigmoid", "log_sigmoid_forward"),
}
"""ATen's activation ops as a dispatch mode sees them: relu6, selu and celu have come down to two of these there, and
softsign and what models compose themselves, as GPT-2's GELU, to arithmetic."""
SOFTMAXES = {"_softmax", "_log_softmax", "_safe_softmax", "_masked_softmax"}


# Measurements


def prepared(model: Model, size: Size, mode: str, device: str = "cpu") -> Network:
    """With the same weights and the same input in every mode."""
    torch.manual_seed(0)
    network = model.make(size).to(device)
    if mode == "converted":
        fastact.convert(network.module)
    if mode == "compiled":
        network = network._replace(module=torch.compile(network.module))
    return network


def share_weights(network: Network, stock: Network) -> None:
    """Take the other one's memory for the weights: where they lie changes a step by some percent."""
    for mine, theirs in zip(network.module.parameters(), stock.module.parameters(), strict=True):
        mine.data = theirs.data


def active(mode: str) -> AbstractContextManager[Any]:
    """What must be open while a network of this mode runs."""
    return fastact.enable() if mode == "enabled" else nullcontext()


class Count(TorchDispatchMode):
    """Elements that go through activations, forward and backward, by op. A mode sees an op of either library once:
    below autograd, where composites have come down to what they are made of, and without what it calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = op(*args, **(kwargs or {}))
        library, _, name = op._schema.name.partition("::")
        if library == "fastact" or (library == "aten" and base_name(name) in ACTIVATIONS | SOFTMAXES):
            in_place = op._schema.arguments[0].is_write  # then the result may be nothing, or bits for backward
            values = args if in_place else result if isinstance(result, tuple) else (result,)
            self.elements[f"{library}.{name}"] += next(x.numel() for x in values if isinstance(x, Tensor))
        return result


def base_name(op: str) -> str:
    """The activation of an op that is its backward or its form in place."""
    for suffix in ("_data", "_backward", "_"):
        op = op.removesuffix(suffix)
    return op


def coverage(elements: Counter[str]) -> dict[str, Any]:
    """Which part of the elements ran as fastact's, softmax apart, and the ops that were left to torch."""
    found: dict[str, Any] = {}
    softmax = {op for op in elements if "softm" in op}
    for kind, ops in (("activations", elements.keys() - softmax), ("softmax", softmax)):
        total = sum(elements[op] for op in ops)
        ours = sum(elements[op] for op in ops if op.startswith("fastact."))
        found[kind] = {"elements": total, "share": ours / total if total else None}
    found["left_to_torch"] = {op: count for op, count in elements.most_common() if op.startswith("aten.")}
    return found


def kept_bytes(network: Network) -> int:
    """What one forward keeps for backward: each storage once, parameters aside."""
    tensors = (*network.module.parameters(), *network.module.buffers())
    parameters = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.detach())
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return kept[-1]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network.output()
    return sum(size for address, size in storages.items() if address not in parameters)


def gradients(network: Network) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of the loss with respect to all parameters that have one."""
    torch.manual_seed(0)  # the same units are dropped in every mode
    output = network.output()
    learned = [parameter for parameter in network.module.parameters() if parameter.requires_grad]
    grads = torch.autograd.grad(network.loss(output), learned, allow_unused=True)
    return output.detach(), [grad for grad in grads if grad is not None]


def difference(ours: Iterable[Tensor], stock: Iterable[Tensor]) -> float:
    """The largest between two lists of tensors, relative to the largest value of the second."""
    pairs = list(zip(ours, stock, strict=True))
    largest = max(theirs.abs().max().item() for _, theirs in pairs)
    return max((mine - theirs).abs().max().item() for mine, theirs in pairs) / largest


def training_step(network: Network) -> Callable[[], None]:
    optimiser = torch.optim.SGD(network.module.parameters(), LEARNING_RATE)

    def step() -> None:
        optimiser.zero_grad()
        network.loss(network.output()).backward()
        optimiser.step()

    return step


def meter(mode: str, step: Callable[[], None], device: str) -> Meter:
    """Seconds of one step."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def measure() -> float:
        with active(mode):
            wait()
            start = perf_counter()
            step()
            wait()
            return perf_counter() - start

    return measure


def measure(model: Model, modes: Sequence[str], size: Size, steps: int, device: str) -> Row:
    """All figures of one model."""
    row: Row = {"model": model.name, "library": model.library, "coverage": {}, "kept_bytes": {}, "difference": {}}
    row |= {"peak_bytes": {}, "step": {}, "failed": {}}
    meters: dict[str, Meter] = {}
    for mode in modes:  # stock first
        network = prepared(model, size, mode, device)
        if mode == "stock":
            stock = network
        else:
            share_weights(network, stock)
        step = training_step(network)
        try:
            with active(mode):
                step()
                row["kept_bytes"][mode] = kept_bytes(network)
                if device == "cuda":
                    row["peak_bytes"][mode] = peak_bytes(step)
        except Exception as error:  # of Inductor most likely: it is noted, and the run of an hour goes on
            if mode == "stock":
                raise
            row["failed"][mode] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        meters[mode] = meter(mode, step, device)
        if mode == "stock":
            row["parameters"] = sum(parameter.numel() for parameter in network.module.parameters())
        if mode not in ("stock", *OURS):  # a compiled graph has no activation ops to count, and drops other units
            continue
        network = prepared(model, size, mode, device)  # whose weights no step has changed
        with active(mode):
            output, grads = gradients(network)
            with Count() as count:
                gradients(network)
        row["coverage"][mode] = coverage(count.elements)
        if mode == "stock":
            expected = output, grads
        else:
            row["difference"][mode] = {
                "output": difference([output], [expected[0]]),
                "gradient": difference(grads, expected[1]),
            }
    race = Race(meters, 0)
    for _ in range(steps):
        race.run_round()
    for mode in meters:
        row["step"][mode] = {
            "ms": race.median(mode) * 1e3,
            "ratio": race.ratio("stock", mode),
            "ratio_quartiles": race.ratio_quartiles("stock", mode),
        }
    return row


# Text


def measured_modes(rows: Sequence[Row]) -> list[str]:
    """Beside stock."""
    return [mode for mode in MODES[1:] if any(mode in row["step"] for row in rows)]


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """By the slowest of fastact's modes."""

    def worst(row: Row) -> float:
        return min((row["step"][mode]["ratio"] for mode in OURS if mode in row["step"]), default=0)

    return sorted(rows, key=worst)


def _percent(share: float | None) -> str:
    """Never 100% for a little less."""
    return "" if share is None else f"{int(share * 1000) / 10:g}%"


def _kept_ratio(row: Row, mode: str) -> float | None:
    """Times as many bytes as stock keeps."""
    return row["kept_bytes"][mode] / row["kept_bytes"]["stock"] if mode in row["kept_bytes"] else None


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def short_table(rows: Sequence[Row]) -> str:
    """Geometric means, then one line for each model, the one with the worst loss of time first."""
    modes = measured_modes(rows)
    ours = [mode for mode in modes if mode in OURS]
    others = [mode for mode in modes if mode != "again"]
    headings = ["model", *(f"step, {mode}" for mode in modes), *(f"kept, {mode}" for mode in others)]
    headings += [f"reached, {mode}" for mode in ours]

    def mean(figure: Callable[[Row, str], float | None], mode: str) -> float:
        return geometric_mean(value for row in rows if (value := figure(row, mode)) is not None)

    def step_ratio(row: Row, mode: str) -> float | None:
        return row["step"][mode]["ratio"] if mode in row["step"] else None

    def step_cell(ratio: float | None, mode: str) -> str:
        return _plain(ratio) if mode == "again" else ratio_cell(ratio)

    def reached(row: Row, mode: str) -> float | None:
        return row["coverage"][mode]["activations"]["share"] if mode in row["coverage"] else None

    means = [step_cell(mean(step_ratio, mode), mode) for mode in modes]
    means += [_plain(mean(_kept_ratio, mode)) for mode in others] + [""] * len(ours)
    lines = (
        [
            row["model"],
            *(step_cell(step_ratio(row, mode), mode) for mode in modes),
            *(_plain(_kept_ratio(row, mode)) for mode in others),
            *(_percent(reached(row, mode)) for mode in ours),
        ]
        for row in worst_first(rows)
    )
    return table(headings, [["*geometric mean*", *means], *lines])


def long_table(rows: Sequence[Row]) -> str:
    """All figures, a line for each model and mode."""

    def line(row: Row, mode: str) -> list[str]:
        step, reached = row["step"][mode], row["coverage"].get(mode)
        differences = row["difference"].get(mode, {})
        peak = row["peak_bytes"].get(mode)
        low, high = step["ratio_quartiles"]
        return [
            row["model"],
            row["library"],
            f"{row['parameters'] / 1e6:.1f}",
            mode,
            f"{step['ms']:.1f}",
            "" if mode == "stock" else ratio_cell(step["ratio"]),
            "" if mode == "stock" else f"{low:.2f} to {high:.2f}",
            f"{row['kept_bytes'][mode] / 2**20:.1f}",
            *([f"{peak / 2**20:.1f}"] if peak is not None else [""] if has_peaks else []),
            *(_percent(reached[kind]["share"]) if reached else "" for kind in ("activations", "softmax")),
            *(f"{differences[kind]:.1g}" if differences else "" for kind in ("output", "gradient")),
            left(reached["left_to_torch"]) if reached and mode != "stock" else "",
        ]

    def left(ops: dict[str, int]) -> str:
        """Forward and backward together."""
        together: Counter[str] = Counter()
        for op, count in ops.items():
            together[base_name(op.removeprefix("aten."))] += count
        return ", ".join(f"{name} {count:,}" for name, count in together.most_common())

    has_peaks = any(row["peak_bytes"] for row in rows)
    headings = ["model", "library", "million parameters", "mode", "ms", "ratio", "quartiles", "kept MiB"]
    headings += ["peak MiB"] * has_peaks
    headings += ["activations reached", "softmax reached", "output differs", "gradient differs", "left to torch"]
    return table(headings, (line(row, mode) for row in worst_first(rows) for mode in row["step"]), numbers_from=4)


LIBRARIES = ("torch", "timm", "transformers", "diffusers")
EXPLAINED = (
    "Training steps (forward, loss, backward, SGD) of whole models with random weights, float32, in turns. `step`: the "
    "stock model's time over this one's; bold: slower than stock; `again` is the stock model once more: how far it is "
    "from 1 is how far others may be by chance. `kept`: bytes kept for backward over stock's. "
    "`reached`: the share of the elements of ATen's activation ops that ran as fastact's, softmax aside. Worst first."
)


def short_block(result: dict[str, Any]) -> str:
    """For the docs, first."""
    return f"{measured_on(result, LIBRARIES)} {EXPLAINED}\n\n{short_table(result['rows'])}"


def long_block(result: dict[str, Any]) -> str:
    """For the docs, below."""
    head = f"{measured_on(result, LIBRARIES)} Medians of {result['steps']} steps in each mode."
    parts = [head, long_table(result["rows"])]
    not_measured = [(f"{row['model']}, {mode}", why) for row in result["rows"] for mode, why in row["failed"].items()]
    not_measured += [(each["model"], each["why"]) for each in result["missing"]]
    if not_measured:
        parts.append("Not measured:\n\n" + "\n".join(f"- {model}: {why}" for model, why in not_measured))
    return "\n\n".join(parts)


def report(result: dict[str, Any]) -> str:
    where = result["environment"]
    return "\n\n".join(
        (
            f"# Whole models in training: {name_of(where)}",
            f"Made by `python bench/models.py`, {where['date']}, commit {where['commit']}. {EXPLAINED}",
            short_table(result["rows"]),
            f"## All figures\n\n{long_block(result)}\n",
        )
    )


BLOCKS: dict[str, Callable[[dict[str, Any]], str]] = {"models": short_block, "models-in-full": long_block}
"""What goes between which markers."""


def with_tables(
    text: str, results: Iterable[dict[str, Any]], blocks: dict[str, Callable[[dict[str, Any]], str]] = BLOCKS
) -> str:
    """The text with the tables of the latest result, and the others folded, between the markers that it has."""
    latest_first = sorted(results, key=lambda each: each["environment"]["date"], reverse=True)
    for name, block in blocks.items():
        if f"<!-- {name}:begin -->" in text:
            first, *others = [block(result) for result in latest_first] or ["Not measured yet."]
            folded = (
                f'<details markdown="1"><summary>{name_of(result["environment"])}</summary>\n\n{each}\n\n</details>'
                for result, each in zip(latest_first[1:], others, strict=True)
            )
            text = replace_block(text, "\n\n".join([first, *folded]), name)
    return text


# Command


def committed() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/models.json"))]


def run(models: Iterable[Model], modes: Sequence[str], size: Size, steps: int, device: str) -> Iterator[dict[str, Any]]:
    """The result after each model."""
    where = environment(device)
    where["versions"] |= {name: package_version(name) for name in ("timm", "transformers", "diffusers")}
    rows: list[Row] = []
    missing: list[dict[str, str]] = []
    for model in models:
        if find_spec(model.library) is None:
            missing.append({"model": model.name, "why": f"{model.library} is not installed"})
            continue
        torch._dynamo.reset()
        rows.append(measure(model, modes, size, steps, device))
        ratios = (f"{mode} {step['ratio']:.2f}" for mode, step in rows[-1]["step"].items() if mode != "stock")
        print(f"{model.name}: {rows[-1]['step']['stock']['ms']:.0f} ms; {', '.join(ratios)}", flush=True)
        yield {"environment": where, "size": size, "steps": steps, "rows": rows, "missing": missing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME", help="by their names in zoo.py"
    )
    parser.add_argument("--modes", nargs="+", choices=MODES[1:], default=MODES[1:], help="beside stock")
    parser.add_argument("--size", choices=("tiny", "real"), default="real")
    parser.add_argument("--steps", type=int, default=12, help="timed in each mode")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results go to DIR/HARDWARE")
    parser.add_argument("--tables", nargs="+", type=Path, metavar="FILE", help="put the committed tables there instead")
    options = parser.parse_args()
    if options.tables:
        for path in options.tables:
            path.write_text(with_tables(path.read_text(), committed()))
        return
    settle_heap()
    models = [MODELS[name] for name in options.models]
    for result in run(models, ["stock", *options.modes], options.size, options.steps, options.device):
        write_result(result_folder(result["environment"], options.out), "models", result, report(result))
        rows = result["rows"]
    print(f"\n{short_table(rows)}")


if __name__ == "__main__":
    main()
