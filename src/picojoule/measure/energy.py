"""Energy models: frozen tables of picojoules with their provenance.

    E_ops   = e_mac * MAC + e_ac * AC                     (+ neuron updates, reported apart)
    E_mem   = weights + potentials + leak + events        (two bounds: event-driven and stationary)

45 nm, 0.9 V arithmetic: Horowitz, ISSCC 2014. Memory: the same source, per 64-bit access. What a figure
leaves out stands in `EnergyModel.leaves_out`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from picojoule.core.errors import ConfigError, suggest

# Horowitz, ISSCC 2014, 45 nm at 0.9 V, in pJ. int16 add from the same table (second hand); int4 and int2 are
# extrapolated: adds scale linearly with the bits, multiplications quadratically.
ADD_PJ = {"fp32": 0.9, "fp16": 0.4, "int32": 0.1, "int16": 0.05, "int8": 0.03, "int4": 0.015, "int2": 0.0075}
MULT_PJ = {"fp32": 3.7, "fp16": 1.1, "int32": 3.1, "int8": 0.2, "int4": 0.05, "int2": 0.0125}
SRAM_PJ_PER_64_BIT = ((8 * 1024, 10.0), (32 * 1024, 20.0), (1024 * 1024, 100.0))
DRAM_PJ_PER_BIT = (20.0, 41.0)


def sram_pj_per_bit(size_bytes: float, points: tuple[tuple[float, float], ...] = SRAM_PJ_PER_64_BIT) -> float:
    """e(S): energy to move one bit from an SRAM of `size_bytes`, pJ; linear between the points, flat outside.

    >>> sram_pj_per_bit(8 * 1024) == 10 / 64, sram_pj_per_bit(1 << 20) == 100 / 64
    (True, True)
    """
    if size_bytes <= points[0][0]:
        return points[0][1] / 64
    for (s0, e0), (s1, e1) in itertools.pairwise(points):
        if size_bytes <= s1:
            return (e0 + (e1 - e0) * (size_bytes - s0) / (s1 - s0)) / 64
    return points[-1][1] / 64


def add_pj(bits: int) -> float:
    """An integer add at the next width of the table, pJ.

    >>> add_pj(16), add_pj(24)
    (0.05, 0.1)
    """
    return next((ADD_PJ[f"int{b}"] for b in (2, 4, 8, 16) if bits <= b), ADD_PJ["int32"])


def mult_pj(w_bits: float, x_bits: float) -> float:
    """An integer multiplication, pJ: int8 scaled by the product of the widths (extrapolated below 8 bits).

    >>> mult_pj(8, 8), mult_pj(4, 4), mult_pj(2, 2)
    (0.2, 0.05, 0.0125)
    """
    return MULT_PJ["int8"] * w_bits * x_bits / 64


@dataclass(frozen=True)
class EnergyModel:
    """Picojoules per operation, and where they come from.

    Fields (pJ unless said): `mac` multiply-accumulate of an analogue operand, `ac` accumulate of one spike,
    `neuron_ac` and `neuron_mac` of membrane updates; `sram` points (bytes, pJ per 64-bit access);
    `memory` False leaves memory out; `by_bits` True replaces `mac` and `ac` by Horowitz's figures at the bits
    of each layer. A user's chip is a YAML file with these fields and `name`, `source`.
    """

    name: str
    mac: float
    ac: float
    source: str
    neuron_ac: float = 0.05
    neuron_mac: float = 0.3
    memory: bool = False
    by_bits: bool = False
    sram: tuple[tuple[float, float], ...] = SRAM_PJ_PER_64_BIT
    leaves_out: tuple[str, ...] = field(
        default=("memory", "data movement", "control", "leakage", "input and output conversion")
    )

    def __post_init__(self) -> None:
        for name in ("mac", "ac", "neuron_ac", "neuron_mac"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ConfigError(
                    f"energy model {self.name!r}: {name} must be a number of pJ >= 0, got {value!r}"
                )
        sizes = [s for s, _ in self.sram]
        if not sizes or sizes != sorted(sizes):
            raise ConfigError(
                f"energy model {self.name!r}: sram needs ascending [bytes, pJ per 64 bit] points"
            )

    def ac_at(self, w_bits: float, v_bits: int) -> float:
        """One accumulate of a weight into a potential of `v_bits`, pJ; float weights add in fp32."""
        if not self.by_bits:
            return self.ac
        return ADD_PJ["fp32"] if w_bits >= 32 else add_pj(v_bits)

    def mac_at(self, w_bits: float, x_bits: int, accumulator: int = 32) -> float:
        """One multiply-accumulate of `w_bits` x `x_bits`, pJ; a 1-bit weight only adds or subtracts."""
        if not self.by_bits:
            return self.mac
        if w_bits >= 32:
            return ADD_PJ["fp32"] + MULT_PJ["fp32"]
        return add_pj(accumulator) + (mult_pj(w_bits, x_bits) if w_bits > 1 and x_bits > 1 else 0.0)

    def ops_pj(self, acs: float, macs: float) -> float:
        """E_ops of so many accumulates and multiply-accumulates, pJ."""
        return self.ac * acs + self.mac * macs

    def neuron_pj(self, acs: float, macs: float) -> float:
        """Energy of membrane updates, pJ."""
        return self.neuron_ac * acs + self.neuron_mac * macs

    def bit_pj(self, size_bytes: float) -> float:
        """e(S), pJ per bit."""
        return sram_pj_per_bit(size_bytes, self.sram)


_OPS = "Horowitz, ISSCC 2014, 45 nm, 0.9 V"
FP32 = EnergyModel("ops-fp32", mac=4.6, ac=0.9, neuron_ac=0.9, neuron_mac=4.6, source=_OPS)
FP16 = EnergyModel("ops-fp16", mac=1.5, ac=0.4, neuron_ac=0.4, neuron_mac=1.5, source=_OPS)
INT8 = EnergyModel("ops-int8", mac=0.23, ac=0.03, source=_OPS)
DEPLOYED = EnergyModel(
    "ops-deployed",
    mac=0.3,
    ac=0.05,
    by_bits=True,
    source=_OPS
    + "; accumulates at the potential's width, multiplications at the operands' widths with 32-bit "
    "accumulate (below 8 bits extrapolated)",
)
MEMORY = EnergyModel(
    "with-memory",
    mac=0.3,
    ac=0.05,
    memory=True,
    by_bits=True,
    source=_OPS + "; operations as in ops-deployed; SRAM per 64-bit access by size, capped at 1 MiB",
    leaves_out=("control", "leakage", "input and output conversion", "off-chip DRAM"),
)
DRAM = EnergyModel(
    "with-dram",
    mac=0.3,
    ac=0.05,
    memory=True,
    by_bits=True,
    sram=(*SRAM_PJ_PER_64_BIT, (1024 * 1024 + 1, 64 * DRAM_PJ_PER_BIT[0])),
    source=_OPS + "; as with-memory, but weights, potentials or events of a layer beyond 1 MiB lie in DRAM, "
    "at the low end of 1300 to 2600 pJ per 64-bit access",
    leaves_out=("control", "leakage", "input and output conversion", "DRAM of small layers that do not fit"),
)
PRESETS = {m.name: m for m in (FP32, FP16, INT8, DEPLOYED, MEMORY, DRAM)}


def energy_model(name_or_file: str) -> EnergyModel:
    """A preset by name, or a chip read from a YAML file.

    Raises:
        ConfigError: unknown preset, or a file with missing or unknown fields; each is named.
    """
    if name_or_file in PRESETS:
        return PRESETS[name_or_file]
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"unknown energy model {name_or_file!r}; {suggest(name_or_file, PRESETS)}, or a .yaml file"
        )
    if not path.is_file():
        raise ConfigError(f"no chip file {name_or_file!r}")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"chip file {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"chip file {path}: needs a mapping with the fields name, mac, ac, source")
    known = [f.name for f in fields(EnergyModel)]
    unknown = [k for k in values if k not in known]
    missing = [k for k in ("name", "mac", "ac", "source") if k not in values]
    if unknown:
        raise ConfigError(
            f"chip file {path}: unknown field {unknown[0]!r}; {suggest(str(unknown[0]), known)}"
        )
    if missing:
        raise ConfigError(f"chip file {path}: missing field(s) {', '.join(missing)}")
    if "sram" in values:
        try:
            values["sram"] = tuple((float(s), float(e)) for s, e in values["sram"])
        except (TypeError, ValueError):
            raise ConfigError(
                f"chip file {path}: sram must be pairs [bytes, pJ per 64-bit access], got {values['sram']!r}"
            ) from None
    if "leaves_out" in values:
        values["leaves_out"] = tuple(values["leaves_out"])
    return EnergyModel(**values)


@dataclass(frozen=True)
class LayerTraffic:
    """What one synaptic layer and its neurons move in one inference; the input of `memory_pj`.

    Fields: `sop` accumulates; `weights` numbers of weights and their `w_bits`; `neurons` output potentials
    and their `v_bits`; `steps` T; `spikes` input events; `inputs` input neurons.
    """

    sop: float
    weights: int
    w_bits: float
    neurons: int
    v_bits: int
    steps: int
    spikes: float
    inputs: int


def memory_pj(layer: LayerTraffic, model: EnergyModel, bound: str) -> dict[str, float]:
    """Memory energy of one layer, pJ, by term.

        weights     event: SOP b_w e(S_w)        stationary: N_w b_w e(S_w) T
        potentials  event: SOP 2 b_v e(S_v)      stationary: N T 2 b_v e(S_v)
        leak        N T 2 b_v e(S_v)             (event bound; the stationary one has it in its potentials)
        events      2 spikes ceil(log2 N_in) e(S_q), or the bitmap N_in T where that is smaller

    Args:
        bound: "event" (no reuse) or "stationary" (each weight and potential once a step).
    """
    if bound not in ("event", "stationary"):
        raise ValueError(f"bound must be 'event' or 'stationary', got {bound!r}")
    s_w = layer.weights * layer.w_bits / 8
    s_v = layer.neurons * layer.v_bits / 8
    e_w, e_v = model.bit_pj(s_w), model.bit_pj(s_v)
    address = max(1, math.ceil(math.log2(max(2, layer.inputs))))
    event_bits = min(layer.spikes * address, layer.inputs * layer.steps)
    leak = layer.neurons * layer.steps * 2 * layer.v_bits * e_v
    if bound == "event":
        weights = layer.sop * layer.w_bits * e_w
        potentials = layer.sop * 2 * layer.v_bits * e_v
    else:
        weights = layer.weights * layer.w_bits * e_w * layer.steps
        potentials, leak = leak, 0.0
    return {
        "weights": weights,
        "potentials": potentials,
        "leak": leak,
        "events": 2 * event_bits * model.bit_pj(layer.inputs * layer.steps / 8),
    }


def describe_models() -> list[dict[str, Any]]:
    """The presets as rows for a table."""
    return [
        {"name": m.name, "mac_pj": m.mac, "ac_pj": m.ac, "memory": m.memory, "source": m.source}
        for m in PRESETS.values()
    ]
