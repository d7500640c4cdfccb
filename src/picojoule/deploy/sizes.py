"""Two sizes of a model, never mixed.

`payload_bytes` is what the packed file really holds: the sum of ceil(numel * bits / 8) over all constants.
`paper_bytes` is the formula of the papers: the sum of parameters * bits / 8, where whatever a paper leaves
in float (first and last layer, normalisation, biases, scales) counts 32 bits; no folding, no thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from picojoule.core.errors import PackError
from picojoule.deploy.constants import stored
from picojoule.graph import nodes as n


def payload(graph: n.Graph) -> list[dict[str, Any]]:
    """One row a constant of a snapped graph: name, role, code, shape, bits, bytes."""
    return [
        {
            "name": name,
            "role": constant.role,
            "code": constant.code,
            "shape": list(constant.array.shape),
            "bits": constant.bits,
            "bytes": constant.bytes,
        }
        for name, constant in stored(graph).items()
    ]


def payload_bytes(graph: n.Graph) -> int:
    """Bytes of all constants of a snapped graph in the file: sum of ceil(numel * bits / 8)."""
    return sum(constant.bytes for constant in stored(graph).values())


def paper_bytes(model: n.Graph | Iterable[tuple[int, float]]) -> float:
    """Size by the formula of the papers: sum of count * bits / 8.

    Args:
        model: a captured graph (coded weights at their bits, every other parameter at 32), or pairs
            (count, bits).
    Raises:
        PackError: the graph is snapped; folding has removed the parameters that the formula counts.

    >>> paper_bytes([(9_216_000, 1), (12_426, 32)])  # BSO, arXiv:2511.12502, VGG-11
    1201704.0
    """
    pairs = _parameters(model) if isinstance(model, n.Graph) else model
    return sum(count * bits for count, bits in pairs) / 8


def _parameters(graph: n.Graph) -> list[tuple[int, float]]:
    if graph.stage != "captured":
        raise PackError(
            "paper_bytes counts the parameters of a captured graph; of a packed file read card['paper_bytes']"
        )
    seen: dict[str, tuple[int, float]] = {}
    for node in graph.nodes:
        for field, name in n.tensor_fields(node).items():
            bits: float = 32
            if field == "weight" and isinstance(node, n.Conv | n.Linear):
                bits = node.coding.bits
            elif field == "coding.codebook":
                book = graph.tensor(name)
                bits = 1 if bool((abs(book) == 1).all()) else 32
            elif not isinstance(node, n.Conv | n.Linear | n.Affine):
                continue  # constants of neurons, tables and windows are no parameters in the papers
            seen[name] = (int(graph.tensor(name).size), bits)
        if isinstance(node, n.Scan):
            inner = _parameters(node.body)
            seen[f"{node.name}/"] = (1, sum(count * bits for count, bits in inner))
    return list(seen.values())


__all__ = ["paper_bytes", "payload", "payload_bytes"]
