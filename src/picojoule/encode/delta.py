"""Change codes for signals: send-on-delta, step-forward, moving window, level crossing, event camera.

Signals are batch-first, [B, T, ...]; codes are [T, B, 2, ...] with OFF (falling) in channel 0 and ON (rising)
in channel 1, as event cameras number polarity.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import KindError, NonFiniteError, ShapeError
from picojoule.core.kinds import Kind, binary, integer


class DeltaState(NamedTuple):
    """Reference of send-on-delta: first sample `x0` and thresholds `k` since then, both [B, ...]."""

    x0: Tensor
    k: Tensor


def _check(x: Tensor, th: float) -> Tensor:
    if x.dim() < 2 or not x.is_floating_point():
        raise ShapeError(f"a signal is [B, T, ...] of real numbers, got {tuple(x.shape)} {x.dtype}")
    if not th > 0:
        raise KindError(f"the threshold must be positive, got {th}")
    if not torch.compiler.is_compiling() and not torch.isfinite(x).all():
        raise NonFiniteError("the signal holds NaN or infinity; fill the gaps before encoding")
    return x.detach().to(torch.float64).transpose(0, 1)


def _split(signed: Tensor, dtype: torch.dtype) -> Tensor:
    """Signed counts [T, B, ...] -> OFF and ON counts [T, B, 2, ...]."""
    return torch.stack([(-signed).clamp(min=0), signed.clamp(min=0)], 2).to(dtype)


def delta(
    x: Tensor, th: float, *, levels: int | None = None, state: DeltaState | None = None
) -> tuple[Tensor, DeltaState]:
    """Send-on-delta: a spike for each threshold that the signal moved away from its reference.

        while x[t] - ref >= th:  on[t] += 1,   ref += th
        while ref - x[t] >= th:  off[t] += 1,  ref -= th

    The reference starts at the first sample. It is kept as x0 + k th with an integer k, so it does not drift.
    Without a limit |x[t] - ref| < th after every sample. A limit of 1 is the step-forward code.

    Args:
        x: signal [B, T, ...].
        th: threshold in the unit of x.
        levels: spikes a sample at most; None for no limit.
        state: reference left by the previous chunk.
    Returns:
        counts [T, B, 2, ...] with the dtype of x, and the reference after the last sample.
    """
    steps = _check(x, th)
    if levels is not None and levels < 1:
        raise KindError(f"levels must be at least 1, got {levels}")
    if len(steps) == 0:
        raise ShapeError("a signal needs at least one sample")
    x0, k = state if state is not None else (steps[0].clone(), torch.zeros_like(steps[0]))
    out = []
    for sample in steps:
        moved = torch.trunc((sample - x0) / th - k)
        if levels is not None:
            moved = moved.clamp(-levels, levels)
        k = k + moved
        out.append(moved)
    return _split(torch.stack(out), x.dtype), DeltaState(x0, k)


def decode_delta(spikes: Tensor, th: float, x0: Tensor | float) -> Tensor:
    """The reference after every sample [B, T, ...], from counts [T, B, 2, ...] and the first sample."""
    signed = (spikes[:, :, 1] - spikes[:, :, 0]).to(torch.float64)
    start = x0.to(torch.float64) if isinstance(x0, Tensor) else x0
    return (start + th * signed.cumsum(0)).transpose(0, 1).to(spikes.dtype)


def moving_window(x: Tensor, th: float, width: int, *, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One spike where the signal leaves the band of +-th around the mean of the samples before it.

        on[t] = x[t] > base + th,  off[t] = x[t] < base - th,  base = mean of x[t-width .. t-1]

    Near the start the mean is over the samples there are; the first sample is silent.

    Args:
        x: signal [B, T, ...].
        th: half width of the band, in the unit of x.
        width: samples in the window.
        state: the last samples [at most width, B, ...] of the previous chunk.
    Returns:
        spikes [T, B, 2, ...] in {0, 1}, and the last samples.
    """
    steps = _check(x, th)
    if width < 1:
        raise KindError(f"the window must hold at least one sample, got {width}")
    past = steps[:0] if state is None else state
    whole = torch.cat([past, steps])
    out = []
    for t in range(len(past), len(whole)):
        before = whole[max(0, t - width) : t]
        base = before.mean(0) if len(before) else whole[t]
        out.append((whole[t] > base + th).to(torch.int8) - (whole[t] < base - th).to(torch.int8))
    signed = torch.stack(out) if out else steps.to(torch.int8)
    return _split(signed, x.dtype), whole[max(0, len(whole) - width) :]


