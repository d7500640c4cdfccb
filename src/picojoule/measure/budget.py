"""Energy of counts under a model, layer by layer; baselines of the same shape; break-even rates. All pJ.

    E_ops   = sum over layers (e_ac AC + e_mac MAC)
    E_total = E_ops + E_neuron + E_other + E_mem(bound)

The baseline runs every layer once with dense multiply-accumulates; its memory reads weights once and
activations in and out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from picojoule.measure.counts import Counts, LayerCount
from picojoule.measure.energy import ADD_PJ, MULT_PJ, EnergyModel, LayerTraffic, add_pj, memory_pj, mult_pj

BOUNDS = ("event", "stationary")


@dataclass(frozen=True)
class Widths:
    """Bits that the counts do not know: potentials, and the values of analogue inputs."""

    v_bits: int = 16
    x_bits: int = 8

    def potential(self, layer: LayerCount) -> int:
        """Width of a layer's accumulators: 32 beside float weights."""
        return 32 if layer.w_bits >= 32 else self.v_bits

    def value(self, layer: LayerCount) -> int:
        """Width of a layer's analogue operand."""
        if layer.w_bits >= 32:
            return 32
        if layer.operand.startswith("fixed("):
            return min(int(layer.operand[6:].split(",")[0]), 32)
        return self.x_bits


def layer_ops(layer: LayerCount, model: EnergyModel, widths: Widths) -> float:
    """E_ops of one layer."""
    ac = model.ac_at(layer.w_bits, widths.potential(layer))
    return layer.ac * ac + layer.mac * model.mac_at(layer.w_bits, widths.value(layer))


def layer_memory(layer: LayerCount, model: EnergyModel, widths: Widths, bound: str) -> dict[str, float]:
    """Memory energy of one layer by term; an analogue layer moves dense data under both bounds."""
    v_bits = widths.potential(layer)
    if layer.arithmetic == "AC":
        traffic = LayerTraffic(
            sop=layer.sop,
            weights=layer.weights,
            w_bits=layer.w_bits,
            neurons=layer.outputs,
            v_bits=v_bits,
            steps=layer.steps,
            spikes=layer.spikes,
            inputs=layer.inputs,
        )
        return memory_pj(traffic, model, bound)
    x_bits, runs = widths.value(layer), layer.evaluations
    e_w = model.bit_pj(layer.weights * layer.w_bits / 8)
    e_v = model.bit_pj(layer.outputs * v_bits / 8)
    return {
        "weights": layer.weights * layer.w_bits * e_w * runs,
        "potentials": layer.outputs * layer.steps * 2 * v_bits * e_v,
        "leak": 0.0,
        "events": layer.inputs * x_bits * model.bit_pj(layer.inputs * x_bits / 8) * runs,
    }


def side_pj(counts: Counts, model: EnergyModel) -> dict[str, float]:
    """Neuron updates, and everything else beside the synapses (sums of pools, residuals, readouts, biases).

    Compares and spike masks cost nothing here: no table gives them.
    """
    add = model.ac_at(8, 16)
    return {
        "neuron": model.neuron_pj(counts.updates["ac"], counts.updates["mac"]),
        "other": counts.other["adds"] * add + counts.other["mults"] * model.mac_at(8, 8),
    }


def energy_row(counts: Counts, model: EnergyModel, widths: Widths) -> dict[str, Any]:
    """One energy model's figures for the whole net, with what they leave out."""
    side = side_pj(counts, model)
    ops = math.fsum(layer_ops(layer, model, widths) for layer in counts.layers)
    row: dict[str, Any] = {
        "model": model.name,
        "source": model.source,
        "leaves_out": [*model.leaves_out, "compares and spike masks"],
        "ops": ops,
        **side,
        "memory": {},
        "total": {"ops": ops + side["neuron"] + side["other"]},
    }
    if model.memory:
        for bound in BOUNDS:
            memory = math.fsum(
                math.fsum(layer_memory(layer, model, widths, bound).values()) for layer in counts.layers
            )
            row["memory"][bound] = memory
            row["total"][bound] = ops + side["neuron"] + side["other"] + memory
    return row


# -- baselines -------------------------------------------------------------------------------------------


