"""Operators of a snapped model: real parameters, integer arithmetic, straight-through gradients.

Each operator is the trainable twin of one node of a snapped graph. It carries integers in a float tensor,
knows the range of its result, and writes the node with the integer constants of the present parameters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from picojoule.core.errors import PackError
from picojoule.core.kinds import Kind, fixed
from picojoule.graph import nodes as g
from picojoule.graph.ste import rounded, through

Range = tuple[int, int]
Tensors = dict[str, np.ndarray]
WIDEST = 63  # bits of a fixed edge before its range is proven


def bits_for(low: int, high: int) -> int:
    """Bits of a two's complement integer that holds low..high.

    >>> bits_for(-8, 7), bits_for(0, 8)
    (4, 5)
    """
    return max(int(high).bit_length(), int(-low - 1).bit_length() if low < 0 else 0) + 1


def smallest(array: np.ndarray) -> np.ndarray:
    """The same integers in the smallest signed type."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype)
    return array.astype(np.int64)


def along(vector: Tensor, axis: int, ndim: int) -> Tensor:
    """[C] or [1] shaped to broadcast over rows of `ndim` axes."""
    if vector.numel() == 1:
        return vector.reshape(())
    shape = [1] * ndim
    shape[axis % ndim] = vector.numel()
    return vector.reshape(shape)


def shift_right(x: Tensor, k: int, rounding: str) -> Tensor:
    """x / 2^k rounded ("floor" or "half_up"), differentiated as the plain quotient."""
    if k == 0:
        return x
    y = x * 2.0**-k
    return through(y, torch.floor(y.detach() + (0.5 if rounding == "half_up" else 0.0)))


class Op(nn.Module):
    """One operator: integers in, integers out (rows [T*B, *shape] or [B, *shape]).

    Attributes: `name` of the node, names of its `inputs`, row `shape`, `steps`, spike `kind` (None: fixed,
    with `frac` fraction bits), and where it comes from (`source`, `path`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.inputs: tuple[str, ...] = ()
        self.shape: tuple[int, ...] = ()
        self.steps = 0
        self.kind: Kind | None = None
        self.frac = 0
        self.bits = WIDEST
        self.source = ""
        self.path = ""

    def interval(self, *ranges: Range) -> Range:
        """Proven range of the result from the ranges of the inputs."""
        raise NotImplementedError(f"{type(self).__name__} must define interval")

    def fields(self, tensors: Tensors, ranges: list[Range]) -> tuple[type[g.Node], dict[str, Any]]:
        """Node type and its own fields; constants are filed in `tensors`."""
        raise NotImplementedError(f"{type(self).__name__} must define fields")

    def node(self, tensors: Tensors, ranges: list[Range]) -> tuple[g.Node, Range]:
        """The node of a snapped graph (fixed edges widest, see `snapped.narrowed`), and its range."""
        cls, fields = self.fields(tensors, ranges)
        edge = g.Edge(self.kind or fixed(self.bits, self.frac), self.shape, self.steps)
        node = cls(
            name=self.name, inputs=self.inputs, edge=edge, source=self.source, module=self.path, **fields
        )
        return node, self.interval(*ranges)

    @property
    def where(self) -> str:
        """For error messages."""
        place = f" of module {self.path!r}" if self.path else ""
        return f"{type(self).__name__} {self.name!r}{place}" + (f" ({self.source})" if self.source else "")

    def put(self, tensors: Tensors, field: str, value: Tensor | np.ndarray) -> str:
        """File an integer constant under `<node>.<field>`."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        tensors[f"{self.name}.{field}"] = smallest(np.rint(array).astype(np.int64))
        return f"{self.name}.{field}"

    def extra_repr(self) -> str:
        return f"{self.name}, shape={self.shape}, steps={self.steps}"


class InputOp(Op):
    """Real data to integers: floor(x * 2^frac + 1/2) clamped to the bits, spikes as they are, or a table."""

    def __init__(self, bits: int, table: np.ndarray | None = None, axis: int = 0) -> None:
        super().__init__()
        self.bits, self.axis = bits if table is None else WIDEST, axis
        self.table = None if table is None else torch.from_numpy(table)

    def forward(self, x: Tensor) -> Tensor:
        """Data [B, *shape] or [B, T, *shape] -> rows."""
        if self.steps:
            x = x.transpose(0, 1).flatten(0, 1)
        if self.table is not None:
            channel = along(torch.arange(self.table.shape[0]), self.axis, len(self.shape))
            return self.table[channel, x.long()]
        if self.kind is not None:
            return x
        y = x * 2.0**self.frac
        limit = 2.0 ** (self.bits - 1)
        return through(y, torch.floor(y.detach().double() + 0.5).clamp(-limit, limit - 1))

    def interval(self, *ranges: Range) -> Range:
        if self.table is not None:
            return int(self.table.min()), int(self.table.max())
        if self.kind is not None:
            return self.kind.low, self.kind.high
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1

    def fields(self, tensors: Tensors, ranges: list[Range]) -> tuple[type[g.Node], dict[str, Any]]:
        table = None if self.table is None else self.put(tensors, "table", self.table)
        return g.Input, {"table": table, "axis": self.axis}


