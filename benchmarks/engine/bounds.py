"""How far the event-driven bit-sliced kernel is from what the processor's instructions allow.

    python benchmarks/engine/bounds.py --out benchmarks/engine/bounds.json

About a minute. `loops` are the inner loops by themselves (hot_loops.cpp, made of the engine's own pieces):

* `bounds`: cycles of one row addition, list entry and neuron step of 256 channels that llvm-mca computes
  from the instructions (dispatch width and execution ports; every load hits the first cache level), by
  processor model. A processor newer than llvm-mca's models is given the nearest: Zen 4 runs 256-bit
  operations on Zen 3's ports.
* `*_ns`, `*_cycles`: what they take, the least of many, and the clock that a chain of additions shows at
  the same moment. Where another thread shares the core (two virtual processors often do), throughput falls
  by up to half while the clock does not change: believe these figures on a quiet machine only.

`layers` are whole layers inside the engine (convolution and LIF, packed spikes in and out, T = 4): the row
additions that the spikes ask for, the time of each, and `bound_ms`, all additions, list entries and neuron
steps at their bounds and the measured clock, as if decoding, branches and cache misses cost nothing.
`distance` is time over bound; `ratio` and `ratio_at_bound` compare with onnxruntime int8 of the one-step
ANN in the same run.

Needs g++; without llvm-mca the bounds are empty.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

from first_kernels import LAYERS, T, layer, ort_layer, wall  # noqa: E402
from machine import describe  # noqa: E402

# Models that llvm-mca has for each instruction set; the measured processor may be a newer one of the family.
MODELS = {"avx2": ("znver3", "skylake"), "avx512": ("znver4", "znver3", "icelake-server")}
PER_TURN = {"count": 32, "list": 16, "neuron": 1}  # rows, entries, steps of 256 neurons
RATES = (0.02, 0.05, 0.10, 0.20, 0.40)


def flags(isa: str) -> list[str]:
    """Compiler flags of an instruction set, from the script that builds the native tests."""
    text = (ROOT / "native" / "tests" / "build_native.sh").read_text()
    listed = dict(re.findall(r'^(avx2|avx512)="(.*)"$', text, re.MULTILINE))
    return listed["avx2"].split() + (listed["avx512"].split() if isa == "avx512" else [])


def compile_loops(isa: str, folder: Path) -> tuple[Path, Path]:
    """Assembly with marked regions, and the program made of it."""
    assembly, program = folder / f"{isa}.s", folder / isa
    base = ["g++", "-O3", "-std=c++20", "-ffp-contract=off", "-fwrapv", "-Wno-psabi", *flags(isa)]
    include = ["-I", str(ROOT / "native" / "include"), "-I", str(ROOT / "native" / "src")]
    source = str(HERE / "hot_loops.cpp")
    subprocess.run([*base, "-Wno-unused-function", *include, "-S", source, "-o", str(assembly)], check=True)
    subprocess.run(["g++", str(assembly), "-o", str(program)], check=True)
    return assembly, program


def bounds(assembly: Path, isa: str) -> dict[str, dict[str, float]]:
    """Cycles of one row, entry or neuron step by model and loop."""
    if shutil.which("llvm-mca") is None:
        return {}
    found: dict[str, dict[str, float]] = {}
    for model in MODELS[isa]:
        done = subprocess.run(
            ["llvm-mca", f"-mcpu={model}", "-iterations=200", str(assembly)], capture_output=True, text=True
        )
        regions = re.findall(r"Code Region - (\w+)(.*?)(?=Code Region|\Z)", done.stdout, re.DOTALL)
        if done.returncode or "not a recognized processor" in done.stderr or not regions:
            continue
        found[model] = {}
        for name, text in regions:
            cycles = re.search(r"Block RThroughput:\s*([\d.]+)", text)
            if cycles:
                found[model][name] = float(cycles[1]) / PER_TURN[name]
    return found


def measured(program: Path, rate: float) -> list[dict[str, float]]:
    """What the loops take, per size of the table of weight rows."""
    out = subprocess.run([str(program), str(rate)], capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    for row in rows:
        for name in PER_TURN:
            if f"{name}_ns" in row:
                row[f"{name}_cycles"] = row[f"{name}_ns"] * row["ghz"]
    return rows


def additions(x: np.ndarray, channels: int) -> int:
    """Row additions that 3x3 windows of spikes [T, C, H, W] ask for; pixels of a vector share a window."""
    lists = 1 if channels > 128 else 2 if channels > 64 else 4
    events = np.pad(x.sum(1), ((0, 0), (1, 1), (1, 1))).astype(int)
    rows = events[:, :-2] + events[:, 1:-1] + events[:, 2:]
    total = 0
    for left in range(0, x.shape[3], lists):
        total += int(rows[:, :, left : left + lists + 2].sum())
    return total


def one_layer(
    channels: int, side: int, rate: float, isa: str, rounds: int, loop: dict[str, Any]
) -> dict[str, Any]:
    """Time of a layer in the engine against the bound of its instructions."""
    from picojoule.deploy.engine import Engine

    engine = Engine(layer(channels, side, 2), isa=isa, kernels={"conv": "event_bits"})
    x = (np.random.default_rng(1).random((1, T, channels, side, side)) < rate).astype(np.uint8)
    ort = ort_layer(channels, side, 1) if rate == 0.1 else None
    times, peers = [], []
    for _ in range(rounds):
        engine.profile(x)
        times.append(
            sum(row["seconds"] for row in engine.profile(x) if row["node"] == "lif" and "+" in row["what"])
        )
        if ort is not None:
            ort()
            peers.append(wall(ort)())
    rows = additions(x[0], channels)
    lists = 1 if channels > 128 else 2 if channels > 64 else 4
    steps = T * side * side // lists * ((channels + 255) // 256)
    result: dict[str, Any] = {
        "layer": f"conv {channels}->{channels} 3x3 at {side}x{side}", "isa": isa, "rate": rate,
        "row_additions": rows, "ms": min(times) * 1e3, "ns_per_addition": min(times) * 1e9 / rows,
    }  # fmt: skip
    model = next(iter(loop["bounds"]), None)
    if model is not None:
        bound = loop["bounds"][model]
        cycles = rows * (bound["count"] + bound["list"]) + steps * bound["neuron"]
        result["bound_ms"] = cycles / loop["ghz"] / 1e6
        result["distance"] = result["ms"] / result["bound_ms"]
    if peers:
        result["ort_step_ms"] = min(peers) * 1e3
        result["ratio"] = min(peers) / min(times)
        if model is not None:
            result["ratio_at_bound"] = min(peers) * 1e3 / result["bound_ms"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    from picojoule.deploy.engine import ISAS

    report: dict[str, Any] = {"machine": describe("onnxruntime", threads=1), "loops": {}, "layers": []}
    with tempfile.TemporaryDirectory() as folder:
        for isa in (name for name in MODELS if name in ISAS):
            assembly, program = compile_loops(isa, Path(folder))
            loop: dict[str, Any] = {"bounds": bounds(assembly, isa), "rates": {}}
            for rate in (0.1, 0.3):
                loop["rates"][str(rate)] = measured(program, rate)
            loop["ghz"] = max(row["ghz"] for rows in loop["rates"].values() for row in rows)
            report["loops"][isa] = loop
            print(isa, json.dumps(loop))
            for channels, side in LAYERS:
                for rate in RATES:
                    row = one_layer(channels, side, rate, isa, arguments.rounds, loop)
                    report["layers"].append(row)
                    print(
                        {key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()},
                        flush=True,
                    )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
