"""Readable reference of the spike-driven convolution: loops over spikes, taps and rows of weights.

    y[n, :, o]  = b + sum over spikes (i, c) and taps k of s[n, c, i] W[:, c, k]
    dW[:, c, k] = sum over spikes (i, c) of s[n, c, i] g[n, :, o]
    dx[n, c, i] = sum over taps k of W[:, c, k] . g[n, :, o]    where `opened` is set, else 0

for positions i, taps k and outputs o with i = o * stride - pad + k * dilation.

The native kernels (native/src/train_events*) compute the same sums in an order of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Stride, padding, dilation (y, x) and groups of a convolution over two axes."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def out(self, size: Pair, kernel: Pair) -> Pair:
        """Height and width of the output."""
        a, b = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, kernel, self.stride, self.padding, self.dilation)
        )
        return a, b


def _taps(at: Pair, kernel: Pair, out: Pair, geo: Geometry) -> Iterator[tuple[Pair, Pair]]:
    """(tap, output position) of every tap through which input position `at` reaches an output."""
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            reached = []
            for i, k, s, p, d, n in zip(at, (ky, kx), geo.stride, geo.padding, geo.dilation, out):
                whole, rest = divmod(i + p - k * d, s)
                if rest == 0 and 0 <= whole < n:
                    reached.append(whole)
            if len(reached) == 2:
                yield (ky, kx), (reached[0], reached[1])


def _events(x: Tensor) -> Iterator[tuple[int, int, Pair]]:
    """(n, c, (y, x)) of every value that is not zero."""
    for n, c, y, xx in x.nonzero().tolist():
        yield n, c, (y, xx)


def forward(x: Tensor, w: Tensor, bias: Tensor | None, geo: Geometry) -> Tensor:
    """y [N, O, OH, OW] of spikes x [N, C, H, W] and weights w [O, C / groups, Ky, Kx]."""
    kernel = (w.shape[2], w.shape[3])
    out = geo.out((x.shape[2], x.shape[3]), kernel)
    y = x.new_zeros(x.shape[0], w.shape[0], *out)
    ins, outs = w.shape[1], w.shape[0] // geo.groups
    for n, c, at in _events(x):
        rows = slice(c // ins * outs, (c // ins + 1) * outs)
        for (ky, kx), (oy, ox) in _taps(at, kernel, out, geo):
            y[n, rows, oy, ox] += x[n, c, at[0], at[1]] * w[rows, c % ins, ky, kx]
    return y if bias is None else y + bias[:, None, None]


def weight_gradient(x: Tensor, g: Tensor, shape: torch.Size, geo: Geometry) -> Tensor:
    """dW of shape [O, C / groups, Ky, Kx] from spikes x and the output's gradient g [N, O, OH, OW]."""
    dw = g.new_zeros(shape)
    ins, outs = shape[1], shape[0] // geo.groups
    for n, c, at in _events(x):
        rows = slice(c // ins * outs, (c // ins + 1) * outs)
        for (ky, kx), (oy, ox) in _taps(at, (shape[2], shape[3]), (g.shape[2], g.shape[3]), geo):
            dw[rows, c % ins, ky, kx] += x[n, c, at[0], at[1]] * g[n, rows, oy, ox]
    return dw


def input_gradient(opened: Tensor, w: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    """dx [N, C, H, W] where `opened` is not zero."""
    dx = g.new_zeros(opened.shape)
    ins, outs = w.shape[1], w.shape[0] // geo.groups
    for n, c, at in _events(opened):
        rows = slice(c // ins * outs, (c // ins + 1) * outs)
        for (ky, kx), (oy, ox) in _taps(at, (w.shape[2], w.shape[3]), (g.shape[2], g.shape[3]), geo):
            dx[n, c, at[0], at[1]] += w[rows, c % ins, ky, kx] @ g[n, rows, oy, ox]
    return dx
