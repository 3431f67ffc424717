"""What a monitor has seen: rows, findings and the table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Row:
    """What was seen of one layer; None where nothing was.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        >>> with fastact.Monitor(model) as monitor:
        ...     output = model(torch.full((500, 4), float("nan")))
        >>> [row] = monitor.report().rows
        >>> row.layer, row.activation, row.nan, row.first_bad
        ('1', 'ReLU', 4000, 0)
    """

    layer: str
    """As in `model.named_modules()`; of a function, the module that runs it and the line: "block (net.py:12)"."""
    activation: str
    """The module's class, or the function."""
    dead: float | None
    """Share of the units whose every element lay where the activation is flat: for one made of two straight lines, as
    ReLU and its leaky variants, on the side whose slope is not 1 (with a leak, gradients still pass there); for others
    where the derivative is below 5% of its maximum, or of 1 where that is larger. None where flatness is not a matter
    of one input: gated units, Maxout and softmax, and learned curves."""
    saturated: float | None
    """Share of the elements where the activation is flat; None also for those made of two straight lines."""
    sparsity: float | None
    """Share of the outputs that are exactly zero."""
    mean: float | None
    """Of the outputs that are finite, as are `std`, `min` and `max`; NaN if none is."""
    std: float | None
    grad_norm: float | None
    """Root mean square of the loss's gradient with respect to the outputs, so that layers of any size compare; of the
    finite elements."""
    min: float | None = None
    max: float | None = None
    nan: int = 0
    """How many outputs were NaN."""
    inf: int = 0
    """How many outputs were infinite."""
    grad_nan: int = 0
    """How many elements of the gradient were NaN."""
    grad_inf: int = 0
    first_bad: int | None = None
    """The first of the outputs looked at, from 0 on, that had NaN or infinity."""
    grad_first_bad: int | None = None
    """The same of the gradients."""
    seen_per_unit: float | None = None
    """How many elements of each unit `dead` is about, on average."""
    leaks: bool = False
    """Whether gradients pass where the activation is flat, as in leaky rectifiers."""
    dead_since: int | None = None
    """The step of the snapshot up to which half of the units that are dead now, or more, were last awake; None without
    snapshots, or where they never were."""
    revived: float | None = None
    """Share of the units that were dead up to the snapshot before and no longer are."""
    histogram: list[float] | None = None
    """Under `Monitor(histograms=True)`: the shares of the outputs in the bins of `EXPONENTS`, from the least to the
    largest: negative numbers, zero in the middle, positive numbers."""
    grad_histogram: list[float] | None = None
    """The same of the gradients."""
    note: str = ""
    """What could not be looked at, and why."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, in words. As text, one line.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        >>> with fastact.Monitor(model) as monitor:
        ...     output = model(torch.full((500, 4), float("nan")))
        >>> print(*monitor.report().findings)
        1: 4000 outputs were NaN and 0 infinite, here first: look at its input and at the loss scale, ...
    """

    rule: str
    """"not-finite", "gradient-not-finite", "dead-units", "saturation", "exploding-gradient" or "vanishing-gradient"."""
    layer: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.evidence}: {self.remedy}"


_SHARES = ("dead", "saturated", "sparsity")
_VALUES = ("mean", "std", "grad_norm")
_IF_ANY = ("nan", "inf", "grad_nan", "grad_inf", "note")
"""The columns that are printed only where a layer has something there."""


