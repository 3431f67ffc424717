"""Memory of whole networks in training: with fastact's activations, and with torch.nn's.

    python bench/networks.py [--device cpu|cuda] [--out DIR]

A ResNet-50 with its ReLUs in place, as torchvision has it, and stacks of a transformer's MLPs. Counted are the bytes
that one forward keeps for backward, each storage once and parameters aside, and on a GPU the most memory that a step
takes. Writes networks.json and networks.md to DIR/HARDWARE.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from environment import RESULTS, environment, name_of, result_folder, write_result
from measure import peak_bytes
from report import table
from torch import Tensor, nn

import fastact


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, 64 << stage, 2 if stage > 0 and block == 0 else 1))
            channels = 256 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


class SwiGLU(nn.Module):
    """As models write it with torch."""

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, -1)
        return value * F.silu(gate)


class MLPs(nn.Module):
    """Residual MLPs of a transformer, each after a LayerNorm."""

    def __init__(self, activation: Callable[[], nn.Module], width: int, hidden: int, halves: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.LayerNorm(width), nn.Linear(width, halves * hidden), activation(), nn.Linear(hidden, width))
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class Network(NamedTuple):
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


def networks(scale: int) -> list[Network]:
    """`scale` divides batches and widths."""
    width = 4096 // scale
    tokens = (8192 // scale, width)
    return [
        Network("ResNet-50, ReLU in place", resnet50, (max(1, 64 // scale), 3, 224, 224)),
        Network("MLP, GELU", lambda: MLPs(nn.GELU, width, 4 * width, 1, 4), tokens),
        Network("MLP, LeakyReLU", lambda: MLPs(nn.LeakyReLU, width, 4 * width, 1, 4), tokens),
        Network("MLP, SwiGLU", lambda: MLPs(SwiGLU, width, 8 * width // 3 // 16 * 16, 2, 4), tokens),
    ]


def converted(network: nn.Module) -> nn.Module:
    """With fastact's activations, the models' own SwiGLU among them."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, SwiGLU):
                setattr(module, name, fastact.SwiGLU())
    return fastact.convert(network)


def saved_bytes(network: nn.Module, x: Tensor) -> int:
    """What one forward keeps for backward."""
    parameters = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.detach())
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return kept[-1]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x)
    return sum(size for address, size in storages.items() if address not in parameters)


def measure(network: Network, device: str) -> Iterator[dict[str, object]]:
    """fastact's row, then torch's."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    for library, change in (("fastact", converted), ("torch", lambda module: module)):
        module = change(network.make()).to(device=device, dtype=dtype)
        x = torch.randn(network.shape, dtype=dtype, device=device)
        row: dict[str, object] = {"network": network.name, "library": library, "dtype": str(dtype).split(".")[1]}
        row |= {"shape": network.shape, "saved_bytes": saved_bytes(module, x), "peak_bytes": None}
        if device == "cuda":
            row["peak_bytes"] = peak_bytes(lambda: module(x).sum().backward())  # noqa: B023
        yield row


def report(rows: list[dict[str, object]]) -> str:
    """In Markdown, MiB."""

    def mib(value: object) -> str:
        return "not measured" if value is None else f"{value / 2**20:.1f}"

    pairs = zip(rows[::2], rows[1::2], strict=True)
    headings = ["network", "input", "dtype", "saved MiB, fastact", "torch", "peak MiB of a step, fastact", "torch"]
    return table(
        headings,
        (
            [
                *(str(ours["network"]), "x".join(map(str, ours["shape"])), str(ours["dtype"])),
                *(mib(row[key]) for key in ("saved_bytes", "peak_bytes") for row in (ours, theirs)),
            ]
            for ours, theirs in pairs
        ),
        numbers_from=3,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results go to DIR/HARDWARE")
    options = parser.parse_args()
    small = options.device == "cpu"
    rows = [row for network in networks(16 if small else 1) for row in measure(network, options.device)]
    where = environment(options.device)
    head = f"# Memory of networks in training: {name_of(where)}\n\n{where['date']}, commit {where['commit']}."
    result = {"environment": where, "rows": rows}
    write_result(result_folder(where, options.out), "networks", result, f"{head}\n\n{report(rows)}\n")
    print(report(rows))


if __name__ == "__main__":
    main()
