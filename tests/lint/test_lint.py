"""`pj doctor model.py:net`: every trap is found at its line, and clean networks are left alone."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from picojoule import timeline
from picojoule.cli.main import main
from picojoule.core.errors import ConfigError
from picojoule.lint import check_source
from picojoule.lint.findings import ADVICE, LEVELS
from picojoule.lint.loading import load_model, split_target
from picojoule.lint.running import check_modules, check_run
from picojoule.models import create_model
from picojoule.neurons import LIF, PSN

HEAD = """
import torch
from torch import nn
from picojoule import timeline
from picojoule.neurons import LIF

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.lif = nn.Linear(4, 4), LIF(3)
        self.bn = nn.BatchNorm1d(4)
        self.layers = nn.ModuleList([nn.Linear(4, 4)])
        self.v = None
"""


def found(body: str) -> list[tuple[str, str, str]]:
    """(level, rule, text of the line) of a forward method."""
    text = HEAD + textwrap.indent(
        "def forward(self, x, T=3):\n" + textwrap.indent(body.strip("\n"), "    "), "    "
    )
    lines = text.splitlines()
    return [
        (f.level, f.rule, lines[int(f.where.rpartition(":")[2]) - 1].strip())
        for f in check_source(Path("net.py"), text)
    ]


TRAPS = {
    "index": (
        "out = []\nfor t in range(T):\n    out.append(self.fc(x[:, t]))\nreturn torch.stack(out)",
        [("warning", "time-index", "out.append(self.fc(x[:, t]))")],
    ),
    "write": (
        "out = torch.zeros(3, 4)\nfor t in range(T):\n    out[t] = self.fc(self.v0)\nreturn out",
        [("warning", "time-write", "out[t] = self.fc(self.v0)")],
    ),
    "norm in a loop": (
        "for x_t in x.unbind(1):\n    y = self.bn(x_t)\nreturn y",
        [("warning", "norm-in-loop", "y = self.bn(x_t)")],
    ),
    "state": (
        "self.v = 0.5 * self.v + self.fc(x)\nreturn self.v",
        [("error", "hand-state", "self.v = 0.5 * self.v + self.fc(x)")],
    ),
    "state by augmented assignment": (
        "self.v += self.fc(x)\nreturn self.v",
        [("error", "hand-state", "self.v += self.fc(x)")],
    ),
    "kept output": (
        "self.last = self.fc(x)\nreturn self.last",
        [("warning", "hand-state", "self.last = self.fc(x)")],
    ),
    "augmented": ("v = self.fc(x)\nv -= 0.5 * v\nreturn v", [("warning", "in-place", "v -= 0.5 * v")]),
    "argument": ("x *= 2\nreturn self.fc(x)", [("warning", "in-place", "x *= 2")]),
    "method": ("v = self.fc(x)\nv.clamp_(0, 1)\nreturn v", [("warning", "in-place", "v.clamp_(0, 1)")]),
    "mask": ("v = self.fc(x)\nv[v > 1] = 0\nreturn v", [("warning", "in-place", "v[v > 1] = 0")]),
    "data": ("return self.fc(x.data)", [("error", "cut-graph", "return self.fc(x.data)")]),
    "detach": ("return self.fc(x).detach()", [("note", "cut-graph", "return self.fc(x).detach()")]),
    "no grad": (
        "with torch.no_grad():\n    y = self.fc(x)\nreturn y",
        [("warning", "cut-graph", "with torch.no_grad():")],
    ),
    "item": ("return x * x.max().item()", [("warning", "host-value", "return x * x.max().item()")]),
    "steps": ("T = x.shape[0]\nreturn self.lif(x, T=T)", [("warning", "steps", "T = x.shape[0]")]),
    "steps of a loop": (
        "for t in range(x.size(0)):\n    y = self.fc(self.z)\nreturn y",
        [("warning", "steps", "for t in range(x.size(0)):")],
    ),
}

CLEAN = {
    "unbind": "out = []\nfor x_t in x.unbind(1):\n    out.append(self.fc(x_t))\nreturn torch.stack(out)",
    "layers in a list": "for i in range(1):\n    x = self.layers[i](x)\nreturn x",
    "a list": "parts = list(x.unbind(0))\nfor t in range(T):\n    y = parts[t]\nreturn y",
    "counter": "n = 0\nfor x_t in x.unbind(1):\n    n += 1\n    y = self.fc(x_t)\nreturn y / n",
    "local state": "v = torch.zeros_like(x)\nfor x_t in x.unbind(1):\n    v = 0.5 * v + x_t\nreturn v",
    "fresh tensor": "mask = torch.empty(3).bernoulli_(0.5)\nreturn self.fc(x) * mask.sum()",
    "columns": "return self.fc(x)[:, 0]",
}


@pytest.mark.parametrize("name", TRAPS)
def test_trap_is_found_at_its_line(name: str) -> None:
    body, expected = TRAPS[name]
    assert found(body) == expected


@pytest.mark.parametrize("name", CLEAN)
def test_clean_code_is_left_alone(name: str) -> None:
    assert found(CLEAN[name]) == []


def test_every_rule_has_advice_and_own_layers_are_clean() -> None:
    assert {rule for _, findings in TRAPS.values() for _, rule, _ in findings} <= set(ADVICE)
    assert LEVELS[0] == "error"
    for file in (Path(timeline.__file__).parent / "models").glob("*.py"):
        assert not [f for f in check_source(file) if f.level == "error"], file


# -- by running ----------------------------------------------------------------------------------------


class Net(nn.Module):
    """A clean network whose parts the tests exchange."""

    def __init__(self, middle: nn.Module | None = None, T: int = 3) -> None:
        super().__init__()
        self.entry, self.readout = timeline.Entry(3), timeline.Readout(3)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # of some weights no neuron fires, and then nothing can be found
            self.fc, self.lif = nn.Linear(4, 5), LIF(T)
        self.middle = middle or nn.Identity()
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.readout(self.head(self.middle(self.lif(2 * self.fc(self.entry(x))))))


class Keeps(nn.Module):
    v = 0.0

    def forward(self, x):
        self.v = self.v + x.detach()
        return x + self.v


class Mixes(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Overwrites(nn.Module):
    def forward(self, x):
        y = x.exp()
        y.mul_(2)
        return y.square() + x.exp().sqrt().add_(1)


class Cuts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(nn.Linear(1, 1).weight[0].detach())

    def forward(self, x):
        return x * self.scale.detach()


def rules(model: nn.Module) -> set[tuple[str, str]]:
    return {(f.level, f.rule) for f in [*check_modules(model), *check_run(model, (4,))]}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Net(), set()),
        (Net(Keeps()), {("error", "hand-state")}),
        (Net(Mixes()), {("error", "rows")}),
        (Net(Overwrites()), {("error", "in-place")}),
        (Net(Cuts()), {("warning", "no-gradient")}),
        (Net(nn.Linear(7, 5)), {("error", "fails")}),
        (Net(T=1), {("error", "steps"), ("error", "fails")} - {("error", "fails")}),
        (Net(nn.ReLU(inplace=True)), {("warning", "in-place")}),
        (Net(nn.BatchNorm1d(5)), {("note", "norm-over-time")}),
        (
            Net(nn.Sequential(nn.BatchNorm1d(5), PSN(3))),
            {("note", "norm-over-time"), ("warning", "norm-before-mix")},
        ),
        (Net(nn.Flatten(0)), {("error", "fails")}),
    ],
    ids=lambda value: type(value.middle).__name__ if isinstance(value, Net) else "",
)
def test_running_finds(model: nn.Module, expected: set[tuple[str, str]]) -> None:
    assert rules(model) == expected


def test_registered_models_have_no_errors() -> None:
    for name in ("spiking_vgg_tiny", "sdt_v3_tiny"):
        findings = [*check_modules(model := create_model(name)), *check_run(model, (1, 8, 8))]
        assert {f.level for f in findings} <= {"note"}


# -- the command ---------------------------------------------------------------------------------------


def test_command_with_findings_and_without(tmp_path: Path, capsys) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        HEAD
        + "    def forward(self, x):\n        self.v = self.fc(x) + (self.v or 0)\n        return self.v\n"
    )
    assert main(["doctor", f"{file}:Net", "--input", "4", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == f"{file}:Net"
    first = told["findings"][0]
    assert first["level"] == "error"
    assert first["rule"] == "hand-state"
    assert first["where"] == f"{file}:15"
    assert "picojoule.stream" in first["advice"]
    file.write_text(
        HEAD + "    def forward(self, x):\n        return self.fc(x)\n\ndef make():\n    return Net()\n"
    )
    assert main(["doctor", f"{file}:make"]) == 0
    assert "nothing found" in capsys.readouterr().out
    assert main(["doctor", str(file), "--json"]) == 0


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("import nothing_like_it\n", "net", r"ModuleNotFoundError.*\(line 1\)"),
        ("def f(:\n", "net", "not Python|SyntaxError"),
        ("x = 1\n\nraise RuntimeError('no')\n", "net", r"RuntimeError: no \(line 3\)"),
        ("nets = 3\n", "net", "did you mean 'nets'"),
        ("net = 3\n", "net", "is a int, not a network"),
        ("def net(width):\n    pass\n", "net", "needs width"),
        ("def net():\n    return 3\n", "net", "returns a int"),
        ("def net():\n    return 1 / 0\n", "net", r"ZeroDivisionError.*\(line 2\)"),
    ],
)
def test_files_that_fail_are_told(tmp_path: Path, text: str, name: str, told: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_model(*(split_target(f"{file}:{name}")[0], name))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.py:net"], "no file nowhere.py"),
        (["model.txt"], "names no Python file"),
        ([__file__, "--input", "4"], "name it, e.g."),
        ([f"{__file__}:Net", "--input", "4,z"], "cannot read the shape '4,z'"),
    ],
)
def test_wrong_use_is_told(words: list[str], told: str, capsys) -> None:
    assert main(["doctor", *words]) == 2
    assert told in capsys.readouterr().err
