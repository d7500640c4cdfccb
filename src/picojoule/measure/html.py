"""One self-contained HTML page of measurements: tables and inline SVG, for phones and dark mode, too."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from picojoule.measure import svg
from picojoule.measure.agreement import agreement_sentence, counted
from picojoule.measure.report import (
    ENERGY_COLUMNS,
    LAYER_COLUMNS,
    Report,
    amount,
    energy_rows,
    joules,
    layer_rows,
    total_rows,
)

STYLE = """
:root{--bg:#fbfbfa;--card:#fff;--ink:#1d2126;--mute:#626a73;--line:#dde1e5;
--a:#0b6bcb;--b:#e07a1f;--c:#2a9d6f;
--warn:#8a4b00;--warnbg:#fff3dc;color-scheme:light dark}
@media (prefers-color-scheme:dark){
:root{--bg:#14171a;--card:#1c2024;--ink:#e6e9ec;--mute:#9aa3ac;--line:#343a40;
--a:#5aa9f5;--b:#f0a35a;--c:#5cc79a;--warn:#ffd08a;--warnbg:#3a2a10}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:16px;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:break-word}
h1{font-size:1.5rem;line-height:1.25;margin:.3em 0}h2{font-size:1.25rem;margin:1.6em 0 .4em}
h3{font-size:1rem;margin:.2em 0 .6em}
p{margin:.4em 0}.card p{font-size:.86rem}.m,.mute{color:var(--mute)}
.cards{columns:340px;column-gap:14px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px;min-width:0;
break-inside:avoid;margin:0 0 14px}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.86rem}
th,td{text-align:right;padding:4px 8px;border-bottom:1px solid var(--line);vertical-align:top;
white-space:nowrap}
th:first-child,td:first-child{text-align:left}
td.w{white-space:normal;min-width:13em;text-align:left;color:var(--mute)}
table.pairs td{white-space:normal}table.pairs td:first-child{color:var(--mute)}
th{font-weight:600;color:var(--mute)}
svg{display:block;width:100%;max-width:520px;height:auto}
svg text{font-size:11px;fill:var(--ink);font-family:inherit}svg text.m{fill:var(--mute)}
.s0{fill:var(--a)}.s1{fill:var(--b)}.s2{fill:var(--c)}.bg{fill:var(--line);opacity:.35}
.open{fill:none;stroke:var(--a);stroke-width:1.6}.grid{stroke:var(--line);stroke-width:.7}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .3em 0 .8em;vertical-align:-1px}
.key:first-child{margin-left:0}
.warn{background:var(--warnbg);color:var(--warn);border-radius:8px;padding:8px 12px;margin:6px 0}
summary{cursor:pointer;font-weight:600;margin:.5em 0}
"""


def write_html(
    path: str | Path,
    reports: Sequence[Report],
    extras: Mapping[str, Any] | None = None,
    *,
    title: str = "",
    rows: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the page, all or nothing.

    Args:
        reports: one section each; fronts are drawn for those with an accuracy.
        extras: may hold "notes", a list of sentences for the end of the page.
        title: headline of the page.
        rows: a table to begin with, one mapping a row (what `pj demo` prints).
    Returns:
        The path.
    """
    target = Path(path)
    text = page(reports, extras or {}, title=title, rows=rows)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, target)
    target.chmod(0o644)
    return target


