"""Spikes to look at: rates, dead and saturated neurons, histograms and a raster, neuron layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from picojoule.graph.nodes import Node
from picojoule.measure.tally import Events, Tally

DEAD_SHARE, SATURATED_SHARE = 0.5, 0.25  # shares of a layer from which on it is worth a warning
RASTER_NEURONS, RASTER_LAYERS, BINS = 48, 16, 20


@dataclass
class _Layer:
    node: Node
    steps: int
    fired: Tensor
    full: Tensor
    tally: Tally = field(default_factory=Tally)
    samples: int = 0


class SpikeBook:
    """Accumulates what neurons do: `add` for every batch, then `rows` and `warnings`."""

    def __init__(self) -> None:
        self.layers: dict[str, _Layer] = {}
        self.raster: list[dict[str, Any]] = []
        self.membranes: list[dict[str, Any]] = []

    def add(self, path: str, node: Node, rows: Tensor, e: Events, T: int, scale: float) -> None:
        """Count the spikes of one layer.

        Args:
            rows: spikes [T*B, *shape]; `e` their events.
        """
        B, size = e.count.shape
        layer = self.layers.get(path)
        if layer is None:
            layer = self.layers[path] = _Layer(
                node, T, torch.zeros(size).double(), torch.zeros(size).double()
            )
            if len(self.raster) < RASTER_LAYERS and "/" not in path and B:
                self.raster.append(_raster(path, rows, T, scale))
        high = node.edge.kind.high
        layer.fired += e.nonzero.sum(0)
        if high <= 1:
            layer.full += e.nonzero.sum(0)
        else:
            layer.full += (rows >= (high - 0.5) * scale).reshape(T * B, size).sum(0).double()
        layer.samples += B * T
        layer.tally.add(B, count=e.count.sum(1), nonzero=e.nonzero.sum(1))
        layer.tally.close()

    def rows(self, n: int) -> list[dict[str, Any]]:
        """One dict a layer: neurons, spikes, rate, active, dead, saturated (shares), histogram of rates."""
        found = []
        for path, layer in self.layers.items():
            size, chances = len(layer.fired), max(1, layer.samples)
            steps = chances / max(n, 1)
            share = layer.fired / chances
            error = layer.tally.error("count")
            repeated = layer.tally.samples("count").size / max(n, 1)  # entries a sample, > 1 inside a Scan
            found.append(
                {
                    "name": path,
                    "module": layer.node.module,
                    "kind": str(layer.node.edge.kind),
                    "neurons": size,
                    "steps": round(steps),
                    "spikes": layer.tally.mean("count") * repeated,
                    "rate": layer.tally.mean("count") * repeated / max(1, size * steps),
                    "rate_error": None if error is None else error / max(1, size * layer.steps),
                    "active": float(share.mean()) if size else 0.0,
                    "dead": float((layer.fired == 0).double().mean()) if size else 0.0,
                    "saturated": float((layer.full == chances).double().mean()) if size else 0.0,
                    "histogram": torch.histc(share, BINS, 0.0, 1.0).int().tolist(),
                }
            )
        return found

    def warnings(self, n: int) -> list[str]:
        """Layers with many neurons that never fire, or always do."""
        found = []
        for number, row in enumerate(self.rows(n), 1):
            head, on = f"layer {number} ({row['name']})", f"on {n:,} samples"
            if row["dead"] >= DEAD_SHARE:
                found.append(
                    f"{head}: {100 * row['dead']:.0f} % of neurons never fire {on}; lower the threshold, or "
                    "prune them with compress and shrink"
                )
            if row["saturated"] >= SATURATED_SHARE:
                found.append(
                    f"{head}: {100 * row['saturated']:.0f} % of neurons fire at their maximum in every "
                    f"step {on}; raise the threshold, or replace them by a bias"
                )
        return found


def _raster(path: str, rows: Tensor, T: int, scale: float) -> dict[str, Any]:
    """Spikes of the first sample, evenly chosen neurons: {layer, neurons, steps, spikes [n][T]}."""
    first = (rows.reshape(T, -1, math.prod(rows.shape[1:]))[:, 0] / scale).round().int()
    pick = torch.linspace(0, first.shape[1] - 1, min(RASTER_NEURONS, first.shape[1])).long()
    return {"layer": path, "neurons": pick.tolist(), "steps": T, "spikes": first[:, pick].T.tolist()}
