"""Counts against SpikingJelly 2.0 and NeuroBench 2.3: equal where right, differences asserted."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from picojoule import graph, models
from picojoule.core import kinds
from picojoule.graph import nodes as g
from picojoule.measure.counts import count

hint = "pip install --no-deps {}"
pytest.importorskip("spikingjelly.activation_based.op_counter", reason=hint.format("spikingjelly==2.0.0"))
pytest.importorskip("neurobench.metrics.utils.layers", reason=hint.format("neurobench==2.3.0"))
sys.path.insert(0, str(Path(__file__).parent))
from peer_counts import neurobench, spikingjelly  # noqa: E402

pytestmark = pytest.mark.oracle
PAGE = (Path(__file__).parents[2] / "docs" / "measure.md").read_text()
NETS = {
    "spiking VGG": ("spiking_vgg_tiny", {"pool": "max"}, (0.3, 1.5)),
    "SDT-v1": ("sdt_v1_tiny", {}, (0.3, 1.5)),
    "SDT-v3": ("sdt_v3_tiny", {}, (0.3, 1.5)),
    "ternary VGG": ("spiking_vgg_tiny", {"pool": "max", "neuron": "ternarylif"}, (-2.5, 2.5)),
}


@pytest.fixture(scope="module")
def counted():
    """name -> (our counts summed over 4 images, SpikingJelly, (NeuroBench AC, MAC))."""
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, (family, options, (low, high)) in NETS.items():
        torch.manual_seed(0)
        model = models.create_model(family, **options).eval()
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.bias.data.uniform_(low, high)
        ours = count(graph.capture(model, x[:2]), [x])
        found[name] = (ours, spikingjelly(lambda m=model: m(x)), neurobench(model, x))
    return found


def ac(counts, **kind):
    """Our operations of AC layers whose operand starts with `kind`, for 4 images."""
    start = kind.get("operand", "")
    return 4 * sum(n.sop for n in counts.layers if n.arithmetic == "AC" and n.operand.startswith(start))


def test_binary_networks_agree(counted):
    ours, jelly, (bench, _) = counted["SDT-v1"]
    assert ac(ours) == jelly == bench
    ours, jelly, (bench, _) = counted["spiking VGG"]
    assert ac(ours, operand="binary") == jelly == bench
    assert ac(ours, operand="integer") > 0  # the head reads a mean of spikes: MAC for both peers


def test_integer_spikes_are_macs_for_the_peers(counted):
    ours, jelly, (bench_ac, bench_mac) = counted["SDT-v3"]
    assert jelly == bench_ac == 0
    # NeuroBench counts every non-zero once, whatever its size, and misses the products of the attention
    nonzero = sum(
        n.effective if n.arithmetic == "MAC" else n.effective * n.active / max(n.rate, 1e-12)
        for n in ours.layers
        if n.type in ("Conv", "Linear")
    )
    assert bench_mac == pytest.approx(4 * nonzero, rel=0.05)
    assert ac(ours) > bench_mac


def test_ternary_spikes_are_macs_for_spikingjelly(counted):
    ours, jelly, (bench, _) = counted["ternary VGG"]
    assert ours.layers[1].operand == "ternary"
    assert jelly == 0
    assert bench == pytest.approx(4 * ours.layers[1].sop)


def test_products_of_spikes():
    gen = torch.Generator().manual_seed(0)
    a, b = (torch.rand(3, 1, *s, generator=gen).lt(0.4).float() for s in ((5, 6), (6, 7)))
    edge = lambda kind, *shape: g.Edge(kind, shape, 1)  # noqa: E731
    net = g.Graph(
        (
            g.Input(name="a", edge=edge(kinds.binary, 5, 6)),
            g.Input(name="b", edge=edge(kinds.binary, 6, 7)),
            g.MatMul(name="m", inputs=("a", "b"), edge=edge(kinds.real, 5, 7)),
            g.Output(name="out", inputs=("m",), edge=edge(kinds.real, 5, 7)),
        )
    )
    ours = count(net, [[a, b]]).layers[0]
    jelly = spikingjelly(lambda: torch.bmm(a[:, 0], b[:, 0]))
    assert jelly == pytest.approx(3 * ours.effective)  # it counts coincidences alone
    assert ours.sop >= ours.effective


def test_first_layer_is_counted_every_step_by_neurobench(counted):
    ours, _, (_, bench_mac) = counted["SDT-v1"]
    first = ours.layers[0]
    assert first.evaluations == 1
    assert bench_mac == pytest.approx(4 * first.effective * first.steps)  # effective: its border is left out


def test_table_of_the_page_is_true(counted):
    for name, (ours, jelly, (bench_ac, bench_mac)) in counted.items():
        cells = (ac(ours), 4 * ours.mac, jelly, bench_ac, bench_mac)
        row = f"| {name} | " + " | ".join(f"{c:,.0f}" for c in cells) + " |"
        assert row in PAGE, row
