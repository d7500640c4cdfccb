"""`deploy.load`: real values, exact integers, streams, clear errors, and no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import golden_graphs

from picojoule import deploy
from picojoule.core.errors import ConfigError, KindError, NonFiniteError, PicojouleError, ShapeError
from picojoule.deploy import model as module
from picojoule.deploy import write

GOLDEN = golden_graphs.GOLDEN


def load(name: str) -> deploy.Model:
    return deploy.load(GOLDEN / f"{name}.pj")


def sample(model: deploy.Model, batch: int) -> np.ndarray:
    return next(iter(golden_graphs.inputs(model.graph, batch).values()))


def test_values_are_integers_on_the_grid() -> None:
    model = load("conv_lif")
    x = sample(model, 3)
    integers, real = model.integers(x), model(x)
    assert integers["out"].dtype == np.int64
    assert isinstance(real, np.ndarray)
    assert real.shape == (3, 5)
    np.testing.assert_array_equal(real * 2**5, integers["out"])
    np.testing.assert_array_equal(model.predict(x), real.argmax(1))


def test_several_outputs_have_names() -> None:
    model = load("residual")
    y = model(sample(model, 2))
    assert isinstance(y, dict)
    assert {k: v.shape for k, v in y.items()} == {"trace": (2, 2, 8), "out": (2, 8)}
    with pytest.raises(ShapeError, match="one output"):
        model.predict(sample(model, 2))


@pytest.mark.parametrize("name", sorted(golden_graphs.GRAPHS))
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batches_are_independent(name: str, batch: int) -> None:
    model = load(name)
    x = sample(model, 3)[:batch]
    whole = model.integers(x)
    for key, value in whole.items():
        assert value.shape[0] == batch
        for i in range(batch):
            np.testing.assert_array_equal(model.integers(x[i : i + 1])[key][0], value[i])


def test_stream_gives_the_bits_of_the_whole() -> None:
    model = load("codebook")
    x = sample(model, 2)
    whole = model(x)
    stream = model.stream()
    parts = [stream(x[:, :1]), stream(x[:, 1:])]
    np.testing.assert_array_equal(np.concatenate(parts, 1), whole)
    with pytest.raises(ShapeError, match="B, n, 3, 5, 5"):
        stream(x[:, 0])


def test_input_forms() -> None:
    model = load("residual")
    x = sample(model, 2)
    expected = model.integers(x)["out"]
    (name,) = [n.name for n in model.graph.inputs]
    for same in (x.astype(np.float64), x[:, :, ::1], np.asfortranarray(x), {name: x}, x.tolist()):
        np.testing.assert_array_equal(model.integers(same)["out"], expected)
    assert x.flags.c_contiguous


def test_wrong_inputs() -> None:
    images, rows, spikes = load("conv_lif"), load("residual"), load("codebook")
    x = sample(images, 2)
    with pytest.raises(ShapeError, match=r"\[B, 2, 8, 8\], got \[2, 8, 8\]; add the batch axis"):
        images(x[0])
    with pytest.raises(ShapeError, match=r"got \[2, 2, 8, 7\]"):
        images(x[..., :7])
    with pytest.raises(KindError, match="uint8, not float32"):
        images(x.astype(np.float32))
    with pytest.raises(ShapeError, match=r"\[B, 2, 4, 6, 6\]"):
        rows(np.zeros((1, 3, 4, 6, 6), np.float32))
    for bad in (np.nan, np.inf):
        y = sample(rows, 1).copy()
        y[0, 0, 0, 0, 0] = bad
        with pytest.raises(NonFiniteError, match="'x'"):
            rows(y)
    with pytest.raises(KindError, match=r"integer\(4\) spikes 0..4"):
        spikes(np.full((1, 3, 3, 5, 5), 5))
    with pytest.raises(KindError, match="spikes"):
        spikes(np.full((1, 3, 3, 5, 5), 0.5, np.float32))
    for junk in (np.zeros((1, 2, 4, 6, 6), complex), np.zeros((1, 2, 4, 6, 6), "U1")):
        with pytest.raises(KindError, match="numbers"):
            rows(junk)
    with pytest.raises(ShapeError, match="pass a dict"):
        rows({"y": sample(rows, 1)})


def test_info_keeps_both_sizes_apart() -> None:
    info = load("conv_lif").info()
    assert info["payload_bytes"] == deploy.payload_bytes(golden_graphs.conv_lif())
    assert info["paper_bytes"] is None
    assert info["card"]["classes"] == golden_graphs.CARD["classes"]
    assert info["T"] == 4
    assert info["inputs"] == [
        {"name": "x", "kind": "fixed(10, 4)", "shape": [2, 8, 8], "steps": 0, "bytes_input": True}
    ]
    assert {"isa", "nodes"} <= set(info["engine"])


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ZOO", tmp_path)
    write(tmp_path / "fashion_vgg_w1.pj", golden_graphs.conv_lif(), golden_graphs.CARD)
    assert deploy.shipped() == ["fashion_vgg_w1"]
    assert deploy.load("fashion_vgg_w1").source == str(tmp_path / "fashion_vgg_w1.pj")
    with pytest.raises(ConfigError, match="did you mean 'fashion_vgg_w1'"):
        deploy.load("fashion_vgg_w2")
    with pytest.raises(ConfigError, match="no file"):
        deploy.load(tmp_path / "absent.pj")


def test_errors_are_picojoules() -> None:
    for error in (ConfigError, KindError, NonFiniteError, ShapeError):
        assert issubclass(error, PicojouleError)


def test_first_result_without_torch() -> None:
    """No torch and below 40 MiB; the seconds are printed, not asserted: another program would fail them."""
    pytest.importorskip("resource")
    code = (
        "import resource, sys, time\n"
        "def mib():\n"
        "    pages = int(open('/proc/self/statm').read().split()[1])\n"
        "    return pages * resource.getpagesize() / 2**20\n"
        "before, start = mib(), time.process_time()\n"
        "import numpy as np\n"
        "import picojoule\n"
        f"model = picojoule.deploy.load({str(GOLDEN / 'conv_lif.pj')!r})\n"
        "model(np.zeros((1, 2, 8, 8), np.uint8))\n"
        "seconds = time.process_time() - start\n"
        "print(f'{mib() - before:.1f} MiB, {seconds:.3f} s')\n"
        "assert 'torch' not in sys.modules\n"
        "assert mib() - before < 40, mib() - before\n"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to measure memory")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    print("import and first result:", done.stdout.strip())
