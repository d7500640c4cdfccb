"""Optimizers and the learning-rate schedule of the loop: SGD, AdamW, LAMB; cosine with warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from picojoule.compress import grid_parameters
from picojoule.core.errors import ConfigError, suggest

OPTIMIZERS = ("sgd", "adamw", "lamb")


class LAMB(torch.optim.Optimizer):
    """Layer-wise adaptive moments: Adam's step scaled by a trust ratio per tensor.

        r = m_hat / (sqrt(v_hat) + eps) + wd * w
        w <- w - lr * clip(|w| / |r|, 0, trust_clip) * r      (ratio 1 where |w| or |r| is 0)

    Source: You et al., Large Batch Optimization for Deep Learning, arXiv:1904.00962; gradients are first
    scaled to a global norm of at most `max_grad_norm`, as its public implementations do.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
        trust_clip: float = 10.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.max_grad_norm, self.trust_clip = max_grad_norm, trust_clip

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of all parameters."""
        loss = closure() if closure is not None else None
        scale = self._gradient_scale()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad * scale, group)
        return loss

    def _gradient_scale(self) -> Tensor | float:
        grads = [p.grad.norm() for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not grads:
            return 1.0
        norm = torch.stack(grads).norm()
        return (self.max_grad_norm / norm.clamp_min(self.max_grad_norm)).item()

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        state["step"] += 1
        count = float(state["step"])
        b1, b2 = group["betas"]
        state["exp_avg"].lerp_(grad, 1 - b1)
        state["exp_avg_sq"].mul_(b2).addcmul_(grad, grad, value=1 - b2)
        m = state["exp_avg"] / (1 - b1**count)
        v = state["exp_avg_sq"] / (1 - b2**count)
        r = m / (v.sqrt() + group["eps"])
        ratio = 1.0
        if group["weight_decay"]:
            r = r + group["weight_decay"] * p
            wn, rn = float(p.norm()), float(r.norm())
            if wn > 0 and rn > 0:
                ratio = min(wn / rn, self.trust_clip)
        p.add_(r, alpha=-group["lr"] * ratio)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights that decay, and biases, norms, neuron constants and quantizer steps that do not.

    Weights that live on a grid are in neither: only their own learning rule may move them.
    """
    decay, free = [], []
    on_grid = {id(p) for p in grid_parameters(model)}
    for name, p in model.named_parameters():
        if not p.requires_grad or id(p) in on_grid:
            continue
        quantizer_step = "parametrizations" in name and not name.endswith(".original")
        (free if p.dim() < 2 or quantizer_step else decay).append(p)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def make_optimizer(
    model: nn.Module, name: str, lr: float, weight_decay: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """An optimizer by name over `parameter_groups(model, weight_decay)`.

    Raises:
        ConfigError: unknown name; the nearest is suggested.
    """
    groups = parameter_groups(model, weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    if name == "lamb":
        return LAMB(groups, lr=lr)
    raise ConfigError(f"unknown optimizer {name!r}; {suggest(name, OPTIMIZERS)}")


def cosine(step: int, total: int, warmup: int, floor: float = 0.0) -> float:
    """Factor on the learning rate: linear warm-up over `warmup` steps, then a half cosine down to `floor`.

    >>> round(cosine(0, 100, 10), 3), cosine(10, 100, 10), round(cosine(100, 100, 10), 3)
    (0.1, 1.0, 0.0)
    """
    if step < warmup:
        return (step + 1) / warmup
    if total <= warmup:
        return 1.0
    progress = min(1.0, (step - warmup) / (total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
