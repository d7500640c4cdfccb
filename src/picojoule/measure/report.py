"""The report of a measurement: plain fields, JSON there and back, a table for people. All energies in pJ."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from picojoule.core.errors import ConfigError, suggest
from picojoule.measure.agreement import agreement_sentence

VERSION = 1
NOT_MEASURED = "not measured"


class Headline(NamedTuple):
    """One energy figure in nJ and the name of its model."""

    nj: float
    model: str


@dataclass
class Report:
    """Everything that was counted, per inference of one sample, as a mean over `n_samples`.

    Fields: `spikes` of all neurons; `fr` firing rate by synaptic layer (of its input); `dense_ops` of all T
    steps; `SOP_exact`, `SOP_paper`; `AC`, `MAC`; `neuron_updates` {ac, mac, compares}; `E_ops` {fp32,
    as_deployed}, `E_mem` {event, stationary}, `E_total` {fp32_ops, as_deployed_ops, event, stationary} pJ;
    `energy` one row a model with its source and what it leaves out; `size_packed_bytes` of a packed net
    (payload), `size_paper_bytes` by the papers' formula; `bits_per_weight`; `first_layer_policy`; `baseline`
    rows of the same shape; `break_even` rates; `latency` and `joules`, or "not measured"; `layers`,
    `neurons`, `raster`, `membranes` for plots, `node_times` rows of
    `cost.predicted_and_measured`; `assumptions`, `warnings`, `not_counted` to read.
    """

    name: str
    spikes: float
    fr: dict[str, float]
    dense_ops: float
    SOP_exact: float
    SOP_paper: float
    AC: float
    MAC: float
    neuron_updates: dict[str, float]
    E_ops: dict[str, float]
    E_mem: dict[str, float]
    E_total: dict[str, float]
    size_packed_bytes: int | None
    params: int
    bits_per_weight: float
    T: int
    dataset: str
    n_samples: int
    first_layer_policy: str
    baseline: list[dict[str, Any]]
    latency: dict[str, Any] | str = NOT_MEASURED
    joules: dict[str, Any] | str = NOT_MEASURED
    accuracy: float | None = None
    spikes_error: float | None = None
    size_paper_bytes: float | None = None
    stage: str = "captured"
    other_ops: dict[str, float] = field(default_factory=dict)
    break_even: list[dict[str, Any]] = field(default_factory=list)
    energy: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    neurons: list[dict[str, Any]] = field(default_factory=list)
    raster: list[dict[str, Any]] = field(default_factory=list)
    membranes: list[dict[str, Any]] = field(default_factory=list)
    node_times: list[dict[str, Any]] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    not_counted: list[str] = field(default_factory=list)
    version: int = VERSION

    @property
    def sop_exact(self) -> float:
        """SOP_exact under a Python name."""
        return self.SOP_exact

    def headline(self) -> Headline:
        """One figure for a table: operations, neurons, and memory with each weight moved once a step.

        It is a formula; the model's name says which.
        """
        return Headline(self.E_total["stationary"] / 1000, "with-memory, stationary")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: unknown or missing fields, or another version.
        """
        known = [f.name for f in fields(cls)]
        unknown = [k for k in values if k not in known]
        if unknown:
            raise ConfigError(f"report: unknown field {unknown[0]!r}; {suggest(unknown[0], known)}")
        if values.get("version") != VERSION:
            raise ConfigError(f"report: version {values.get('version')!r}, this picojoule reads {VERSION}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"report: {error}; measure again with `pj measure`") from None

    def to_json(self, indent: int | None = 2) -> str:
        """One JSON document."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Inverse of `to_json`."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"report is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError("report: needs a JSON object")
        return cls.from_dict(values)

    def save(self, path: str | Path) -> None:
        """Write JSON."""
        Path(path).write_text(self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read JSON."""
        file = Path(path)
        if not file.is_file():
            raise ConfigError(f"no report {str(path)!r}; write one with `pj measure RUN --json`")
        return cls.from_json(file.read_text())

    def show(self) -> None:
        """Tables on the terminal."""
        from rich.console import Console

        for table in self.tables():
            Console().print(table)

    def tables(self) -> list[Any]:
        """Rich tables: totals, energy with models named, layers; then warnings and assumptions."""
        return [_totals(self), _energy(self), _layers(self), _notes(self)]


def amount(value: float | None, unit: str = "") -> str:
    """A number with a prefix, three digits.

    >>> amount(12345.0), amount(0.0123, "J"), amount(None)
    ('12.3 k', '12.3 mJ', '-')
    """
    if value is None:
        return "-"
    if value == 0:
        return f"0 {unit}".strip()
    if not unit and abs(value) < 1:
        return f"{value:.3g}"
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k"), (0, ""), (-3, "m"), (-6, "u"), (-9, "n")):
        if abs(value) >= 0.9995 * 10.0**power:
            return f"{value / 10.0**power:.3g} {prefix}{unit}".strip()
    return f"{value / 1e-12:.3g} p{unit}".strip()


def joules(pj: float | None) -> str:
    """Picojoules as J with a prefix.

    >>> joules(8.372e9)
    '8.37 mJ'
    """
    return amount(None if pj is None else pj * 1e-12, "J")


def _table(title: str, columns: list[str], left: int = 1) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < left else "right", overflow="fold")
    return table


