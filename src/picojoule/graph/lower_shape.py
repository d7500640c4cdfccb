"""Lowering of operators that move data inside a row: views, permutations, slices, joins, padding."""

from __future__ import annotations

from typing import Any

from torch import fx

from picojoule.core.kinds import Kind, real
from picojoule.graph import nodes as g
from picojoule.graph.builder import Builder
from picojoule.graph.lowering import Args, lowers, opaque, sizes
from picojoule.graph.nodes import Edge
from picojoule.graph.rows import Const, Val

IDENTITIES = (
    "aten.clone", "aten.contiguous", "aten.detach", "aten.alias", "aten.dropout", "aten.lift_fresh_copy",
    "aten.feature_dropout", "aten.lift_fresh", "aten._assert_tensor_metadata", "aten.alpha_dropout",
    "aten.positive",
)  # fmt: skip


@lowers(*IDENTITIES)
def identity(b: Builder, node: fx.Node, a: Args) -> Any:
    """Operators that change nothing in eval mode."""
    return a.get("self", a.get("input", a.get("a")))


@lowers("aten.to", "aten._to_copy", "aten.type_as")
def cast(b: Builder, node: fx.Node, a: Args) -> Any:
    """Between floats, and from bool to float, a cast changes nothing; rounding to integers does."""
    before = node.args[0].meta["val"].dtype  # type: ignore[union-attr]
    after = node.meta["val"].dtype
    if after == before or after.is_floating_point:
        return a["self"]
    return opaque(b, node, a)


@lowers(
    "aten.view", "aten.reshape", "aten.flatten", "aten.unflatten", "aten._unsafe_view", "aten.unsqueeze",
    "aten.squeeze", "aten.view_as", "aten.reshape_as", "aten._reshape_copy", "aten.view_copy",
)  # fmt: skip
def reshape(b: Builder, node: fx.Node, a: Args) -> Any:
    """Any reshape, by its result sizes."""
    return b.reshape(a["self"], sizes(node))


def _permuted(v: Val, order: list[int]) -> Val:
    return v.with_(axes=tuple(v.axes[i] for i in order))


@lowers("aten.permute", "aten.permute_copy")
def permute(b: Builder, node: fx.Node, a: Args) -> Any:
    """Reorder tensor axes."""
    v = a["self"]
    return _permuted(v, [d % len(v.axes) for d in a["dims"]])


@lowers(
    "aten.transpose",
    "aten.t",
    "aten.swapaxes",
    "aten.swapdims",
    "aten.numpy_T",
    "aten.mT",
    "aten.transpose_copy",
)
def transpose(b: Builder, node: fx.Node, a: Args) -> Any:
    """Swap two tensor axes."""
    v = a["self"]
    n = len(v.axes)
    first = a.get("dim0", a.get("axis0", -2 if "mT" in str(node.target) else 0)) % n
    second = a.get("dim1", a.get("axis1", -1)) % n
    order = list(range(n))
    order[first], order[second] = order[second], order[first]
    return _permuted(v, order)


@lowers("aten.movedim", "aten.moveaxis")
def movedim(b: Builder, node: fx.Node, a: Args) -> Any:
    """Move tensor axes to new places."""
    v = a["self"]
    n = len(v.axes)
    source, target = a["source"], a["destination"]
    source = [source] if isinstance(source, int) else list(source)
    target = [target] if isinstance(target, int) else list(target)
    rest = [i for i in range(n) if i not in {s % n for s in source}]
    placed = {t % n: s % n for s, t in zip(source, target)}
    free = iter(rest)
    return _permuted(v, [placed[i] if i in placed else next(free) for i in range(n)])


