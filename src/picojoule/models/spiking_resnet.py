"""Spiking ResNet with the neuron behind the sum of currents, as direct copies of the usual ResNets.

Stem conv-BN-neuron, stages of PostBlock, mean over space, linear, mean over time.
Sources: the 18 and 34 layer networks of Pipe-S, arXiv:2203.01158 (first stage with stride 2, no pool:
11,693,736 and 21,801,896 parameters); ResNet-19 for CIFAR of Q-SNN, arXiv:2406.13672 (12,569,226).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from picojoule import timeline
from picojoule.layers.blocks import ConvNormNeuron
from picojoule.layers.residual import PostBlock
from picojoule.layers.space_mean import space_mean
from picojoule.models._registry import build, register_model
from picojoule.models._stages import Stage, build_stages
from picojoule.models.config import neuron_config


class SpikingResNet(nn.Module):
    """Post-activation spiking ResNet; [B, C, H, W] or [B, T, C, H, W] -> logits [B, num_classes].

    Args:
        num_classes: outputs.
        in_channels: channels of the input.
        T: steps.
        neuron: name, mapping or config.
        stem: (width, kernel, stride) of the first convolution.
        stages: (width, blocks, stride) of each stage.
        mode: "static" images or "frames" sequences.
        readout: "mean" over time, or "steps" for logits [B, T, num_classes].
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        T: int = 4,
        neuron: Any = "lif",
        *,
        stem: tuple[int, int, int] = (64, 7, 2),
        stages: tuple[Stage, ...] = ((64, 2, 2), (128, 2, 2), (256, 2, 2), (512, 2, 2)),
        mode: str = "static",
        readout: str = "mean",
    ) -> None:
        super().__init__()
        self.config = neuron_config(neuron)
        maker = self.config.maker(T)
        width, kernel, stride = stem
        self.entry = timeline.Entry(T, mode)
        self.stem = ConvNormNeuron(in_channels, width, maker, kernel, stride)
        self.stages, width = build_stages(PostBlock, width, stages, maker)
        self.head = nn.Linear(width, num_classes)
        self.readout = timeline.Readout(T, readout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] (or frames [B, T, C, H, W]) -> logits [B, num_classes]."""
        s = self.stages(self.stem(self.entry(x)))  # [T*B, C, h, w] spikes
        return self.readout(self.head(space_mean(s)))


@register_model(family="spiking_resnet")
def spiking_resnet18(**overrides: Any) -> nn.Module:
    """ResNet-18 of Pipe-S for 224x224: 11,693,736 parameters."""
    return build(SpikingResNet, overrides)


@register_model(family="spiking_resnet")
def spiking_resnet34(**overrides: Any) -> nn.Module:
    """ResNet-34 of Pipe-S for 224x224: 21,801,896 parameters."""
    return build(SpikingResNet, overrides, stages=((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 2)))


@register_model(family="spiking_resnet", image=(3, 32, 32))
def spiking_resnet19(**overrides: Any) -> nn.Module:
    """ResNet-19 of Q-SNN for 32x32: 12,569,226 parameters (10 classes), 12,615,396 (100); T=2."""
    stages = ((128, 3, 1), (256, 3, 2), (512, 2, 2))
    return build(SpikingResNet, overrides, num_classes=10, T=2, stem=(128, 3, 1), stages=stages)


@register_model(family="spiking_resnet", tiny=True, image=(1, 8, 8))
def spiking_resnet_tiny(**overrides: Any) -> nn.Module:
    """The smallest one, for tests: 8x8 grey, stages 8 and 16, T=4."""
    options: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "stem": (8, 3, 1)}
    return build(SpikingResNet, overrides, stages=((8, 1, 1), (16, 1, 2)), **options)
