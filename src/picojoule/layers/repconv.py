"""RepConv: a chain 1x1 - BN - depthwise 3x3 - 1x1 - BN that merges exactly into one dense 3x3 convolution.

    y = BN2( P ( D ( pad( BN1(A x) ) ) ) ),   the padding holds BN1(0), not 0

Because the border holds what BN1 makes of zero, the chain equals a convolution with zero padding. The value
of the border comes from the running statistics and passes no gradient, in training too, as in the official
code.
Source: Meta-SpikeFormer (SDT-V2), arXiv:2404.03663; also QSD-Transformer and SpikeYOLO.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RepConv(nn.Module):
    """Reparametrised convolution: rows [T*B, C_in, H, W] -> [T*B, C_out, H, W].

    Only its first convolution sees spikes; merge it where every synapse must (9 C_in C_out weights).

    Args:
        c_in, c_out: channels.
    Parameters: C_in^2 + 9 C_in + C_in C_out + 2 C_in + 2 C_out.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_in, 1, bias=False)
        self.norm = nn.BatchNorm2d(c_in)
        self.depthwise = nn.Conv2d(c_in, c_in, 3, groups=c_in, bias=False)
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.out_norm = nn.BatchNorm2d(c_out)

    def border(self) -> Tensor:
        """BN1(0) from running statistics, [C_in, 1, 1]."""
        _, shift = _affine(self.norm)
        return shift.detach()[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Rows in, rows out."""
        y = self.norm(self.conv(x))
        edge = self.border()  # after the statistics of this batch have been counted
        y = F.pad(y - edge, (1, 1, 1, 1)) + edge
        return self.out_norm(self.pointwise(self.depthwise(y)))

    @torch.no_grad()
    def merge(self) -> nn.Conv2d:
        """One dense 3x3 convolution with zero padding and a bias, equal to this chain in eval mode."""
        gain1, shift1 = _affine(self.norm)
        gain2, shift2 = _affine(self.out_norm)
        a = self.conv.weight[:, :, 0, 0]  # [C_in, C_in]
        d = self.depthwise.weight[:, 0]  # [C_in, 3, 3]
        p = self.pointwise.weight[:, :, 0, 0] * gain2[:, None]  # [C_out, C_in]
        dense = nn.Conv2d(a.shape[1], p.shape[0], 3, padding=1, dtype=a.dtype, device=a.device)
        dense.weight.copy_(torch.einsum("om,mhw,m,mi->oihw", p, d, gain1, a))
        if dense.bias is not None:
            dense.bias.copy_(p @ (d.sum((1, 2)) * shift1) + shift2)
        return dense.train(self.training)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Gain and shift of a BatchNorm in eval mode, [C] each."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise ValueError("this BatchNorm keeps no running statistics; build it with track_running_stats=True")
    gain = norm.weight / torch.sqrt(var + norm.eps)
    return gain, norm.bias - mean * gain


def merge_repconv_(model: nn.Module) -> nn.Module:
    """Replaces every RepConv of a model by its merged convolution, in place; returns the model.

    The result computes the same in eval mode, sees spikes wherever the RepConv did, and has more parameters.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, RepConv):
                setattr(module, name, child.merge())
    return model
