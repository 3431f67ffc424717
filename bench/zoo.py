"""Whole models with random weights, as their libraries build them: for the benchmark of models, and for tests.

Each comes in two sizes. "tiny" has every kind of layer of the model and takes milliseconds, for tests. "real" has the
widths of the published model, fewer layers where it has many of one kind, and a training step of about a second on two
cores. Nothing is downloaded, and a library is imported only when one of its models is made.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = Literal["tiny", "real"]

CLASSES = 10
WORDS: dict[Size, int] = {"tiny": 128, "real": 8192}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
OUTPUTS = ("logits", "last_hidden_state", "sample")
"""Where the libraries' results have their tensor."""


class Network(NamedTuple):
    """A model with an input, and a loss of what `output` gives."""

    module: nn.Module
    inputs: dict[str, Any]
    loss: Callable[[Tensor], Tensor]

    def output(self) -> Tensor:
        result = self.module(**self.inputs)
        return result if isinstance(result, Tensor) else next(result[name] for name in OUTPUTS if name in result)

    def to(self, *target: Any) -> Network:
        """On a device or in a dtype; whole numbers among the inputs keep theirs."""
        inputs = {
            name: value.to(*(each for each in target if value.is_floating_point() or not _is_dtype(each)))
            if isinstance(value, Tensor)
            else value
            for name, value in self.inputs.items()
        }
        return self._replace(module=self.module.to(*target), inputs=inputs)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, torch.dtype)


class Model(NamedTuple):
    name: str
    library: str
    build: Callable[[Size], Network]
    float64: bool = True
    """Whether a model in float64 computes in float64 throughout: some normalise in float32, whatever they get."""

    def make(self, size: Size) -> Network:
        """With parameters that start at zero or next to it, as heads, biases and layer scales, moved from there as if
        by training: or whole branches would add nothing to output and gradients."""
        network = self.build(size)
        with torch.no_grad():
            for parameter in network.module.parameters():
                if parameter.abs().max() < 1e-3:
                    parameter.normal_(std=0.1)
        return network


@cache
def torchvision_stand_in() -> None:
    """Define torchvision's ops without kernels where its library cannot be loaded, as that for CUDA beside torch for
    the CPU: importing torchvision, which timm does, asks for them."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        torch.ops.load_library(Path(spec.origin).with_name("_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)


_kept: list[torch.library.Library] = []  # ops live as long as the library that defined them


def _classified(module: nn.Module, inputs: dict[str, Any], labels: Tensor) -> Network:
    """With the cross-entropy of its last dimension, of which `labels` has the right numbers."""
    return Network(module, inputs, partial(_cross_entropy, labels=labels))


def _cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), labels.to(output.device).flatten())


def _distance(output: Tensor) -> Tensor:
    """From noise, the same each time: of normalised outputs the mean square alone is a constant."""
    noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    return F.mse_loss(output, noise.to(output))


# torch alone


class MLPs(nn.Module):
    """Residual MLPs of a transformer, each after a LayerNorm."""

    def __init__(self, activation: Callable[[], nn.Module], width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width))
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def _mlps(activation: Callable[[], nn.Module]) -> Model:
    def make(size: Size) -> Network:
        tokens, width = (512, 1024) if size == "real" else (16, 32)
        return Network(MLPs(activation, width, depth=4), {"x": torch.randn(tokens, width)}, _distance)

    return Model(f"MLP, {activation.__name__}", "torch", make)


class GatedMLP(nn.Module):
    """As of a Llama, by its names and lines."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def _gated_mlps(size: Size) -> Network:
    tokens, width, hidden = (512, 512, 1408) if size == "real" else (16, 32, 96)
    module = nn.Sequential(*(GatedMLP(width, hidden) for _ in range(4)))
    return Network(module, {"input": torch.randn(tokens, width)}, _distance)


# timm


def _timm(
    name: str,
    images: tuple[int, int],
    tiny_images: tuple[int, int] = (4, 64),
    tiny: dict[str, Any] | Callable[[], nn.Module] | None = None,
    tiny_name: str | None = None,
    **options: Any,
) -> Model:
    """An image model. `images` are how many, and of how many pixels' length. `tiny` has the options of the tiny one, or
    makes it where the model's own function leaves no choice; `tiny_name` is of a smaller one of the same kind."""

    def make(size: Size) -> Network:
        torchvision_stand_in()
        import timm

        count, length = images if size == "real" else tiny_images
        if size == "tiny" and callable(tiny):
            module = tiny()
        else:
            chosen = (options | (tiny or {})) if size == "tiny" and not callable(tiny) else options
            created = tiny_name if size == "tiny" and tiny_name else name
            module = timm.create_model(created, num_classes=CLASSES, **chosen)
        labels = torch.randint(CLASSES, (count,))
        return _classified(module.train(), {"x": torch.randn(count, 3, length, length)}, labels)

    return Model(name + "".join(f" {value}" for value in options.values() if isinstance(value, str)), "timm", make)


