"""One row per activation: what it computes, what it saves for backward, when to use it, where its paper is.

Functions, modules, kernels, tests, benchmarks, `validate`, plots and the documentation's tables all read these rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import composites


@dataclass(frozen=True, eq=False)
class Activation:
    """What the rest of the package needs to know of one activation."""

    name: str
    """Of the ops and formulas and, unless `public` says otherwise, of the function here and in torch."""
    module: str
    """Of the module here and in `torch.nn`."""
    family: str
    """The file of formulas: `csrc/activations/<family>.h` and `fastact/triton/<family>.py`."""
    saved: str
    """What backward needs: "mask" (a bit per element), "indices" (a byte per output element), "output" or "input"."""
    formula: str
    """In plain text, for tables."""
    derivative: str
    why_saved: str
    use: str
    """When to use it and when not, from what has been published."""
    paper: str
    reference: Callable[..., Tensor]
    """torch's function of the same arguments: the torch path, and the truth that tests compare with."""
    scalars: tuple[str, ...] = ()
    """The op's scalar arguments in order, under torch's names."""
    samples: tuple[dict[str, Any], ...] = ({},)
    """Arguments that tests and benchmarks run it with; the first is the default."""
    kinks: Callable[..., tuple[float, ...]] = lambda **parameters: ()
    """Where the derivative jumps, for given parameters."""
    limits_at_infinity: bool = False
    """Whether values and derivatives at infinity are the limits; torch has NaN at some."""
    inplace: bool = False
    """Whether torch's function and module take `inplace`."""
    random: bool = False
    """Whether a random number is drawn for each element."""
    kind: str = "pointwise"
    """Which loops run it: "pointwise"; "channelwise", pointwise with weights; "gated", a product of one half of the
    input along `dim` and a function of the other; "maxout"; "softmax", along `dim`."""
    weights: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The learned tensors, of one number or one per channel, which follow the input: name, and the range that tests
    draw from."""
    derivative_from_output: Callable[..., Tensor] | None = None
    """Where the output is saved: the derivative as torch ops on it, for double backward."""
    gradient_from_output: Callable[[Tensor, Tensor, int], Tensor] | None = None
    """The same where an output belongs to many inputs: the gradient, of the incoming one, the output and `dim`. The
    derivative is then that of `of_one_variable`."""
    public: str = ""
    """The function's name, where rows share one."""
    further_modules: tuple[str, ...] = ()
    """Of the same function, here and in `torch.nn`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of function and module that choose this row among those that share them."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments that the function needs to compute this."""
    namesakes: bool = False
    """Whether torch's module and function of these names are something else."""
    flat_in_output: bool = False
    """Whether an output is in an interval where the function is flat exactly where its input is."""
    leaks: bool = False
    """Whether some gradient passes where it is flat."""

    def weight_values(self, end: int) -> dict[str, float]:
        """One end, 0 or 1, of the learned tensors' ranges."""
        return {name: values[end] for name, values in self.weights.items()}

    @property
    def function(self) -> str:
        """The name of the function."""
        return self.public or self.name

    @property
    def saved_in_words(self) -> str:
        """What backward needs, and why."""
        return f"{_SAVED[self.saved]}. {self.why_saved}"

    @property
    def keywords(self) -> dict[str, Any]:
        """The arguments that function and reference need beside those of a sample."""
        return {**self.options, **self.extras}

    @property
    def label(self) -> str:
        """The module's name, or the row's own where options set it apart from another row of that module."""
        return self.name if self.options else self.module

    @property
    def twins(self) -> tuple[str, ...]:
        """The names of the modules that torch.nn has too."""
        names = (self.module, *self.further_modules)
        return tuple(name for name in names if hasattr(nn, name) and not self.namesakes)

    @property
    def stock(self) -> type[nn.Module] | None:
        """torch.nn's module, where it has one."""
        return None if self.namesakes else getattr(nn, self.module, None)

    @property
    def stock_function(self) -> Callable[..., Tensor] | None:
        """torch.nn.functional's function, where it has one."""
        return None if self.namesakes else getattr(F, self.function, None)

    def arguments(self, dim: int = -1) -> dict[str, Any]:
        """Of a module: those of the first sample and, where it takes one, the dimension that it works along."""
        along = {} if self.pointwise else {"dim": dim}
        return {**self.samples[0], **self.options, **along}

    @property
    def pointwise(self) -> bool:
        """Whether each output element belongs to one of the input."""
        return self.kind in ("pointwise", "channelwise")

    @property
    def divisor(self) -> int:
        """How many times as long as its output the input is, with the first sample's arguments."""
        return self.divisor_with(self.samples[0])

    def divisor_with(self, sample: Mapping[str, Any]) -> int:
        """The same with other arguments."""
        return {"gated": 2, "maxout": sample.get("pieces", 1)}.get(self.kind, 1)


