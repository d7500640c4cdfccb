"""Spike-driven Transformer V3 (E-SpikeFormer), base models: convolution stages, then attention stages.

    stem conv 7x7 s2 - ConvBlocks - [neuron conv 3x3 s2 - ConvBlocks] ... - [down - Blocks] ...
    Block: u <- u + SepConv_3(u);  u <- u + E-SDSA(u);  u <- u + MLP(u)
    head:  mean over space of u -> neuron (norm 1) -> linear

Every convolution but the stem sees spike counts; all shortcuts add membranes.
Source: arXiv:2411.16061, official code (base models). Parameters: see each entry point; asserted exactly.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import ConfigError
from picojoule.layers.blocks import ConvNorm, Maker, NeuronConvNorm, SpikingMLP
from picojoule.layers.drop import DropPath
from picojoule.layers.esdsa import ESDSA
from picojoule.layers.sepconv import ConvBlock, SepConv
from picojoule.layers.space_mean import space_mean
from picojoule.models._registry import build, register_model
from picojoule.models.config import NeuronConfig, neuron_config

Stage = tuple[int, int, int, int]
SFA = {"name": "sfa", "D": 4}


class Block(nn.Module):
    """Transformer block on membranes [T*B, C, H, W]: SepConv, E-SDSA and MLP, each with a shortcut.

    Args:
        dim: channels C.
        neuron: makes a neuron layer.
        heads, v_ratio: heads and value expansion of the attention.
        mlp_ratio: hidden width of the MLP in units of C.
        drop_path: probability of dropping attention and MLP of a sample, for all T steps.
        T: steps, for drop_path.
    """

    def __init__(
        self,
        dim: int,
        neuron: Maker,
        *,
        heads: int = 8,
        v_ratio: int = 4,
        mlp_ratio: float = 4,
        drop_path: float = 0.0,
        T: int = 1,
    ) -> None:
        super().__init__()
        self.sep = SepConv(dim, neuron, kernel=3)
        self.attn = ESDSA(dim, neuron, heads, v_ratio)
        self.mlp = SpikingMLP(dim, neuron, mlp_ratio)
        self.drop = DropPath(drop_path, T)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes in, membranes out."""
        u = u + self.sep(u)
        u = u + self.drop(self.attn(u))
        return u + self.drop(self.mlp(u))


class SDTv3(nn.Module):
    """Spike-driven Transformer V3; [B, C, H, W] or [B, T, C, H, W] -> logits [B, num_classes].

    Args:
        num_classes: outputs.
        in_channels: channels of the input.
        T: real steps; 1 for images (the D levels of the neuron are the virtual steps).
        neuron: name, mapping or config; the paper's is SFA with D = 4.
        conv_stages: (width, blocks, kernel, stride) of each convolution stage; the first is the stem.
        attn_stages: the same for attention stages.
        conv_ratio: hidden width of the dense pair in convolution blocks.
        heads, v_ratio, mlp_ratio: of the Transformer blocks.
        sep_kernel: depthwise kernel in convolution stages.
        head_neuron: neuron before the classifier; None takes `neuron` with norm 1 where it has a norm.
        drop_path: probability in the last Transformer block; rises linearly from 0. The paper uses none.
        mode: "static" images or "frames" sequences.
        readout: "mean" over time, or "steps" for logits [B, T, num_classes].
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        T: int = 1,
        neuron: Any = SFA,
        *,
        conv_stages: tuple[Stage, ...] = ((32, 1, 7, 2), (64, 1, 3, 2), (128, 2, 3, 2)),
        attn_stages: tuple[Stage, ...] = ((192, 6, 3, 2), (256, 2, 3, 1)),
        conv_ratio: float = 4,
        heads: int = 8,
        v_ratio: int = 4,
        mlp_ratio: float = 4,
        sep_kernel: int = 7,
        head_neuron: Any = None,
        drop_path: float = 0.0,
        mode: str = "static",
        readout: str = "mean",
    ) -> None:
        super().__init__()
        if not conv_stages or not attn_stages:
            raise ConfigError("SDTv3 needs at least one convolution stage (the stem) and one attention stage")
        self.config = neuron_config(neuron)
        maker = self.config.maker(T)
        self.entry = timeline.Entry(T, mode)
        self.stages = nn.Sequential()
        width = in_channels
        for number, (dim, depth, kernel, stride) in enumerate(conv_stages):
            down = _down(width, dim, maker, kernel, stride, stem=number == 0)
            blocks = [ConvBlock(dim, maker, sep_kernel, conv_ratio) for _ in range(depth)]
            self.stages.append(nn.Sequential(down, *blocks))
            width = dim
        total = sum(stage[1] for stage in attn_stages)
        done = 0
        for dim, depth, kernel, stride in attn_stages:
            down = _down(width, dim, maker, kernel, stride, stem=False)
            rates = [drop_path * (done + i) / max(total - 1, 1) for i in range(depth)]
            options: dict[str, Any] = {"heads": heads, "v_ratio": v_ratio, "mlp_ratio": mlp_ratio, "T": T}
            blocks = [Block(dim, maker, drop_path=rate, **options) for rate in rates]
            self.stages.append(nn.Sequential(down, *blocks))
            width, done = dim, done + depth
        self.head_neuron = (_norm_one(self.config) if head_neuron is None else neuron_config(head_neuron))(T)
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.readout = timeline.Readout(T, readout)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] (or frames [B, T, C, H, W]) -> logits [B, num_classes]."""
        u = self.stages(self.entry(x))  # [T*B, C, h, w] membranes
        s = self.head_neuron(space_mean(u))  # [T*B, C]
        return self.readout(self.head(s))


