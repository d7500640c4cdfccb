"""The two sizes: what the file holds, and the formula of the papers against the figures of the notes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import golden_graphs

from picojoule.core import kinds
from picojoule.core.errors import PackError
from picojoule.deploy import dumps, paper_bytes, payload_bytes
from picojoule.deploy.format import split
from picojoule.deploy.sizes import payload
from picojoule.graph import nodes as g


def captured_vgg11(classes: int) -> g.Graph:
    """VGG-11 of BSO as `capture` sees it: 1-bit convs without bias, float first conv and classifier, BN."""
    nodes: list[g.Node] = []
    tensors: dict[str, np.ndarray] = {}

    def add(cls: type[g.Node], kind: kinds.Kind, shape: tuple[int, ...], **more: Any) -> None:
        name = f"n{len(nodes)}"
        inputs = (nodes[-1].name,) if nodes else ()
        nodes.append(cls(name=name, inputs=inputs, edge=g.Edge(kind, shape, 2 if nodes else 0), **more))

    def const(shape: tuple[int, ...]) -> str:
        tensors[name := f"c{len(tensors)}"] = np.zeros(shape, np.float32)
        return name

    add(g.Input, kinds.real, (3, 32, 32))
    width, side, pads = 3, 32, ((1, 1), (1, 1))
    for i, out in enumerate((64, 128, 256, 256, 512, 512, 512, 512)):
        coding = g.Coding("sign", 1) if i else g.Coding()
        bias = None if i else const((out,))
        weight = const((out, width, 3, 3))
        add(g.Conv, kinds.real, (out, side, side), weight=weight, bias=bias, padding=pads, coding=coding)
        add(g.Affine, kinds.real, (out, side, side), gain=const((out,)), bias=const((out,)))
        th = const((1, 1, 1))
        add(g.Neuron, kinds.binary, (out, side, side), thresholds=th)
        if i in (1, 3, 5):
            side //= 2
            add(g.Pool, kinds.real, (out, side, side), mode="avg", kernel=(2, 2), stride=(2, 2), padding=pads)
        width = out
    add(g.Mean, kinds.real, (512,), axes=(1, 2))
    add(g.Linear, kinds.real, (classes,), weight=const((classes, 512)), bias=const((classes,)))
    return g.Graph(tuple(nodes), tensors)


@pytest.mark.parametrize(
    ("classes", "count", "size"), [(10, 9_228_426, 1_201_704), (100, 9_274_596, 1_386_384)]
)
def test_bso_vgg11(classes: int, count: int, size: int) -> None:
    """BSO, arXiv:2511.12502: parameter counts and packed sizes, exactly."""
    graph = captured_vgg11(classes)
    named = {name for n in graph.nodes if not isinstance(n, g.Neuron) for name in g.tensor_fields(n).values()}
    assert sum(graph.tensors[name].size for name in named) == count
    assert paper_bytes(graph) == size


def resnet20(classes: int, keep: list[float] | None, bits: int) -> list[tuple[int, float]]:
    """(count, bits) of QP-SNN's wide ResNet-20: first conv, BN and classifier at 32."""
    c = keep or [0.0] * 20

    def width(full: int, i: int) -> int:
        return int(full * (1 - c[i]))

    stem = width(64, 0)
    outs = [width(128, 1)] * 3 + [width(256, 2)] * 3 + [512] * 3
    inner = [width(full, 3 + i) for i, full in enumerate([128] * 3 + [256] * 3 + [512] * 3)]
    quantized, floats, before = 0, 3 * 9 * stem + 2 * stem, stem
    for out, mid in zip(outs, inner):
        quantized += 9 * before * mid + 9 * mid * out
        floats += 2 * mid + 2 * out
        before = out
    return [(quantized, bits), (floats + before * classes + classes, 32)]


