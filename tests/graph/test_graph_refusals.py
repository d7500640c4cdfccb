"""Kinds contradicted by data, models that cannot be packed or captured: errors that help."""

import re

import pytest
import torch
from torch import nn

from picojoule import graph, neurons, timeline
from picojoule.core import kinds
from picojoule.core.errors import CaptureError, KindError, NonFiniteError, PackError
from picojoule.graph.foreign import spiking

T = 2


def inner(function, parts):
    """A module whose forward is `function` itself, so that traces show its line."""
    code = function.__code__.replace(co_name="forward")  # torch keeps the lines of functions of this name
    forward = type(function)(code, globals(), "forward")
    module = type("Inner", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def ones(*shape):
    return torch.ones(*shape, dtype=torch.float64)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.entry = timeline.Entry(T)
        self.stem = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), neurons.LIF(T, tau=4.0))
        self.head = nn.Linear(3, 4)
        self.out = timeline.Readout(T)

    def forward(self, x):
        x = self.stem(self.entry(x))
        return self.out(self.head(x.mean((2, 3))))


# -- kinds against data, and packing ---------------------------------------------------------------------


class Liar(neurons.Neuron):
    """Says binary, fires twice."""

    def run(self, x, T, state=None, want_h=False):
        return neurons.Fired(2.0 * (x > 0.5), None, None)

    def exported(self, x, T):
        return super().exported(x, T)


def test_a_kind_contradicted_by_data_names_the_module():
    captured = graph.capture(nn.Sequential(timeline.Entry(T), Liar(T), timeline.Readout(T)), torch.rand(1, 4))
    graph.check_kinds(captured, torch.zeros(2, 4))
    with pytest.raises(KindError, match=r"module '1'.*declared binary but carries 2"):
        graph.check_kinds(captured, ones(2, 4))


def test_input_kinds_are_checked():
    captured = graph.capture(nn.Linear(3, 2), torch.rand(1, 3), input_kinds="binary")
    with pytest.raises(KindError, match="input_kinds"):
        graph.check_kinds(captured, torch.full((1, 3), 0.5))


def test_scaled_spikes_are_counted_in_their_unit():
    model = nn.Sequential(timeline.Entry(T), neurons.ILIF(T, D=4, N=4.0), timeline.Readout(T, "sum"))
    captured = graph.capture(model, torch.rand(1, 3))
    assert captured["1"].out_scale == 0.25
    assert captured["2"].edge.kind == kinds.integer(4 * T)
    graph.check_kinds(captured, 8 * torch.rand(5, 3))


def test_nan_is_named_where_it_appears():
    model = Small()
    captured = graph.capture(model, torch.rand(1, 1, 6, 6))
    with pytest.raises(NonFiniteError, match="node 'x'"):
        graph.check_kinds(captured, torch.full((1, 1, 6, 6), float("nan")))
    model.stem[0].weight.data[0, 0, 0, 0] = float("inf")
    captured = graph.capture(model, torch.rand(1, 1, 6, 6))
    with pytest.raises(NonFiniteError, match=r"stem\.0"):
        graph.check_kinds(captured, torch.rand(1, 1, 6, 6))


def test_packing_is_refused_with_place_and_advice():
    class Odd(neurons.Neuron):
        def run(self, x, T, state=None, want_h=False):
            return neurons.Fired(x, None, None)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.entry, self.act, self.odd, self.soft = timeline.Entry(T), nn.GELU(), Odd(T), nn.Softmax(-1)
            self.out = timeline.Readout(T)

        def forward(self, x):
            return self.out(self.soft(self.odd(self.act(self.entry(x)))))

    captured = graph.capture(Model(), torch.rand(1, 3))
    found = graph.unpackable(captured)
    assert [r.node.name for r in found] == ["act", "odd", "soft"]
    with pytest.raises(PackError) as caught:
        graph.require_packable(captured)
    text = str(caught.value)
    assert re.search(r"module 'act' \(.*test_graph_refusals\.py:\d+\): the operator aten\.gelu", text)
    assert "neurons.LIF" in text
    assert "ILIF" in text
    assert "softmax" in text
    graph.require_packable(graph.capture(Small(), torch.rand(1, 1, 6, 6)))


# -- refusals of capture ---------------------------------------------------------------------------------


def _line(function):
    return function.__code__.co_firstlineno


def mixes(m, x):
    return x.reshape(2, -1).mean(1, keepdim=True)


def fixes(m, x):
    return x + ones(4, 3)


def branches(m, x):
    return x + 1 if x.sum() > 0 else x


def reads(m, x):
    return x * float(x.max())


def over_batch(m, x):
    return x - x.mean(0)


def soft_over_batch(m, x):
    return x.softmax(0)


def sorted_batch(m, x):
    return x.flip(0)


def draws(m, x):
    return x + torch.rand(3)


def counts(m, x):
    return x + torch.arange(x.shape[0])[:, None]


def transposed(m, x):
    return (x.t() @ x).sum(0) + x


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (mixes, "batch"),
        (fixes, "batch"),
        (branches, "torch.where"),
        (reads, "torch.where"),
        (over_batch, "batch"),
        (soft_over_batch, "sample"),
        (sorted_batch, "sample"),
        (transposed, "leading axes"),
        (draws, "random"),
        (counts, "counts"),
    ],
)
def test_refusals_name_module_line_and_remedy(function, advice):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.inner = inner(function, {})

        def forward(self, x):
            return self.inner(self.first(x))

    with pytest.raises(CaptureError) as caught:
        graph.capture(Outer(), torch.rand(4, 3))
    text = str(caught.value)
    assert "module 'inner'" in text, text
    assert f"test_graph_refusals.py:{_line(function) + 1}" in text, text
    assert advice in text, text


def test_rows_that_leave_unfolded_are_refused():
    with pytest.raises(CaptureError, match=r"timeline\.readout"):
        graph.capture(nn.Sequential(timeline.Entry(T), nn.Linear(3, 2)), torch.rand(1, 3))


def test_steps_that_disagree_are_refused():
    model = nn.Sequential(timeline.Entry(T), nn.Linear(3, 2), neurons.LIF(T + 1), timeline.Readout(T))
    with pytest.raises(CaptureError, match=r"module '2'.*T=3.*set_steps"):
        graph.capture(model, torch.rand(1, 3))
    with pytest.raises(CaptureError, match="no Entry"):
        graph.capture(neurons.LIF(T), torch.rand(1, 3))


def test_batch_statistics_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(CaptureError, match=r"module '1'.*running statistics"):
        graph.capture(model, torch.rand(1, 1, 5, 5))


@pytest.mark.parametrize("example", [torch.rand(0, 3), 3, (torch.rand(1, 3), torch.rand(2, 3))])
def test_bad_examples_are_refused(example):
    with pytest.raises(CaptureError, match=r"example|batch"):
        graph.capture(nn.Linear(3, 2), example)


def test_a_model_without_activations_cannot_be_made_spiking():
    with pytest.raises(CaptureError, match="ReLU"):
        spiking(nn.Linear(3, 3), lambda: neurons.LIF(T), T)
