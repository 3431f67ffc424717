"""Write what the documentation takes from the catalogue, the command line and measurements: tables, pages, pictures."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from unittest.mock import patch

import torch

import fastact
from fastact.__main__ import main as command_line
from fastact.catalogue import ACTIVATIONS, Activation
from fastact.forms import FORMS
from fastact.twins import CLASSES

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "bench"), str(ROOT / "examples")]
README, PAGE, GUIDE = ROOT / "README.md", ROOT / "docs" / "activations.md", ROOT / "docs" / "which-activation.md"
MODELS, ENABLE = ROOT / "docs" / "models.md", ROOT / "docs" / "enable.md"
SPEED, PAGE_FAULTS = ROOT / "docs" / "speed.md", ROOT / "bench/results/cpu-intel-xeon-avx512/page_faults.md"
SAVED, RECOMPUTE = ROOT / "docs" / "saved.md", ROOT / "docs" / "recompute.md"
EXAMPLE, SAVED_EXAMPLE = ROOT / "examples" / "dead_units.py", ROOT / "examples" / "kept_for_backward.py"
RECOMPUTE_EXAMPLE = ROOT / "examples" / "made_again.py"
MONITOR, MONITOR_EXAMPLE = ROOT / "docs" / "monitor.md", ROOT / "examples" / "inside.py"
DISTRIBUTED, DISTRIBUTED_EXAMPLE = ROOT / "docs" / "distributed.md", ROOT / "examples" / "distributed.py"
GALLERY, COMMANDS, BENCHMARKS = ROOT / "docs" / "gallery.md", ROOT / "docs/api/cli.md", ROOT / "docs" / "benchmarks.md"
LOGO = ROOT / "docs" / "assets" / "logo.svg"
PLOT, PLOT_EXAMPLE = ROOT / "docs" / "plot.md", ROOT / "examples" / "curves.py"
_NUMEL = 1 << 20  # so large that a seed or a learned number beside it does not show


def table(header: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    """Of words, a line by itself."""
    from report import table as markdown

    return markdown(header, rows, numbers_from=len(header)) + "\n"


def name_of(row: Activation) -> str:
    """As one writes it, with the options that choose this row."""
    options = ", ".join(f"{name}={value!r}" for name, value in row.options.items())
    return f"`{row.module}({options})`" if options else f"`{row.module}`"


@cache
def saved(row: Activation, dtype: torch.dtype) -> tuple[str, str]:
    """Bytes that one forward keeps for backward, per element of its output: by fastact's kernel, and by torch."""
    from measure import Case

    case = Case(row, dtype, _NUMEL)
    ours, torchs = (case.saved(module).total / _NUMEL for module in (case.module, case.stock))
    return f"{ours:.3g}", f"{torchs:.3g}"


def memory_table() -> str:
    """In both sizes of numbers."""
    header = ("activation", "float32: fastact", "torch", "bfloat16: fastact", "torch")
    dtypes = (torch.float32, torch.bfloat16)
    return table(
        header, ([name_of(row), *saved(row, dtypes[0]), *saved(row, dtypes[1])] for row in ACTIVATIONS.values())
    )


def described(row: Activation) -> str:
    """A picture, and all that the catalogue says in words."""
    words = {
        "formula": row.formula,
        "derivative": row.derivative + _kinks(row),
        "saved for backward": row.saved_in_words,
        "use": row.use,
        "paper": row.paper,
    }
    picture = f"![{row.label} with its derivative](gallery/{row.name}.svg)"
    return f"### {row.label}\n\n{picture}\n\n{table((name_of(row), ''), words.items()).rstrip()}"


def _kinks(row: Activation) -> str:
    kinks = row.kinks(**row.samples[0])
    return f". Jumps at {' and '.join(f'{kink:g}' for kink in kinks)}" if kinks else ""


