"""Spiking VGG networks: a chain of conv-BN-neuron, pools on spikes, a linear head.

Layouts are strings: "64-128-P-256/2": a number is a 3x3 convolution of that width, "/2" its stride, "P" a
2x2 pool.

Sources: VGG-11 of BSO, arXiv:2511.12502; VGGSNN of TET and Q-SNN, arXiv:2202.11946 and 2406.13672; VGG-16 of
QP-SNN, arXiv:2502.05905; VGG-7 of T2FSNN, arXiv:2003.11741. Source of the layouts: the method notes of these
papers; the sizes for small images are ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import ConfigError
from picojoule.layers.blocks import ConvNormNeuron, Maker
from picojoule.layers.drop import Dropout
from picojoule.layers.space_mean import space_mean
from picojoule.models._registry import build, register_model
from picojoule.models.config import NeuronConfig, neuron_config

VGG11 = "64-128-P-256-256-P-512-512-P-512-512"
SFA = {"name": "sfa"}
VGGSNN = "64-128-P-256-256-P-512-512-P-512-512-P"


def parse_layout(layout: str) -> list[tuple[int, int] | None]:
    """(width, stride) for each convolution, None for each pool.

    >>> parse_layout("32/2-P-64")
    [(32, 2), None, (64, 1)]
    """
    parts: list[tuple[int, int] | None] = []
    for word in layout.split("-"):
        if word in ("P", "p"):
            parts.append(None)
            continue
        width, _, stride = word.partition("/")
        if not width.isdigit() or not (stride or "1").isdigit() or int(width) < 1 or int(stride or 1) < 1:
            raise ConfigError(f"cannot read {word!r} in layout {layout!r}; write e.g. '32/2-64-P-128'")
        parts.append((int(width), int(stride or 1)))
    if not any(parts):
        raise ConfigError(f"layout {layout!r} holds no convolution; write e.g. '32/2-64-P-128'")
    return parts


class SpikingVGG(nn.Module):
    """conv-BN-neuron chain; [B, C, H, W] or [B, T, C, H, W] -> logits [B, num_classes].

    Args:
        num_classes: outputs.
        in_channels: channels of the input.
        T: steps.
        neuron: name, mapping or config, see `models.config`.
        layout: convolutions and pools, see the module's first lines.
        pool: "avg" or "max", 2x2 on spikes.
        first_bias: the first convolution has a bias.
        conv_bias: all others have one.
        image_size: height and width of the input; needed by the "flatten" head only.
        head: "gap" averages over space; "flatten" keeps it.
        hidden: widths of hidden linear layers with neurons.
        dropout: probability in front of each linear layer; one mask for all steps.
        mode: "static" images or "frames" sequences.
        readout: "mean" over time, or "steps" for logits [B, T, num_classes].
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        T: int = 4,
        neuron: Any = "lif",
        layout: str = VGG11,
        *,
        pool: str = "avg",
        first_bias: bool = True,
        conv_bias: bool = False,
        image_size: int | None = None,
        head: str = "gap",
        hidden: tuple[int, ...] = (),
        dropout: float = 0.0,
        mode: str = "static",
        readout: str = "mean",
    ) -> None:
        super().__init__()
        if pool not in ("avg", "max"):
            raise ConfigError(f"pool must be 'avg' or 'max', got {pool!r}")
        if head not in ("gap", "flatten"):
            raise ConfigError(f"head must be 'gap' or 'flatten', got {head!r}")
        if head == "flatten" and image_size is None:
            raise ConfigError("the 'flatten' head needs image_size, e.g. image_size=32")
        self.config: NeuronConfig = neuron_config(neuron)
        maker = self.config.maker(T)
        self.entry = timeline.Entry(T, mode)
        self.features = nn.Sequential()
        width, side = in_channels, image_size or 0
        for number, part in enumerate(parse_layout(layout)):
            if part is None:
                layer: nn.Module = nn.AvgPool2d(2) if pool == "avg" else nn.MaxPool2d(2)
                side //= 2
            else:
                bias = first_bias if number == 0 else conv_bias
                layer = ConvNormNeuron(width, part[0], maker, 3, part[1], bias=bias)
                width, side = part[0], -(-side // part[1])
            self.features.append(layer)
        self.flat = head == "flatten"
        if self.flat and side < 1:
            raise ConfigError(f"images of {image_size} pixels are too small for layout {layout!r}")
        self.head = _head(width * side * side if self.flat else width, hidden, num_classes, maker, dropout, T)
        self.readout = timeline.Readout(T, readout)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] (or frames [B, T, C, H, W]) -> logits [B, num_classes]."""
        s = self.features(self.entry(x))  # [T*B, C, h, w] spikes
        s = torch.flatten(s, 1) if self.flat else space_mean(s)  # [T*B, F]
        return self.readout(self.head(s))


def _head(width: int, hidden: tuple[int, ...], classes: int, maker: Maker, p: float, T: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [*([Dropout(p, T)] if p > 0 else []), nn.Linear(width, size), maker()]
        width = size
    layers += [*([Dropout(p, T)] if p > 0 else []), nn.Linear(width, classes)]
    return nn.Sequential(*layers)


@register_model(family="spiking_vgg", image=(3, 32, 32))
def spiking_vgg5(**overrides: Any) -> nn.Module:
    """VGG-5 for 32x32: 64-P-128-128-P and two hidden layers of 4096, with BatchNorm: 50.6 M parameters."""
    defaults: dict[str, Any] = {"head": "flatten", "image_size": 32, "hidden": (4096, 4096)}
    return build(SpikingVGG, overrides, layout="64-P-128-128-P", **defaults)


@register_model(family="spiking_vgg", image=(3, 32, 32))
def spiking_vgg7(**overrides: Any) -> nn.Module:
    """VGG-7 for 32x32, layout of T2FSNN with BatchNorm and global pooling: 4.5 M parameters."""
    return build(SpikingVGG, overrides, layout="64-128-P-256-256-P-512-512-P")


@register_model(family="spiking_vgg", image=(3, 32, 32))
def spiking_vgg9(**overrides: Any) -> nn.Module:
    """VGG-9 for 32x32: seven convolutions and a hidden layer of 1024."""
    layout = "64-64-P-128-128-P-256-256-256-P"
    return build(SpikingVGG, overrides, layout=layout, head="flatten", image_size=32, hidden=(1024,))


@register_model(family="spiking_vgg", image=(3, 32, 32))
def spiking_vgg11(**overrides: Any) -> nn.Module:
    """VGG-11 of BSO, 32x32: 9,228,426 parameters (10 classes), 9,274,596 (100)."""
    return build(SpikingVGG, overrides, layout=VGG11)


@register_model(family="spiking_vgg", image=(3, 32, 32))
def spiking_vgg16(**overrides: Any) -> nn.Module:
    """VGG-16 of QP-SNN, 32x32: thirteen convolutions, linear head of 512: 14.7 M parameters."""
    return build(SpikingVGG, overrides, layout="64-64-P-128-128-P-256-256-256-P-512-512-512-P-512-512-512-P")


@register_model(family="spiking_vgg", image=(2, 48, 48))
def vggsnn(**overrides: Any) -> nn.Module:
    """VGGSNN for event frames of 48x48, T=10: 9,271,498 parameters, 9,268,746 with both biases off."""
    defaults: dict[str, Any] = {"in_channels": 2, "T": 10, "conv_bias": True, "mode": "frames"}
    return build(SpikingVGG, overrides, layout=VGGSNN, head="flatten", image_size=48, **defaults)


@register_model(family="spiking_vgg", image=(1, 8, 8))
def spiking_vgg_digits(**overrides: Any) -> nn.Module:
    """For 8x8 grey images: 32-P-64-64, LIF, T=4; 0.06 M parameters, 0.9 M additions a step."""
    return build(SpikingVGG, overrides, in_channels=1, layout="32-P-64-64")


@register_model(family="spiking_vgg", image=(1, 28, 28))
def spiking_vgg_28(**overrides: Any) -> nn.Module:
    """For 28x28 grey images on few cores: 32/2-64/2-96-128/2 on counts 0..4, T=1; 5.4 M dense MACs."""
    defaults: dict[str, Any] = {"in_channels": 1, "T": 1, "neuron": SFA}
    return build(SpikingVGG, overrides, layout="32/2-64/2-96-128/2", **defaults)


@register_model(family="spiking_vgg", image=(3, 32, 32))
def spiking_vgg_32(**overrides: Any) -> nn.Module:
    """For 32x32 colour images on few cores: 48/2-96/2-128-192/2 on counts 0..4, T=1; 13.6 M dense MACs."""
    return build(SpikingVGG, overrides, layout="48/2-96/2-128-192/2", T=1, neuron=SFA)


@register_model(family="spiking_vgg", image=(2, 34, 34))
def spiking_vgg_events(**overrides: Any) -> nn.Module:
    """For event frames of 34x34 with two polarities: 24/2-48/2-64-P-96, LIF, T=10."""
    defaults: dict[str, Any] = {"in_channels": 2, "T": 10, "mode": "frames"}
    return build(SpikingVGG, overrides, layout="24/2-48/2-64-P-96", **defaults)


@register_model(family="spiking_vgg", tiny=True, image=(1, 8, 8))
def spiking_vgg_tiny(**overrides: Any) -> nn.Module:
    """The smallest one, for tests: 8x8 grey, 8-P-16, T=4; 1.5 k parameters."""
    return build(SpikingVGG, overrides, in_channels=1, layout="8-P-16")
