"""What running really costs here: latency, throughput and memory of the native engine and of PyTorch.

Both take turns in one process on the same threads, so that drift of the machine hits both. Joules come from
the RAPL counters of the processor where they can be read; otherwise nothing is claimed.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from picojoule.core.errors import DataError
from picojoule.deploy.model import Model
from picojoule.graph import nodes as g
from picojoule.measure.report import NOT_MEASURED, Report

RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EngineCost:
    """One engine: milliseconds of a call with `batch` samples (median, 95th percentile), samples a second.

    `peak_mib` is the largest resident memory: of a fresh process that only runs the packed file (native; None
    without a file), of this whole process with everything it holds (torch).
    """

    median_ms: float
    p95_ms: float
    per_second: float
    peak_mib: float | None


@dataclass(frozen=True)
class Cost:
    """Both engines in one interleaved run; `joules` a sample by engine, or "not measured"."""

    threads: int
    batch: int
    rounds: int
    engines: dict[str, EngineCost]
    joules: dict[str, float] | str

    def into(self, report: Report) -> Report:
        """Write these figures into a report."""
        report.latency = {k: v for k, v in asdict(self).items() if k != "joules"}
        report.joules = self.joules
        return report


def measure_cost(
    packed: Model | None,
    raw: np.ndarray | None,
    model: nn.Module | None,
    samples: Any,
    *,
    threads: int = 1,
    rounds: int = 30,
    seconds: float = 10.0,
) -> Cost:
    """Time the packed model on `raw` and the PyTorch model on `samples` of the same batch, in turns.

    Args:
        packed, raw: packed model and its inputs, or None.
        model, samples: module in eval mode and its inputs, or None.
        threads: of both engines.
        rounds, seconds: most rounds, and the time after which no further round begins (at least 5 are run).
    """
    jobs: dict[str, Callable[[], Any]] = {}
    if packed is not None and raw is not None:
        from picojoule.deploy.engine import Engine

        engine = Engine(packed.graph, threads=threads)
        jobs["native"] = lambda: engine(raw)
    if model is not None:
        net, x = model.eval(), torch.as_tensor(samples)
        jobs["torch"] = lambda: net(x)
    if not jobs:
        raise DataError("nothing to time: give a packed model with its inputs, a PyTorch model, or both")
    batch = len(raw) if raw is not None else len(samples)
    if not batch:
        raise DataError("timing needs at least one sample")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            times, joules = _turns(jobs, rounds, seconds)
    finally:
        torch.set_num_threads(before)
    engines = {}
    for name, found in times.items():
        median = statistics.median(found)
        peak = _native_peak(packed, batch, threads) if name == "native" and packed is not None else None
        engines[name] = EngineCost(
            1000 * median, 1000 * float(np.percentile(found, 95)), batch / median, peak
        )
    if "torch" in engines:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        engines["torch"] = replace(engines["torch"], peak_mib=peak)
    spent = {k: v / batch for k, v in joules.items()} if joules else NOT_MEASURED
    return Cost(threads, batch, len(next(iter(times.values()))), engines, spent)


def _turns(
    jobs: dict[str, Callable[[], Any]], rounds: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every call, and mean joules of a call where they can be read."""
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    energy: dict[str, list[float]] = {name: [] for name in jobs}
    ends = time.perf_counter() + seconds
    for count in range(rounds):
        if count >= 5 and time.perf_counter() > ends:
            break
        for name, job in jobs.items():
            counter = read_rapl()
            started = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - started)
            after = read_rapl()
            if counter is not None and after is not None and after >= counter:
                energy[name].append((after - counter) / 1e6)
    known = {k: statistics.fmean(v) for k, v in energy.items() if v}
    return times, known if len(known) == len(jobs) else {}


def read_rapl(root: Path = RAPL) -> int | None:
    """Microjoules of all processor packages so far; None where the counters are absent or not readable."""
    total, found = 0, False
    for zone in sorted(root.glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") != 1:
            continue  # a part of a package that is counted already
        try:
            total += int((zone / "energy_uj").read_text())
        except (OSError, ValueError):
            return None
        found = True
    return total if found else None


_PROBE = """
import sys
import numpy as np
from picojoule.deploy import load
model = load(sys.argv[1], threads=int(sys.argv[2]))
node = model.graph.inputs[0]
shape = (int(sys.argv[3]), *((node.edge.steps,) if node.edge.steps else ()), *node.edge.shape)
model(np.zeros(shape, np.uint8 if node.table else np.float32))
hwm = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]
print(hwm[0].split()[1])
"""


def _native_peak(packed: Model, batch: int, threads: int) -> float | None:
    """Largest resident MiB of a fresh process that loads the file and runs one batch; None without a file."""
    if not Path(packed.source).is_file() or len(packed.graph.inputs) != 1:
        return None
    command = [sys.executable, "-c", _PROBE, packed.source, str(threads), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) / 1024 if done.returncode == 0 else None


def predicted_and_measured(report: Report, times_us: dict[str, float]) -> list[dict[str, Any]]:
    """Rows {name, predicted, measured_us} of the synaptic layers: operations by count, time by the clock.

    Args:
        times_us: microseconds by node name, e.g. of `node_times`.
    """
    return [
        {"name": n["name"], "predicted": n["ac"] + n["mac"], "measured_us": times_us[n["name"]]}
        for n in report.layers
        if n["name"] in times_us
    ]


def node_times(packed: Model, raw: np.ndarray, *, rounds: int = 9) -> dict[str, float]:
    """Microseconds of each node in one call of the native engine on one thread, the median of some rounds.

    Packing and unpacking of spikes for a node belong to it. A synaptic node that runs together with its
    neuron gets the time of both.
    """
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        total: dict[str, float] = {}
        for step in packed.engine.profile(raw):
            total[step["node"]] = total.get(step["node"], 0.0) + step["seconds"] * 1e6
        for node in packed.graph.nodes:
            after = packed.graph.consumers(node.name)
            fused = node.name not in total and len(after) == 1 and isinstance(after[0], g.Neuron)
            if isinstance(node, g.Conv | g.Linear | g.MatMul) and fused and after[0].name in total:
                total[node.name] = total[after[0].name]
        for name, value in total.items():
            found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}