def row_axis(b: Builder, v: Val, dim: int, what: str) -> tuple[Val, int, int]:
    """`v` with tensor axis `dim` being one whole row axis: (value, row axis, tensor axis).

    Time becomes a row axis; the batch is refused.
    """
    dim = dim % len(v.axes)
    axis = v.axes[dim]
    if axis == ("T",):
        v = b.time_to_row(v)
        return v, 0, dim
    if any(isinstance(a, str) for a in axis):
        b.fail(f"{what} along the batch axis mixes samples; work inside a sample, along axes after the batch")
    if len(axis) == 1:
        return v, int(axis[0]), dim
    rows, lead = b.rows(v)
    return b.shown(rows, lead), lead.row(dim, len(v.axes)), dim


def _without(v: Val, shape: tuple[int, ...], axis: int, dim: int, node: str, kind: Kind) -> Val:
    """Axes after row axis `axis` (tensor axis `dim`) has gone."""

    def rename(atom: Any) -> Any:
        return atom - 1 if isinstance(atom, int) and atom > axis else atom

    axes = tuple(tuple(rename(x) for x in ax) for i, ax in enumerate(v.axes) if i != dim)
    return Val(node, Edge(kind, shape, v.edge.steps), axes)


@lowers("aten.select", "aten.select_copy")
def select(b: Builder, node: fx.Node, a: Args) -> Any:
    """One index of an axis; the last step of time is a readout."""
    return pick(b, a["self"], a["dim"], a["index"])


def pick(b: Builder, v: Val, dim: int, index: int) -> Val:
    """Row or time index `index` of tensor axis `dim`."""
    dim = dim % len(v.axes)
    if v.axes[dim] == ("T",) and index in (-1, v.edge.steps - 1):
        edge = Edge(v.edge.kind, v.edge.shape, 0)
        out = b.emit(g.Readout, "last", [v.node], edge, mode="last")
        b.like(v, out.node)
        return Val(out.node, edge, _timeless(v, dim))
    v, axis, dim = row_axis(b, v, dim, "select")
    size = v.edge.shape[axis]
    index = index % size
    shape = tuple(s for i, s in enumerate(v.edge.shape) if i != axis)
    moves = [("slice", axis, index, index + 1, 1)] if size > 1 else []
    moved = b.move(v, *moves, ("view", shape), shape=shape, part="select")
    return _without(v, shape, axis, dim, moved.node, v.edge.kind)


def _timeless(v: Val, dim: int) -> Any:
    return tuple(tuple("N" if x == "B" else x for x in ax) for i, ax in enumerate(v.axes) if i != dim)


def cut(b: Builder, v: Val, dim: int, start: int, stop: int, step: int = 1) -> Val:
    """A slice of tensor axis `dim`."""
    dim = dim % len(v.axes)
    if not any(isinstance(x, int) for x in v.axes[dim]) and v.axes[dim] != ("T",):
        if start == 0 and step == 1 and stop >= 1 << 40:
            return v
        b.fail("a slice along the batch axis drops samples; slice axes after the batch")
    size = v.edge.steps if v.axes[dim] == ("T",) else None
    if size is not None and (start, step) == (0, 1) and stop >= size:
        return v
    v, axis, dim = row_axis(b, v, dim, "slice")
    size = v.edge.shape[axis]
    start, stop, step = slice(start, stop, step).indices(size)
    if (start, stop, step) == (0, size, 1):
        return v
    shape = tuple(len(range(start, stop, step)) if i == axis else s for i, s in enumerate(v.edge.shape))
    moved = b.move(v, ("slice", axis, start, stop, step), shape=shape, part="slice")
    return Val(moved.node, moved.edge, v.axes)


@lowers("aten.slice", "aten.slice_copy")
def slice_(b: Builder, node: fx.Node, a: Args) -> Any:
    """x[..., start:stop:step, ...]."""
    stop = a.get("end")
    stop = (1 << 60) if stop is None or not isinstance(stop, int) else stop
    return cut(b, a["self"], a.get("dim", 0), a.get("start") or 0, stop, a.get("step", 1))


@lowers("aten.narrow")
def narrow(b: Builder, node: fx.Node, a: Args) -> Any:
    """x[..., start:start+length, ...]."""
    return cut(b, a["self"], a["dim"], a["start"], a["start"] + a["length"])


