"""Spike-driven Transformer V1: a convolutional stem (SPS), then blocks of SDSA and MLP on membranes.

    SPS:   4 x [conv 3x3 - BN - neuron - maxpool 3 s2]; the last one pools membranes and adds a position
           term:  x = pool(BN(conv s));  u = x + BN(conv3x3 neuron(x))
    block: u <- u + SDSA(u);  u <- u + MLP(u)
    head:  mean over space of u -> neuron -> linear -> mean over time

Every convolution but the first sees {0, 1}. Source: arXiv:2307.01694, official code. Published counts
include an unused 8x8 convolution (`talking_heads`, 64 weights a block) that we leave out.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import ConfigError
from picojoule.layers.blocks import ConvNorm, ConvNormNeuron, Maker, NeuronConvNorm, SpikingMLP
from picojoule.layers.drop import DropPath
from picojoule.layers.sdsa import SDSA
from picojoule.layers.space_mean import space_mean
from picojoule.models._registry import build, register_model
from picojoule.models.config import half_threshold, neuron_config


class SPS(nn.Module):
    """Spiking patch splitting: images [T*B, C, H, W] -> membranes [T*B, dim, h, w].

    Args:
        in_channels: channels of the image.
        dim: channels of the last two convolutions; the first have dim/8, dim/4, dim/2.
        neuron: makes a neuron layer.
        pools: four flags "0" or "1": a 3x3 pool of stride 2 after that convolution.
    """

    def __init__(self, in_channels: int, dim: int, neuron: Maker, pools: str = "1111") -> None:
        super().__init__()
        if len(pools) != 4 or set(pools) - {"0", "1"}:
            raise ConfigError(f"pools must be four flags such as '0011', got {pools!r}")
        if dim % 8:
            raise ConfigError(f"dim must be a multiple of 8, got {dim}")
        widths = [in_channels, dim // 8, dim // 4, dim // 2]
        self.spiking = nn.Sequential()
        for i in range(3):
            self.spiking.append(ConvNormNeuron(widths[i], widths[i + 1], neuron))
            if pools[i] == "1":
                self.spiking.append(nn.MaxPool2d(3, 2, 1))
        self.last = ConvNorm(dim // 2, dim)
        self.pool = nn.MaxPool2d(3, 2, 1) if pools[3] == "1" else nn.Identity()
        self.position = NeuronConvNorm(dim, dim, neuron)

    def forward(self, x: Tensor) -> Tensor:
        """Image rows in, membranes out."""
        u = self.pool(self.last(self.spiking(x)))
        return u + self.position(u)


class Block(nn.Module):
    """SDSA and MLP with membrane shortcuts: [T*B, C, H, W] -> [T*B, C, H, W]; 12 C^2 + 24 C parameters."""

    def __init__(
        self, dim: int, neuron: Maker, gate: Maker, mlp_ratio: float, drop_path: float, T: int
    ) -> None:
        super().__init__()
        self.attn = SDSA(dim, neuron, gate)
        self.mlp = SpikingMLP(dim, neuron, mlp_ratio)
        self.drop = DropPath(drop_path, T)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes in, membranes out."""
        u = u + self.drop(self.attn(u))
        return u + self.drop(self.mlp(u))


class SDTv1(nn.Module):
    """Spike-driven Transformer V1; [B, C, H, W] or [B, T, C, H, W] -> logits [B, num_classes].

    Args:
        num_classes: outputs.
        in_channels: channels of the input.
        T: steps.
        neuron: name, mapping or config; the paper's is LIF, tau 2, detached hard reset, threshold 1.
        dim: width.
        depth: blocks.
        pools: which stem stages pool: "1111" ImageNet, "0011" CIFAR and CIFAR10-DVS, "0111" Gesture.
        mlp_ratio: hidden width of the MLP.
        gate: neuron behind the sum over tokens; None takes `neuron` with half its threshold, if it has one.
        drop_path: probability of dropping a branch in the last block, rises linearly; the paper uses 0.
        mode: "static" images or "frames" sequences.
        readout: "mean" over time, or "steps" for logits [B, T, num_classes] (TET).
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        T: int = 4,
        neuron: Any = None,
        *,
        dim: int = 512,
        depth: int = 8,
        pools: str = "1111",
        mlp_ratio: float = 4,
        gate: Any = None,
        drop_path: float = 0.0,
        mode: str = "static",
        readout: str = "mean",
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ConfigError(f"depth must be at least 1 block, got {depth}")
        self.config = neuron_config(neuron or {"name": "lif", "detach_reset": True})
        maker = self.config.maker(T)
        gates = (half_threshold(self.config) if gate is None else neuron_config(gate)).maker(T)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.entry = timeline.Entry(T, mode)
        self.stem = SPS(in_channels, dim, maker, pools)
        self.blocks = nn.Sequential(*(Block(dim, maker, gates, mlp_ratio, rate, T) for rate in rates))
        self.head_neuron = maker()
        self.head = nn.Linear(dim, num_classes)
        self.readout = timeline.Readout(T, readout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] (or frames [B, T, C, H, W]) -> logits [B, num_classes]."""
        u = self.blocks(self.stem(self.entry(x)))  # [T*B, C, h, w] membranes
        return self.readout(self.head(self.head_neuron(space_mean(u))))