def page() -> str:
    """docs/activations.md."""
    parts = [
        "# The activations",
        "`make docs` writes this page from `fastact/catalogue.py`, and measures the table of memory. x is the input, y "
        f"the output; arguments have torch's names. [The gallery]({GALLERY.name}) says what the pictures show. [Which "
        f"one to take]({GUIDE.name}) is a page of its own.",
    ]
    for family, rows in families().items():
        parts += [f"## {family}", *map(described, rows)]
    parts += [
        "## Memory",
        "Bytes that one forward keeps for backward, per element of the output, as torch's saved-tensor hooks see them: "
        "through fastact's module with its kernels, and through torch.nn's, or, where torch.nn has none, through the "
        "composite of torch's functions. A saved input or output may be one that a neighbouring layer keeps anyway; "
        "bits and bytes always come on top. Gated units and Maxout have inputs longer than their output.",
        memory_table().rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def families() -> dict[str, list[Activation]]:
    """By their headings."""
    found: dict[str, list[Activation]] = {}
    for row in ACTIVATIONS.values():
        found.setdefault(row.family.replace("_", "-").capitalize(), []).append(row)
    return found


def gallery() -> str:
    """docs/gallery.md."""
    parts = [
        "# Gallery",
        "Each activation (blue) over its input from -5 to 5, its derivative (dashed), its kinks (dots), and where it "
        "is flat (grey). [`fastact.plot`](plot.md) draws them, from what fastact's kernels compute; `make docs` makes "
        f"them again. [Derivatives, papers and what is saved]({PAGE.name}); [which one to take]({GUIDE.name}).",
    ]
    for family, rows in families().items():
        cards = [
            f"-   ![{row.label}](gallery/{row.name}.svg)\n\n    [{name_of(row)}]({PAGE.name}#{row.label.lower()})<br>\n"
            f"    {row.formula}"
            for row in rows
        ]
        parts += [f"## {family}", '<div class="grid cards" markdown="1">', *cards, "</div>"]
    return "\n\n".join(parts) + "\n"


def draw_gallery(folder: Path) -> None:
    """A small picture for each activation."""
    from matplotlib import rc_context

    folder.mkdir(exist_ok=True)
    for row in ACTIVATIONS.values():
        figure = fastact.plot(row.name)
        figure.legends[0].remove()  # the page says it once
        figure.supxlabel("")
        figure.supylabel("")
        figure.set_size_inches(3, 2.2)
        with rc_context({"svg.hashsalt": row.name}):  # else each run has other names in the file
            unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(folder / f"{row.name}.svg", metadata=unsaid)


def logo() -> str:
    """GELU, as SVG."""
    x = torch.linspace(-3, 1.9, 50, dtype=torch.float64)
    places = zip(28 + 8 * x, 36 - 13 * fastact.functional.gelu(x), strict=True)
    points = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48">\n'
        '  <rect width="48" height="48" rx="10" fill="#0072b2"/>\n'
        f'  <polyline points="{points}" fill="none" stroke="#fff" stroke-width="5" stroke-linecap="round"/>\n'
        "</svg>\n"
    )


def commands() -> str:
    """What `python -m fastact` says of each command."""

    def help_of(*names: str) -> str:
        with patch.dict(os.environ, COLUMNS="84"), redirect_stdout(io.StringIO()) as said, suppress(SystemExit):
            command_line([*names, "--help"])
        return said.getvalue()

    names = re.search(r"{(.+?)}", help_of())[1].split(",")
    return "\n\n".join(f"## {name}\n\n```\n{help_of(name).rstrip()}\n```" for name in names) + "\n"


def classes_table() -> str:
    """What `convert` knows by name."""
    rows = (
        (f"`{module}`", f"`{name}`", " or ".join(f"`{row}`" for row in named.rows))
        for module, classes in CLASSES.items()
        for name, named in classes.items()
    )
    return table(("module", "class", "activation"), rows)


def forms_table() -> str:
    """What `convert` knows by its lines."""
    rows = ((form.name, ", ".join(f"`{row}`" for row in form.rows.values())) for form in FORMS)
    return table(("form", "activation"), rows)


def models() -> str:
    """docs/models.md, with its tables renewed."""
    return with_block(with_block(MODELS.read_text(), "classes", classes_table()), "forms", forms_table())


def overrides_table() -> str:
    """What `enable` replaces."""
    rows = (
        (f"`{row.activation}`", f"`{row.torch_op}`", f"{row.bytes:.3g} / {row.torch_bytes:g}")
        for row in fastact.overrides().rows
    )
    return table(("activation", "torch's op", "bytes kept per element, fastact / torch"), rows)


def measured(name: str) -> str:
    """What a script in bench/ wrote last, below its heading, one level down."""
    from losses import latest_results

    latest = latest_results(name)[0]
    return latest.with_suffix(".md").read_text().partition("\n\n")[2].replace("\n## ", "\n### ")


def enable() -> str:
    """docs/enable.md, with its tables renewed."""
    text = with_block(ENABLE.read_text(), "overrides", overrides_table())
    return with_block(with_block(text, "batch norm", measured("batch_norm")), "enabled", measured("enabled"))


