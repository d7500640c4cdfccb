"""Meta-SpikeFormer (Spike-driven Transformer V2): convolution stages, then attention stages on membranes.

    ConvBlock: u <- u + SepConv(u);  u <- u + BN(conv3x3 neuron(BN(conv3x3 neuron(u))))
    Block:     u <- u + SDSA-3(u);   u <- u + MLP(u)
    head:      mean over space of u -> neuron -> linear -> mean over time

Not spike-driven as trained: inside RepConv (merge it: `layers.repconv.merge_repconv_`) and the last 1x1 of
SepConv, which follows its depthwise convolution without a neuron; V3 puts one there.
Source: arXiv:2404.03663, official code.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import ConfigError
from picojoule.layers.blocks import ConvNorm, Maker, NeuronConvNorm, SpikingMLP
from picojoule.layers.sdsa3 import SDSA3
from picojoule.layers.space_mean import space_mean
from picojoule.models._registry import build, register_model
from picojoule.models.config import half_threshold, neuron_config

Stage = tuple[int, int, int, int]


class SepConv2(nn.Module):
    """SepConv of V2, branch only: BN(pw2 dw neuron(BN(pw1 neuron(u)))); [T*B, C, H, W] -> the same.

    Parameters: 4 C^2 + 2 k^2 C + 6 C.
    """

    def __init__(self, dim: int, neuron: Maker, kernel: int = 7) -> None:
        super().__init__()
        self.pw1 = NeuronConvNorm(dim, 2 * dim, neuron, 1)
        self.neuron = neuron()
        self.depthwise = nn.Conv2d(2 * dim, 2 * dim, kernel, padding=kernel // 2, groups=2 * dim, bias=False)
        self.pw2 = ConvNorm(2 * dim, dim, 1)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes in, branch membranes out."""
        return self.pw2(self.depthwise(self.neuron(self.pw1(u))))


class ConvBlock2(nn.Module):
    """SepConv of V2 and two dense 3x3 convolutions, each with a membrane shortcut."""

    def __init__(self, dim: int, neuron: Maker, ratio: float = 4) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.sep = SepConv2(dim, neuron)
        self.conv1 = NeuronConvNorm(dim, hidden, neuron, 3)
        self.conv2 = NeuronConvNorm(hidden, dim, neuron, 3)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes [T*B, C, H, W] -> the same shape."""
        u = u + self.sep(u)
        return u + self.conv2(self.conv1(u))


class Block(nn.Module):
    """SDSA-3 and MLP with membrane shortcuts: [T*B, C, H, W] -> the same shape."""

    def __init__(self, dim: int, neuron: Maker, gate: Maker, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = SDSA3(dim, neuron, gate, heads)
        self.mlp = SpikingMLP(dim, neuron, mlp_ratio)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes in, membranes out."""
        u = u + self.attn(u)
        return u + self.mlp(u)


class SDTv2(nn.Module):
    """Meta-SpikeFormer; [B, C, H, W] or [B, T, C, H, W] -> logits [B, num_classes].

    Args:
        num_classes: outputs.
        in_channels: channels of the input.
        T: steps; published networks are trained with 1 and tuned with 4.
        neuron: name, mapping or config; the paper's is LIF, tau 2, detached hard reset, threshold 1.
        conv_stages: (width, blocks, kernel, stride) of each convolution stage; the first is the stem.
        attn_stages: the same for attention stages.
        heads, mlp_ratio, conv_ratio: of the blocks.
        gate: neuron behind the attention; None takes `neuron` with half its threshold, if it has one.
        mode: "static" images or "frames" sequences.
        readout: "mean" over time, or "steps" for logits [B, T, num_classes].
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        T: int = 4,
        neuron: Any = None,
        *,
        conv_stages: tuple[Stage, ...] = ((32, 1, 7, 2), (64, 1, 3, 2), (128, 2, 3, 2)),
        attn_stages: tuple[Stage, ...] = ((256, 6, 3, 2), (360, 2, 3, 1)),
        heads: int = 8,
        mlp_ratio: float = 4,
        conv_ratio: float = 4,
        gate: Any = None,
        mode: str = "static",
        readout: str = "mean",
    ) -> None:
        super().__init__()
        if not conv_stages or not attn_stages:
            raise ConfigError("SDTv2 needs at least one convolution stage (the stem) and one attention stage")
        self.config = neuron_config(neuron or {"name": "lif", "detach_reset": True})
        maker = self.config.maker(T)
        gates = (half_threshold(self.config) if gate is None else neuron_config(gate)).maker(T)
        self.entry = timeline.Entry(T, mode)
        self.stages = nn.Sequential()
        width = in_channels
        for number, (dim, depth, kernel, stride) in enumerate((*conv_stages, *attn_stages)):
            if number == 0:
                down: nn.Module = ConvNorm(width, dim, kernel, stride, bias=True)
            else:
                down = NeuronConvNorm(width, dim, maker, kernel, stride, bias=True)
            if number < len(conv_stages):
                blocks: list[nn.Module] = [ConvBlock2(dim, maker, conv_ratio) for _ in range(depth)]
            else:
                blocks = [Block(dim, maker, gates, heads, mlp_ratio) for _ in range(depth)]
            self.stages.append(nn.Sequential(down, *blocks))
            width = dim
        self.head_neuron = maker()
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.readout = timeline.Readout(T, readout)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] (or frames [B, T, C, H, W]) -> logits [B, num_classes]."""
        u = self.stages(self.entry(x))  # [T*B, C, h, w] membranes
        return self.readout(self.head(self.head_neuron(space_mean(u))))


def _published(overrides: dict[str, Any], e0: int, e1: int, e2: int, e3: int) -> nn.Module:
    conv = ((e0 // 2, 1, 7, 2), (e0, 1, 3, 2), (e1, 2, 3, 2))
    return build(SDTv2, overrides, conv_stages=conv, attn_stages=((e2, 6, 3, 2), (e3, 2, 3, 1)))


@register_model(family="sdt_v2")
def sdt_v2_15m(**overrides: Any) -> nn.Module:
    """SDT-v2 15M for 224x224: 15,112,208 parameters."""
    return _published(overrides, 64, 128, 256, 360)


@register_model(family="sdt_v2")
def sdt_v2_31m(**overrides: Any) -> nn.Module:
    """SDT-v2 8_384 for 224x224: 31,333,864 parameters."""
    return _published(overrides, 96, 192, 384, 480)


@register_model(family="sdt_v2")
def sdt_v2_55m(**overrides: Any) -> nn.Module:
    """SDT-v2 8_512 for 224x224: 55,350,248 parameters (80.0 % ImageNet in the paper, T=4, distilled)."""
    return _published(overrides, 128, 256, 512, 640)


@register_model(family="sdt_v2")
def sdt_v2_124m(**overrides: Any) -> nn.Module:
    """SDT-v2 8_768 for 224x224: 123,741,160 parameters."""
    return _published(overrides, 192, 384, 768, 960)


@register_model(family="sdt_v2", tiny=True, image=(1, 8, 8))
def sdt_v2_tiny(**overrides: Any) -> nn.Module:
    """The smallest one, for tests: 8x8 grey, widths 8 and 16, T=4."""
    options: dict[str, Any] = {
        "num_classes": 10,
        "in_channels": 1,
        "heads": 2,
        "mlp_ratio": 2,
        "conv_ratio": 2,
    }
    return build(SDTv2, overrides, conv_stages=((8, 1, 3, 2),), attn_stages=((16, 1, 3, 2),), **options)
