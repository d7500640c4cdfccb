"""Operators of a snapped model without parameters: sums, products, windows, moves, time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from picojoule.graph import nodes as g
from picojoule.graph.snapped_ops import Op, Range, Tensors, along, product

Fields = tuple[type[g.Node], dict[str, Any]]


class AddOp(Op):
    """sum_i sign_i * x_i << shift_i; row shapes broadcast."""

    def __init__(self, shifts: tuple[int, ...], signs: tuple[int, ...]) -> None:
        super().__init__()
        self.shifts, self.signs = shifts, signs

    def forward(self, *x: Tensor) -> Tensor:
        """Rows of the common shape."""
        total = x[0] * float(self.signs[0] << self.shifts[0])
        for part, shift, sign in zip(x[1:], self.shifts[1:], self.signs[1:]):
            total = total + part * float(sign << shift)
        return total

    def interval(self, *ranges: Range) -> Range:
        low = high = 0
        for (a, b), shift, sign in zip(ranges, self.shifts, self.signs):
            ends = sorted((sign * a << shift, sign * b << shift))
            low, high = low + ends[0], high + ends[1]
        return low, high

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.Add, {"shifts": self.shifts, "signs": self.signs}


class MulOp(Op):
    """Elementwise product."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Rows of the common shape."""
        return a * b

    def interval(self, *ranges: Range) -> Range:
        ends = [x * y for x in ranges[0] for y in ranges[1]]
        return min(ends), max(ends)

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.Mul, {}


class MatMulOp(Op):
    """Product over the last two row axes; `inner` terms a sum."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """[..., n, k] and [..., k, m] -> [..., n, m]."""
        return torch.matmul(a, b)

    def interval(self, *ranges: Range) -> Range:
        ends = [x * y for x in ranges[0] for y in ranges[1]]
        return self.inner * min(*ends, 0), self.inner * max(*ends, 0)

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.MatMul, {}


class LogicOp(Op):
    """and, or, iand of {0, 1}."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.op = op

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Rows of the common shape."""
        if self.op == "and":
            return a * b
        if self.op == "or":
            return a + b - a * b
        return b - a * b

    def interval(self, *ranges: Range) -> Range:
        return 0, 1

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.Logic, {"op": self.op}


class PoolOp(Op):
    """Maximum (minimum on flipped channels) or sum over windows."""

    def __init__(self, node: g.Pool, mode: str, flip: np.ndarray | None) -> None:
        super().__init__()
        self.mode, self.kernel, self.stride, self.padding = mode, node.kernel, node.stride, node.padding
        self.flip = None if flip is None else torch.from_numpy(np.array(flip, dtype=bool))

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, ...] -> [R, C, ...]."""
        n = len(self.kernel)
        sides = [side for pair in reversed(self.padding) for side in pair]
        if self.mode == "sum":
            ones = x.new_ones(x.shape[1], 1, *self.kernel)
            convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[n]
            return convolve(F.pad(x, sides), ones, None, self.stride, groups=x.shape[1])
        pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[n]
        sign = x.new_full((), -1.0 if self.mode == "min" else 1.0)
        if self.flip is not None:
            sign = along(torch.where(self.flip, -sign, sign), 0, x.dim() - 1)
        return pool(F.pad(x * sign, sides, value=-torch.inf), self.kernel, self.stride) * sign

    def interval(self, *ranges: Range) -> Range:
        low, high = ranges[0]
        if self.mode != "sum":
            return low, high
        count = product(self.kernel)
        return count * min(low, 0), count * max(high, 0)

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        geometry = {k: getattr(self, k) for k in ("mode", "kernel", "stride", "padding")}
        flip = None
        if self.flip is not None:
            flip = f"{self.name}.flip"
            tensors[flip] = self.flip.numpy().copy()
        return g.Pool, {**geometry, "flip": flip}


