"""Which activations serve in a physics-informed network, whose loss has second derivatives of it?

A network u of two hidden layers of 32 units solves Poisson's equation, -u'' = f on [-1, 1] with u = 0 at both ends. The
exact solution is known. The loss is the mean square of the residual u'' + f over that of f, so that it is 1 for a
network without curvature, plus BOUNDARY times the mean square of u at the ends. Autograd differentiates u twice, and
backward goes through that. Adam takes the steps, with a learning rate that falls to 0 along a cosine.

    python examples/pinn.py [--seeds N] [--steps N]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from experiment import STYLES, Result, Row, cell, curve, finish, label, legend, panels, parser, runs, values
from matplotlib.figure import Figure
from torch import Tensor, nn

import fastact


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


WIDTH = 32
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "Tanh": fastact.Tanh,
    "Sine": Sine,
    "Snake": lambda: fastact.Snake(WIDTH),
    "GELU": fastact.GELU,
    "SiLU": fastact.SiLU,
    "Softplus": fastact.Softplus,
    "ReLU": fastact.ReLU,
}
LOOKS = STYLES | {
    "Sine": STYLES["ELU"],
    "Snake": STYLES["Maxout"],
    "GELU": STYLES["SELU"],
    "SiLU": STYLES["LeakyReLU"],
    "Softplus": STYLES["Softsign"],
}
BOUNDARY = 10
POINTS = torch.linspace(-1, 1, 64)[:, None]
BETWEEN = torch.linspace(-1, 1, 201)[:, None]  # where the error is measured
EVERY = 10  # steps, of which one is in the result


def exact(x: Tensor) -> Tensor:
    return (math.pi * x).sin() + 0.25 * (3 * math.pi * x).sin()


def source(x: Tensor) -> Tensor:
    """f, which is -u'' of that."""
    return math.pi**2 * ((math.pi * x).sin() + 9 * 0.25 * (3 * math.pi * x).sin())


def network(activation: str) -> nn.Sequential:
    make = ACTIVATIONS[activation]
    first, second, last = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
    for layer in (first, second, last):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        nn.init.zeros_(layer.bias)
    nn.init.normal_(first.weight, std=3)  # so that units bend several times within [-1, 1],
    nn.init.uniform_(first.bias, -3, 3)  # and at different places
    return nn.Sequential(first, make(), second, make(), last)


def residual(net: nn.Module, x: Tensor) -> Tensor:
    """The mean square of u'' + f over that of f."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return (curvature + source(x)).square().mean() / source(x).square().mean()


def solved(activation: str, steps: int) -> Row:
    """The residual over the steps, the solution between the points, and its error relative to the exact one's norm."""
    net = network(activation)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    residuals = []
    for _ in range(steps):
        optimizer.zero_grad()
        of_equation = residual(net, POINTS)
        (of_equation + BOUNDARY * net(POINTS[[0, -1]]).square().mean()).backward()
        optimizer.step()
        schedule.step()
        residuals.append(of_equation.item())
    with torch.no_grad():
        solution = net(BETWEEN)
    error = (solution - exact(BETWEEN)).norm() / exact(BETWEEN).norm()
    return {"residuals": residuals[::EVERY], "solution": solution.flatten().tolist(), "error": error.item()}


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    lines = [
        [
            activation,
            cell([residuals[-1] for residuals in values(result["rows"], "residuals", activation=activation)], ".1g"),
            cell(values(result["rows"], "error", activation=activation), ".2%"),
        ]
        for activation in ACTIVATIONS
    ]
    return ["activation", "residual at the end", "error"], lines


def draw(result: Result) -> Figure:
    figure, (solutions, residuals, errors) = panels("ABC", "Poisson's equation, solved by networks", result, height=3.3)
    x = BETWEEN.flatten()
    solutions.plot(x, exact(x), color="0.75", lw=5, label="exact")
    for i, activation in enumerate(ACTIVATIONS):
        style, run = LOOKS[activation], {"activation": activation}
        solution = values(result["rows"], "solution", **run, seed=0)[0]
        solutions.plot(x, solution, lw=1.3, ms=4, markevery=(7 * i, 50), **style)
        by_step = list(zip(*values(result["rows"], "residuals", **run), strict=True))
        steps = [EVERY * number for number in range(len(by_step))]
        curve(residuals, steps, by_step, markevery=20, label=activation, **style)
        found = values(result["rows"], "error", **run)
        errors.plot(found, [i] * len(found), ls="", ms=6, color=style["color"], marker=style["marker"])
    label(solutions, "Solution, first seed (grey: exact)", "x", "u")
    residuals.set(yscale="log")
    label(residuals, "Residual / f, mean squares", "step")
    errors.set(xscale="log", yticks=range(len(ACTIVATIONS)), yticklabels=ACTIVATIONS)
    errors.invert_yaxis()
    label(errors, "Error / exact solution, each seed")
    legend(figure, residuals)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    with_steps = parser(__doc__, seeds=5, images=False)
    with_steps.add_argument("--steps", type=int, default=800, help="default: %(default)s")
    options = with_steps.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = [
        {"activation": activation, "seed": seed} | solved(activation, options.steps)
        for activation, seed in runs(options, ACTIVATIONS)
    ]
    finish(__file__, options, f"{len(POINTS)} points, {options.steps} steps", rows, draw)


if __name__ == "__main__":
    main()
