"""Where spikes win over the dense kernels: times of each sum of a convolution over the density of its spikes.

    python benchmarks/train/event_limits.py [--out FILE.json] [--threads 1] [--rounds 7]

For each layer and density the forward pass, the weight gradient and the input gradient (there the density
is the share of open windows) are timed against the dense kernel that the layer takes otherwise, channels
last: minimal filtering where that serves, else torch's, whose time is `torch_ms`. `crossing` is the density
at which both take the same time, by a straight line through the event times; layers.event_conv keeps limits
a little below these. Times are the smallest of the rounds, in CPU seconds of the calling thread when there
is one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe

from picojoule.core.tune import tune
from picojoule.layers import event_conv as ec
from picojoule.layers.event_bits import CL, pack
from picojoule.layers.event_reference import Geometry

# rows, channels in and out, side, kernel, stride
LAYERS = (
    (64, 64, 64, 32, 3, 1),
    (64, 128, 128, 16, 3, 1),
    (64, 256, 256, 8, 3, 1),
    (64, 512, 512, 4, 3, 1),
    (64, 64, 128, 32, 3, 2),
    (64, 128, 512, 16, 1, 1),
    (64, 512, 128, 16, 1, 1),
    (1024, 1024, 256, 1, 1, 1),
)
RATES = (0.05, 0.1, 0.2, 0.4)


def smallest(call: Callable[[], Any], rounds: int, clock: Callable[[], float]) -> float:
    """Seconds of the quickest of some calls."""
    call()
    found = []
    for _ in range(rounds):
        begin = clock()
        call()
        found.append(clock() - begin)
    return min(found)


def crossing(dense: float, events: list[float]) -> float:
    """Density at which the line through the event times reaches the dense time, within [0, 1]."""
    mean_x, mean_y = statistics.fmean(RATES), statistics.fmean(events)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(RATES, events))
    slope /= sum((x - mean_x) ** 2 for x in RATES)
    return min(max((dense - mean_y) / slope + mean_x, 0.0), 1.0) if slope > 0 else 1.0


def measure(layer: tuple[int, ...], rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Times of one layer."""
    n, c, o, side, k, stride = layer
    torch.manual_seed(0)
    geo = Geometry((stride, stride), (k // 2, k // 2))
    w = torch.randn(o, c, k, k).contiguous(memory_format=CL)
    draw = torch.rand(n, c, side, side).contiguous(memory_format=CL)
    half = (draw < 0.5).float()

    def dense() -> torch.Tensor:
        return F.conv2d(half, w, None, geo.stride, geo.padding)

    g = torch.randn_like(dense()).contiguous(memory_format=CL)
    plain = {
        "forward": smallest(dense, rounds, clock),
        "weight": smallest(lambda: ec.dense_gradients(half, w, g, geo, (False, True)), rounds, clock),
        "input": smallest(lambda: ec.dense_gradients(half, w, g, geo, (True, False)), rounds, clock),
    }
    torch_ms = {name: 1e3 * t for name, t in plain.items()}
    forward, back = ec.tiles(half.shape, w, geo)
    if forward:
        plain["forward"] = smallest(lambda: ec.tiled_forward(half, w, None, geo), rounds, clock)
    if back:
        plain["input"] = smallest(lambda: ec.tiled_input_gradient(half.shape, w, g, geo), rounds, clock)
    events: dict[str, list[float]] = {name: [] for name in plain}
    for rate in RATES:
        x = (draw < rate).float()
        bits = pack(x)
        if bits is None:
            raise RuntimeError("zeros and ones were not recognised as spikes")
        calls: dict[str, Callable[[], Any]] = {
            "forward": lambda x=x, bits=bits: ec.forward(pack(x) or bits, w, None, geo),
            "weight": lambda bits=bits: ec.weight_gradient(bits, w, g, geo),
            "input": lambda bits=bits: ec.input_gradient(bits.shape, bits.data, w, g, geo),
        }
        for name, call in calls.items():
            events[name].append(smallest(call, rounds, clock))
    return {
        "layer": dict(zip(("rows", "channels", "out", "side", "kernel", "stride"), layer)),
        "torch_ms": torch_ms,
        "dense_ms": {name: 1e3 * t for name, t in plain.items()},
        "events_ms": {name: [1e3 * t for t in times] for name, times in events.items()},
        "crossing": {name: crossing(plain[name], events[name]) for name in plain},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Where spikes win over dense kernels.")
    results = Path(__file__).resolve().parents[1] / "results"
    parser.add_argument("--out", type=Path, default=results / "train_event_limits.json")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = tune()
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    result: dict[str, Any] = {
        "benchmark": "event_limits",
        "machine": describe("torch", threads=args.threads),
        "tune": settings,
        "rates": RATES,
        "results": [],
    }
    for layer in LAYERS:
        row = measure(layer, args.rounds, clock)
        result["results"].append(row)
        print(*layer)
        for name, dense in row["dense_ms"].items():
            times = " ".join(f"{t:7.2f}" for t in row["events_ms"][name])
            print(
                f"  {name:8s} torch {row['torch_ms'][name]:7.2f} ms  dense {dense:7.2f} ms   events {times}"
                f"   even at {row['crossing'][name]:.2f}"
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