_SAVED = {"mask": "1 bit per element", "indices": "1 byte per element", "output": "The output", "input": "The input"}
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946
_BRIDLE = "Bridle 1990, Probabilistic Interpretation of Feedforward Classification Network Outputs"


def _constant_at_zero(y: Tensor) -> Tensor:
    """y, with a derivative of 0 where y is 0: torch's second derivative of exponential units there."""
    return torch.where(y == 0, 0.0, y)


def _zero(**parameters: Any) -> tuple[float, ...]:
    return (0.0,)


_WHY_SELF_GATED_SAVES_INPUT = (
    "Two inputs share an output left of the minimum, so that only the input tells the derivative."
)
_WHY_GATED_SAVES_INPUT = (
    "Both derivatives need both halves, and f(gate) is computed again; torch saves it too, as one more tensor."
)

ACTIVATIONS: dict[str, Activation] = {
    row.name: row
    for row in (
        Activation(
            name="relu",
            module="ReLU",
            family="rectifiers",
            saved="mask",
            formula="max(0, x)",
            derivative="1 if x > 0 else 0",
            why_saved="The derivative has two values. torch saves the output, which a following linear layer or "
            "convolution keeps anyway: there the bit comes on top; elsewhere it stands in for a whole tensor.",
            use="The first choice for convolutional and plain networks: cheap, never saturates above 0, and half its "
            "outputs are exact zeros after a symmetric start. With a high learning rate units can die: watch "
            "them, or take a leaky one.",
            paper="Nair & Hinton 2010, Rectified Linear Units Improve Restricted Boltzmann Machines",
            reference=F.relu,
            kinks=_zero,
            inplace=True,
            flat_in_output=True,
        ),
        Activation(
            name="leaky_relu",
            module="LeakyReLU",
            family="rectifiers",
            saved="mask",
            formula="x if x > 0 else negative_slope x",
            derivative="1 if x > 0 else negative_slope",
            why_saved="The derivative has two values; torch saves the input.",
            use="Where ReLU units die: some gradient passes everywhere. Published gains over ReLU depend on the slope "
            "and the task, so try a larger one (Xu et al. 2015 do better with 1/5.5 than with 1/100) before "
            "giving it up.",
            paper="Maas, Hannun & Ng 2013, Rectifier Nonlinearities Improve Neural Network Acoustic Models",
            reference=F.leaky_relu,
            scalars=("negative_slope",),
            samples=({"negative_slope": 0.01}, {"negative_slope": 0.3}, {"negative_slope": -0.5}),
            kinks=_zero,
            inplace=True,
            leaks=True,
        ),
        Activation(
            name="prelu",
            module="PReLU",
            family="rectifiers",
            saved="input",
            formula="x if x > 0 else weight x, weight learned",
            derivative="1 if x > 0 else weight; by weight: 0 if x > 0 else x",
            why_saved="The weight's gradient needs the values of the negative inputs.",
            use="Where data are plenty: He et al. 2015 gain 1.2 points of ImageNet top-1 accuracy over ReLU at hardly "
            "any extra parameters. On small data sets the learned slope overfits more than RReLU's random one (Xu "
            "et al. 2015); keep weight decay off the slopes.",
            paper="He et al. 2015, Delving Deep into Rectifiers",
            reference=F.prelu,
            kinks=_zero,
            kind="channelwise",
            weights={"weight": (-0.5, 1.5)},
            leaks=True,
        ),
        Activation(
            name="rrelu",
            module="RReLU",
            family="rectifiers",
            saved="mask",
            formula="x if x > 0 else a x; a uniform in [lower, upper] per element, their mean in evaluation",
            derivative="1 if x > 0 else a",
            why_saved="The slopes are drawn again from the saved seed; torch saves the input and a tensor of slopes.",
            use="On small data sets, where its random slopes regularise: the best of the rectifiers on CIFAR-10 and "
            "CIFAR-100 in Xu et al. 2015. Not where two runs must agree exactly without a fixed seed, or beside "
            "other strong regularisation.",
            paper="Xu et al. 2015, Empirical Evaluation of Rectified Activations in Convolutional Network",
            reference=F.rrelu,
            scalars=("lower", "upper"),
            samples=({"lower": 1 / 8, "upper": 1 / 3}, {"lower": 0.2, "upper": 0.2}),
            kinks=_zero,
            inplace=True,
            random=True,
            extras={"training": True},
            leaks=True,
        ),
        Activation(
            name="threshold",
            module="Threshold",
            family="rectifiers",
            saved="mask",
            formula="x if x > threshold else value",
            derivative="1 if x > threshold else 0",
            why_saved="The derivative has two values; torch saves the input.",
            use="To cut off below a level other than 0, as in sparse codes and old models. For hidden layers ReLU "
            "does the same with a bias that is learned.",
            paper="Nair & Hinton 2010, Rectified Linear Units Improve Restricted Boltzmann Machines (threshold 0)",
            reference=F.threshold,
            scalars=("threshold", "value"),
            samples=({"threshold": 0.0, "value": 0.0}, {"threshold": 0.75, "value": -2.5}),
            kinks=lambda threshold, value: (threshold,),
            inplace=True,
        ),
        Activation(
            name="hardtanh",
            module="Hardtanh",
            family="rectifiers",
            saved="mask",
            formula="min(max(x, min_val), max_val)",
            derivative="1 if min_val < x < max_val else 0",
            why_saved="The derivative has two values; torch saves the input.",
            use="A bounded output at the price of a clamp: quantised or recurrent networks, gradients of binarised "
            "weights. Beyond the bounds no gradient passes at all; elsewhere take Tanh or ReLU.",
            paper="Collobert 2004, Large Scale Machine Learning",
            reference=F.hardtanh,
            scalars=("min_val", "max_val"),
            samples=({"min_val": -1.0, "max_val": 1.0}, {"min_val": -0.25, "max_val": 3.5}),
            kinks=lambda min_val, max_val: (min_val, max_val),
            inplace=True,
        ),
        Activation(
            name="relu6",
            module="ReLU6",
            family="rectifiers",
            saved="mask",
            formula="min(max(0, x), 6)",
            derivative="1 if 0 < x < 6 else 0",
            why_saved="The derivative has two values; torch saves the input.",
            use="In networks meant for low-precision inference, as MobileNets: the bound of 6 keeps fixed-point "
            "ranges small. In full precision the bound brings nothing, and units above 6 get no gradient.",
            paper="Krizhevsky 2010, Convolutional Deep Belief Networks on CIFAR-10",
            reference=F.relu6,
            kinks=lambda: (0.0, 6.0),
            inplace=True,
        ),
        Activation(
            name="squared_relu",
            module="SquaredReLU",
            family="rectifiers",
            saved="input",
            formula="max(0, x)^2",
            derivative="2 max(0, x)",
            why_saved="The derivative is not piecewise constant, and a root of the output would cost digits.",
            use="In the feed-forward layers of transformers, beside GELU: sparse, and one of the two changes to which "
            "Primer owes most of its savings (So et al. 2021). Outputs grow with the square: mind 16-bit ranges "
            "and unnormalised inputs.",
            paper="So et al. 2021, Primer: Searching for Efficient Transformers for Language Modeling",
            reference=composites.squared_relu,
        ),
        Activation(
            name="star_relu",
            module="StarReLU",
            family="rectifiers",
            saved="input",
            kind="channelwise",
            formula="scale max(0, x)^2 + bias, both learned",
            derivative="2 scale max(0, x); by scale: max(0, x)^2; by bias: 1",
            why_saved="The derivatives need the input; torch's ops save two tensors.",
            use="In MetaFormer-like vision models: 71% fewer operations than GELU and better accuracy there (Yu et "
            "al. 2024). Little is known elsewhere; the learned scale and bias stand in for a normalisation, so "
            "expect less beside one.",
            paper="Yu et al. 2024, MetaFormer Baselines for Vision",
            reference=composites.star_relu,
            weights={"scale": (0.5, 1.5), "bias": (-0.5, 0.25)},
        ),
        Activation(
            name="elu",
            module="ELU",
            family="exponentials",
            saved="output",
            formula="x if x > 0 else alpha (exp(x) - 1)",
            derivative="1 if y > 0 else y + alpha",
            why_saved="The derivative follows from the output, which the next layer keeps anyway. Needs alpha >= 0.",
            use="A smooth rectifier with means nearer 0, for deep networks without batch normalisation. It costs an "
            "exponential, and its left tail saturates: some gradient is lost where ReLU would lose all.",
            paper="Clevert, Unterthiner & Hochreiter 2016, Fast and Accurate Deep Network Learning by ELUs",
            reference=F.elu,
            scalars=("alpha",),
            samples=({"alpha": 1.0}, {"alpha": 1.7}, {"alpha": 0.0}),
            kinks=lambda alpha: () if alpha == 1 else (0.0,),
            inplace=True,
            derivative_from_output=lambda y, alpha: torch.where(
                y > 0, torch.ones_like(y), _constant_at_zero(y) + alpha
            ),
        ),
        Activation(
            name="selu",
            module="SELU",
            family="exponentials",
            saved="output",
            formula="1.0507 (x if x > 0 else 1.6733 (exp(x) - 1))",
            derivative="1.0507 if y > 0 else y + 1.7581",
            why_saved="The derivative follows from the output, which the next layer keeps anyway.",
            use="In deep fully connected networks without normalisation layers, with LeCun's normal initialisation "
            "and AlphaDropout: only so does it keep mean and variance (Klambauer et al. 2017). In convolutional "
            "networks with normalisation it has no such advantage.",
            paper="Klambauer et al. 2017, Self-Normalizing Neural Networks",
            reference=F.selu,
            kinks=_zero,
            inplace=True,
            derivative_from_output=lambda y: torch.where(
                y > 0, torch.full_like(y, SELU_SCALE), _constant_at_zero(y) + SELU_SCALE * SELU_ALPHA
            ),
        ),
        Activation(
            name="celu",
            module="CELU",
            family="exponentials",
            saved="output",
            formula="x if x > 0 else alpha (exp(x / alpha) - 1)",
            derivative="1 if y > 0 else y / alpha + 1",
            why_saved="The derivative follows from the output, which the next layer keeps anyway. Needs alpha > 0.",
            use="ELU for alpha other than 1, without the jump of the derivative at 0. With alpha = 1 it is ELU.",
            paper="Barron 2017, Continuously Differentiable Exponential Linear Units",
            reference=F.celu,
            scalars=("alpha",),
            samples=({"alpha": 1.0}, {"alpha": 1.7}, {"alpha": 0.25}),
            inplace=True,
            derivative_from_output=lambda y, alpha: torch.where(
                y > 0, torch.ones_like(y), _constant_at_zero(y) / alpha + 1
            ),
        ),
        Activation(
            name="xielu",
            module="XIELU",
            family="exponentials",
            saved="input",
            kind="channelwise",
            formula="alpha_p x^2 + beta x if x > 0, alpha_n (exp(x) - 1 - x) + beta x else; alphas learned",
            derivative="2 alpha_p x + beta if x > 0, alpha_n (exp(x) - 1) + beta else; by alphas: x^2, exp(x) - 1 - x",
            why_saved="The derivatives need the input; torch's ops save four tensors and a mask.",
            use="Feed-forward layers of language models: lower perplexity than squared ReLU and SwiGLU in Llama "
            "models of 1.1 and 3 billion parameters at equal compute (Huang & Schlag 2024). New: few results "
            "beside its paper's.",
            paper="Huang & Schlag 2024, Deriving Activation Functions Using Integration",
            reference=composites.xielu,
            scalars=("beta",),
            samples=({"beta": 0.5},),
            weights={"alpha_p": (0.3, 1.5), "alpha_n": (0.8, 2.0)},
        ),
        Activation(
            name="sigmoid",
            module="Sigmoid",
            family="sigmoids",
            saved="output",
            formula="1 / (1 + exp(-x))",
            derivative="y (1 - y)",
            why_saved="The derivative follows from the output, which the next layer keeps anyway.",
            use="For probabilities and gates: the output of a binary classifier (there with a loss on logits), the "
            "gates of recurrent networks. Not in hidden layers: the derivative is at most 1/4 and both ends "
            "saturate, so that early layers hardly learn.",
            paper="Glorot & Bengio 2010, Understanding the Difficulty of Training Deep Feedforward Neural Networks",
            reference=torch.sigmoid,
            derivative_from_output=lambda y: y * (1 - y),
        ),
        Activation(
            name="tanh",
            module="Tanh",
            family="sigmoids",
            saved="output",
            formula="(exp(x) - exp(-x)) / (exp(x) + exp(-x))",
            derivative="1 - y^2",
            why_saved="The derivative follows from the output, which the next layer keeps anyway.",
            use="In recurrent networks and for outputs in [-1, 1], such as a generator's last layer. Zero-centred, so "
            "better than Sigmoid in hidden layers, but both ends saturate: in deep feed-forward networks start "
            "with ReLU.",
            paper="LeCun et al. 1998, Efficient BackProp",
            reference=torch.tanh,
            derivative_from_output=lambda y: 1 - y * y,
        ),
        Activation(
            name="softsign",
            module="Softsign",
            family="sigmoids",
            saved="input",
            formula="x / (1 + |x|)",
            derivative="1 / (1 + |x|)^2",
            why_saved="1 - |y| has lost the derivative's digits for large x; torch saves two tensors.",
            use="In place of Tanh where units saturate: its tails fall off polynomially, and it was the more robust "
            "to initialisation in Glorot & Bengio 2010. Slow to reach its bounds; in deep feed-forward networks "
            "start with ReLU.",
            paper="Glorot & Bengio 2010, Understanding the Difficulty of Training Deep Feedforward Neural Networks",
            reference=F.softsign,
        ),
        Activation(
            name="hardsigmoid",
            module="Hardsigmoid",
            family="sigmoids",
            saved="mask",
            formula="min(max(0, x + 3), 6) / 6",
            derivative="1/6 if -3 < x < 3 else 0",
            why_saved="The derivative has two values; torch saves the input.",
            use="Gates on small devices, as in MobileNetV3's squeeze-and-excite: piecewise linear, exact in fixed "
            "point. Beyond -3 and 3 no gradient passes; elsewhere take Sigmoid.",
            paper="Howard et al. 2019, Searching for MobileNetV3",
            reference=F.hardsigmoid,
            kinks=lambda: (-3.0, 3.0),
            inplace=True,
        ),
        Activation(
            name="silu",
            module="SiLU",
            family="self_gated",
            saved="input",
            formula="x / (1 + exp(-x))",
            derivative="s (1 + x (1 - s)), s = sigmoid(x)",
            why_saved=_WHY_SELF_GATED_SAVES_INPUT,
            use="Convolutional networks of the EfficientNet kind, diffusion models; the gate of SwiGLU. In place of "
            "ReLU it gained 0.9 points of ImageNet top-1 accuracy in Mobile NASNet-A and 0.6 in "
            "Inception-ResNet-v2 (Ramachandran et al. 2017).",
            paper="Elfwing et al. 2018; Ramachandran et al. 2017, Searching for Activation Functions",
            reference=F.silu,
            limits_at_infinity=True,
            inplace=True,
        ),
        Activation(
            name="quick_gelu",
            module="QuickGELU",
            family="self_gated",
            saved="input",
            formula="x / (1 + exp(-1.702 x))",
            derivative="s (1 + 1.702 x (1 - s)), s = sigmoid(1.702 x)",
            why_saved=f"{_WHY_SELF_GATED_SAVES_INPUT} torch's ops save two tensors.",
            use="To run models trained with it, such as CLIP. For a new model take GELU, or SiLU, which is the same "
            "curve in another scale.",
            paper="Hendrycks & Gimpel 2016, Gaussian Error Linear Units",
            reference=composites.quick_gelu,
            limits_at_infinity=True,
        ),
        Activation(
            name="gelu",
            module="GELU",
            family="self_gated",
            saved="input",
            formula="x Phi(x), Phi the normal distribution function",
            derivative="Phi(x) + x phi(x), phi the normal density",
            why_saved=_WHY_SELF_GATED_SAVES_INPUT,
            use="The default of transformers without gates, as BERT and ViT. Smooth, and small negative inputs still "
            "pass gradient; costs an error function, and backward needs the whole input.",
            paper="Hendrycks & Gimpel 2016, Gaussian Error Linear Units",
            reference=F.gelu,
            limits_at_infinity=True,
        ),
        Activation(
            name="gelu_tanh",
            module="GELU",
            family="self_gated",
            saved="input",
            formula="x / (1 + exp(-v)), v = 2 sqrt(2 / pi) (x + 0.044715 x^3)",
            derivative="s (1 + x v' (1 - s)), s = sigmoid(v)",
            why_saved=_WHY_SELF_GATED_SAVES_INPUT,
            use="Where a model was trained with the approximation, as GPT-2: its weights expect it. For a new model "
            "take GELU itself.",
            paper="Hendrycks & Gimpel 2016, Gaussian Error Linear Units",
            reference=F.gelu,
            limits_at_infinity=True,
            public="gelu",
            options={"approximate": "tanh"},
        ),
        Activation(
            name="mish",
            module="Mish",
            family="self_gated",
            saved="input",
            formula="x tanh(log(1 + exp(x)))",
            derivative="t + x (1 - t^2) sigmoid(x), t = tanh(log(1 + exp(x)))",
            why_saved=_WHY_SELF_GATED_SAVES_INPUT,
            use="Detectors of the YOLOv4 kind, which use it. In shape close to SiLU, at the price of a further "
            "exponential: try SiLU first.",
            paper="Misra 2020, Mish: A Self Regularized Non-Monotonic Activation Function",
            reference=F.mish,
            limits_at_infinity=True,
            inplace=True,
        ),
        Activation(
            name="hardswish",
            module="Hardswish",
            family="self_gated",
            saved="input",
            formula="x min(max(0, x + 3), 6) / 6",
            derivative="0 if x <= -3, 1 if x >= 3, else x / 3 + 1/2",
            why_saved=_WHY_SELF_GATED_SAVES_INPUT,
            use="SiLU for small devices: piecewise polynomial, and no worse in MobileNetV3 (Howard et al. 2019). "
            "Elsewhere take SiLU, which is smooth.",
            paper="Howard et al. 2019, Searching for MobileNetV3",
            reference=F.hardswish,
            kinks=lambda: (-3.0, 3.0),
            inplace=True,
        ),
        Activation(
            name="hardshrink",
            module="Hardshrink",
            family="shrinkage",
            saved="mask",
            formula="x if |x| > lambd else 0",
            derivative="1 if |x| > lambd else 0",
            why_saved="The derivative has two values; torch saves the input.",
            use="Sparse coding and denoising: keeps large coefficients as they are. Its jumps have no gradient; not "
            "for hidden layers of ordinary networks.",
            paper="Donoho & Johnstone 1994, Ideal Spatial Adaptation by Wavelet Shrinkage",
            reference=F.hardshrink,
            scalars=("lambd",),
            samples=({"lambd": 0.5}, {"lambd": 0.75}, {"lambd": 0.0}),
            kinks=lambda lambd: (-lambd, lambd),
        ),
        Activation(
            name="softshrink",
            module="Softshrink",
            family="shrinkage",
            saved="mask",
            formula="x - lambd if x > lambd, x + lambd if x < -lambd, else 0",
            derivative="1 if |x| > lambd else 0",
            why_saved="The derivative has two values; torch saves the input.",
            use="The proximal step of an L1 penalty: learned ISTA, wavelet denoising. It shrinks large values too; "
            "not for hidden layers of ordinary networks.",
            paper="Donoho 1995, De-noising by Soft-Thresholding",
            reference=F.softshrink,
            scalars=("lambd",),
            samples=({"lambd": 0.5}, {"lambd": 0.75}, {"lambd": 0.0}),
            kinks=lambda lambd: (-lambd, lambd),
        ),
        Activation(
            name="tanhshrink",
            module="Tanhshrink",
            family="shrinkage",
            saved="input",
            formula="x - tanh(x)",
            derivative="tanh(x)^2",
            why_saved="The derivative is no simple function of the output; torch saves tanh(x), a tensor of its own.",
            use="Sparse coding with a smooth shrinkage. Its derivative vanishes around 0, where ordinary networks "
            "start; not for their hidden layers.",
            paper="LeCun et al. 1998, Efficient BackProp (tanh)",
            reference=F.tanhshrink,
        ),
        Activation(
            name="softplus",
            module="Softplus",
            family="softplus",
            saved="input",
            formula="log(1 + exp(beta x)) / beta, x if beta x > threshold",
            derivative="1 / (1 + exp(-beta x)), 1 if beta x > threshold",
            why_saved="Near a low threshold two inputs share an output, so that only the input tells the derivative.",
            use="Where an output must be positive: variances, rates, temperatures. Not as a hidden activation: "
            "Glorot, Bordes & Bengio 2011 found the hard zeros of ReLU to do as well or better.",
            paper="Dugas et al. 2001, Incorporating Second-Order Functional Knowledge for Better Option Pricing",
            reference=F.softplus,
            scalars=("beta", "threshold"),
            samples=(
                {"beta": 1.0, "threshold": 20.0},
                {"beta": 2.5, "threshold": 1.25},
                {"beta": -0.75, "threshold": 20.0},
            ),
            kinks=lambda beta, threshold: () if threshold >= 20 else (threshold / beta,),
        ),
        Activation(
            name="logsigmoid",
            module="LogSigmoid",
            family="softplus",
            saved="output",
            formula="-log(1 + exp(-x))",
            derivative="1 - exp(y)",
            why_saved="The derivative follows from the output with all its digits; torch may save two tensors.",
            use="Log-probabilities in losses, as in preference and contrastive learning: exact where the logarithm of "
            "Sigmoid is -inf. Not a hidden activation.",
            paper="Mnih & Kavukcuoglu 2013, Learning Word Embeddings Efficiently with Noise-Contrastive Estimation",
            reference=F.logsigmoid,
            derivative_from_output=lambda y: -torch.expm1(y),
        ),
        Activation(
            name="snake",
            module="Snake",
            family="periodic",
            saved="input",
            kind="channelwise",
            formula="x + sin(alpha x)^2 / alpha, alpha learned",
            derivative="1 + sin(2 alpha x); by alpha: x sin(2 alpha x) / alpha - sin(alpha x)^2 / alpha^2",
            why_saved="The derivatives need the input; torch's ops save four tensors.",
            use="Signals that repeat: audio vocoders and codecs, time series. ReLU and Tanh do not extrapolate a "
            "period (Ziyin et al. 2020). Not for data without one: it costs a sine.",
            paper="Ziyin, Hartwig & Ueda 2020, Neural Networks Fail to Learn Periodic Functions and How to Fix It",
            reference=composites.snake,
            weights={"alpha": (0.5, 3.0)},
        ),
        Activation(
            name="softmin",
            module="Softmin",
            family="softmax",
            saved="output",
            formula="exp(-x) / sum of exp(-x) along dim",
            derivative="y (sum of g y - g), g the incoming gradient",
            why_saved="The gradient follows from the output, which the next layer mostly keeps anyway. torch negates "
            "the input in a pass of its own.",
            use="Softmax of distances or energies, where the smallest is to weigh most.",
            paper=_BRIDLE,
            reference=F.softmin,
            samples=({"dim": -1},),
            kind="softmax",
            derivative_from_output=lambda y, dim: y * (y - 1),
            gradient_from_output=lambda grad, y, dim: y * ((grad * y).sum(dim, keepdim=True) - grad),
        ),
        Activation(
            name="softmax",
            module="Softmax",
            family="softmax",
            saved="output",
            formula="exp(x) / sum of exp(x) along dim",
            derivative="y (g - sum of g y), g the incoming gradient",
            why_saved="The gradient follows from the output, which the next layer mostly keeps anyway.",
            use="Probabilities over classes, attention weights. For a loss take log-probabilities (CrossEntropyLoss "
            "on logits); not as a hidden activation, where it makes all units compete.",
            paper=_BRIDLE,
            reference=F.softmax,
            samples=({"dim": -1},),
            kind="softmax",
            further_modules=("Softmax2d",),
            derivative_from_output=lambda y, dim: y * (1 - y),
            gradient_from_output=lambda grad, y, dim: y * (grad - (grad * y).sum(dim, keepdim=True)),
        ),
        Activation(
            name="log_softmax",
            module="LogSoftmax",
            family="softmax",
            saved="output",
            formula="x - log(sum of exp(x) along dim)",
            derivative="g - exp(y) sum of g, g the incoming gradient",
            why_saved="The gradient follows from the output, which the loss mostly keeps anyway.",
            use="Log-probabilities for NLLLoss or for beam search: exact where the logarithm of Softmax is -inf. "
            "CrossEntropyLoss on logits does both in one.",
            paper=_BRIDLE,
            reference=F.log_softmax,
            samples=({"dim": -1},),
            kind="softmax",
            derivative_from_output=lambda y, dim: -torch.expm1(y),
            gradient_from_output=lambda grad, y, dim: grad - y.exp() * grad.sum(dim, keepdim=True),
        ),
        Activation(
            name="glu",
            module="GLU",
            family="gated",
            saved="input",
            formula="value sigmoid(gate)",
            derivative="by value: sigmoid(gate); by gate: value sigmoid(gate) sigmoid(-gate)",
            why_saved="Both derivatives need both halves, and f(gate) is computed again. torch saves the same.",
            use="In convolutional language models and speech networks, where a sigmoid gate stands after each "
            "convolution: the linear half gives gradients a way past the gate.",
            paper="Dauphin et al. 2017, Language Modeling with Gated Convolutional Networks",
            reference=F.glu,
            kind="gated",
        ),
        Activation(
            name="geglu",
            module="GEGLU",
            family="gated",
            saved="input",
            formula="value gate Phi(gate)",
            derivative="by value: gate Phi(gate); by gate: value (Phi(gate) + gate phi(gate))",
            why_saved=_WHY_GATED_SAVES_INPUT,
            use="In the feed-forward layers of transformers: in Shazeer 2020 it has the lowest perplexity of the "
            "gated units beside SwiGLU, at equal parameters (two thirds of the width).",
            paper="Shazeer 2020, GLU Variants Improve Transformer",
            reference=composites.geglu,
            kind="gated",
        ),
        Activation(
            name="geglu_tanh",
            module="GEGLU",
            family="gated",
            saved="input",
            formula="value gelu_tanh(gate), with the approximation of GELU by tanh",
            derivative="by value: gelu_tanh(gate); by gate: value gelu_tanh'(gate)",
            why_saved=_WHY_GATED_SAVES_INPUT,
            use="For models trained with it, such as Gemma; otherwise GEGLU.",
            paper="Shazeer 2020, GLU Variants Improve Transformer",
            reference=composites.geglu,
            kind="gated",
            public="geglu",
            options={"approximate": "tanh"},
        ),
        Activation(
            name="swiglu",
            module="SwiGLU",
            family="gated",
            saved="input",
            formula="value gate sigmoid(gate)",
            derivative="by value: gate sigmoid(gate); by gate: value sigmoid(gate) (1 + gate sigmoid(-gate))",
            why_saved=_WHY_GATED_SAVES_INPUT,
            use="The feed-forward layers of LLaMA, PaLM and most language models since. At equal parameters (two "
            "thirds of the width) it does better than ReLU and GELU in Shazeer 2020.",
            paper="Shazeer 2020, GLU Variants Improve Transformer",
            reference=composites.swiglu,
            kind="gated",
        ),
        Activation(
            name="reglu",
            module="ReGLU",
            family="gated",
            saved="input",
            formula="value max(0, gate)",
            derivative="by value: max(0, gate); by gate: value if gate > 0 else 0",
            why_saved=_WHY_GATED_SAVES_INPUT,
            use="Where gates that are exactly zero are wanted, and the cheapest of the gated units; in Shazeer "
            "2020 close behind GEGLU and SwiGLU.",
            paper="Shazeer 2020, GLU Variants Improve Transformer",
            reference=composites.reglu,
            kinks=_zero,
            kind="gated",
        ),
        Activation(
            name="bilinear",
            module="Bilinear",
            family="gated",
            saved="input",
            formula="value gate",
            derivative="by value: gate; by gate: value",
            why_saved="The derivatives are the halves themselves; torch saves the same.",
            use="Where the layer is to stay a polynomial of its input, as analyses by weights ask for; in "
            "Shazeer 2020 it does better than ReLU and GELU without a gate.",
            paper="Shazeer 2020, GLU Variants Improve Transformer; Dauphin et al. 2017",
            reference=composites.bilinear,
            kind="gated",
            namesakes=True,
        ),
        Activation(
            name="maxout",
            module="Maxout",
            family="maxout",
            saved="indices",
            formula="max(x_1, ..., x_pieces) of each group of neighbours",
            derivative="1 for the first of the largest, else 0",
            why_saved="The derivative is known by the number of the winner; torch's max saves eight bytes for it.",
            use="With dropout, for which it was made: each unit learns its own convex, piecewise linear "
            "function, for `pieces` times the parameters. It never saturates.",
            paper="Goodfellow et al. 2013, Maxout Networks",
            reference=composites.maxout,
            scalars=("pieces",),
            samples=({"pieces": 2}, {"pieces": 3}),
            kinks=_zero,
            kind="maxout",
        ),
    )
}