def with_block(text: str, name: str, content: str) -> str:
    """The text with what stands between the markers of that name replaced."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    found, count = re.subn(f"(?<={re.escape(begin)}).*?(?={end})", lambda _: content, text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"no place for {name}")
    return found


def example(path: Path = EXAMPLE) -> str:
    """A script: by default the one that watches units die."""
    return f"[`{path.relative_to(ROOT)}`](../{path.relative_to(ROOT)}):\n\n```python\n{path.read_text()}```\n"


def output_of(path: Path, *arguments: Path) -> str:
    """What the script prints."""
    command = [sys.executable, path, *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f"```\n{output.rstrip()}\n```\n"


def saved_page(*pictures: Path) -> str:
    """docs/saved.md, with its example and what that prints renewed."""
    text = with_block(SAVED.read_text(), "saved-example", example(SAVED_EXAMPLE))
    return with_block(text, "saved-output", output_of(SAVED_EXAMPLE, *pictures))


def measured_memory() -> str:
    """What bench/memory.py measured last; nothing before it has."""
    import memory
    from losses import latest_results

    results = latest_results("memory")
    if not results:
        return ""

    result = json.loads(results[0].read_text())
    picture = results[0].with_suffix(".png").relative_to(ROOT)
    parts = [
        "## Measured",
        f"{memory.measured_on(result, memory.LIBRARIES)} {memory.verdict(result['rows'])}",
        f"![Bytes kept for backward](../{picture})",
        memory.EXPLAINED,
        memory.kept_table(result["rows"]),
        "[All figures](memory-benchmark.md), with peaks and times of a step, and what the methods are.",
    ]
    return "\n\n".join(parts) + "\n"


def recompute_page() -> str:
    """docs/recompute.md, with its example, what that prints, and what was measured renewed."""
    text = with_block(RECOMPUTE.read_text(), "recompute-example", example(RECOMPUTE_EXAMPLE))
    text = with_block(text, "recompute-output", output_of(RECOMPUTE_EXAMPLE))
    return with_block(text, "recompute-memory", measured_memory())


def plot_page(*pictures: Path) -> str:
    """docs/plot.md, with its example renewed, and drawn if a picture is named."""
    for picture in pictures:
        subprocess.run([sys.executable, PLOT_EXAMPLE, picture], check=True)
    return with_block(PLOT.read_text(), "plot-example", example(PLOT_EXAMPLE))


def monitor_page(*pictures: Path) -> str:
    """docs/monitor.md, with its example and the costs renewed and, if a picture is named, what the example prints.

    Training rounds otherwise on another processor, so that a test cannot compare that.
    """
    text = with_block(MONITOR.read_text(), "monitor-example", example(MONITOR_EXAMPLE))
    for picture in pictures:
        text = with_block(text, "monitor-output", output_of(MONITOR_EXAMPLE, picture))
    return with_block(text, "monitor-cost", measured("monitor"))


def distributed_page(*, run: bool) -> str:
    """docs/distributed.md, with its example renewed and, if it runs, what it prints on this processor."""
    text = with_block(DISTRIBUTED.read_text(), "distributed-example", example(DISTRIBUTED_EXAMPLE))
    return with_block(text, "distributed-output", output_of(DISTRIBUTED_EXAMPLE)) if run else text


def losses(to_root: str = "", *, latest_only: bool = False) -> str:
    """Of all benchmarks, for a page from which the project's folder is there."""
    from losses import as_list

    return as_list(to_root, latest_only)


def results_table() -> str:
    """All reports, by machine or kind."""
    folders = sorted(path for path in (ROOT / "bench/results").iterdir())
    rows = (
        (
            f"`{folder.name}`",
            ", ".join(f"[{path.stem}](../{path.relative_to(ROOT)})" for path in sorted(folder.glob("*.md"))),
        )
        for folder in folders
    )
    return table(("folder of bench/results", "results"), rows)


def benchmarks() -> str:
    """docs/benchmarks.md, with its losses and its list of results renewed."""
    text = with_block(BENCHMARKS.read_text(), "losses", losses("../"))
    return with_block(text, "results", results_table())


def commands_page() -> str:
    """docs/api/cli.md, with what the command line says of itself renewed."""
    return with_block(COMMANDS.read_text(), "commands", commands())


def readme() -> str:
    """README.md, with its losses renewed."""
    return with_block(README.read_text(), "losses", losses(latest_only=True))


def page_faults() -> str:
    """What bench/page_faults.py wrote, below its heading."""
    return PAGE_FAULTS.read_text().partition("\n\n")[2]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    import chains

    README.write_text(readme())
    BENCHMARKS.write_text(benchmarks())
    GALLERY.write_text(gallery())
    draw_gallery(GALLERY.with_suffix(""))
    LOGO.write_text(logo())
    COMMANDS.write_text(commands_page())
    DISTRIBUTED.write_text(distributed_page(run=True))
    PAGE.write_text(page())
    MODELS.write_text(models())
    ENABLE.write_text(enable())
    guide = with_block(GUIDE.read_text(), "example", example())
    GUIDE.write_text(with_block(guide, "output", output_of(EXAMPLE)))
    SAVED.write_text(saved_page(SAVED.with_suffix(".png")))
    RECOMPUTE.write_text(recompute_page())
    chains.draw(RECOMPUTE.with_suffix(".png"))
    SPEED.write_text(with_block(SPEED.read_text(), "page-faults", page_faults()))
    MONITOR.write_text(monitor_page(MONITOR.with_suffix(".png")))
    PLOT.write_text(plot_page(PLOT.with_suffix(".png")))


if __name__ == "__main__":
    main()
