"""A packed model as a function on NumPy arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from picojoule.core.errors import (
    ConfigError,
    KindError,
    MissingExtraError,
    NonFiniteError,
    ShapeError,
    suggest,
)
from picojoule.deploy.mapped import Mapped
from picojoule.deploy.read import read, read_mapped
from picojoule.deploy.sizes import payload_bytes
from picojoule.graph import nodes as n

Array = np.ndarray
Data = Array | Mapping[str, Array]
ZOO = Path(__file__).with_name("zoo")


class Model:
    """A packed model: `model(x)` gives real values, `model.integers(x)` the exact integers behind them.

    Args:
        graph: stage "snapped".
        card: what the file says about the model.
        engine: executes the graph: `engine(inputs) -> {key: int64}` with `stream()` and `info()`.
        source: where it came from, for people.
        tune_note: what became of the table of measured kernels beside the file; empty without one.
        mapped: the file whose pages hold constants of the graph, if any.
    """

    def __init__(
        self,
        graph: n.Graph,
        card: dict[str, Any],
        *,
        engine: Any,
        source: str = "",
        tune_note: str = "",
        mapped: Mapped | None = None,
    ) -> None:
        self.graph, self.card, self.engine, self.source = graph, card, engine, source
        self.tune_note, self._mapped = tune_note, mapped

    def _check(self) -> None:
        """Before constants of the graph are read again."""
        if self._mapped is not None:
            self._mapped.check()

    def __getstate__(self) -> dict[str, Any]:
        self._check()
        return self.__dict__ | {"_mapped": None}

    def __call__(self, x: Data) -> Array | dict[str, Array]:
        """Outputs in real units, integer * 2^-frac.

        Args:
            x: batch-first [B, ...] or, for an input with steps, [B, T, ...]; floats, or uint8 where the net
                reads bytes. A dict by name when there are several inputs.
        Returns:
            float64 [B, ...] (or [B, T, ...]); a dict by key when there are several outputs.
        Raises:
            ShapeError, KindError, NonFiniteError: x is not what the inputs hold.
        """
        return real_values(self.graph, self.integers(x))

    def integers(self, x: Data) -> dict[str, Array]:
        """Outputs as the exact integers of the graph, int64 by key."""
        return self.engine(validate(self.graph, x))

    def predict(self, x: Data) -> Array:
        """Label of each sample [B]: the place of the largest value of the only output [B, K]."""
        y = self(x)
        if isinstance(y, dict):
            raise ShapeError(
                f"predict needs one output, this model has {sorted(y)}; call the model and choose"
            )
        if y.ndim != 2:
            raise ShapeError(f"predict needs an output [B, K], got {list(y.shape)}; call the model instead")
        return y.argmax(axis=1)

    def stream(self) -> ModelStream:
        """A new sequence that arrives in chunks.

        Raises:
            CausalityError: a node looks at future steps.
        """
        self._check()
        return ModelStream(self.graph, self.engine.stream())

    def info(self) -> dict[str, Any]:
        """Inputs, outputs, T, sizes, the card and what the engine says about itself."""
        self._check()
        return {
            "source": self.source,
            "inputs": describe_edges(self.graph.inputs),
            "outputs": describe_edges(self.graph.outputs),
            "T": max((node.edge.steps for node in self.graph.nodes), default=0),
            "nodes": len(self.graph.nodes),
            "payload_bytes": payload_bytes(self.graph),
            "paper_bytes": self.card.get("paper_bytes"),
            "card": self.card,
            "tune": self.tune_note,
            "engine": self.engine.info(),
        }


class ModelStream:
    """A sequence in progress: `stream(chunk)` gives the outputs of the chunk in real units."""

    def __init__(self, graph: n.Graph, stream: Any) -> None:
        self._graph, self._stream = graph, stream

    def __call__(self, x: Data) -> Array | dict[str, Array]:
        """Outputs for the next steps.

        Args:
            x: [B, n, ...] for inputs with steps, n >= 1 as it comes; [B, ...] for the others.
        """
        return real_values(self._graph, self.integers(x))

    def integers(self, x: Data) -> dict[str, Array]:
        """The same as exact integers, int64 by key."""
        return self._stream.step(validate(self._graph, x, chunk=True))


def load(
    source: str | os.PathLike[str],
    *,
    threads: int = 1,
    isa: str = "auto",
    kernels: Mapping[str, str] | None = None,
    mode: str = "auto",
    tuned: bool = True,
    mmap: bool = True,
) -> Model:
    """Load a packed model from a file, or one that is shipped by its name.

    Args:
        source: path of a .pj file, or a name of `shipped()`.
        threads: most threads of one call.
        isa: instruction set, "auto" or one that `pj doctor` lists.
        kernels: kernel by node name, to replace the planner's choice.
        mode: how threads share the work, "auto", "throughput" (whole samples) or "latency" (rows of one).
        tuned: apply the table that `pj bench --tune` stored beside the file; one that is damaged, or of
            another file or machine, is ignored with a warning.
        mmap: map the file, so that processes share what they hold of it; calls never read it again. A file
            that is changed in place meanwhile is noticed by name when a stream is opened or the model is
            pickled. False copies it.
    Raises:
        ConfigError: neither a file nor a shipped name; the nearest name is suggested.
        FormatError: the file is malformed; the field is named.
    """
    path = locate(source)
    graph, card, mapped = read_mapped(path) if mmap else (*read(path), None)
    try:
        from picojoule.deploy.engine import ISAS, Engine
        from picojoule.deploy.tune import read_table
    except ImportError as missing:
        raise MissingExtraError(
            f"the native engine cannot be loaded ({missing}); reinstall picojoule and see `pj doctor`"
        ) from None
    table, note = None, ""
    if tuned:
        table, note = read_table(path, ISAS[-1] if isa == "auto" else isa)
        if note and table is None:
            warnings.warn(note, stacklevel=2)
    engine = Engine(
        graph, threads=threads, isa=isa, kernels=kernels, rates=card.get("rates"), tuned=table, mode=mode
    )
    return Model(graph, card, engine=engine, source=str(path), tune_note=note, mapped=mapped)


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in ZOO.glob("*.pj"))


def locate(source: str | os.PathLike[str]) -> Path:
    """The file of a path or of a shipped name."""
    path = Path(source)
    if path.exists():
        return path
    name = os.fspath(source)
    if path.suffix == ".pj" or path.parent != Path("."):
        raise ConfigError(f"no file {name!r}; check the path, or name a shipped model: {_known()}")
    if name not in shipped():
        hint = suggest(name, shipped()) if shipped() else "no models are shipped"
        raise ConfigError(f"{name!r} is neither a file nor a shipped model; {hint}")
    return ZOO / f"{name}.pj"


def _known() -> str:
    return ", ".join(shipped()) or "(none in this installation)"


def real_values(graph: n.Graph, integers: Mapping[str, Array]) -> Array | dict[str, Array]:
    """Integer outputs in real units: i * 2^-frac."""
    out = {node.key: integers[node.key] * 2.0**-node.edge.kind.frac for node in graph.outputs}
    return next(iter(out.values())) if len(out) == 1 else out


def validate(graph: n.Graph, x: Data, *, chunk: bool = False) -> dict[str, Array]:
    """Arrays by input name, proven to be what the inputs hold.

    Args:
        x: an array, or arrays by input name.
        chunk: any number of steps is welcome (streams).
    Raises:
        ShapeError, KindError, NonFiniteError: names the input, what was given and what is wanted.
    """
    nodes = {node.name: node for node in graph.inputs}
    given = x if isinstance(x, Mapping) else {next(iter(nodes)): x}
    if given.keys() != nodes.keys():
        raise ShapeError(
            f"this model has the inputs {sorted(nodes)}, got {sorted(map(str, given))}; pass a dict by name"
        )
    arrays = {name: _validate_one(node, given[name], chunk) for name, node in nodes.items()}
    if len(arrays) > 1 and len({array.shape[0] for array in arrays.values()}) > 1:
        batches = {name: array.shape[0] for name, array in arrays.items()}
        raise ShapeError(f"inputs differ in batch size: {batches}")
    return arrays


def _validate_one(node: n.Input, value: Any, chunk: bool) -> Array:
    array, edge = np.asarray(value), node.edge
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise KindError(f"input {node.name!r} takes numbers, got {array.dtype}; convert to float32 or uint8")
    rows = ((edge.steps,) if edge.steps else ()) + edge.shape
    steps_free = chunk and edge.steps
    fits = (
        array.ndim == len(rows) + 1
        and array.shape[2 if steps_free else 1 :] == rows[1 if steps_free else 0 :]
    )
    if not fits or (steps_free and array.shape[1] < 1):
        wanted = ", ".join(("B", "n" if steps_free else str(rows[0]), *map(str, rows[1:]))) if rows else "B"
        hint = "; add the batch axis: x[None]" if array.shape == rows else ""
        raise ShapeError(f"input {node.name!r} must be [{wanted}], got {list(array.shape)}{hint}")
    if node.table is not None and array.dtype != np.uint8:
        raise KindError(f"input {node.name!r} reads bytes 0..255: pass uint8, not {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NonFiniteError(f"input {node.name!r} holds NaN or infinity; clean the data first")
    if edge.kind.is_spikes and node.table is None and array.size:
        low, high = array.min(), array.max()
        if low < edge.kind.low or high > edge.kind.high or (array.dtype.kind == "f" and (array % 1).any()):
            raise KindError(
                f"input {node.name!r} takes {edge.kind} spikes {edge.kind.low}..{edge.kind.high}, got values "
                f"in {low}..{high}"
            )
    return array


def describe_edges(nodes: tuple[n.Input, ...] | tuple[n.Output, ...]) -> list[dict[str, Any]]:
    """Name, kind, row shape and steps of inputs or outputs."""
    return [
        {
            "name": node.key if isinstance(node, n.Output) else node.name,
            "kind": str(node.edge.kind),
            "shape": list(node.edge.shape),
            "steps": node.edge.steps,
            "bytes_input": getattr(node, "table", None) is not None,
        }
        for node in nodes
    ]
