"""The numbers of elements from which fastact's kernels beat torch's own functions, autograd's Python included.

For the CPU and for CUDA: activation -> (without gradients, with gradients). Below, and for an activation without a
number, calls go to torch.
"""

_NAMES = ("relu", "leaky_relu", "prelu", "rrelu", "elu", "sigmoid", "tanh", "softsign")

CROSSOVER: tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]] = (
    {name: (4096, 65536) for name in _NAMES},
    {name: (1 << 20, 1 << 20) for name in _NAMES},
)