class Composite(nn.Module):
    """The module that torch.nn would have where it has none: ours, computing the reference. See `torch_module`."""

    activation: Activation
    arguments: dict[str, Any]

    def forward(self, input: Tensor) -> Tensor:
        weights = (getattr(self, name) for name in self.activation.weights)
        return self.activation.reference(input, *weights, **self.arguments)


def torch_module(activation: Activation, ours: nn.Module, **arguments: Any) -> nn.Module:
    """What torch offers in place of our module, which has these arguments."""
    if activation.stock is not None:
        return activation.stock(**arguments)
    twin: Any = copy.deepcopy(ours)
    twin.__class__ = type(activation.module, (Composite, type(ours)), {})
    twin.activation, twin.arguments = activation, {**activation.keywords, **arguments}
    return twin


def of_one_variable(activation: Activation, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The curve of an activation: `function` (fastact's or torch's, of the whole input) for a tensor x of numbers.

    A gated unit with x at its gate and a value of 1; softmax and Maxout of x and 0. The others as they are.
    """
    if activation.pointwise:
        return function

    def curve(x: Tensor, *weights: Tensor, **arguments: Any) -> Tensor:
        if activation.kind == "gated":
            inputs = [torch.ones_like(x), x]
        else:
            inputs = [x, *[torch.zeros_like(x)] * (arguments.get("pieces", 2) - 1)]
        return function(torch.stack(inputs), *weights, **{**arguments, "dim": 0})[0]

    return curve
