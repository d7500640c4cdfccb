"""The native engine on NumPy arrays: executes a snapped graph on integers, without torch.

`Engine(graph)` hands every node to the C++ builder, which checks shapes and ranges again before it keeps
anything; `engine(x)` equals `graph.reference.run` bit for bit for every kernel, instruction set and thread
count. `engine.stream()` takes the sequence in chunks and gives the same bits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from picojoule.core.errors import CausalityError, KindError, NonFiniteError, PackError, ShapeError
from picojoule.core.native import native
from picojoule.graph import nodes as g

_native = native()
# Instruction sets that this processor runs, narrowest first; "auto" takes the last.
ISAS: tuple[str, ...] = tuple(_native.Engine.isas())
MOVES = ("view", "permute", "slice", "expand", "pad", "flip", "roll")
STREAM_LIMIT = 1 << 31  # steps; 64-bit membranes cannot overflow before
_INTEGERS = (np.int8, np.int16, np.int32, np.int64)
_PASSED = frozenset(np.dtype(t) for t in ("i1", "i2", "i4", "i8", "u1", "?", "f4", "f8"))  # as they come

Array = np.ndarray
Data = Mapping[str, Array] | Array


class Engine:
    """A snapped graph ready to run on any number of samples; safe to call from several threads.

    Args:
        graph: stage "snapped".
        threads: most threads one call may use; samples are split when there are enough, else rows.
        isa: "auto" (the widest), or one of `ISAS`: "scalar" (the plain oracle kernels), "generic" (128-bit,
            any processor), "neon", "avx2", "avx512" (Ice Lake or Zen 4 and newer).
        kernels: kernel by node name, instead of the planner's choice; see `kernels`.
        rates: share of set bits by node name and bit-plane (`card["rates"]`); the planner's guess without.
        tuned: what `deploy.tune` measured, {"kernel", "boundary"} by node name; a kernel that cannot run
            here is passed over.
        mode: "throughput" gives every worker whole samples, "latency" lets all workers share the rows of one
            sample after the other, "auto" does the first while samples fill all workers, then the second.
        max_bytes: largest working memory of one sample.
    Raises:
        PackError: the graph is not snapped, or a node is refused; the message names the node.
    """

    def __init__(
        self,
        graph: g.Graph,
        *,
        threads: int = 1,
        isa: str = "auto",
        kernels: Mapping[str, str] | None = None,
        rates: Mapping[str, Sequence[float]] | None = None,
        tuned: Mapping[str, Mapping[str, Any]] | None = None,
        mode: str = "auto",
        max_bytes: int = 1 << 32,
    ) -> None:
        if graph.stage != "snapped":
            raise PackError(
                f"the engine runs snapped graphs, this one is {graph.stage!r}: "
                "write graph.snap(captured).graph()"
            )
        self.graph, self.threads = graph, threads
        self._settings: dict[str, Any] = {
            "threads": threads,
            "isa": isa,
            "kernels": dict(kernels or {}),
            "rates": {name: float(np.mean(row)) for name, row in (rates or {}).items()},
            "tuned": {name: row["kernel"] for name, row in (tuned or {}).items()},
            "boundaries": {
                name: float(row["boundary"]) for name, row in (tuned or {}).items() if "boundary" in row
            },
            "mode": mode,
            "spin": "torch" not in sys.modules,
            "max_bytes": max_bytes,
        }
        self._plan = build(graph)
        self._steps = max((node.edge.steps for node in graph.nodes), default=0) or 1
        self._native = self._make(stream=False)
        self._streaming: Any = None

    def __call__(self, inputs: Data) -> dict[str, Array]:
        """Integer outputs by key, int64: [B, *shape], or [B, T, *shape] for edges with steps.

        Args:
            inputs: [B, *shape] or [B, T, *shape] floats or integers; a dict by input name when there are
                several. Inputs with a table take uint8.
        Raises:
            ShapeError: a wrong shape or dtype.
            NonFiniteError: NaN or infinity; the input is named.
            KindError: spikes outside the kind of their input; it is named.
        """
        arrays, batch = _prepare(self.graph, inputs, self._steps)
        outputs = _empty(self.graph, batch, self._steps)
        _run(self._native, batch, self._steps, 0, arrays, list(outputs.values()), None)
        return outputs

    def stream(self) -> Stream:
        """A new sequence that arrives in chunks.

        Raises:
            CausalityError: a node needs steps that have not come yet; it is named.
        """
        for node in self.graph.nodes:
            if isinstance(node, g.TimeMix) and not node.causal:
                raise CausalityError(
                    f"TimeMix {node.name!r} looks at future steps and cannot be streamed; "
                    "call the engine on the whole sequence"
                )
        if self._streaming is None:
            self._streaming = self._make(stream=True)
        return Stream(self.graph, self._streaming, self._steps, stream_limit(self.graph))

    def kernels(self, node: str) -> list[str]:
        """Names of the kernels that can run a node here; the first is the scalar oracle."""
        return self._native.kernels(node)

    def info(self) -> dict[str, Any]:
        """Instruction set, threads, memory of one sample; of every node kernel, constant bytes and why, the
        rate it was chosen for, and the rate (`boundary`) beyond which a sample takes the kernel `other`.
        """
        return {
            "isa": self._native.isa,
            "threads": self.threads,
            "mode": self._settings["mode"],
            "arena_bytes": self._native.arena_bytes,
            "state_bytes": self._native.state_bytes,
            "nodes": self._native.info(),
        }

    def profile(self, inputs: Data) -> list[dict[str, Any]]:
        """Every step of one call on one thread: node, what ran (kernel, pack, unpack), seconds, and how many
        samples took the node's other kernel because their rate passed the boundary (`switched`).
        """
        arrays, batch = _prepare(self.graph, inputs, self._steps)
        outputs = _empty(self.graph, batch, self._steps)
        return self._native.profile(batch, self._steps, arrays, list(outputs.values()))

    def _make(self, *, stream: bool) -> Any:
        try:
            return _native.Engine(self._plan, stream=stream, **self._settings)
        except ValueError as error:
            raise PackError(str(error)) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "settings": self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        settings = dict(state["settings"])
        settings.pop("spin")
        kernels, boundaries = settings.pop("tuned"), settings.pop("boundaries")
        settings["tuned"] = {
            name: {"kernel": kernel} | ({"boundary": boundaries[name]} if name in boundaries else {})
            for name, kernel in kernels.items()
        }
        self.__init__(state["graph"], **settings)


class Stream:
    """One or more sequences in progress (a batch); made by `Engine.stream`.

    `step(chunk)` returns the outputs of the chunk: [B, n, *shape] for edges with steps, and for those after
    a readout [B, *shape], the value after the newest step. Any chunking gives the bits of the whole.
    """

    def __init__(self, graph: g.Graph, native: Any, block: int, limit: int) -> None:
        self._graph, self._native, self._block, self._limit = graph, native, block, limit
        self._state: Array | None = None
        self._batch = 0
        self.position = 0

    def step(self, inputs: Data, *, steps: int | None = None) -> dict[str, Array]:
        """Outputs for the next steps.

        Args:
            inputs: chunk [B, n, *shape] of timed inputs, [B, *shape] of others, as in `Engine.__call__`.
            steps: n when no input is timed (default 1).
        Raises:
            ShapeError: another batch than before, or more steps than the proven bounds allow.
        """
        count = _chunk_steps(self._graph, inputs, steps)
        arrays, batch = _prepare(self._graph, inputs, count)
        if self._state is None:
            self._state = np.empty(batch * self._native.state_bytes, np.uint8)
            self._batch = batch
        if batch != self._batch:
            raise ShapeError(
                f"this stream began with a batch of {self._batch}, got {batch}; open another stream"
            )
        if self.position + count > self._limit:
            raise ShapeError(
                f"the bounds of this graph are proven for {self._limit} steps; step {self.position + count} "
                "was asked for. Snap the model with a larger T, or start a new stream"
            )
        parts: list[dict[str, Array]] = []
        for first in range(0, count, self._block):
            part = min(self._block, count - first)
            chunk = [
                np.ascontiguousarray(a[:, first : first + part]) if node.edge.steps else a
                for a, node in zip(arrays, self._graph.inputs)
            ]
            outputs = _empty(self._graph, batch, part)
            _run(self._native, batch, part, self.position, chunk, list(outputs.values()), self._state)
            self.position += part
            parts.append(outputs)
        if len(parts) == 1:
            return parts[0]
        return {
            node.key: np.concatenate([p[node.key] for p in parts], 1)
            if node.edge.steps
            else parts[-1][node.key]
            for node in self._graph.outputs
        }


def _run(native: Any, *call: Any) -> None:
    """One native call; what it says about the data becomes the error of that fault."""
    try:
        native.run(*call)
    except ValueError as error:
        text = str(error)
        if "NaN or infinity" in text:
            raise NonFiniteError(f"{text}; clean the data first") from error
        if "its kind of spikes" in text:
            raise KindError(
                f"{text}; pass whole spike counts of that kind, or give the model an encoder"
            ) from error
        raise


def stream_limit(graph: g.Graph) -> int:
    """Steps for which a stream is proven exact: T where a sum over time or a constant depends on it."""
    steps = max((node.edge.steps for node in graph.nodes), default=0) or 1
    for node in graph.nodes:
        if isinstance(node, g.TimeMix | g.Scan) or (isinstance(node, g.Readout) and node.mode == "sum"):
            return steps
        if isinstance(node, g.Neuron):
            named = g.tensor_fields(node)
            planes = {
                k: graph.tensors[v]
                for k, v in named.items()
                if k not in ("breaks", "values", "unit", "v_init")
            }
            varies = any(a.shape[-2] > 1 for a in planes.values())
            grows = "decay" in planes and int(np.abs(planes["decay"]).max(initial=0)) > 1 << node.decay_shift
            if varies or grows:
                return steps
    return STREAM_LIMIT


def build(graph: g.Graph) -> Any:
    """The C++ builder holding every node of a snapped graph.

    Raises:
        PackError: a node is unknown, real-valued or inconsistent; it is named.
    """
    native = _native.Graph()
    index: dict[str, int] = {}
    for node in graph.nodes:
        if node.edge.kind.name == "real":
            raise PackError(
                f"node {node.name!r} has a real edge; the engine runs integers only: snap the graph"
            )
        try:
            kind = node.edge.kind
            index[node.name] = native.add(
                type(node).__name__,
                node.name,
                [index[name] for name in node.inputs],
                (kind.name, kind.levels, kind.bits, kind.frac),
                [int(n) for n in node.edge.shape],
                node.edge.steps,
                _numbers(node),
                _texts(node),
                _tensors(graph, node),
                build(_ordered(node)) if isinstance(node, g.Scan) else None,
            )
        except ValueError as error:
            raise PackError(str(error)) from error
        except TypeError as error:
            raise PackError(f"node {node.name!r} holds a field of the wrong type: {error}") from error
    return native


def _ordered(node: g.Scan) -> g.Graph:
    """Body with inputs x, state0.. first and outputs y, state0.. last, in this order."""
    body = node.body
    states = [f"state{i}" for i in range(len(body.inputs) - 1)]
    entries = {n.name: n for n in body.inputs}
    exits = {n.key: n for n in body.outputs}
    if set(entries) != {"x", *states} or set(exits) != {"y", *states}:
        raise PackError(
            f"Scan {node.name!r}: the body needs inputs x, state0.. and outputs y, state0.., "
            f"got {list(entries)} and {list(exits)}"
        )
    middle = [n for n in body.nodes if not isinstance(n, g.Input | g.Output)]
    order = [*(entries[k] for k in ("x", *states)), *middle, *(exits[k] for k in ("y", *states))]
    return body.replace(nodes=tuple(order))


def _numbers(node: g.Node) -> dict[str, list[int]]:
    """Integer attributes of a node as flat lists."""
    out: dict[str, list[int]] = {}
    for name in g.node_fields(node):
        value = getattr(node, name)
        if name in ("shifts", "signs") and not value:
            value = (1 if name == "signs" else 0,) * len(node.inputs)
        if name in ("padding", "kernel", "stride", "dilation", "axes", "factors", "shifts", "signs"):
            out[name] = [int(v) for v in np.asarray(value, dtype=np.int64).ravel()]
        elif isinstance(value, int):  # axis, groups, shifts, flags
            out[name] = [int(value)]
    if isinstance(node, g.Reshape):
        out["moves"] = _moves(node)
    return out


def _moves(node: g.Reshape) -> list[int]:
    """Moves as [code, count, arguments...] one after another."""
    flat: list[int] = []
    for name, *args in node.moves:
        if name not in MOVES:
            raise PackError(f"node {node.name!r}: unknown move {name!r}; known: {', '.join(MOVES)}")
        values = [int(v) for v in np.asarray(args if len(args) != 1 else args[0], dtype=np.int64).ravel()]
        flat += [MOVES.index(name), len(values), *values]
    return flat


def _texts(node: g.Node) -> dict[str, str]:
    return {name: getattr(node, name) for name in ("mode", "op", "reset", "rounding") if hasattr(node, name)}


def _tensors(graph: g.Graph, node: g.Node) -> dict[str, Array]:
    """Integer constants of a node; code words are looked up, captured-only fields left out."""
    out: dict[str, Array] = {}
    for name, key in g.tensor_fields(node).items():
        if name in ("scale", "unit", "coding.codebook"):
            continue
        if name == "weight" and isinstance(node, g.Conv | g.Linear):
            array = np.asarray(g.weight_codes(graph, node))
        else:
            array = np.asarray(graph.tensor(key))
        if array.dtype == np.bool_:
            array = array.astype(np.int8)
        if array.dtype not in _INTEGERS:
            if not np.issubdtype(array.dtype, np.integer):
                raise PackError(
                    f"node {node.name!r}: constant {key!r} must hold integers, it is {array.dtype}"
                )
            array = array.astype(np.int64)
        if array.flags.writeable:  # the native side keeps what it is given
            array = array.copy()
        out[name] = np.ascontiguousarray(array).reshape(array.shape)
    return out


def _given(graph: g.Graph, inputs: Data) -> dict[str, Array]:
    names = [node.name for node in graph.inputs]
    if not isinstance(inputs, Mapping):
        if len(names) != 1:
            raise ShapeError(f"the graph has {len(names)} inputs; pass a dict with the keys {names}")
        return {names[0]: np.asarray(inputs)}
    if set(inputs) != set(names):
        raise ShapeError(f"the graph has the inputs {names}, got {sorted(map(str, inputs))}")
    return {name: np.asarray(value) for name, value in inputs.items()}


def _chunk_steps(graph: g.Graph, inputs: Data, steps: int | None) -> int:
    given = _given(graph, inputs)
    timed = {given[n.name].shape[1] for n in graph.inputs if n.edge.steps and given[n.name].ndim > 1}
    if steps is not None:
        timed.add(steps)
    if len(timed) > 1 or (timed and min(timed) < 1):
        raise ShapeError(
            f"all timed inputs of a chunk need the same number of steps, at least 1; got {sorted(timed)}"
        )
    return timed.pop() if timed else 1


def _prepare(graph: g.Graph, inputs: Data, steps: int) -> tuple[list[Array], int]:
    """Checked C-ordered arrays in the order of the graph's inputs, and the batch size."""
    given = _given(graph, inputs)
    arrays: list[Array] = []
    batches: set[int] = set()
    for node in graph.inputs:
        array = given[node.name]
        rows = ((steps,) if node.edge.steps else ()) + tuple(node.edge.shape)
        if array.ndim != len(rows) + 1 or array.shape[1:] != rows:
            raise ShapeError(
                f"input {node.name!r} must be [B, {', '.join(map(str, rows))}], got {list(array.shape)}"
            )
        if node.table is not None and array.dtype != np.uint8:
            raise ShapeError(f"input {node.name!r} has a table for bytes: pass uint8, not {array.dtype}")
        if array.dtype not in _PASSED:
            array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
        arrays.append(np.ascontiguousarray(array))
        batches.add(array.shape[0])
    if len(batches) > 1:
        raise ShapeError(f"inputs differ in batch size: {sorted(batches)}")
    return arrays, batches.pop() if batches else 1


def _empty(graph: g.Graph, batch: int, steps: int) -> dict[str, Array]:
    out: dict[str, Array] = {}
    for node in graph.outputs:
        rows = ((steps,) if node.edge.steps else ()) + tuple(node.edge.shape)
        out[node.key] = np.empty((batch, *rows), np.int64)
    return out


__all__ = ["Engine", "Stream", "build", "stream_limit"]
