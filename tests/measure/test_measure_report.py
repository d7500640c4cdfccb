"""Reports: JSON, invariances, the HTML page, tables for papers, costs and the command line."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from picojoule import deploy, graph, measure_model, models
from picojoule.core.errors import ConfigError, DataError, NonFiniteError, ShapeError
from picojoule.deploy import payload_bytes
from picojoule.measure import Report, compare, measure_cost, svg, write_html
from picojoule.measure.agreement import agreement_sentence, price_ratios, rank_agreement
from picojoule.measure.compared import to_csv, to_latex, write_fronts
from picojoule.measure.cost import node_times, predicted_and_measured, read_rapl
from picojoule.measure.report import total_rows

GOLDEN = Path(__file__).parents[1] / "deploy" / "golden"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = models.create_model("spiking_vgg_tiny").eval()
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.bias.data.uniform_(0.5, 1.5)
    return net


@pytest.fixture(scope="module")
def data():
    gen = torch.Generator().manual_seed(1)
    return torch.rand(9, 1, 8, 8, generator=gen), torch.randint(0, 10, (9,), generator=gen)


@pytest.fixture(scope="module")
def report(model, data):
    return measure_model(model, data[0], labels=data[1], dataset="noise", name="vgg")


@pytest.fixture(scope="module")
def packed(model, data):
    snapped = graph.snap(graph.capture(model, data[0][:2]), graph.Grid()).graph()
    return measure_model(snapped, data[0], labels=data[1], name="vgg.w8", dataset="noise")


def test_json_there_and_back(report, packed, tmp_path):
    for r in (report, packed):
        assert Report.from_json(r.to_json()) == r
        r.save(tmp_path / "r.json")
        assert Report.load(tmp_path / "r.json") == r
    with pytest.raises(ConfigError, match=r"unknown field 'spike'.*'spikes'"):
        Report.from_dict({**report.to_dict(), "spike": 1})
    with pytest.raises(ConfigError, match="version"):
        Report.from_dict({**report.to_dict(), "version": 99})
    with pytest.raises(ConfigError, match="missing"):
        Report.from_dict({"name": "x", "version": 1})
    with pytest.raises(ConfigError, match="not JSON"):
        Report.from_json("{")
    with pytest.raises(ConfigError, match="no report"):
        Report.load(tmp_path / "absent.json")


def test_every_figure_is_independent_of_the_batch_size(model, data, report):
    one = measure_model(model, data[0], labels=data[1], dataset="noise", name="vgg", batch=1)
    four = measure_model(model, data[0], labels=data[1], dataset="noise", name="vgg", batch=4)
    assert four.to_dict() == report.to_dict() == one.to_dict()


def test_arrays_lists_of_batches_and_files_agree(model, data, report):
    x, y = data
    pairs = [(x[:5], y[:5]), (x[5:], y[5:])]
    listed = measure_model(model, pairs, dataset="noise", name="vgg")
    assert listed.to_dict() == report.to_dict()
    file = GOLDEN / "conv_lif.pj"
    held = deploy.load(file)
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 8, 8)).astype(np.uint8)
    assert measure_model(file, images).SOP_exact == measure_model(held.graph, images).SOP_exact
    assert measure_model(file, images).size_packed_bytes == payload_bytes(held.graph)


def test_fields_of_the_definition(report, packed):
    assert set(report.E_ops) == {"fp32", "as_deployed"}
    assert set(report.E_mem) == {"event", "stationary"}
    assert report.E_ops["fp32"] == pytest.approx(4.6 * report.MAC + 0.9 * report.AC)
    assert report.SOP_exact == pytest.approx(sum(n["sop"] for n in report.layers))
    assert report.SOP_exact == report.AC
    assert {b["name"] for b in report.baseline} == {"ANN fp32", "ANN int8", "QNN 3 bit"}
    assert report.latency == report.joules == "not measured"
    assert "cached" in report.first_layer_policy
    assert report.size_packed_bytes is None
    assert packed.bits_per_weight == 8
    assert packed.E_ops["as_deployed"] < packed.E_ops["fp32"]
    assert all(e["source"] and e["leaves_out"] for e in report.energy)
    assert report.params == 1402
    assert report.headline().nj == pytest.approx(report.E_total["stationary"] / 1000)


def test_totals_are_at_least_operations(report, packed):
    for r in (report, packed):
        for bound in ("event", "stationary"):
            assert r.E_total[bound] >= r.E_ops["as_deployed"]
        assert r.E_total["fp32_ops"] >= r.E_ops["fp32"]


def test_accuracy_is_that_of_the_model(model, data, report):
    with torch.no_grad():
        right = (model(data[0]).argmax(1) == data[1]).double().mean()
    assert report.accuracy == pytest.approx(100 * float(right))


def test_bad_input(model, data):
    x, y = data
    with pytest.raises(DataError, match="at least one sample"):
        measure_model(model, x[:0])
    with pytest.raises(ShapeError, match="3 labels for 9"):
        measure_model(model, x, labels=y[:3])
    with pytest.raises(NonFiniteError, match="'x'"):
        measure_model(model, torch.full((2, 1, 8, 8), float("nan")))
    with pytest.raises(ConfigError, match="batch"):
        measure_model(model, x, batch=0)
    with pytest.raises(ConfigError, match="takes an nn"):
        measure_model(3, x)
    with pytest.raises(ConfigError, match="read once"):
        measure_model(model, iter([x]))
    with pytest.raises(ConfigError, match="did you mean"):
        measure_model(model, x, energy_models=["ops-int9"])


def test_size_of_the_packed_file_is_its_payload(model, data, tmp_path):
    snapped = graph.snap(graph.capture(model, data[0][:2]), graph.Grid()).graph()
    deploy.write(tmp_path / "n.pj", snapped, {})
    found = measure_model(tmp_path / "n.pj", data[0].numpy()[:2])
    assert found.size_packed_bytes == payload_bytes(snapped)
    assert found.name == "n"


# -- page ------------------------------------------------------------------------------------------------


def test_page_is_self_contained(report, packed, tmp_path):
    path = write_html(tmp_path / "sub" / "r.html", [report, packed], {"notes": ["a < b"]}, rows=[{"a": 1.5}])
    text = path.read_text()
    assert not re.search(r"(src|href)\s*=", text)
    assert not re.search(r"url\(|@import|<script|<link|https?://", text)
    assert "prefers-color-scheme:dark" in text
    assert 'name="viewport"' in text
    assert "a &lt; b" in text
    assert text.count("<svg") == text.count("</svg>") >= 10
    assert "Accuracy against energy" in text
    for warning in report.warnings:
        assert warning.split(";")[0] in text
    assert not list(tmp_path.glob("sub/tmp*"))


def test_names_cannot_inject_markup(report, tmp_path):
    hostile = Report.from_dict(
        {**report.to_dict(), "name": "<script>alert(1)</script>", "warnings": ["<img>"]}
    )
    text = write_html(tmp_path / "r.html", [hostile]).read_text()
    assert "<script" not in text
    assert "<img" not in text


def test_plots_of_little_data():
    assert svg.bars([], "t").startswith("<svg")
    assert "0.000" in svg.bars([("a", [0.0], "0.000")], "t")
    assert svg.scatter([], "x", "y", "t") == ""
    assert svg.scatter([(5.0, 90.0, "one")], "x", "y", "t").count("<circle") == 1
    long = [{"layer": "n", "neurons": [0], "steps": 100, "spikes": [[1, 0] * 50]}]
    assert svg.raster(long, "t").count('class="s0"') == 50
    assert svg.pareto([(1, 1), (1, 1), (2, 0)]) == [0, 1]


# -- many runs -------------------------------------------------------------------------------------------


def test_tables_and_fronts(report, packed, tmp_path):
    rows = compare([report, packed])
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [r["name"] for r in read] == ["vgg", "vgg.w8"]
    assert float(read[1]["bytes"]) == packed.size_packed_bytes
    odd = [{**rows[0], "name": "a_b & 100%"}]
    latex = to_latex(odd)
    assert r"a\_b \& 100\%" in latex
    assert latex.count(r"\\") == 2
    pytest.importorskip("matplotlib")
    assert write_fronts(tmp_path / "f.svg", rows).read_text().count("vgg") >= 1
    assert write_fronts(tmp_path / "f.png", rows).stat().st_size > 1000
    with pytest.raises(ConfigError, match="written to"):
        write_fronts(tmp_path / "f.bmp", rows)
    with pytest.raises(DataError, match="accurac"):
        write_fronts(tmp_path / "f.png", [{**r, "accuracy": None} for r in rows])
    pytest.importorskip("plotly")
    assert "vgg.w8" in write_fronts(tmp_path / "f.html", rows).read_text()


# -- cost ------------------------------------------------------------------------------------------------


def test_cost_of_both_engines(model, data, report):
    held = deploy.load(GOLDEN / "conv_lif.pj")
    raw = np.zeros((1, 2, 8, 8), np.uint8)
    found = measure_cost(held, raw, model, data[0][:1], rounds=6, seconds=1)
    assert set(found.engines) == {"native", "torch"}
    for e in found.engines.values():
        assert 0 < e.median_ms <= e.p95_ms
        assert e.per_second == pytest.approx(1000 / e.median_ms)
    assert found.joules == "not measured" or all(j > 0 for j in found.joules.values())
    copy = found.into(Report.from_dict(report.to_dict()))
    shown = dict(total_rows(copy))
    assert shown["samples a second"].startswith("native ")
    assert "torch" in shown["peak memory of the process"]
    assert dict(total_rows(report))["samples a second"] == "not measured"
    assert Report.from_json(copy.to_json()) == copy
    with pytest.raises(DataError, match="nothing to time"):
        measure_cost(None, None, None, None)


def test_power_counters(tmp_path):
    assert read_rapl(tmp_path) is None
    for name, value in (("intel-rapl:0", "5"), ("intel-rapl:0:0", "3"), ("intel-rapl:1", "7")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(value)
    assert read_rapl(tmp_path) == 12
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("broken")
    assert read_rapl(tmp_path) is None


def test_node_times_meet_counted_layers():
    held = deploy.load(GOLDEN / "conv_lif.pj")
    raw = np.random.default_rng(0).integers(0, 256, (1, 2, 8, 8)).astype(np.uint8)
    rows = predicted_and_measured(measure_model(held, raw), node_times(held, raw, rounds=2))
    assert {r["name"] for r in rows} >= {"conv1", "conv2", "head"}
    assert all(r["measured_us"] > 0 for r in rows)
    same = [{"predicted": k, "measured_us": 2 * k} for k in range(4)]
    assert rank_agreement(same) == pytest.approx(1)
    assert rank_agreement(same[:2]) is None


def test_report_says_where_operations_do_not_predict_time(report, tmp_path):
    times = {"a": (10, 5.0), "b": (20, 10.0), "c": (30, 15.0), "slow": (40, 400.0), "none": (0, 7.0)}
    rows = [{"name": k, "predicted": p, "measured_us": t} for k, (p, t) in times.items()]
    assert rank_agreement(rows[:4]) == pytest.approx(1)
    assert rank_agreement([{**r, "measured_us": -r["measured_us"]} for r in rows[:4]]) == pytest.approx(-1)
    assert rank_agreement([{**r, "predicted": 3} for r in rows]) is None
    tied = [{"predicted": p, "measured_us": t} for p, t in ((1, 1), (2, 2), (2, 3))]
    assert rank_agreement(tied) == rank_agreement(tied[::-1]) == pytest.approx(3**0.5 / 2)
    assert price_ratios(rows)[0] == ("slow", pytest.approx(20))
    assert dict(price_ratios(rows))["a"] == pytest.approx(1)
    sentence = agreement_sentence(rows)
    assert "1.00 over 4 layers" in sentence
    assert "slow (20 x)" in sentence
    assert "none" not in sentence
    assert agreement_sentence(rows[4:]) == ""
    timed = Report.from_dict({**report.to_dict(), "node_times": rows})
    text = write_html(tmp_path / "r.html", [timed]).read_text()
    assert sentence in text
    assert "Counted operations against measured time" in text
    assert sentence in timed.tables()[-1]
    plot = svg.decades([(p, t, k) for k, (p, t) in times.items()], "x", "y", "t")
    assert plot.count("<circle") == 4
    crowd = svg.decades([(k + 1, k + 2, f"n{k}") for k in range(30)], "x", "y", "t")
    assert crowd.count("<circle") == 30
    assert len(re.findall(r"<text[^>]*>n\d+<", crowd)) == svg.NAMED
    assert svg.decades([], "x", "y", "t") == ""


# -- command ---------------------------------------------------------------------------------------------


def test_verbs(report, packed, tmp_path, capsys):
    from picojoule.cli.main import main

    a, b = tmp_path / "a.json", tmp_path / "b.json"
    report.save(a)
    packed.save(b)
    page, table, tex, plot = (tmp_path / n for n in ("r.html", "t.csv", "t.tex", "f.svg"))
    args = ["compare", str(a), str(b), "--html", str(page), "--csv", str(table), "--latex", str(tex)]
    assert main([*args, "--plot", str(plot)]) == 0
    assert "vgg.w8" in capsys.readouterr().out
    assert all(p.stat().st_size > 100 for p in (page, table, tex, plot))
    again = tmp_path / "g.svg"
    assert main(["measure", str(a), str(b), "--plot", str(again)]) == 0
    assert "with-memory, its" in " ".join(
        capsys.readouterr().out.split()
    )  # the common table names its models
    assert again.stat().st_size > 100
    assert main(["compare", str(a), "--json"]) == 0
    assert Report.from_dict(json.loads(capsys.readouterr().out)[0]) == report
    assert main(["measure", str(tmp_path / "none.pj")]) == 2
    assert "no file" in capsys.readouterr().err
    assert main(["measure", str(GOLDEN / "conv_lif.pj")]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["measure", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_packed_file_on_a_data_set(model, data, tmp_path, capsys):
    from picojoule.cli.main import main

    snapped = graph.snap(graph.capture(model, data[0][:2]), graph.Grid()).graph()
    deploy.write(tmp_path / "n.pj", snapped, {})
    args = ["measure", str(tmp_path / "n.pj"), "--data", "digits", "-n", "20", "--cost", "--json"]
    assert main([*args, "--energy", "ops-int8"]) == 0
    found = Report.from_dict(json.loads(capsys.readouterr().out)[0])
    assert found.n_samples == 20
    assert found.accuracy is not None
    assert found.latency["engines"]["native"]["median_ms"] > 0
    assert [e["model"] for e in found.energy][-1] == "ops-int8"
    assert found.node_times
    assert main(["measure", str(tmp_path / "n.pj"), "--data", "digits", "-n", "5"]) == 0
    assert "leaves out" in capsys.readouterr().out


def test_membranes_above_the_threshold_are_the_firing_ones(model, data):
    from picojoule.measure.counts import Counter
    from picojoule.measure.membranes import SAMPLES

    x = data[0][:SAMPLES]
    captured = graph.capture(model, x[:2])
    for net, tolerance in ((captured, 1e-6), (graph.snap(captured, graph.Grid()).graph(), 0)):
        counter = Counter(net)
        counter.feed(x, torch.float64)
        found = counter.result().neurons
        assert len(counter.book.membranes) == len(found) == 2
        for m, row in zip(counter.book.membranes, found):
            assert m["above"] == pytest.approx(row["rate"], abs=tolerance)
            assert sum(m["counts"]) == SAMPLES * row["neurons"] * row["steps"]