def page(
    reports: Sequence[Report],
    extras: Mapping[str, Any],
    *,
    title: str = "",
    rows: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page as text."""
    title = title or (reports[0].name if len(reports) == 1 else f"{len(reports)} spiking networks")
    parts = [f"<h1>{escape(title)}</h1>"]
    parts.append(
        '<p class="mute">All figures are for one inference of one sample. Energies are formulas with the '
        "constants that each model names, not measurements of a chip.</p>"
    )
    if rows:
        parts.append(f'<div class="card wide">{_mappings(rows)}</div>')
    if len(reports) > 1:
        parts += [_comparison(reports), _fronts(reports)]
    parts += [_section(r, len(reports) == 1, i == 0) for i, r in enumerate(reports)]
    notes = list(extras.get("notes", ()))
    if notes:
        parts.append('<div class="card">' + "".join(f"<p>{escape(n)}</p>" for n in notes) + "</div>")
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
    )
    return head + "\n".join(parts) + "</body></html>\n"


# -- tables ----------------------------------------------------------------------------------------------


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], wide: Sequence[int] = ()) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=w' if i in wide else ''}>{escape(c)}</td>" for i, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _mappings(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(k for row in rows for k in row))
    return _table(
        [c.replace("_", " ") for c in columns], [[_cell(row.get(c)) for c in columns] for row in rows]
    )


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


COLUMN_MODELS = (
    "ops: operations alone, models ops-fp32 and ops-deployed; total: model with-memory, its stationary or "
    "event bound; what each leaves out stands in the report of one network"
)


def comparison_rows(reports: Sequence[Report]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of the table of several networks."""
    columns = [
        "network", "accuracy", "T", "w bits", "bytes", "rate", "SOP exact", "SOP paper", "MAC",
        "ops fp32", "ops deployed", "total, stationary", "total, event", "ANN int8 total",
    ]  # fmt: skip
    rows = []
    for r in reports:
        places = sum(n["neurons"] * n["steps"] for n in r.neurons) or 1
        ann = next((b["total"] for b in r.baseline if b["name"] == "ANN int8"), None)
        rows.append(
            [
                r.name,
                "-" if r.accuracy is None else f"{r.accuracy:.2f} %",
                str(r.T),
                f"{r.bits_per_weight:.3g}",
                amount(size_of(r), "B"),
                f"{r.spikes / places:.3f}",
                amount(r.SOP_exact),
                amount(r.SOP_paper),
                amount(r.MAC),
                joules(r.E_ops["fp32"]),
                joules(r.E_ops["as_deployed"]),
                joules(r.E_total["stationary"]),
                joules(r.E_total["event"]),
                joules(ann),
            ]
        )
    return columns, rows


def size_of(r: Report) -> float:
    """Bytes of a network: the packed payload, or parameters at their bits when it is not packed."""
    return float(r.size_packed_bytes) if r.size_packed_bytes is not None else r.params * r.bits_per_weight / 8


def _comparison(reports: Sequence[Report]) -> str:
    columns, rows = comparison_rows(reports)
    note = f'<p class="mute">{COLUMN_MODELS}</p>'
    return f'<h2>All networks</h2><div class="card wide">{_table(columns, rows)}{note}</div>'


def _fronts(reports: Sequence[Report]) -> str:
    known = [r for r in reports if r.accuracy is not None]
    if len(known) < 2:
        return ""
    energy = [(r.E_total["stationary"] / 1000, r.accuracy or 0.0, r.name) for r in known]
    size = [(size_of(r), r.accuracy or 0.0, r.name) for r in known]
    plots = (
        (
            "Accuracy against energy",
            svg.scatter(energy, "nJ, model with-memory, stationary", "accuracy, %", "energy"),
        ),
        ("Accuracy against bytes", svg.scatter(size, "bytes", "accuracy, %", "bytes")),
    )
    return '<div class="cards">' + "".join(_card(name, plot) for name, plot in plots) + "</div>"


def _card(title: str, body: str, note: str = "") -> str:
    text = f'<p class="mute">{note}</p>' if note else ""
    return f'<div class="card"><h3>{escape(title)}</h3>{body}{text}</div>'


# -- one network -----------------------------------------------------------------------------------------


def _section(r: Report, alone: bool, shown: bool) -> str:
    warnings = "".join(f'<div class="warn">{escape(text)}</div>' for text in r.warnings)
    missing = "".join(f'<div class="warn">not counted: {escape(text)}</div>' for text in r.not_counted)
    pairs = "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in total_rows(r))
    cards = [
        _card("One inference", f'<table class="pairs"><tbody>{pairs}</tbody></table>'),
        *_plots(r),
    ]
    why = "".join(f"<p><b>{escape(n['name'])}</b> {escape(n['why'])}</p>" for n in r.layers)
    notes = "".join(f"<p>{escape(text)}</p>" for text in r.assumptions)
    even = [
        [b["baseline"], f"{b['model']}, {b['figure']}", "never" if b["rate"] is None else f"{b['rate']:.3f}"]
        for b in r.break_even
    ]
    energy = _table(ENERGY_COLUMNS, energy_rows(r), wide=(5,))
    layers = _table(LAYER_COLUMNS, layer_rows(r))
    rates = f"measured mean rate {_measured_rate(r)}; all rates scaled together"
    tables = (
        f'<h3>Energy by formula</h3><div class="card wide">{energy}</div>'
        f'<details open><summary>Layers</summary><div class="card wide">{layers}'
        "</div></details>"
        f"<details><summary>Firing rates below which it needs less than a baseline</summary>"
        f'<div class="card wide">{_table(["baseline", "model", "mean rate"], even)}'
        f'<p class="mute">{rates}</p></div></details>'
        f'<details><summary>Why layers count as AC or MAC</summary><div class="card">{why}</div></details>'
        f'<details><summary>What is assumed</summary><div class="card">{notes}</div></details>'
    )
    body = warnings + missing + f'<div class="cards">{"".join(cards)}</div>' + tables
    if alone:
        return body
    name = escape(r.name)
    state = " open" if shown else ""
    return f"<h2>{name}</h2><details{state}><summary>all figures of {name}</summary>{body}</details>"


def _measured_rate(r: Report) -> str:
    return f"{r.break_even[0]['measured_rate']:.3f}" if r.break_even else "-"


def _plots(r: Report) -> list[str]:
    rates = [(n["name"], [n["rate"]], f"{n['rate']:.3f}") for n in r.neurons]
    found = []
    if r.raster:
        found.append(
            _card(
                "Spikes of one sample",
                svg.raster(r.raster, "raster"),
                "up to 48 neurons a layer, evenly chosen; darker: larger counts; orange: negative",
            )
        )
    if rates:
        found.append(
            _card("Firing rate by layer", svg.bars(rates, "rates"), "mean spikes per neuron and step")
        )
    if r.layers:
        energy = [
            (
                n["name"],
                [n["energy"]["as_deployed"], n["energy"]["stationary"]],
                joules(n["energy"]["as_deployed"] + n["energy"]["stationary"]),
            )
            for n in r.layers
        ]
        key = '<span class="key" style="background:var(--a)"></span>operations'
        key += '<span class="key" style="background:var(--b)"></span>memory; model with-memory, stationary'
        found.append(_card("Energy by layer", svg.bars(energy, "energy"), key))
    if r.neurons:
        strips = [(n["name"], n["histogram"], _still(n)) for n in r.neurons]
        note = "neurons by the share of steps in which they fire, 0 left to 1 right; heights are square "
        note += "roots; beside them, % of neurons dead (never fire) / saturated (always at their maximum)"
        found.append(_card("How often neurons fire", svg.histogram(strips, "histogram"), note))
    if r.membranes:
        strips = [(m["layer"], m["counts"], f"{100 * m['above']:.0f} % fire") for m in r.membranes]
        note = "membranes before firing, from -1 left to 2 right in thresholds of their channel; one sample; "
        note += f"{len(r.membranes)} of {len(r.neurons)} layers: "
        note += "of the first 16, those whose thresholds are positive"
        found.append(_card("Membranes before the threshold", svg.histogram(strips, "membranes"), note))
    if r.node_times:
        found += _times(r.node_times)
    return found


def _still(row: Mapping[str, Any]) -> str:
    return f"{100 * row['dead']:.0f} / {100 * row['saturated']:.0f} %"


def _times(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Counted operations against the engine's time: a constant price would put all layers on one line."""
    known = counted(rows)
    plot = svg.decades(
        [(r["predicted"], r["measured_us"], r["name"]) for r in known],
        "counted operations, AC + MAC",
        "native engine, us",
        "operations and time",
    )
    if not plot:
        return []
    note = (
        f"{agreement_sentence(rows)}. The energy formulas give every accumulate one price; layers off the "
        "line are where operations do not predict time on this machine. Times include the neurons that run "
        "with a layer."
    )
    prices = [(r["name"], 1000 * r["measured_us"] / r["predicted"]) for r in known]
    bars = svg.bars([(name, [ns], f"{ns:.3g}") for name, ns in prices], "cost")
    return [
        _card("Counted operations against measured time", plot, escape(note)),
        _card("Measured time of a counted operation", bars, "ns of the native engine for each AC or MAC"),
    ]
