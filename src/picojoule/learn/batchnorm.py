"""BatchNorm whose statistics span all processes, on CPU and GPU (torch's SyncBatchNorm refuses CPU)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from picojoule.neurons.norm_kernel import track


def _axes(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    return v.view(1, -1, *([1] * (x.dim() - 2)))


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and count over the rows of all processes, summed in the order of the ranks.

        n = sum n_i,  mean = sum n_i mean_i / n,  var = sum (M2_i + n_i (mean_i - mean)^2) / n

    A process without rows gives n_i = 0. One exchange of 2 C + 1 numbers.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    channels = x.shape[1]
    rows = x.numel() // max(channels, 1)
    if rows:
        var, mean = torch.var_mean(x.to(wide), _axes(x), correction=0)
    else:
        var, mean = (torch.zeros(channels, dtype=wide, device=x.device) for _ in range(2))
    mine = torch.cat([mean, var * rows, mean.new_full((1,), rows)])
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    table = torch.stack(parts)
    means, squares, counts = table[:, :channels], table[:, channels:-1], table[:, -1:]
    n = counts.sum()
    mean = (counts * means).sum(0) / n
    var = (squares + counts * (means - mean).square()).sum(0) / n
    return mean, var, n


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, with the gradient through mean and var.

    dx = weight / std * (dy - sum dy / n - xhat * sum(dy * xhat) / n), sums over all processes. The input is
    saved, nothing else of its size.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, *rest: Any
    ) -> Tensor:
        n, eps = rest
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps), n)
        ctx.has_bias = bias is not None
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, mean, inverse, n = ctx.saved_tensors
        dy = grads[0]
        wide = mean.dtype
        dyw, centred = dy.to(wide), x.to(wide) - _per_channel(mean, x)
        axes = _axes(x)
        total, along = dyw.sum(axes), (dyw * centred).sum(axes) * inverse
        dx = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([total, along])
            dist.all_reduce(sums)
            scale = inverse if weight is None else inverse * weight.to(wide)
            slope = -scale * inverse * sums[1] / n
            offset = -scale * sums[0] / n
            dx = _per_channel(scale, x) * dyw + _per_channel(slope, x) * centred + _per_channel(offset, x)
            dx = dx.to(x.dtype)
        dweight = along.to(weight.dtype) if weight is not None and ctx.needs_input_grad[1] else None
        dbias = total.to(dy.dtype if weight is None else weight.dtype) if ctx.has_bias else None
        return dx, dweight, dbias, None, None, None, None


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the rows of all processes; the same as one process with the whole batch.

        mean = sum x / n,  var = sum (x - mean)^2 / n,  n = rows of all processes times space

    Falls back to ordinary BatchNorm in eval mode, or where no process group is running.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"BatchNorm needs at least [rows, C], got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """[rows, C, ...] -> the same shape."""
        shared = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not (self.training and shared):
            return super().forward(input)
        self._check_input_dim(input)
        with torch.no_grad():
            mean, var, n = _statistics(input)
            track(self, mean, var * n / (n - 1).clamp_min(1))
        return _Normalise.apply(input, self.weight, self.bias, mean, var, n, self.eps)  # type: ignore[return-value]


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