class Weighted(Op):
    """Base of Conv and Linear: a latent weight `codes * step` [C_out, ...], coded by rounding.

    Args:
        codes: integers at the weight's full shape.
        step: real value of one code, [C_out] or [1].
        coding: how the codes are stored.
        words: code words [K, word] of a codebook.
    """

    def __init__(
        self, codes: np.ndarray, step: np.ndarray, coding: g.Coding, words: np.ndarray | None = None
    ) -> None:
        super().__init__()
        self.coding = coding
        safe = np.where(step > 0, step, 1.0).reshape(-1, *(1,) * (codes.ndim - 1))
        self.step = torch.from_numpy(np.array(safe, dtype=np.float64))
        self.words = None if words is None else torch.from_numpy(words.astype(np.float64))
        self.weight = nn.Parameter(torch.from_numpy(codes.astype(np.float64)) * self.step)

    def indices(self) -> Tensor:
        """Nearest code word of every group of weights: [C_out, fan_in / word]."""
        if self.words is None:
            raise PackError(f"{self.where} has no codebook")
        latent = (self.weight.detach().double() / self.step).reshape(
            self.weight.shape[0], -1, self.words.shape[1]
        )
        return torch.cdist(latent, self.words.expand(latent.shape[0], -1, -1)).argmin(-1)

    def codes(self) -> Tensor:
        """Integer codes (float64), straight-through to the latent weight."""
        q = self.weight.double() / self.step
        latent = q.detach()
        if self.words is not None:
            value = self.words[self.indices()].reshape(q.shape)
        elif self.coding.name == "sign":
            value = torch.where(latent >= 0, 1.0, -1.0).to(q.dtype)
        elif self.coding.name == "ternary":
            value = torch.floor(latent + 0.5).clamp(-1, 1)
        else:
            limit = 2 ** (self.coding.bits - 1)
            value = torch.floor(latent + 0.5).clamp(-limit, limit - 1)
        return through(q, value)

    def interval(self, *ranges: Range) -> Range:
        low, high = float(min(ranges[0][0], 0)), float(max(ranges[0][1], 0))
        codes = self.codes().detach().flatten(1)
        up, down = codes.clamp_min(0).sum(1), codes.clamp_max(0).sum(1)
        if not codes.numel():
            return 0, 0
        return int((up * low + down * high).min()), int((up * high + down * low).max())

    def stored(self, tensors: Tensors) -> dict[str, Any]:
        """Weight fields of the node."""
        if self.words is None:
            return {"weight": self.put(tensors, "weight", self.codes()), "coding": self.coding}
        book = self.put(tensors, "codebook", self.words)
        coding = g.Coding("codebook", self.coding.bits, book)
        name = f"{self.name}.weight"
        tensors[name] = self.indices().numpy().astype(np.uint8 if self.coding.bits <= 8 else np.uint16)
        return {"weight": name, "coding": coding}


class ConvOp(Weighted):
    """Cross-correlation of integers with weight codes."""

    def __init__(
        self, node: g.Conv, codes: np.ndarray, step: np.ndarray, coding: g.Coding, words: np.ndarray | None
    ) -> None:
        super().__init__(codes, step, coding, words)
        self.stride, self.padding = node.stride, node.padding
        self.dilation, self.groups = node.dilation, node.groups

    def forward(self, x: Tensor) -> Tensor:
        """[R, C_in, ...] -> [R, C_out, ...]."""
        function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(self.stride)]
        x = F.pad(x, [side for pair in reversed(self.padding) for side in pair])
        return function(x, self.codes().to(x.dtype), None, self.stride, 0, self.dilation, self.groups)

    def fields(self, tensors: Tensors, ranges: list[Range]) -> tuple[type[g.Node], dict[str, Any]]:
        kernel = () if self.words is None else tuple(self.weight.shape[2:])
        geometry = {k: getattr(self, k) for k in ("stride", "padding", "dilation", "groups")}
        return g.Conv, {**geometry, "kernel": kernel, **self.stored(tensors)}


class LinearOp(Weighted):
    """x W^T with weight codes."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D_in] -> [..., D_out]."""
        return F.linear(x, self.codes().to(x.dtype))

    def fields(self, tensors: Tensors, ranges: list[Range]) -> tuple[type[g.Node], dict[str, Any]]:
        return g.Linear, self.stored(tensors)


