"""Writes the figures of the JSON files into README.md and docs/speed.md, between their markers.

    python benchmarks/engine/table.py

A region begins with `<!-- engine:NAME -->` and ends with `<!-- /engine:NAME -->`; what stands between is
replaced. A test checks that the files hold what the JSON gives.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pages import fill, machine_line, number, rewrite, table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md")
NETS = {"vgg": "`spiking_vgg`", "ms_resnet": "`ms_resnet`", "sdt_v1": "`sdt_v1`", "sdt_v3": "`sdt_v3`"}
DATA = {"cifar10": "CIFAR-10 (10k/2k part)", "fashion": "Fashion-MNIST"}
INT8 = ("onnxruntime int8 ANN step", "openvino int8 ANN step")
LAYERS = {
    "conv128": "conv 128, 16x16",
    "conv256": "conv 256, 8x8",
    "linear": "linear 1024 to 256, 64 tokens",
    "body": "six convolutions",
}
BITS = {"w1": "1 bit", "w4": "4 bit"}


def read(name: str) -> dict[str, Any]:
    """A results file; without sections when it was not measured yet."""
    path = RESULTS / f"engine_{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {"sections": {}}


def networks(sections: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(key, data, network) of every network that is measured completely."""
    found = []
    for data in DATA:
        for net in NETS:
            key = f"{data}_{net}"
            if f"{key}: batch 64, 2 threads" in sections:
                found.append((key, data, net))
    return found


def best(times: dict[str, Any]) -> float:
    """Median milliseconds of the faster int8 runtime."""
    return min(times[name]["median"] for name in INT8)


def accuracy_int8(quality: dict[str, Any]) -> float:
    """Accuracy of the int8 twin in the runtime that quantized it."""
    return quality["ann"]["accuracy_int8_onnxruntime"]


def machine(found: dict[str, Any]) -> str:
    """Where and when, in one sentence."""
    return machine_line(found, ("onnxruntime", "openvino", "torch"))


def twins_table() -> str:
    """The table at the top of the README."""
    found = read("twins")
    s, rows, faster, short = found["sections"], [], [], []
    for key, data, net in networks(s):
        q, memory = s[f"{key}: quality"], s[f"{key}: memory"]
        one = s[f"{key}: batch 1, 1 thread"]["ms"]
        many = s[f"{key}: batch 64, 1 thread"]["ms"]
        ms = [*(one[f"picojoule {bits}"]["median"] for bits in BITS), best(one)]
        of_64 = [*(many[f"picojoule {bits}"]["median"] for bits in BITS), best(many)]
        peaks = [memory[name]["peak_mib"] for name in ("picojoule w1", "picojoule w4", "onnxruntime int8")]
        right = [*(q[bits]["accuracy_packed"] for bits in BITS), accuracy_int8(q)]
        files = [*(q[bits]["file_bytes"] for bits in BITS), q["ann"]["file_bytes_int8"]]
        faster.append(ms[2] / ms[0])
        share = q["ann"]["images_seen"] / q["float"]["images_seen"]
        short += [(data, net, share)] if share < 0.5 else []
        cells = [
            [f"{value:.1f}" for value in right],
            [number(size / 1000) for size in files],
            [number(value) for value in ms],
            [number(64e3 / value) for value in of_64],
            [f"{value:.0f}" for value in peaks],
        ]
        rate = f"{100 * q['w1']['rate']:.0f} %"
        rows.append([DATA[data].partition(" ")[0], NETS[net], *(" / ".join(cell) for cell in cells), rate])
    head = ["data", "network", "accuracy, %", "file, kB", "one image, ms", "images/s of 64", "MiB"]
    lines = [
        "In every cell **1-bit spiking net / 4-bit spiking net / int8 ANN twin**; one thread.",
        "",
        table([*head, "firing"], rows),
        "",
        f"{said(faster)} {machine(found)}" if faster else "Not measured yet.",
    ]
    for data, net, share in short:
        lines.append(
            f"The twin of {NETS[net]} on {DATA[data].partition(' ')[0]} saw {100 * share:.0f} % of the "
            "images that the spiking net was trained on: its accuracy could be higher."
        )
    if found.get("missing"):
        lines.append(f"Not measured: {'; '.join(found['missing'])}.")
    return "\n".join(lines)


def said(faster: list[float]) -> str:
    """The ratios in one sentence."""
    won = sum(ratio > 1 for ratio in faster)
    return (
        f"On one image the 1-bit nets are {min(faster):.2f} to {max(faster):.2f} times as fast as their int8 "
        f"twins, faster in {won} of {len(faster)}."
    )


