"""Statement (c): a snapped graph against the trained one on samples. Measured, never assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picojoule.core.errors import DataError, ShapeError
from picojoule.graph import nodes as g
from picojoule.graph import reference
from picojoule.graph.executor import execute
from picojoule.graph.reference import batch_first
from picojoule.graph.snapped import SnappedModel

FLIP_SAMPLES = 64  # spikes are compared on so many samples; they are many already


def compare(
    captured: g.Graph,
    snapped: SnappedModel | g.Graph,
    samples: Any,
    labels: Any = None,
    *,
    output: str | None = None,
    batch: int = 128,
    input_bytes: float | None = None,
) -> dict[str, Any]:
    """Agreement of a snapped model with the captured graph it was made from.

    Args:
        captured: the float graph, run in float64.
        snapped: SnappedModel, or its graph (then the reference interpreter runs it).
        samples: batch-first inputs, an array or one per input.
        labels: class numbers, [B] (or [B, ...] for dense outputs); None leaves accuracy out.
        output: key of the output that is compared; None takes the first.
        input_bytes: real value of one step of u8 samples (Grid.input_bytes).
    Returns:
        Plain JSON: samples, agreement (share of equal argmax over the last output axis; channel axis 0 for
        [C, H, W]), difference (mean absolute difference of outputs), flips (share of changed spikes by
        neuron, on 64 samples), and with labels accuracy_trained, accuracy and drop in points (trained
        minus snapped).
    """
    base = Baseline(captured, samples, labels, output=output, batch=batch, input_bytes=input_bytes)
    return base.against(snapped)


class Baseline:
    """Outputs and spikes of the captured graph, kept for comparing several snapped ones with it.

    Args: see `compare`.
    """

    def __init__(
        self,
        captured: g.Graph,
        samples: Any,
        labels: Any = None,
        *,
        output: str | None = None,
        batch: int = 128,
        input_bytes: float | None = None,
    ) -> None:
        keys = [node.key for node in captured.outputs]
        self.key = output or keys[0]
        if self.key not in keys:
            raise ShapeError(f"the graph has the outputs {keys}, not {output!r}")
        self.captured, self.batch, self.input_bytes = captured, batch, input_bytes
        self.data = as_inputs(captured, samples)
        self.count = next(iter(self.data.values())).shape[0]
        if self.count == 0:
            raise DataError("no samples: give at least one, the gate wants 2000")
        self.labels = None if labels is None else torch.as_tensor(np.asarray(labels))
        if self.labels is not None and len(self.labels) != self.count:
            raise ShapeError(f"{self.count} samples but {len(self.labels)} labels")
        self.neurons = [node.name for node in captured.nodes if isinstance(node, g.Neuron)]
        node = next(n for n in captured.outputs if n.key == self.key)
        self.axis = -3 if len(node.edge.shape) == 3 else -1
        self.real = torch.cat(
            [execute(captured, part)[self.key] for part in map(self._real, self.parts(self.count))]
        )
        self.spikes = self._spikes()

    def parts(self, count: int, first: int = 0) -> Iterator[dict[str, Tensor]]:
        """The samples first..count in batches, by input name."""
        for start in range(first, min(count, self.count), self.batch):
            stop = min(start + self.batch, count, self.count)
            yield {name: value[start:stop] for name, value in self.data.items()}

    def _real(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        """Samples as the captured graph takes them."""
        scale = self.input_bytes
        if scale is None:
            return part
        return {k: v.double() * scale if v.dtype == torch.uint8 else v for k, v in part.items()}

    def _spikes(self) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {name: [] for name in self.neurons}
        for part in map(self._real, self.parts(FLIP_SAMPLES)):
            rows = execute(self.captured, part, watch=self.neurons)
            for name in self.neurons:
                node = self.captured[name]
                counts = (rows[name] / getattr(node, "out_scale", 1.0)).round().to(torch.int8)
                found[name].append(batch_first(counts, node.edge.steps))
        return {name: torch.cat(parts) for name, parts in found.items()}

    def outputs(self, snapped: SnappedModel | g.Graph, count: int, first: int = 0) -> Tensor:
        """Real outputs of a snapped model for the samples first..count."""
        parts = [self._run(snapped, part, [])[self.key] for part in self.parts(count, first)]
        return torch.cat(parts)

    def _run(
        self, snapped: SnappedModel | g.Graph, part: Mapping[str, Tensor], watch: list[str]
    ) -> dict[str, Tensor]:
        if isinstance(snapped, SnappedModel):
            found = snapped.integers(dict(part), watch=watch)
            frac = snapped.op(snapped.keys[self.key]).frac
            return {**found, self.key: found[self.key].double() * 2.0**-frac}
        found = reference.run(snapped, dict(part), watch=watch)
        return {**found, self.key: reference.dequantize(snapped, {self.key: found[self.key]})[self.key]}

    def classes(self, real: Tensor) -> Tensor:
        """Winning class; the first of equals."""
        return real.argmax(self.axis)

    def agreement(self, real: Tensor, first: int = 0) -> float:
        """Share of equal decisions for outputs of the samples from `first` on."""
        want = self.classes(self.real[first : first + len(real)])
        return float((self.classes(real) == want).double().mean())

    def accuracy(self, real: Tensor) -> float:
        """Share of right decisions, over all samples."""
        if self.labels is None:
            raise DataError("accuracy needs labels")
        return float((self.classes(real) == self.labels).double().mean())

    def flips(self, snapped: SnappedModel | g.Graph) -> dict[str, float]:
        """Share of changed spikes by neuron."""
        changed = dict.fromkeys(self.neurons, 0)
        seen = 0
        for part in self.parts(FLIP_SAMPLES):
            found = self._run(snapped, part, self.neurons)
            size = len(next(iter(part.values())))
            for name in self.neurons:
                changed[name] += int((found[name] != self.spikes[name][seen : seen + size]).sum())
            seen += size
        return {name: changed[name] / max(self.spikes[name].numel(), 1) for name in self.neurons}

    def against(self, snapped: SnappedModel | g.Graph) -> dict[str, Any]:
        """All figures of `compare`."""
        real = self.outputs(snapped, self.count)
        figures: dict[str, Any] = {
            "samples": self.count,
            "agreement": self.agreement(real),
            "difference": float((real - self.real).abs().mean()),
            "flips": self.flips(snapped),
        }
        if self.labels is not None:
            trained, now = self.accuracy(self.real), self.accuracy(real)
            figures.update(accuracy_trained=trained, accuracy=now, drop=100 * (trained - now))
        return figures


def as_inputs(graph: g.Graph, samples: Any) -> dict[str, Tensor]:
    """Samples as tensors by input name."""
    names = [node.name for node in graph.inputs]
    if isinstance(samples, Mapping):
        given = dict(samples)
    elif isinstance(samples, list | tuple):
        given = dict(zip(names, samples))
    else:
        given = {names[0]: samples}
    if set(given) != set(names):
        raise ShapeError(f"the graph's inputs are {names}; give samples for each, by name or in order")
    return {name: torch.as_tensor(np.asarray(given[name])) for name in names}
