"""Physical removal of masked channels: a smaller model with the same outputs."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves

from picojoule.compress.base import Quantizer, chain
from picojoule.compress.channels import FROZEN, Channels, Labels, trace_channels
from picojoule.compress.prune import ChannelMask
from picojoule.compress.strip import unwrap_
from picojoule.core.errors import ConfigError

M = TypeVar("M", bound=nn.Module)
TOLERANCE = 1e-4
Parts = dict[str, dict[str, list[nn.Module]]]


def shrink(model: M, example: Tensor) -> M:
    """A copy without the channels that pruning masks hide; quantizers stay attached, masks are gone.

    Rows, columns, BatchNorm, per-channel factors and per-channel constants of neurons are cut alike. Then the
    copy's outputs on `example` are compared with the original's, which stays as it is.

    Args:
        example: an input batch, run in eval mode.
    Raises:
        ConfigError: a masked channel is not silent (its neuron fires at zero input), a code word of a
            codebook would be torn apart, or a module uses channels in a way that is not understood.
    """
    found = trace_channels(model, example)
    removed = _removed(model, found)
    small = copy.deepcopy(model)
    parts: Parts = {
        path: unwrap_(module)
        for path, module in list(small.named_modules())
        if parametrize.is_parametrized(module)
    }

    def kept(labels: Labels) -> Labels:
        return np.flatnonzero(~np.isin(labels, removed))

    for path, labels in found.rows.items():
        cols = found.cols.get(path)
        _cut_layer(small.get_submodule(path), kept(labels), None if cols is None else kept(cols))
        _cut_quantizer(parts.get(path, {}), path, found, kept)
    for path, labels in found.norms.items():
        _cut_norm(small.get_submodule(path), kept(labels))
    for (path, name), (axis, labels) in found.vectors.items():
        _cut(small.get_submodule(path), name, axis, kept(labels))
    for path, labels in found.neurons.items():
        if np.isin(labels, removed).any():
            _cut_neuron(small.get_submodule(path), path, len(labels), kept(labels))
    for path, names in parts.items():
        for name, chain_of_name in names.items():
            for part in chain_of_name:
                if not isinstance(part, ChannelMask):
                    parametrize.register_parametrization(small.get_submodule(path), name, part)
    _compare(model, small, example)
    return small


def _removed(model: nn.Module, found: Channels) -> Labels:
    """Labels that row masks hide; a channel must be hidden wherever it is made."""
    hidden: set[int] = set()
    shown: set[int] = {FROZEN}
    for path, labels in found.rows.items():
        keep = np.ones(len(labels), dtype=bool)
        for part in chain(model.get_submodule(path)):
            if isinstance(part, ChannelMask) and part.rows is not None:
                keep &= part.rows.flatten().cpu().numpy()
        hidden.update(labels[~keep].tolist())
        shown.update(labels[keep].tolist())
    if hidden & shown:
        raise ConfigError(
            "a masked channel is tied to channels that stay; attach masks with prune_, which follows the ties"
        )
    return np.array(sorted(hidden), dtype=np.int64)


def _select(x: Tensor, axis: int, index: Labels) -> Tensor:
    return x.detach().index_select(axis, torch.from_numpy(index).to(x.device))


def _cut(module: Any, name: str, axis: int, index: Labels) -> None:
    """Keeps `index` along an axis of a parameter or buffer."""
    value = getattr(module, name)
    if value is None or value.shape[axis] == len(index):
        return
    cut = _select(value, axis, index)
    setattr(module, name, nn.Parameter(cut, value.requires_grad) if isinstance(value, nn.Parameter) else cut)


def _cut_layer(module: Any, rows: Labels, cols: Labels | None) -> None:
    """Weight, bias and sizes of a convolution or linear layer."""
    _cut(module, "weight", 0, rows)
    _cut(module, "bias", 0, rows)
    if isinstance(module, nn.Linear):
        module.out_features = len(rows)
        if cols is not None:
            _cut(module, "weight", 1, cols)
            module.in_features = len(cols)
        return
    if module.groups > 1 and module.groups == module.in_channels == module.out_channels:
        module.groups = module.in_channels = len(rows)
    elif cols is not None:
        _cut(module, "weight", 1, cols)
        module.in_channels = len(cols)
    module.out_channels = len(rows)


def _cut_norm(module: Any, rows: Labels) -> None:
    """Everything per channel of a BatchNorm."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        _cut(module, name, 0, rows)
    module.num_features = len(rows)


def _cut_neuron(module: nn.Module, path: str, size: int, rows: Labels) -> None:
    """Per-channel parameters and buffers of a neuron: those with one axis of the channels' size."""
    for part in module.modules():
        for name, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            axes = [axis for axis, length in enumerate(value.shape) if length == size]
            if size > 1 and len(axes) > 1:
                raise ConfigError(
                    f"neuron {path!r}: cannot tell which axis of {name} {list(value.shape)} holds the "
                    f"{size} channels"
                )
            if size > 1 and axes:
                _cut(part, name, axes[0], rows)


def _cut_quantizer(parts: dict[str, list[nn.Module]], path: str, found: Channels, kept: Any) -> None:
    """Per-channel state of the quantizer of a layer's weight."""
    for part in parts.get("weight", []):
        if isinstance(part, Quantizer):
            cols = found.cols.get(path)
            part.cut(kept(found.rows[path]), None if cols is None else kept(cols), path)


@torch.no_grad()
def _compare(model: nn.Module, small: nn.Module, example: Tensor) -> None:
    """Refuses a result whose outputs differ."""
    training = {module: module.training for module in [*model.modules(), *small.modules()]}
    model.eval()
    small.eval()
    try:
        expected = tree_leaves(model(example))
        try:
            given = tree_leaves(small(example))
        except RuntimeError as error:
            raise ConfigError(
                f"the shrunk model does not run ({error}); a module uses channels in a way that pruning "
                "does not follow"
            ) from error
    finally:
        for module, mode in training.items():
            module.training = mode
    for a, b in zip(expected, given, strict=True):
        gap = float((a - b).abs().max()) if isinstance(a, Tensor) and a.numel() else 0.0
        if not gap <= TOLERANCE * max(
            1.0, float(a.abs().max()) if isinstance(a, Tensor) and a.numel() else 0.0
        ):
            raise ConfigError(
                f"the shrunk model differs from the masked one by {gap:.3g}: a pruned channel is not silent, "
                "e.g. its neuron fires at zero input (bias, threshold at or below zero); prune other layers"
            )
