"""Writes the figures of the JSON files into docs/training-speed.md, between their markers.

    python benchmarks/train/table.py

A test checks that the page holds what the files give.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pages import fill, machine_line, number, rewrite, table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "docs" / "training-speed.md",)
NETS = {
    "resnet18": "ResNet-18",
    "vgg11": "VGG-11",
    "sdt_v1": "`sdt_v1_32`",
    "sdt_v3": "`sdt_v3_32`",
}
AWARE = ("picojoule aware", "picojoule aware rect")
OURS = (*AWARE, "picojoule aware fused")  # not for every network
MISSING = "Not measured yet."


def read(name: str) -> dict[str, Any]:
    """A results file; empty when it was not measured yet."""
    path = RESULTS / f"train_{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def machine(found: dict[str, Any]) -> str:
    """Where and when, in one sentence."""
    threads = found.get("machine", {}).get("threads")
    line = machine_line(found, ("torch", "spikingjelly", "snntorch", "norse", "accelerate"))
    return f"{line} Threads: {threads}." if threads else line


def joined(parts: Iterable[str]) -> str:
    """Paragraphs; a word where nothing was measured."""
    return "\n\n".join(parts) or MISSING


# -- one layer -------------------------------------------------------------------------------------------


def lif() -> str:
    """A LIF layer at every T."""
    found = read("lif_layer")
    parts = []
    for block in found.get("results", []):
        rows = []
        for row in block["rows"]:
            share = f"{100 * row['stream_share']:.0f} %" if "stream_share" in row else ""
            moved = str(row["moved_bytes"]) if "moved_bytes" in row else ""
            times = [number(row["forward_ms"]), number(row["backward_ms"]), f"{row['times_exact']:.2f}"]
            rows.append([row["name"], *times, f"{row['kept_bytes']:.1f}", moved, share])
        for row in block["norm"]:
            times = [number(row["forward_ms"]), number(row["backward_ms"]), f"{row['times_fused']:.2f}"]
            rows.append([f"BatchNorm and LIF: {row['name']}", *times, "", "", ""])
        head = [f"T = {block['T']}", "forward, ms", "backward, ms", "times", "keeps, B", "moves, B"]
        parts.append(table([*head, "share of STREAM"], rows))
    parts += untuned(found)
    return joined([*parts, *([machine(found)] if parts else [])])


def untuned(found: dict[str, Any]) -> list[str]:
    """The same layer in a process that left the allocator as it is."""
    tuned = {block["T"]: named(block) for block in found.get("results", [])}
    rows = []
    for block in found.get("untuned", []):
        before, after = named(block), tuned[block["T"]]
        if "spikingjelly" in before:
            ours, theirs = _whole(before["picojoule exact"]), _whole(before["spikingjelly"])
            gain = theirs / _whole(after["picojoule exact"])
            rows.append(
                [str(block["T"]), number(ours), number(theirs), f"{theirs / ours:.1f}", f"{gain:.1f}"]
            )
    head = ["T, without tune()", "exact, ms", "spikingjelly, ms", "times", "against exact with tune()"]
    return [table(head, rows)] if rows else []


def named(block: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of a layer's block by name."""
    return {row["name"]: row for row in block["rows"]}


# -- whole steps -----------------------------------------------------------------------------------------


def blocks() -> list[dict[str, Any]]:
    """The networks of the whole-step benchmark in the order of the page."""
    found = {block["net"]: block for block in read("whole_step").get("results", [])}
    return [found[net] for net in NETS if net in found]


def at(block: dict[str, Any]) -> dict[str, Any]:
    """All contenders, at the one setting where all were measured."""
    return block["settings"][block["at"]]


def steps() -> str:
    """Each network's contenders."""
    parts = []
    for block in blocks():
        rows = []
        base = at(block)[AWARE[0]]["ms"]
        for name, row in at(block).items():
            mib = number(row["step_mib"]) if "step_mib" in row else ""
            fires = f"{100 * row['firing_rate']:.1f} %" if "firing_rate" in row else ""
            rows.append([name, number(row["ms"]), f"{row['ms'] / base:.2f}", mib, fires])
        head = [f"{NETS[block['net']]}, {block['at']}", "step, ms", "times `aware`", "memory, MiB", "firing"]
        parts.append(table(head, rows))
    return joined([*parts, *([machine(read("whole_step"))] if parts else [])])


