"""What a network keeps for backward, layer by layer, and what of it fastact.recompute makes again."""

import sys

import torch
from torch import Tensor, nn

import fastact


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.down = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.down(self.act(self.up(self.norm(x)))))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(32, 128, 4, stride=4)
        self.blocks = nn.Sequential(*[Block(128) for _ in range(4)])
        self.head = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv2(self.act1(self.bn1(self.conv1(images))))
        return self.head(self.blocks(x.flatten(2).transpose(1, 2)).mean(1))


with fastact.enable():
    seen = fastact.saved(Network(), torch.randn(8, 3, 128, 128))
print(seen)
for path in sys.argv[1:]:
    seen.plot(path)
