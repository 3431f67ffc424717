"""Stands in for a GPU under Triton: everything but the GPU's own work is done, and nothing runs.

`python stub_gpu.py stub|cuda NAME…` launches these activations' kernels in bfloat16, on it or on a GPU, and prints how
many of them Triton's cache had, and how many had to be compiled.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from triton import knobs
from triton.runtime import driver

from fastact.tools.warmup import Elsewhere


class StubDriver(Elsewhere):
    """As the driver of an H200 shows itself to Triton's launches."""

    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 232448},
        load_binary=lambda *arguments: (1, 1, 32, 0, 1024),
        unload_module=lambda module: None,
    )

    @staticmethod
    def launcher_cls(source: Any, metadata: Any) -> Any:
        return lambda *arguments: None

    def __init__(self) -> None:
        super().__init__(90)


def main() -> None:
    import torch
    from cases import DEFAULTS, run_kernels

    from fastact.triton.ops import KERNELS

    device, *names = sys.argv[1:]
    if device == "stub":
        driver.set_active(StubDriver())
        device = "cpu"
    hits: list[bool] = []
    knobs.compilation.listener = lambda *, cache_hit, **others: hits.append(cache_hit)
    for case in DEFAULTS:
        if case.activation.name in names:
            for shape in ((1000,), (3, 4096), (2, 3, 64, 64)):
                x = torch.zeros(case.shape(*shape), dtype=torch.bfloat16, device=device)
                run_kernels(case, KERNELS.__getitem__, x, case.torch(x))
    print(hits.count(True), hits.count(False))


if __name__ == "__main__":
    main()
