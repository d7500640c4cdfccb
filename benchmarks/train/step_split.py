"""Milliseconds of one training step by operator, from torch's profiler and labels on the event kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from picojoule.layers import event_conv

OPERATORS = (
    ("events forward", "conv forward"),
    ("events weight", "conv dW"),
    ("events input", "conv dX"),
    ("tiled forward", "conv forward"),
    ("tiled input", "conv dX"),
    ("sampled input", "conv dX"),
    ("dense both", "conv dW and dX, one call"),
    ("dense weight", "conv dW"),
    ("dense input", "conv dX"),
    ("convolution_backward", "conv dW and dX, one call"),
    ("mkldnn_convolution", "conv forward"),
    ("batch_norm", "BatchNorm"),
    ("_Native", "neuron"),
    ("_NormLeaky", "BatchNorm and neuron"),
)


class _Labelled:
    """The native module with the event kernels under a name of the profiler."""

    NAMES = {
        "event_forward": "events forward",
        "event_weight_gradient": "events weight",
        "event_input_gradient": "events input",
        "tiled_forward": "tiled forward",
        "tiled_input_gradient": "tiled input",
        "sampled_input_gradient": "sampled input",
    }

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.inner, name)
        if name not in self.NAMES:
            return call

        def labelled(*args: Any) -> Any:
            with torch.profiler.record_function(self.NAMES[name]):
                return call(*args)

        return labelled


def split(step: Callable[[], float]) -> dict[str, float]:
    """Milliseconds of one step by operator."""
    native, dense = event_conv.native, event_conv.dense_gradients

    def labelled(x: Tensor, w: Tensor, g: Tensor, geo: Any, wants: tuple[bool, bool]) -> Any:
        what = "both" if all(wants) else "input" if wants[0] else "weight"
        with torch.profiler.record_function(f"dense {what}"):
            return dense(x, w, g, geo, wants)

    event_conv.native, event_conv.dense_gradients = _Labelled(native), labelled
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            begin = time.perf_counter()
            step()
            total = 1e3 * (time.perf_counter() - begin)
    finally:
        event_conv.native, event_conv.dense_gradients = native, dense
    found: dict[str, float] = {}
    inside = 0.0  # oneDNN calls that a label above has counted already
    for row in profile.key_averages():
        label = next((to for part, to in OPERATORS if part in row.key), None)
        if label is None:
            continue
        whole = row.key.startswith(("events", "tiled", "sampled", "dense"))
        spent = (row.cpu_time_total if whole else row.self_cpu_time_total) / 1e3
        found[label] = found.get(label, 0.0) + spent
        inside += spent if row.key.startswith("dense") else 0.0
    both = "conv dW and dX, one call"
    if inside and both in found:
        found[both] = max(found[both] - inside, 0.0)
    found["rest"] = max(total - sum(found.values()), 0.0)
    return {name: round(ms, 2) for name, ms in found.items()}