def _tiny_cspdarknet() -> nn.Module:
    import timm
    from timm.models.cspnet import CspStagesCfg

    stages = CspStagesCfg(
        depth=(1, 2), out_chs=(32, 64), stride=2, expand_ratio=(2.0, 1.0), bottle_ratio=(0.5, 1.0),
        block_ratio=(1.0, 0.5), down_growth=True, block_type="dark",
    )  # fmt: skip
    return timm.create_model("cspdarknet53", num_classes=CLASSES, stages=stages)


def _tiny_mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=CLASSES, img_size=64, patch_size=32, num_blocks=2, embed_dim=64)


def _tiny_caformer() -> nn.Module:
    from timm.models.metaformer import Attention, LayerNorm2dNoBias, LayerNormNoBias, MetaFormer, SepConv

    return MetaFormer(
        num_classes=CLASSES,
        depths=(1, 1),
        dims=(32, 64),
        token_mixers=[SepConv, Attention],
        norm_layers=[LayerNorm2dNoBias, LayerNormNoBias],
        res_scale_init_values=(None, 1.0),
    )


# transformers


def _transformers(
    name: str,
    config: str,
    model: str,
    inputs: Callable[[Any, Size], dict[str, Any]],
    sizes: dict[Size, dict[str, Any]],
    float64: bool = True,
) -> Model:
    """A model of a configuration, both by the names of their classes."""

    def make(size: Size) -> Network:
        torchvision_stand_in()
        import transformers

        settings = getattr(transformers, config)(**sizes[size])
        module = getattr(transformers, model)(settings).train()
        values = inputs(settings, size)
        labels = values.pop("labels", None)
        return Network(module, values, _distance) if labels is None else _classified(module, values, labels)

    return Model(name, "transformers", make, float64)


def _tokens(config: Any, size: Size, real: tuple[int, int]) -> Tensor:
    return torch.randint(3, config.vocab_size, real if size == "real" else (2, 12))


def _causal(config: Any, size: Size) -> dict[str, Any]:
    """Each token is to be told from those before it."""
    tokens = _tokens(config, size, (2, 129))
    return {"input_ids": tokens[:, :-1], "use_cache": False, "labels": tokens[:, 1:]}


def _masked(config: Any, size: Size) -> dict[str, Any]:
    tokens = _tokens(config, size, (4, 128))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}


def _text(config: Any, size: Size) -> dict[str, Any]:
    return {"input_ids": _tokens(config, size, (8, 77))}


def _pairs(config: Any, size: Size) -> dict[str, Any]:
    """Text from text."""
    tokens = _tokens(config, size, (4, 64))
    return {"input_ids": tokens, "decoder_input_ids": tokens, "use_cache": False, "labels": tokens}


