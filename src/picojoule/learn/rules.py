"""Learning rules: who runs the model on a batch, and when the optimizer steps.

bptt            whole sequence forward, one backward through time (the default)
sltt            step by step; the graph is cut between steps, gradients of all steps are summed, one
                optimizer step a batch: memory does not grow with T (spatial learning through time)
sltt_realtime   the same, but the optimizer steps after every time step
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import ConfigError
from picojoule.core.registry import Registry

RULES: Registry[Any] = Registry("learning rule")


class Engine(Protocol):
    """What a rule may ask of the loop."""

    model: nn.Module
    criterion: nn.Module

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""

    def step(self) -> None:
        """Clip, update the weights, advance schedules, clear gradients (when a batch group is complete)."""


class Rule(Protocol):
    """A learning rule handles one batch and returns (mean loss, logits [B, K])."""

    def __call__(self, engine: Engine, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]: ...


@RULES.register("bptt")
class BPTT:
    """Back-propagation through time: loss of the whole sequence, one backward, one step."""

    def __call__(self, engine: Engine, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See Rule."""
        out = engine.model(x)
        loss = engine.criterion(out, y)
        engine.backward(loss)
        engine.step()
        logits = out.mean(1) if out.dim() == 3 else out
        return loss.detach(), logits.detach()


@RULES.register("sltt")
class SLTT:
    """Loss and backward at every step on a stream whose history is cut: L = (1/T) sum_t CE(y[t], target).

    Source: Meng et al., Towards Memory- and Time-Efficient Backpropagation for Training SNNs,
    arXiv:2302.14311; the temporal path of every neuron is detached.
    """

    realtime = False
    stepwise = True  # never sees the logits of all steps at once

    def __call__(self, engine: Engine, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See Rule."""
        model = engine.model
        entries = [m for m in model.modules() if isinstance(m, timeline.Entry)]
        readouts = [m for m in model.modules() if isinstance(m, timeline.Readout)]
        if not entries or not readouts:
            raise ConfigError(
                "this rule runs the model step by step; build it with timeline.Entry and timeline.Readout"
            )
        steps, frames = entries[0].T, entries[0].mode == "frames"
        stream = timeline.stream(model)
        modes = [r.mode for r in readouts]
        total, logits = x.new_zeros(()), None
        try:
            for r in readouts:
                r.mode = "last"
            for t in range(steps):
                out = stream(x[:, t : t + 1]) if frames else stream(x, T=1)
                loss = engine.criterion(out, y) / steps
                engine.backward(loss)
                stream.detach_()
                if self.realtime:
                    engine.step()
                total = total + loss.detach()
                logits = out.detach() if logits is None else logits + out.detach()
        finally:
            for r, mode in zip(readouts, modes):
                r.mode = mode
        if not self.realtime:
            engine.step()
        return total, (logits if logits is not None else torch.empty(0)) / steps


@RULES.register("sltt_realtime")
class RealtimeSLTT(SLTT):
    """SLTT whose optimizer steps after every time step, as online learning on a device would."""

    realtime = True
