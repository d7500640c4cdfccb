"""Writes the figures of the JSON files into README.md and docs/speed.md, between their markers.

    python benchmarks/engine/table.py

A region begins with `<!-- engine:NAME -->` and ends with `<!-- /engine:NAME -->`; what stands between is
replaced. A test checks that the files hold what the JSON gives.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md")
NETS = {"vgg": "`spiking_vgg`", "ms_resnet": "`ms_resnet`", "sdt_v1": "`sdt_v1`", "sdt_v3": "`sdt_v3`"}
DATA = {"cifar10": "CIFAR-10 (10k/2k part)", "fashion": "Fashion-MNIST"}
INT8 = ("onnxruntime int8 ANN step", "openvino int8 ANN step")
BITS = {"w1": "1 bit", "w4": "4 bit"}


def read(name: str) -> dict[str, Any]:
    """A results file."""
    return json.loads((RESULTS / f"engine_{name}.json").read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Three digits, thousands with commas."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"


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


def machine_line(found: dict[str, Any]) -> str:
    """Where and when, in one sentence."""
    m = found["machine"]
    shown = [f"{k} {v}" for k, v in m["versions"].items() if k in ("onnxruntime", "openvino", "torch")]
    sets = ", ".join(m["instruction_sets"])
    return f"{m['date']}, {m['cpu']} ({sets}), {m['cores']} cores; {', '.join(shown)}."


def twins_table() -> str:
    """The table at the top of the README."""
    found = read("twins")
    s, rows, faster = found["sections"], [], []
    for key, data, net in networks(s):
        q, memory = s[f"{key}: quality"], s[f"{key}: memory"]
        one = s[f"{key}: batch 1, 1 thread"]["ms"]
        many = s[f"{key}: batch 64, 1 thread"]["ms"]
        packed = [one[f"picojoule {bits}"]["median"] for bits in BITS]
        faster.append(best(one) / packed[0])
        rows.append([
            DATA[data].partition(" ")[0], NETS[net],
            " / ".join(f"{q[bits]['accuracy_packed']:.1f}" for bits in BITS) + f" / {accuracy_int8(q):.1f}",
            " / ".join(number(q[bits]["file_bytes"] / 1000) for bits in BITS)
            + f" / {number(q['ann']['file_bytes_int8'] / 1000)}",
            " / ".join(number(ms) for ms in (*packed, best(one))),
            " / ".join(number(64e3 / ms) for ms in (*(many[f"picojoule {b}"]["median"] for b in BITS), best(many))),
            " / ".join(f"{memory[name]['peak_mib']:.0f}" for name in
                       ("picojoule w1", "picojoule w4", "onnxruntime int8")),
            f"{100 * q['w1']['rate']:.0f} %",
        ])  # fmt: skip
    head = ["data", "network", "accuracy, %", "file, kB", "one image, ms", "images/s, batch 64",
            "process, MiB", "firing"]  # fmt: skip
    won = sum(ratio > 1 for ratio in faster)
    lines = [
        "Each cell: **1-bit spiking net / 4-bit spiking net / int8 ANN twin** (same architecture with ReLU, one "
        "step, same training; the faster of onnxruntime and OpenVINO). One thread.",
        "",
        table(head, rows),
        "",
        f"On one image the 1-bit nets are {min(faster):.2f} to {max(faster):.2f} times as fast as the int8 "
        f"twin, faster in {won} of {len(faster)}. {machine_line(found)}",
    ]
    if found.get("missing"):
        lines.append(f"Not measured: {'; '.join(found['missing'])}.")
    return "\n".join(lines)


def twins_quality() -> str:
    """Accuracy, bytes and rates of every network in full."""
    s = read("twins")["sections"]
    rows = []
    for key, data, net in networks(s):
        q = s[f"{key}: quality"]
        name = f"{DATA[data]}, {NETS[net]}"
        f = q["float"]
        rows.append([name, "spiking, float", f"{f['test_accuracy']:.2f}", "", "", "", str(f["epochs"]), ""])
        for bits, word in BITS.items():
            p = q[bits]
            rows.append([
                "", f"packed {word}, T={p['T']}", f"{p['accuracy_packed']:.2f}", f"{p['payload_bytes']:,}",
                f"{p['paper_bytes']:,.0f}", f"{p['file_bytes']:,}", str(p["epochs"]), f"{100 * p['rate']:.1f} %",
            ])  # fmt: skip
        a = q["ann"]
        for form in ("fp32", "int8"):
            both = [a[f"accuracy_{form}_{runtime}"] for runtime in ("onnxruntime", "openvino")]
            shown = " / ".join(f"{value:.2f}" for value in both)
            size = f"{a[f'file_bytes_{form}']:,}"
            rows.append(["", f"ANN {form}", shown, "", "", size, str(a["epochs"]), ""])
    head = ["network", "form", "accuracy, %", "payload, bytes", "bytes as papers count", "file, bytes",
            "epochs", "firing"]  # fmt: skip
    return table(head, rows)


def twins_speed() -> str:
    """Latency and throughput of every contender on every network."""
    s, parts = read("twins")["sections"], []
    for key, data, net in networks(s):
        cells = {
            (batch, threads): s[f"{key}: batch {batch}, {threads} thread{'s' if threads > 1 else ''}"]["ms"]
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
        head = [f"{DATA[data]}, {NETS[net]}", "one image, 1 thread, ms (median / p95)", "2 threads",
                "images/s of 64, 1 thread", "2 threads"]  # fmt: skip
        parts.append(f"{table(head, rows)}\n\nPeak MiB of a fresh process: {peaks}.")
    return "\n\n".join(parts)


def goals_table() -> str:
    """Goals and what was reached."""
    found = read("layers")
    rows = [
        [g["what"], g["peer"], f"{g['goal']:g}x", f"{g['ratio']:.1f}x", "yes" if g["met"] else "**no**"]
        for g in found["goals"]
    ]
    head = ["at 10 % firing, T = 4, one thread", "against", "goal", "measured", "reached"]
    return f"{table(head, rows)}\n\n{machine_line(found)}"


def layers_table() -> str:
    """Every layer, kind and rate; the peers below."""
    s, parts = read("layers")["sections"], []
    names = {"conv128": "conv 128, 16x16", "conv256": "conv 256, 8x8", "linear": "linear 1024 to 256, 64 tokens",
             "body": "six convolutions"}  # fmt: skip
    for key, title in names.items():
        for threads in (1, 2):
            section = s.get(f"{key}, {threads} thread{'s' if threads > 1 else ''}")
            if section is None:
                continue
            where = "kernel" if threads == 1 and key != "body" else "call"
            kinds: dict[str, list[str]] = {}
            for cell in section["cells"]:
                kinds.setdefault(cell["kind"], []).append(number(cell["ms"][where]["median"]))
            rates = list(dict.fromkeys(f"{100 * cell['rate']:g} %" for cell in section["cells"]))
            word = f"{threads} thread{'s' if threads > 1 else ''}"
            head = [f"{title}, {word}, {where}, ms", *rates]
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

    def region(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- engine:{name} -->\n{REGIONS[name]()}\n<!-- /engine:{name} -->"

    return re.sub(r"<!-- engine:([a-z-]+) -->\n.*?<!-- /engine:\1 -->", region, text, flags=re.S)


def main() -> None:
    """Rewrite the pages."""
    for page in PAGES:
        text = page.read_text()
        page.write_text(filled(text))
        print(page.name, "changed" if filled(text) != text else "as it was")


if __name__ == "__main__":
    main()
