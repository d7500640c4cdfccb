"""Whole training steps of spiking networks against SpikingJelly, torch.compile and the artificial twin.

    python benchmarks/train/whole_step.py [--out FILE.json] [--nets resnet18 vgg11 sdt_v1 sdt_v3]
        [--rates 0.05 0.1 0.2] [--batch 16] [--T 4] [--threads 1] [--rounds 4] [--compile] [--no-memory]
        [--no-split]

One step is forward, cross-entropy, backward and SGD with momentum (learning rate 0, so that nothing drifts)
on random images 32x32. All contenders of a network have the same layers; only the neurons and the memory
layout differ, LIF with tau 2, hard detached reset and the atan slope, or `rect` where the name says so.
Thresholds are set by bisection, neuron after neuron, until each fires at the stated rate; all contenders get
the same. The artificial twin has ReLU and one step.

`ms` is the smallest wall time of the rounds (contenders in turn), `cpu_ms` the smallest CPU time of the
process. Memory is taken in a process of its own: `peak_mib` is the largest resident size, `step_mib` what the
steps added to the size after the model and the optimizer were made; torch.compile is left out, whose
compiler would be counted. `split_ms` is the profiler's share by operator. With --out, finished networks and
rates are kept and not measured again (delete the file to start anew).
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe

import picojoule
from picojoule.core.tune import tune
from picojoule.layers import event_conv
from picojoule.models.spiking_resnet import SpikingResNet
from picojoule.neurons import LIF
from picojoule.neurons.open_window import window_of

CIFAR_STAGES = ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2))
NETS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": lambda **a: SpikingResNet(10, stem=(64, 3, 1), stages=CIFAR_STAGES, **a),
    "vgg11": lambda **a: picojoule.create_model("spiking_vgg11", pool="max", **a),
    "sdt_v1": lambda **a: picojoule.create_model("sdt_v1_2_256", **a),
    "sdt_v3": lambda **a: picojoule.create_model("sdt_v3_32", **a),
}


class Plain(nn.Module):
    """The equation as a loop of torch operators, for torch.compile."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T, self.v_th = T, 1.0

    def forward(self, x: Tensor) -> Tensor:
        k, spikes = torch.pi, []
        v = torch.zeros_like(x[: x.shape[0] // self.T])
        for current in x.unflatten(0, (self.T, -1)).unbind(0):
            h = v + (current - v) / 2
            z = h - self.v_th
            soft = torch.atan(k * z) / k
            s = (z >= 0).to(x.dtype) + soft - soft.detach()
            v = h * (1 - s.detach())
            spikes.append(s)
        return torch.cat(spikes)


class Jelly(nn.Module):
    """SpikingJelly's multi-step LIFNode on rows."""

    def __init__(self, T: int) -> None:
        super().__init__()
        neuron: Any = importlib.import_module("spikingjelly.activation_based.neuron")
        surrogate: Any = importlib.import_module("spikingjelly.activation_based.surrogate")
        self.T = T
        self.node = neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        self.node.reset()
        return self.node(x.unflatten(0, (self.T, -1))).flatten(0, 1)


class Relu(nn.ReLU):
    """The artificial neuron."""

    def __init__(self, T: int) -> None:
        super().__init__()


def lif(surrogate: str) -> Callable[[int], LIF]:
    """Maker of picojoule's neuron."""
    return lambda T: LIF(T, surrogate=surrogate, detach_reset=True)


# name: neuron, spike aware, channels last, torch.compile
CONTENDERS: dict[str, tuple[Any, bool, bool, bool]] = {
    "picojoule": (lif("atan"), False, True, False),
    "picojoule aware": (lif("atan"), True, True, False),
    "picojoule aware rect": (lif("rect"), True, True, False),
    "spikingjelly": (Jelly, False, False, False),
    "spikingjelly channels_last": (Jelly, False, True, False),
    "torch.compile": (Plain, False, True, True),
    "artificial twin": (Relu, False, True, False),
}


def set_threshold(neuron: Any, value: float) -> None:
    """Threshold of any of the neurons here."""
    if isinstance(neuron, LIF):
        neuron.v_th, neuron.rule = value, replace(neuron.rule, v_th=value)
    elif isinstance(neuron, Jelly):
        neuron.node.v_threshold = value
    else:
        neuron.v_th = value


def neurons_of(model: nn.Module) -> list[Any]:
    """Neurons in module order."""
    return [m for m in model.modules() if isinstance(m, LIF | Jelly | Plain)]


@torch.no_grad()
def thresholds(net: str, rate: float, T: int, x: Tensor) -> list[float]:
    """Threshold of each neuron, in module order, at which it fires at `rate` on x."""
    model = make(net, lif("atan"), T)

    def settle(neuron: Any, args: tuple[Tensor, ...]) -> None:
        low, high = 0.0, float(args[0].abs().max()) + 1e-3
        for _ in range(18):
            middle = (low + high) / 2
            set_threshold(neuron, middle)
            low, high = (middle, high) if float(neuron.spikes(args[0], T).mean()) > rate else (low, middle)
        set_threshold(neuron, high)

    for neuron in neurons_of(model):
        neuron.register_forward_pre_hook(settle)
    model(x)
    return [neuron.v_th for neuron in neurons_of(model)]


def make(net: str, neuron: Any, T: int) -> nn.Module:
    """The network with the same weights for every neuron."""
    torch.manual_seed(0)
    return NETS[net](neuron=neuron, T=1 if neuron is Relu else T).train()


def contender(net: str, name: str, T: int, x: Tensor, levels: list[float]) -> Callable[[], float]:
    """One training step as a call that answers the loss."""
    neuron, aware, last, compiled = CONTENDERS[name]
    model = make(net, neuron, T)
    for module, level in zip(neurons_of(model), levels):
        set_threshold(module, level)
    if aware:
        picojoule.spike_aware_(model)
    if last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    target = torch.arange(x.shape[0]) % 10
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)
    run: Any = torch.compile(model) if compiled else model

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(run(x), target)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    step.__dict__["model"] = model
    return step


def rates(step: Callable[[], float]) -> dict[str, float]:
    """Mean firing rate, and the mean share of open windows where neurons publish them."""
    fired, opened = [], []

    def note(neuron: Any, args: Any, out: Tensor) -> None:
        fired.append(float(out.detach().mean()))
        found = window_of(out, 1) or window_of(out, -1)
        if found is not None:
            opened.append(found.rate)

    model: Any = step.__dict__["model"]
    hooks = [n.register_forward_hook(note) for n in neurons_of(model)]
    step()
    for hook in hooks:
        hook.remove()
    found = {"firing_rate": sum(fired) / max(len(fired), 1)}
    return found | ({"open_rate": sum(opened) / len(opened)} if opened else {})


# -- share by operator -----------------------------------------------------------------------------------

OPERATORS = (
    ("events forward", "conv forward"),
    ("events weight", "conv dW"),
    ("events input", "conv dX"),
    ("dense both", "conv dW and dX, one call"),
    ("dense weight", "conv dW"),
    ("dense input", "conv dX"),
    ("convolution_backward", "conv dW and dX, one call"),
    ("mkldnn_convolution", "conv forward"),
    ("batch_norm", "BatchNorm"),
    ("_Native", "neuron"),
)


class _Labelled:
    """The native module with the event kernels under a name of the profiler."""

    NAMES = {
        "event_forward": "events forward",
        "event_weight_gradient": "events weight",
        "event_input_gradient": "events input",
    }

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.inner, name)
        if name not in self.NAMES:
            return call

        def labelled(*args: Any) -> Any:
            with torch.profiler.record_function(self.NAMES[name]):
                return call(*args)

        return labelled


