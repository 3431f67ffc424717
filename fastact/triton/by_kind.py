"""The interface that `fastact.cpu` has too, until the dispatcher is that of both."""

from torch import Tensor

from ..catalogue import Activation
from . import maxout
from .ops import KERNELS, write_gated_gradients


def forward(
    activation: Activation, input: Tensor, parameters: tuple, inplace: bool, save_bits: bool
) -> tuple[Tensor, Tensor | None]:
    result = KERNELS[activation.name + "_mask" * save_bits + "_" * inplace](input, *parameters)
    if inplace:
        return input, result
    return result if save_bits else (result, None)


def backward(activation: Activation, grad: Tensor, saved: Tensor, parameters: tuple) -> Tensor:
    return KERNELS[f"{activation.name}_backward"](grad, saved, *parameters)


def learned_forward(activation: Activation, input: Tensor, learned: tuple, parameters: tuple) -> Tensor:
    return KERNELS[activation.name](input, *learned, *parameters)


def learned_backward(activation: Activation, grad: Tensor, input: Tensor, learned: tuple, parameters: tuple) -> tuple:
    return KERNELS[f"{activation.name}_backward"](grad, input, *learned, *parameters)


def gated_forward(activation: Activation, value: Tensor, gate: Tensor) -> Tensor:
    return KERNELS[activation.name](value, gate)


def gated_backward(activation: Activation, *tensors: Tensor) -> None:
    write_gated_gradients(activation, *tensors)


def softmax_forward(activation: Activation, *arguments) -> Tensor:
    return KERNELS[activation.name](*arguments)


def softmax_backward(activation: Activation, *arguments) -> Tensor:
    return KERNELS[f"{activation.name}_backward"](*arguments)


def maxout_forward(activation: Activation, *arguments) -> None:
    maxout.run_forward(*arguments)


def maxout_backward(activation: Activation, *arguments) -> None:
    maxout.run_backward(*arguments)
