"""The neuron of a snapped model and its integer constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from picojoule.core.kinds import Kind
from picojoule.graph import nodes as g
from picojoule.graph.snapped_ops import Op, Range, Tensors, along, shift_right
from picojoule.graph.ste import nearest_tie, rounded, step, through

Array = np.ndarray


@dataclass(frozen=True)
class NeuronPlan:
    """What folding decided about a neuron; real values, planes [T|1, C|1], `thresholds` [L, T|1, C|1].

    Fields: `gain` and `decay` are integers (decay with `decay_shift`); `lsb` [1, C|1] is the real value of
    one internal step; `memory` False compares an integer input with exact integer thresholds.
    """

    kind: Kind
    axis: int
    reset: str
    memory: bool
    frac: int
    lsb: Array
    gain: Array
    decay: Array
    decay_shift: int
    rounding: str
    bias: Array
    thresholds: Array
    strict: tuple[bool, ...]
    neg_threshold: Array | None
    neg_strict: bool
    reset_value: Array
    v_init: Array
    breaks: Array | None
    values: Array | None


def surrogate_of(live: Any, plan: NeuronPlan) -> Any:
    """Derivative g'(z) of one level: that of the trained neuron, a rectangle between integer levels."""
    rule = getattr(live, "rule", None)
    if plan.kind.name == "integer":
        levels = plan.thresholds.mean((1, 2))
        gap = (
            float(np.diff(levels).mean())
            if len(levels) > 1
            else float(np.abs(plan.reset_value).mean()) or 1.0
        )
        return lambda z: ((z >= -gap / 2) & (z < gap / 2)).to(z.dtype) / gap
    if rule is not None and hasattr(rule, "surrogate"):
        return rule.surrogate.grad
    return lambda z: 4 * torch.sigmoid(4 * z) * (1 - torch.sigmoid(4 * z))


