"""A LIF layer's training step, forward and backward, against the PyTorch path here and other libraries.

    python benchmarks/train/lif_layer.py [--out FILE.json] [--T 4 16 64] [--neurons 262144] [--threads 1]
                                         [--rounds 15] [--compile] [--tune both|on|off]

All contenders get the same input and output gradient: tau 2, hard reset to 0, detached, atan slope
(snnTorch: its own atan and its loop over steps; Norse: its own superspike; both differ a little in equation
and are there for time only). They are timed in turn, round by round; figures are medians of the rounds,
ratios are medians of the ratios within a round, `best` those of the fastest rounds. A STREAM triad over
arrays of the same size runs in the same rounds. By default everything runs twice: as a process starts, and
after `picojoule.tune()`.

`moved_bytes` is what the kernel has to move a neuron and step: reads and writes of the input, spikes, their
gradient, the input's gradient and the saved state. `stream_share` is moved bytes over time, divided by the
triad's 12 bytes a value over its time. `kept_bytes` is what stays between the passes, a neuron and step,
beyond the output; the input itself counts, since it stays alive for the exact form.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe

from picojoule.core.tune import tune
from picojoule.neurons import LIF, leaky_native, saved_state

# Read and written a neuron and step: x in, s out; gs in, dx out; and what is saved and read again.
MOVED = {"exact": 8 + 12, "half": 8 + 8 + 4, "byte": 8 + 8 + 2}
Step = Callable[[Tensor], Tensor]


def native(T: int, form: str) -> Step:
    """The layer on the native kernels."""
    layer = LIF(T, surrogate="atan", detach_reset=True)

    def step(x: Tensor) -> Tensor:
        with saved_state(form):
            return layer(x)

    return step


def plain(T: int) -> Step:
    """The layer on the PyTorch path."""
    layer = LIF(T, surrogate="atan", detach_reset=True)

    def step(x: Tensor) -> Tensor:
        leaky_native.AVAILABLE = False
        try:
            return layer(x)
        finally:
            leaky_native.AVAILABLE = True

    return step


def spikingjelly(T: int) -> Step:
    """SpikingJelly's multi-step LIFNode; on a CPU its torch back end."""
    neuron: Any = importlib.import_module("spikingjelly.activation_based.neuron")
    surrogate: Any = importlib.import_module("spikingjelly.activation_based.surrogate")
    functional: Any = importlib.import_module("spikingjelly.activation_based.functional")
    layer = neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")

    def step(x: Tensor) -> Tensor:
        functional.reset_net(layer)
        return layer(x.unflatten(0, (T, -1))).flatten(0, 1)

    return step


def snntorch(T: int) -> Step:
    """snnTorch's Leaky in the loop its documentation shows."""
    snn: Any = importlib.import_module("snntorch")
    surrogate: Any = importlib.import_module("snntorch.surrogate")
    layer = snn.Leaky(beta=0.5, reset_mechanism="zero", spike_grad=surrogate.atan())

    def step(x: Tensor) -> Tensor:
        membrane, spikes = layer.init_leaky(), []
        for current in x.unflatten(0, (T, -1)).unbind(0):
            s, membrane = layer(current, membrane)
            spikes.append(s)
        return torch.cat(spikes)

    return step


def norse(T: int) -> Step:
    """Norse's LIFBox over a sequence."""
    torch_room: Any = importlib.import_module("norse.torch")
    layer = torch_room.Lift(torch_room.LIFBoxCell())

    def step(x: Tensor) -> Tensor:
        return layer(x.unflatten(0, (T, -1)))[0].flatten(0, 1)

    return step


