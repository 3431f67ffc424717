"""Where fastact loses, in words: a line for each benchmark, from its latest result on any machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import memory
from environment import name_of
from report import matching

ROOT = Path(__file__).parents[1]
NAMED = 3  # of the losses in a line, the worst first


def latest_results(name: str) -> list[Path]:
    """Of a benchmark, on any machine, the latest first."""
    results = ROOT.glob(f"bench/results/*/{name}.json")
    return sorted(results, key=lambda path: json.loads(path.read_text())["environment"]["date"], reverse=True)


def lost(ratios: Mapping[str, float], is_loss: Callable[[float], bool]) -> str:
    """How many of the cases, and the worst, as far as two digits say so."""
    rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
    losses = sorted((name for name in rounded if is_loss(rounded[name])), key=lambda name: -abs(rounded[name] - 1))
    named = [f"{name} {rounded[name]:.2f}" for name in losses[:NAMED]] + ["…"] * (len(losses) > NAMED)
    return f"{len(losses)} of {len(ratios)}" + f" ({', '.join(named)})" * bool(named)


def slower(ratios: Mapping[str, float]) -> str:
    """Of torch's times over fastact's."""
    return lost(ratios, lambda ratio: ratio < 1)


def larger(ratios: Mapping[str, float]) -> str:
    """Of fastact's bytes over torch's."""
    return lost(ratios, lambda ratio: ratio > 1)


def whole_models(result: dict[str, Any]) -> str:
    ours = ("enabled", "converted")
    rows = {row["model"]: row for row in result["rows"]}
    steps = {name: min(row["step"][mode]["ratio"] for mode in ours) for name, row in rows.items()}
    kept = {
        name: max(row["kept_bytes"][mode] for mode in ours) / row["kept_bytes"]["stock"] for name, row in rows.items()
    }
    return (
        f"**Whole models**, enabled or converted: a training step is slower in {slower(steps)}, and keeps more in "
        f"{larger(kept)}."
    )


def recomputed_models(result: dict[str, Any]) -> str:
    steps = {row["model"]: row["step"][memory.RECOMPUTE]["ratio"] for row in result["rows"]}
    kept = {row["model"]: memory.share(row, "kept_bytes", memory.RECOMPUTE) or 1 for row in result["rows"]}
    return f"**Whole models under `recompute`**: slower in {slower(steps)}; more is kept in {larger(kept)}."


def enabled_calls(result: dict[str, Any]) -> str:
    def ratios(direction: str) -> dict[str, float]:
        rows = (row for row in result["rows"] if row["direction"] == direction)
        return {f"{row['name']} of {row['numel']:,} elements": row["ratio"] for row in rows}

    return (
        f"**Calls of torch's own functions, enabled**: forward is slower in {slower(ratios('forward'))}, forward with "
        f"backward in {slower(ratios('both'))}."
    )


def single_activations(summary: dict[str, Any]) -> str:
    kernels = {
        f"{row['activation']} {row['direction']}{' saving bits' * (row['level'] != 'op')}": row["ratio"]
        for row in matching(summary["rows"], {"dtype": "float32"})
        if row["level"].startswith("op")
    }
    threads = summary["environment"]["hardware"]["threads"]
    modules = {
        f"{row['activation']} of {row['numel']:,} elements": row["ratio"]
        for row in matching(summary["rows"], {"level": "module", "dtype": "float32", "threads": threads})
    }
    return (
        f"**Single kernels in the cache**, float32: slower in {slower(kernels)}. **Modules**, forward with backward: "
        f"slower in {slower(modules)}."
    )


def by_inputs(result: dict[str, Any]) -> str:
    ratios = {
        f"{row['activation']} {row['direction']}": min(torchs / ours for ours, torchs in row["seconds"].values())
        for row in result["rows"]
    }
    return f"**Single kernels, by the range of the inputs**, in the worst of them: slower in {slower(ratios)}."


def watched_steps(result: dict[str, Any]) -> str:
    added = {
        way: [
            f"{round(100 * row['overhead'][way]):+}%"
            for row in sorted(result["rows"], key=lambda row: row["overhead"][way])
        ]
        for way in ("every=1", "every=20")
    }
    shown = ", ".join(f"{each[0]} to {each[-1]} with `{way}`" for way, each in added.items())
    return f"**`Monitor`** makes a training step longer: {shown}."


LINES: tuple[tuple[str, Callable[[dict[str, Any]], str], str], ...] = (
    ("models", whole_models, "model-benchmark.md"),
    ("memory", recomputed_models, "memory-benchmark.md"),
    ("enabled", enabled_calls, "enable.md#measured"),
    ("summary", single_activations, "op-benchmark.md"),
    ("tails", by_inputs, "speed.md#tables"),
    ("monitor", watched_steps, "monitor.md#what-it-costs"),
)
"""The name of a result, what its losses are, and the page that shows all of it."""


def as_list(folder: str = "") -> str:
    """As Markdown, for a page from which the docs lie in that folder."""
    lines = []
    for name, words, page in LINES:
        result = json.loads(latest_results(name)[0].read_text())
        lines.append(f"- {words(result)} [{name_of(result['environment'])}]({folder}{page})")
    return "\n".join(lines) + "\n"
