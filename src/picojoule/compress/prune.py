"""Magnitude pruning of channels: masks that are attached, and the choice of what they hide.

A mask is a parametrization in front of the quantizer. A pruned channel is silenced everywhere it is made
(rows of weights, biases, BatchNorm, per-channel factors), so that `shrink` can later remove it without
changing the outputs.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from picojoule.compress.base import chain, latent_of, quantizer_of
from picojoule.compress.channels import FROZEN, Channels, Labels, trace_channels
from picojoule.compress.grid import Grid
from picojoule.core.errors import ConfigError, suggest


class ChannelMask(nn.Module):
    """w -> w * rows * fan_in_keep: zeroes output channels, and input channels, of a tensor.

    Args:
        rows: bool [C], kept entries along `axis`; None keeps all.
        cols: bool [C_in], kept input channels of a weight; None keeps all.
        shape: shape of the tensor. axis: where `rows` lie.
    """

    rows: Tensor | None
    fan_in_keep: Tensor | None

    def __init__(
        self, rows: Tensor | None, cols: Tensor | None, shape: tuple[int, ...], axis: int = 0
    ) -> None:
        super().__init__()
        self.register_buffer("rows", None if rows is None else _along(rows, axis, len(shape)))
        self.register_buffer("fan_in_keep", None if cols is None else _along(cols, 1, len(shape)))

    def forward(self, w: Tensor) -> Tensor:
        """The masked tensor."""
        for mask in (self.rows, self.fan_in_keep):
            if mask is not None:
                w = w * mask.to(w.dtype)
        return w


@dataclass(frozen=True)
class Pruned:
    """What pruning did: kept and all output channels of every layer it touched, by path."""

    kept: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        return "\n".join(f"{path}: {kept} of {total} channels" for path, (kept, total) in self.kept.items())


def prune_(model: nn.Module, ratios: dict[str, float], example: Tensor) -> Pruned:
    """Masks the channels of smallest magnitude, in place.

        score(c) = sum over the layers that make channel c of |row_c|^2 / mean |row|^2
        kept = int(n (1 - ratio))

    Channels tied by residual sums, depthwise convolutions or shared parameters are scored and pruned
    together, once. Everything is checked before anything changes.

    Args:
        ratios: shell pattern on layer paths -> share of channels to remove, in [0, 1).
        example: one input batch; it is only run to follow the channels.
    Raises:
        ConfigError: a pattern without a layer, a ratio that empties a layer, tied layers with different
            ratios, channels that cannot be removed (with the reason), a model that is pruned already.
    """
    if any(isinstance(m, ChannelMask) for m in model.modules()):
        raise ConfigError("the model carries pruning masks already; call shrink or remove_ first")
    for pattern, ratio in ratios.items():
        if not 0 <= ratio < 1:
            raise ConfigError(
                f"prune {pattern!r}: ratio must lie in [0, 1), got {ratio}; 1 would empty the layer"
            )
    found = trace_channels(model, example)
    removed = choose(model, found, ratios)
    _check_maskable(model, found, removed)
    _mask(model, found, removed)
    kept = {path: labels for path, labels in found.rows.items() if np.isin(labels, removed).any()}
    return Pruned({p: (int((~np.isin(x, removed)).sum()), len(x)) for p, x in kept.items()})


def choose(model: nn.Module, found: Channels, ratios: dict[str, float]) -> Labels:
    """Labels of the channels to remove."""
    wanted = _match(found, ratios)
    scores = _scores(model, found)
    removed: list[int] = []
    for layers in _tied(found, wanted):
        shares = {wanted[path] for path in layers}
        if len(shares) > 1:
            raise ConfigError(
                f"layers {', '.join(layers)} share channels and must be pruned with one ratio, got "
                f"{', '.join(map(str, sorted(shares)))}"
            )
        labels = np.unique(np.concatenate([found.rows[path] for path in layers]))
        labels = labels[labels != FROZEN]
        keep = int(len(labels) * (1 - shares.pop()) + 1e-9)
        order = sorted(labels.tolist(), key=lambda label: (scores[label], label))
        removed += order[: len(labels) - keep]
    result = np.array(sorted(removed), dtype=np.int64)
    for path, labels in found.rows.items():
        if np.isin(labels, result).all():
            raise ConfigError(
                f"pruning would empty layer {path!r}, which has {len(labels)} channels; lower its ratio"
            )
    return result


def _match(found: Channels, ratios: dict[str, float]) -> dict[str, float]:
    """Ratio of each layer that a pattern names and that has removable channels; later patterns win."""
    wanted: dict[str, float] = {}
    for pattern, ratio in ratios.items():
        hits = [path for path in found.rows if fnmatch.fnmatchcase(path, pattern)]
        if not hits:
            raise ConfigError(
                f"prune {pattern!r} names no layer of this model; {suggest(pattern, found.rows)}"
            )
        free = [path for path in hits if (found.rows[path] != FROZEN).any()]
        if not free:
            raise ConfigError(f"the channels of {hits[0]!r} cannot be removed: {found.reasons[hits[0]]}")
        wanted.update(dict.fromkeys(free, ratio))
    return wanted


def _tied(found: Channels, wanted: dict[str, float]) -> list[list[str]]:
    """Wanted layers in groups that share a removable channel."""
    groups: list[tuple[set[int], list[str]]] = []
    for path in wanted:
        labels = set(found.rows[path].tolist()) - {FROZEN}
        paths = [path]
        for group in [g for g in groups if g[0] & labels]:
            groups.remove(group)
            labels |= group[0]
            paths = group[1] + paths
        groups.append((labels, paths))
    return [paths for _, paths in groups]


def _scores(model: nn.Module, found: Channels) -> dict[int, float]:
    """Magnitude of every channel, summed over the layers that make it."""
    scores: dict[int, float] = {}
    for path, labels in found.rows.items():
        rows = latent_of(model.get_submodule(path)).flatten(1).double().square().sum(dim=1)
        share = rows / rows.mean().clamp_min(1e-30)
        for label, value in zip(labels.tolist(), share.tolist(), strict=True):
            scores[label] = scores.get(label, 0.0) + value
    return scores


def _check_maskable(model: nn.Module, found: Channels, removed: Labels) -> None:
    """Grid weights have no latent value that a mask could zero."""
    for path in found.rows:
        touched = np.isin(found.rows[path], removed).any() or np.isin(found.cols.get(path, []), removed).any()
        if touched and isinstance(quantizer_of(model.get_submodule(path)), Grid):
            raise ConfigError(f"layer {path!r} holds Grid weights, which cannot be masked; shrink first")


def _mask(model: nn.Module, found: Channels, removed: Labels) -> None:
    for path, labels in found.rows.items():
        module = model.get_submodule(path)
        cols = found.cols.get(path)
        _attach(module, "weight", _kept(labels, removed), None if cols is None else _kept(cols, removed))
        if getattr(module, "bias", None) is not None:
            _attach(module, "bias", _kept(labels, removed))
    for path, labels in found.norms.items():
        for name in ("weight", "bias"):
            _attach(model.get_submodule(path), name, _kept(labels, removed))
    for (path, name), (axis, labels) in found.vectors.items():
        _attach(model.get_submodule(path), name, _kept(labels, removed), axis=axis)


def _kept(labels: Labels, removed: Labels) -> Tensor | None:
    """Mask of the kept channels, or None when all are."""
    keep = ~np.isin(labels, removed)
    return None if keep.all() else torch.from_numpy(keep)


def _attach(module: Any, name: str, rows: Tensor | None, cols: Tensor | None = None, axis: int = 0) -> None:
    """Puts a mask in front of whatever parametrizes the tensor already."""
    if rows is None and cols is None:
        return
    value = getattr(module, name)
    mask = ChannelMask(rows, cols, tuple(value.shape), axis).to(value.device)
    if parametrize.is_parametrized(module, name):
        parts = chain(module, name)
        parts.insert(0, mask)
        quantizer = quantizer_of(module, name)
        if quantizer is not None and mask.fan_in_keep is not None:
            quantizer.fan_in_keep = mask.fan_in_keep.clone()
    else:
        parametrize.register_parametrization(module, name, mask)


def _along(mask: Tensor, axis: int, ndim: int) -> Tensor:
    """[C] with ones around it, so that it broadcasts along `axis`."""
    return mask.reshape([-1 if place == axis else 1 for place in range(ndim)])