def split(step: Callable[[], float]) -> dict[str, float]:
    """Milliseconds of one step by operator."""
    native, dense = event_conv.native, event_conv.dense_gradients

    def labelled(x: Tensor, w: Tensor, g: Tensor, geo: Any, wants: tuple[bool, bool]) -> Any:
        what = "both" if all(wants) else "input" if wants[0] else "weight"
        with torch.profiler.record_function(f"dense {what}"):
            return dense(x, w, g, geo, wants)

    event_conv.native, event_conv.dense_gradients = _Labelled(native), labelled
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            begin = time.perf_counter()
            step()
            total = 1e3 * (time.perf_counter() - begin)
    finally:
        event_conv.native, event_conv.dense_gradients = native, dense
    found: dict[str, float] = {}
    inside = 0.0  # oneDNN calls that a label above has counted already
    for row in profile.key_averages():
        label = next((to for part, to in OPERATORS if part in row.key), None)
        if label is None:
            continue
        whole = row.key.startswith(("events", "dense"))
        spent = (row.cpu_time_total if whole else row.self_cpu_time_total) / 1e3
        found[label] = found.get(label, 0.0) + spent
        inside += spent if row.key.startswith("dense") else 0.0
    both = "conv dW and dX, one call"
    if inside and both in found:
        found[both] = max(found[both] - inside, 0.0)
    found["rest"] = max(total - sum(found.values()), 0.0)
    return {name: round(ms, 2) for name, ms in found.items()}