@register_model(family="sdt_v1")
def sdt_v1_8_384(**overrides: Any) -> nn.Module:
    """8 blocks of 384 for 224x224: 16,816,024 parameters (published 16,816,536 with 512 unused)."""
    return build(SDTv1, overrides, dim=384, depth=8)


@register_model(family="sdt_v1")
def sdt_v1_6_512(**overrides: Any) -> nn.Module:
    """6 blocks of 512 for 224x224: 23,373,352 parameters (published 23,373,736 with 384 unused)."""
    return build(SDTv1, overrides, dim=512, depth=6)


@register_model(family="sdt_v1")
def sdt_v1_8_512(**overrides: Any) -> nn.Module:
    """8 blocks of 512 for 224x224: 29,689,384 parameters (published 29,689,896 with 512 unused)."""
    return build(SDTv1, overrides, dim=512, depth=8)


@register_model(family="sdt_v1")
def sdt_v1_10_512(**overrides: Any) -> nn.Module:
    """10 blocks of 512 for 224x224: 36,005,416 parameters (published 36,006,056 with 640 unused)."""
    return build(SDTv1, overrides, dim=512, depth=10)


@register_model(family="sdt_v1")
def sdt_v1_8_768(**overrides: Any) -> nn.Module:
    """8 blocks of 768 for 224x224: 66,338,632 parameters (published 66,339,144 with 512 unused)."""
    return build(SDTv1, overrides, dim=768, depth=8)


@register_model(family="sdt_v1", image=(3, 32, 32))
def sdt_v1_2_256(**overrides: Any) -> nn.Module:
    """2 blocks of 256 for CIFAR: 2,566,954 parameters (published 2,567,082 with 128 unused)."""
    return build(SDTv1, overrides, num_classes=10, dim=256, depth=2, pools="0011")


@register_model(family="sdt_v1", image=(3, 32, 32))
def sdt_v1_2_512(**overrides: Any) -> nn.Module:
    """2 blocks of 512 for CIFAR: 10,233,418 parameters (published 10,233,546 with 128 unused)."""
    return build(SDTv1, overrides, num_classes=10, dim=512, depth=2, pools="0011")


@register_model(family="sdt_v1", image=(1, 8, 8))
def sdt_v1_digits(**overrides: Any) -> nn.Module:
    """For 8x8 grey images: one block of 64 on 4x4 tokens, T=4."""
    options: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "pools": "0100", "mlp_ratio": 2}
    return build(SDTv1, overrides, dim=64, depth=1, **options)


@register_model(family="sdt_v1", image=(1, 28, 28))
def sdt_v1_28(**overrides: Any) -> nn.Module:
    """For 28x28 grey images on few cores: one block of 64 on 7x7 tokens, T=4."""
    options: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "pools": "1100", "mlp_ratio": 2}
    return build(SDTv1, overrides, dim=64, depth=1, **options)


@register_model(family="sdt_v1", image=(3, 32, 32))
def sdt_v1_32(**overrides: Any) -> nn.Module:
    """For 32x32 colour images on few cores: two blocks of 64 on 8x8 tokens, T=4."""
    return build(SDTv1, overrides, num_classes=10, dim=64, depth=2, pools="1100", mlp_ratio=2)


@register_model(family="sdt_v1", tiny=True, image=(1, 8, 8))
def sdt_v1_tiny(**overrides: Any) -> nn.Module:
    """The smallest one, for tests: 8x8 grey, one block of 16, T=4."""
    options: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "pools": "0001", "mlp_ratio": 2}
    return build(SDTv1, overrides, dim=16, depth=1, **options)
