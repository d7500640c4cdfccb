"""A LIF layer's training step on a GPU, against SpikingJelly's back ends, snnTorch and the PyTorch path here.

    python benchmarks/train/gpu_lif.py [--out FILE.json] [--T 4 16 64] [--neurons 4194304] [--rounds 30]
                                       [--dtype float32|bfloat16]

All contenders get the same input and output gradient: tau 2, hard reset to 0, detached, atan slope. They are
timed in turn by CUDA events, round by round, after a first call that compiles; figures are medians.
`moved_bytes` is what a step has to move a neuron: x in and spikes out, then x and their gradient in and dx
out. `copy_share` is moved bytes over time, divided by the bandwidth of a device copy in the same rounds.
Without a CUDA device it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe

from picojoule.neurons import LIF
from picojoule.neurons.leaky import leaky_reference

Step = Callable[[Tensor], Tensor]


def ours(T: int) -> Step:
    """The layer on compiled graphs."""
    return LIF(T, surrogate="atan", detach_reset=True).cuda()


def reference(T: int) -> Step:
    """The equation step by step under autograd."""
    layer = LIF(T, surrogate="atan", detach_reset=True)
    return lambda x: leaky_reference(x, T, None, layer.params()).spikes


def spikingjelly(T: int, backend: str) -> Step:
    """SpikingJelly's multi-step LIFNode on one of its back ends."""
    neuron: Any = importlib.import_module("spikingjelly.activation_based.neuron")
    surrogate: Any = importlib.import_module("spikingjelly.activation_based.surrogate")
    functional: Any = importlib.import_module("spikingjelly.activation_based.functional")
    layer = neuron.LIFNode(
        surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m", backend=backend
    )
    layer = layer.cuda()

    def step(x: Tensor) -> Tensor:
        functional.reset_net(layer)
        return layer(x.unflatten(0, (T, -1))).flatten(0, 1)

    return step


def contenders(T: int, x: Tensor) -> tuple[dict[str, Step], dict[str, str]]:
    """Steps by name that run here, and why others do not."""
    makers: dict[str, Callable[[], Step]] = {
        "picojoule": lambda: ours(T),
        "picojoule reference": lambda: reference(T),
    }
    for backend in ("triton", "cupy", "torch"):
        makers[f"spikingjelly {backend}"] = lambda backend=backend: spikingjelly(T, backend)
    found, absent = {}, {}
    for name, make in makers.items():
        try:
            step = make()
            torch.autograd.grad(step(x).sum(), x)
            found[name] = step
        except Exception as error:  # a peer may fail in any way; the reason goes into the file
            absent[name] = f"{type(error).__name__}: {error}"
    return found, absent


def timed(work: Callable[[], Any]) -> float:
    """Milliseconds on the device."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def measure(T: int, neurons: int, rounds: int, dtype: torch.dtype) -> dict[str, Any]:
    """All contenders at one T."""
    x = torch.randn(T * neurons // 64, 64, device="cuda", dtype=dtype).requires_grad_()
    g, copy = torch.randn_like(x), torch.empty_like(x)
    steps, absent = contenders(T, x)
    times: dict[str, list[float]] = {name: [] for name in steps}
    copies = []
    for _ in range(rounds):
        copies.append(timed(lambda: copy.copy_(g)))
        for name, step in steps.items():
            times[name].append(timed(lambda step=step: torch.autograd.grad(step(x), x, g)))
    size, bandwidth = (
        x.numel() * x.element_size(),
        2 * x.numel() * x.element_size() / statistics.median(copies),
    )
    rows = [
        {
            "name": name,
            "ms": statistics.median(ms),
            "times_picojoule": statistics.median(ms) / statistics.median(times["picojoule"]),
            "copy_share": 5 * size / statistics.median(ms) / bandwidth,
        }
        for name, ms in times.items()
    ]
    return {"T": T, "neurons": neurons, "copy_gb_s": bandwidth / 1e6, "rows": rows, "absent": absent}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A LIF layer's training step on a GPU against other libraries."
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--T", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--neurons", type=int, default=1 << 22)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: nothing was measured")
    blocks = [measure(T, args.neurons, args.rounds, getattr(torch, args.dtype)) for T in args.T]
    for block in blocks:
        print(f"T={block['T']}  copy {block['copy_gb_s']:.0f} GB/s")
        for row in block["rows"]:
            print(
                f"  {row['name']:22s} {row['ms']:8.3f} ms  x{row['times_picojoule']:.2f}"
                f"  {row['copy_share']:.0%} of a copy's bandwidth"
            )
        for name, why in block["absent"].items():
            print(f"  {name}: absent ({why})")
    if args.out:
        device = torch.cuda.get_device_name()
        result = {"benchmark": "gpu_lif", "device": device, "dtype": args.dtype, "results": blocks}
        result["machine"] = describe("torch", "spikingjelly")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
