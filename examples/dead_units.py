"""Watch ReLU units die where the learning rate is too high: the demo's network after five epochs of its digits."""

from pathlib import Path

import torch
import torch.nn.functional as F
from train_digits import batches, load, network

import fastact
from fastact.catalogue import ACTIVATIONS

data = load("digits", Path(), seed=0, device=torch.device("cpu"))
for name, learning_rate in (("relu", 0.002), ("relu", 0.04), ("leaky_relu", 0.04)):
    torch.manual_seed(0)
    model = network(ACTIVATIONS[name], data.train_images)
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9)
    for images, labels in batches(data, batch_size=128, epochs=5, seed=0):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    with fastact.Monitor(model) as monitor:  # one pass over the training set
        F.cross_entropy(model(data.train_images), data.train_labels).backward()
    right = model(data.test_images).argmax(1) == data.test_labels
    print(f"{name}, learning rate {learning_rate}: {right.float().mean():.1%} of the test set right")
    print(monitor.report(), end="\n\n")