def by_rate() -> str:
    """How the step follows the firing rate."""
    rows = []
    for block in blocks():
        jelly = min(row["ms"] for name, row in at(block).items() if name.startswith("spikingjelly"))
        twin = at(block)["artificial twin"]["ms"]
        for setting, found in block["settings"].items():
            plain, rect = (found[name] for name in AWARE)
            opened = f"{100 * rect['open_rate']:.0f} %" if "open_rate" in rect else ""
            fires = f"{100 * plain['firing_rate']:.1f} %"
            times = [number(plain["ms"]), number(rect["ms"])]
            best = min(plain["ms"], rect["ms"])
            ratios = [f"{jelly / plain['ms']:.2f}", f"{jelly / rect['ms']:.2f}", f"{best / twin:.2f}"]
            rows.append([NETS[block["net"]], setting, fires, opened, *times, *ratios])
    head = ["network", "rate", "fires", "open", "atan, ms", "rect, ms"]
    ratios = ["SpikingJelly / atan", "SpikingJelly / rect", "best / twin"]
    return table([*head, *ratios], rows) if rows else MISSING


def operators() -> str:
    """Milliseconds by operator."""
    parts = []
    for block in blocks():
        split = {name: row["split_ms"] for name, row in at(block).items() if "split_ms" in row}
        if not split:
            continue
        kinds = list(dict.fromkeys(kind for row in split.values() for kind in row))
        rows = [[name, *(f"{row.get(kind, 0):.0f}" for kind in kinds)] for name, row in split.items()]
        parts.append(table([f"{NETS[block['net']]}, {block['at']}, ms", *kinds], rows))
    return joined(parts)


def rates() -> str:
    """What real training fires at."""
    found = read("rates")
    rows = []
    for net in NETS:
        for phase in ("epoch 1", "late"):
            part = found.get("results", {}).get(net, {}).get(phase)
            if part is None:
                continue
            cells = []
            for key in ("fired", "opened"):
                values = part[key]
                mean = 100 * statistics.fmean(values)
                cells.append(f"{mean:.1f} % ({100 * min(values):.1f} to {100 * max(values):.1f})")
            when = f"{part['epoch']:g}"
            rows.append([NETS[net], phase, when, f"{part['images']:,}", *cells])
    head = ["network", "phase", "up to epoch", "images seen", "fires, mean (layers)", "open, mean (layers)"]
    return table(head, rows) if rows else MISSING


# -- goals -----------------------------------------------------------------------------------------------


def goals() -> str:
    """Goals and what was reached."""
    rows: list[list[str]] = []

    def add(what: str, goal: float, value: float, unit: str = "x", *, least: bool = True) -> None:
        met = value >= goal if least else value <= goal
        sign = "at least" if least else "at most"
        rows.append([what, f"{sign} {goal:g}{unit}", f"{value:.3g}{unit}", "yes" if met else "**no**"])

    for block in read("lif_layer").get("results", []):
        rows_of = named(block)
        ours = min((rows_of[f"picojoule {form}"] for form in ("exact", "half", "byte")), key=_whole)
        goal = 12 if block["T"] == 4 else 15
        jelly = _whole(rows_of["spikingjelly"])
        add(f"LIF layer, T = {block['T']}, SpikingJelly", goal, jelly / _whole(ours))
        share = max(row["stream_share"] for row in block["rows"] if "stream_share" in row)
        add(f"LIF layer, T = {block['T']}, share of STREAM", 90, 100 * share, " %")
    for block in blocks():
        rows_at = at(block)
        ours = min(rows_at[name]["ms"] for name in OURS if name in rows_at)
        where = f"{NETS[block['net']]} step, {block['at']}"
        jelly = [row for name, row in rows_at.items() if name.startswith("spikingjelly")]
        add(f"{where}, SpikingJelly", 4, min(r["ms"] for r in jelly) / ours)
        if "torch.compile" in rows_at:
            add(f"{where}, torch.compile", 3, rows_at["torch.compile"]["ms"] / ours)
        add(f"{where}, time of the twin", 1.3, ours / rows_at["artificial twin"]["ms"], least=False)
        memory = [row["step_mib"] for row in jelly if "step_mib" in row]
        mine = [rows_at[name]["step_mib"] for name in OURS if "step_mib" in rows_at.get(name, {})]
        if memory and mine:
            add(f"{where}, memory of SpikingJelly", 0.25, min(mine) / min(memory), least=False)
    return table(["what, against", "goal", "measured", "reached"], rows) if rows else MISSING


