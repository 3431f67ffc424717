"""Watches a deep network train on the demo's digits, and draws what happened inside, layer by layer, to a file."""

import sys
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from train_digits import batches, load

import fastact

data = load("digits", Path(), seed=0, device=torch.device("cpu"))
torch.manual_seed(0)
widths = [64, 128, 128, 128, 128, 128]
hidden = [(nn.Linear(fan_in, fan_out), fastact.ReLU()) for fan_in, fan_out in pairwise(widths)]
model = nn.Sequential(nn.Flatten(), *(layer for pair in hidden for layer in pair), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.15, momentum=0.9)  # a tenth of it gives no finding

with fastact.Monitor(model) as monitor:
    for step, (images, labels) in enumerate(batches(data, batch_size=128, epochs=20, seed=0), 1):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if step % 11 == 0:  # once an epoch
            monitor.snapshot(step)

last = monitor.history[-1].report
print(last, *last.findings, sep="\n")
monitor.plot(sys.argv[1])
