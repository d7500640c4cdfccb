"""Bounds of spikes and membranes of a snapped neuron over its T steps. No torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from picojoule.graph import nodes as n
from picojoule.graph.intervals import (
    EXACT_STEPS,
    Array,
    Interval,
    TooWide,
    along,
    plus,
    rshift,
    spread,
    staircase,
)
from picojoule.graph.moves import MAX_VALUE, axis_of


class Bounds(NamedTuple):
    """Spikes as an interval of the row, and the ends of h and v over all steps."""

    spikes: Interval
    low: int
    high: int


class Sweep:
    """Steps one interval of the membrane a channel through the equation of `nodes.Neuron`."""

    def __init__(self, graph: n.Graph, node: n.Neuron, x: Interval) -> None:
        rank = len(node.edge.shape)
        self.graph, self.node = graph, node
        self.axis, self.rank = axis_of(node, node.axis, rank), rank
        self.x = along(x, self.axis)
        self.decay, self.gain = self._plane(node.decay, 0), self._plane(node.gain, 1)
        self.bias, self.reset = self._plane(node.bias, 0), self._plane(node.reset_value, 0)
        self.v_init = self._plane(node.v_init, 0)[0]
        self.thresholds = graph.tensor(node.thresholds).astype(np.int64)
        self.negative = None if node.neg_threshold is None else self._plane(node.neg_threshold, 0)
        self.ordered = bool((self.thresholds[1:] >= self.thresholds[:-1]).all()) and (
            self.negative is None or bool((self.negative < self.thresholds[0]).all())
        )
        planes = (self.decay, self.gain, self.bias, self.reset, self.thresholds[0])
        negative = () if self.negative is None else (self.negative,)
        self.steady = all(p.shape[0] == 1 for p in (*planes, *negative))

    def _plane(self, name: str | None, otherwise: int) -> Array:
        if name is None:
            return np.full((1, 1), otherwise, np.int64)
        return self.graph.tensor(name).astype(np.int64)

    @staticmethod
    def _at(plane: Array, t: int) -> Array:
        return plane[t if plane.shape[0] > 1 else 0]

    def charge(self, t: int, low: Array, high: Array) -> tuple[Array, Array]:
        """Bounds of h from those of v."""
        decay, gain, bias = (self._at(p, t) for p in (self.decay, self.gain, self.bias))
        ends = []
        for constant, pair, shift in ((decay, (low, high), self.node.decay_shift), (gain, self.x, 0)):
            a, b = (_product(constant, end) for end in pair)
            ends.append([rshift(p, shift, self.node.rounding) for p in (np.minimum(a, b), np.maximum(a, b))])
        return tuple(plus(plus(ends[0][i], ends[1][i]), bias) for i in (0, 1))  # type: ignore[return-value]

    def count(self, t: int, h: Array) -> Array:
        """Spikes n for a membrane h, per channel."""
        levels = self.thresholds[:, t if self.thresholds.shape[1] > 1 else 0]
        spikes = (h[None] >= levels).sum(0)
        return spikes if self.negative is None else spikes - (h <= self._at(self.negative, t))

    def fire(self, t: int, low: Array, high: Array) -> tuple[Array, Array]:
        """Bounds of v after the reset, from those of h."""
        mode, reset = self.node.reset, self._at(self.reset, t)
        if mode == "none":
            return low, high
        levels = self.thresholds[:, t if self.thresholds.shape[1] > 1 else 0]
        counts = range(0 if self.negative is None else -1, levels.shape[0] + 1)
        least = most = None
        for k in counts:
            a, b = low, high  # the part of h that gives n = k
            if self.ordered and k >= 1:
                a = np.maximum(a, levels[k - 1])
            if self.ordered and 0 <= k < levels.shape[0]:
                b = np.minimum(b, levels[k] - 1)
            if self.negative is not None and self.ordered:
                edge = self._at(self.negative, t)
                a, b = (np.maximum(a, edge + 1), b) if k == 0 else (a, np.minimum(b, edge) if k < 0 else b)
            empty = a > b
            after = (
                (reset, reset)
                if mode == "hard" and k
                else (plus(a, -k * reset), plus(b, -k * reset))
                if k
                else (a, b)
            )
            start = np.where(empty, MAX_VALUE, after[0])
            stop = np.where(empty, -MAX_VALUE, after[1])
            least = start if least is None else np.minimum(least, start)
            most = stop if most is None else np.maximum(most, stop)
        return least, most  # type: ignore[return-value]

    def leap(self, low: int, high: int, steps: int) -> tuple[int, int]:
        """A sound bound of |v| after `steps` more steps of a membrane that does not grow by itself."""
        if int(np.abs(self.decay).max()) > 1 << self.node.decay_shift:
            raise TooWide
        drive = max(map(abs, (int(self.x[0].min()), int(self.x[1].max())))) * int(np.abs(self.gain).max())
        jump = self.thresholds.shape[0] * int(np.abs(self.reset).max())
        peak = max(-low, high) + steps * (drive + int(np.abs(self.bias).max()) + jump + 1)
        if peak >= MAX_VALUE:
            raise TooWide
        return -peak, peak


def _product(a: Array, b: Array) -> Array:
    if max(-int(a.min()), int(a.max())) * max(-int(b.min()), int(b.max())) >= MAX_VALUE:
        raise TooWide
    return a * b


def neuron(graph: n.Graph, node: n.Neuron, x: Interval) -> Bounds:
    """Bounds over all T steps: exact intervals while they change, a sound leap after 256 steady steps.

    Raises:
        TooWide: the membrane may pass 62 bits.
    """
    sweep, steps = Sweep(graph, node, x), max(1, node.edge.steps)
    low = high = sweep.v_init
    ends, spikes = [int(low.min()), int(high.max())], None
    for t in range(steps):
        before = (low, high)
        h = sweep.charge(t, low, high)
        counts = tuple(sweep.count(t, end) for end in h)
        spikes = (
            counts if spikes is None else (np.minimum(spikes[0], counts[0]), np.maximum(spikes[1], counts[1]))
        )
        low, high = sweep.fire(t, *h)
        ends = [min(ends[0], int(h[0].min()), int(low.min())), max(ends[1], int(h[1].max()), int(high.max()))]
        if node.values is not None:
            least, most = staircase(graph, node, int(low.min()), int(high.max()))
            low, high = np.array([least]), np.array([most])
            ends = [min(ends[0], least), max(ends[1], most)]
        if (
            sweep.steady
            and t
            and all(a.shape == b.shape and (a == b).all() for a, b in zip(before, (low, high)))
        ):
            break
        if sweep.steady and t + 1 >= EXACT_STEPS and t + 1 < steps:
            ends = list(sweep.leap(ends[0], ends[1], steps - t - 1))
            levels = sweep.thresholds.shape[0]
            least = 0 if node.neg_threshold is None else -1
            spikes = (np.array([least]), np.array([levels]))
            break
    if spikes is None:
        raise TooWide
    least, most = (spread(np.asarray(end), sweep.axis, sweep.rank) for end in spikes)
    return Bounds(Interval(least, most), ends[0], ends[1])
