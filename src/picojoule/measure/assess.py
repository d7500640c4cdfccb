"""`measure_model`: from a model, graph or packed file and samples to a Report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from picojoule.core.errors import ConfigError, DataError, NonFiniteError, ShapeError
from picojoule.deploy.model import Model, load
from picojoule.deploy.sizes import paper_bytes, payload_bytes
from picojoule.graph import nodes as g
from picojoule.measure import budget
from picojoule.measure.budget import Widths
from picojoule.measure.counts import Counter, Counts
from picojoule.measure.energy import DEPLOYED, FP32, MEMORY, EnergyModel, energy_model
from picojoule.measure.report import Report

Measurable = nn.Module | g.Graph | Model | str | os.PathLike[str]


def measure_model(
    model: Measurable,
    samples: Any,
    *,
    labels: Any = None,
    batch: int = 50,
    energy_models: Sequence[str | EnergyModel] = (),
    name: str = "",
    dataset: str = "unnamed",
    first_layer: str = "cached",
    allow_unfolded: bool = False,
    expand_sums: bool = True,
    v_bits: int = 16,
    x_bits: int = 8,
    progress: bool = False,
) -> Report:
    """Count and price one inference of a network, as a mean over samples.

    Args:
        model: an nn.Module (captured here), a captured or snapped graph, a packed model or its file.
        samples: array or tensor [n, ...] batch-first, or an iterable of batches, each x or (x, labels).
        labels: [n] for the accuracy, when samples is one array.
        batch: samples at once; no figure depends on it.
        energy_models: further models or chip files, beside fp32 operations, as deployed, and with memory.
        dataset: what the samples are, for the report.
        first_layer: "cached" or "every step": how often what is constant in time is computed.
        allow_unfolded, expand_sums: see `counts.count`.
        v_bits, x_bits: widths of potentials and analogue inputs in the deployed model.
        progress: a bar on stderr.
    Raises:
        DataError: no samples. NonFiniteError, KindError: bad data or kinds; the layer is named.
    """
    graph, card, paper = _graph(model, samples)
    prices = [m if isinstance(m, EnergyModel) else energy_model(m) for m in energy_models]
    counter = Counter(graph, first_layer, allow_unfolded, expand_sums)
    truth: list[int] = []
    for x, y in _progress(_batches(samples, labels, batch), progress, samples):
        counter.feed(_checked(graph, x))
        if y is not None:
            truth += np.asarray(y).ravel().tolist()
    counts = counter.result()
    report = build_report(
        graph,
        counts,
        Widths(v_bits, x_bits),
        prices,
        name=name or _name(model),
        dataset=dataset,
    )
    report.size_paper_bytes = card.get("paper_bytes", paper)
    if truth:
        if len(truth) != len(counts.labels):
            raise ShapeError(f"{len(truth)} labels for {len(counts.labels)} classified samples")
        report.accuracy = 100 * float(np.mean(np.asarray(truth) == np.asarray(counts.labels)))
    report.membranes = counter.book.membranes
    return report


def build_report(
    graph: g.Graph,
    counts: Counts,
    widths: Widths,
    extra: Sequence[EnergyModel] = (),
    *,
    name: str = "",
    dataset: str = "",
) -> Report:
    """Prices on counts: the fields of a Report that need no further measurement."""
    models = [FP32, DEPLOYED, MEMORY, *extra]
    rows = [budget.energy_row(counts, m, widths) for m in models]
    fp32, deployed, memory = rows[:3]
    base = budget.baselines(counts, MEMORY)
    layers = []
    for n in counts.layers:
        bounds = {b: sum(budget.layer_memory(n, MEMORY, widths, b).values()) for b in budget.BOUNDS}
        energy = {
            "fp32": budget.layer_ops(n, FP32, widths),
            "as_deployed": budget.layer_ops(n, DEPLOYED, widths),
        }
        layers.append(asdict(n) | {"dense": n.dense, "energy": energy | bounds})
    params, bits = _parameters(graph)
    return Report(
        name=name,
        spikes=sum(row["spikes"] for row in counts.neurons),
        fr={n.name: n.rate for n in counts.layers if n.arithmetic == "AC"},
        dense_ops=float(sum(n.dense for n in counts.layers)),
        SOP_exact=counts.sop,
        SOP_paper=sum(n.sop_paper for n in counts.layers),
        AC=counts.ac,
        MAC=counts.mac,
        neuron_updates=counts.updates,
        other_ops=counts.other,
        E_ops={"fp32": fp32["ops"], "as_deployed": deployed["ops"]},
        E_mem=memory["memory"],
        E_total={
            "fp32_ops": fp32["total"]["ops"],
            "as_deployed_ops": deployed["total"]["ops"],
            "event": memory["total"]["event"],
            "stationary": memory["total"]["stationary"],
        },
        size_packed_bytes=payload_bytes(graph) if graph.stage == "snapped" else None,
        params=params,
        bits_per_weight=bits,
        T=counts.T,
        dataset=dataset,
        n_samples=counts.n_samples,
        first_layer_policy=_policy(counts),
        baseline=base,
        break_even=budget.break_even(counts, [FP32, DEPLOYED, MEMORY], base, widths),
        energy=rows,
        layers=layers,
        neurons=counts.neurons,
        raster=counts.raster,
        stage=graph.stage,
        assumptions=_assumptions(counts, widths),
        warnings=counts.warnings,
        not_counted=counts.not_counted,
    )


def _policy(counts: Counts) -> str:
    dense = [n for n in counts.layers if n.arithmetic == "MAC" and n.evaluations == 1]
    once, uncached = sum(n.mac for n in dense), sum(n.mac_uncached for n in dense)
    if counts.policy == "cached":
        return (
            f"cached: what is constant in time is computed once, {once:,.0f} MAC ({uncached:,.0f} uncached)"
        )
    return "every step: the first layer is computed T times"


def _assumptions(counts: Counts, widths: Widths) -> list[str]:
    notes = [
        "energies are formulas with 45 nm constants, not measurements of this machine",
        "BatchNorm after a synapse is folded: only its shift is counted, as one addition",
        f"potentials of {widths.v_bits} bits and analogue inputs of {widths.x_bits} bits beside integer "
        "weights; layers with float weights are priced in fp32 also as deployed",
    ]
    sums = [n for n in counts.layers if "sum or average" in n.why]
    if sums:
        dense = sum(n.dense for n in sums)
        notes.append(
            f"{len(sums)} layer(s) read sums or averages of spikes, expanded into unary spikes as the packed "
            f"file holds them; counted as MAC they would be {dense:,} instead"
        )
    return notes


def _parameters(graph: g.Graph) -> tuple[int, float]:
    """Weights and biases of synapses, and mean bits of a weight."""
    total, weights, bits = 0, 0, 0.0
    for node in graph.nodes:
        if isinstance(node, g.Scan):
            inner, mean = _parameters(node.body)
            total, weights, bits = total + inner, weights + inner, bits + inner * mean
        if not isinstance(node, g.Conv | g.Linear):
            continue
        size = int(g.weight_codes(graph, node).size)
        weights += size
        bits += node.coding.bits * graph.tensor(node.weight).size
        total += size + (0 if node.bias is None else int(graph.tensor(node.bias).size))
    return total, bits / weights if weights else 0.0


# -- what was given --------------------------------------------------------------------------------------


def _graph(model: Measurable, samples: Any) -> tuple[g.Graph, dict[str, Any], float | None]:
    """Graph, card, and size by the papers' formula where it can be computed."""
    if isinstance(model, str | os.PathLike):
        model = load(model)
    if isinstance(model, Model):
        return model.graph, model.card, None
    if isinstance(model, nn.Module):
        from picojoule.graph.capturing import capture

        graph = capture(model, _example(samples))
        return graph, {}, paper_bytes(graph)
    if isinstance(model, g.Graph):
        return model, {}, paper_bytes(model) if model.stage == "captured" else None
    raise ConfigError(
        f"measure_model takes an nn.Module, a Graph, a packed model or a .pj file, got {type(model).__name__}"
    )


