"""A user's program, in which mypy and pyright must find every type as it is asserted here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import fastact
from fastact.coverage import Calls
from fastact.monitor import Finding, Report, Row, Snapshot
from fastact.saved import Kept, Saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = fastact.SiLU(inplace=True)
        self.gated = fastact.SwiGLU(dim=-1, gate_first=True)
        self.layers = nn.Sequential(nn.Linear(8, 16), fastact.PReLU(16), self.act, fastact.L1(fastact.ReLU(), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(input=x)
        assert_type(hidden, Tensor)
        assert_type(self.gated(hidden), Tensor)
        assert_type(self.gated(hidden, hidden), Tensor)
        assert_type(fastact.MaxoutLinear(8, 8, pieces=2)(hidden), Tensor)
        assert_type(fastact.L1(fastact.ReLU(), 1e-4)(hidden), Tensor)
        return hidden


def modules() -> None:
    elu = fastact.ELU(alpha=0.5)
    stock: nn.ELU = elu
    assert_type(stock.alpha, float)
    assert_type(fastact.XIELU(beta=0.25).alpha_p, Tensor)
    assert_type(fastact.StarReLU(device="cpu", dtype=torch.float64).scale, nn.Parameter)
    assert_type(fastact.Softmax(dim=-1)(torch.zeros(2, 3)), Tensor)


def functions(x: Tensor) -> None:
    assert_type(fastact.functional.relu(x, inplace=True), Tensor)
    assert_type(fastact.functional.gelu(x, approximate="tanh"), Tensor)
    assert_type(fastact.functional.swiglu(x), Tensor)
    assert_type(fastact.functional.swiglu(x, x, gate_first=False), Tensor)
    assert_type(fastact.functional.softmax(x, -1, dtype=torch.float32), Tensor)
    assert_type(fastact.functional.bias_act(x, x[0], None, "leaky_relu", negative_slope=0.2), Tensor)
    assert_type(fastact.l1_norm(x), Tensor)


def whole_models(model: Net, x: Tensor) -> None:
    assert_type(fastact.convert(model, exclude=["softmax"], recompute=True), Net)
    assert_type(fastact.revert(model), Net)
    assert_type(fastact.convert(nn.Sequential(model)), nn.Sequential)
    assert_type([layer.why_left for layer in fastact.conversion(model, only="gelu")], list[str | None])
    assert_type(fastact.l1_penalty(model), Tensor)
    fastact.register_timm(replace=True).remove()
    with fastact.register_transformers():
        model(x)


def switches(x: Tensor) -> None:
    fastact.enable()
    fastact.enable(only="gelu", exclude={"softmax"}, recompute=True)
    with fastact.enable(only=["gelu", "silu"]):
        assert_type(fastact.is_enabled(), bool)
    assert_type(fastact.overrides().rows[0].bytes, float)
    fastact.disable()


@fastact.recompute(min_bytes=1024)
def decorated(model: Net, x: Tensor) -> Tensor:
    return model.act(x)


def memory(model: Net, x: Tensor) -> None:
    with fastact.recompute():
        assert_type(decorated(model, x), Tensor)
    seen = fastact.saved(model, x)
    assert_type(seen, Saved)
    assert_type(seen.rows, tuple[Kept, ...])
    assert_type(seen.recompute_bytes, int | None)
    assert_type(seen.layers[0].bytes, int)
    seen.plot("saved.png")


def watch(model: Net, x: Tensor) -> None:
    with fastact.Monitor(model, every=20, unit_dim=-1, grad_scale=torch.ones(())) as monitor, monitor.functions():
        model(x)
        monitor.snapshot(step=1)
    report = monitor.report(across_ranks=True)
    assert_type(report, Report)
    assert_type(report.findings, list[Finding])
    assert_type(report.rows, list[Row])
    assert_type(report.rows[0].dead, float | None)
    assert_type(monitor.history, list[Snapshot])
    monitor.grad_scale = 2.0
    with fastact.Coverage() as seen:
        model(x)
    assert_type(seen.share(softmax=False), float | None)
    assert_type(seen.rows, list[Calls])


def pictures(monitor: fastact.Monitor) -> Figure:
    assert_type(monitor.plot(), "Figure")
    return fastact.plot("relu", fastact.GELU(), nn.Softplus(), derivatives=2, range=(-6, 6), negative_slope=0.2)
