"""The worked example of docs/measure.md, recomputed; its Python and its chip file work."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from measure_helpers import conv

from picojoule.measure import budget
from picojoule.measure.budget import Widths
from picojoule.measure.counts import count
from picojoule.measure.energy import DEPLOYED, FP32, MEMORY, PRESETS, energy_model

PAGE = (Path(__file__).parents[2] / "docs" / "measure.md").read_text()


def test_worked_example():
    x = np.zeros((1, 2, 1, 4, 4))
    x[0, 0, 0, 0, 0] = x[0, 1, 0, 1, 1] = 1
    found = count(conv(np.ones((2, 1, 3, 3)), 4, T=2, padding=1), [x])
    layer = budget.replace(found.layers[0], w_bits=8.0)
    assert (layer.fl, layer.dense, layer.sop) == (288, 576, 26)
    assert (layer.rate, layer.sop_paper) == (0.0625, 36)
    assert 1 - layer.sop / layer.sop_paper == pytest.approx(0.28, abs=0.003)
    assert budget.layer_ops(layer, FP32, Widths()) == pytest.approx(23.4)
    assert budget.layer_ops(layer, DEPLOYED, Widths()) == pytest.approx(1.3)
    event = budget.layer_memory(layer, MEMORY, Widths(), "event")
    assert event == {"weights": 32.5, "potentials": 130.0, "leak": 320.0, "events": 2.5}
    stationary = budget.layer_memory(layer, MEMORY, Widths(), "stationary")
    assert stationary == {"weights": 45.0, "potentials": 320.0, "leak": 0.0, "events": 2.5}
    net = budget.replace(found, layers=[layer])
    base = budget.baselines(net, MEMORY)
    assert base[1]["ops"] == pytest.approx(86.4)
    even = budget.break_even(net, [DEPLOYED], base[1:2], Widths())[0]
    assert even["rate"] / even["measured_rate"] == pytest.approx(86.4 / 1.3)
    for number in ("288", "576", "26", "36", "23.4", "32.5", "45", "130", "320", "2.5", "86.4", "66.5"):
        assert number in PAGE


def test_python_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(code.group(1), "measure.md", "exec"), {})
    assert os.path.getsize("report.html") > 10_000


def test_chip_of_the_page_loads(tmp_path):
    text = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "chip.yaml").write_text(text.group(1))
    assert energy_model(str(tmp_path / "chip.yaml")).name == "my chip"


def test_presets_of_the_page_exist():
    for name in PRESETS:
        assert f"`{name}`" in PAGE
