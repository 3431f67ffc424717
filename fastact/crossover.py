"""The numbers of elements from which fastact's kernels beat torch's own functions, autograd's Python included.

For the CPU and for CUDA: activation -> (without gradients, with gradients). Below, and for an activation without an
entry, calls go to torch. `bench/crossover.py` measures a device's table and writes it here.
"""

import sys

NEVER = sys.maxsize

# Set by hand. Not measured yet.
CPU: dict[str, tuple[int, int]] = {
    "relu": (1 << 12, 1 << 16),
    "leaky_relu": (1 << 12, 1 << 16),
    "prelu": (1 << 12, 1 << 16),
    "rrelu": (1 << 12, 1 << 16),
    "elu": (1 << 12, 1 << 16),
    "sigmoid": (1 << 12, 1 << 16),
    "tanh": (1 << 12, 1 << 16),
    "softsign": (1 << 12, 1 << 16),
}

# Set by hand. Not measured yet.
CUDA: dict[str, tuple[int, int]] = {
    "relu": (1 << 20, 1 << 20),
    "leaky_relu": (1 << 20, 1 << 20),
    "prelu": (1 << 20, 1 << 20),
    "rrelu": (1 << 20, 1 << 20),
    "elu": (1 << 20, 1 << 20),
    "sigmoid": (1 << 20, 1 << 20),
    "tanh": (1 << 20, 1 << 20),
    "softsign": (1 << 20, 1 << 20),
}

CROSSOVER = (CPU, CUDA)
