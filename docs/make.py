"""Write what the README takes from the catalogue: the table of activations, and the picture of their curves."""

from __future__ import annotations

import re
from pathlib import Path

from fastact.catalogue import ACTIVATIONS

README = Path(__file__).parents[1] / "README.md"
_BLOCK = re.compile("(<!-- activations:begin -->\n).*?(<!-- activations:end -->)", re.DOTALL)


def table() -> str:
    """The catalogue in Markdown, a line an activation."""
    lines = ["| activation | formula | derivative | saved for backward, and why | paper |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in ACTIVATIONS.values():
        saved = "1 bit per element" if row.saved == "bits" else f"The {row.saved}"
        cells = (f"`{row.module}`", row.formula, row.derivative, f"{saved}. {row.why_saved}", row.paper)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def with_table(readme: str) -> str:
    """The README's text with the table renewed."""
    text, count = _BLOCK.subn(lambda match: match[1] + table() + match[2], readme)
    if count != 1:
        raise SystemExit("README.md has no place for the table of activations")
    return text


if __name__ == "__main__":
    from fastact import plot

    README.write_text(with_table(README.read_text()))
    plot.curves(README.parent / "docs" / "activations.png")
