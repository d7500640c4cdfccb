"""Fits the planner's prices (native/src/cost.cpp) to layers timed on this machine.

    python benchmarks/engine/prices.py --isa avx512           # two minutes; prints the prices of every kernel
    python benchmarks/engine/prices.py --isa avx512 --words   # those of lookup_words alone

Random convolutions with spikes in, dense sums or spikes out, every kernel of the synapse in turn, the
smallest of many times. A price is nanoseconds of one count of work in one pixel at one step; `counts` says
what is counted and must say the same as `counts_of` in the engine.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from picojoule.core import kinds
from picojoule.deploy import timing
from picojoule.deploy.engine import Engine
from picojoule.graph import nodes as g
from picojoule.graph.rates import plane_counts, planes_of

KERNELS = ("event_bits", "event_rows", "dense_bytes", "lookup_bits", "dot_bits", "lookup_words")
CHANNELS = (8, 16, 32, 48, 64, 96, 128, 192)
CODES = {1: g.Coding("sign", 1), 2: g.Coding("int", 2), 4: g.Coding("int", 4)}
MOST = 3e7  # products of a sample
WIDE = (*CHANNELS[1:], 256, 320)  # of layers of code words, whose kernel pays where channels are many


@dataclass(frozen=True)
class Case:
    """A layer: `finish` is "raw", or the neuron behind it, "membrane" or "levels"; words: 16 in all."""

    channels: int
    outputs: int
    side: int
    taps: int
    stride: int
    T: int
    levels: int
    bits: int
    rate: float
    finish: str
    words: bool

    @property
    def kind(self) -> kinds.Kind:
        """Of the spikes that come in."""
        return kinds.binary if self.levels == 1 else kinds.integer(self.levels)

    @property
    def out(self) -> int:
        """Pixels along one side, out."""
        return (self.side - 1) // self.stride + 1


def draw(rng: np.random.Generator, words: bool = False) -> Case:
    """A layer as small nets have them; or of code words and wide, firing often."""
    while True:
        channels, outputs = (int(n) for n in rng.choice(WIDE if words else CHANNELS, 2))
        T, levels = ((4, 1), (1, 4), (1, 1))[rng.integers(3)]
        side, taps = int(rng.choice([4, 7, 8, 14, 16])), 3 if words else int(rng.choice([1, 3]))
        stride = int(rng.choice([1, 1, 2]))
        case = Case(
            channels, outputs, side, taps, stride, T, levels,
            int(rng.choice([1, 1, 2, 4])), float(rng.choice([0.05, 0.1, 0.2, 0.4, 0.6 if words else 0.02])),
            str(rng.choice(["raw", "membrane" if T > 1 else "levels"])), words,
        )  # fmt: skip
        if channels * outputs * taps**2 * case.out**2 * T < MOST * (5 if words else 1):
            return case


def layer(case: Case, rng: np.random.Generator) -> g.Graph:
    """Input, a neuron that fires what comes in, convolution, perhaps a neuron, output.

    The first neuron leaves its spikes as the kernel behind it wants them, as in a net.
    """
    pad = ((case.taps // 2, case.taps // 2),) * 2
    row, T = (case.outputs, case.out, case.out), case.T
    shape = (case.outputs, case.channels, case.taps, case.taps)
    most = 1 << case.bits - 1
    codes = rng.choice([-1, 1], shape) if case.bits == 1 else rng.integers(-most, most, shape)
    if case.words:
        codes = codes.reshape(-1, *shape[2:])[:16][rng.integers(0, 16, shape[:2])]
    high = int(np.abs(codes).sum((1, 2, 3)).max()) * case.levels
    tensors = {"w": codes.astype(np.int8)}
    wide = kinds.fixed(max(2, high.bit_length() + 1), 0)
    shape_in = (case.channels, case.side, case.side)
    still = {"still.decay": 0, "still.gain": 1, "still.bias": 0, "still.reset": 0, "still.start": 0}
    tensors |= {key: np.full((1, 1), value) for key, value in still.items()}
    tensors["still.thresholds"] = np.arange(1, case.levels + 1).reshape(-1, 1, 1)
    feed = g.Neuron(
        name="feed", inputs=("x",), edge=g.Edge(case.kind, shape_in, T), op="snapped", lowered=True, axis=0,
        rounding="floor", reset="none", decay="still.decay", decay_shift=0, gain="still.gain",
        bias="still.bias", thresholds="still.thresholds", reset_value="still.reset", v_init="still.start",
        v_bits=8,
    )  # fmt: skip
    entry = g.Edge(kinds.fixed(4, 0), shape_in, T)
    conv = g.Conv(
        name="conv", inputs=("feed",), edge=g.Edge(wide, row, T), weight="w", bias=None, groups=1,
        stride=(case.stride,) * 2, padding=pad, dilation=(1, 1), coding=CODES[case.bits],
    )  # fmt: skip
    nodes: list[g.Node] = [g.Input(name="x", inputs=(), edge=entry), feed, conv]
    if case.finish != "raw":
        spread = max(2.0, math.sqrt(case.channels * case.taps**2 * case.rate) * most * 256)
        count = 4 if case.finish == "levels" else 1
        thresholds = np.sort(rng.uniform(0.5, 3, (count, 1, case.outputs)), 0) * spread
        one = {"decay": 0 if count > 1 else 1, "gain": 256, "reset": 0, "start": 0}
        tensors |= {key: np.full((1, 1), value) for key, value in one.items()}
        tensors |= {
            "bias": rng.integers(-99, 99, (1, case.outputs)),
            "thresholds": thresholds.astype(np.int64),
        }
        fired = g.Edge(kinds.integer(4) if count > 1 else kinds.binary, row, T)
        neuron = g.Neuron(
            name="neuron", inputs=("conv",), edge=fired, op="snapped", lowered=True, axis=0, rounding="floor",
            reset="none" if count > 1 else "hard", decay="decay", decay_shift=1, gain="gain", bias="bias",
            thresholds="thresholds", reset_value="reset", v_init="start", v_bits=48,
        )  # fmt: skip
        nodes.append(neuron)
    nodes.append(g.Output(name="out", inputs=(nodes[-1].name,), edge=nodes[-1].edge, key="out"))
    return g.Graph(tuple(nodes), tensors, "snapped")


def spikes(case: Case, rng: np.random.Generator) -> np.ndarray:
    """One sample, counts binomial; as in trained nets, some channels and places fire far more often."""
    shape = (1, case.T, case.channels, case.side, case.side)
    often = rng.gamma(0.7, 1 / 0.7, (1, 1, case.channels, 1, 1)) * rng.gamma(2, 0.5, (1, 1, 1, *shape[-2:]))
    chance = np.minimum(case.rate * often / (1 if case.levels == 1 else 2), 1)
    return rng.binomial(case.levels, chance, shape).astype(np.uint8)


def counts(kernel: str, case: Case, share: float, isa: str) -> list[float]:
    """What a kernel does in one pixel at one step; share: of set bits in the planes of its input."""
    planes, weights = planes_of(case.kind), case.bits
    taps, rows = case.taps**2, case.taps
    outputs, words = math.ceil(case.outputs / 32), math.ceil(case.channels / 64)
    entering = case.side**2 / case.out**2
    span = 64 if isa == "avx512" else 32
    finish = [
        1.0,
        outputs * (case.finish == "membrane"),
        outputs * 4.0 * (case.finish == "levels"),
        outputs * (case.finish == "raw"),
    ]
    events = taps * case.channels * planes * share
    if kernel == "event_bits":  # its neurons work on vectors of 256 outputs, which pixels may share
        lists = 1 if case.outputs > 128 else 2 if case.outputs > 64 else 4
        shared = lists > 1 and case.taps > 1 and case.stride == 1 and case.out % lists == 0
        listed = events * (case.taps + lists - 1) / (case.taps * lists) if shared else events
        size = math.ceil(case.outputs / 256) / lists
        vectors = (listed * lists if shared else events) * weights * size
        finish = [1.0, size * bool(finish[1]), size * 4 * bool(finish[2]), finish[3]]
        work = (rows / lists, listed, vectors, entering * words * planes, weights * size)
    elif kernel == "event_rows":
        work = (rows, events, events * outputs, entering * words * planes, 0)
    elif kernel == "lookup_bits":
        found = taps * math.ceil(case.channels / 4) * (1 - (1 - share) ** (4 * planes))
        vectors = weights * math.ceil(case.outputs / span)
        work = (rows, found, found * vectors, entering * words, vectors)
    elif kernel == "dot_bits":
        groups = taps * math.ceil(case.channels / 16) * planes
        vectors = weights * math.ceil(case.outputs / (span // 2))
        work = (taps * planes, groups, groups * vectors, planes * vectors, rows / case.T)
    elif kernel == "lookup_words":
        windows = 8 if isa == "avx512" else 4
        found = case.channels * planes * (1 - (1 - share) ** (taps * windows))
        vectors = math.ceil(case.outputs / span)
        work = (taps * words * planes, found, found * vectors, entering * words * planes, vectors)
    else:
        work = (taps * case.channels * outputs, entering * case.channels, outputs, 0, 0)
    return [*finish, *(float(n) for n in work)]


def measure(case: Case, isa: str, rounds: int, rng: np.random.Generator) -> tuple[float, dict[str, float]]:
    """Share of set bits, and nanoseconds of a pixel at a step by kernel."""
    graph, x = layer(case, rng), spikes(case, rng)
    able = Engine(graph, isa=isa)
    engines = {
        name: Engine(graph, isa=isa, kernels={"conv": name})
        for name in KERNELS
        if name in able.kernels("conv")
    }
    best = dict.fromkeys(engines, math.inf)
    for _, (name, engine) in itertools.product(range(rounds), engines.items()):
        found = [row for row in timing.steps(engine, {"x": x}, 2) if row["node"] in ("conv", "neuron")]
        best[name] = min(best[name], sum(row["us"] for row in found if row["what"] not in ("pack", "unpack")))
    share = plane_counts(x, case.kind).mean() / x.size
    return float(share), {name: us * 1e3 / (case.T * case.out**2) for name, us in best.items()}


def fit(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Prices of at least zero with the least squared relative error."""
    a, b = rows / times[:, None], np.ones(len(times))
    prices = np.zeros(rows.shape[1])
    free = rows.any(0)
    while free.any():
        found = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
        prices[:] = 0
        prices[free] = found
        if (found >= 0).all():
            break
        free &= prices > 0
    return prices


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", default="auto")
    parser.add_argument("--cases", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--words", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    isa = Engine(layer(draw(rng), rng), isa=options.isa).info()["isa"]
    data: dict[str, list[tuple[list[float], float]]] = {name: [] for name in KERNELS}
    chosen = []
    for _ in range(options.cases):
        case = draw(rng, options.words)
        share, times = measure(case, isa, options.rounds, rng)
        for name, ns in times.items():
            data[name].append((counts(name, case, share, isa), ns))
        chosen.append((case, share, times))
    prices = {}
    for name in ("lookup_words",) if options.words else KERNELS[:-1]:
        found = data[name]
        rows, times = np.array([f[0] for f in found]), np.array([f[1] for f in found])
        prices[name] = fit(rows, times)
        error = np.abs(rows @ prices[name] / times - 1)
        numbers = ", ".join(f"{p:.3g}" for p in prices[name])
        print(f"{name} {{{numbers}}} error {np.median(error):.2f}, 90 % {np.quantile(error, 0.9):.2f}")
    if options.words:
        return
    lost = []
    for case, share, times in chosen:
        pick = min(times, key=lambda name: float(np.dot(counts(name, case, share, isa), prices[name])))
        lost.append(times[pick] / min(times.values()))
    print(f"{isa}: choosing by these prices costs {np.mean(lost) - 1:.1%} more than always the best")


if __name__ == "__main__":
    main()