class SumOp(Op):
    """Sum over row axes, `count` terms."""

    def __init__(self, axes: tuple[int, ...], keepdim: bool, count: int) -> None:
        super().__init__()
        self.axes, self.keepdim, self.count = axes, keepdim, count

    def forward(self, x: Tensor) -> Tensor:
        """Rows without the axes."""
        return x.sum([1 + a % (x.dim() - 1) for a in self.axes], keepdim=self.keepdim)

    def interval(self, *ranges: Range) -> Range:
        return self.count * ranges[0][0], self.count * ranges[0][1]

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.Mean, {"axes": self.axes, "keepdim": self.keepdim, "total": True}


class ConcatOp(Op):
    """Concatenation along a row axis after left shifts."""

    def __init__(self, axis: int, shifts: tuple[int, ...]) -> None:
        super().__init__()
        self.axis, self.shifts = axis, shifts

    def forward(self, *x: Tensor) -> Tensor:
        """Rows side by side."""
        parts = [part * float(1 << k) for part, k in zip(x, self.shifts)]
        return torch.cat(parts, 1 + self.axis % (x[0].dim() - 1))

    def interval(self, *ranges: Range) -> Range:
        return min(a << k for (a, _), k in zip(ranges, self.shifts)), max(
            b << k for (_, b), k in zip(ranges, self.shifts)
        )

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.Concat, {"axis": self.axis, "shifts": self.shifts}


class UpsampleOp(Op):
    """Nearest neighbour by whole factors."""

    def __init__(self, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, ...] -> [R, C, ...] enlarged."""
        for i, factor in enumerate(self.factors):
            x = x.repeat_interleave(factor, 2 + i)
        return x

    def interval(self, *ranges: Range) -> Range:
        return ranges[0]

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.Upsample, {"factors": self.factors}


class ReshapeOp(Op):
    """Moves inside a row."""

    def __init__(self, moves: tuple[tuple[Any, ...], ...]) -> None:
        super().__init__()
        self.moves = moves

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers elsewhere."""
        for name, *args in self.moves:
            ndim = x.dim() - 1
            if name == "view":
                x = x.reshape(x.shape[0], *args[0])
            elif name == "permute":
                x = x.permute(0, *(1 + a % ndim for a in args[0]))
            elif name == "slice":
                axis, start, stop, step = args
                index = torch.arange(x.shape[1 + axis % ndim])[slice(start, stop, step)]
                x = x.index_select(1 + axis % ndim, index)
            elif name == "expand":
                x = x.expand(x.shape[0], *args[0])
            elif name == "pad":
                x = F.pad(x, [side for pair in reversed(args[0]) for side in pair])
            elif name == "flip":
                x = x.flip(1 + args[0] % ndim)
            else:
                x = x.roll(args[1], 1 + args[0] % ndim)
        return x

    def interval(self, *ranges: Range) -> Range:
        low, high = ranges[0]
        if any(move[0] == "pad" for move in self.moves):
            return min(low, 0), max(high, 0)
        return low, high

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.Reshape, {"moves": self.moves}


class RepeatOp(Op):
    """One row a sample to T equal rows."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [T*B, ...]."""
        return x.repeat(self.steps, *(1,) * (x.dim() - 1))

    def interval(self, *ranges: Range) -> Range:
        return ranges[0]

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.Repeat, {}


class ReadoutOp(Op):
    """Sum, maximum or last over T steps."""

    def __init__(self, mode: str, T: int) -> None:
        super().__init__()
        self.mode, self.T = mode, T

    def forward(self, x: Tensor) -> Tensor:
        """[T*B, ...] -> [B, ...]."""
        steps = x.reshape(self.T, x.shape[0] // self.T, *x.shape[1:])
        if self.mode == "last":
            return steps[-1]
        return steps.sum(0) if self.mode == "sum" else steps.amax(0)

    def interval(self, *ranges: Range) -> Range:
        low, high = ranges[0]
        return (self.T * low, self.T * high) if self.mode == "sum" else (low, high)

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.Readout, {"mode": self.mode}


class OutputOp(Op):
    """A named output."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, x: Tensor) -> Tensor:
        """Rows unchanged."""
        return x

    def interval(self, *ranges: Range) -> Range:
        return ranges[0]

    def fields(self, tensors: Tensors, ranges: list[Range]) -> Fields:
        return g.Output, {"key": self.key}
