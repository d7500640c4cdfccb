"""BatchNorm whose statistics span all processes, on CPU and GPU (torch's SyncBatchNorm refuses CPU)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _AllReduceSum(torch.autograd.Function):
    """y = sum over processes of x; the gradient is summed the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        g = grads[0].clone()
        dist.all_reduce(g)
        return g


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the rows of all processes; the same as one process with the whole batch.

        mean = sum x / n,  var = sum x^2 / n - mean^2,  n = rows of all processes times space

    Falls back to ordinary BatchNorm in eval mode, or where no process group is running.
    The sums are taken around the running mean, which keeps the difference of squares accurate.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"BatchNorm needs at least [rows, C], got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """[rows, C, ...] -> the same shape."""
        shared = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not (self.training and shared):
            return super().forward(input)
        axes = [0, *range(2, input.dim())]
        view = [1, -1, *([1] * (input.dim() - 2))]
        anchor = (
            self.running_mean.detach() if self.running_mean is not None else input.new_zeros(input.shape[1])
        )
        x = input - anchor.to(input.dtype).view(view)
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = torch.cat([x.sum(axes), x.square().sum(axes), count])
        sums = _AllReduceSum.apply(sums)
        c = input.shape[1]
        n = sums[-1].detach()
        mean = sums[:c] / n  # type: ignore[index]
        var = (sums[c : 2 * c] / n - mean.square()).clamp_min(0)  # type: ignore[index]
        self._track(mean + anchor, var, n)
        y = (x - mean.view(view)) * torch.rsqrt(var + self.eps).view(view)
        if self.affine:
            y = y * self.weight.view(view) + self.bias.view(view)
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, n: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)  # type: ignore[arg-type]
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((var * n / (n - 1).clamp_min(1)).to(self.running_var.dtype), momentum)


def share_batchnorm_(model: nn.Module) -> nn.Module:
    """Replace every BatchNorm of `model` by one with shared statistics, in place; returns the model.

    Parameters, buffers and names stay as they are, so checkpoints fit both forms.
    """
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SharedBatchNorm):
                shared = SharedBatchNorm(
                    child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
                )
                shared.train(child.training)
                if child.affine:
                    shared.weight, shared.bias = child.weight, child.bias
                for buffer, value in child.named_buffers(recurse=False):
                    setattr(shared, buffer, value)
                setattr(module, name, shared)
    return model


__all__ = ["SharedBatchNorm", "share_batchnorm_"]
