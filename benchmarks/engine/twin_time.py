"""What the table of twins holds of one network: accuracy, bytes, rates, memory, latency, throughput."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peers
import yaml
from clock import Sampler, interleave, wall
from twin_ann import export, tensors
from twin_train import Job

import picojoule
from picojoule import deploy, measure
from picojoule.cli.road import Run, open_run, raw_inputs
from picojoule.deploy.tune import gain, keep_table, tune
from picojoule.graph import rates as graph_rates
from picojoule.graph import reference

T = 4
RATE_IMAGES = 256
HERE = Path(__file__).resolve().parent


def packed_file(folder: Path) -> Path:
    """The packed file of a run folder."""
    return folder / f"{folder.name}.pj"


def result(folder: Path) -> dict[str, Any]:
    """What the training ended with."""
    found = json.loads((folder / "result.json").read_text())
    batch = yaml.safe_load((folder / "config.yaml").read_text())["data"]["batch"]
    wanted = ("test_accuracy", "test_samples", "epochs", "steps", "seconds", "parameters")
    return {**{k: found[k] for k in wanted}, "images_seen": found["steps"] * batch}


def quality(job: Job, runs: Path) -> dict[str, Any]:
    """Accuracy on the whole test split, bytes, and firing rates of the packed files."""
    run = open_run(runs / job.base)
    raw, labels = raw_inputs(run)
    report: dict[str, Any] = {"float": result(runs / job.base)}
    for bits in ("w1", "w4"):
        folder = runs / f"{job.base}_{bits}"
        path = packed_file(folder)
        store_rates(path, raw[-RATE_IMAGES:])
        model = deploy.load(path)
        kept = json.loads((folder / "packed.json").read_text())
        counts = measure.count(model.graph, [raw[:RATE_IMAGES]])
        report[bits] = {
            **result(folder),
            "accuracy_packed": accuracy(model.predict(np.ascontiguousarray(raw)), labels),
            "parity": kept["parity"],
            "payload_bytes": deploy.payload_bytes(model.graph),
            "paper_bytes": model.card["paper_bytes"],
            "file_bytes": path.stat().st_size,
            "T": max(node.edge.steps for node in model.graph.nodes),
            "synops": counts.sop,
            **rates(counts.neurons),
        }
    report["ann"] = ann_quality(runs / f"{job.base}_ann", run)
    return report


def store_rates(path: Path, images: np.ndarray) -> None:
    """Add the firing rates that `pack` stores to a file that was packed before it did."""
    graph, card = deploy.read(path)
    if "rates" not in card:
        part = {graph.inputs[0].name: images[:64]}
        deploy.write(path, graph, {**card, "rates": graph_rates.measure(graph, [part], reference.run)})


def accuracy(answers: np.ndarray, labels: np.ndarray) -> float:
    """Percent, two digits."""
    return round(100 * float((answers == labels).mean()), 2)


def rates(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Spikes of a neuron and (virtual) step: mean over neurons, and by layer."""
    found = {}
    for row in rows:
        levels = int(row["kind"].partition("(")[2].rstrip(")") or 1)
        found[row["name"]] = (row["rate"] / levels, row["neurons"])
    total = sum(n for _, n in found.values())
    mean = sum(rate * n for rate, n in found.values()) / total
    return {"rate": round(mean, 4), "rates": {k: round(v[0], 4) for k, v in found.items()}}


def tune_files(job: Job, runs: Path) -> dict[str, Any]:
    """What `pj bench --tune` does, on one validation image: a table is stored where it pays."""
    image = np.ascontiguousarray(raw_inputs(open_run(runs / job.base), "val")[0][:1])
    found = {}
    for bits in ("w1", "w4"):
        path = packed_file(runs / f"{job.base}_{bits}")
        model = deploy.load(path, tuned=False)
        x, rates = {model.graph.inputs[0].name: image}, model.card.get("rates")
        nodes = tune(model.graph, x, rates=rates)
        keep_table(path, nodes, model.engine.info()["isa"], gain(model.graph, x, nodes, rates=rates))
        found[bits] = {name: row["kernel"] for name, row in nodes.items()}
    return found


