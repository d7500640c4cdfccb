"""What a check found, where, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LEVELS = ("error", "warning", "note")

ADVICE = {
    "time-index": "take the steps apart once, `for x_t in x.unbind(dim)`, or use a neuron of picojoule",
    "time-write": "append to a list and torch.stack it after the loop",
    "norm-in-loop": "call BatchNorm once on rows [T*B, ...] before the loop, or use another norm",
    "norm-over-time": "in eval mode nothing leaks; to train step by step, or with train.checkpoint=time, use "
    "LayerNorm or GroupNorm",
    "norm-before-mix": "put the norm behind the module that mixes time, or normalise each step alone",
    "hand-state": "keep state in local variables of forward, or use a neuron of picojoule and "
    "`picojoule.stream` to carry it from call to call",
    "in-place": "write the result to a new tensor, e.g. v = v - s * v_th; autograd needs the old one",
    "cut-graph": "leave it out of forward, or say on purpose where history ends: `detach_reset=True` of a "
    "neuron, `stream.detach_()`",
    "host-value": "compute with tensors; a Python number stops autograd, capture and the GPU",
    "steps": "inputs are [B, ...] or [B, T, ...], rows between layers [T*B, ...]; take T from the "
    "constructor and split rows with timeline.split(x, T)",
    "rows": "begin with timeline.Entry(T), end with timeline.Readout(T), and mix nothing across samples",
    "no-gradient": "look for detach, .data, a Python number or an unused layer between it and the output",
    "fails": "run the model on one batch by hand, with the traceback",
}


@dataclass(frozen=True)
class Finding:
    """One finding.

    Args:
        level: "error" (wrong results, or training fails), "warning" (slow, or wrong for some uses), "note".
        rule: short name, a key of ADVICE.
        where: file:line, or a module's path where no line is known.
        message: what was found.
    """

    level: str
    rule: str
    where: str
    message: str

    @property
    def advice(self) -> str:
        """What to write instead."""
        return ADVICE[self.rule]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the advice."""
        return {**asdict(self), "advice": self.advice}


def ordered(findings: list[Finding]) -> list[Finding]:
    """Errors first, then by place; each once."""
    return sorted(set(findings), key=lambda f: (LEVELS.index(f.level), _place(f.where), f.rule))


def _place(where: str) -> tuple[str, int]:
    name, _, line = where.rpartition(":")
    return (name, int(line)) if line.isdigit() else (where, 0)