@pytest.mark.parametrize(
    ("classes", "keep", "millions", "sizes"),
    [
        (10, None, 17.049, (17.10, 8.59, 4.33)),
        (10, [0.1] + [0.3] * 3 + [0.6] * 16, 6.226, (6.267, 3.161, 1.608)),
        (10, [0.1] + [0.35] * 3 + [0.75] * 16, 3.879, (3.918, 1.984, 1.018)),
        (100, [0.1] + [0.3] * 3 + [0.6] * 16, 6.272, (6.452, 3.346, 1.793)),
    ],
)
def test_qp_snn_resnet20(
    classes: int, keep: list[float] | None, millions: float, sizes: tuple[float, ...]
) -> None:
    """QP-SNN's table: parameters and MB at 8, 4 and 2 bits."""
    counted = sum(count for count, _ in resnet20(classes, keep, 8))
    assert counted / 1e6 == pytest.approx(millions, abs=6e-4)
    for bits, size in zip((8, 4, 2), sizes):
        digits = 6e-3 if keep is None else 6e-4
        assert paper_bytes(resnet20(classes, keep, bits)) / 1e6 == pytest.approx(size, abs=digits)


def test_q_snn_resnets() -> None:
    """Q-SNN: 1-bit convs, 8-bit first and last layer, the rest 32 bits; MB of the note within 1 %."""
    assert _q_resnet19(10) == pytest.approx(1.62, rel=0.01)
    assert _q_resnet19(100) == pytest.approx(1.67, rel=0.01)


def _q_resnet19(classes: int) -> float:
    first, binary, bn, before = 27 * 128, 0, 2 * 128, 128
    for out, blocks in ((128, 3), (256, 3), (512, 2)):
        for i in range(blocks):
            binary += 9 * before * out + 9 * out * out
            bn += 4 * out
            if before != out:
                assert i == 0
                binary, bn = binary + before * out, bn + 2 * out
            before = out
    head, bias = before * classes, classes
    total = first + binary + bn + head + bias
    assert total == {10: 12_569_226, 100: 12_615_396}[classes]
    return paper_bytes([(first + head, 8), (binary, 1), (bn + bias, 32)]) / 1e6


def test_qsd_transformer() -> None:
    """55,163,456 4-bit weights are 27.6 MB, 83,624 float steps 0.3 MB."""
    assert paper_bytes([(55_163_456, 4)]) / 1e6 == pytest.approx(27.6, abs=0.05)
    assert paper_bytes([(83_624, 32)]) / 1e6 == pytest.approx(0.3, abs=0.05)


def test_s2nn_bits_per_weight() -> None:
    """S2NN: eta/9 + 2^eta/(C_out C_in) bits a weight, exactly, in the file and by the formula."""
    for eta in (4, 5, 6):
        c_out, c_in = 64, 64
        rng = np.random.default_rng(eta)
        book = rng.choice(np.array([-1, 1], np.int8), (1 << eta, 9))
        index = rng.integers(0, 1 << eta, (c_out, c_in)).astype(np.int8)
        coding = g.Coding("codebook", eta, "book")
        m = golden_graphs.Maker(0)
        m.const("book", book)
        m.const("index", index)
        pads = ((1, 1), (1, 1))
        m.add(g.Input, "x", "", kinds.binary, (c_in, 4, 4), 0)
        m.add(
            g.Conv, "conv", "x", kinds.fixed(16, 0), (c_out, 4, 4), 0, weight="index", coding=coding,
            kernel=(3, 3), padding=pads,
        )  # fmt: skip
        m.add(g.Output, "out", "conv", kinds.fixed(16, 0), (c_out, 4, 4), 0)
        graph = m.graph()
        bits = eta / 9 + (1 << eta) / (c_out * c_in)
        assert payload_bytes(graph) * 8 / (c_out * c_in * 9) == pytest.approx(bits, abs=0)
        assert paper_bytes(graph.replace(stage="captured")) == payload_bytes(graph)


@pytest.mark.parametrize("name", sorted(golden_graphs.GRAPHS))
def test_payload_is_ceil_numel_bits(name: str) -> None:
    graph = golden_graphs.GRAPHS[name]()
    rows = payload(graph)
    for row in rows:
        assert row["bytes"] == -(-int(np.prod(row["shape"])) * row["bits"] // 8), row
    held = sum(v.nbytes for k, v in split(dumps(graph)).items() if k.startswith("const."))
    assert payload_bytes(graph) == sum(row["bytes"] for row in rows) == held


def test_sizes_are_not_mixed() -> None:
    with pytest.raises(PackError, match="card"):
        paper_bytes(golden_graphs.residual())
