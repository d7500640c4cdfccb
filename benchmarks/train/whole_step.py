"""Whole training steps of spiking networks against SpikingJelly, torch.compile and the artificial twin.

    python benchmarks/train/whole_step.py [--out FILE.json] [--nets resnet18 vgg11 sdt_v1 sdt_v3]
        [--rates 0.02 0.05 0.1 0.2] [--recorded FILE.json] [--batch 16] [--T 4] [--threads 1] [--rounds 3]
        [--compile NET ...] [--no-memory] [--no-split] [--fresh]

One step is forward, cross-entropy, backward and SGD with momentum (learning rate 0, so that nothing drifts)
on random images 32x32. All contenders of a network have the same layers; only the neurons and the memory
layout differ, LIF with tau 2, hard detached reset and the atan slope, or `rect` where the name says so. The
artificial twin has ReLU and one step. `shipped` is the model as `create_model` gives it, where that has other
neurons: sdt_v3 counts spikes, 0 to 4 in one step (its rate is the share of counts that are not zero, and not
set).

Thresholds are set neuron after neuron until each fires at the wanted rate; all contenders get the same.
Beside fixed rates there are those of real training, layer by layer, from the file of rates.py: `epoch 1` and
`late`; there the window of `rect` is made as wide as lets pass the recorded share of membranes. Contenders
that do not use the spikes take the same time at every rate and are measured at one (`at`). All take turns in
one process.

`ms` is the smallest wall time of the rounds, `cpu_ms` the smallest CPU time of the process. Memory is taken
in a process of its own: `peak_mib` is the largest resident size, `step_mib` what the steps added to the size
after the model and the optimizer were made; torch.compile is left out, whose compiler would be counted.
`split_ms` is the profiler's share by operator. With --out, finished networks are kept, unless --fresh.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe
from step_split import split

import picojoule
from picojoule.core.tune import tune
from picojoule.models.spiking_resnet import SpikingResNet
from picojoule.neurons import LIF, SFA
from picojoule.neurons.open_window import window_of
from picojoule.neurons.surrogate import Rect

RECORDED = Path(__file__).resolve().parents[1] / "results" / "train_rates.json"

CIFAR_STAGES = ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2))
NETS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": lambda **a: SpikingResNet(10, stem=(64, 3, 1), stages=CIFAR_STAGES, **a),
    "vgg11": lambda **a: picojoule.create_model("spiking_vgg11", pool="max", **a),
    "sdt_v1": lambda **a: picojoule.create_model("sdt_v1_32", **a),
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


@dataclass(frozen=True)
class Contender:
    """One way to take the step: neuron; are spikes used, do BatchNorm and neuron run in one pass, do channels
    come last, does torch compile it."""

    neuron: Any
    aware: bool = False
    fused: bool = False
    last: bool = True
    compiled: bool = False
    nets: tuple[str, ...] = tuple(NETS)


CONTENDERS = {
    "picojoule aware": Contender(lif("atan"), aware=True),
    "picojoule aware fused": Contender(lif("atan"), aware=True, fused=True, nets=("resnet18", "vgg11")),
    "picojoule aware rect": Contender(lif("rect"), aware=True),
    "picojoule aware shipped": Contender(None, aware=True, nets=("sdt_v3",)),
    "picojoule": Contender(lif("atan")),
    "spikingjelly": Contender(Jelly, last=False),
    "spikingjelly channels_last": Contender(Jelly),
    "torch.compile": Contender(Plain, compiled=True),
    "artificial twin": Contender(Relu),
}
SET = (
    "picojoule aware",
    "picojoule aware fused",
    "picojoule aware rect",
)  # their time depends on the firing rate that is set


@dataclass
class Setting:
    """What every neuron is set to, in module order; no windows: those of the surrogate."""

    name: str
    levels: list[float]
    windows: list[float]


def set_neuron(neuron: Any, level: float, window: float | None = None) -> None:
    """Threshold of any of the neurons here, and the half width of a rectangle."""
    if isinstance(neuron, LIF):
        slope = neuron.rule.surrogate
        slope = Rect(0.5 / window) if window and isinstance(slope, Rect) else slope
        neuron.v_th, neuron.rule = level, replace(neuron.rule, v_th=level, surrogate=slope)
    elif isinstance(neuron, Jelly):
        neuron.node.v_threshold = level
    else:
        neuron.v_th = level


def neurons_of(model: nn.Module) -> list[Any]:
    """Neurons in module order."""
    return [m for m in model.modules() if isinstance(m, LIF | Jelly | Plain)]


def half_width(x: Tensor, T: int, level: float, share: float) -> float:
    """Distance from the threshold within which `share` of the membranes lie before they fire."""
    v, away = torch.zeros_like(x[: x.shape[0] // T]), []
    for current in x.unflatten(0, (T, -1)).unbind(0):
        h = v + (current - v) / 2
        away.append((h - level).abs().flatten())
        v = h * (h < level)
    rows = torch.cat(away)
    return float(rows.kthvalue(max(1, min(len(rows), round(share * len(rows))))).values)


@torch.no_grad()
def settle(net: str, name: str, fired: list[float], opened: list[float], T: int, x: Tensor) -> Setting:
    """The setting at which the neurons fire at these rates on x, and these shares of windows are open."""
    model = make(net, lif("rect"), T)
    neurons = neurons_of(model)
    made = Setting(name, [1.0] * len(neurons), [1.0] * len(neurons) if opened else [])

    def fit(neuron: Any, args: tuple[Tensor, ...]) -> None:
        place = neurons.index(neuron)
        low, high = 0.0, float(args[0].abs().max()) + 1e-3
        for _ in range(18):
            middle = (low + high) / 2
            set_neuron(neuron, middle)
            above = float(neuron.spikes(args[0], T).mean()) > fired[place % len(fired)]
            low, high = (middle, high) if above else (low, middle)
        made.levels[place] = high
        if opened:
            made.windows[place] = half_width(args[0], T, high, opened[place])
        set_neuron(neuron, high)

    for neuron in neurons:
        neuron.register_forward_pre_hook(fit)
    model(x)
    return made


def settings_of(net: str, args: argparse.Namespace, x: Tensor) -> list[Setting]:
    """The fixed rates, then those that were recorded for this network."""
    made = [settle(net, f"{100 * rate:g} %", [rate], [], args.T, x) for rate in args.rates]
    if args.recorded and args.recorded.exists():
        found = json.loads(args.recorded.read_text())["results"].get(net, {})
        for phase in ("epoch 1", "late"):
            if phase in found:
                made.append(settle(net, phase, found[phase]["fired"], found[phase]["opened"], args.T, x))
    return made


def make(net: str, neuron: Any, T: int) -> nn.Module:
    """The network with the same weights for every neuron; None takes the model's own neurons and steps."""
    torch.manual_seed(0)
    if neuron is None:
        return NETS[net]().train()
    return NETS[net](neuron=neuron, T=1 if neuron is Relu else T).train()