def _example(samples: Any) -> torch.Tensor:
    if not isinstance(samples, np.ndarray | torch.Tensor):
        if isinstance(samples, Iterator):
            raise ConfigError(
                "samples is an iterator that can be read once; give a list of batches or an array"
            )
        first = next(iter(samples), None)
        samples = first[0] if isinstance(first, list | tuple) else first
    if samples is None or len(samples) == 0:
        raise DataError("measuring needs at least one sample, the data set is empty; give images, e.g. 1000")
    x = torch.as_tensor(samples)[:1]
    return x if x.is_floating_point() else x.float()


def _batches(samples: Any, labels: Any, batch: int) -> Iterable[tuple[Any, Any]]:
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, got {batch}")
    if isinstance(samples, np.ndarray | torch.Tensor):
        if labels is not None and len(labels) != len(samples):
            raise ShapeError(f"{len(labels)} labels for {len(samples)} samples")
        for i in range(0, len(samples), batch):
            yield samples[i : i + batch], None if labels is None else labels[i : i + batch]
        return
    if labels is not None:
        raise ConfigError("labels belong to samples in one array; give batches as (x, labels)")
    for item in samples:
        yield (item[0], item[1]) if isinstance(item, list | tuple) else (item, None)


def _checked(graph: g.Graph, x: Any) -> Any:
    tensor = torch.as_tensor(x)
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise NonFiniteError(
            f"input {graph.inputs[0].name!r}: {bad} of {tensor.numel()} values are NaN or "
            "infinite; clean the data"
        )
    return tensor


def _progress(items: Iterable[tuple[Any, Any]], enabled: bool, samples: Any) -> Iterable[tuple[Any, Any]]:
    if not enabled:
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("measuring"),
        BarColumn(),
        TextColumn("{task.completed} samples"),
        TimeRemainingColumn(),
    )
    total = len(samples) if isinstance(samples, np.ndarray | torch.Tensor) else None
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        for x, y in items:
            yield x, y
            bar.advance(task, len(x))


def _name(model: Measurable) -> str:
    if isinstance(model, str | os.PathLike):
        return Path(model).stem
    return Path(model.source).stem if isinstance(model, Model) else type(model).__name__