def _down(c_in: int, c_out: int, maker: Maker, kernel: int, stride: int, stem: bool) -> nn.Module:
    if stem:
        return ConvNorm(c_in, c_out, kernel, stride, bias=True)
    return NeuronConvNorm(c_in, c_out, maker, kernel, stride, bias=True)


def _norm_one(config: NeuronConfig) -> NeuronConfig:
    """The same neuron, emitting whole counts."""
    return config.with_(N=1.0) if "N" in config.allowed() else config


def _base(overrides: dict[str, Any], e0: int, e1: int, e2: int, e3: int) -> nn.Module:
    conv = ((e0 // 2, 1, 7, 2), (e0, 1, 3, 2), (e1, 2, 3, 2))
    return build(SDTv3, overrides, conv_stages=conv, attn_stages=((e2, 6, 3, 2), (e3, 2, 3, 1)))


@register_model(family="sdt_v3")
def sdt_v3_t(**overrides: Any) -> nn.Module:
    """SDT-v3 T for 224x224: 2,702,048 parameters."""
    return _base(overrides, 24, 48, 96, 128)


@register_model(family="sdt_v3")
def sdt_v3_s(**overrides: Any) -> nn.Module:
    """SDT-v3 S for 224x224: 5,105,608 parameters ("5.1M")."""
    return _base(overrides, 32, 64, 128, 192)


@register_model(family="sdt_v3")
def sdt_v3_m(**overrides: Any) -> nn.Module:
    """SDT-v3 M for 224x224: 10,023,112 parameters ("10M", 78.5 % ImageNet in the paper)."""
    return _base(overrides, 48, 96, 192, 240)


@register_model(family="sdt_v3")
def sdt_v3_l(**overrides: Any) -> nn.Module:
    """SDT-v3 L for 224x224: 18,987,504 parameters ("19M", 79.8 % ImageNet in the paper)."""
    return _base(overrides, 64, 128, 256, 360)


def _small(
    overrides: dict[str, Any], conv: tuple[Stage, ...], attn: tuple[Stage, ...], **other: Any
) -> nn.Module:
    options: dict[str, Any] = {"num_classes": 10, "conv_ratio": 2, "v_ratio": 2, "mlp_ratio": 2, **other}
    return build(SDTv3, overrides, conv_stages=conv, attn_stages=attn, **options)


@register_model(family="sdt_v3", image=(1, 8, 8))
def sdt_v3_digits(**overrides: Any) -> nn.Module:
    """For 8x8 grey images: one convolution stage of 24, one attention stage of 48 on 4x4 tokens."""
    options: dict[str, Any] = {"in_channels": 1, "sep_kernel": 3, "heads": 4}
    return _small(overrides, ((24, 1, 3, 1),), ((48, 1, 3, 2),), **options)


@register_model(family="sdt_v3", image=(1, 28, 28))
def sdt_v3_28(**overrides: Any) -> nn.Module:
    """For 28x28 grey images: stem to 14x14, one ConvBlock of 32 and two blocks of 48 on 7x7 tokens."""
    options: dict[str, Any] = {"in_channels": 1, "sep_kernel": 5, "heads": 4}
    return _small(overrides, ((16, 0, 3, 2), (32, 1, 3, 2)), ((48, 2, 3, 1),), **options)


@register_model(family="sdt_v3", image=(3, 32, 32))
def sdt_v3_32(**overrides: Any) -> nn.Module:
    """For 32x32 colour images: stem to 16x16, one ConvBlock of 48 and two blocks of 64 on 8x8 tokens."""
    return _small(overrides, ((24, 0, 3, 2), (48, 1, 3, 2)), ((64, 2, 3, 1),), sep_kernel=5)


@register_model(family="sdt_v3", tiny=True, image=(1, 8, 8))
def sdt_v3_tiny(**overrides: Any) -> nn.Module:
    """The smallest one, for tests: 8x8 grey, widths 8 and 16."""
    options: dict[str, Any] = {"in_channels": 1, "sep_kernel": 3, "heads": 2}
    return _small(overrides, ((8, 1, 3, 2),), ((16, 1, 3, 2),), **options)