def contender(net: str, name: str, T: int, x: Tensor, setting: Setting) -> Callable[[], float]:
    """One training step as a call that answers the loss."""
    how = CONTENDERS[name]
    model = make(net, how.neuron, T)
    for place, module in enumerate(neurons_of(model)):
        set_neuron(module, setting.levels[place], setting.windows[place] if setting.windows else None)
    if how.aware:
        picojoule.spike_aware_(model)
    if how.fused:
        picojoule.fuse_norm_(model)
    if how.last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    target = torch.arange(x.shape[0]) % 10
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)
    run: Any = torch.compile(model) if how.compiled else model

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
        fired.append(float((out.detach() != 0).float().mean()))
        found = window_of(out, 1) or window_of(out, -1)
        if found is not None:
            opened.append(found.rate)

    model: Any = step.__dict__["model"]
    spiking = [*neurons_of(model), *(m for m in model.modules() if isinstance(m, SFA))]
    hooks = [n.register_forward_hook(note) for n in spiking]
    step()
    for hook in hooks:
        hook.remove()
    found = {"firing_rate": sum(fired) / len(fired)} if fired else {}
    return found | ({"open_rate": sum(opened) / len(opened)} if opened else {})


# -- time and memory -------------------------------------------------------------------------------------


def images(batch: int) -> Tensor:
    """Random images, the same everywhere."""
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


