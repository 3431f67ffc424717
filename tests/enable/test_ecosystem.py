"""Packages around torch, with its ops replaced: their results are stock but for rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from stock import TOLERANCE, assert_stock, run_by
from torch import Tensor, nn

import fastact

EPS = torch.finfo(torch.float32).eps


@pytest.fixture(scope="module", autouse=True)
def _torchvision() -> Iterator[None]:
    """Where torchvision was made for another build of torch it cannot be imported, nor what imports it, for want of two
    ops that nobody here calls."""
    with contextlib.ExitStack() as stack:
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            library = stack.enter_context(torch.library._scoped_library("torchvision", "FRAGMENT"))
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        yield


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 3), nn.LogSoftmax(-1))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(4)]


def parameters(model: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in model.parameters()]


def check(call: Callable[[], list[Tensor]], *ops: str, size: float = 16) -> None:
    """Assert that results are stock, and that these ops of fastact's run. Some layers, of sums of at most 16 products
    of order 1, forward and back."""
    result = assert_stock(call, size=size)
    assert isinstance(result, list), result
    with fastact.enable():
        ran = run_by(call)
    assert {f"fastact::{op}" for op in ops} <= set(ran)


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")
def test_lightning() -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return F.nll_loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    def call() -> list[Tensor]:
        module = Module()
        trainer = lightning.Trainer(
            max_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", barebones=False,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(batches(), batch_size=None))
        return parameters(module)

    check(call, "gelu_backward", "silu_backward", "log_softmax_backward")


def test_accelerate() -> None:
    from accelerate import Accelerator

    def call() -> list[Tensor]:
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = network()
        model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
        for input, target in batches():
            with accelerator.accumulate(model):
                accelerator.backward(F.nll_loss(model(input), target))
                optimizer.step()
                optimizer.zero_grad()
        return parameters(model)

    check(call, "gelu_backward", "silu_backward", "log_softmax_backward")


def test_peft() -> None:
    from peft import LoraConfig, get_peft_model

    def call() -> list[Tensor]:
        model = get_peft_model(network(), LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False))
        model(batches()[0][0]).square().sum().backward()
        merged = model.merge_and_unload()
        return [*(each.grad for each in model.parameters() if each.grad is not None), merged(batches()[0][0]).detach()]

    check(call, "gelu_backward", "silu_backward", size=128)  # sums over 8 rows of squares of order 10


@pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients are computed:UserWarning")
def test_opacus() -> None:
    from opacus import GradSampleModule

    def call(mode: str) -> list[Tensor]:
        model = GradSampleModule(network(), loss_reduction="sum", batch_first=True, force_functorch=mode == "functorch")
        input, target = batches()[0]
        F.nll_loss(model(input), target, reduction="sum").backward()
        return [each.grad_sample for each in model.parameters()]

    for mode in ("hooks", "functorch"):
        check(lambda mode=mode: call(mode), "gelu_backward", "silu_backward", "log_softmax_backward")


@pytest.mark.filterwarnings(r"ignore:\s*Setting forward, backward hooks and attributes on non-linear:UserWarning")
def test_captum() -> None:
    from captum.attr import DeepLift, IntegratedGradients, LayerGradCam

    def call() -> list[Tensor]:
        torch.manual_seed(0)
        layers = (nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ELU(), nn.Linear(16, 3), nn.Softmax(-1))
        model = nn.Sequential(*layers)
        input = batches()[0][0].requires_grad_()
        found = [DeepLift(model).attribute(input, torch.zeros_like(input), target=1)]
        found.append(IntegratedGradients(model).attribute(input, target=1, n_steps=8))
        found.append(LayerGradCam(model, model[1]).attribute(input, target=1))
        return [each.detach() for each in found]

    check(call, "relu_mask", "elu", "softmax", size=64)  # DeepLIFT divides by differences of some hundredths


def test_torchs_transformer() -> None:
    """In training, in evaluation with the fast path, which is an op of its own, and by way of attention's math."""

    def call(training: bool, grad: bool) -> list[Tensor]:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, activation="gelu", batch_first=True).train(training)
        input = torch.linspace(-2, 2, 2 * 5 * 16).view(2, 5, 16).requires_grad_(grad)
        with torch.set_grad_enabled(grad):
            output = layer(input)
        return [output.detach(), *(torch.autograd.grad(output.sum(), [*layer.parameters()]) if grad else [])]

    check(lambda: call(True, True), "gelu", "gelu_backward", size=256)  # a norm's weight has a sum over 10 rows
    check(lambda: call(False, True), "gelu", "gelu_backward", size=256)
    check(lambda: call(False, False), size=64)
    with fastact.enable():
        assert "aten::_transformer_encoder_layer_fwd" in run_by(lambda: call(False, False))


def test_timm() -> None:
    import timm

    def call() -> list[Tensor]:
        torch.manual_seed(0)
        model = timm.create_model("test_vit", pretrained=False, num_classes=5, img_size=32, patch_size=16)
        input = torch.linspace(-2, 2, 3 * 32 * 32).view(1, 3, 32, 32)
        output = model(input)
        output.sum().backward()
        return [output.detach(), next(model.parameters()).grad]

    check(call, "gelu", "gelu_backward", size=256)


def test_transformers() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    def call() -> list[Tensor]:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
        tokens = torch.arange(12).view(2, 6)
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        generated = model.generate(tokens[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
        return [loss.detach(), model.lm_head.weight.grad, generated]

    check(call, "silu", "silu_backward", "log_softmax", size=64)


def test_state_dicts_are_stock() -> None:
    with fastact.enable():
        ours = network().state_dict()
    theirs = network().state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with fastact.enable():
        model = network()
        model.load_state_dict(theirs)
        got = model(batches()[0][0])
    torch.testing.assert_close(got, network()(batches()[0][0]), rtol=0, atol=16 * TOLERANCE[torch.float32]["atol"])