def total_rows(r: Report) -> list[tuple[str, str]]:
    """What the first table says, as (name, value)."""
    error = "" if r.spikes_error is None else f" ± {amount(r.spikes_error)}"
    engines = {} if isinstance(r.latency, str) else r.latency["engines"]
    measured = ", ".join(f"{k} {v['median_ms']:.3g} ms (p95 {v['p95_ms']:.3g})" for k, v in engines.items())
    speed = ", ".join(f"{k} {amount(v['per_second'])}" for k, v in engines.items())
    peaks = {k: v["peak_mib"] for k, v in engines.items() if v["peak_mib"] is not None}
    memory = ", ".join(f"{k} {v:.0f} MiB" for k, v in peaks.items())
    energy = (
        r.joules
        if isinstance(r.joules, str)
        else ", ".join(f"{k} {amount(v, 'J')}" for k, v in r.joules.items())
    )
    return [
        ("accuracy", "-" if r.accuracy is None else f"{r.accuracy:.2f} %"),
        ("data", f"{r.dataset}, {r.n_samples:,} samples"),
        ("steps T", str(r.T)),
        ("parameters", f"{r.params:,} at {r.bits_per_weight:.3g} bits a weight"),
        ("packed payload", "-" if r.size_packed_bytes is None else f"{r.size_packed_bytes:,} B"),
        (
            "size by the papers' formula",
            "-" if r.size_paper_bytes is None else f"{r.size_paper_bytes:,.0f} B",
        ),
        ("spikes of all neurons", amount(r.spikes) + error),
        ("synaptic operations, exact", amount(r.SOP_exact)),
        ("synaptic operations, papers' T fr FL", amount(r.SOP_paper)),
        ("AC, MAC", f"{amount(r.AC)}, {amount(r.MAC)}"),
        ("dense operations of T steps", amount(r.dense_ops)),
        ("first layer", r.first_layer_policy),
        ("latency", measured or NOT_MEASURED),
        ("samples a second", speed or NOT_MEASURED),
        ("peak memory of the process", memory or NOT_MEASURED),
        ("energy by a power counter", energy),
    ]


def energy_rows(r: Report) -> list[tuple[str, ...]]:
    """Cells of ENERGY_COLUMNS, one row a model and bound, then the baselines."""
    rows: list[tuple[str, ...]] = []
    for e in r.energy:
        side = joules(e["neuron"] + e["other"])
        out = ", ".join(e["leaves_out"])
        if not e["memory"]:
            rows.append((e["model"], joules(e["ops"]), side, "-", joules(e["total"]["ops"]), out))
        for bound, memory in e["memory"].items():
            name = f"{e['model']}, {bound}"
            rows.append((name, joules(e["ops"]), side, joules(memory), joules(e["total"][bound]), out))
    for b in r.baseline:
        out = ", ".join(b["leaves_out"])
        name = f"{b['name']} (same shape, {b['model']})"
        rows.append((name, joules(b["ops"]), "-", joules(b["memory"]), joules(b["total"]), out))
    return rows


ENERGY_COLUMNS = ["energy model", "operations", "neurons, other", "memory", "total", "leaves out"]
LAYER_COLUMNS = [
    "layer",
    "operand",
    "as",
    "rate",
    "active",
    "SOP exact",
    "SOP paper",
    "effective",
    "MAC",
    "as deployed",
]


def layer_rows(r: Report) -> list[tuple[str, ...]]:
    """One row a synaptic layer, cells as text."""
    rows = []
    for n in r.layers:
        rate = f"{n['rate']:.4f}" + ("" if n["rate_error"] is None else f" ± {n['rate_error']:.1g}")
        rows.append(
            (
                n["name"],
                n["operand"],
                n["arithmetic"],
                rate if n["arithmetic"] == "AC" else "-",
                f"{n['active']:.3f}",
                amount(n["sop"]),
                amount(n["sop_paper"]),
                amount(n["effective"]),
                amount(n["mac"]),
                joules(n["energy"]["as_deployed"]),
            )
        )
    return rows


def _totals(r: Report) -> Any:
    table = _table(f"{r.name}: one inference", ["", ""])
    for row in total_rows(r):
        table.add_row(*row)
    return table


def _energy(r: Report) -> Any:
    table = _table("energy by formula, not measured", ENERGY_COLUMNS[:-1])
    for row in energy_rows(r):
        table.add_row(*row[:-1])
    return table


def _layers(r: Report) -> Any:
    table = _table("layers", LAYER_COLUMNS, left=3)
    for row in layer_rows(r):
        table.add_row(*row)
    return table


def _notes(r: Report) -> Any:
    from rich.markup import escape

    lines = [f"{e['model']} leaves out {', '.join(e['leaves_out'])}" for e in r.energy]
    lines += [f"[yellow]warning[/]: {escape(text)}" for text in r.warnings]
    lines += [f"not counted: {escape(text)}" for text in r.not_counted]
    lines += [f"measured: {escape(agreement_sentence(r.node_times))}"] if r.node_times else []
    lines += [f"note: {escape(text)}" for text in r.assumptions]
    lines += [escape(n["why"]) for n in r.layers if n["arithmetic"] == "MAC"]
    return "\n".join(lines)
