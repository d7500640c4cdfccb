"""Counts of a network on real data, node by node: spikes, synaptic operations, AC and MAC, neuron updates.

    SOP_exact = sum over input spikes of their outgoing synapses = sum(conv(s, ones))
    SOP_paper = T * rate * FL                FL: dense operations of one step, padding included
    effective = the same without zero weights (products of two values: without zero operands)

A spike of size a counts a times (unary schedule); `bitplane` counts its one-bits. A layer is AC when its
operand is declared binary, ternary, integer or a spike time, and the data is checked against that; any other
operand makes it MAC, and `why` says what the operand is. Everything is a mean over samples of one inference
(all T steps).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from picojoule.core.errors import ConfigError, DataError, KindError
from picojoule.graph import nodes as g
from picojoule.graph.nodes import Graph, Node
from picojoule.measure import fans
from picojoule.measure.membranes import LAYERS, membrane_histogram
from picojoule.measure.observe import observe
from picojoule.measure.places import Synaptic, all_nodes, not_counted, repeats_of, spike_units, weights_of
from picojoule.measure.side import side_counts
from picojoule.measure.spikes import SpikeBook
from picojoule.measure.tally import Events, Tally, events, finite
from picojoule.measure.trace_back import (
    before_repeat,
    constant_in_time,
    explain,
    sums_of_spikes,
    unfolded_norms,
)

POLICIES = ("cached", "every step")


@dataclass(frozen=True)
class LayerCount:
    """One synaptic layer, per inference.

    Fields: `operand` kind of the input that decides; `arithmetic` "AC" or "MAC" and `why`; `fl` dense
    operations of one step, `evaluations` steps they are executed in; `sop` exact, `sop_error` its standard
    error, `sop_paper`, `effective`, `bitplane`; `rate` mean spike count per input neuron and step,
    `active` fraction of non-zeros; `ac`, `mac` what is executed; `mac_uncached` without caching.
    """

    name: str
    module: str
    type: str
    operand: str
    arithmetic: str
    why: str
    steps: int
    evaluations: int
    inputs: int
    outputs: int
    weights: int
    w_bits: float
    fl: int
    spikes: float = 0.0
    rate: float = 0.0
    rate_error: float | None = None
    active: float = 0.0
    sop: float = 0.0
    sop_error: float | None = None
    sop_paper: float = 0.0
    effective: float = 0.0
    bitplane: float = 0.0
    ac: float = 0.0
    mac: float = 0.0
    mac_uncached: float = 0.0

    @property
    def dense(self) -> int:
        """Dense operations of all T steps."""
        return self.fl * self.steps


@dataclass
class Counts:
    """All counts of one graph on some data.

    Fields: `layers` synaptic layers in order; `neurons` one row a neuron layer (see `spikes.SpikeBook`);
    `updates` {ac, mac, compares} of neurons; `other` {adds, mults, masks, compares} of pools, residuals,
    readouts and spike masks; `not_counted` operators that have no rule; `outputs` of every sample when asked.
    """

    layers: list[LayerCount]
    neurons: list[dict[str, Any]]
    updates: dict[str, float]
    other: dict[str, float]
    n_samples: int
    T: int
    policy: str
    not_counted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    raster: list[dict[str, Any]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    @property
    def ac(self) -> float:
        """Accumulates of all synaptic layers."""
        return math.fsum(layer.ac for layer in self.layers)

    @property
    def mac(self) -> float:
        """Multiply-accumulates of all synaptic layers."""
        return math.fsum(layer.mac for layer in self.layers)

    @property
    def sop(self) -> float:
        """Exact synaptic operations of the spiking layers."""
        return math.fsum(layer.sop for layer in self.layers if layer.arithmetic == "AC")


def count(
    graph: Graph,
    batches: Iterable[Any],
    *,
    first_layer: str = "cached",
    allow_unfolded: bool = False,
    expand_sums: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Counts:
    """Count every operation of a graph on data.

    Args:
        graph: captured or snapped.
        batches: batch-first inputs of the graph, one batch at a time.
        first_layer: "cached": what is constant over time is computed once a sample; "every step": T times.
        allow_unfolded: count a normalisation between spikes and a synapse as MAC with a warning instead of
            refusing it.
        expand_sums: an average or sum of k binary or integer spikes is a count up to k D, as the packed file
            holds it, and its reader accumulates; False counts such readers as MAC.
        dtype: precision of captured graphs.
    Raises:
        DataError: no samples. KindError: data contradicts a declared kind, or an unfolded normalisation
        feeds a synapse. NonFiniteError: NaN or infinity. All name the layer.
    """
    if first_layer not in POLICIES:
        raise ConfigError(f"first_layer must be one of {', '.join(map(repr, POLICIES))}, got {first_layer!r}")
    counter = Counter(graph, first_layer, allow_unfolded, expand_sums)
    for batch in batches:
        counter.feed(batch, dtype)
    return counter.result()


class Counter:
    """Accumulates counts batch by batch: `feed`, then `result`."""

    def __init__(
        self,
        graph: Graph,
        first_layer: str = "cached",
        allow_unfolded: bool = False,
        expand_sums: bool = True,
    ) -> None:
        self.graph, self.policy = graph, first_layer
        self.places: dict[str, tuple[Graph, Node]] = dict(all_nodes(graph))
        self.repeats = {path: repeats_of(graph, path) for path in self.places}
        self.scales = spike_units(graph)
        self.kinds = {path: node.edge.kind for path, (_, node) in self.places.items()}
        if expand_sums:
            for path, (kind, unit) in sums_of_spikes(self.places, self.scales).items():
                self.kinds[path], self.scales[path] = kind, unit
        self.constant = constant_in_time(graph)
        self.hoisted = before_repeat(graph)
        self.tallies: dict[str, Tally] = {}
        self.fan: dict[str, tuple[Tensor, Tensor | None]] = {}
        self.book = SpikeBook()
        self.seen: set[str] = set()
        self.events: dict[str, Events] = {}
        self.looks_binary: dict[str, bool] = {}
        self.n = 0
        self.labels: list[int] = []
        self.warnings: list[str] = []
        for norm, layer in unfolded_norms(graph):
            text = (
                f"layer {layer!r}: an unfolded normalisation ({norm!r}) stands between spikes and its "
                "synapses, so they multiply real numbers; fold it (put it after the convolution)"
            )
            if not allow_unfolded:
                raise KindError(f"{text}, or count it as MAC with allow_unfolded=True")
            self.warnings.append(f"{text}; counted as MAC")

    # -- data -----------------------------------------------------------------------------------------

    def feed(self, batch: Any, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Count one batch; its outputs by key."""
        first = batch[0] if isinstance(batch, list | tuple) else batch
        first = next(iter(first.values())) if isinstance(first, dict) else first
        self.B = int(first.shape[0])
        if self.B == 0:
            return {}
        self.events = {}
        out = observe(self.graph, batch, self._see, dtype)
        for tally in self.tallies.values():
            tally.close()
        self.n += self.B
        only = next(iter(out.values()))
        if len(out) == 1 and only.dim() == 2:
            self.labels += only.argmax(1).tolist()
        return out

    def _see(self, path: str, node: Node, x: list[Tensor], out: Tensor) -> None:
        if isinstance(node, g.Input) and not path.count("/"):
            self._border(path, node, out)
        elif isinstance(node, g.Conv | g.Linear):
            self._weighted(path, node, x[0])
        elif isinstance(node, g.MatMul):
            self._product(path, node, x)
        elif isinstance(node, g.Neuron) or (path in self.scales and isinstance(node, g.Scan | g.Opaque)):
            self._fire(path, node, out)
            if isinstance(node, g.Neuron) and path not in self.seen and len(self.seen) < LAYERS:
                self._membranes(path, node, x[0])
        graph, _ = self.places[path]
        extra = side_counts(graph, node, x, self._rates(path, node, x), self.B, out, self._once(path))
        if extra:
            self._tally(path).add(self.B, **extra)

    def _once(self, path: str) -> bool:
        """Rows that are computed once a sample under the policy."""
        return self.policy == "cached" and path in self.constant

    def _tally(self, path: str) -> Tally:
        return self.tallies.setdefault(path, Tally())

    def _place(self, path: str) -> str:
        _, node = self.places[path]
        where = f" of {node.module!r}" if node.module and node.module != node.name else ""
        return f"layer {path!r}{where}" + (f" ({node.source})" if node.source else "")

    def _border(self, path: str, node: g.Input, out: Tensor) -> None:
        finite(out, f"input {path!r}")
        if node.edge.kind.is_spikes:
            self._events(path, out)

    def _steps(self, path: str) -> int:
        return max(self.places[path][1].edge.steps, 1)

    def _source(self, path: str, index: int = 0) -> str:
        """Path of the node that feeds input `index`."""
        head = path.rpartition("/")[0]
        name = self.places[path][1].inputs[index]
        return f"{head}/{name}" if head else name

    def _events(self, source: str, rows: Tensor) -> Events:
        """Events of an edge, computed and checked once a batch (once a step inside a Scan)."""
        key = source
        if key not in self.events or "/" in source:
            kind = self.kinds[source]
            scale = self.scales.get(source, 1.0)
            self.events[key] = events(rows, kind, scale, self._steps(source), self._place(source))
        return self.events[key]

    def _fire(self, path: str, node: Node, out: Tensor) -> None:
        if node.edge.kind.is_spikes:
            found = self._events(path, out)
            self.book.add(path, node, out, found, self._steps(path), self.scales.get(path, 1.0))

    def _membranes(self, path: str, node: g.Neuron, x: Tensor) -> None:
        """Look at the membranes of the first samples, once a layer."""
        self.seen.add(path)
        found = membrane_histogram(self.places[path][0], node, path, x, max(node.edge.steps, 1))
        if found is not None and "/" not in path:
            self.book.membranes.append(found)

    def _rates(self, path: str, node: Node, x: list[Tensor]) -> list[Events | None]:
        """Events of the inputs of a node where they are spikes; only for nodes with side counts."""
        if not isinstance(node, g.Add | g.Mul | g.Logic | g.Pool | g.Mean | g.Readout | g.TimeMix):
            return []
        found: list[Events | None] = []
        for i, rows in enumerate(x):
            source = self._source(path, i)
            spiking = self.kinds[source].is_spikes
            found.append(self._events(source, rows) if spiking else None)
        return found

    # -- synapses -------------------------------------------------------------------------------------

    def _weighted(self, path: str, node: g.Conv | g.Linear, x: Tensor) -> None:
        graph, _ = self.places[path]
        shape = tuple(x.shape[1:])
        if path not in self.fan:
            self.fan[path] = (fans.fan_out(graph, node, shape), fans.effective_fan_out(graph, node, shape))
        fan, effective = self.fan[path]
        source = self._source(path)
        tally = self._tally(path)
        if self.kinds[source].is_spikes:
            e = self._events(source, x)
            sop = e.count @ fan
            tally.add(
                self.B,
                sop=sop,
                effective=sop if effective is None else e.count @ effective,
                bitplane=sop if e.popcount is e.count else e.popcount @ fan,
                spikes=e.count.sum(1),
                nonzero=e.nonzero.sum(1),
            )
            return
        finite(x, self._place(path))
        self._look(source, x)
        active = (x != 0).reshape(self._steps(source), -1, math.prod(shape)).sum(0).double()
        tally.add(
            self.B,
            effective=active @ (fan if effective is None else effective),
            nonzero=active.sum(1),
        )

    def _look(self, source: str, x: Tensor) -> None:
        """Remember whether a real operand has carried anything but 0 and 1 so far."""
        if self.looks_binary.get(source, True):
            self.looks_binary[source] = bool((x * x == x).all()) and bool(x.any())

    def _product(self, path: str, node: g.MatMul, x: list[Tensor]) -> None:
        """a @ b: one operand's spikes select rows of the other; two: both directions and coincidences."""
        tally, T = self._tally(path), max(node.edge.steps, 1)
        a, b = x
        lead = math.prod(node.edge.shape[:-2])
        for side, rows, fan in (("a", a, b.shape[-1]), ("b", b, a.shape[-2])):
            source = self._source(path, 0 if side == "a" else 1)
            wide = lead // max(1, math.prod(rows.shape[1:-2]))  # a broadcast operand is read so many times
            if self.kinds[source].is_spikes:
                e = self._events(source, rows)
                tally.add(
                    self.B,
                    **{
                        f"sop_{side}": e.count.sum(1) * fan * wide,
                        f"bitplane_{side}": e.popcount.sum(1) * fan * wide,
                        f"spikes_{side}": e.count.sum(1),
                        f"nonzero_{side}": e.nonzero.sum(1),
                    },
                )
            else:
                finite(rows, self._place(path))
        units = [self.scales.get(self._source(path, i), 1.0) for i in (0, 1)]
        sizes = [(v / u).abs().double() for v, u in zip(x, units)]
        kinds = [self.kinds[self._source(path, i)].is_spikes for i in (0, 1)]
        # a unary spike of one operand meets a non-zero number of the other
        for side, spiking in zip("ab", kinds):
            left = (sizes[0] if side == "a" and spiking else (sizes[0] != 0).double()).sum(-2)
            right = (sizes[1] if side == "b" and spiking else (sizes[1] != 0).double()).sum(-1)
            both = (left * right).flatten(1).sum(1).reshape(T, -1).sum(0)
            tally.add(self.B, **{f"effective_{side}": both})

    # -- results --------------------------------------------------------------------------------------

    def result(self) -> Counts:
        """Means over all samples so far.

        Raises:
            DataError: there were none.
        """
        if not self.n:
            raise DataError(
                "measuring needs at least one sample, the data set is empty; give images, e.g. 1000"
            )
        layers = [
            self._layer(path, node)
            for path, (_, node) in self.places.items()
            if isinstance(node, g.Conv | g.Linear | g.MatMul)
        ]
        side = {
            name: math.fsum(t.mean(name) for t in self.tallies.values())
            for name in ("update_ac", "update_mac", "update_compares", "adds", "mults", "masks", "compares")
        }
        warnings = [*self.warnings, *self.book.warnings(self.n)]
        if self.n == 1:
            warnings.append(
                "one sample: no standard errors; take at least 1,000 samples for figures to publish"
            )
        elif self.n < 1000:
            warnings.append(f"{self.n} samples: standard errors are rough; 1,000 or more are advised")
        for source, binary in self.looks_binary.items():
            if binary and source not in self.constant:
                warnings.append(
                    f"node {source!r} is declared real but carried only 0 and 1 in {self.n:,} samples; its "
                    "readers are counted as MAC: declare kind = kinds.binary if that always holds"
                )
        return Counts(
            layers=layers,
            neurons=self.book.rows(self.n),
            updates={k: side[f"update_{k}"] for k in ("ac", "mac", "compares")},
            other={k: side[k] for k in ("adds", "mults", "masks", "compares")},
            n_samples=self.n,
            T=max((node.edge.steps for _, node in self.places.values()), default=0) or 1,
            policy=self.policy,
            not_counted=not_counted(self.places),
            warnings=warnings,
            raster=self.book.raster,
            labels=self.labels,
        )

    def _layer(self, path: str, node: Synaptic) -> LayerCount:
        graph, _ = self.places[path]
        tally, repeats = self._tally(path), self.repeats[path]
        sources = [self._source(path, i) for i in range(len(node.inputs))]
        spiking = [i for i, s in enumerate(sources) if self.kinds[s].is_spikes]
        index, suffix = 0, ""
        if isinstance(node, g.MatMul):
            index = min(spiking, key=lambda i: tally.mean(f"sop_{'ab'[i]}"), default=0)
            suffix = "_" + "ab"[index]
        seen = max(node.edge.steps, 1) * repeats  # rows a sample; a hoisted layer stands for T steps
        steps = self.hoisted.get(path, seen) if not spiking else seen
        shapes = [self.places[s][1].edge.shape for s in sources]
        kernel, weights, w_bits = weights_of(
            graph, node, shapes, self.places[sources[1 - index]][1] if suffix else None
        )
        fl = fans.dense_ops(node, shapes, kernel)
        inputs = math.prod(shapes[index])
        evaluations = 1 if self._once(path) or steps != seen else steps
        base = LayerCount(
            name=path,
            module=node.module,
            type=type(node).__name__,
            operand=str(self.kinds[sources[index]]),
            arithmetic="AC" if spiking else "MAC",
            why=explain(self.places, sources[index], self.kinds[sources[index]]),
            steps=steps,
            evaluations=evaluations,
            inputs=inputs,
            outputs=node.edge.size,
            weights=weights,
            w_bits=w_bits,
            fl=fl,
            effective=tally.mean(f"effective{suffix}") * (evaluations / seen if not spiking else 1),
            active=tally.mean(f"nonzero{suffix}") / max(1, inputs * seen),
        )
        if not spiking:
            return replace(base, mac=float(fl * base.evaluations), mac_uncached=float(fl * steps))
        events_per_neuron = max(1, inputs * steps)
        rate = tally.mean(f"spikes{suffix}") / events_per_neuron
        error = tally.error(f"spikes{suffix}")
        sop = tally.mean(f"sop{suffix}")
        return replace(
            base,
            spikes=tally.mean(f"spikes{suffix}"),
            rate=rate,
            rate_error=None if error is None else error / events_per_neuron,
            sop=sop,
            sop_error=tally.error(f"sop{suffix}"),
            sop_paper=steps * rate * fl,
            bitplane=tally.mean(f"bitplane{suffix}"),
            ac=sop,
        )
