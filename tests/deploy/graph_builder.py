"""Nodes with random constants and proven bounds, one method a node type.

Every fixed edge holds enough bits for the worst case, computed here independently of the library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from picojoule.core import kinds
from picojoule.core.kinds import Kind
from picojoule.graph import nodes as g


def bits_for(low: int, high: int) -> int:
    """Smallest signed width that holds low..high."""
    bits = 1
    while low < -(1 << (bits - 1)) or high > (1 << (bits - 1)) - 1:
        bits += 1
    return bits


@dataclass
class Builder:
    """Adds nodes with random constants and keeps track of kinds, rows and steps."""

    rng: np.random.Generator
    T: int
    nodes: list[g.Node] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def edge(self, name: str) -> g.Edge:
        return next(n.edge for n in self.nodes if n.name == name)

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def const(self, array: Any, dtype: Any = np.int64) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors[name] = np.asarray(array, dtype=dtype)
        return name

    def add(
        self, cls: type[g.Node], inputs: tuple[str, ...], kind: Kind, shape: Any, steps: int, **fields: Any
    ) -> str:
        name = f"{cls.__name__.lower()}{len(self.nodes)}"
        edge = g.Edge(kind, tuple(int(n) for n in shape), steps)
        self.nodes.append(cls(name=name, inputs=inputs, edge=edge, **fields))
        return name

    def graph(self) -> g.Graph:
        return g.Graph(tuple(self.nodes), self.tensors, "snapped")

    # -- entries ---------------------------------------------------------------------------------------

    def image(self, shape: tuple[int, ...]) -> str:
        """A float or byte image, one row a sample."""
        if self.chance(0.3):
            bits = int(self.rng.integers(4, 12))
            table = self.rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (self.pick(1, shape[0]), 256))
            return self.add(g.Input, (), kinds.fixed(bits, 4), shape, 0, table=self.const(table), axis=0)
        return self.add(
            g.Input, (), kinds.fixed(int(self.rng.integers(2, 12)), int(self.rng.integers(0, 6))), shape, 0
        )

    def events(self, shape: tuple[int, ...]) -> str:
        kind = self.pick(
            kinds.binary, kinds.binary, kinds.ternary, kinds.integer(int(self.rng.integers(2, 9)))
        )
        return self.add(g.Input, (), kind, shape, self.T)

    def repeat(self, x: str) -> str:
        return self.add(g.Repeat, (x,), self.edge(x).kind, self.edge(x).shape, self.T)

    # -- synapses --------------------------------------------------------------------------------------

    def codes(self, shape: tuple[int, ...]) -> tuple[dict[str, Any], np.ndarray]:
        """Weight fields of a node and the integers they stand for."""
        name = self.pick("sign", "sign", "ternary", "int", "int", "codebook")
        size = int(np.prod(shape))
        if name == "codebook":
            kernel = int(np.prod(shape[2:]))  # whole kernels as words are what a kernel of the engine wants
            word = self.pick(kernel, *[w for w in (1, 2, 3, 4, 8) if size // shape[0] % w == 0])
            count = self.pick(2, 4, 16, 32)
            book = self.pick(
                self.rng.choice([-1, 1], (count, word)), self.rng.integers(-20, 21, (count, word))
            )
            index = self.rng.integers(0, count, (shape[0], size // shape[0] // word))
            bits = max(1, int(count - 1).bit_length())
            fields = {
                "weight": self.const(index, np.uint8),
                "coding": g.Coding("codebook", bits, self.const(book, np.int8)),
            }
            return fields, book[index].reshape(shape).astype(np.int64)
        if name == "sign":
            values, bits = self.rng.choice([-1, 1], shape), 1
        elif name == "ternary":
            values, bits = self.rng.integers(-1, 2, shape), 2
        else:
            bits = int(self.rng.integers(2, 9))
            values = self.rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
        return {"weight": self.const(values, np.int8), "coding": g.Coding(name, bits)}, values

    def _sum_kind(self, values: np.ndarray, bias: np.ndarray | None, kind: Kind) -> Kind:
        flat = values.reshape(values.shape[0], -1)
        up = np.maximum(flat, 0).sum(1)
        down = np.minimum(flat, 0).sum(1)
        extra = np.zeros(1, np.int64) if bias is None else bias
        high = int((up * max(kind.high, 0) + down * min(kind.low, 0) + extra).max())
        low = int((down * max(kind.high, 0) + up * min(kind.low, 0) + extra).min())
        return kinds.fixed(bits_for(min(low, -1), max(high, 0)), kind.frac)

    def conv(self, x: str, out: int | None = None, *, same: bool = False) -> str:
        rng, edge = self.rng, self.edge(x)
        channels, space = edge.shape[0], edge.shape[1:]
        whole = same or out is not None
        out = out or self.pick(3, 8, 33, 64)
        groups = self.pick(1, 1, self.pick(*(n for n in (1, 3, 4, 5, 8, 11) if channels % n == 0)), channels)
        if whole:
            groups = 1
        elif groups > 1:
            out = channels * self.pick(1, 2) if groups == channels else groups * self.pick(1, 3, 16)
        kernel, stride, padding, dilation, sizes = [], [], [], [], []
        for n in space:
            k, d, s = self.pick(1, 2, 3, 3), self.pick(1, 1, 2), self.pick(1, 1, 2, 3)
            before, after = int(rng.integers(0, 3)), int(rng.integers(0, 3))
            if same:
                k, d, s, before, after = 3, 1, 1, 1, 1
            while (k - 1) * d + 1 > n + before + after:
                before += 1
            kernel.append(k), dilation.append(d), stride.append(s), padding.append((before, after))
            sizes.append((n + before + after - d * (k - 1) - 1) // s + 1)
        fields, values = self.codes((out, channels // groups, *kernel))
        bias = rng.integers(-30, 31, out) if self.chance(0.4) else None
        if fields["coding"].name == "codebook":
            fields["kernel"] = tuple(kernel)
        return self.add(
            g.Conv, (x,), self._sum_kind(values, bias, edge.kind), (out, *sizes), edge.steps,
            bias=None if bias is None else self.const(bias), stride=tuple(stride), padding=tuple(padding),
            dilation=tuple(dilation), groups=groups, **fields,
        )  # fmt: skip

    def linear(self, x: str, out: int | None = None) -> str:
        edge = self.edge(x)
        out = out or self.pick(5, 10, 16, 70)
        fields, values = self.codes((out, edge.shape[-1]))
        bias = self.rng.integers(-30, 31, out) if self.chance(0.4) else None
        kind = self._sum_kind(values, bias, edge.kind)
        return self.add(
            g.Linear, (x,), kind, (*edge.shape[:-1], out), edge.steps,
            bias=None if bias is None else self.const(bias), **fields,
        )  # fmt: skip

    # -- neurons ---------------------------------------------------------------------------------------

    def neuron(self, x: str, axis: int | None = None, kind: Kind | None = None) -> str:
        """Random constants; half of them of the sort that bit-plane kernels take (power-of-two leak)."""
        rng, edge = self.rng, self.edge(x)
        axis = (0 if len(edge.shape) > 2 else -1) if axis is None else axis
        steps, C = max(edge.steps, 1), edge.shape[axis]
        kind = kind or self.pick(
            kinds.binary, kinds.binary, kinds.binary, kinds.ternary, kinds.integer(int(rng.integers(2, 6)))
        )
        plain = self.chance(0.5)
        scale = max(2, int(np.sqrt(max(-edge.kind.low, edge.kind.high)) * 2))

        def plane(low: int, high: int, lead: tuple[int, ...] = ()) -> np.ndarray:
            t = steps if not plain and self.chance(0.2) else 1
            return rng.integers(low, high, (*lead, t, self.pick(1, C)))

        shift = int(rng.integers(0, 5))
        if plain:
            decay = np.full((1, 1), self.pick(0, 1, 1 << shift))
        else:
            decay = plane(0, (1 << shift) + 1)
        frac = int(rng.integers(0, 4))
        if self.chance(0.6):
            gain = rng.choice([1, 1, 1, -1], (1, C)) << frac
        else:
            gain = plane(-3, 4)
        levels = kind.levels if kind.name == "integer" else 1
        base = plane(1, scale, (1,)) << frac
        thresholds = (
            np.concatenate([base + i * int(rng.integers(1, scale)) for i in range(levels)])
            if plain
            else np.sort(
                np.concatenate([base] * levels) + np.sort(rng.integers(0, scale * 2, (levels, 1, 1)), 0), 0
            )
        )
        neg = -plane(1, scale) if kind.name == "ternary" else None
        bias, reset_value, v_init = plane(-5, 6), plane(-2, scale), rng.integers(-4, 5, (1, self.pick(1, C)))
        reset = self.pick("hard", "soft", "soft", "none")
        table: dict[str, Any] = {}
        if self.chance(0.15):
            breaks = np.sort(rng.integers(-scale, scale + 1, int(rng.integers(1, 9))))
            table = {
                "breaks": self.const(breaks),
                "values": self.const(np.sort(rng.integers(-scale, scale + 1, len(breaks) + 1))),
            }
        reach = max(-edge.kind.low, edge.kind.high) * int(np.abs(gain).max()) + 6
        v, top = int(np.abs(v_init).max()) + scale, 0
        for _ in range(steps + 8):
            h = ((int(np.abs(decay).max()) * v) >> shift) + 2 + reach
            v = h + levels * int(np.abs(reset_value).max()) + scale
            top = max(top, h, v)
        return self.add(
            g.Neuron, (x,), kind, edge.shape, edge.steps, axis=axis, op="lif", reset=reset,
            decay=self.const(decay), gain=self.const(gain), bias=self.const(bias),
            thresholds=self.const(thresholds), strict=(False,) * levels,
            neg_threshold=None if neg is None else self.const(neg),
            reset_value=self.const(reset_value), v_init=self.const(v_init), frac=frac, decay_shift=shift,
            rounding=self.pick("floor", "floor", "half_up"), v_bits=bits_for(-top, top) + 1, **table,
        )  # fmt: skip

    def membrane(self, x: str, reset: str, rounding: str, decay: int) -> str:
        """A binary neuron over channels that keeps decay/4 of its membrane, with a threshold a channel."""
        edge, C = self.edge(x), self.edge(x).shape[0]
        return self.add(
            g.Neuron, (x,), kinds.binary, edge.shape, edge.steps, op="snapped", lowered=True, axis=0,
            reset=reset, rounding=rounding, decay=self.const([[decay]]), decay_shift=2,
            gain=self.const([[4]]), bias=self.const(self.rng.integers(-5, 6, (1, C))),
            thresholds=self.const(self.rng.integers(1, 40, (1, 1, C))),
            reset_value=self.const([[3 if reset == "hard" else 20]]), v_init=self.const([[2]]), v_bits=20,
        )  # fmt: skip

    # -- the rest --------------------------------------------------------------------------------------

    def join(self, a: str, b: str) -> str:
        """Sum with shifts and signs; shapes must broadcast."""
        ea, eb = self.edge(a), self.edge(b)
        shifts, signs = tuple(int(s) for s in self.rng.integers(0, 4, 2)), (self.pick(1, -1), 1)
        low = high = 0
        for e, shift, sign in zip((ea, eb), shifts, signs):
            ends = (sign * e.kind.low << shift, sign * e.kind.high << shift)
            low, high = low + min(ends), high + max(ends)
        shape = np.broadcast_shapes(ea.shape, eb.shape)
        kind = kinds.fixed(bits_for(min(low, -1), max(0, high)), 0)
        return self.add(g.Add, (a, b), kind, shape, ea.steps, shifts=shifts, signs=signs)

    def affine(self, x: str) -> str:
        edge = self.edge(x)
        axis = self.pick(0, -1)
        C = edge.shape[axis]
        gain, bias = self.rng.integers(-9, 10, self.pick(1, C)), self.rng.integers(-99, 100, self.pick(1, C))
        shift = int(self.rng.integers(0, 6))
        top = ((max(-edge.kind.low, edge.kind.high) * 9 + 99 + (1 << shift)) >> shift) + 1
        return self.add(
            g.Affine, (x,), kinds.fixed(bits_for(-top, top), 0), edge.shape, edge.steps, axis=axis,
            shift=shift, gain=self.const(gain), bias=self.const(bias), rounding=self.pick("floor", "half_up"),
        )  # fmt: skip

    def pool(self, x: str) -> str:
        edge = self.edge(x)
        mode = self.pick("max", "max", "min", "sum")
        kernel, stride, padding, sizes = [], [], [], []
        for n in edge.shape[1:]:
            k = min(n, self.pick(2, 2, 3))
            s, before, after = self.pick(1, 2, 2), int(self.rng.integers(0, k)), int(self.rng.integers(0, k))
            kernel.append(k), stride.append(s), padding.append((before, after))
            sizes.append((n + before + after - k) // s + 1)
        kind = edge.kind
        flip = None
        if mode == "sum":
            count = int(np.prod(kernel))
            kind = kinds.fixed(bits_for(min(kind.low * count, -1), max(kind.high * count, 0)), 0)
        elif self.chance(0.4):
            flip = self.const(self.rng.random(edge.shape[0]) < 0.5, np.bool_)
        return self.add(
            g.Pool, (x,), kind, (edge.shape[0], *sizes), edge.steps, mode=mode, kernel=tuple(kernel),
            stride=tuple(stride), padding=tuple(padding), flip=flip,
        )  # fmt: skip

    def total(self, x: str, axes: tuple[int, ...], keepdim: bool = False) -> str:
        edge = self.edge(x)
        rank = len(edge.shape)
        gone = {a % rank for a in axes}
        count = int(np.prod([edge.shape[a] for a in gone]))
        shape = [1 if i in gone else n for i, n in enumerate(edge.shape) if keepdim or i not in gone]
        kind = kinds.fixed(bits_for(min(edge.kind.low * count, -1), max(edge.kind.high * count, 0)), 0)
        return self.add(g.Mean, (x,), kind, shape, edge.steps, axes=axes, keepdim=keepdim, total=True)

    def moves(self, x: str) -> str:
        """A few random moves that keep the kind."""
        edge = self.edge(x)
        row = np.zeros(edge.shape, np.int8)
        moves: list[tuple[Any, ...]] = []
        for _ in range(int(self.rng.integers(1, 4))):
            axis = int(self.rng.integers(0, row.ndim))
            n = row.shape[axis]
            match self.pick("flip", "roll", "slice", "pad", "permute"):
                case "flip":
                    moves.append(("flip", axis - row.ndim))
                case "roll":
                    moves.append(("roll", axis, int(self.rng.integers(-5, 6))))
                case "slice" if n > 2:
                    moves.append(("slice", axis, 1, n, self.pick(1, 2)))
                    row = row[(slice(None),) * axis + (slice(1, n, moves[-1][-1]),)]
                case "pad":
                    width = tuple((int(a), int(b)) for a, b in self.rng.integers(0, 2, (row.ndim, 2)))
                    moves.append(("pad", width))
                    row = np.pad(row, width)
                case _:
                    order = tuple(int(i) for i in self.rng.permutation(row.ndim))
                    moves.append(("permute", order))
                    row = row.transpose(order)
        return self.add(g.Reshape, (x,), edge.kind, row.shape, edge.steps, moves=tuple(moves))

    def view(self, x: str, shape: tuple[int, ...], *more: tuple[Any, ...]) -> str:
        edge = self.edge(x)
        row = np.zeros(edge.shape, np.int8).reshape(shape)
        for name, order in more:
            row = row.transpose(order) if name == "permute" else np.broadcast_to(row, order)
        return self.add(g.Reshape, (x,), edge.kind, row.shape, edge.steps, moves=(("view", shape), *more))

    def matmul(self, a: str, b: str) -> str:
        ea, eb = self.edge(a), self.edge(b)
        ends = [
            p * q * ea.shape[-1] for p in (ea.kind.low, ea.kind.high) for q in (eb.kind.low, eb.kind.high)
        ]
        shape = (*np.broadcast_shapes(ea.shape[:-2], eb.shape[:-2]), ea.shape[-2], eb.shape[-1])
        kind = kinds.fixed(bits_for(min(-1, *ends), max(0, *ends)), 0)
        return self.add(g.MatMul, (a, b), kind, shape, ea.steps)

    def mul(self, a: str, b: str) -> str:
        ea, eb = self.edge(a), self.edge(b)
        ends = [p * q for p in (ea.kind.low, ea.kind.high) for q in (eb.kind.low, eb.kind.high)]
        kind = kinds.fixed(bits_for(min(-1, *ends), max(0, *ends)), 0)
        return self.add(g.Mul, (a, b), kind, np.broadcast_shapes(ea.shape, eb.shape), ea.steps)

    def lut(self, x: str) -> str:
        edge = self.edge(x)
        top = min(2000, max(1, edge.kind.high))
        breaks = np.sort(self.rng.integers(-top, top + 1, int(self.rng.integers(1, 8))))
        values = (
            self.rng.integers(0, 2, len(breaks) + 1)
            if self.chance(0.3)
            else self.rng.integers(-50, 51, len(breaks) + 1)
        )
        kind = kinds.binary if values.min() >= 0 and values.max() <= 1 else kinds.fixed(7, 0)
        return self.add(
            g.Lut, (x,), kind, edge.shape, edge.steps, breaks=self.const(breaks), values=self.const(values)
        )

    def concat(self, a: str, b: str) -> str:
        ea, eb = self.edge(a), self.edge(b)
        if ea.kind == eb.kind and self.chance(0.5):
            kind, shifts = ea.kind, (0, 0)
        else:
            shifts = (1, 2)
            low = min(ea.kind.low << 1, eb.kind.low << 2, -1)
            high = max(ea.kind.high << 1, eb.kind.high << 2)
            kind = kinds.fixed(bits_for(low, high), 0)
        shape = (ea.shape[0] + eb.shape[0], *ea.shape[1:])
        return self.add(g.Concat, (a, b), kind, shape, ea.steps, axis=0, shifts=shifts)

    def upsample(self, x: str) -> str:
        edge = self.edge(x)
        factors = tuple(self.pick(1, 2) for _ in edge.shape[1:])
        shape = (edge.shape[0], *(n * f for n, f in zip(edge.shape[1:], factors)))
        return self.add(g.Upsample, (x,), edge.kind, shape, edge.steps, factors=factors)

    def timemix(self, x: str) -> str:
        edge = self.edge(x)
        causal = self.chance(0.7)
        shape = (edge.shape[0], edge.steps, edge.steps) if self.chance(0.5) else (edge.steps, edge.steps)
        matrix = self.rng.integers(-4, 5, shape)
        matrix = np.tril(matrix) if causal else matrix
        bias = self.rng.integers(-4, 5, (self.pick(1, edge.steps), self.pick(1, edge.shape[0])))
        top = max(-edge.kind.low, edge.kind.high) * 4 * edge.steps + 4
        return self.add(
            g.TimeMix, (x,), kinds.fixed(bits_for(-top, top), 0), edge.shape, edge.steps,
            matrix=self.const(matrix), bias=self.const(bias) if self.chance(0.5) else None, causal=causal,
            axis=0,
        )  # fmt: skip

    def scan(self, x: str) -> str:
        """state' = sum of x and a quarter of the state, y = [state' passes a threshold]."""
        edge = self.edge(x)
        body = Builder(self.rng, 1)
        top = 4 * (max(-edge.kind.low, edge.kind.high) + 2)
        wide = kinds.fixed(bits_for(-top, top), 0)

        def put(cls: type[g.Node], name: str, inputs: tuple[str, ...], kind: Kind, **fields: Any) -> None:
            body.nodes.append(cls(name=name, inputs=inputs, edge=g.Edge(kind, edge.shape, 0), **fields))

        put(g.Input, "x", (), edge.kind)
        put(g.Input, "state0", (), wide)
        put(
            g.Affine,
            "leak",
            ("state0",),
            wide,
            gain=body.const([1]),
            bias=body.const([1]),
            shift=2,
            rounding="floor",
        )
        put(g.Add, "sum", ("x", "leak"), wide, shifts=(0, 0), signs=(1, 1))
        put(g.Lut, "fire", ("sum",), kinds.binary, breaks=body.const([1]), values=body.const([0, 1]))
        put(g.Output, "out", ("fire",), kinds.binary, key="y")
        put(g.Output, "out0", ("sum",), wide, key="state0")
        return self.add(g.Scan, (x,), kinds.binary, edge.shape, edge.steps, body=body.graph())

    def readout(self, x: str) -> str:
        edge = self.edge(x)
        mode = self.pick("sum", "max", "last")
        kind = edge.kind
        if mode == "sum":
            low, high = kind.low * edge.steps, kind.high * edge.steps
            kind = kinds.fixed(bits_for(min(low, -1), max(high, 0)), 0)
        return self.add(g.Readout, (x,), kind, edge.shape, 0, mode=mode)

    def output(self, x: str, key: str) -> str:
        edge = self.edge(x)
        return self.add(g.Output, (x,), edge.kind, edge.shape, edge.steps, key=key)


__all__ = ["Builder", "bits_for"]
