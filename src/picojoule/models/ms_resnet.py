"""MS-ResNet: membrane shortcuts, so that every 3x3 convolution sees binary spikes.

Stem conv-BN, stages of MSBlock, neuron, mean over space, linear, mean over time.
Sources: MS-ResNet, arXiv:2112.08954; initialisation (BN slope 0.5 = threshold, 0 in the last BN of a block)
and neuron (decay 0.25, threshold 0.5, fires above it, rectangle surrogate) from the code family of
arXiv:2203.01158 as described there. ImageNet sizes: 11,693,736 (18) and 21,801,896 (34) parameters; they
exceed the usual ResNets by the 64 -> 64 stride-2 shortcut of the first stage.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from picojoule import timeline
from picojoule.layers.blocks import ConvNorm
from picojoule.layers.residual import MSBlock
from picojoule.layers.space_mean import space_mean
from picojoule.models._registry import build, register_model
from picojoule.models._stages import Stage, build_stages
from picojoule.models.config import neuron_config

MEM_UPDATE = {
    "name": "lif",
    "tau": 4 / 3,
    "v_th": 0.5,
    "decay_input": False,
    "strict": True,
    "surrogate": "rect",
    "detach_reset": True,
}


SFA = {"name": "sfa", "D": 4}


class MSResNet(nn.Module):
    """MS-ResNet; [B, C, H, W] or [B, T, C, H, W] -> logits [B, num_classes].

    Args:
        num_classes: outputs.
        in_channels: channels of the input.
        T: steps.
        neuron: name, mapping or config; default LIF with decay 0.25 and threshold 0.5.
        stem: (width, kernel, stride) of the first convolution.
        stages: (width, blocks, stride) of each stage.
        norm_slope: BN slope at the start; the last BN of each block starts at `last_slope`.
        last_slope: 0 makes every block the identity at the start.
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
        stem: tuple[int, int, int] = (64, 7, 2),
        stages: tuple[Stage, ...] = ((64, 2, 2), (128, 2, 2), (256, 2, 2), (512, 2, 2)),
        norm_slope: float = 0.5,
        last_slope: float = 0.0,
        mode: str = "static",
        readout: str = "mean",
    ) -> None:
        super().__init__()
        self.config = neuron_config(neuron or MEM_UPDATE)
        maker = self.config.maker(T)
        width, kernel, stride = stem
        self.entry = timeline.Entry(T, mode)
        self.stem = ConvNorm(in_channels, width, kernel, stride)
        self.stages, width = build_stages(MSBlock, width, stages, maker)
        self.head_neuron = maker()
        self.head = nn.Linear(width, num_classes)
        self.readout = timeline.Readout(T, readout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, norm_slope)
        for module in self.modules():
            if isinstance(module, MSBlock):
                nn.init.constant_(module.conv2.norm.weight, last_slope)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] (or frames [B, T, C, H, W]) -> logits [B, num_classes]."""
        u = self.stages(self.stem(self.entry(x)))  # [T*B, C, h, w] membranes
        s = space_mean(self.head_neuron(u))  # [T*B, C]
        return self.readout(self.head(s))


@register_model(family="ms_resnet")
def ms_resnet18(**overrides: Any) -> nn.Module:
    """MS-ResNet-18 for 224x224: 11,693,736 parameters."""
    return build(MSResNet, overrides)


@register_model(family="ms_resnet")
def ms_resnet34(**overrides: Any) -> nn.Module:
    """MS-ResNet-34 for 224x224: 21,801,896 parameters."""
    return build(MSResNet, overrides, stages=((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 2)))


@register_model(family="ms_resnet", image=(3, 32, 32))
def ms_resnet18_cifar(**overrides: Any) -> nn.Module:
    """MS-ResNet-18 for 32x32: 3x3 stem, strides 1, 2, 2, 2; 11,173,962 parameters."""
    stages = ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2))
    return build(MSResNet, overrides, num_classes=10, stem=(64, 3, 1), stages=stages)


@register_model(family="ms_resnet", image=(1, 8, 8))
def ms_resnet_digits(**overrides: Any) -> nn.Module:
    """For 8x8 grey images: stem 24, stages 24 and 48, T=4."""
    options: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "stem": (24, 3, 1)}
    return build(MSResNet, overrides, stages=((24, 1, 1), (48, 1, 2)), **options)


@register_model(family="ms_resnet", image=(1, 28, 28))
def ms_resnet_28(**overrides: Any) -> nn.Module:
    """For 28x28 grey images on few cores: stem 32 to 14x14, stages 64 and 128, counts 0..4, T=1."""
    options: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "T": 1, "neuron": SFA, "norm_slope": 1.0}
    return build(MSResNet, overrides, stem=(32, 3, 2), stages=((64, 1, 2), (128, 1, 2)), **options)


@register_model(family="ms_resnet", image=(3, 32, 32))
def ms_resnet_32(**overrides: Any) -> nn.Module:
    """For 32x32 colour images on few cores: stem 32 to 16x16, stages 64, 96, 192, counts 0..4, T=1."""
    options: dict[str, Any] = {"num_classes": 10, "T": 1, "neuron": SFA, "norm_slope": 1.0}
    stages = ((64, 1, 2), (96, 1, 1), (192, 1, 2))
    return build(MSResNet, overrides, stem=(32, 3, 2), stages=stages, **options)


@register_model(family="ms_resnet", tiny=True, image=(1, 8, 8))
def ms_resnet_tiny(**overrides: Any) -> nn.Module:
    """The smallest one, for tests: 8x8 grey, stages 8 and 16, T=4."""
    options: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "stem": (8, 3, 1), "last_slope": 0.5}
    return build(MSResNet, overrides, stages=((8, 1, 1), (16, 1, 2)), **options)
