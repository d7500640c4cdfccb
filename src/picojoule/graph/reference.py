"""The reference interpreter: executes a snapped graph on integers, one readable function a node type.

Integers are held in float64, where sums and products are exact while they stay below 2^53; a bound is
computed for every node from its data and an error names the node that would pass it. `dtype="int64"` runs
the same functions on 64-bit integers (slower; unit tests). The native engine must equal this file bit for
bit, in whole sequences and in streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picojoule.core.errors import CausalityError, NonFiniteError, PackError, ShapeError
from picojoule.core.kinds import Kind
from picojoule.graph import nodes as g
from picojoule.graph import reference_ops as ops
from picojoule.graph.reference_run import where

DTYPES = {"float64": torch.float64, "int64": torch.int64}

Inputs = Any  # one array, a sequence of arrays in the order of the graph's inputs, or a dict by input name


def run(
    graph: g.Graph,
    inputs: Inputs,
    *,
    dtype: str = "float64",
    watch: Sequence[str] | str | None = None,
) -> dict[str, Tensor]:
    """Outputs of a snapped graph as integers.

    Args:
        graph: stage "snapped".
        inputs: batch-first data, [B, *shape] or [B, T, *shape]; an array, a sequence, or a dict by name.
        dtype: "float64" or "int64", what holds the integers.
        watch: names of further nodes to return, or "neurons" for all of them.
    Returns:
        Output key (and watched node name) -> int64 tensor, [B, *shape] or [B, T, *shape].
    Raises:
        PackError: the graph is not snapped, or a number could pass the exact range; the node is named.
        ShapeError, KindError: data that does not fit the declared inputs.
    """
    return Stream(graph, dtype=dtype, keep=False)(inputs, watch=watch)


def dequantize(graph: g.Graph, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Real values (float64) of integer outputs: i * 2^-frac for fixed edges, spikes as they are.

    Args:
        outputs: what `run` returned; watched nodes are dequantized too.
    """
    kinds: dict[str, Kind] = {node.name: node.edge.kind for node in graph.nodes}
    kinds.update({node.key: node.edge.kind for node in graph.outputs})
    return {key: value.double() * 2.0 ** -kinds[key].frac for key, value in outputs.items()}


class Stream:
    """Runs a snapped graph chunk by chunk: `stream(chunk)`; state is kept by node name.

    Args:
        graph: stage "snapped".
        dtype: "float64" or "int64".
        keep: False forgets the state after every call, as `run` does.
    """

    def __init__(self, graph: g.Graph, *, dtype: str = "float64", keep: bool = True) -> None:
        if graph.stage != "snapped":
            raise PackError(
                f"the reference interpreter runs snapped graphs, this one is {graph.stage!r}: "
                "write graph.snap(captured).graph()"
            )
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.graph, self.dtype, self.keep = graph, DTYPES[dtype], keep
        self.state: dict[str, Any] = {}
        self.step = 0
        self._constants: dict[str, Tensor] = {}
        for node in graph.nodes if keep else ():
            if isinstance(node, g.TimeMix) and not node.causal:
                raise CausalityError(f"{where(node)} looks at future steps and cannot be streamed")

    def __call__(
        self, inputs: Inputs, *, T: int | None = None, watch: Sequence[str] | str | None = None
    ) -> dict[str, Tensor]:
        """Outputs for one chunk; `T` is its number of steps (default: that of the data, or of the graph)."""
        data = named_inputs(self.graph, inputs)
        run = ops.Run(self.graph, self.dtype, self._steps(data, T), self.step, self.state, self.constant)
        rows = {node.name: ops.quantize_input(run, node, data[node.name]) for node in self.graph.inputs}
        result = ops.execute(run, rows, self._watched(watch))
        out: dict[str, Tensor] = {}
        for name, value in result.items():
            node = self.graph[name]
            key = node.key if isinstance(node, g.Output) else name
            if key in out:
                raise ValueError(f"cannot watch a node that has the name of an output: {key!r}")
            out[key] = batch_first(value, run.steps(node)).to(torch.int64)
        if self.keep:
            self.step += run.T
        else:
            self.state.clear()
        return out

    def reset(self) -> None:
        """Forget everything: the next chunk starts a new sequence."""
        self.state.clear()
        self.step = 0

    def constant(self, name: str) -> Tensor:
        """A constant of the graph as a tensor of integers."""
        if name not in self._constants:
            array = np.asarray(self.graph.tensor(name))
            if not np.issubdtype(array.dtype, np.integer) and array.dtype != np.bool_:
                raise PackError(
                    f"constant {name!r} of a snapped graph must hold integers, it is {array.dtype}"
                )
            self._constants[name] = torch.from_numpy(np.array(array, dtype=np.int64)).to(self.dtype)
        return self._constants[name]

    def _steps(self, data: Mapping[str, Tensor], T: int | None) -> int:
        declared = max((node.edge.steps for node in self.graph.nodes), default=0)
        timed = [data[node.name].shape[1] for node in self.graph.inputs if node.edge.steps]
        given = T if T is not None else (timed[0] if timed else max(declared, 1))
        if any(t != given for t in timed):
            raise ShapeError(f"inputs hold {timed} steps in one chunk of {given}")
        if not self.keep and declared and given != declared:
            raise ShapeError(f"the graph was made for T={declared} steps, the data has {given}; use a stream")
        if given < 1:
            raise ShapeError(f"a chunk holds at least one step, got T={given}")
        return given

    def _watched(self, watch: Sequence[str] | str | None) -> set[str]:
        if watch == "neurons":
            return {node.name for node in self.graph.nodes if isinstance(node, g.Neuron)}
        names = {watch} if isinstance(watch, str) else set(watch or ())
        unknown = names - {node.name for node in self.graph.nodes}
        if unknown:
            raise KeyError(f"no node is named {sorted(unknown)[0]!r}")
        return names


def batch_first(rows: Tensor, T: int) -> Tensor:
    """Rows [T*B, ...] as [B, T, ...]; rows of T = 0 unchanged."""
    if T == 0:
        return rows
    return rows.reshape(T, rows.shape[0] // T, *rows.shape[1:]).transpose(0, 1)


def named_inputs(graph: g.Graph, inputs: Inputs) -> dict[str, Tensor]:
    """Data as tensors by input name, shapes checked against the declared rows."""
    names = [node.name for node in graph.inputs]
    if isinstance(inputs, Mapping):
        given = dict(inputs)
    elif isinstance(inputs, list | tuple):
        given = dict(zip(names, inputs))
    else:
        given = {names[0]: inputs}
    if set(given) != set(names) or (isinstance(inputs, list | tuple) and len(inputs) != len(names)):
        raise ShapeError(f"the graph has the inputs {names}, got {sorted(map(str, given))}")
    data: dict[str, Tensor] = {}
    for node in graph.inputs:
        value = given[node.name]
        tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))
        lead = 2 if node.edge.steps else 1
        if tensor.dim() < lead or tuple(tensor.shape[lead:]) != node.edge.shape:
            rows = ", ".join(map(str, node.edge.shape))
            raise ShapeError(
                f"input {node.name!r} must be [B, {'T, ' if node.edge.steps else ''}{rows}], "
                f"got {list(tensor.shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"input {node.name!r} holds NaN or infinity")
        data[node.name] = tensor
    return data


__all__ = ["Stream", "batch_first", "dequantize", "named_inputs", "run"]
