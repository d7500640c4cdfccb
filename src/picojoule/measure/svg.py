"""Small plots as SVG text, 360 units wide so that text stays readable on a phone. Colours are CSS classes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH = 360
LABEL = 132  # room for layer names
ROW = 19
NAMED = 4  # points with a name beside them in a crowded plot


def _svg(height: float, body: list[str], title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
    return head + "".join(body) + "</svg>"


def _text(x: float, y: float, text: str, css: str = "t", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def shorten(name: str, most: int = 20) -> str:
    """The end of a long path, which tells layers apart.

    >>> shorten("stages.0.1.sep.pw1.neuron", 12)
    '..pw1.neuron'
    """
    return name if len(name) <= most else ".." + name[-(most - 2) :]


def bars(rows: Sequence[tuple[str, Sequence[float], str]], title: str) -> str:
    """Horizontal stacked bars.

    Args:
        rows: (label, parts, text after the bar); parts get the classes s0, s1, ... .
    """
    most = max((sum(parts) for _, parts, _ in rows), default=0.0) or 1.0
    room = WIDTH - LABEL - 66
    body = []
    for i, (label, parts, text) in enumerate(rows):
        y, x = i * ROW, float(LABEL)
        body.append(_text(LABEL - 5, y + 13, shorten(label), "t", "end"))
        for k, value in enumerate(parts):
            width = room * value / most
            body.append(_rect(x, y + 3, width, ROW - 6, f"s{k}", tip=f"{label}: {text}"))
            x += width
        body.append(_text(x + 4, y + 13, text, "t m"))
    return _svg(max(1, len(rows)) * ROW + 2, body, title)


def raster(layers: Sequence[dict[str, Any]], title: str) -> str:
    """Spikes of one sample, a strip a layer; darker for larger counts, the second colour for negative ones.

    Few steps: neurons across and steps down; many: steps across and neurons down.
    """
    turned = max((n["steps"] for n in layers), default=1) > 12
    body, y, room = [], 0.0, WIDTH - LABEL - 6.0
    for layer in layers:
        grid = layer["spikes"] if turned else [list(column) for column in zip(*layer["spikes"])]
        tall = 2.0 if turned else 7.0
        wide = room / max(1, len(grid[0]) if grid else 1)
        wide = wide if turned else min(wide, 4.5)
        peak = max((abs(s) for row in grid for s in row), default=0) or 1
        height = max(14.0, tall * len(grid))
        body.append(_text(LABEL - 5, y + height / 2 + 4, shorten(layer["layer"]), "t", "end"))
        if grid:
            body.append(_rect(LABEL, y, wide * len(grid[0]), tall * len(grid), "bg"))
        for i, row in enumerate(grid):
            for k, s in enumerate(row):
                if s:
                    dark = 0.35 + 0.65 * abs(s) / peak
                    place = (LABEL + k * wide, y + i * tall, wide - 0.4, tall - 0.4)
                    body.append(_rect(*place, "s0" if s > 0 else "s1", f' opacity="{dark:.2f}"'))
        y += height + 6
    note = "steps run to the right, neurons down" if turned else "neurons run to the right, steps down"
    body.append(_text(LABEL, y + 10, note, "t m"))
    return _svg(y + 16, body, title)


def _rect(x: float, y: float, width: float, height: float, css: str, more: str = "", tip: str = "") -> str:
    head = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}" class="{css}"{more}'
    return f"{head}><title>{escape(tip)}</title></rect>" if tip else f"{head}/>"


def scatter(points: Sequence[tuple[float, float, str]], x_name: str, y_name: str, title: str) -> str:
    """Points (x > 0 on a logarithmic axis, y, label); those on the front (less x, more y) are filled."""
    points = [p for p in points if p[0] > 0]
    if not points:
        return ""
    left, top, width, height = 46.0, 10.0, WIDTH - 60.0, 200.0
    xs, ys = [math.log10(p[0]) for p in points], [p[1] for p in points]
    x0, x1 = min(xs) - 0.15, max(xs) + 0.35
    pad = max(0.5, 0.15 * (max(ys) - min(ys)))
    y0, y1 = min(ys) - pad, max(ys) + pad

    def place(x: float, y: float) -> tuple[float, float]:
        return left + width * (x - x0) / (x1 - x0), top + height * (1 - (y - y0) / (y1 - y0))

    body = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" class="bg"/>']
    for value, name in _ticks(x0, x1):
        x, _ = place(math.log10(value), y0)
        body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + height}" class="grid"/>')
        body.append(_text(x, top + height + 13, name, "t m", "middle"))
    for k in range(5):
        value = y0 + (y1 - y0) * k / 4
        _, y = place(x0, value)
        body.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        body.append(_text(left - 4, y + 4, f"{value:.1f}", "t m", "end"))
    front = set(pareto([(p[0], p[1]) for p in points]))
    dots = [(*place(x, y), p[2], i in front) for i, (x, y, p) in enumerate(zip(xs, ys, points))]
    body += _labelled(dots, left + 0.55 * width)
    body.append(_text(left + width / 2, top + height + 28, x_name, "t m", "middle"))
    body.append(_text(left, top + height + 42, f"up: {y_name}; filled: on the front", "t m"))
    return _svg(top + height + 48, body, title)


def decades(points: Sequence[tuple[float, float, str]], x_name: str, y_name: str, title: str) -> str:
    """Points (x > 0, y > 0, label) on two logarithmic axes, and the line of the median y / x.

    Of many points only the `NAMED` furthest from the line are filled and named; the others show their names
    under the pointer.
    """
    points = [p for p in points if p[0] > 0 and p[1] > 0]
    if not points:
        return ""
    left, top, width, height = 46.0, 10.0, WIDTH - 60.0, 220.0
    xs, ys = [math.log10(p[0]) for p in points], [math.log10(p[1]) for p in points]
    middle = statistics.median(y - x for x, y in zip(xs, ys))
    x0, x1 = min(xs) - 0.2, max(xs) + 0.2
    y0, y1 = min(ys) - 0.2, max(ys) + 0.2

    def place(x: float, y: float) -> tuple[float, float]:
        return left + width * (x - x0) / (x1 - x0), top + height * (1 - (y - y0) / (y1 - y0))

    body = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" class="bg"/>']
    for value, name in _ticks(x0, x1):
        x, _ = place(math.log10(value), y0)
        body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + height}" class="grid"/>')
        body.append(_text(x, top + height + 13, name, "t m", "middle"))
    for value, name in _ticks(y0, y1):
        _, y = place(x0, math.log10(value))
        body.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        body.append(_text(left - 4, y + 4, name, "t m", "end"))
    start, end = max(x0, y0 - middle), min(x1, y1 - middle)
    if start < end:
        (a, b), (c, d) = place(start, start + middle), place(end, end + middle)
        body.append(f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" class="open"/>')
    off = sorted(range(len(points)), key=lambda i: -abs(ys[i] - xs[i] - middle))
    named = set(off if len(points) <= NAMED else off[:NAMED])
    dots = [(*place(x, y), p[2]) for x, y, p in zip(xs, ys, points)]
    body += [_dot(*dots[i], "open") for i in range(len(points)) if i not in named]
    body += _labelled([(*dots[i], True) for i in sorted(named)], left + 0.55 * width)
    body.append(_text(left + width / 2, top + height + 28, x_name, "t m", "middle"))
    body.append(_text(left, top + height + 42, f"up: {y_name}; line: median of up / across", "t m"))
    return _svg(top + height + 48, body, title)


def _labelled(dots: Sequence[tuple[float, float, str, bool]], turn: float) -> list[str]:
    """Circles (x, y, name, filled) from the top down, names beside them and clear of each other.

    Args:
        turn: x from which on names stand to the left.
    """
    body = []
    lines = [(x - 6, x + 6, y + 4) for x, y, _, _ in dots]  # what stands already: left, right, baseline
    for x, y, name, filled in sorted(dots, key=lambda dot: dot[1]):
        css = "s0" if filled else "open"
        body.append(_dot(x, y, name, css))
        right = x > turn
        long = 6.2 * len(shorten(name, 24))
        start, base = (x - 8 - long if right else x + 8), y + 4
        while any(start < b and a < start + long and abs(base - line) < 11 for a, b, line in lines):
            base += 3
        lines.append((start, start + long, base))
        body.append(
            _text(x + (-8 if right else 8), base, shorten(name, 24), "t", "end" if right else "start")
        )
    return body


def _dot(x: float, y: float, name: str, css: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="{css}"><title>{escape(name)}</title></circle>'


def _ticks(x0: float, x1: float) -> list[tuple[float, str]]:
    """Values of an axis from 10^x0 to 10^x1 with their names: powers of ten, also 2 and 5 of a short axis."""
    steps = (1, 2, 5) if x1 - x0 < 2.5 else (1,)
    values = [m * 10.0**k for k in range(math.floor(x0), math.ceil(x1) + 1) for m in steps]
    prefixes = ((1e9, " G"), (1e6, " M"), (1e3, " k"), (0.0, ""))
    found = []
    for value in values:
        if x0 <= math.log10(value) <= x1:
            unit, prefix = next(p for p in prefixes if value >= p[0])
            found.append((value, f"{value / (unit or 1):g}{prefix}"))
    return found


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of points that no other beats: less x and not less y, or more y and not more x.

    >>> pareto([(1, 90), (2, 95), (3, 94)])
    [0, 1]
    """
    return [
        i
        for i, (x, y) in enumerate(points)
        if not any((u <= x and v >= y and (u < x or v > y)) for u, v in points)
    ]


def histogram(layers: Sequence[tuple[str, Sequence[int], str]], title: str) -> str:
    """One strip of columns a layer: (label, counts, text); heights are square roots of shares."""
    body, tall = [], 30
    for i, (label, counts, text) in enumerate(layers):
        y = i * (tall + 8)
        room = (WIDTH - LABEL - 76) / max(1, len(counts))
        most = max(counts, default=0) or 1
        body.append(_text(LABEL - 5, y + tall / 2 + 4, shorten(label), "t", "end"))
        line = f'<line x1="{LABEL}" x2="{WIDTH - 76}" y1="{y + tall}" y2="{y + tall}" class="grid"/>'
        body.append(line)
        for k, n in enumerate(counts):
            h = tall * math.sqrt(n / most)
            body.append(_rect(LABEL + k * room, y + tall - h, max(0.5, room - 1), h, "s0", tip=str(n)))
        body.append(_text(WIDTH - 72, y + tall / 2 + 4, text, "t m"))
    return _svg(max(1, len(layers)) * (tall + 8) + 2, body, title)
