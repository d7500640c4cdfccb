"""Energy models, baselines and break-even rates against the worked figures of the definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from measure_helpers import conv, linear

from picojoule.core import kinds
from picojoule.core.errors import ConfigError
from picojoule.measure import budget
from picojoule.measure.budget import Widths
from picojoule.measure.counts import Counts, LayerCount, count
from picojoule.measure.energy import (
    DEPLOYED,
    FP32,
    INT8,
    MEMORY,
    PRESETS,
    EnergyModel,
    LayerTraffic,
    energy_model,
    memory_pj,
    sram_pj_per_bit,
)

# 3x3 convolution 128 -> 128 at 16x16, T = 4, rate 0.15, 8-bit weights, 16-bit potentials
FL = 9 * 128 * 128 * 256
LAYER = LayerCount(
    name="conv", module="", type="Conv", operand="binary", arithmetic="AC", why="", steps=4, evaluations=4,
    inputs=128 * 256, outputs=128 * 256, weights=9 * 128 * 128, w_bits=8, fl=FL, rate=0.15,
    spikes=0.15 * 4 * 128 * 256, sop=0.6 * FL, sop_paper=0.6 * FL, effective=0.6 * FL, ac=0.6 * FL,
)  # fmt: skip


def counts(*layers, T=4, neurons=()):
    zero = {"ac": 0.0, "mac": 0.0, "compares": 0.0}
    other = {"adds": 0.0, "mults": 0.0, "masks": 0.0, "compares": 0.0}
    return Counts(list(layers), list(neurons), zero, other, 1000, T, "cached")


def test_worked_example():
    c, widths = counts(LAYER), Widths(v_bits=16)
    assert pytest.approx(37.75e6, rel=1e-3) == FL
    assert pytest.approx(22.65e6, rel=1e-3) == LAYER.sop
    assert budget.layer_ops(LAYER, DEPLOYED, widths) / 1e6 == pytest.approx(1.13, abs=0.005)
    assert budget.layer_ops(LAYER, FP32, widths) / 1e6 == pytest.approx(20.4, abs=0.05)
    event = budget.layer_memory(LAYER, MEMORY, widths, "event")
    assert event["weights"] / 1e6 == pytest.approx(82, abs=0.5)
    stationary = budget.layer_memory(LAYER, MEMORY, widths, "stationary")
    assert stationary["weights"] / 1e6 == pytest.approx(2.14, abs=0.005)
    fp32, int8, qnn = budget.baselines(c, MEMORY)
    assert fp32["ops"] / 1e6 == pytest.approx(173.6, abs=0.1)
    assert int8["ops"] / 1e6 == pytest.approx(11.3, abs=0.05)
    assert int8["memory"] / 1e6 == pytest.approx(0.70, abs=0.005)
    assert qnn["name"] == "QNN 3 bit"  # ceil(log2(4 + 1))


def test_paper_preset_prices():
    resnet18 = replace(LAYER, arithmetic="MAC", mac=1.82e9, ac=0.0)
    assert budget.layer_ops(resnet18, FP32, Widths()) == pytest.approx(8.372e9)
    assert FP32.ops_pj(0.50e9, 2.75e9) == pytest.approx(13.10e9, rel=1e-3)
    assert INT8.ops_pj(100, 100) == pytest.approx(26)


def test_prices_at_the_bits_of_a_layer():
    assert DEPLOYED.mac_at(8, 8) == pytest.approx(0.30)
    assert DEPLOYED.mac_at(4, 4) == pytest.approx(0.15)
    assert DEPLOYED.mac_at(1, 8) == pytest.approx(0.1)
    assert DEPLOYED.mac_at(32, 32) == pytest.approx(4.6)
    assert [DEPLOYED.ac_at(w, 16) for w in (1, 4, 8)] == [0.05] * 3
    assert DEPLOYED.ac_at(8, 32) == 0.1
    assert FP32.mac_at(1, 1) == 4.6


def test_totals_exceed_operations_and_the_bounds_are_ordered():
    row = budget.energy_row(counts(LAYER), MEMORY, Widths())
    assert row["total"]["event"] >= row["total"]["stationary"] >= row["total"]["ops"] >= row["ops"]
    event = budget.layer_memory(LAYER, MEMORY, Widths(), "event")
    stationary = budget.layer_memory(LAYER, MEMORY, Widths(), "stationary")
    assert LAYER.sop >= LAYER.steps * LAYER.weights
    assert event["weights"] >= stationary["weights"]
    assert event["potentials"] + event["leak"] >= stationary["potentials"]
    assert event["events"] == stationary["events"]


def test_stationary_weights_win_only_above_one_use_a_step():
    lazy = replace(LAYER, sop=LAYER.weights * 2.0, ac=LAYER.weights * 2.0)
    event = budget.layer_memory(lazy, MEMORY, Widths(), "event")
    stationary = budget.layer_memory(lazy, MEMORY, Widths(), "stationary")
    assert event["weights"] < stationary["weights"]


def test_access_energy_is_monotone_with_its_anchors():
    sizes = [2.0**k for k in range(8, 24)]
    found = [sram_pj_per_bit(s) for s in sizes]
    assert found == sorted(found)
    assert sram_pj_per_bit(8 << 10) == 10 / 64
    assert sram_pj_per_bit(32 << 10) == 20 / 64
    assert sram_pj_per_bit(1 << 20) == sram_pj_per_bit(1 << 30) == 100 / 64


def test_a_layer_beyond_a_mebibyte_lies_in_dram():
    def weights(number, model):
        return memory_pj(LayerTraffic(0, number, 8, 16, 16, 2, 0, 16), model, "stationary")["weights"]

    dram = PRESETS["with-dram"]
    assert weights(1 << 20, dram) == weights(1 << 20, MEMORY)
    assert weights(1 << 21, dram) == pytest.approx((1 << 21) * 8 * 2 * 20)
    assert weights(1 << 21, dram) / weights(1 << 21, MEMORY) == pytest.approx(12.8)


def test_sparse_events_are_stored_as_addresses_dense_ones_as_a_bitmap():
    def moved(spikes):
        traffic = LayerTraffic(0, 0, 8, 0, 16, 4, spikes, 1024)
        return memory_pj(traffic, MEMORY, "event")["events"] / MEMORY.bit_pj(1024 * 4 / 8)

    assert moved(10) == pytest.approx(2 * 10 * 10)
    assert moved(4000) == pytest.approx(2 * 4096)
    with pytest.raises(ValueError, match="bound"):
        memory_pj(LayerTraffic(0, 0, 8, 0, 16, 4, 1, 4), MEMORY, "best")


def test_integer_layer_costs_what_its_virtual_steps_cost():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (2, 1, 2, 4, 4)).astype(float)
    weight = rng.normal(size=(3, 2, 3, 3))
    whole = count(conv(weight, 4, kinds.integer(4), T=1, padding=1), [x])
    spread = np.concatenate([(x > d).astype(float) for d in range(4)], 1)
    steps = count(conv(weight, 4, T=4, padding=1), [spread])
    assert whole.sop == steps.sop
    for model in (FP32, DEPLOYED, MEMORY):
        assert (
            budget.energy_row(whole, model, Widths())["ops"]
            == budget.energy_row(steps, model, Widths())["ops"]
        )


def test_fewer_spikes_cost_less_in_every_model():
    less = replace(LAYER, ac=LAYER.ac / 2, sop=LAYER.sop / 2, spikes=LAYER.spikes / 2)
    for model in (FP32, DEPLOYED, MEMORY):
        a = budget.energy_row(counts(less), model, Widths())["total"]
        b = budget.energy_row(counts(LAYER), model, Widths())["total"]
        assert all(a[k] <= b[k] for k in a)


@pytest.mark.parametrize(
    ("model", "baseline", "product"),
    [(FP32, "ANN fp32", 4.6 / 0.9), (DEPLOYED, "ANN int8", 6.0), (FP32, "ANN int8", 0.30 / 0.9)],
)
def test_break_even_products_of_steps_and_rate(model, baseline, product):
    c = counts(LAYER)
    rows = budget.break_even(c, [model], budget.baselines(c, MEMORY), Widths())
    rate = next(r["rate"] for r in rows if r["baseline"] == baseline)
    assert rate * 4 == pytest.approx(product, rel=1e-6)


def test_break_even_is_never_when_the_dense_part_costs_more():
    first = replace(LAYER, arithmetic="MAC", mac=1e12, ac=0.0, sop=0.0, spikes=0.0)
    c = counts(first, LAYER)
    rows = budget.break_even(c, [DEPLOYED], budget.baselines(c, MEMORY), Widths())
    assert [r["rate"] for r in rows if r["baseline"] == "QNN 3 bit"] == [None]


def test_virtual_steps_decide_the_bits_of_the_fair_baseline():
    integer = counts(LAYER, T=1, neurons=[{"kind": "integer(4)"}])
    assert budget.virtual_steps(integer) == 4
    binary = counts(LAYER, T=8, neurons=[{"kind": "binary"}])
    assert budget.baselines(binary, MEMORY)[2]["name"] == f"QNN {math.ceil(math.log2(9))} bit"


def test_residual_and_neuron_energy_is_apart_from_operations():
    c = replace(counts(LAYER), updates={"ac": 100.0, "mac": 10.0, "compares": 110.0})
    row = budget.energy_row(c, FP32, Widths())
    assert row["neuron"] == pytest.approx(100 * 0.9 + 10 * 4.6)
    assert row["total"]["ops"] == pytest.approx(row["ops"] + row["neuron"])
    assert "compares and spike masks" in row["leaves_out"]


def test_linear_layer_price_is_the_sum_of_its_spikes():
    found = count(linear(np.ones((3, 4)), T=1), [np.array([[[1.0, 0.0, 1.0, 1.0]]])])
    assert budget.energy_row(found, FP32, Widths())["ops"] == pytest.approx(0.9 * 9)


# -- chips -----------------------------------------------------------------------------------------------


def test_chip_from_a_file(tmp_path):
    file = tmp_path / "chip.yaml"
    file.write_text(
        "name: mine\nmac: 1.5\nac: 0.1\nsource: data sheet 3\nmemory: true\nsram: [[1024, 5.0]]\n"
    )
    chip = energy_model(str(file))
    assert chip == EnergyModel("mine", 1.5, 0.1, "data sheet 3", memory=True, sram=((1024.0, 5.0),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nmac: 1\n", "missing field.*ac, source"),
        ("name: x\nmac: 1\nac: 1\nsource: s\nmacc: 2\n", "unknown field 'macc'.*'mac'"),
        ("- 1\n", "mapping"),
        ("name: x\nmac: -1\nac: 1\nsource: s\n", "mac must be a number of pJ"),
        ("name: x\nmac: fast\nac: 1\nsource: s\n", "mac must be a number"),
        ("name: x\nmac: 1\nac: 1\nsource: s\nsram: [[9, 1], [3, 1]]\n", "ascending"),
        ("name: x\nmac: 1\nac: 1\nsource: s\nsram: 3\n", "sram"),
        ("name: [\n", "not YAML"),
    ],
)
def test_bad_chip_files_name_the_field(tmp_path, text, message):
    file = tmp_path / "chip.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        energy_model(str(file))


def test_unknown_models_are_suggested():
    with pytest.raises(ConfigError, match="did you mean 'ops-fp32'"):
        energy_model("ops-fp3")
    with pytest.raises(ConfigError, match="no chip file"):
        energy_model("nothing.yaml")
