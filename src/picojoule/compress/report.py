"""The table of what weights cost in bytes, for a model as it is or as a plan would make it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from picojoule.compress.base import chain, get_codes, latent_of, quantizer_of
from picojoule.compress.membrane import membranes
from picojoule.compress.plan import CompressPlan, weight_layers
from picojoule.compress.prune import ChannelMask
from picojoule.neurons.base import Neuron


@dataclass(frozen=True)
class Row:
    """One layer or neuron of a report.

    `bits` are per weight or per membrane; `bytes` hold codes, codebook and scales of weights. Membranes are
    state, not payload: 0 bytes.
    """

    layer: str
    what: str
    weights: int
    setting: str
    bits: float
    bytes: int


@dataclass(frozen=True)
class Report:
    """Rows, and the bytes of all weights of layers now and in float32. Biases and norms are not counted."""

    rows: tuple[Row, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of all layer weights."""
        return sum(row.bytes for row in self.rows)

    @property
    def float_bytes(self) -> int:
        """Bytes of the same weights in float32."""
        return 4 * sum(row.weights for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "total_bytes": self.total_bytes,
            "float_bytes": self.float_bytes,
        }

    def __str__(self) -> str:
        head = ("layer", "what", "weights", "setting", "bits", "bytes")
        lines = [
            (r.layer, r.what, f"{r.weights:,}", r.setting, f"{r.bits:.3g}", f"{r.bytes:,}") for r in self.rows
        ]
        ratio = self.float_bytes / max(self.total_bytes, 1)
        lines.append(
            ("total", "", f"{self.float_bytes // 4:,}", f"{ratio:.1f}x smaller", "", f"{self.total_bytes:,}")
        )
        width = [max(len(line[i]) for line in (head, *lines)) for i in range(6)]
        right = (False, False, True, False, True, True)
        return "\n".join(
            "  ".join(
                c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, width, right, strict=True)
            ).rstrip()
            for line in (head, *lines)
        )


@torch.no_grad()
def report(model: nn.Module, plan: CompressPlan | None = None) -> Report:
    """Bytes of every layer as the model is now or, for layers not yet quantized, as `plan` would make it.

    The model is not changed.
    """
    rules = plan.weights(model) if plan is not None else {}
    rows = []
    for path, module in weight_layers(model).items():
        quantizer, codes = quantizer_of(module), get_codes(module)
        count: int = module.weight.numel()  # type: ignore[operator,union-attr,assignment]
        if quantizer is None and path in rules:
            quantizer = rules[path].build()
            if quantizer is not None:
                latent = latent_of(module)
                quantizer.check(tuple(latent.shape), path)
                quantizer.prepare(latent)
                quantizer.to(dtype=latent.dtype)
                codes = quantizer.codes(latent)
        if quantizer is None or codes is None:
            rows.append(Row(path, "weight", count, "float" + _masked(module), 32.0, 4 * count))
        else:
            bits = codes.bits_per_weight
            rows.append(
                Row(path, "weight", count, quantizer.setting + _masked(module), bits, codes.payload_bytes)
            )
    rows.extend(_membrane_rows(model, plan))
    return Report(tuple(rows))


def _masked(module: nn.Module) -> str:
    """', 12 of 16 channels' for a layer with pruned channels, else nothing."""
    for part in chain(module):
        if isinstance(part, ChannelMask) and part.rows is not None:
            return f", {int(part.rows.sum())} of {part.rows.numel()} channels"
    return ""


def _membrane_rows(model: nn.Module, plan: CompressPlan | None) -> list[Row]:
    attached = dict(membranes(model))
    rules = plan.membranes(model) if plan is not None else {}
    rows = []
    for path in [p for p, m in model.named_modules() if isinstance(m, Neuron)]:
        if path in attached:
            name = type(attached[path]).__name__.removesuffix("Membrane").lower()
            rows.append(Row(path, "membrane", 0, name, attached[path].bits, 0))
        elif path in rules:
            rows.append(Row(path, "membrane", 0, rules[path].method, rules[path].bits, 0))
    return rows
