"""A LIF layer's training step, forward and backward, against the PyTorch path here and other libraries.

    python benchmarks/train/lif_layer.py [--out FILE.json] [--T 4 16 64] [--neurons 262144] [--threads 1]
                                         [--rounds 15] [--compile] [--tune both|on|off]

All contenders get the same input and output gradient: tau 2, hard reset to 0, detached, atan slope
(snnTorch: its own atan and its loop over steps; Norse: its own superspike; both differ a little in equation
and are there for time only). They are timed in turn, round by round; figures are medians of the rounds,
ratios are medians of the ratios within a round, `best` those of the fastest rounds. Two triads out = x + 2 g
run in the same rounds: one over arrays of the layer's size, which the last cache may partly hold, and STREAM,
over arrays of 128 MiB, which it cannot. By default everything runs twice: as a process starts, and after
`picojoule.tune()`.

`moved_bytes` is what the kernel has to move a neuron and step: reads and writes of the input, spikes, their
gradient, the input's gradient and the saved state. `stream_share` is moved bytes over time, divided by 12
bytes a value over STREAM's time; `triad_share` the same by the triad of the layer's size. `norm` times
BatchNorm and neuron together, in training mode and with the gradients of scale and shift: fused here, as two
modules here, and SpikingJelly's two modules. `kept_bytes` is what stays between the passes, a neuron and
step, beyond the output; the input itself counts, since it stays alive for the exact form.
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
from picojoule.neurons import LIF, leaky_native, norm_neuron, saved_state

# Read and written a neuron and step: x in, s out; gs in, dx out; and what is saved and read again.
MOVED = {"exact": 8 + 12, "half": 8 + 8 + 4, "byte": 8 + 8 + 2}
STREAM_VALUES = 32 << 20
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


def timed(step: Step, x: Tensor, g: Tensor, learned: tuple[Tensor, ...] = ()) -> tuple[float, float]:
    """Seconds of the forward and the backward pass."""
    t0 = time.perf_counter()
    s = step(x)
    t1 = time.perf_counter()
    torch.autograd.grad(s, (x, *learned), g)
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
    same, bandwidth = [], []
    large = [torch.ones(STREAM_VALUES) for _ in range(3)]
    for _ in range(rounds):
        with torch.no_grad():
            bandwidth.append(12 * STREAM_VALUES / triad(*large))
            same.append(12 * x.numel() / triad(x, g, out))
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
            moved = [MOVED[form] * x.numel() / t for t in total]
            row["stream_share"] = statistics.median(m / b for m, b in zip(moved, bandwidth))
            row["best_stream_share"] = max(moved) / max(bandwidth)
            row["triad_share"] = statistics.median(m / b for m, b in zip(moved, same))
        rows.append(row)
    return {
        "T": T,
        "neurons": x.numel() // T,
        "firing_rate": rate,
        "stream_gb_s": statistics.median(bandwidth) / 1e9,
        "triad_gb_s": statistics.median(same) / 1e9,
        "rows": rows,
        "absent": absent,
        "norm": measure_norm(T, neurons, rounds),
    }


def norm_contenders(T: int, channels: int) -> dict[str, tuple[Step, tuple[Tensor, ...]]]:
    """BatchNorm and neuron together: steps by name, with the scale and shift that they learn."""
    found: dict[str, tuple[Step, tuple[Tensor, ...]]] = {}

    def own(fused: bool) -> tuple[Step, tuple[Tensor, ...]]:
        norm, layer = torch.nn.BatchNorm2d(channels), LIF(T, surrogate="atan", detach_reset=True)
        return lambda x: norm_neuron(norm, layer, x, fused=fused), (norm.weight, norm.bias)

    found["picojoule fused"], found["picojoule modules"] = own(True), own(False)
    try:
        neuron = spikingjelly(T)
    except ImportError:
        return found
    layers: Any = importlib.import_module("spikingjelly.activation_based.layer")
    norm = layers.BatchNorm2d(channels, step_mode="m")

    def step(x: Tensor) -> Tensor:
        return neuron(norm(x.unflatten(0, (T, -1))).flatten(0, 1))

    found["spikingjelly modules"] = step, (norm.weight, norm.bias)
    return found


def measure_norm(
    T: int, neurons: int, rounds: int, channels: int = 64, side: int = 16
) -> list[dict[str, Any]]:
    """BatchNorm and neuron over maps of side x side."""
    generator = torch.Generator().manual_seed(1)
    batch = max(1, neurons // (channels * side * side))
    x = torch.randn(T * batch, channels, side, side, generator=generator).requires_grad_()
    g = torch.randn(x.shape, generator=generator)
    steps = norm_contenders(T, channels)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, (step, learned) in steps.items():
            pair = timed(step, x, g, learned)
            if turn:  # the first is for warming up
                times[name].append(pair)
    base = [sum(p) for p in times["picojoule fused"]]
    return [
        {
            "name": name,
            "forward_ms": 1e3 * statistics.median(p[0] for p in pairs),
            "backward_ms": 1e3 * statistics.median(p[1] for p in pairs),
            "ns_per_neuron_step": 1e9 * statistics.median(map(sum, pairs)) / x.numel(),
            "times_fused": statistics.median(sum(p) / b for p, b in zip(pairs, base)),
            "best_times_fused": min(map(sum, pairs)) / min(base),
        }
        for name, pairs in times.items()
    ]


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
        print(
            f"T={block['T']}  STREAM {block['stream_gb_s']:.1f} GB/s, triad of this size "
            f"{block['triad_gb_s']:.1f}  firing rate {block['firing_rate']:.2f}"
        )
        for row in block["rows"]:
            share = ""
            if "stream_share" in row:
                share = f"  {row['stream_share']:.0%} of STREAM (best {row['best_stream_share']:.0%})"
                share += f", {row['triad_share']:.0%} of the triad"
            print(
                f"  {row['name']:20s} {row['forward_ms']:8.2f} + {row['backward_ms']:8.2f} ms"
                f"  x{row['times_exact']:.2f} (best {row['best_times_exact']:.2f})"
                f"  keeps {row['kept_bytes']:.1f} B{share}"
            )
        for row in block["norm"]:
            print(
                f"  BatchNorm + LIF {row['name']:20s} {row['forward_ms']:8.2f} + {row['backward_ms']:8.2f} ms"
                f"  x{row['times_fused']:.2f} (best {row['best_times_fused']:.2f})"
            )
        for name, why in block["absent"].items():
            print(f"  {name}: absent ({why})")


if __name__ == "__main__":
    main()