def virtual_steps(counts: Counts) -> int:
    """T times the most levels of an integer neuron: the steps a binary network would need."""
    kinds = [row["kind"] for row in counts.neurons]
    levels = [int(kind[8:-1]) for kind in kinds if kind.startswith("integer(")]
    return counts.T * max(levels, default=1)


def baselines(counts: Counts, model: EnergyModel) -> list[dict[str, Any]]:
    """The ANN of the same shape in fp32 and int8, and the QNN with ceil(log2(T D + 1))-bit activations.

    Args:
        model: gives the memory.
    """
    bits = math.ceil(math.log2(virtual_steps(counts) + 1))
    coded = [layer.w_bits for layer in counts.layers if layer.w_bits < 32 and layer.type != "MatMul"]
    w_bits = max(coded, default=8.0)
    fp32 = ADD_PJ["fp32"] + MULT_PJ["fp32"]
    int8 = MULT_PJ["int8"] + ADD_PJ["int32"]
    qnn = add_pj(16) + (mult_pj(w_bits, bits) if min(w_bits, bits) > 1 else 0.0)
    return [
        _baseline(counts, model, "ANN fp32", fp32, 32, 32, "fp32 multiply and add"),
        _baseline(counts, model, "ANN int8", int8, 8, 8, "int8 multiply, 32-bit accumulate"),
        _baseline(
            counts,
            model,
            f"QNN {bits} bit",
            qnn,
            w_bits,
            bits,
            f"{w_bits:g}-bit weights x {bits}-bit activations, ceil(log2(T D + 1)) bits, 16-bit accumulate",
        ),
    ]


def _baseline(
    counts: Counts, model: EnergyModel, name: str, mac_pj: float, w_bits: float, a_bits: int, about: str
) -> dict[str, Any]:
    macs = math.fsum(layer.fl for layer in counts.layers)
    memory = 0.0
    for layer in counts.layers:
        stored = a_bits if layer.type == "MatMul" else w_bits
        memory += layer.weights * stored * model.bit_pj(layer.weights * stored / 8)
        for size in (layer.inputs, layer.outputs):
            memory += size * a_bits * model.bit_pj(size * a_bits / 8)
    return {
        "name": name,
        "about": about,
        "macs": macs,
        "ops": macs * mac_pj,
        "memory": memory,
        "total": macs * mac_pj + memory,
        "model": model.name,
        "leaves_out": list(model.leaves_out),
    }


# -- break-even ------------------------------------------------------------------------------------------


def mean_rate(counts: Counts) -> float:
    """Spikes per input neuron and step of all AC layers together."""
    places = sum(layer.inputs * layer.steps for layer in counts.layers if layer.arithmetic == "AC")
    spikes = math.fsum(layer.spikes for layer in counts.layers if layer.arithmetic == "AC")
    return spikes / places if places else 0.0


def break_even(
    counts: Counts, models: Sequence[EnergyModel], base: Sequence[dict[str, Any]], widths: Widths
) -> list[dict[str, Any]]:
    """Mean firing rate below which the net needs less than each baseline; None: at no rate.

    All rates are scaled together; operations of the ops-only models are compared with the baseline's
    operations, totals with its totals.
    """
    rate, found = mean_rate(counts), []
    for model in models:
        for bound in (*BOUNDS,) if model.memory else ("ops",):
            for row in base:
                goal = row["ops"] if bound == "ops" else row["total"]
                scale = _solve(counts, model, widths, bound, goal) if rate else None
                found.append(
                    {
                        "model": model.name,
                        "figure": bound,
                        "baseline": row["name"],
                        "rate": None if scale is None else scale * rate,
                        "measured_rate": rate,
                    }
                )
    return found


def _solve(counts: Counts, model: EnergyModel, widths: Widths, bound: str, goal: float) -> float | None:
    """Scale of all spike counts at which the energy meets `goal`; energy grows with it, so bisection."""

    def energy(scale: float) -> float:
        layers = [
            replace(n, ac=n.ac * scale, sop=n.sop * scale, spikes=n.spikes * scale) for n in counts.layers
        ]
        row = energy_row(replace(counts, layers=layers), model, widths)
        return row["ops"] if bound == "ops" else row["total"][bound]

    if energy(0.0) >= goal:
        return None
    high = 1.0
    while energy(high) < goal:
        high *= 2
        if high > 1e9:
            return None
    low = 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if energy(middle) < goal else (low, middle)
    return low