Key = tuple[str, str]  # setting, contender


def timed(steps: dict[Key, Callable[[], float]], rounds: int) -> dict[Key, dict[str, Any]]:
    """Smallest wall and CPU milliseconds, contenders in turn."""
    found: dict[Key, list[tuple[float, float]]] = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            found[key].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        key: {"ms": 1e3 * min(w for w, _ in pairs), "cpu_ms": 1e3 * min(c for _, c in pairs)}
        for key, pairs in found.items()
    }


def child(args: argparse.Namespace) -> None:
    """Memory of one contender in this process; prints JSON."""
    torch.set_num_threads(args.threads)
    net, name, setting = args.child[0], args.child[1], Setting(**json.loads(args.child[2]))
    step = contender(net, name, args.T, images(args.batch), setting)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for _ in range(2):  # the second step has gradients and momenta from the start
        step()
    status = Path("/proc/self/status").read_text()  # the high-water mark of ru_maxrss outlives fork and exec
    peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps({"peak_mib": peak / 2**20, "step_mib": (peak - before) / 2**20}))


def memory(args: argparse.Namespace, net: str, name: str, setting: Setting) -> dict[str, float]:
    """Peak memory of a contender in a fresh process."""
    command = [sys.executable, __file__, "--child", net, name, json.dumps(asdict(setting))]
    for option in ("batch", "T", "threads"):
        command += [f"--{option}", str(getattr(args, option))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace, net: str) -> dict[str, Any]:
    """All contenders of one network at all its settings."""
    x = images(args.batch)
    settings = settings_of(net, args, x)
    named = {s.name: s for s in settings}
    at = named.get("late", named.get("10 %", settings[-1]))
    steps: dict[Key, Callable[[], float]] = {}
    absent: dict[str, str] = {}
    for name, how in CONTENDERS.items():
        if net not in how.nets or (how.compiled and net not in args.compile):
            continue
        for setting in settings if name in SET else [at]:
            try:
                steps[setting.name, name] = contender(net, name, args.T, x, setting)
            except ImportError as error:
                absent[name] = str(error)
    found: dict[Key, dict[str, float]] = {}
    for key, step in steps.items():  # also the warm step
        if CONTENDERS[key[1]].compiled:  # hooks would have it compiled anew
            step()
        found[key] = {} if CONTENDERS[key[1]].compiled else rates(step)
    rows = timed(steps, args.rounds)
    for key, step in steps.items():
        rows[key] |= found[key]
        if not args.no_split and not CONTENDERS[key[1]].compiled:
            rows[key]["split_ms"] = split(step)
        if not args.no_memory and key[0] == at.name and not CONTENDERS[key[1]].compiled:
            rows[key] |= memory(args, net, key[1], at)
    made: dict[str, dict[str, Any]] = {s.name: {} for s in settings}
    for (setting, name), row in rows.items():
        made[setting][name] = row
    return {"net": net, "at": at.name, "settings": made, "absent": absent}


def show(block: dict[str, Any]) -> None:
    """One network as lines."""
    base = block["settings"][block["at"]]["picojoule aware"]["ms"]
    for setting, rows in block["settings"].items():
        print(f"{block['net']} at {setting}")
        for name, row in rows.items():
            text = f"  {name:27s} {row['ms']:8.1f} ms  x{row['ms'] / base:.2f}"
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
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--recorded", type=Path, default=RECORDED, help="rates of real training, by rates.py")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--T", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", nargs="*", choices=NETS, default=[], help="minutes a network")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-split", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="forget what --out holds")
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
    if args.out and args.out.exists() and not args.fresh:
        result["results"] = json.loads(args.out.read_text())["results"]
    for net in args.nets:
        if any(block["net"] == net for block in result["results"]):
            continue
        block = measure(args, net)
        result["results"].append(block)
        show(block)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
