"""Where fastact loses, in words: from each benchmark's results on all machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import memory
import models
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
    rows = {row["model"]: row for row in result["rows"]}
    steps = {name: min(row["step"][mode]["ratio"] for mode in models.OURS) for name, row in rows.items()}
    kept = {
        name: max(row["kept_bytes"][mode] for mode in models.OURS) / row["kept_bytes"]["stock"]
        for name, row in rows.items()
    }
    names = {"again": "stock again"} | {mode: mode for mode in models.OURS}
    means = ", ".join(
        f"{name} {geometric_mean(row['step'][mode]['ratio'] for row in rows.values()):.2f}"
        for mode, name in names.items()
        if all(mode in row["step"] for row in rows.values())
    )
    again = {name: row["step"]["again"]["ratio"] for name, row in rows.items() if "again" in row["step"]}
    chance = f"; by chance alone, torch's own model beside itself: slower in {slower(again)}" if again else ""
    return f"slower in {slower(steps)}{chance}; keeps more in {larger(kept)}. Speed of all, as geometric means: {means}"


def recomputed_models(result: dict[str, Any]) -> str:
    steps = {row["model"]: row["step"][memory.RECOMPUTE]["ratio"] for row in result["rows"]}
    kept, peak = (
        {row["model"]: memory.share(row, figure, memory.RECOMPUTE) or 1 for row in result["rows"]}
        for figure in ("kept_bytes", "peak_bytes")
    )
    unchanged = lost(peak, lambda ratio: ratio >= 0.95)
    return f"slower in {slower(steps)}; keeps more in {larger(kept)}; the peak falls by 5% or less in {unchanged}"


def beside_a_budget(result: dict[str, Any]) -> str:
    rows = [row for row in result["rows"] if {memory.RECOMPUTE, memory.BUDGET} <= row["step"].keys()]
    kept = sum(row["kept_bytes"][memory.BUDGET] < row["kept_bytes"][memory.RECOMPUTE] for row in rows)
    faster = sum(row["step"][memory.BUDGET]["ms"] < row["step"][memory.RECOMPUTE]["ms"] for row in rows)
    return f"it keeps less in {kept} of {len(rows)} and is faster in {faster}"


def enabled_calls(result: dict[str, Any]) -> str:
    def ratios(direction: str) -> dict[str, float]:
        rows = (row for row in result["rows"] if row["direction"] == direction)
        return {f"{row['name']} of {row['numel']:,} elements": row["ratio"] for row in rows}

    return (
        f"forward {slower(ratios('forward'))}; forward with a gradient to come {slower(ratios('with node'))}; "
        f"forward with backward {slower(ratios('both'))}"
    )


def kernels(summary: dict[str, Any]) -> str:
    rows = (row for row in matching(summary["rows"], {"dtype": "float32"}) if row["level"].startswith("op"))
    return slower(
        {
            f"{row['activation']} {row['direction']}{' saving bits' * (row['level'] != 'op')}": row["ratio"]
            for row in rows
        }
    )


def modules(summary: dict[str, Any]) -> str:
    def ratios(direction: str) -> dict[str, float]:
        rows = matching(summary["rows"], {"level": "module", "dtype": "float32", "direction": direction})
        return {
            f"{row['activation']} of {row['numel']:,} elements, {row['layout']}, {row['threads']} threads".replace(
                ", contiguous", ""
            ).replace("1 threads", "1 thread"): row["ratio"]
            for row in rows
        }

    found = {"forward": ratios("forward"), "forward with backward": ratios("both")}
    return "; ".join(f"{words} {slower(each)}" for words, each in found.items() if each)


def by_inputs(result: dict[str, Any]) -> str:
    ratios = {
        f"{row['activation']} {row['direction']}": min(torchs / ours for ours, torchs in row["seconds"].values())
        for row in result["rows"]
    }
    return slower(ratios)


def watched_steps(result: dict[str, Any]) -> str:
    added = {
        way: [
            f"{round(100 * row['overhead'][way]):+}%"
            for row in sorted(result["rows"], key=lambda row: row["overhead"][way])
        ]
        for way in ("every=1", "every=20")
    }
    return ", ".join(f"{each[0]} to {each[-1]} with `{way}`" for way, each in added.items())


LINES: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("models", "A training step of **whole models**, enabled or converted", whole_models),
    ("memory", "A training step of **whole models under `recompute`**", recomputed_models),
    ("memory", "**`torch.compile` with `activation_memory_budget=0.5`**, beside `recompute`", beside_a_budget),
    ("enabled", "**Calls of torch's own functions**, enabled, are slower", enabled_calls),
    ("summary", "**Single kernels** in the cache, float32, are slower", kernels),
    ("summary", "**Modules**, float32, are slower", modules),
    ("tails", "**Single kernels on their least favourable range of inputs** are slower", by_inputs),
    ("monitor", "**`Monitor`** makes a training step longer", watched_steps),
)
"""The name of a result, what it measures, and what its losses are."""


def as_list(to_root: str = "", latest_only: bool = False) -> str:
    """As Markdown, for a page from which the project's folder is there. The links lead to a result's own report."""
    lines = []
    for name, measured, words in LINES:
        shown = []
        for path in latest_results(name)[: 1 if latest_only else None]:
            result = json.loads(path.read_text())
            report = path.with_name("report.md" if name == "summary" else f"{name}.md").relative_to(ROOT)
            machine, day = name_of(result["environment"]), result["environment"]["date"][:10]
            shown.append(f"{words(result)}. [{machine}, {day}]({to_root}{report})")
        lines.append(f"- {measured}: {shown[0]}" if len(shown) == 1 else f"- {measured}:")
        lines += [f"    - {each}" for each in shown if len(shown) > 1]
    return "\n".join(lines) + "\n"