@lowers(
    "aten.chunk", "aten.split", "aten.split_with_sizes", "aten.tensor_split", "aten.unsafe_chunk",
    "aten.unsafe_split", "aten.split_copy",
)  # fmt: skip
def split(b: Builder, node: fx.Node, a: Args) -> Any:
    """Consecutive parts of an axis; only the parts that are used become nodes."""
    v, dim = a["self"], a.get("dim", 0)
    dim = dim % len(v.axes)
    lengths = [sizes(node, i)[dim] for i in range(len(node.meta["val"]))]
    if any(power for _, power in lengths):
        b.fail("splitting the batch axis mixes samples; split axes after the batch")
    used = used_parts(node)
    parts, at = [], 0
    for i, (length, _) in enumerate(lengths):
        parts.append(cut(b, v, dim, at, at + length) if i in used else None)
        at += length
    return parts


def used_parts(node: fx.Node) -> set[Any]:
    """Indices of a list result that are read."""
    return {user.args[1] for user in node.users if isinstance(user.args[1], int)}


@lowers("aten.unbind", "aten.unbind_copy")
def unbind(b: Builder, node: fx.Node, a: Args) -> Any:
    """All indices of an axis; only the used ones become nodes."""
    v, dim = a["self"], a.get("dim", 0)
    used = used_parts(node)
    return [pick(b, v, dim, i) if i in used else None for i in range(len(node.meta["val"]))]


def joined_kind(b: Builder, values: list[Val]) -> Kind:
    """Kind of values side by side: the common spike kind of equal scales, else real."""
    found = {v.edge.kind for v in values}
    if len({b.scale(v.node) for v in values}) > 1:
        return real
    if len(found) == 1:
        return found.pop()
    if {k.name for k in found} <= {"binary", "integer"}:
        return max(found, key=lambda k: k.levels)
    return real


def _aligned(b: Builder, parts: list[Any]) -> list[Val]:
    """Values to be joined, with equal axes; constants become nodes."""
    data = [p for p in parts if isinstance(p, Val)]
    model = data[0]
    if any(v.axes != model.axes or v.edge.steps != model.edge.steps for v in data):
        data = [b.shown(*b.rows(v)) for v in data]
        model = data[0]
        if any(v.axes != model.axes or v.edge.steps != model.edge.steps for v in data):
            b.fail("joined tensors have different leading axes; bring them to rows [T*B, ...] first")
    data_parts = iter(data)
    out = []
    for p in parts:
        if isinstance(p, Val):
            out.append(next(data_parts))
            continue
        if any(len(ax) != 1 for ax in model.axes) or model.axes[0] != ("N",):
            b.fail("a constant joins a tensor whose batch axis is split or fused; join it in rows [T*B, ...]")
        const = Const(p.tensor.reshape(p.tensor.shape[1:]) if p.tensor.shape[0] == 1 else p.tensor[0], "")
        rows = b.constant_rows(const, model.edge.steps, tuple(const.tensor.shape))
        out.append(rows.with_(axes=model.axes))
    return out


@lowers("aten.cat", "aten.concat", "aten.concatenate")
def cat(b: Builder, node: fx.Node, a: Args) -> Any:
    """Concatenation along a row axis or along time."""
    parts = list(a["tensors"])
    if len(parts) == 1:
        return parts[0]
    return join(b, parts, a.get("dim", 0))


def join(b: Builder, parts: list[Any], dim: int) -> Val:
    """Concatenate values along tensor axis `dim`."""
    values = _aligned(b, parts)
    dim = dim % len(values[0].axes)
    axis = 0
    moved = []
    for v in values:
        w, axis, dim = row_axis(b, v, dim, "cat")
        moved.append(w)
    first = moved[0]
    total = sum(v.edge.shape[axis] for v in moved)
    shape = tuple(total if i == axis else s for i, s in enumerate(first.edge.shape))
    edge = Edge(joined_kind(b, moved), shape, first.edge.steps)
    out = b.emit(g.Concat, "cat", [v.node for v in moved], edge, axis=axis)
    if edge.kind.is_spikes:
        b.like(first, out.node)
    return Val(out.node, edge, first.axes)


