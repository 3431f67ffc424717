"""Wrong uses: mypy and pyright must find each, or the comment that expects the error is one itself."""

from __future__ import annotations

from torch import Tensor, nn

import fastact


class Net(nn.Module): ...


def wrong(model: Net, x: Tensor) -> None:
    fastact.ELU(alpha="1")  # type: ignore[arg-type]
    fastact.ReLU(slope=0.1)  # type: ignore[call-arg]
    fastact.ReLU()("x")  # type: ignore[arg-type]
    fastact.ReLU()(x, x)  # type: ignore[call-arg]
    fastact.SwiGLU()(x, 1)  # type: ignore[arg-type]
    fastact.Maxout()  # type: ignore[call-arg]
    fastact.functional.relu(x, out=x)  # type: ignore[call-arg]
    fastact.functional.prelu(x)  # type: ignore[call-arg]
    fastact.functional.swiglu(x, gate=0)  # type: ignore[arg-type]
    fastact.functional.bias_act(x, x, None, "elu", alpha="1")  # type: ignore[arg-type]
    fastact.Silu()  # type: ignore[attr-defined]
    fastact.enable("relu", recompute=1)  # type: ignore[arg-type]
    fastact.enable("relu", "gelu", True)  # type: ignore[call-arg]
    fastact.enable(only=1)  # type: ignore[arg-type]
    linear: nn.Linear = fastact.convert(model)  # type: ignore[assignment]
    fastact.convert(x)  # type: ignore[type-var]
    fastact.Monitor(model, 20)  # type: ignore[call-arg]
    fastact.Monitor(model, every=0.5)  # type: ignore[arg-type]
    fastact.Monitor(model).report().rows[0].dead.hex()  # type: ignore[union-attr]
    fastact.L1(fastact.ReLU())  # type: ignore[call-arg]
    fastact.L1(x, 0.1)  # type: ignore[arg-type]
    fastact.saved(x)  # type: ignore[arg-type]
    fastact.recompute(min_bytes="1")  # type: ignore[arg-type]
    fastact.plot("relu", range=5)  # type: ignore[arg-type]
    print(linear)