# -- time and memory -------------------------------------------------------------------------------------


def images(batch: int) -> Tensor:
    """Random images, the same everywhere."""
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def timed(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    """Smallest wall and CPU milliseconds, contenders in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: {"ms": 1e3 * min(w for w, _ in pairs), "cpu_ms": 1e3 * min(c for _, c in pairs)}
        for name, pairs in found.items()
    }


def child(args: argparse.Namespace) -> None:
    """Memory of one contender in this process; prints JSON."""
    torch.set_num_threads(args.threads)
    net, name, levels = args.child[0], args.child[1], json.loads(args.child[2])
    step = contender(net, name, args.T, images(args.batch), levels)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for _ in range(2):  # the second step has gradients and momenta from the start
        step()
    status = Path("/proc/self/status").read_text()  # the high-water mark of ru_maxrss outlives fork and exec
    peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps({"peak_mib": peak / 2**20, "step_mib": (peak - before) / 2**20}))


def memory(args: argparse.Namespace, net: str, name: str, levels: list[float]) -> dict[str, float]:
    """Peak memory of a contender in a fresh process."""
    command = [sys.executable, __file__, "--child", net, name, json.dumps(levels)]
    for option in ("batch", "T", "threads"):
        command += [f"--{option}", str(getattr(args, option))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace, net: str, rate: float) -> dict[str, Any]:
    """All contenders of one network at one firing rate."""
    x = images(args.batch)
    levels = thresholds(net, rate, args.T, x)
    steps: dict[str, Callable[[], float]] = {}
    absent: dict[str, str] = {}
    for name, settings in CONTENDERS.items():
        if settings[3] and not args.compile:
            continue
        try:
            steps[name] = contender(net, name, args.T, x, levels)
        except ImportError as error:
            absent[name] = str(error)
    found = {name: rates(step) for name, step in steps.items() if name not in ("torch.compile",)}
    rows = timed(steps, args.rounds)
    for name, step in steps.items():
        rows[name] |= {k: v for k, v in found.get(name, {}).items() if name != "artificial twin"}
        if not args.no_split:
            rows[name]["split_ms"] = split(step)  # type: ignore[assignment]
        if not args.no_memory and name != "torch.compile":  # its compiler lives in the same process
            rows[name] |= memory(args, net, name, levels)
    base = rows["picojoule aware"]["ms"]
    return {
        "net": net,
        "rate": rate,
        "rows": rows,
        "times_aware": {name: row["ms"] / base for name, row in rows.items()},
        "absent": absent,
    }


def show(block: dict[str, Any]) -> None:
    """One network and rate as lines."""
    print(f"{block['net']} at a firing rate of {block['rate']:.0%}")
    for name, row in block["rows"].items():
        text = f"  {name:27s} {row['ms']:8.1f} ms  x{block['times_aware'][name]:.2f}"
        text += f"  fires {row['firing_rate']:.3f}" if "firing_rate" in row else ""
        text += f"  open {row['open_rate']:.3f}" if "open_rate" in row else ""
        text += f"  {row['step_mib']:7.0f} MiB" if "step_mib" in row else ""
        print(text)
        if "split_ms" in row:
            print("      " + ", ".join(f"{k} {v:.0f}" for k, v in row["split_ms"].items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole training steps.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--T", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, minutes a network")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-split", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = tune()
    if args.child:
        child(args)
        return
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "benchmark": "whole_step",
        "machine": describe("torch", "spikingjelly", threads=args.threads),
        "tune": settings,
        "batch": args.batch,
        "T": args.T,
        "results": [],
    }
    if args.out and args.out.exists():
        result["results"] = json.loads(args.out.read_text())["results"]
    for net in args.nets:
        for rate in args.rates:
            if any(b["net"] == net and b["rate"] == rate for b in result["results"]):
                continue
            block = measure(args, net, rate)
            result["results"].append(block)
            show(block)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