@lowers("aten.stack")
def stack(b: Builder, node: fx.Node, a: Args) -> Any:
    """Join along a new axis."""
    full = sizes(node)
    dim = a.get("dim", 0) % len(full)
    lifted = []
    for part in a["tensors"]:
        if isinstance(part, Const):
            lifted.append(Const(part.tensor.unsqueeze(dim)))
        else:
            v = part.with_(edge=Edge(part.edge.kind, (*part.edge.shape, 1), part.edge.steps))
            moved = b.move(part, ("view", v.edge.shape), shape=v.edge.shape)
            axes = list(part.axes)
            axes.insert(dim, (len(part.edge.shape),))
            lifted.append(Val(moved.node, moved.edge, tuple(axes)))
    return join(b, lifted, dim)


@lowers("aten.expand", "aten.expand_as", "aten.broadcast_to", "aten.expand_copy")
def expand(b: Builder, node: fx.Node, a: Args) -> Any:
    """Repeat row axes of length 1; a new leading axis of length T repeats a sample over time."""
    v, target = a["self"], sizes(node)
    extra = len(target) - len(v.axes)
    if extra:
        return _expand_front(b, v, target)
    if v.axes[0] != ("N",) and isinstance(v.axes[0][:1], tuple) and _repeats(v, target):
        return _expand_front(b, v.with_(axes=v.axes), target)
    return widen(b, v, target)


def _repeats(v: Val, target: list[tuple[int, int]]) -> bool:
    """True for a sample `[1, B, ...]` that is expanded to `[T, B, ...]`."""
    first = v.axes[0]
    return (
        v.edge.steps == 0
        and len(v.axes) > 1
        and v.axes[1] == ("N",)
        and len(first) == 1
        and isinstance(first[0], int)
        and v.edge.shape[first[0]] == 1
        and target[0][1] == 0
        and target[0][0] > 1
    )


def _expand_front(b: Builder, v: Val, target: list[tuple[int, int]]) -> Val:
    if (
        len(target) > len(v.axes)
        and len(target) - len(v.axes) == 1
        and v.edge.steps == 0
        and v.axes[0] == ("N",)
    ):
        rows = v
    elif len(target) == len(v.axes) and _repeats(v, target):
        unit = v.axes[0][0]
        shape = tuple(s for i, s in enumerate(v.edge.shape) if i != unit)
        moved = b.move(v, ("view", shape), shape=shape)
        rows = _without(v, shape, int(unit), 0, moved.node, v.edge.kind)
    else:
        b.fail("expand in front of the batch axis; repeat samples over time with timeline.repeat(x, T)")
    return repeated(b, widen(b, rows, target[1:]), target[0][0])


def repeated(b: Builder, v: Val, T: int) -> Val:
    """One row a sample to T equal rows, seen as [T, B, ...]."""
    edge = Edge(v.edge.kind, v.edge.shape, T)
    out = b.emit(g.Repeat, "repeat", [v.node], edge)
    b.like(v, out.node)
    axes = tuple(tuple("B" if x == "N" else x for x in ax) for ax in v.axes)
    return Val(out.node, edge, (("T",), *axes))


def widen(b: Builder, v: Val, target: list[tuple[int, int]]) -> Val:
    """Expand row axes of length 1 to the target sizes (same number of tensor axes)."""
    shape = list(v.edge.shape)
    for axis, (factor, power) in zip(v.axes, target):
        ints = [x for x in axis if isinstance(x, int)]
        if power or not ints or len(axis) != 1:
            continue
        shape[ints[0]] = factor
    if tuple(shape) == v.edge.shape:
        return v
    moved = b.move(v, ("expand", tuple(shape)), shape=tuple(shape), part="expand")
    return Val(moved.node, moved.edge, v.axes)