class NeuronOp(Op):
    """Charge, fire, reset on integers; thresholds and bias are trainable real planes."""

    def __init__(self, plan: NeuronPlan, T: int, live: Any = None) -> None:
        super().__init__()
        self.plan, self.T = plan, T
        self.kind = plan.kind
        self.bias = nn.Parameter(torch.from_numpy(plan.bias.copy()))
        self.thresholds = nn.Parameter(torch.from_numpy(plan.thresholds.copy()))
        self.neg_threshold = None
        if plan.neg_threshold is not None:
            self.neg_threshold = nn.Parameter(torch.from_numpy(plan.neg_threshold.copy()))
        self.lsb = torch.from_numpy(plan.lsb.copy())
        self.surrogate = surrogate_of(live, plan)

    def constants(self) -> dict[str, Tensor]:
        """Integer constants (float64), straight-through to the parameters."""
        p, lsb = self.plan, self.lsb
        th, bias = self.thresholds.double(), self.bias.double()
        strict = torch.tensor(p.strict).reshape(-1, 1, 1)
        zero = torch.zeros(1, 1, dtype=torch.float64)
        found = {"gain": torch.from_numpy(p.gain), "decay": torch.from_numpy(p.decay)}
        neg = None if self.neg_threshold is None else self.neg_threshold.double()
        if not p.memory:
            q = (th - bias) / lsb
            exact = nearest_tie(q.detach()).clamp(-(2.0**52), 2.0**52)
            found["thresholds"] = through(q, torch.where(strict, exact.floor() + 1, exact.ceil()))
            if neg is not None:
                q = (neg - bias) / lsb
                exact = nearest_tie(q.detach()).clamp(-(2.0**52), 2.0**52)
                found["neg_threshold"] = through(q, exact.ceil() - 1 if p.neg_strict else exact.floor())
            return {**found, "bias": zero, "reset_value": zero, "v_init": zero}
        found["thresholds"] = rounded(th / lsb) + strict
        if neg is not None:
            found["neg_threshold"] = rounded(neg / lsb) - float(p.neg_strict)
        found["bias"] = rounded(bias / lsb)
        found["reset_value"] = rounded(torch.from_numpy(p.reset_value) / lsb)
        found["v_init"] = rounded(torch.from_numpy(p.v_init) / lsb)
        return found

    def table(self) -> tuple[Tensor, Tensor] | None:
        """Integer breaks and values of the membrane table, ascending."""
        p = self.plan
        if p.breaks is None or p.values is None or not p.memory:
            return None
        lsb = float(p.lsb.reshape(-1)[0])
        breaks = nearest_tie(torch.from_numpy(p.breaks) / lsb).ceil()
        return breaks, rounded(torch.from_numpy(p.values) / lsb)

    def forward(self, x: Tensor) -> Tensor:
        """Integer currents [T*B, ...] -> spike numbers."""
        constants = {k: v.to(x.dtype) for k, v in self.constants().items()}
        table = self.table()
        ndim = x.dim() - 1
        steps = x.reshape(self.T, x.shape[0] // self.T, *x.shape[1:])

        def at(name: str, t: int) -> Tensor:
            return self._row(constants[name], t, ndim)

        unit = along(self.lsb.to(x.dtype).reshape(-1), self.plan.axis, ndim)
        v = at("v_init", 0).expand_as(steps[0])
        out = []
        for t, current in enumerate(steps.unbind(0)):
            h = at("gain", t) * current + at("bias", t)
            if self.plan.memory:
                h = h + shift_right(at("decay", t) * v, self.plan.decay_shift, self.plan.rounding)
            n = torch.zeros_like(h)
            for level in constants["thresholds"]:
                n = n + step(h - self._row(level, t, ndim), unit, self.surrogate)
            if "neg_threshold" in constants:
                n = n - step(at("neg_threshold", t) - h, unit, self.surrogate)
            out.append(n)
            if self.plan.memory:
                v = self._after(h, n, at("reset_value", t), table)
        return torch.stack(out).reshape(x.shape)

    def _row(self, plane: Tensor, t: int, ndim: int) -> Tensor:
        return along(plane[t if plane.shape[0] > 1 else 0], self.plan.axis, ndim)

    def _after(self, h: Tensor, n: Tensor, reset: Tensor, table: tuple[Tensor, Tensor] | None) -> Tensor:
        """Membrane after reset and table."""
        if self.plan.reset == "hard":
            fired = n.abs() if self.plan.kind.levels == 1 else (n != 0).to(n.dtype)
            h = (1 - fired) * h + fired * reset
        elif self.plan.reset == "soft":
            h = h - n * reset
        if table is not None:
            breaks, values = (part.to(h.dtype) for part in table)
            h = through(h, values[torch.bucketize(h.detach().contiguous(), breaks, right=True)])
        return h

    def interval(self, *ranges: Range) -> Range:
        return self.plan.kind.low, self.plan.kind.high

    def fields(self, tensors: Tensors, ranges: list[Range]) -> tuple[type[g.Node], dict[str, Any]]:
        p = self.plan
        constants = {k: v.detach().numpy() for k, v in self.constants().items()}
        if not p.memory:
            constants = _within_reach(constants, ranges[0])
        table = self.table()
        names: dict[str, Any] = {k: self.put(tensors, k, v) for k, v in constants.items()}
        if table is not None:
            names["breaks"] = self.put(tensors, "breaks", table[0])
            names["values"] = self.put(tensors, "values", table[1])
        names["unit"] = f"{self.name}.unit"
        tensors[names["unit"]] = p.lsb * 2.0**p.frac
        return g.Neuron, {
            **names, "op": "snapped", "axis": p.axis, "reset": p.reset if p.memory else "none",
            "strict": (False,) * len(p.strict), "frac": p.frac, "decay_shift": p.decay_shift,
            "rounding": p.rounding,
        }  # fmt: skip


def _within_reach(constants: dict[str, Array], x: Range) -> dict[str, Array]:
    """Thresholds of a memoryless neuron that no input reaches, moved next to the range of its input."""
    ends = [float(v) for edge in x for v in (constants["gain"] * edge).reshape(-1)]
    low, high = min(ends), max(ends)
    out = dict(constants, thresholds=constants["thresholds"].clip(low, high + 1))
    if "neg_threshold" in constants:
        out["neg_threshold"] = constants["neg_threshold"].clip(low - 1, high)
    return out