def _whole(row: dict[str, Any]) -> float:
    return row["forward_ms"] + row["backward_ms"]


# -- accuracy, growth, limits, estimates -----------------------------------------------------------------


def accuracy() -> str:
    """Time until an accuracy."""
    found = read("time_to_accuracy")
    rows = []
    for r in found.get("results", []):
        reached = f"{r['target']:g} %" if r["reached"] else f"{r['target']:g} %, **not reached**"
        figures = [f"{r['val']:.1f} %", f"{r['test']:.1f} %", number(r["seconds"]), f"{r['batches']:,}"]
        rows.append([r["set"], str(r["seed"]), r["library"], reached, *figures, number(r["peak_mib"])])
    head = ["data", "seed", "library", "target", "validation", "test", "seconds", "batches", "peak, MiB"]
    return joined([table(head, rows), machine(found)] if rows else [])


def growth() -> str:
    """Over T, batch and width."""
    found, parts = read("scaling"), []
    for what in ("T", "batch", "width"):
        if what not in found:
            continue
        part, rows = found[what], []
        for mode in ("none", "block"):
            row = part[f"checkpoint {mode}"]
            rows.append([f"checkpoint={mode}, ms", *map(number, row["ms"]), f"{row['slope']:.2f}"])
            rows.append(["kept, MiB", *map(number, row["kept_mib"]), ""])
        parts.append(table([what, *map(str, part["sizes"]), "slope"], rows))
    return joined([*parts, *([machine(found)] if parts else [])])


def processes() -> str:
    """One process and two."""
    found = read("scaling").get("processes", {})
    rows = [[name, number(row["ms"]), f"{row['gain']:.2f}"] for name, row in found.items()]
    return table(["a step of 64 samples", "ms", "gain"], rows) if rows else MISSING


def limits() -> str:
    """Densities at which events and dense kernels take the same time."""
    found, rows = read("event_limits"), []
    for row in found.get("results", []):
        layer = row["layer"]
        name = f"{layer['channels']} to {layer['out']}, {layer['side']}x{layer['side']}, "
        name += f"{layer['kernel']}x{layer['kernel']}, stride {layer['stride']}"
        cells = []
        for kind in ("forward", "weight", "input"):
            times = " / ".join(number(ms) for ms in row["events_ms"][kind])
            even = 100 * row["crossing"][kind]
            dense = [number(row[key][kind]) for key in ("dense_ms", "torch_ms")]
            cells.append(f"{times}; {'; '.join(dense)}; {even:.0f} %")
        rows.append([name, *cells])
    if not rows:
        return MISSING
    shown = ", ".join(f"{100 * rate:g}" for rate in found["rates"])
    note = f"Each cell, ms: events at {shown} % density; dense here; torch; the density where events and the "
    note += "dense kernel here take the same time."
    head = ["layer, 64 rows", "forward", "weight gradient", "input gradient"]
    return joined([table(head, rows), f"{note} {machine(found)}"])


def estimates() -> str:
    """Estimates against real epochs."""
    found, rows = read("estimate"), []
    for name, r in found.get("recipes", {}).items():
        memory = [number(r["estimated_peak_mib"]), number(r["real_peak_mib"])]
        seconds = [number(r["estimated_epoch_seconds"]), number(r["real_epoch_seconds"])]
        errors = [f"{100 * r[key]:+.0f} %" for key in ("memory_error", "time_error")]
        title = name.replace("+", ", ")
        rows.append([title, *memory, errors[0], *seconds, errors[1]])
    head = ["recipe", "estimated, MiB", "real, MiB", "off", "estimated epoch, s", "real epoch, s", "off"]
    return joined([table(head, rows), machine(found)] if rows else [])


REGIONS = {
    "goals": goals,
    "lif": lif,
    "steps": steps,
    "by-rate": by_rate,
    "operators": operators,
    "rates": rates,
    "accuracy": accuracy,
    "growth": growth,
    "processes": processes,
    "limits": limits,
    "estimates": estimates,
}


def filled(text: str) -> str:
    """The text with every region written anew."""
    return fill(text, "train", REGIONS)


if __name__ == "__main__":
    rewrite(PAGES, filled)
