"""Stages of residual blocks, shared by the ResNet families."""

from __future__ import annotations

from typing import Any

from torch import nn

from picojoule.core.errors import ConfigError

Stage = tuple[int, int, int]


def build_stages(
    block: Any, width: int, stages: tuple[Stage, ...], maker: Any, **options: Any
) -> tuple[nn.Sequential, int]:
    """Stages of `block`; the first block of a stage has its stride.

    Args:
        block: class called as block(c_in, width, maker, stride, **options), with an `expansion`.
        width: channels in.
        stages: (width, blocks, stride) of each stage.
        maker: makes a neuron layer.
    Returns:
        the modules, and the channels that leave the last one.
    """
    out = nn.Sequential()
    for number, (dim, depth, stride) in enumerate(stages):
        if depth < 1:
            raise ConfigError(f"stage {number} has {depth} blocks; write at least 1")
        blocks = nn.Sequential()
        for i in range(depth):
            blocks.append(block(width, dim, maker, stride if i == 0 else 1, **options))
            width = dim * block.expansion
        out.append(blocks)
    return out, width
