"""How each constant of a graph is stored: the code and the bits that follow from the node that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from picojoule.core.errors import PackError
from picojoule.deploy import bits as codec
from picojoule.graph import nodes as n

Array = np.ndarray
_WEIGHTS = {"sign": "sign", "ternary": "ternary", "int": "int", "codebook": "index"}


class Stored(NamedTuple):
    """A constant with its place in the file.

    Fields: `code` is one of bits.CODES for bit-packed constants, "plain" for whole integers of the narrowest
    type, "float" for real values; `bits` of one value; `role` is the field of the node that reads it.
    """

    array: Array
    code: str
    bits: int
    role: str

    @property
    def bytes(self) -> int:
        """ceil(numel * bits / 8)."""
        return codec.packed_bytes(self.array.size, self.bits)

    @property
    def packed(self) -> bool:
        """True when the values are bit-packed into bytes."""
        return self.code not in ("plain", "float")


def scopes(graph: n.Graph, prefix: str = "") -> Iterator[tuple[str, n.Graph]]:
    """The graph and the bodies of its Scan nodes, each with the prefix of its constants in the file."""
    yield prefix, graph
    for node in graph.nodes:
        if isinstance(node, n.Scan):
            yield from scopes(node.body, f"{prefix}{node.name}/")


def stored(graph: n.Graph) -> dict[str, Stored]:
    """Every constant that a node reads, by its name in the file.

    Raises:
        PackError: a constant is absent, or two nodes want it in different codes.
    """
    out: dict[str, Stored] = {}
    for prefix, scope in scopes(graph):
        for node in scope.nodes:
            for role, name in n.tensor_fields(node).items():
                if name not in scope.tensors:
                    raise PackError(
                        f"node {node.name!r}, field {role!r}: the constant {name!r} does not exist"
                    )
                found = _store(scope.tensors[name], node, role)
                key = prefix + name
                other = out.get(key)
                if other and (other.array is not found.array or other[1:3] != found[1:3]):
                    raise PackError(
                        f"constant {key!r} is read as {other.bits}-bit {other.code} and, by {node.name!r}, "
                        f"as {found.bits}-bit {found.code}; give each its own name"
                    )
                out.setdefault(key, found)
    return out


def _store(array: Array, node: n.Node, role: str) -> Stored:
    if role == "weight" and isinstance(node, n.Conv | n.Linear):
        if node.coding.name not in _WEIGHTS:
            raise PackError(
                f"node {node.name!r}, field 'coding.name': {node.coding.name!r} weights cannot be packed"
            )
        return Stored(array, _WEIGHTS[node.coding.name], node.coding.bits, role)
    if role == "flip":
        return Stored(array, "bool", 1, role)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # too large for float32 compares as unequal
            exact = bool((array.astype(np.float32).astype(np.float64) == array).all())
        return Stored(array, "float", 32 if exact else 64, role)
    if role == "coding.codebook" and array.size and bool((np.abs(array.astype(np.int64)) == 1).all()):
        return Stored(array, "sign", 1, role)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    return Stored(array, "plain", codec.smallest(low, high).itemsize * 8, role)