def compiled(T: int) -> Step:
    """The equation as a plain loop under torch.compile, with a straight-through slope."""
    k = torch.pi

    def loop(x: Tensor) -> Tensor:
        v, spikes = torch.zeros_like(x[: x.shape[0] // T]), []
        for current in x.unflatten(0, (T, -1)).unbind(0):
            h = v + (current - v) / 2
            z = h - 1
            soft = torch.atan(k * z) / k
            s = (z >= 0).to(x.dtype) + soft - soft.detach()
            v = h * (1 - s.detach())
            spikes.append(s)
        return torch.cat(spikes)

    return torch.compile(loop)


def contenders(T: int, with_compile: bool) -> tuple[dict[str, Step], dict[str, str]]:
    """Steps by name, and why others are absent."""
    found: dict[str, Step] = {f"picojoule {form}": native(T, form) for form in MOVED}
    found["picojoule on torch"] = plain(T)
    absent = {}
    for make in (spikingjelly, snntorch, norse, *((compiled,) if with_compile else ())):
        try:
            found[make.__name__] = make(T)
        except ImportError as error:
            absent[make.__name__] = str(error)
    return found, absent


def kept(step: Step, x: Tensor) -> float:
    """Bytes a value that autograd keeps between the passes; tensors that share storage count once."""
    storages: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        step(x)
    return sum(storages.values()) / x.numel()


def timed(step: Step, x: Tensor, g: Tensor) -> tuple[float, float]:
    """Seconds of the forward and the backward pass."""
    t0 = time.perf_counter()
    s = step(x)
    t1 = time.perf_counter()
    torch.autograd.grad(s, x, g)
    return t1 - t0, time.perf_counter() - t1


def triad(x: Tensor, g: Tensor, out: Tensor) -> float:
    """Seconds of out = x + 2 g."""
    t0 = time.perf_counter()
    torch.add(x, g, alpha=2.0, out=out)
    return time.perf_counter() - t0


def measure(T: int, neurons: int, rounds: int, with_compile: bool) -> dict[str, Any]:
    """All contenders at one T."""
    generator = torch.Generator().manual_seed(0)
    channels = 64
    x = torch.randn(T * neurons // channels, channels, generator=generator).requires_grad_()
    g = torch.randn(x.shape, generator=generator)
    steps, absent = contenders(T, with_compile)
    kept_bytes = {name: kept(step, x) for name, step in steps.items()}
    rate = float(steps["picojoule exact"](x).detach().mean())
    for step in steps.values():
        timed(step, x, g)
    out = torch.empty_like(g)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    bandwidth = []
    for _ in range(rounds):
        with torch.no_grad():
            bandwidth.append(12 * x.numel() / triad(x, g, out))
        for name, step in steps.items():
            times[name].append(timed(step, x, g))
    rows = []
    base = [sum(t) for t in times["picojoule exact"]]
    for name, pairs in times.items():
        total = [sum(p) for p in pairs]
        row: dict[str, Any] = {
            "name": name,
            "forward_ms": 1e3 * statistics.median(p[0] for p in pairs),
            "backward_ms": 1e3 * statistics.median(p[1] for p in pairs),
            "ns_per_neuron_step": 1e9 * statistics.median(total) / x.numel(),
            "times_exact": statistics.median(t / b for t, b in zip(total, base)),
            "best_ms": 1e3 * min(total),
            "best_times_exact": min(total) / min(base),
            "kept_bytes": kept_bytes[name],
        }
        form = name.removeprefix("picojoule ")
        if form in MOVED:
            row["moved_bytes"] = MOVED[form]
            row["stream_share"] = statistics.median(
                MOVED[form] * x.numel() / t / b for t, b in zip(total, bandwidth)
            )
        rows.append(row)
    return {
        "T": T,
        "neurons": x.numel() // T,
        "firing_rate": rate,
        "triad_gb_s": statistics.median(bandwidth) / 1e9,
        "rows": rows,
        "absent": absent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A LIF layer's training step against other libraries.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--T", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--neurons", type=int, default=262144)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also the plain loop under torch.compile")
    parser.add_argument("--tune", choices=("both", "on", "off"), default="both", help="keep freed memory")
    args = parser.parse_args()
    if not leaky_native.AVAILABLE:
        raise SystemExit("this build has no native training kernels")
    untuned = as_started(args) if args.tune == "both" else []
    torch.set_num_threads(args.threads)
    settings = None if args.tune == "off" else tune()
    packages = ("torch", "spikingjelly", "snntorch", "norse")
    measured = [measure(T, args.neurons, args.rounds, args.compile) for T in args.T]
    result = {
        "benchmark": "lif_layer",
        "machine": describe(*packages, threads=args.threads),
        "tune": settings,
        "results": measured,
        "untuned": untuned,
    }
    show("after tune()" if settings else "as the process started", measured)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def as_started(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The same measurements in a process that leaves the allocator as it is."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "untuned.json"
        command = [sys.executable, __file__, "--tune", "off", "--out", str(out), "--rounds", str(args.rounds)]
        command += ["--neurons", str(args.neurons), "--threads", str(args.threads)]
        command += ["--T", *map(str, args.T), *(["--compile"] if args.compile else [])]
        subprocess.run(command, check=True)
        return json.loads(out.read_text())["results"]


def show(title: str, blocks: list[dict[str, Any]]) -> None:
    """The measurements as lines."""
    print(title)
    for block in blocks:
        print(f"T={block['T']}  triad {block['triad_gb_s']:.1f} GB/s  firing rate {block['firing_rate']:.2f}")
        for row in block["rows"]:
            share = f"  {row['stream_share']:.0%} of STREAM" if "stream_share" in row else ""
            print(
                f"  {row['name']:20s} {row['forward_ms']:8.2f} + {row['backward_ms']:8.2f} ms"
                f"  x{row['times_exact']:.2f} (best {row['best_times_exact']:.2f})"
                f"  keeps {row['kept_bytes']:.1f} B{share}"
            )
        for name, why in block["absent"].items():
            print(f"  {name}: absent ({why})")


if __name__ == "__main__":
    main()
