"""The C library accepts exactly the files that Python accepts, and gives the same bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import c_library as c
import fuzz_format
import golden_graphs
import test_format_hostile
from random_graphs import random_graph, random_inputs

from picojoule import deploy
from picojoule.core.errors import FormatError, PackError
from picojoule.deploy.engine import Engine

RAW = {name: (golden_graphs.GOLDEN / f"{name}.pj").read_bytes() for name in golden_graphs.GRAPHS}


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize("name", sorted(RAW))
@pytest.mark.parametrize("isa", ["auto", "scalar", "generic"])
def test_golden_files(name: str, isa: str) -> None:
    graph, _ = deploy.loads(RAW[name])
    for threads in (1, 2, 5):
        model = c.CModel(RAW[name], threads=threads, isa=isa.encode())
        for batch in (1, 3):
            x = golden_graphs.inputs(graph, batch)
            same(model(x), Engine(graph)(x))


@pytest.mark.parametrize("name", deploy.shipped())
def test_shipped_files(name: str) -> None:
    path = deploy.model.ZOO / f"{name}.pj"
    model, packed = c.CModel(path), deploy.load(name)
    edge = model.inputs[0]
    x = np.random.default_rng(0).integers(0, 256, (6, *edge.shape[: edge.rank])).astype(np.uint8)
    inputs = {edge.name.decode(): x}
    same(model(inputs), packed.integers(inputs))
    real = model(inputs, real=True)
    np.testing.assert_array_equal(next(iter(real.values())), packed(inputs))
    assert model.info.payload_bytes == packed.info()["payload_bytes"]
    classes = packed.card.get("classes") or []
    assert [c.library().pj_class(model.handle, i).decode() for i in range(model.info.classes)] == classes


def test_random_graphs() -> None:
    for seed in range(80):
        graph = random_graph(seed)
        x = random_inputs(graph, 2, seed)
        same(c.CModel(deploy.dumps(graph), threads=1 + seed % 3)(x), Engine(graph)(x))


def test_streams_of_random_graphs() -> None:
    """Any chunking gives the bits of the whole, several streams of one model side by side."""
    for seed in range(40):
        graph = random_graph(seed, causal=True)
        steps = max(node.edge.steps for node in graph.nodes)
        if not steps:
            continue
        x = random_inputs(graph, 2, seed)
        wanted = Engine(graph)(x)
        model = c.CModel(deploy.dumps(graph))
        timed = {node.name: node.edge.steps for node in graph.inputs}
        streams = [model.stream(2), model.stream(2)]
        for cut in (1, steps):
            for first in range(0, steps, cut):
                n = min(cut, steps - first)
                chunk = {k: v[:, first : first + n] if timed[k] else v for k, v in x.items()}
                found = [stream(chunk, n) for stream in streams]
                same(found[0], found[1])
                for node in graph.outputs:
                    part = wanted[node.key]
                    if node.edge.steps:
                        np.testing.assert_array_equal(found[0][node.key], part[:, first : first + n])
            for node in graph.outputs:
                if not node.edge.steps:
                    np.testing.assert_array_equal(found[0][node.key], wanted[node.key])
            assert streams[0].position == steps
            for stream in streams:
                stream.reset()


def outcome(raw: bytes) -> tuple[str, object]:
    """What Python does with a file."""
    try:
        graph, _ = deploy.loads(raw)
    except FormatError as error:
        return "refused", str(error)
    try:
        return "accepted", (graph, Engine(graph, max_bytes=1 << 28))
    except PackError as error:
        return "refused by the engine", str(error)


def fate_in_c(raw: bytes) -> tuple[str, object]:
    """The same of the C library."""
    try:
        return "accepted", c.CModel(raw, max_bytes=1 << 28)
    except c.Refused as error:
        words = {c.FORMAT: "refused", c.VERSION: "refused", c.UNSUPPORTED: "refused by the engine"}
        return words[error.status], str(error)


@pytest.mark.parametrize("count", [1500, pytest.param(30000, marks=pytest.mark.slow)])
def test_mutants_have_the_same_fate(count: int) -> None:
    mutator = fuzz_format.Mutator(count, list(RAW.values()))
    accepted = 0
    for _ in range(count):
        raw = mutator.draw()
        fate, what = outcome(raw)
        found, model = fate_in_c(raw)
        assert found == fate, (what, model, raw)
        if fate != "accepted":
            continue
        graph, engine = what  # type: ignore[misc]
        accepted += 1
        if fuzz_format.small(graph):
            x = fuzz_format.tiny_inputs(graph)
            same(model(x), engine(x))  # type: ignore[operator]
    assert accepted > count // 30


RATES = [
    {},
    None,
    [],
    {"lif1": [0.5]},
    {"lif1": [2]},
    {"lif1": []},
    {"lif1": [True]},
    {"x": [0.1]},
    {"out": [0]},
]


@pytest.mark.parametrize("rates", RATES)
def test_rates_of_the_card(rates: object) -> None:
    raw = test_format_hostile.edited(lambda card: card.update(rates=rates), tensor="card")
    fate, what = outcome(raw)
    assert fate_in_c(raw)[0] == fate, what


def program(name: str, folder: Path) -> Path:
    """A native test program, linked with the library of this build."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library, made = Path(c.library()._name), folder / name
    source = c.ROOT / "native" / "tests" / f"{name}.cpp"
    include = f"-I{c.ROOT / 'native' / 'include'}"
    link = [str(library), f"-Wl,-rpath,{library.parent}", "-pthread"]
    subprocess.run([compiler, "-std=c++20", "-O1", include, str(source), "-o", str(made), *link], check=True)
    return made


FILES = sorted(str(path) for path in golden_graphs.GOLDEN.glob("*.pj"))


def test_native_fuzzer_finds_nothing(tmp_path: Path) -> None:
    """A short run without sanitizers; native/tests/run_reader.sh is the long one."""
    command = [program("fuzz_reader", tmp_path), "4000", "5", *FILES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4000 mutants" in done.stdout


def test_callers_share_a_model(tmp_path: Path) -> None:
    command = [program("share_streams", tmp_path), "3", *FILES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_reader_under_sanitizers() -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    script = c.ROOT / "native" / "tests" / "run_reader.sh"
    done = subprocess.run([str(script), "20000"], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "the bits of one" in done.stdout
