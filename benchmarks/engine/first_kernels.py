"""One 1-bit spiking convolution with LIF (T = 4) against the same-shape ANN layer in PyTorch and onnxruntime.

    python benchmarks/engine/first_kernels.py --out benchmarks/engine/first_kernels.json

One thread, all contenders interleaved in one process, so that a busy machine slows them alike; believe the
ratios. A sample is the mean of `INNER` runs after one that warms the caches. Times:

* `kernel_ms`: the convolution and its neuron inside the engine, packed spikes in and out: what a layer costs
  in the middle of a network;
* `call_ms`: a whole engine call from NumPy bytes to integer outputs (input checks, packing, spike counts);
* `torch_step_ms`, `torch_T_ms`: float32 Conv2d + ReLU of the ANN, one step and T steps as a batch;
* `ort_step_ms`, `ort_T_ms`: onnxruntime int8 (QLinearConv, uint8 activations), one step and T steps; absent
  when onnx or onnxruntime is not installed.

Synthetic spikes (Bernoulli), random +-1 weights. Each number is the median and the minimum over rounds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
T = 4
LAYERS = ((128, 16), (256, 8))
INNER = 5
RATES = (0.02, 0.05, 0.10, 0.20, 0.40)


def layer(channels: int, side: int, frac: int, seed: int = 0) -> Any:
    """Binary spikes, 3x3 sign convolution, LIF (decay 1/2, hard reset, `frac` fraction bits), counts."""
    from picojoule.core import kinds
    from picojoule.graph import nodes as g

    rng = np.random.default_rng(seed)
    row, space = (channels, side, side), ((1, 1), (1, 1))
    threshold = int(1.2 * np.sqrt(channels * 9 * 0.1) * 2**frac)
    tensors = {
        "w": rng.choice([-1, 1], (channels, channels, 3, 3)).astype(np.int8),
        "one": np.array([[1]]),
        "gain": np.array([[1 << frac]]),
        "zero": np.array([[0]]),
        "bias": rng.integers(-(2**frac), 2**frac + 1, (1, channels)),
        "th": threshold + rng.integers(-(2**frac), 2**frac + 1, (1, 1, channels)),
    }
    sums = kinds.fixed(int(channels * 9).bit_length() + 1, 0)
    spikes, counts = g.Edge(kinds.binary, row, T), g.Edge(kinds.fixed(20, 0), (channels,), T)
    neuron = {"decay": "one", "gain": "gain", "bias": "bias", "thresholds": "th", "reset_value": "zero"}
    sign = g.Coding("sign", 1)
    nodes = (
        g.Input(name="x", edge=spikes),
        g.Conv(name="conv", inputs=("x",), edge=g.Edge(sums, row, T), weight="w", padding=space, coding=sign),
        g.Neuron(
            name="lif", inputs=("conv",), edge=spikes, reset="hard", decay_shift=1, v_init="zero", frac=frac,
            v_bits=40, **neuron,
        ),
        g.Mean(name="sum", inputs=("lif",), edge=counts, axes=(1, 2), total=True),
        g.Output(name="out", inputs=("sum",), edge=counts),
    )  # fmt: skip
    return g.Graph(nodes, tensors, "snapped")


def torch_layer(channels: int, side: int, batch: int) -> Callable[[], Any]:
    """float32 Conv2d + ReLU of the same shape."""
    import torch

    torch.set_num_threads(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(channels, channels, 3, padding=1), torch.nn.ReLU()).eval()
    x = torch.rand(batch, channels, side, side)

    def run() -> Any:
        with torch.inference_mode():
            return net(x)

    return run


def ort_layer(channels: int, side: int, batch: int) -> Callable[[], Any] | None:
    """int8 QLinearConv of the same shape in onnxruntime, or None when it is not installed."""
    try:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    rng = np.random.default_rng(0)
    shape = [batch, channels, side, side]
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    constants = {
        "xs": np.float32(0.01), "xz": np.uint8(0), "ws": np.float32(0.01), "wz": np.int8(0),
        "ys": np.float32(0.1), "yz": np.uint8(0),
        "w": rng.integers(-127, 128, (channels, channels, 3, 3)).astype(np.int8),
    }  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", names, ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = rng.integers(0, 256, shape).astype(np.uint8)
    return lambda: session.run(None, {"x": x})


def interleave(jobs: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of every job, one sample of each a round, in turn."""
    samples: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            job()
            samples[name].append(statistics.mean(job() for _ in range(INNER)) * 1e3)
    return {name: {"median": statistics.median(s), "min": min(s)} for name, s in samples.items()}


def wall(job: Callable[[], Any]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        job()
        return time.perf_counter() - start

    return run


def measure(channels: int, side: int, rate: float, frac: int, rounds: int) -> dict[str, Any]:
    """One line of the table."""
    from picojoule.deploy.engine import Engine

    engine = Engine(layer(channels, side, frac))
    x = (np.random.default_rng(1).random((1, T, channels, side, side)) < rate).astype(np.uint8)
    fired = engine(x)["out"].sum() / (T * channels * side * side)

    def kernel() -> float:
        return sum(row["seconds"] for row in engine.profile(x) if row["node"] == "lif" and "+" in row["what"])

    jobs: dict[str, Callable[[], float]] = {"kernel_ms": kernel, "call_ms": wall(lambda: engine(x))}
    for name, batch in (("step", 1), ("T", T)):
        jobs[f"torch_{name}_ms"] = wall(torch_layer(channels, side, batch))
        ort = ort_layer(channels, side, batch)
        if ort is not None:
            jobs[f"ort_{name}_ms"] = wall(ort)
    times = interleave(jobs, rounds)
    kernels = {row["name"]: row["kernel"] for row in engine.info()["nodes"]}
    result: dict[str, Any] = {
        "layer": f"conv {channels}->{channels} 3x3 at {side}x{side}",
        "rate_in": rate,
        "rate_out": round(float(fired), 4),
        "frac": frac,
        "kernels": [kernels["conv"], kernels["lif"]],
        "times": times,
    }
    base = times["kernel_ms"]["median"]
    result["ratio_to_kernel"] = {
        k: round(v["median"] / base, 2) for k, v in times.items() if k != "kernel_ms"
    }
    return result


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    import torch

    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": 1,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        found["processor"] = names[0] if names else found["processor"]
    try:
        import onnxruntime

        found["onnxruntime"] = onnxruntime.__version__
    except ImportError:
        found["onnxruntime"] = None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument(
        "--frac", type=int, nargs="*", default=[2, 8], help="fraction bits of the membrane grid"
    )
    args = parser.parse_args()
    rows = []
    for channels, side in LAYERS:
        for frac in args.frac:
            for rate in RATES:
                row = measure(channels, side, rate, frac, args.rounds)
                rows.append(row)
                shown = {name: round(value["median"], 3) for name, value in row["times"].items()}
                print(f"{row['layer']}  p={rate:.2f}  frac={frac}  out={row['rate_out']:.3f}  {shown}")
    report = {"machine": machine(), "T": T, "rounds": args.rounds, "rows": rows}
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