@lowers("aten.repeat", "aten.tile")
def repeat(b: Builder, node: fx.Node, a: Args) -> Any:
    """Tiling of row axes of length 1 (an expand); others stay opaque."""
    v = a["self"]
    counts = list(a["repeats"] if "repeats" in a else a["dims"])
    target = sizes(node)
    if len(counts) == len(v.axes):
        plain = all(
            c == 1 or (len(ax) == 1 and isinstance(ax[0], int) and v.edge.shape[ax[0]] == 1)
            for c, ax in zip(counts, v.axes)
        )
        if plain:
            return widen(b, v, target)
    if len(counts) == len(v.axes) + 1 and all(c == 1 for c in counts[1:]) and v.edge.steps == 0:
        return repeated(b, v, counts[0])
    return opaque(b, node, a)


@lowers("aten.constant_pad_nd", "aten.pad")
def pad(b: Builder, node: fx.Node, a: Args) -> Any:
    """Zero padding of row axes; other modes and values stay opaque."""
    v = a["self"]
    if a.get("mode", "constant") != "constant" or (a.get("value") or 0) != 0:
        return opaque(b, node, a)
    v, lead = b.rows(v)
    widths = [(0, 0)] * len(v.edge.shape)
    pads = a["pad"]
    n = len(v.axes)
    for i in range(len(pads) // 2):
        axis = lead.row(n - 1 - i, n)
        if axis < lead.extra:
            b.fail("padding the batch axis adds samples; pad axes after the batch")
        widths[axis] = (pads[2 * i], pads[2 * i + 1])
    if any(w < 0 for pair in widths for w in pair):
        return opaque(b, node, a)
    shape = tuple(s + lo + hi for s, (lo, hi) in zip(v.edge.shape, widths))
    return b.shown(b.move(v, ("pad", tuple(widths)), shape=shape, part="pad"), lead)


@lowers("aten.flip")
def flip(b: Builder, node: fx.Node, a: Args) -> Any:
    """Reverse row axes."""
    v = a["self"]
    for dim in a["dims"]:
        v, axis, _ = row_axis(b, v, dim, "flip")
        moved = b.move(v, ("flip", axis), shape=v.edge.shape, part="flip")
        v = Val(moved.node, moved.edge, v.axes)
    return v


@lowers("aten.roll")
def roll(b: Builder, node: fx.Node, a: Args) -> Any:
    """Cyclic shift of row axes."""
    v = a["self"]
    if not a.get("dims"):
        b.fail("roll without dims runs over the batch axis; name the axes: torch.roll(x, shift, dims=...)")
    for shift, dim in zip(a["shifts"], a["dims"]):
        v, axis, _ = row_axis(b, v, dim, "roll")
        moved = b.move(v, ("roll", axis, shift), shape=v.edge.shape, part="roll")
        v = Val(moved.node, moved.edge, v.axes)
    return v


@lowers("aten.pixel_shuffle", "aten.pixel_unshuffle")
def pixel_shuffle(b: Builder, node: fx.Node, a: Args) -> Any:
    """Channels to space, or space to channels, as a view and a permutation."""
    rows, lead = b.rows(a["self"])
    if lead.split or lead.extra or len(rows.edge.shape) != 3:
        return opaque(b, node, a)
    c, h, w = rows.edge.shape
    if "unshuffle" in str(node.target):
        r = a["downscale_factor"]
        first, order, shape = (c, h // r, r, w // r, r), (0, 2, 4, 1, 3), (c * r * r, h // r, w // r)
    else:
        r = a["upscale_factor"]
        first, order, shape = (c // r // r, r, r, h, w), (0, 3, 1, 4, 2), (c // r // r, h * r, w * r)
    return b.move(rows, ("view", first), ("permute", order), ("view", shape), shape=shape, part="main")
