"""compare and pack: figures that are true, grids that are the smallest that pass, files that hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from picojoule import timeline
from picojoule.compress import Binary, attach_
from picojoule.core.errors import ConfigError, DataError, PackError
from picojoule.deploy.read import read
from picojoule.graph import Grid, capture, compare, pack, packing, reference, snap
from picojoule.graph import nodes as g
from picojoule.neurons import LIF


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Handwritten digits, [N, 1, 8, 8] in [0, 1], and their classes."""
    data = load_digits()
    return torch.tensor(data.images[:, None] / 16).float(), torch.tensor(data.target)


@pytest.fixture(scope="module")
def trained(digits: tuple[torch.Tensor, torch.Tensor]) -> nn.Module:
    """A small spiking net with one-bit weights, trained for a few seconds."""
    torch.manual_seed(0)
    model = nn.Sequential(
        timeline.Entry(2),
        attach_(nn.Conv2d(1, 16, 3, padding=1, bias=False), Binary()), nn.BatchNorm2d(16), LIF(2, v_th=0.5),
        attach_(nn.Conv2d(16, 16, 3, 2, 1, bias=False), Binary()), nn.BatchNorm2d(16), LIF(2, v_th=0.5),
        nn.Flatten(), nn.Linear(256, 10), timeline.Readout(2, "mean"),
    )  # fmt: skip
    x, y = digits
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(8):
        for part in torch.randperm(1000).split(50):
            loss = nn.functional.cross_entropy(model(x[part]), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def test_compare_counts_what_changed(trained: nn.Module, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = digits[0][1000:1400], digits[1][1000:1400]
    captured = capture(trained, x[:2])
    with torch.no_grad():
        logits = trained(x)
    figures = {}
    for frac in (0, 16):
        model = snap(captured, frac, samples=x)
        figures[frac] = compare(captured, model, x, y)
        assert compare(captured, model.graph(), x, y) == figures[frac]
        outputs = model(x).argmax(1)
        assert figures[frac]["agreement"] == pytest.approx(
            (outputs == logits.argmax(1)).double().mean().item()
        )
        assert figures[frac]["accuracy"] == pytest.approx((outputs == y).double().mean().item())
        assert figures[frac]["samples"] == 400
    assert figures[16]["accuracy_trained"] == pytest.approx((logits.argmax(1) == y).double().mean().item())
    assert figures[16]["accuracy_trained"] > 0.8
    assert set(figures[16]["flips"]) == {n.name for n in captured.nodes if isinstance(n, g.Neuron)}
    assert max(figures[16]["flips"].values()) < max(figures[0]["flips"].values())
    assert figures[16]["agreement"] > 0.99
    assert figures[16]["difference"] < figures[0]["difference"]


def test_pack_finds_the_smallest_grid_and_stores_its_figures(
    trained: nn.Module, digits: tuple[torch.Tensor, torch.Tensor], tmp_path
) -> None:
    x, y = digits[0][1000:], digits[1][1000:]
    path = tmp_path / "digits.pj"
    result = pack(trained, x, y, path=path, card={"name": "digits"}, progress=False)
    figures = result.figures
    assert figures["passed"] is True
    assert figures["drop"] <= 0.3
    assert figures["enough_samples"] is False
    assert figures["accuracy"] == pytest.approx((result.model(x).argmax(1) == y).double().mean().item())
    # every coarser global grid failed
    first = next(t for t in figures["tried"] if t["passed"])
    assert all(not t["passed"] for t in figures["tried"][: figures["tried"].index(first)])
    assert first["frac"] == figures["fraction_bits"]
    assert all(bits < figures["fraction_bits"] for bits in figures["node_fraction_bits"].values())
    graph, card = read(path)
    assert card["figures"] == figures
    assert card["name"] == "digits"
    assert card["T"] == 2
    spikes = reference.run(graph, x[:256], watch="neurons")
    for node in graph.nodes:
        if isinstance(node, g.Neuron):
            assert card["rates"][node.name] == [
                pytest.approx(spikes[node.name].double().mean().item(), abs=1e-5)
            ]
    part = x[:64]
    assert torch.equal(reference.run(graph, part)["out"], reference.run(result.graph, part)["out"])
    assert path.stat().st_size < 12_000


def test_the_search_takes_inputs_of_a_byte_when_the_gate_allows(
    trained: nn.Module, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = digits[0][1000:1400], digits[1][1000:1400]
    captured = capture(trained, x[:2])
    found = pack(captured, x, y, base=Grid(input_frac=12), budget_s=0, progress=False)
    assert found.figures["input_fraction_bits"] == 6  # pixels reach 1 = 64 / 64; 128 would not fit
    assert found.graph.inputs[0].edge.kind.bits == 8
    assert found.figures["passed"] is True
    fixed = pack(captured, x, y, base=Grid(input_frac=12, input_bits=14), budget_s=0, progress=False)
    assert fixed.graph.inputs[0].edge.kind.bits == 14
    assert fixed.figures["input_fraction_bits"] == 12
    assert all(t["input_frac"] == 12 for t in fixed.figures["tried"])


def test_inputs_keep_their_bits_when_a_byte_does_not_pass(
    trained: nn.Module, digits: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = digits[0][1000:1400], digits[1][1000:1400]
    taken = packing.Search._try

    def refuse_coarse(self: packing.Search, grid: Grid, first_look: bool = True):
        return taken(self, grid, first_look) if grid.input_frac == 12 else None

    monkeypatch.setattr(packing.Search, "_try", refuse_coarse)
    found = pack(capture(trained, x[:2]), x, y, base=Grid(input_frac=12), budget_s=0, progress=False)
    assert found.figures["input_fraction_bits"] == 12
    assert found.graph.inputs[0].edge.kind.bits == 14


def test_a_given_grid_is_measured_not_judged(
    trained: nn.Module, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = digits[0][1000:1200], digits[1][1000:1200]
    captured = capture(trained, x[:2])
    result = pack(captured, x, y, grid=Grid(5, out_frac=8))
    assert result.figures["fraction_bits"] == 5
    assert result.figures["tried"] == []
    assert result.graph.outputs[0].edge.kind.frac == 8
    unlabelled = pack(captured, x, grid=16)
    assert "accuracy" not in unlabelled.figures
    assert unlabelled.figures["passed"] == (unlabelled.figures["agreement"] >= 0.997)


def test_a_gate_that_nothing_passes_says_what_to_do(
    trained: nn.Module, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = digits[0][1000:1100], digits[1][1000:1100]
    with pytest.raises(PackError, match="Train on after snapping"):
        pack(trained, x, y, gate=-101.0, progress=False)
    with pytest.raises(ConfigError, match="search"):
        pack(trained, x, y, grid="best")
    with pytest.raises(ConfigError, match="sample"):
        pack(trained, x[:0])
    with pytest.raises(DataError, match="no samples"):
        compare(capture(trained, x[:2]), snap(capture(trained, x[:2])), np.zeros((0, 1, 8, 8)))


def test_byte_images_pack_with_a_table(trained: nn.Module, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = digits[0][1000:1200], digits[1][1000:1200]
    pixels = (x * 16).to(torch.uint8)
    result = pack(trained, pixels, y, grid=Grid(12, input_bytes=1 / 16))
    assert result.graph.inputs[0].table is not None
    assert result.figures["agreement"] > 0.99
    real = pack(trained, x, y, grid=12)
    assert result.figures["accuracy"] == real.figures["accuracy"]
    assert torch.equal(result.model(pixels), real.model(x)), "p/16 lies on both grids"
