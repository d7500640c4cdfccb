"""Losses on the outputs of spiking classifiers.

CE    cross-entropy with label smoothing on the logits [B, K]
TET   mean over steps of the cross-entropy of each step's logits [B, T, K], plus lam * MSE to `means`
      (temporal efficient training, Deng et al., ICLR 2022, arXiv:2202.11946)
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from picojoule.core.errors import ShapeError


class CrossEntropy(nn.Module):
    """Cross-entropy of logits [B, K] against class numbers [B] or class probabilities [B, K]."""

    needs_steps = False

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss over the batch, a scalar."""
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)


class TET(nn.Module):
    """L = (1 - lam) * mean_t CE(y_t, target) + lam * MSE(y_t, means).

    Args:
        lam: weight of the regularising term, which keeps single steps from drifting apart.
        means: value that the term pulls every logit to.
        label_smoothing: of the cross-entropy.
    """

    needs_steps = True

    def __init__(self, lam: float = 1e-3, means: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.lam, self.means, self.label_smoothing = lam, means, label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits [B, T, K]; mean loss over batch and steps, a scalar."""
        if logits.dim() != 3:
            raise ShapeError(
                f"TET needs the logits of every step [B, T, K], got {tuple(logits.shape)}; end the model "
                "with timeline.Readout so that the loop can ask it for steps"
            )
        steps = logits.shape[1]
        flat = logits.reshape(-1, logits.shape[-1])
        wide = target.repeat_interleave(steps, dim=0)
        ce = F.cross_entropy(flat, wide, label_smoothing=self.label_smoothing)
        if not self.lam:
            return ce
        return (1 - self.lam) * ce + self.lam * (logits - self.means).square().mean()
