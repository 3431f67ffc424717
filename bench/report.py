"""From rows.jsonl to a summary; from summary.json to report.md, roofline.png and the table in the docs.

python bench/report.py bench/results/HARDWARE…  [--table docs/op-benchmark.md]
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from environment import name_of, write_result

Row = dict[str, Any]
Group = tuple[str, dict[str, Any]]


def markers(name: str) -> tuple[str, str]:
    """Between which a table stands in a page."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


BEGIN, END = markers("bench")

# The columns of the short table: a heading, and the rows that it takes its figure from.
SHORT_COLUMNS: dict[str, list[Group]] = {
    "cpu": [
        *(
            (f"{direction} {label}", {"level": "op", "direction": direction, "dtype": dtype})
            for dtype, label in (("float32", "f32"), ("bfloat16", "bf16"))
            for direction in ("forward", "backward")
        ),
        ("module 2²⁰", {"level": "module", "dtype": "float32", "numel": 1 << 20, "all_threads": True}),
        ("module 2²⁴", {"level": "module", "dtype": "float32", "numel": 1 << 24}),
    ],
    "cuda": [
        *(
            (f"{direction} bf16", {"level": "module", "direction": direction, "dtype": "bfloat16", **large})
            for large in ({"numel": 1 << 27, "layout": "contiguous"},)
            for direction in ("forward", "backward", "both")
        ),
        ("both f32", {"level": "module", "direction": "both", "dtype": "float32", "numel": 1 << 26}),
        ("host 2¹⁰", {"level": "module", "direction": "host", "passes": "both", "numel": 1 << 10}),
        ("host 2²⁰", {"level": "module", "direction": "host", "passes": "both", "numel": 1 << 20}),
    ],
}
EXPLAINED = {
    "cpu": "Time of torch over time of fastact. The first four columns are the raw ops beside ATen's, 65,536 "
    "elements on one thread; `module` is forward + backward through the module with autograd, float32, all threads. "
    "The second line counts (in brackets) only activations for which torch runs at half the speed of a copy of the "
    "same bytes or less: where it is faster, no kernel can be twice as fast.",
    "cuda": "Time of torch over time of fastact, through the module with autograd, 256 MB tensors; `host` is the "
    "host's time for forward + backward on so many elements.",
}
KEYS = ("activation", "level", "direction", "passes", "dtype", "numel", "layout", "threads")


def read(path: Path) -> dict[str, Any]:
    """The file that the benchmark appends each row to. A line that was cut off is left out."""
    raw: dict[str, Any] = {"rows": [], "missing": []}
    for line in path.read_text().splitlines():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        raw.setdefault("environment", found.get("environment"))
        for key, many in (("row", "rows"), ("missing", "missing")):
            if key in found:
                raw[many].append(found[key])
    return raw


def summarise(raw: dict[str, Any]) -> dict[str, Any]:
    """One row for each pair of a measurement and a peer, losses and all, in the order measured."""
    rows = [row for measured in raw["rows"] for row in _rows(measured)]
    most = max((row["threads"] for row in rows), default=1)
    for row in rows:
        row["all_threads"] = row["threads"] == most
    return {
        "environment": raw["environment"] | {"copy_gb_per_s": _bandwidths(rows)},
        "rows": rows,
        "missing": raw["missing"],
    }


def _rows(info: dict[str, Any]) -> Iterable[Row]:
    seconds = info["seconds"]
    limits = {name: limit["bytes"] / limit["seconds"] for name, limit in info["limits"].items()}

    def fraction(limit: str) -> float | None:
        return info["moved_bytes"] / seconds / limits[limit] if limit in limits else None

    for peer in info["peers"]:
        yield {
            **{key: info[key] for key in KEYS},
            "ns": seconds * 1e9,
            "peer": peer["peer"],
            "peer_ns": peer["seconds"] * 1e9,
            "ratio": peer["seconds"] / seconds,
            "ratio_quartiles": peer["ratio_quartiles"],
            "rounds": info["rounds"],
            "moved_bytes": info["moved_bytes"],
            "copy_bytes_per_s": limits.get("copy"),
            "fraction_of_copy": fraction("copy"),
            "fraction_of_stream": fraction("stream") if info["direction"] == "backward" else None,
            "saved_bytes_per_element": info["saved_bytes"] / info["numel"],
            "peer_saved_bytes_per_element": peer["saved_bytes"] and peer["saved_bytes"] / info["numel"],
            "peak_bytes": info["peak_bytes"],
            "peer_peak_bytes": peer["peak_bytes"],
        }


