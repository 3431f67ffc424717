"""What a monitor's reports and history can be read by."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn

from fastact.monitor import Monitor
from fastact.monitor.logging import bin_limits


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Sigmoid(), nn.Linear(16, 3))
    nn.init.constant_(net[0].bias[:4], -100.0)
    return net


@pytest.fixture
def monitor() -> Monitor:
    net = _net()
    with Monitor(net, histograms=True) as monitor:
        for step in (10, 20, 30):
            net(torch.randn(32, 8)).square().mean().backward()
            monitor.snapshot(step)
    return monitor


def test_pandas(monitor: Monitor) -> None:
    table = monitor.history[-1].report.to_pandas()
    assert list(table.index) == ["1", "3"]
    assert table.loc["1", "dead"] == monitor.history[-1].report.rows[0].dead >= 4 / 16


def test_a_writer_with_log(monitor: Monitor) -> None:
    class Run:
        logged: list[tuple[dict[str, float], int]] = []  # noqa: RUF012

        def log(self, values: dict[str, float], step: int) -> None:
            self.logged.append((values, step))

    monitor.log_to(Run(), 40)  # nothing was seen since 30
    with monitor:
        monitor._model(torch.randn(32, 8))
        monitor.log_to(Run(), 1)
        monitor.log_to(None, 2)
    assert [step for _, step in Run.logged] == [40, 1]
    assert Run.logged[1][0]["1/dead"] == monitor.history[0].report.rows[0].dead
    assert "1/saturated" not in Run.logged[1][0]
    with pytest.raises(TypeError, match="a writer has add_scalar"):
        monitor.log_to(print, 3)


def test_tensorboard(monitor: Monitor, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with monitor, SummaryWriter(str(tmp_path)) as writer:
        monitor._model(torch.randn(32, 8)).sum().backward()
        monitor.log_to(writer, 7)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    row = monitor.history[0].report.rows[0]
    (event,) = events.Scalars("1/dead")
    assert (event.step, event.value) == (7, pytest.approx(row.dead))
    (histogram,) = events.Histograms("1/outputs")
    assert histogram.histogram_value.bucket_limit == bin_limits()
    assert sum(histogram.histogram_value.bucket) == pytest.approx(1)
    assert histogram.histogram_value.max == pytest.approx(row.max)
    assert events.Histograms("1/gradients")


class _Page(HTMLParser):
    """The tags of a page, and the attributes that would fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.linked: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.linked += [(tag, value) for name, value in attributes if name in ("src", "href") and value]


@pytest.mark.parametrize("suffix", ["png", "svg", "html"])
def test_a_picture(monitor: Monitor, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"run.{suffix}"
    figure = monitor.plot(file)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles[:4] == [
        "Dead units", "Flat inputs (saturated)", "Outputs of zero", "Gradient's root mean square, log10",
    ]  # fmt: skip
    assert "1: outputs by magnitude" in titles
    cells = figure.axes[0].collections[0].get_array().reshape(2, 3)
    assert cells.tolist() == [[report.rows[i].dead for _, report in monitor.history] for i in (0, 1)]
    written = file.read_bytes()
    assert len(written) > 10_000
    if suffix == "html":
        page = _Page()
        page.feed(written.decode())
        assert page.tags["script"]
        assert not page.linked
        assert all(title in written.decode() for title in titles if title)


def test_no_picture_without_a_snapshot() -> None:
    with Monitor(nn.ReLU()) as monitor:
        with pytest.raises(ValueError, match="no snapshot to draw"):
            monitor.plot()
        monitor.snapshot(1)
        with pytest.raises(ValueError, match="nothing to draw"):
            monitor.plot()


class _Branches(nn.Module):
    """Of which each rank takes one, besides what all do."""

    def forward(self, x: Tensor, rank: int) -> Tensor:
        x = F.leaky_relu(F.leaky_relu(x, 0.1), 0.2)
        if rank:
            return F.gelu(x)
        return F.softplus(x)


def _rank(rank: int, file: str, results: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    net = _net()
    with Monitor(net, histograms=True) as monitor:
        net(_inputs(rank)).square().mean().backward()
        monitor.snapshot(1, across_ranks=True)
        net(_inputs(rank)).square().mean().backward()
        now = monitor.report(across_ranks=True)
        monitor_history = monitor.history[0].report.to_dict()
    branches = _Branches()
    with Monitor(branches) as monitor:
        branches(_inputs(rank), rank)
        of_branches = monitor.report(across_ranks=True)
    results[rank] = (monitor_history, now.to_dict(), of_branches.to_dict())
    torch.distributed.destroy_process_group()


def _inputs(rank: int) -> Tensor:
    return torch.randn(16 * (rank + 1), 8, generator=torch.Generator().manual_seed(rank)) * (rank + 1)


def test_processes_are_merged(tmp_path: Path) -> None:
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_rank, (str(tmp_path / "meeting"), results), nprocs=2)
        (first, *others), (second, *others_of_second) = results[0], results[1]
    assert (first, *others) == (second, *others_of_second)
    slopes = [row for row in others[1]["rows"] if row["activation"] == "leaky_relu"]
    assert [row["seen_per_unit"] for row in slopes] == [16 + 32, 16 + 32]
    assert slopes[0]["mean"] != slopes[1]["mean"]
    alone = {row["activation"]: row["seen_per_unit"] for row in others[1]["rows"]}
    assert (alone["softplus"], alone["gelu"]) == (16, 32)
    net = _net()
    with Monitor(net, histograms=True) as monitor:
        for rank in range(2):
            net(_inputs(rank)).square().mean().backward()
    alone = monitor.report().to_dict()["rows"]
    for row, expected in zip(first["rows"], alone, strict=True):
        for name, value in expected.items():
            assert row[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float | list) else value), name
