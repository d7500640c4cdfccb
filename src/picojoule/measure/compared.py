"""Many runs side by side: one table as CSV or LaTeX, and the fronts of accuracy against energy and bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picojoule.core.errors import ConfigError, DataError, need_extra
from picojoule.measure.html import size_of
from picojoule.measure.report import Report

IMAGES = (".png", ".svg", ".pdf")


def compare(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """One row of plain numbers a report: energies in nJ by formula, the model in the column's name."""
    rows = []
    for r in reports:
        places = sum(n["neurons"] * n["steps"] for n in r.neurons) or 1
        base = {b["name"].split(" (")[0]: b["total"] / 1000 for b in r.baseline}
        qnn = next((v for k, v in base.items() if k.startswith("QNN")), None)
        measured = r.latency["engines"] if isinstance(r.latency, dict) else {}
        rows.append(
            {
                "name": r.name,
                "dataset": r.dataset,
                "samples": r.n_samples,
                "accuracy": r.accuracy,
                "T": r.T,
                "params": r.params,
                "bits_per_weight": r.bits_per_weight,
                "bytes": size_of(r),
                "spikes": r.spikes,
                "rate": r.spikes / places,
                "SOP_exact": r.SOP_exact,
                "SOP_paper": r.SOP_paper,
                "MAC": r.MAC,
                "ops_fp32_nj": r.E_ops["fp32"] / 1000,
                "ops_deployed_nj": r.E_ops["as_deployed"] / 1000,
                "total_stationary_nj": r.E_total["stationary"] / 1000,
                "total_event_nj": r.E_total["event"] / 1000,
                "ann_fp32_nj": base.get("ANN fp32"),
                "ann_int8_nj": base.get("ANN int8"),
                "qnn_nj": qnn,
                "native_ms": measured.get("native", {}).get("median_ms"),
                "torch_ms": measured.get("torch", {}).get("median_ms"),
            }
        )
    return rows


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Comma-separated values with a header; absent numbers are empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["name"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


LATEX = {
    "name": ("Network", None),
    "accuracy": (r"Acc. (\%)", ".2f"),
    "T": ("$T$", "d"),
    "bits_per_weight": ("Bits", ".3g"),
    "bytes": ("kB", "kilo"),
    "SOP_exact": ("SOP (M)", "mega"),
    "ops_fp32_nj": (r"$E_\mathrm{ops}$ fp32 (\textmu J)", "kilo"),
    "ops_deployed_nj": (r"$E_\mathrm{ops}$ deployed (\textmu J)", "kilo"),
    "total_stationary_nj": (r"$E_\mathrm{total}$ (\textmu J)", "kilo"),
}
_SPECIAL = str.maketrans(
    {c: "\\" + c for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def to_latex(rows: Sequence[dict[str, Any]]) -> str:
    """A booktabs table of the columns that papers print."""
    lines = [
        "% energies by formula (45 nm constants): operations only, and with on-chip memory, stationary bound",
        r"\begin{tabular}{l" + "r" * (len(LATEX) - 1) + "}",
        r"\toprule",
        " & ".join(title for title, _ in LATEX.values()) + r" \\",
        r"\midrule",
    ]
    lines += [" & ".join(_latex(row[k], f) for k, (_, f) in LATEX.items()) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex(value: Any, form: str | None) -> str:
    if value is None:
        return "--"
    if form is None:
        return str(value).translate(_SPECIAL)
    divisor = {"kilo": 1e3, "mega": 1e6}.get(form)
    return f"{value / divisor:.3g}" if divisor else format(value, form)


FRONTS = (
    ("total_stationary_nj", "energy, nJ (formula with-memory, stationary)"),
    ("bytes", "bytes of the network"),
)


def _known(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    known = [row for row in rows if row["accuracy"] is not None]
    if not known:
        raise DataError("fronts need accuracies, none of these runs has one; measure with labels")
    return known


def write_fronts(path: str | Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Both fronts as one image (.png, .svg, .pdf), or interactive as .html.

    Raises:
        MissingExtraError: matplotlib, or plotly for .html, is absent.
        DataError: no run has an accuracy.
    """
    target = Path(path)
    if target.suffix == ".html":
        return _interactive(target, _known(rows))
    if target.suffix not in IMAGES:
        raise ConfigError(f"fronts are written to {', '.join(IMAGES)} or .html, got {str(path)!r}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise need_extra("matplotlib", "train") from None
    from picojoule.measure.svg import pareto

    known = _known(rows)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for i, (column, title) in enumerate(FRONTS):
        axes = figure.add_subplot(1, 2, i + 1)
        xs, ys = [row[column] for row in known], [row["accuracy"] for row in known]
        front = sorted(pareto(list(zip(xs, ys))), key=lambda k: xs[k])
        axes.plot([xs[k] for k in front], [ys[k] for k in front], color="0.7", zorder=1)
        axes.scatter(xs, ys, zorder=2)
        for row, x, y in zip(known, xs, ys):
            axes.annotate(row["name"], (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", xlabel=title, ylabel="accuracy, %")
        axes.margins(x=0.2)
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=160)
    return target


def _interactive(target: Path, known: Sequence[dict[str, Any]]) -> Path:
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError:
        raise need_extra("plotly", "plots") from None
    figure = make_subplots(1, 2)
    for i, (column, title) in enumerate(FRONTS):
        points = go.Scatter(
            x=[row[column] for row in known],
            y=[row["accuracy"] for row in known],
            text=[row["name"] for row in known],
            mode="markers+text",
            textposition="top center",
            showlegend=False,
        )
        figure.add_trace(points, 1, i + 1)
        figure.update_xaxes(type="log", title=title, row=1, col=i + 1)
        figure.update_yaxes(title="accuracy, %", row=1, col=i + 1)
    target.write_text(figure.to_html(include_plotlyjs=True, full_html=True), encoding="utf-8")
    return target
