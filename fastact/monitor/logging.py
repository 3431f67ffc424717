"""Reports for the tools that follow a training run."""

from __future__ import annotations

from typing import Any

from .report import Report, Row
from .statistics import EXPONENTS

_LOGGED = ("dead", "revived", "saturated", "sparsity", "mean", "std", "grad_norm", "nan", "inf", "grad_nan", "grad_inf")


def values_of(report: Report) -> dict[str, float]:
    """A report's numbers, by layer and field."""
    values = {f"{row.layer}/{name}": getattr(row, name) for row in report.rows for name in _LOGGED}
    return {name: value for name, value in values.items() if value is not None}


def log(writer: Any, step: int, report: Report) -> None:
    """Write a report's numbers; where there are histograms, TensorBoard gets these too."""
    values = values_of(report)
    if not hasattr(writer, "add_scalar"):
        writer.log(values, step=step)
        return
    for name, value in values.items():
        writer.add_scalar(name, value, step)
    for row in report.rows:
        if row.histogram:
            _add_histogram(writer, f"{row.layer}/outputs", row.histogram, step, row)
        if row.grad_histogram:
            _add_histogram(writer, f"{row.layer}/gradients", row.grad_histogram, step, None)


def _add_histogram(writer: Any, name: str, shares: list[float], step: int, row: Row | None) -> None:
    limits = bin_limits()
    middles = [0.75 * limit if limit > 0 else 1.5 * limit for limit in limits]
    mean = sum(share * middle for share, middle in zip(shares, middles, strict=True))
    squares = sum(share * middle * middle for share, middle in zip(shares, middles, strict=True))
    least = row.min if row else limits[0]
    most = row.max if row else limits[-1]
    writer.add_histogram_raw(
        name, min=least, max=most, num=1.0, sum=mean, sum_squares=squares, bucket_limits=limits, bucket_counts=shares,
        global_step=step,
    )  # fmt: skip


def bin_limits() -> list[float]:
    """The upper ends of the bins of `Row.histogram`."""
    powers = [2.0**exponent for exponent in EXPONENTS]
    zero = 2.0 ** (EXPONENTS[0] - 1)
    return [*(-power / 2 for power in reversed(powers)), zero, *powers]