@dataclass(frozen=True)
class Report:
    """One row per layer, in the order of their first calls. As text, an aligned table.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Sigmoid())
        >>> with fastact.Monitor(model) as monitor:
        ...     output = model(torch.randn(500, 4))
        >>> report = monitor.report()
        >>> [row.activation for row in report.rows], report.findings
        (['ReLU', 'Sigmoid'], [])
    """

    rows: list[Row]

    @property
    def findings(self) -> list[Finding]:
        """What is wrong, the worst first; nothing where that is not sure.

        - "not-finite", "gradient-not-finite": NaN or infinity, in the layer where it was first seen.
        - "dead-units": of more than 15% of the units, each seen 500 times or more, every element was flat, and no
          gradient passes there. An output of zero is not dead: most are in many a healthy network.
        - "saturation": more than half of the elements were flat, those not counted that gave zero.
        - "exploding-gradient", "vanishing-gradient": the first layer's gradient is 1,000 times the last one's, or a
          100,000th.
        """
        return [finding for rule in _RULES for finding in rule(self.rows)]

    def to_dict(self) -> dict[str, Any]:
        """Return rows and findings as dictionaries of numbers and text, for JSON. A mean of nothing finite is NaN."""
        return {"rows": [asdict(row) for row in self.rows], "findings": [asdict(each) for each in self.findings]}

    def to_pandas(self) -> DataFrame:
        """Return the rows as a table, indexed by layer.

        Raises:
            ImportError: if pandas is missing.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("Report.to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame([asdict(row) for row in self.rows]).set_index("layer")

    def __str__(self) -> str:
        further = [name for name in _IF_ANY if any(getattr(row, name) for row in self.rows)]
        cells = [["layer", "activation", *_SHARES, *_VALUES, *further]]
        for row in self.rows:
            shares = [_show(getattr(row, name), ".1%") for name in _SHARES]
            values = [_show(getattr(row, name), ".3g") for name in _VALUES]
            cells.append([row.layer, row.activation, *shares, *values, *(str(getattr(row, name)) for name in further)])
        left = {0, 1, *(i for i, name in enumerate(cells[0]) if name == "note")}
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for line in cells:
            padded = [f"{cell:{'<' if i in left else '>'}{widths[i]}}" for i, cell in enumerate(line)]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _not_finite(rows: list[Row]) -> Iterator[Finding]:
    """Where it began: what follows has it from there, and from the next step on, by the weights, so has the rest."""
    first = min((row for row in rows if row.first_bad is not None), key=lambda row: row.first_bad or 0, default=None)
    backward = [row for row in reversed(rows) if row.grad_first_bad is not None]
    first_backward = min(backward, key=lambda row: row.grad_first_bad or 0, default=None)
    if first is not None and (first_backward is None or (first.first_bad or 0) <= (first_backward.grad_first_bad or 0)):
        yield Finding(
            "not-finite",
            first.layer,
            f"{first.nan} outputs were NaN and {first.inf} infinite, here first",
            "look at its input and at the loss scale, lower the learning rate, or clip gradients",
        )
    elif first_backward is not None:
        yield Finding(
            "gradient-not-finite",
            first_backward.layer,
            f"{first_backward.grad_nan} elements of the gradient were NaN and {first_backward.grad_inf} infinite, here "
            "first",
            "look at the loss and at what follows this layer; under a GradScaler a few do no harm",
        )


_DEAD, _ENOUGH, _SATURATED, _EXPLODES, _VANISHES = 0.15, 500, 0.5, 1e3, 1e-5


def _dead_units(rows: list[Row]) -> Iterator[Finding]:
    found = [
        row
        for row in rows
        if row.dead is not None and row.dead > _DEAD and not row.leaks and (row.seen_per_unit or 0) >= _ENOUGH
    ]
    for row in sorted(found, key=lambda row: -(row.dead or 0)):
        remedy = "lower the learning rate, or take a LeakyReLU"
        if row.saturated is not None:
            remedy = "lower the learning rate, normalise the input, or take an activation that is flat nowhere"
        since = "" if row.dead_since is None else f", half of them or more since step {row.dead_since}"
        yield Finding("dead-units", row.layer, f"{row.dead:.0%} of the units are dead{since}", remedy)


def _saturation(rows: list[Row]) -> Iterator[Finding]:
    shares = [((row.saturated or 0) - (row.sparsity or 0), row) for row in rows]
    for share, row in sorted(shares, key=lambda pair: -pair[0]):
        if share > _SATURATED:
            yield Finding(
                "saturation",
                row.layer,
                f"{row.saturated:.0%} of the inputs lie where {row.activation} is flat",
                "normalise the input, or start from smaller weights",
            )


def _gradients(rows: list[Row]) -> Iterator[Finding]:
    norms = [(row.grad_norm, row) for row in rows if row.grad_norm is not None and math.isfinite(row.grad_norm)]
    if len(norms) < 2:
        return
    (first, row), (last, last_row) = norms[0], norms[-1]
    evidence = f"the gradient is {first:.1g} here and {last:.1g} in {last_row.layer}"
    if first > _EXPLODES * last > 0:
        yield Finding("exploding-gradient", row.layer, evidence, "clip gradients, or start from smaller weights")
    elif first < _VANISHES * last:
        yield Finding(
            "vanishing-gradient", row.layer, evidence, "take residual connections, normalisation or another activation"
        )


_RULES = (_not_finite, _dead_units, _saturation, _gradients)  # the worst first
