"""The mean over an image whose gradient lies in memory as the image does.

    y[n, c] = sum over h, w of x[n, c, h, w] / (H W)

PyTorch expands the gradient of a mean in ordinary order, whatever that of its input. In a residual network
channels last that order then runs through every block: BatchNorms leave their fast path and sums copy.
"""

from __future__ import annotations

import torch
from torch import Tensor


def space_mean(x: Tensor) -> Tensor:
    """Rows [N, C, H, W] -> [N, C]; values are those of x.mean((-2, -1))."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    if last and x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return x.permute(0, 2, 3, 1).mean((1, 2))
    return x.mean((-2, -1))