def ann_quality(folder: Path, run: Run) -> dict[str, Any]:
    """Accuracy and file size of the twin in float and int8, the latter in both runtimes."""
    batch = 50
    x, y = tensors(run.feed, "test")
    files, one = export(folder, batch), export(folder, 1)
    report: dict[str, Any] = result(folder)
    for form in ("fp32", "int8"):
        model = files[form].read_bytes()
        for runtime, make in (("onnxruntime", peers.onnxruntime_call), ("openvino", peers.openvino_call)):
            held = np.empty((batch, *x.shape[1:]), np.float32)
            call = make(model, held, 1)
            answers = []
            for start in range(0, len(x), batch):
                held[:] = x[start : start + batch]
                answers.append(np.array(call()).reshape(batch, -1).argmax(1))
            report[f"accuracy_{form}_{runtime}"] = accuracy(np.concatenate(answers), y)
        report[f"file_bytes_{form}"] = one[form].stat().st_size
    return report


def memory(job: Job, runs: Path) -> dict[str, Any]:
    """Peak memory of a fresh process with one image, by runtime."""
    run = open_run(runs / job.base)
    raw, x = raw_inputs(run)[0][:1], run.samples("test", 1)[0].numpy()
    ann = export(runs / f"{job.base}_ann", 1)
    wanted = {
        "picojoule w1": ("picojoule", packed_file(runs / f"{job.base}_w1"), raw),
        "picojoule w4": ("picojoule", packed_file(runs / f"{job.base}_w4"), raw),
        "onnxruntime int8": ("onnxruntime", ann["int8"], x),
        "onnxruntime fp32": ("onnxruntime", ann["fp32"], x),
        "openvino int8": ("openvino", ann["int8"], x),
        "openvino fp32": ("openvino", ann["fp32"], x),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (runtime, file, array) in wanted.items():
            data = Path(folder) / "x.npy"
            np.save(data, array)
            command = [sys.executable, str(HERE / "peak.py"), runtime, str(file), str(data)]
            found[name] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def spiking_torch(job: Job, runs: Path) -> tuple[Run, Any, Any]:
    """The trained float network, and its architecture with SpikingJelly's LIF at T = 4."""
    run = open_run(runs / job.base)
    jelly = picojoule.create_model(
        job.model, num_classes=10, T=T, neuron=lambda steps: peers.spikingjelly_neuron(steps)
    )
    return run, run.model, jelly.eval()


def samplers(job: Job, runs: Path, batch: int, threads: int) -> dict[str, Sampler]:
    """Every contender on `batch` test images."""
    pause = 0.005 if threads > 1 else 0.0
    run, model, jelly = spiking_torch(job, runs)
    raw = np.ascontiguousarray(raw_inputs(run)[0][:batch])
    x = run.samples("test", batch)[0]
    calls: dict[str, peers.Call] = {}
    for bits in ("w1", "w4"):
        file = packed_file(runs / f"{job.base}_{bits}")
        for tuned, word in ((True, ""), (False, ", not tuned")):
            with peers.without_torch():
                packed = deploy.load(file, threads=threads, tuned=tuned)
            calls[f"picojoule {bits}{word}"] = lambda packed=packed: packed(raw)
    for repeat, name in ((1, "step"), (T, "T")) if batch == 1 else ((1, "step"),):
        files = export(runs / f"{job.base}_ann", batch * repeat)
        many = np.ascontiguousarray(np.repeat(x.numpy(), repeat, 0))
        for form, path in files.items():
            file = path.read_bytes()
            calls[f"onnxruntime {form} ANN {name}"] = peers.onnxruntime_call(file, many, threads)
            calls[f"openvino {form} ANN {name}"] = peers.openvino_call(file, many, threads)
    calls["torch eager SNN"] = peers.torch_call(model, x, threads)
    calls["spikingjelly LIF T"] = peers.torch_call(jelly, x, threads)
    if threads == 1:  # compiling for every number of threads would take longer than all the rest
        calls["torch.compile SNN"] = peers.compiled_call(model, x, threads)
    return {name: wall(call, 1, pause) for name, call in calls.items()}


def speed(job: Job, runs: Path, batch: int, threads: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of one call by contender, interleaved, for about `seconds`."""
    jobs = samplers(job, runs, batch, threads)
    once = sum(2 * sample() for sample in jobs.values() if sample())
    rounds = int(np.clip(seconds / max(once, 1e-6), 5, 300))
    return {"batch": batch, "threads": threads, "rounds": rounds, "ms": interleave(jobs, rounds)}


def threads_word(threads: int) -> str:
    """For section names."""
    return f"{threads} thread{'s' if threads > 1 else ''}"