def _speech(config: Any, size: Size) -> dict[str, Any]:
    """Text from spectra."""
    count, length = (2, 65) if size == "real" else (2, 12)
    tokens = torch.randint(3, config.vocab_size, (count, length))
    frames = torch.randn(count, config.num_mel_bins, 2 * config.max_source_positions)
    values = {"input_features": frames, "decoder_input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}
    return values | {"use_cache": False}


def _wave(config: Any, size: Size) -> dict[str, Any]:
    return {"input_values": torch.randn(*((2, 8000) if size == "real" else (2, 2000)))}


def _image(config: Any, size: Size) -> dict[str, Any]:
    return {"pixel_values": torch.randn(4 if size == "real" else 2, 3, config.image_size, config.image_size)}


def _labelled_image(config: Any, size: Size) -> dict[str, Any]:
    values = _image(config, size)
    return values | {"labels": torch.randint(config.num_labels, (len(values["pixel_values"]),))}


def _encoder(tiny: dict[str, Any], real: dict[str, Any], **both: Any) -> dict[Size, dict[str, Any]]:
    """Of a stack of layers whose configuration has BERT's names."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return {"tiny": small | both | tiny, "real": both | real}


def _decoder(**real: Any) -> dict[Size, dict[str, Any]]:
    """Of a language model whose configuration has Llama's names."""
    tiny = {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": WORDS["tiny"], **SPECIAL}
    return _encoder(tiny, {"num_hidden_layers": 2, "vocab_size": WORDS["real"], **SPECIAL, **real})


# diffusers


def _unet(size: Size) -> Network:
    from diffusers import UNet2DModel

    channels, length = ((64, 128, 256), 32) if size == "real" else ((16, 32), 8)
    down, up = ["DownBlock2D"] * len(channels), ["UpBlock2D"] * len(channels)
    down[-1], up[0] = "AttnDownBlock2D", "AttnUpBlock2D"
    module = UNet2DModel(
        sample_size=length, block_out_channels=channels, layers_per_block=1, attention_head_dim=8,
        down_block_types=tuple(down), up_block_types=tuple(up), norm_num_groups=8,
    )  # fmt: skip
    inputs = {"sample": torch.randn(4 if size == "real" else 2, 3, length, length), "timestep": 10}
    return Network(module.train(), inputs, _distance)


def _unet_conditional(size: Size) -> Network:
    """As Stable Diffusion's: its transformer blocks are gated by GELU."""
    from diffusers import UNet2DConditionModel

    channels, length = ((160, 320), 32) if size == "real" else ((16, 32), 8)
    width = 256 if size == "real" else 16
    module = UNet2DConditionModel(
        sample_size=length, block_out_channels=channels, layers_per_block=1, attention_head_dim=8, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
    )  # fmt: skip
    count = 2
    inputs = {"sample": torch.randn(count, 4, length, length), "timestep": 10}
    inputs["encoder_hidden_states"] = torch.randn(count, 77 if size == "real" else 5, width)
    return Network(module.train(), inputs, _distance)


def _gpt2(**options: Any) -> dict[Size, dict[str, Any]]:
    return {
        size: {"n_embd": width, "n_layer": layers, "n_head": heads, "vocab_size": WORDS[size], **SPECIAL, **options}
        for size, width, layers, heads in (("tiny", 32, 2, 2), ("real", 768, 3, 12))
    }


_FOUR = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}
_MODELS = [
    _mlps(nn.GELU),
    _mlps(nn.LeakyReLU),
    _timm("resnet18", (8, 160), tiny=_FOUR),
    _timm("resnet18", (8, 128), tiny=_FOUR, act_layer="prelu"),
    _timm("resnet18", (8, 128), tiny=_FOUR, act_layer="mish"),
    _timm("resnet50", (4, 160), tiny=_FOUR),
    _timm("mobilenetv2_100", (16, 160), tiny_name="mobilenetv2_035"),
    _timm("mobilenetv3_small_100", (32, 160), tiny_name="mobilenetv3_small_050"),
    _timm("efficientnet_b0", (8, 160), tiny_name="tinynet_e"),
    _timm("hardcorenas_a", (16, 160)),
    _timm("regnetx_002", (32, 160), tiny={"depth": 7, "wa": 8.0, "wm": 1.5}),
    _timm("cspdarknet53", (2, 128), tiny=_tiny_cspdarknet),
    _timm("convnext_atto", (16, 160), tiny={"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64)}),
    _timm("vit_tiny_patch16_224", (4, 224), tiny={"img_size": 64, "depth": 2, "embed_dim": 48}),
    _timm("mixer_s32_224", (8, 224), tiny=_tiny_mixer),
    _timm(
        "swin_tiny_patch4_window7_224",
        (1, 224),
        tiny={"img_size": 64, "depths": (2, 2), "embed_dim": 24, "num_heads": (3, 6), "window_size": 4},
    ),
    _timm("eva02_tiny_patch14_224", (2, 224), (4, 56), tiny={"img_size": 56, "depth": 2, "embed_dim": 48}),
    _timm("caformer_s18", (2, 128), tiny=_tiny_caformer),
    _transformers(
        "BERT", "BertConfig", "BertForMaskedLM", _masked,
        _encoder({"vocab_size": WORDS["tiny"]}, {"num_hidden_layers": 3, "vocab_size": WORDS["real"]}),
    ),
    _transformers("GPT-2", "GPT2Config", "GPT2LMHeadModel", _causal, _gpt2()),
    _transformers(
        "Llama", "LlamaConfig", "LlamaForCausalLM", _causal,
        _decoder(hidden_size=1024, num_attention_heads=16, num_key_value_heads=4, intermediate_size=2816),
        float64=False,
    ),
    _transformers(
        "Gemma 2", "Gemma2Config", "Gemma2ForCausalLM", _causal,
        _decoder(hidden_size=768, num_attention_heads=8, num_key_value_heads=4, head_dim=96, intermediate_size=3072),
        float64=False,
    ),
    _transformers(
        "Phi-3", "Phi3Config", "Phi3ForCausalLM", _causal,
        _decoder(hidden_size=1024, num_attention_heads=16, num_key_value_heads=16, intermediate_size=2816),
        float64=False,
    ),
    _transformers(
        "Qwen2", "Qwen2Config", "Qwen2ForCausalLM", _causal,
        _decoder(hidden_size=896, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864),
        float64=False,
    ),
    _transformers(
        "Mistral", "MistralConfig", "MistralForCausalLM", _causal,
        _decoder(hidden_size=1024, num_attention_heads=16, num_key_value_heads=4, intermediate_size=3584),
        float64=False,
    ),
    _transformers(
        "T5, gated", "T5Config", "T5ForConditionalGeneration", _pairs,
        {
            size: {
                "d_model": width, "d_kv": width // heads, "d_ff": 2 * width, "num_layers": layers, "num_heads": heads,
                "vocab_size": WORDS[size], "feed_forward_proj": "gated-gelu",
            }
            for size, width, heads, layers in (("tiny", 32, 2, 2), ("real", 512, 8, 4))
        },
        float64=False,
    ),
    _transformers(
        "CLIP, text", "CLIPTextConfig", "CLIPTextModel", _text,
        _encoder({}, {"num_hidden_layers": 6, "vocab_size": WORDS["real"]}, eos_token_id=2),
    ),
    _transformers(
        "ViT", "ViTConfig", "ViTForImageClassification", _labelled_image,
        _encoder({"image_size": 32, "patch_size": 8}, {"num_hidden_layers": 3}, num_labels=CLASSES),
    ),
    _transformers(
        "DINOv2, SwiGLU", "Dinov2Config", "Dinov2Model", _image,
        _encoder(
            {"image_size": 32, "patch_size": 8},
            {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 6, "image_size": 224},
            use_swiglu_ffn=True,
        ),
    ),
    _transformers(
        "Whisper", "WhisperConfig", "WhisperForConditionalGeneration", _speech,
        {
            size: {
                "d_model": width, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": heads,
                "decoder_attention_heads": heads, "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
                "vocab_size": WORDS[size], "max_source_positions": positions, "decoder_start_token_id": 1, **SPECIAL,
            }
            for size, width, heads, positions in (("tiny", 32, 2, 16), ("real", 384, 6, 300))
        },
    ),
    _transformers(
        "wav2vec 2.0", "Wav2Vec2Config", "Wav2Vec2Model", _wave,
        _encoder(
            {"conv_dim": (16, 16, 16), "conv_kernel": (10, 3, 3), "conv_stride": (5, 4, 4),
             "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
            {"num_hidden_layers": 2},
            apply_spec_augment=False, layerdrop=0.0,
        ),
    ),
    Model("UNet2DModel", "diffusers", _unet),
    Model("UNet2DConditionModel", "diffusers", _unet_conditional),
]  # fmt: skip
MODELS = {model.name: model for model in _MODELS}

_PUBLISHED = ("resnet50", "efficientnet_b0", "mobilenetv2_100", "mobilenetv3_small_100", "swin_tiny_patch4_window7_224")
MEMORY_MODELS = {name: MODELS[name] for name in (*_PUBLISHED, "BERT", "Llama")} | {
    model.name: model
    for model in (
        _timm("convnext_tiny", (2, 160), tiny={"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64)}),
        _timm("vit_small_patch16_224", (2, 224), tiny={"img_size": 64, "depth": 2, "embed_dim": 48}),
        _timm("vgg11_bn", (2, 128), tiny={"mlp_ratio": 0.01}),
        _timm("densenet121", (4, 160), tiny={"block_config": (2, 2), "growth_rate": 8}),
        _transformers(
            "GPT-2, torch's GELU", "GPT2Config", "GPT2LMHeadModel", _causal,
            _gpt2(activation_function="gelu_pytorch_tanh"),
        ),
        Model("gated MLPs", "torch", _gated_mlps),
    )
}  # fmt: skip
"""For the benchmark of memory. GPT-2's own GELU is composed of eight ops that keep four tensors; with torch's it shows
what is kept around the activation."""
