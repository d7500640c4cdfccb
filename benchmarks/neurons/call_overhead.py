"""What a neuron call costs beyond its tensor work: a LIF module, forward and backward, against a bare
torch.autograd.Function that does the same tensor operations with constants written in.

    python benchmarks/neurons/call_overhead.py [--out FILE.json] [--batch 8] [--width 64] [--T 4]

The pair is timed alternately, in blocks; the figure is the ratio of the medians. Target: at most 1.3.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from picojoule.neurons import LIF, NILIF


class BareLIF(torch.autograd.Function):
    """LIF(T, tau=2, hard reset to 0, sigmoid surrogate): the tensor operations of the kernel alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, T: int) -> Tensor:
        current = x.reshape(T, x.shape[0] // T, *x.shape[1:]) * 0.5
        n = torch.empty_like(current)
        h = torch.empty_like(n)
        v = None
        for t, (i, ht, nt) in enumerate(zip(current.unbind(0), h.unbind(0), n.unbind(0))):
            if v is None:
                ht.copy_(i)
            else:
                torch.mul(v, 0.5, out=ht)
                ht += i
            torch.ge(ht, 1.0, out=nt)
            v = torch.addcmul(ht, ht, nt, value=-1) if t + 1 < T else None
        ctx.save_for_backward(h, n)
        return n.flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        h, n = ctx.saved_tensors
        s = torch.sigmoid(4.0 * (h - 1.0))
        slope = 4.0 * s * (1 - s)
        keep = (1 - n).addcmul_(h, slope, value=-1)
        dh = grads[0].reshape(h.shape) * slope
        dv = None
        for dht, k in zip(reversed(dh.unbind(0)), reversed(keep.unbind(0))):
            if dv is not None:
                dht.addcmul_(dv, k)
            dv = dht * 0.5
        return (dh * 0.5).flatten(0, 1), None


class BareNILIF(torch.autograd.Function):
    """NILIF(D=4): clamp, round, divide."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 4).round() * 0.25

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * ((x >= 0) & (x <= 4)).to(x.dtype) * 0.25


def once(function: Any, x: Tensor, g: Tensor) -> float:
    """Seconds of one forward and backward."""
    start = time.perf_counter()
    torch.autograd.grad(function(x), x, g)
    return time.perf_counter() - start


def pair(ours: Any, bare: Any, rows: int, width: int, repeats: int) -> dict[str, float]:
    """Medians in microseconds of both, timed alternately, and their ratio."""
    x = torch.randn(rows, width, requires_grad=True)
    g = torch.randn(rows, width)
    if not torch.equal(ours(x), bare(x)):
        raise SystemExit("the two do not compute the same spikes; the ratio would mean nothing")
    times: tuple[list[float], list[float]] = ([], [])
    for k in range(repeats + 50):
        for function, kept in zip((ours, bare) if k % 2 else (bare, ours), times if k % 2 else times[::-1]):
            seconds = once(function, x, g)
            if k >= 50:
                kept.append(seconds)
    a, b = (statistics.median(t) * 1e6 for t in times)
    return {"neuron_us": a, "bare_us": b, "ratio": a / b}


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--T", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=400)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    T = args.T
    rows = T * args.batch
    result = {
        "benchmark": "neuron call overhead, forward + backward",
        "settings": {"T": T, "batch": args.batch, "width": args.width, "repeats": args.repeats},
        "machine": machine(),
        "LIF": pair(LIF(T), lambda x: BareLIF.apply(x, T), rows, args.width, args.repeats),
        "NILIF": pair(NILIF(T), BareNILIF.apply, rows, args.width, args.repeats),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
