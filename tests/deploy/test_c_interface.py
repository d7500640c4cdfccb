"""The C interface for users: the header in C99, the example, the CMake package, errors, streams, threads."""

from __future__ import annotations

import ctypes as ct
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import c_library as c
import golden_graphs

import picojoule
from picojoule import deploy

HEADER = c.ROOT / "native" / "include" / "picojoule" / "picojoule.h"
CC = shutil.which("cc") or shutil.which("gcc")
RAW = {name: (golden_graphs.GOLDEN / f"{name}.pj").read_bytes() for name in golden_graphs.GRAPHS}
STRICT = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"]


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled as C99 against the shared library."""
    if CC is None:
        pytest.skip("no C compiler")
    library, program = Path(c.library()._name), tmp_path_factory.mktemp("c") / "classify"
    source = c.ROOT / "examples" / "c" / "classify.c"
    link = [str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run(
        [CC, *STRICT, f"-I{HEADER.parents[1]}", str(source), "-o", str(program), *link], check=True
    )
    return program


def pgm(path: Path, image: np.ndarray) -> Path:
    height, width = image.shape
    path.write_bytes(b"P5\n%d %d\n255\n" % (width, height) + image.tobytes())
    return path


def test_example_prints_the_class(classify: Path, tmp_path: Path) -> None:
    model = deploy.load("digits_vgg_w1")
    rng = np.random.default_rng(3)
    for i in range(4):
        image = rng.integers(0, 256, model.graph.inputs[0].edge.shape).astype(np.uint8)
        label = int(model.predict(image[None])[0])
        file = pgm(tmp_path / f"{i}.pgm", image[0])
        done = subprocess.run(
            [classify, deploy.model.ZOO / "digits_vgg_w1.pj", file],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith(f"{model.card['classes'][label]} ("), done.stdout


def test_example_explains_itself(classify: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pj").write_bytes(b"no packed file at all")
    done = subprocess.run([classify, tmp_path / "bad.pj", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "bad.pj: field 'header length'" in done.stderr


def test_cmake_package(tmp_path: Path) -> None:
    """The example's own CMakeLists finds what the build installed."""
    package = (path := c.installed()) and path.parent / "cmake" / "picojoule"
    if not package or not package.exists() or not shutil.which("cmake") or CC is None:
        pytest.skip("no cmake, no compiler, or no CMake package beside the native module")
    source = c.ROOT / "examples" / "c"
    for command in (
        ["cmake", "-S", str(source), "-B", str(tmp_path), f"-Dpicojoule_DIR={package}"],
        ["cmake", "--build", str(tmp_path)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    image = pgm(tmp_path / "x.pgm", np.zeros((8, 8), np.uint8))
    zoo = deploy.model.ZOO / "digits_vgg_w1.pj"
    done = subprocess.run([tmp_path / "classify", zoo, image], capture_output=True, text=True, check=True)
    assert "(" in done.stdout


def test_only_the_interface_is_exported() -> None:
    nm = shutil.which("nm")
    if nm is None or sys.platform != "linux":
        pytest.skip("no nm")
    found = subprocess.run(
        [nm, "-D", "--defined-only", c.library()._name], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in found.stdout.splitlines()}
    declared = set(re.findall(r"PJ_API [^;(]*?\b(pj_\w+)\(", HEADER.read_text()))
    assert names == declared


def test_numbers_of_the_interface() -> None:
    text = HEADER.read_text()
    assert c.library().pj_abi() == int(re.findall(r"#define PJ_ABI (\d+)", text)[0])
    assert c.library().pj_version().decode() == picojoule.__version__
    for name, number in re.findall(r"PJ_(OK|ERROR_\w+) = (\d+)", text):
        assert c.library().pj_status_text(int(number)), name
    assert c.library().pj_isa(0) == b"scalar"
    assert c.library().pj_isa(99) is None


def test_what_a_model_says() -> None:
    model = c.CModel(RAW["conv_lif"])
    graph, card = deploy.loads(RAW["conv_lif"])
    edge, node = model.inputs[0], graph.inputs[0]
    assert (edge.name.decode(), list(edge.shape[: edge.rank])) == (node.name, list(node.edge.shape))
    assert (edge.low, edge.high, edge.steps) == (node.edge.kind.low, node.edge.kind.high, node.edge.steps)
    out = graph.outputs[0]
    assert model.outputs[0].scale == 2.0**-out.edge.kind.frac
    assert model.info.nodes == len(graph.nodes)
    assert model.info.payload_bytes == deploy.payload_bytes(graph)
    assert json.loads(model.info.card) == card


def wrong(status: int, match: str, call: object, *args: object, **names: object) -> None:
    with pytest.raises(c.Refused, match=match) as caught:
        call(*args, **names)  # type: ignore[operator]
    assert caught.value.status == status


def test_errors(tmp_path: Path) -> None:
    wrong(c.IO, "absent.pj: cannot be opened", c.CModel, tmp_path / "absent.pj")
    wrong(c.FORMAT, "not a regular file", c.CModel, tmp_path)
    wrong(c.UNSUPPORTED, "isa", c.CModel, RAW["conv_lif"], isa=b"mmx")
    wrong(c.ARGUMENT, "threads", c.CModel, RAW["conv_lif"], threads=0)
    wrong(c.UNSUPPORTED, "max_bytes", c.CModel, RAW["conv_lif"], max_bytes=1)
    wrong(c.VERSION, "version", c.CModel, RAW["residual"].replace(b'"version":"1"', b'"version":"2"'))
    assert c.library().pj_load(None, None, None) == c.ARGUMENT
    model = c.CModel(RAW["conv_lif"])
    name = model.inputs[0].name.decode()
    bytes_in = np.zeros((1, *model.inputs[0].shape[: model.inputs[0].rank]), np.uint8)
    wrong(c.ARGUMENT, "elements", model, {name: bytes_in[:, :, :4]})
    wrong(c.ARGUMENT, "PJ_U8", model, {name: bytes_in.astype(np.float32)})
    spiking = c.CModel(RAW["residual"])
    x = golden_graphs.inputs(deploy.loads(RAW["residual"])[0], 1)
    name = next(iter(x))
    wrong(c.NONFINITE, "NaN", spiking, {name: np.full(x[name].shape, np.nan, np.float32)})
    assert b"NaN" in c.library().pj_last_error()


def test_errors_belong_to_their_thread() -> None:
    wrong(c.FORMAT, "header length", c.CModel, b"x")
    seen: list[bytes] = []
    thread = threading.Thread(target=lambda: seen.append(c.library().pj_last_error()))
    thread.start()
    thread.join()
    assert seen == [b""]
    assert b"header length" in c.library().pj_last_error()


def test_stream_limits_and_life() -> None:
    graph, _ = deploy.loads(RAW["conv_lif"])
    model = c.CModel(RAW["conv_lif"])
    stream, x = model.stream(1), golden_graphs.inputs(graph, 1)
    limit = model.info.stream_limit
    assert limit == deploy.engine.stream_limit(graph)
    model.close()  # the stream keeps what it needs
    for _ in range(min(limit, 50)):
        stream(x, 1)
    if limit <= 50:
        wrong(c.STREAM, "proven", stream, x, 1)
    stream.reset()
    assert stream.position == 0
    stream(x, 1)


def test_threads_share_a_model() -> None:
    graph, _ = deploy.loads(RAW["residual"])
    model, x = c.CModel(RAW["residual"], threads=2), golden_graphs.inputs(graph, 3)
    wanted = {k: v.tolist() for k, v in deploy.engine.Engine(graph)(x).items()}
    found: list[bool] = []

    def work() -> None:
        for _ in range(20):
            shared = c.CModel.__new__(c.CModel)
            shared.__dict__.update(model.__dict__)
            found.append({k: v.tolist() for k, v in shared(x).items()} == wanted)
            shared.handle = ct.c_void_p()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80
