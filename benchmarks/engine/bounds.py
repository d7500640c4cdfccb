"""How far the kernels of spikes are from what the processor's instructions allow.

    python benchmarks/engine/bounds.py

About a minute. `loops` are the inner loops by themselves (hot_loops.cpp, made of the engine's own pieces):

* `bounds`: cycles that llvm-mca computes from the instructions (dispatch width and execution ports; every
  load hits the first cache level), by processor model. Of `event_bits`: one row addition of 256 bits
  (`count`) or 512 (`wide`), list entry, and neuron step of 256 channels; of event_rows: 128 outputs of an
  event (`bytes`); of dense_bytes on AVX-512: 4 inputs, 8 windows, 32 outputs (`products`). Where llvm-mca
  does not know Zen 4, the bound of AVX-512 is Ice Lake's.
* `*_ns`, `*_cycles`: what they take, the least of many, and the clock that a chain of additions shows at
  the same moment. Where another thread shares the core (two virtual processors often do), throughput falls
  by up to half while the clock does not change: believe these figures on a quiet machine only.

`layers` are whole layers inside the engine (convolution and LIF, packed spikes in and out, T = 4; weights of
1, 4 and 8 bits): the row additions that the spikes ask for, the time of each, and `bound_ms`, all additions,
list entries and neuron steps (event_bits only) at their bounds and the measured clock, as if decoding,
branches, joining of bit-planes and cache misses cost nothing.
`distance` is time over bound; `ratio` and `ratio_at_bound` compare with onnxruntime int8 of the one-step
ANN in the same run.

Needs g++; without llvm-mca the bounds are empty.
"""

from __future__ import annotations

import argparse
import json
import os
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

os.environ.setdefault("OMP_NUM_THREADS", "1")

import annet  # noqa: E402
import peers  # noqa: E402
from clock import interleave, wall  # noqa: E402
from machine import describe  # noqa: E402
from shapes import Cell, Shape, one_layer  # noqa: E402

# Models that llvm-mca has for each instruction set; the measured processor may be a newer one of the family.
MODELS = {"avx2": ("znver3", "skylake"), "avx512": ("znver4", "icelake-server")}
# Rows, entries, steps of 256 neurons, rows of 128 bytes, blocks of products.
PER_TURN = {"count": 32, "wide": 32, "list": 16, "neuron": 1, "bytes": 1, "products": 1}
RATES = (0.02, 0.05, 0.10, 0.20, 0.40)
# Weight bits and kernel.
KERNELS = (
    (1, "event_bits"), (4, "event_bits"), (8, "event_bits"), (8, "event_rows"), (8, "dense_bytes"),
)  # fmt: skip
LAYERS = (Shape("conv", 128, 128, 16), Shape("conv", 256, 256, 8), Shape("linear", 1024, 256, 64))
OUT = HERE.parent / "results" / "engine_bounds.json"


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


def additions(x: np.ndarray, shape: Shape, lists: int) -> int:
    """Events in 3x3 windows of spikes [T, C, H, W], or in [T, N, C]; `lists` pixels may share a window."""
    if shape.kind == "linear":
        return int(x.sum())
    events = np.pad(x.sum(1), ((0, 0), (1, 1), (1, 1))).astype(int)
    rows = events[:, :-2] + events[:, 1:-1] + events[:, 2:]
    return sum(int(rows[:, :, left : left + lists + 2].sum()) for left in range(0, shape.side, lists))


def pixels_together(shape: Shape) -> int:
    """Pixels of one vector of 256 output bits."""
    return 1 if shape.out > 128 else 2 if shape.out > 64 else 4