class AffineOp(Op):
    """Brings integers onto a dyadic grid: y = rshift(G i + B, shift, "half_up").

    Args:
        gain, bias: real value of one input step and of input 0, [C|1]; y is in steps of 2^-frac.
        axis: row axis of the channels.
        frac: fraction bits of the result.
        shift: further bits of G and B, dropped by the shift.
    """

    def __init__(self, gain: np.ndarray, bias: np.ndarray, axis: int, frac: int, shift: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.from_numpy(np.array(gain, dtype=np.float64)))
        self.bias = nn.Parameter(torch.from_numpy(np.array(bias, dtype=np.float64)))
        self.axis, self.frac, self.shift = axis, frac, shift

    def constants(self) -> tuple[Tensor, Tensor]:
        """Integer gain and bias (float64)."""
        unit = 2.0 ** (self.frac + self.shift)
        return rounded(self.gain.double() * unit), rounded(self.bias.double() * unit)

    def forward(self, x: Tensor) -> Tensor:
        """Rows of the same shape."""
        gain, bias = (along(c.to(x.dtype), self.axis, x.dim() - 1) for c in self.constants())
        return shift_right(gain * x + bias, self.shift, "half_up")

    def interval(self, *ranges: Range) -> Range:
        low, high = map(float, ranges[0])
        gain, bias = (c.detach() for c in self.constants())
        a, b = gain * low + bias, gain * high + bias
        half = 2 ** (self.shift - 1) if self.shift else 0
        return tuple(
            (int(v) + half) >> self.shift for v in (torch.minimum(a, b).min(), torch.maximum(a, b).max())
        )  # type: ignore[return-value]

    def fields(self, tensors: Tensors, ranges: list[Range]) -> tuple[type[g.Node], dict[str, Any]]:
        gain, bias = self.constants()
        names = {"gain": self.put(tensors, "gain", gain), "bias": self.put(tensors, "bias", bias)}
        return g.Affine, {**names, "axis": self.axis, "shift": self.shift, "rounding": "half_up"}


class TimeMixOp(Op):
    """y[t] = sum_j M[t, j] x[j] + b[t], M = round(matrix * 2^bits), b = round(bias / unit)."""

    def __init__(
        self,
        matrix: np.ndarray,
        bits: int,
        axis: int,
        causal: bool,
        bias: np.ndarray | None = None,
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(torch.from_numpy(np.array(bias, dtype=np.float64)))
        self.unit = unit
        self.matrix = nn.Parameter(torch.from_numpy(np.array(matrix, dtype=np.float64)))
        self.mask = torch.from_numpy(np.array(matrix != 0))  # a causal matrix stays causal while training
        self.fine, self.axis, self.causal = bits, axis, causal

    def constants(self) -> Tensor:
        """Integer matrix [T, T] or [C, T, T] (float64)."""
        return rounded(self.matrix.double() * self.mask * 2.0**self.fine)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [T*B, ...] mixed over T."""
        steps = x.reshape(self.steps, x.shape[0] // self.steps, *x.shape[1:])
        matrix = self.constants().to(x.dtype)
        place = 2 + self.axis % (x.dim() - 1)
        moved = steps.movedim(place, -1)
        equation = "tj,j...->t..." if matrix.dim() == 2 else "ctj,j...c->t...c"
        mixed = torch.einsum(equation, matrix, moved)
        if self.bias is not None:
            bias = self.offsets().to(x.dtype)
            mixed = mixed + bias.reshape(bias.shape[0], *(1,) * (mixed.dim() - 2), bias.shape[1])
        return mixed.movedim(-1, place).reshape(x.shape)

    def offsets(self) -> Tensor:
        """Integer bias [T|1, C|1] (float64); zero without one."""
        if self.bias is None:
            return torch.zeros(1, 1, dtype=torch.float64)
        return rounded(self.bias.double() / self.unit)

    def interval(self, *ranges: Range) -> Range:
        low, high = map(float, ranges[0])
        m = self.constants().detach()
        up, down = m.clamp_min(0).sum(-1), m.clamp_max(0).sum(-1)
        bias = self.offsets().detach()
        least, most = (up * low + down * high).min() + bias.min(), (up * high + down * low).max() + bias.max()
        return int(least), int(most)

    def fields(self, tensors: Tensors, ranges: list[Range]) -> tuple[type[g.Node], dict[str, Any]]:
        names = {"matrix": self.put(tensors, "matrix", self.constants())}
        if self.bias is not None:
            names["bias"] = self.put(tensors, "bias", self.offsets())
        return g.TimeMix, {**names, "causal": self.causal, "axis": self.axis}


class LutOp(Op):
    """A staircase with integer breaks; values are real, on the grid 2^-frac."""

    def __init__(self, breaks: np.ndarray, values: np.ndarray, frac: int) -> None:
        super().__init__()
        self.breaks = torch.from_numpy(np.array(breaks, dtype=np.float64))
        self.values = nn.Parameter(torch.from_numpy(np.array(values, dtype=np.float64)))
        self.frac = frac

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        values = rounded(self.values.double() * 2.0**self.frac).to(x.dtype)
        return values[torch.bucketize(x.detach().contiguous(), self.breaks.to(x.dtype), right=True)]

    def interval(self, *ranges: Range) -> Range:
        values = rounded(self.values.double() * 2.0**self.frac).detach()
        return int(values.min()), int(values.max())

    def fields(self, tensors: Tensors, ranges: list[Range]) -> tuple[type[g.Node], dict[str, Any]]:
        values = rounded(self.values.double() * 2.0**self.frac)
        return g.Lut, {
            "breaks": self.put(tensors, "breaks", self.breaks),
            "values": self.put(tensors, "values", values),
        }


def product(sizes: Any) -> int:
    """Product of whole numbers."""
    return math.prod(int(s) for s in sizes)
