"""SEW-ResNet: branch and shortcut meet as spikes (ADD, AND or IAND); OR is SynA-ResNet's.

Stem conv-BN-neuron(-maxpool), stages of SEW blocks, mean over space, linear, mean over time. Layers and
parameter counts are those of the usual ResNets: 11,689,512 (18), 21,797,672 (34), 25,557,032 (50),
44,549,160 (101), 60,192,808 (152). With ADD the outputs of a stage are counts up to 1 + blocks.
Source: arXiv:2102.04159 (IF neurons, ATan surrogate, detached reset).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import ConfigError
from picojoule.layers.blocks import ConvNormNeuron
from picojoule.layers.residual import SEWBlock, SEWBottleneck
from picojoule.layers.space_mean import space_mean
from picojoule.models._registry import build, register_model
from picojoule.models._stages import Stage, build_stages
from picojoule.models.config import neuron_config

IF = {"name": "if", "surrogate": "atan", "detach_reset": True}


class SEWResNet(nn.Module):
    """SEW-ResNet; [B, C, H, W] or [B, T, C, H, W] -> logits [B, num_classes].

    Args:
        num_classes: outputs.
        in_channels: channels of the input.
        T: steps.
        neuron: name, mapping or config; the paper's is IF.
        join: "add", "and", "iand" or "or"; the last three need a binary neuron.
        bottleneck: blocks of 1x1, 3x3, 1x1 with four times the channels (50 layers and more).
        stem: (width, kernel, stride) of the first convolution.
        stem_pool: 3x3 max-pool of stride 2 behind the stem.
        stages: (width, blocks, stride) of each stage.
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
        join: str = "add",
        bottleneck: bool = False,
        stem: tuple[int, int, int] = (64, 7, 2),
        stem_pool: bool = True,
        stages: tuple[Stage, ...] = ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)),
        mode: str = "static",
        readout: str = "mean",
    ) -> None:
        super().__init__()
        self.config = neuron_config(neuron or IF)
        maker = self.config.maker(T)
        kind = maker().kind
        if join != "add" and kind.name != "binary":
            raise ConfigError(
                f"join {join!r} is logic on binary spikes, but the neuron emits {kind}; use 'add'"
            )
        width, kernel, stride = stem
        self.entry = timeline.Entry(T, mode)
        self.stem = ConvNormNeuron(in_channels, width, maker, kernel, stride)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem_pool else nn.Identity()
        block = SEWBottleneck if bottleneck else SEWBlock
        self.stages, width = build_stages(block, width, stages, maker, op=join)
        self.head = nn.Linear(width, num_classes)
        self.readout = timeline.Readout(T, readout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] (or frames [B, T, C, H, W]) -> logits [B, num_classes]."""
        s = self.stages(self.pool(self.stem(self.entry(x))))  # [T*B, C, h, w] spikes or counts
        return self.readout(self.head(space_mean(s)))


DEEP = {
    34: ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)),
    101: ((64, 3, 1), (128, 4, 2), (256, 23, 2), (512, 3, 2)),
    152: ((64, 3, 1), (128, 8, 2), (256, 36, 2), (512, 3, 2)),
}


@register_model(family="sew_resnet")
def sew_resnet18(**overrides: Any) -> nn.Module:
    """SEW-ResNet-18 for 224x224: 11,689,512 parameters."""
    return build(SEWResNet, overrides)


@register_model(family="sew_resnet")
def sew_resnet34(**overrides: Any) -> nn.Module:
    """SEW-ResNet-34 for 224x224: 21,797,672 parameters."""
    return build(SEWResNet, overrides, stages=DEEP[34])


@register_model(family="sew_resnet")
def sew_resnet50(**overrides: Any) -> nn.Module:
    """SEW-ResNet-50 for 224x224: 25,557,032 parameters."""
    return build(SEWResNet, overrides, stages=DEEP[34], bottleneck=True)


@register_model(family="sew_resnet")
def sew_resnet101(**overrides: Any) -> nn.Module:
    """SEW-ResNet-101 for 224x224: 44,549,160 parameters."""
    return build(SEWResNet, overrides, stages=DEEP[101], bottleneck=True)


@register_model(family="sew_resnet")
def sew_resnet152(**overrides: Any) -> nn.Module:
    """SEW-ResNet-152 for 224x224: 60,192,808 parameters."""
    return build(SEWResNet, overrides, stages=DEEP[152], bottleneck=True)


def _small(overrides: dict[str, Any], stem: tuple[int, int, int], stages: Any, **other: Any) -> nn.Module:
    options: dict[str, Any] = {"num_classes": 10, "stem_pool": False, **other}
    return build(SEWResNet, overrides, stem=stem, stages=stages, **options)


@register_model(family="sew_resnet", image=(1, 8, 8))
def sew_resnet_digits(**overrides: Any) -> nn.Module:
    """For 8x8 grey images: stem 24, stages 24 and 48, T=4."""
    return _small(overrides, (24, 3, 1), ((24, 1, 1), (48, 1, 2)), in_channels=1)


@register_model(family="sew_resnet", image=(1, 28, 28))
def sew_resnet_28(**overrides: Any) -> nn.Module:
    """For 28x28 grey images on few cores: stem 24 to 14x14, stages 48 and 96, T=4."""
    return _small(overrides, (24, 3, 2), ((48, 1, 2), (96, 1, 2)), in_channels=1)


@register_model(family="sew_resnet", image=(3, 32, 32))
def sew_resnet_32(**overrides: Any) -> nn.Module:
    """For 32x32 colour images on few cores: stem 32 to 16x16, stages 64 and 128, T=4."""
    return _small(overrides, (32, 3, 2), ((64, 1, 2), (128, 1, 2)))


@register_model(family="sew_resnet", tiny=True, image=(1, 8, 8))
def sew_resnet_tiny(**overrides: Any) -> nn.Module:
    """The smallest one, for tests: 8x8 grey, stages 8 and 16, T=4."""
    return _small(overrides, (8, 3, 1), ((8, 1, 1), (16, 1, 2)), in_channels=1)