def add_instructions(summary: dict[str, Any], counted: Sequence[dict[str, Any]]) -> None:
    """What the rows of instructions.json say, to the rows that they are about."""
    code = {(each["activation"], each["direction"]): each["instructions_per_element"] for each in counted}
    for row in summary["rows"]:
        alone = row["level"] == "op" and row["dtype"] == "float32" and row["peer"] != "torch.compile"
        count = code.get((row["activation"], row["direction"]), {}) if alone else {}
        row["instructions_per_element"] = count.get(summary["environment"]["hardware"].get("instruction_set"))


def _bandwidths(rows: list[Row]) -> dict[str, float]:
    """The median copy bandwidth by bytes copied and threads."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["copy_bytes_per_s"]:
            size = row["numel"] * _ITEMSIZE[row["dtype"]]
            found.setdefault(f"{size} bytes, {row['threads']} threads", []).append(row["copy_bytes_per_s"] / 1e9)
    return {key: median(values) for key, values in found.items()}


_ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def losses(rows: list[Row]) -> list[Row]:
    """Where fastact is the slower one, the worst first."""
    return sorted((row for row in rows if row["ratio"] < 1), key=lambda row: row["ratio"])


def matching(rows: list[Row], wanted: dict[str, Any]) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _is_torch(row: Row) -> bool:
    return row["peer"].startswith(("torch", "aten")) and row["peer"] != "torch.compile"


# Text


def table(headings: Sequence[str], lines: Iterable[Iterable[str]], numbers_from: int = 1) -> str:
    rule = ["---" if i < numbers_from else "---:" for i in range(len(headings))]
    cells = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, rule, *cells))


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def ratio_cell(value: float | None) -> str:
    """Bold where fastact loses, as far as the digits shown say so."""
    shown = _number(value)
    return f"**{shown}**" if shown and float(shown) < 1 else shown


def _count(value: int) -> str:
    """2²⁰ rather than 1048576."""
    if value >= 1024 and value & (value - 1) == 0:
        return "2" + str(value.bit_length() - 1).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return str(value)


def _time(ns: float) -> str:
    for unit, size in (("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns"


def short_table(summary: dict[str, Any]) -> str:
    """The geometric means, then one line for each activation, the one with the worst loss first."""
    rows = [row for row in summary["rows"] if _is_torch(row)]
    groups = SHORT_COLUMNS[summary["environment"]["device"]]
    columns = [(heading, matching(rows, wanted)) for heading, wanted in groups]
    if summary["environment"]["device"] == "cuda":
        columns.insert(3, ("beside torch.compile", matching(summary["rows"], {"peer": "torch.compile"})))
    columns = [(heading, {row["activation"]: row for row in found}) for heading, found in columns if found]
    modules: dict[str, Row] = {}
    for row in rows:
        if row["level"] == "module" and row["numel"] >= modules.get(row["activation"], row)["numel"]:
            modules[row["activation"]] = row

    def worst(name: str) -> float:
        return min((found[name]["ratio"] for _, found in columns if name in found), default=math.inf)

    def saved(name: str) -> str:
        row = modules.get(name)
        if row is None:
            return ""
        return f"{row['saved_bytes_per_element']:.3g} / {row['peer_saved_bytes_per_element'] or 0:.3g}"

    names = sorted({row["activation"] for row in rows}, key=worst)
    headings = ["activation", *(heading for heading, _ in columns), "bytes saved per element, fastact / torch"]
    means = [ratio_cell(geometric_mean(row["ratio"] for row in found.values())) for _, found in columns]
    slow = [[row["ratio"] for row in found.values() if _torch_is_slow(row)] for _, found in columns]
    above = [f"{geometric_mean(ratios):.2f} ({len(ratios)})" if ratios else "" for ratios in slow]
    lines = (
        [name, *(ratio_cell(found.get(name, {}).get("ratio")) for _, found in columns), saved(name)] for name in names
    )
    head = [["*geometric mean*", *means, ""]]
    if any(above):
        head.append(["*geometric mean, torch at half a copy's speed or less*", *above, ""])
    return table(headings, [*head, *lines])


def _torch_is_slow(row: Row) -> bool:
    """Whether torch runs at half the speed of a copy of the bytes that the call must move, or less."""
    return row["fraction_of_copy"] is not None and row["fraction_of_copy"] / row["ratio"] <= 0.5


def short_block(summary: dict[str, Any]) -> str:
    environment = summary["environment"]
    versions = environment["versions"]
    return "\n\n".join(
        (
            f"Measured on {name_of(environment)}; torch {versions['torch']}, {environment['date'][:10]}. "
            f"{EXPLAINED[environment['device']]} "
            "Bold: fastact loses. Worst first.",
            short_table(summary),
        )
    )


def _folded(summary: dict[str, Any]) -> str:
    environment = summary["environment"]
    title = f"{name_of(environment)}, {environment['date'][:10]}, commit {(environment['commit'] or 'unknown')[:7]}"
    return f'<details markdown="1"><summary>{title}</summary>\n\n{short_block(summary)}\n\n</details>'


def _means(rows: list[Row]) -> str:
    """Over the activations: the geometric mean and the worst, for each kind of row."""
    kinds: dict[tuple, list[Row]] = {}
    for row in rows:
        kind = tuple(row[key] for key in KEYS[1:]) + ((row["peer"],) if not _is_torch(row) else ("torch",))
        kinds.setdefault(kind, []).append(row)
    lines = []
    for kind, members in kinds.items():
        level, direction, passes, dtype, numel, layout, threads, peer = kind
        what = f"{direction}: {passes}" if passes else direction
        worst = min(members, key=lambda row: row["ratio"])
        mean = geometric_mean(row["ratio"] for row in members)
        cells = [level, what, dtype, _count(numel), layout, str(threads), peer, str(len(members))]
        lines.append([*cells, ratio_cell(mean), f"{ratio_cell(worst['ratio'])} {worst['activation']}"])
    headings = ["level", "direction", "dtype", "elements", "layout", "threads", "peer", "activations"]
    return table([*headings, "geometric mean", "worst"], lines, numbers_from=7)


def _threads(rows: list[Row]) -> str:
    """How many times as fast all threads are as one, through the module."""
    wanted = {"level": "module", "direction": "both", "dtype": "float32", "numel": 1 << 20}
    rows = [row for row in matching(rows, wanted) if _is_torch(row)]
    most = max((row["threads"] for row in rows), default=1)
    by_threads = [{row["activation"]: row for row in rows if row["threads"] == threads} for threads in (1, most)]
    one, all_of_them = by_threads
    lines = [
        [name, *(_number(one[name][key] / all_of_them[name][key]) for key in ("ns", "peer_ns"))]
        for name in one
        if name in all_of_them and most > 1
    ]
    return table(["activation", "fastact", "torch"], lines) if lines else ""


def _full_table(rows: list[Row]) -> str:
    def line(row: Row) -> list[str]:
        low, high = row["ratio_quartiles"]
        saved = row["peer_saved_bytes_per_element"]
        peaks = [_number(row[key] and row[key] / 2**20, 1) for key in ("peak_bytes", "peer_peak_bytes")]
        return [
            row["activation"],
            row["level"],
            f"{row['direction']}: {row['passes']}" if row["passes"] else row["direction"],
            row["dtype"],
            _count(row["numel"]),
            row["layout"],
            str(row["threads"]),
            row["peer"],
            _time(row["ns"]),
            _time(row["peer_ns"]),
            ratio_cell(row["ratio"]),
            f"{low:.2f} to {high:.2f}",
            _number(row["fraction_of_copy"]),
            _number(row["fraction_of_stream"]),
            _number(row.get("instructions_per_element")),
            f"{row['saved_bytes_per_element']:.3g} / {'' if saved is None else format(saved, '.3g')}",
            " / ".join(peaks) if any(peaks) else "",
        ]

    headings = ["activation", "level", "direction", "dtype", "elements", "layout", "threads", "peer", "fastact"]
    headings += ["peer's", "ratio", "quartiles", "of copy", "of stream", "instructions", "saved B/element"]
    headings.append("peak MiB")
    return table(headings, map(line, rows), numbers_from=8)


def report(summary: dict[str, Any]) -> str:
    environment, rows = summary["environment"], summary["rows"]
    lost = losses(rows)
    noise = sum(row["ratio_quartiles"][1] >= 1 for row in lost)
    facts = [
        f"{key}: {value}" for part in ("hardware", "versions") for key, value in environment[part].items() if value
    ]
    threads = _threads(rows)
    bandwidths = ", ".join(f"{value:.0f} GB/s ({key})" for key, value in environment["copy_gb_per_s"].items())
    parts = [
        f"# Benchmark: {name_of(environment)}",
        f"{environment['date']}, commit {environment['commit'] or 'unknown'}. {'; '.join(facts)}. "
        f"Load average before the run: {environment['load_average_before']:.1f}. "
        f"Copy: {bandwidths or 'not measured'}. What the columns mean: `bench/README.md`.",
        f"## Where fastact loses\n\n{len(lost)} of {len(rows)} rows; in {noise} of them the quartiles of the ratio "
        "reach 1, so that the run does not decide.",
        _full_table(lost) if lost else "Nowhere.",
        f"## By activation\n\n{BEGIN}\n{short_block(summary)}\n{END}",
        f"## Over all activations\n\n{_means(rows)}",
        *(
            [f"## Threads\n\nTimes as fast as on one thread, forward + backward, 2²⁰ elements:\n\n{threads}"]
            if threads
            else []
        ),
        "## Picture\n\n![Time per element beside the limit](roofline.png)",
    ]
    if summary["missing"]:
        missing = "\n".join(f"- `{row['row']}`: {row['why']}" for row in summary["missing"])
        parts.append(f"## Not measured\n\n{missing}")
    parts.append("## All rows")
    for level in dict.fromkeys(row["level"] for row in rows):
        for direction in dict.fromkeys(row["direction"] for row in rows if row["level"] == level):
            found = matching(rows, {"level": level, "direction": direction})
            parts.append(f"### {level}, {direction}\n\n{_full_table(found)}")
    return "\n\n".join(parts) + "\n"


def replace_block(text: str, block: str, name: str = "bench") -> str:
    """The text with what stands between the markers of that name replaced."""
    begin, end = markers(name)
    if begin not in text or end not in text:
        raise SystemExit(f"no {begin} … {end} to put the table in")
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{block}\n{end}", text)


# Picture

PANELS: dict[str, list[Group]] = {
    "cpu": [
        ("raw op, forward\nfloat32 in cache, 1 thread", {"level": "op", "direction": "forward", "dtype": "float32"}),
        ("raw op, backward\nfloat32 in cache, 1 thread", {"level": "op", "direction": "backward", "dtype": "float32"}),
        ("raw op, forward\nbfloat16 in cache, 1 thread", {"level": "op", "direction": "forward", "dtype": "bfloat16"}),
        ("module, forward + backward\nfloat32, 2²⁴, all threads", {"level": "module", "numel": 1 << 24}),
    ],
    "cuda": [
        (
            f"module, {direction.replace('both', 'forward + backward')}\nbfloat16, 256 MB",
            {"level": "module", "direction": direction, "dtype": "bfloat16", "numel": 1 << 27, "layout": "contiguous"},
        )
        for direction in ("forward", "backward", "both")
    ],
}
OURS, THEIRS, LINE = "#d1495b", "#30638e", "#8d99ae"


def draw(summary: dict[str, Any], path: Path) -> None:
    """Time per element of both beside the time that a copy takes; where several were measured, bandwidth over size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in summary["rows"] if _is_torch(row)]
    panels = [(title, matching(rows, wanted)) for title, wanted in PANELS[summary["environment"]["device"]]]
    panels = [panel for panel in panels if panel[1]]
    sweep = matching(rows, {"level": "module", "direction": "both", "dtype": "bfloat16", "layout": "contiguous"})
    names = sorted({row["activation"] for _, found in panels for row in found}, reverse=True)
    plots: list[Callable[[Any], None]] = [
        lambda axes, panel=panel, first=index == 0: _draw_times(axes, *panel, names, labelled=first)
        for index, panel in enumerate(panels)
    ]
    if len({row["numel"] for row in sweep}) > 1:
        plots.append(lambda axes: _draw_sweep(axes, sweep))
    if not plots:
        return
    size = (1.2 + 3.1 * len(plots), max(3.2, 1.7 + 0.28 * (len(names) or 8)))
    figure, grid = plt.subplots(1, len(plots), figsize=size, squeeze=False, layout="constrained")
    for axes, plot in zip(grid[0], plots, strict=True):
        plot(axes)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    environment = summary["environment"]
    figure.suptitle(f"{name_of(environment)}, torch {environment['versions']['torch']}", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_times(axes: Any, title: str, rows: list[Row], names: list[str], labelled: bool) -> None:
    """Each activation on the same height in all panels, whether or not it is in this one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    rows = list({row["activation"]: row for row in rows}.values())
    ours = [row["ns"] / row["numel"] for row in rows]
    theirs = [row["peer_ns"] / row["numel"] for row in rows]
    limit = median(row["ns"] * row["fraction_of_copy"] / row["numel"] for row in rows)
    places = [names.index(row["activation"]) for row in rows]
    axes.hlines(places, ours, theirs, color=LINE, linewidth=1.5, zorder=1)
    axes.scatter(theirs, places, color=THEIRS, s=34, label="torch", zorder=2)
    axes.scatter(ours, places, color=OURS, s=34, label="fastact", zorder=3)
    axes.axvline(limit, color="black", linestyle=":", linewidth=1, label="moving as many bytes at a copy's speed")
    axes.set_xscale("log")
    span = (min(ours + theirs + [limit]), max(ours + theirs))
    axes.set_xlim(span[0] / 1.4, span[1] * 1.4)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if span[1] / span[0] > 100 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(names)), names if labelled else [""] * len(names))
    axes.set_ylim(-1, len(names))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e5e5e5", zorder=0)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=9.5)
    axes.set_xlabel("ns per element")


def _draw_sweep(axes: Any, rows: list[Row]) -> None:
    for name in dict.fromkeys(row["activation"] for row in rows):
        line = sorted(matching(rows, {"activation": name}), key=lambda row: row["numel"])
        sizes = [row["numel"] for row in line]
        axes.plot(sizes, [row["moved_bytes"] / row["ns"] for row in line], marker="o", markersize=3, label=name)
    roof = [row["copy_bytes_per_s"] / 1e9 for row in rows if row["copy_bytes_per_s"]]
    if roof:
        axes.axhline(max(roof), color="black", linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_title("module, forward + backward\nbfloat16, by size", fontsize=9.5)
    axes.set_xlabel("elements")
    axes.set_ylabel("GB/s")
    axes.legend(fontsize=7, frameon=False)


# Command


def load(folder: Path) -> dict[str, Any]:
    """The summary, with the instructions counted on the same hardware. A run that was cut off left the rows alone."""
    rows, last = folder / "rows.jsonl", folder / "summary.json"
    if rows.exists() and (not last.exists() or last.stat().st_mtime < rows.stat().st_mtime):
        write_result(folder, "summary", summarise(read(rows)))
    summary = json.loads((folder / "summary.json").read_text())
    counted = folder / "instructions.json"
    if counted.exists():
        add_instructions(summary, json.loads(counted.read_text())["rows"])
    return summary


def tables(summaries: Iterable[dict[str, Any]]) -> str:
    """The latest in full view, the others folded."""
    latest, *others = sorted(summaries, key=lambda each: each["environment"]["date"], reverse=True)
    return "\n\n".join([short_block(latest), *map(_folded, others)])


def write(folder: Path) -> dict[str, Any]:
    """Everything that follows from the folder's summary.json."""
    summary = load(folder)
    (folder / "report.md").write_text(report(summary))
    draw(summary, folder / "roofline.png")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with a summary.json or rows.jsonl")
    parser.add_argument(
        "--table", type=Path, help="a file between whose markers the tables go, the latest in full view"
    )
    options = parser.parse_args()
    summaries = [write(folder) for folder in options.folders]
    if options.table:
        options.table.write_text(replace_block(options.table.read_text(), tables(summaries)))


if __name__ == "__main__":
    main()
