"""Neurons as the published code families define them; what differs is comparison, scaling, decay and
reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from picojoule.core.registry import Registry
from picojoule.neurons import surrogate as sg
from picojoule.neurons.base import Neuron
from picojoule.neurons.lif import LIF
from picojoule.neurons.snntorch import Leaky

CONVENTIONS: Registry[Callable[..., Neuron]] = Registry("neuron convention")


def convention(name: str, T: int = 4, **changes: Any) -> Neuron:
    """The default neuron of a code family.

    Args:
        name: "spikingjelly", "snntorch", "mem_update" (tdBN, MS-ResNet, pipe-pretrain), "ifcell_ma",
            "ifcell_asa" (TA, MA and ASA), or "esvae".
        T: steps.
        changes: arguments of LIF (of Leaky for "snntorch") that differ.

    >>> convention("mem_update", T=2).decay
    0.25
    """
    return CONVENTIONS.get(name)(T, **changes)


@CONVENTIONS.register("spikingjelly")
def _spikingjelly(T: int, **changes: Any) -> LIF:
    return LIF(T, **changes)


@CONVENTIONS.register("snntorch")
def _snntorch(T: int, **changes: Any) -> Leaky:
    return Leaky(T, **changes)


@CONVENTIONS.register("mem_update")
def _mem_update(T: int, **changes: Any) -> LIF:
    """mem = 0.25 mem (1 - s.detach()) + x, s = [mem > 0.5]."""
    defaults: dict[str, Any] = {
        "decay": 0.25,
        "v_th": 0.5,
        "decay_input": False,
        "strict": True,
        "detach_reset": True,
        "surrogate": sg.Rect(1.0),
    }
    return LIF(T, **{**defaults, **changes})


def _ifcell(T: int, v_reset: float, changes: dict[str, Any]) -> LIF:
    # The decay acts after the reset, so what a spike leaves behind is alpha * v_reset: a membrane that
    # rests at 0
    # and is reset to v_reset.
    defaults: dict[str, Any] = {
        "decay": 0.3,
        "v_th": 0.3,
        "v_reset": v_reset,
        "v_rest": 0.0,
        "decay_input": False,
        "surrogate": sg.Rect(2.0),
    }
    return LIF(T, **{**defaults, **changes})


@CONVENTIONS.register("ifcell_ma")
def _ifcell_ma(T: int, **changes: Any) -> LIF:
    """u = h + x, s = [u >= 0.3], h = 0.3 (s r + (1 - s) u) with r = threshold, as the MA code has it."""
    return _ifcell(T, 0.3, changes)


@CONVENTIONS.register("ifcell_asa")
def _ifcell_asa(T: int, **changes: Any) -> LIF:
    """As "ifcell_ma" with r = 0."""
    return _ifcell(T, 0.0, changes)


@CONVENTIONS.register("esvae")
def _esvae(T: int, **changes: Any) -> LIF:
    """u = 0.25 u (1 - o) + x, o = [u > 0.2]; the surrogate's window is centred on u = 0."""
    v_th = changes.get("v_th", 0.2)
    defaults: dict[str, Any] = {
        "decay": 0.25,
        "v_th": v_th,
        "decay_input": False,
        "strict": True,
        "surrogate": sg.Shifted(sg.Rect(1.0), v_th),
    }
    return LIF(T, **{**defaults, **changes})