def level_crossing(x: Tensor, levels: Tensor, *, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """An onset and an offset neuron for each level.

        on[t, l] = x[t-1] < level_l <= x[t],   off[t, l] = x[t] < level_l <= x[t-1]

    Args:
        x: signal [B, T, ...].
        levels: [L], in the unit of x.
        state: last sample [B, ...] of the previous chunk; None makes the first sample silent.
    Returns:
        spikes [T, B, 2, L, ...] in {0, 1}, and the last sample.
    """
    steps = _check(x, 1.0)
    if levels.dim() != 1 or len(levels) == 0:
        raise ShapeError(f"levels must be [L] with L >= 1, got {tuple(levels.shape)}")
    before = torch.cat([(steps[0] if state is None else state)[None], steps[:-1]])
    shaped = levels.to(steps).reshape(-1, *[1] * (steps.dim() - 2))
    above, was = steps.unsqueeze(2) >= shaped, before.unsqueeze(2) >= shaped
    return _split(above.to(torch.int8) - was.to(torch.int8), x.dtype), steps[-1]


def event_camera(
    video: Tensor, th: float = 0.2, *, eps: float = 1e-3, state: DeltaState | None = None
) -> tuple[Tensor, DeltaState]:
    """Send-on-delta of log intensity: what an ideal event camera sends.

    Args:
        video: intensity [B, T, C, H, W] or [B, T, H, W], >= 0.
        th: contrast threshold, in natural-log units.
        eps: dark level added to the intensity.
    """
    if not torch.compiler.is_compiling() and video.numel() and float(video.min()) < 0:
        raise KindError("intensity must not be negative")
    return delta(torch.log(video + eps), th, state=state)


class Delta(nn.Module):
    """Send-on-delta of a signal: [B, T, ...] -> rows [T*B, 2, ...]; carries its reference through a stream.

    Args:
        th: threshold in the unit of the signal.
        levels: spikes a sample at most: 1 (step-forward) gives binary spikes, D gives counts 0..D.
    """

    causal = True

    def __init__(self, th: float, levels: int = 1) -> None:
        super().__init__()
        if not th > 0 or levels < 1:
            raise KindError(f"th must be positive and levels at least 1, got {th}, {levels}")
        self.th, self.levels = th, levels

    @property
    def kind(self) -> Kind:
        """binary for one level, else integer(levels)."""
        return binary if self.levels == 1 else integer(self.levels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, ...] -> [T*B, 2, ...]."""
        active = timeline.current_stream()
        if active is None:
            return delta(x, self.th, levels=self.levels)[0].flatten(0, 1)
        key = active.slot(self)
        spikes, state = delta(x, self.th, levels=self.levels, state=active.get(key))
        active.put(key, state)
        return spikes.flatten(0, 1)

    def decode(self, rows: Tensor, T: int, x0: Tensor | float = 0.0) -> Tensor:
        """Rows [T*B, 2, ...] and the first sample -> the signal [B, T, ...]."""
        return decode_delta(timeline.split(rows, T), self.th, x0)

    def extra_repr(self) -> str:
        return f"th={self.th}, levels={self.levels}"


class MovingWindow(nn.Module):
    """Band around the mean of the last samples: [B, T, ...] -> rows [T*B, 2, ...]; see `moving_window`."""

    causal = True
    kind: Kind = binary

    def __init__(self, th: float, width: int) -> None:
        super().__init__()
        if not th > 0 or width < 1:
            raise KindError(f"th must be positive and width at least 1, got {th}, {width}")
        self.th, self.width = th, width

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, ...] -> [T*B, 2, ...]."""
        active = timeline.current_stream()
        if active is None:
            return moving_window(x, self.th, self.width)[0].flatten(0, 1)
        key = active.slot(self)
        spikes, state = moving_window(x, self.th, self.width, state=active.get(key))
        active.put(key, state)
        return spikes.flatten(0, 1)

    def extra_repr(self) -> str:
        return f"th={self.th}, width={self.width}"
