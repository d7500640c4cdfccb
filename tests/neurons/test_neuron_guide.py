"""The guides of time and neurons are complete (tests/test_docs.py runs their examples)."""

import re
from pathlib import Path

from torch import nn

from picojoule import neurons, timeline

DOCS = Path(__file__).parents[2] / "docs"


def test_the_guide_names_every_neuron_and_surrogate():
    text = (DOCS / "neurons.md").read_text()
    classes = [n for n in neurons.__all__ if isinstance(getattr(neurons, n), type)]
    wanted = [n for n in classes if issubclass(getattr(neurons, n), neurons.Neuron) and n != "Neuron"]
    missing = [n for n in [*wanted, *neurons.SURROGATES.names()] if f"`{n}`" not in text]
    assert missing == []
    assert "`Recurrent(RecurrentLIF(...))`" in text
    assert issubclass(neurons.Recurrent, nn.Module)
    assert issubclass(neurons.RecurrentLIF, nn.Module)
    assert set(timeline.READOUTS) <= set(re.findall(r'"(\w+)"', (DOCS / "concepts-time.md").read_text()))