def work_of(x: np.ndarray, shape: Shape, bits: int, kernel: str, wide: bool) -> dict[str, Any]:
    """How often a layer runs each loop: what its spikes and weights ask for, by name of the loop."""
    T, pixels = x.shape[0], int(np.prod(shape.row_out)) // shape.out
    inputs, lists = shape.channels * (9 if shape.kind == "conv" else 1), pixels_together(shape)
    if kernel == "dense_bytes":
        return {"products": T * pixels * (inputs / 4) * (shape.out / 32) / 8}
    if kernel == "event_rows":
        events = additions(x, shape, 1)
        return {"bytes": events * -(-shape.out // 128), "list": events}
    events = additions(x, shape, lists if bits == 1 else 1)
    size = 32 if bits == 1 else -(-shape.out // 256) * bits * 32 // lists  # bytes of an event's row
    vectors = {"wide": -(-size // 64)} if wide and size > 32 else {"count": -(-size // 32)}
    return {name: events * n for name, n in vectors.items()} | {"list": events, "neuron": T * pixels // lists}


def measure(shape: Shape, isa: str, loop: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """Times of a layer in the engine at all rates, interleaved, against the bounds of its instructions."""
    from picojoule.deploy.engine import Engine

    model, x = annet.onnx_bytes([shape], 1, True)
    samplers = {"peer": wall(peers.onnxruntime_call(model, x, 1), 3)}
    cells = [
        (bits, kernel, rate) for bits, kernel in KERNELS for rate in (RATES if bits == 1 else RATES[1:4])
    ]
    nets = {(bits, rate): one_layer(shape, Cell(str(bits), rate=rate)) for bits, _, rate in cells}
    for bits, kernel, rate in cells:
        net = nets[bits, rate]
        layer = [node.name for node in net.nodes if type(node).__name__ in ("Conv", "Linear")]
        engine = Engine(net.graph(), isa=isa, kernels=dict.fromkeys(layer, kernel))

        def seconds(engine: Engine = engine, x: np.ndarray = net.x, kernel: str = kernel) -> float:
            spent = [
                sum(row["seconds"] for row in engine.profile(x) if row["what"].startswith(kernel))
                for _ in range(4)
            ]
            return sum(spent[1:]) / 3

        samplers[f"{bits} {kernel} {rate}"] = seconds
    times = interleave(samplers, rounds)
    found = []
    for bits, kernel, rate in cells:
        work = work_of(nets[bits, rate].x[0], shape, bits, kernel, isa == "avx512")
        spent = times[f"{bits} {kernel} {rate}"]
        result: dict[str, Any] = {
            "layer": shape.text, "isa": isa, "bits": bits, "kernel": kernel, "rate": rate, "work": work,
            "ms": spent, "ort_step_ms": times["peer"], "ratio": times["peer"]["median"] / spent["median"],
        }  # fmt: skip
        for model_name, bound in list(loop["bounds"].items())[:1]:
            if not set(work) <= set(bound):
                continue  # bytes are multiplied in other ways there
            cycles = sum(n * bound[name] for name, n in work.items())
            result["model"] = model_name
            result["bound_ms"] = cycles / loop["ghz"] / 1e6
            result["distance"] = spent["min"] / result["bound_ms"]
            result["ratio_at_bound"] = times["peer"]["min"] / result["bound_ms"]
        found.append(result)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    from picojoule.deploy.engine import ISAS

    report: dict[str, Any] = {"machine": describe("onnxruntime", threads=1), "loops": {}, "layers": []}
    with tempfile.TemporaryDirectory() as folder:
        for isa in (name for name in MODELS if name in ISAS):
            assembly, program = compile_loops(isa, Path(folder))
            loop: dict[str, Any] = {"bounds": bounds(assembly, isa)}
            loop["rates"] = {str(rate): measured(program, rate) for rate in (0.1, 0.3)}
            loop["ghz"] = max(row["ghz"] for rows in loop["rates"].values() for row in rows)
            report["loops"][isa] = loop
            print(isa, json.dumps(loop))
            for shape in LAYERS:
                for row in measure(shape, isa, loop, arguments.rounds):
                    report["layers"].append(row)
                    print(
                        {key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()},
                        flush=True,
                    )
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