def seen(part: dict[str, Any]) -> str:
    """Training images, repeats counted."""
    return f"{part['images_seen'] / 1000:,.0f} k"


def twins_quality() -> str:
    """Accuracy, bytes and rates of every network in full."""
    s = read("twins")["sections"]
    rows = []
    for key, data, net in networks(s):
        q = s[f"{key}: quality"]
        f, a = q["float"], q["ann"]
        name = f"{DATA[data]}, {NETS[net]}"
        rows.append([name, "spiking, float", f"{f['test_accuracy']:.2f}", "", "", "", seen(f), ""])
        for bits, word in BITS.items():
            p = q[bits]
            sizes = [f"{p[k]:,.0f}" for k in ("payload_bytes", "paper_bytes", "file_bytes")]
            right, rate = f"{p['accuracy_packed']:.2f}", f"{100 * p['rate']:.1f} %"
            rows.append(["", f"packed {word}, T={p['T']}", right, *sizes, seen(p), rate])
        for form in ("fp32", "int8"):
            both = [a[f"accuracy_{form}_{runtime}"] for runtime in ("onnxruntime", "openvino")]
            right, size = " / ".join(f"{value:.2f}" for value in both), f"{a[f'file_bytes_{form}']:,}"
            rows.append(["", f"ANN {form}", right, "", "", size, seen(a), ""])
    head = ["network", "form", "accuracy, %", "payload, bytes", "as papers count", "file, bytes"]
    return table([*head, "images seen", "firing"], rows)


def twins_speed() -> str:
    """Latency and throughput of every contender on every network."""
    s, parts = read("twins")["sections"], []
    for key, data, net in networks(s):
        cells = {
            (batch, threads): s[f"{key}: batch {batch}, {threads_word(threads)}"]["ms"]
            for batch in (1, 64)
            for threads in (1, 2)
        }
        rows = []
        for name in cells[1, 1]:
            latency = [cells[1, t].get(name) for t in (1, 2)]
            many = [cells[64, t].get(name) for t in (1, 2)]
            shown = [f"{number(v['median'])} / {number(v['p95'])}" if v else "" for v in latency]
            rows.append([name, *shown, *(number(64e3 / v["median"]) if v else "" for v in many)])
        memory = s[f"{key}: memory"]
        peaks = ", ".join(f"{name} {v['peak_mib']:.0f}" for name, v in memory.items())
        title = f"{DATA[data]}, {NETS[net]}"
        head = [title, "one image, ms", "2 threads, ms", "images/s of 64", "2 threads, images/s"]
        parts.append(f"{table(head, rows)}\n\nPeak MiB of a fresh process: {peaks}.")
    return "\n\n".join(parts)


def threads_word(threads: int) -> str:
    """As in the names of sections."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def goals_table() -> str:
    """Goals and what was reached."""
    found = read("layers")
    rows = [
        [g["what"], g["peer"], f"{g['goal']:g}x", f"{g['ratio']:.1f}x", "yes" if g["met"] else "**no**"]
        for g in found.get("goals", [])
    ]
    head = ["at 10 % firing, T = 4, one thread", "against", "goal", "measured", "reached"]
    return f"{table(head, rows)}\n\n{machine(found)}"


def layers_table() -> str:
    """Every layer, kind and rate; the peers below."""
    s, parts = read("layers")["sections"], []
    for key, title in LAYERS.items():
        for threads in (1, 2):
            section = s.get(f"{key}, {threads_word(threads)}")
            if section is None:
                continue
            where = "kernel" if threads == 1 and key != "body" else "call"
            kinds: dict[str, list[str]] = {}
            for cell in section["cells"]:
                kinds.setdefault(cell["kind"], []).append(number(cell["ms"][where]["median"]))
            rates = list(dict.fromkeys(f"{100 * cell['rate']:g} %" for cell in section["cells"]))
            head = [f"{title}, {threads_word(threads)}, {where}, ms", *rates]
            peers = [f"{name} {number(v['median'])}" for name, v in section["peers_ms"].items()]
            body = table(head, [[kind, *cells] for kind, cells in kinds.items()])
            parts.append(f"{body}\n\nOthers, ms: {'; '.join(peers)}.")
    return "\n\n".join(parts)


REGIONS = {
    "twins": twins_table,
    "twins-quality": twins_quality,
    "twins-speed": twins_speed,
    "goals": goals_table,
    "layers": layers_table,
}


def filled(text: str) -> str:
    """The text with every region written anew."""
    return fill(text, "engine", REGIONS)


if __name__ == "__main__":
    rewrite(PAGES, filled)
