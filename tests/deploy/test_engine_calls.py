"""How the engine is called: forks, threads, workers, streams beyond T, refusals."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from random_graphs import Builder, random_graph, random_inputs

from picojoule.core import kinds
from picojoule.core.errors import CausalityError, PackError, ShapeError
from picojoule.deploy.engine import ISAS, STREAM_LIMIT, Engine
from picojoule.graph import nodes as g


def spiking_conv(T: int = 4, *, decay: int = 1, seed: int = 0) -> g.Graph:
    """8 binary channels, 1-bit 3x3 convolution to 70, LIF with decay `decay`/2, all and last spikes out."""
    b = Builder(np.random.default_rng(seed), T)
    x = b.add(g.Input, (), kinds.binary, (8, 6, 6), T)
    weight = b.const(b.rng.choice([-1, 1], (70, 8, 3, 3)), np.int8)
    x = b.add(
        g.Conv, (x,), kinds.fixed(9, 0), (70, 6, 6), T, weight=weight, padding=((1, 1), (1, 1)),
        coding=g.Coding("sign", 1),
    )  # fmt: skip

    def one(value: int) -> str:
        return b.const([[value]])

    x = b.add(
        g.Neuron, (x,), kinds.binary, (70, 6, 6), T, decay=one(decay), decay_shift=1, gain=one(1),
        bias=one(0), thresholds=b.const([[[4]]]), reset="soft", reset_value=one(4), v_init=one(0), v_bits=16,
    )  # fmt: skip
    b.output(x, "spikes")
    b.output(b.add(g.Readout, (x,), kinds.binary, (70, 6, 6), 0, mode="last"), "last")
    return b.graph()


def spikes(batch: int, T: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((batch, T, 8, 6, 6)) < 0.3).astype(np.uint8)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[k], b[k]) for k in b)


def test_convolution_and_lif_by_hand() -> None:
    """A plain NumPy loop, independent of the reference interpreter."""
    graph, x = spiking_conv(), spikes(2, 4)
    weight = graph.tensors[graph["conv1"].weight].astype(int)  # type: ignore[attr-defined]
    padded = np.pad(x.astype(int), ((0, 0),) * 3 + ((1, 1),) * 2)
    current = sum(
        np.einsum("btcyx,oc->btoyx", padded[..., i : i + 6, j : j + 6], weight[:, :, i, j])
        for i in range(3)
        for j in range(3)
    )
    v, out = np.zeros((2, 70, 6, 6), int), []
    for t in range(4):
        h = (v >> 1) + current[:, t]
        out.append((h >= 4).astype(int))
        v = h - 4 * out[-1]
    wanted = np.stack(out, 1)
    for isa in ISAS:
        engine = Engine(graph, isa=isa)
        found = engine(x)
        np.testing.assert_array_equal(found["spikes"], wanted)
        np.testing.assert_array_equal(found["last"], wanted[:, -1])
    names = {row["name"]: row["kernel"] for row in Engine(graph).info()["nodes"]}
    assert (names["conv1"], names["neuron2"]) == ("event_bits", "planes")


@pytest.mark.parametrize("isa", ["scalar", "auto"])
def test_the_arena_holds_what_lives_at_once(isa: str) -> None:
    """Twelve equal layers need the memory of three; what one layer has read, another writes over."""

    def chain(layers: int) -> g.Graph:
        b = Builder(np.random.default_rng(0), 2)
        x = b.add(g.Input, (), kinds.binary, (8, 6, 6), 2)
        for _ in range(layers):
            x = b.add(
                g.Conv, (x,), kinds.fixed(9, 0), (8, 6, 6), 2, padding=((1, 1), (1, 1)),
                weight=b.const(b.rng.choice([-1, 1], (8, 8, 3, 3)), np.int8), coding=g.Coding("sign", 1),
            )  # fmt: skip
            x = b.add(
                g.Neuron, (x,), kinds.binary, (8, 6, 6), 2, decay=b.const([[1]]), decay_shift=1,
                gain=b.const([[1]]), bias=b.const([[0]]), thresholds=b.const([[[4]]]), reset="soft",
                reset_value=b.const([[4]]), v_init=b.const([[0]]), v_bits=16,
            )  # fmt: skip
        b.output(x, "out")
        return b.graph()

    few, many = (Engine(chain(layers), isa=isa).info()["arena_bytes"] for layers in (3, 12))
    assert many == few
    if isa == "scalar":
        assert many < sum(n.edge.size * 2 for n in chain(12).nodes)  # a byte an element and step at least


def test_info_reports_memory_and_kernels() -> None:
    engine = Engine(spiking_conv(), threads=2)
    info = engine.info()
    assert info["threads"] == 2
    assert info["isa"] == ISAS[-1]
    assert info["arena_bytes"] > 0
    assert {row["name"] for row in info["nodes"]} == {n.name for n in engine.graph.nodes}
    assert sum(row["bytes"] for row in info["nodes"]) >= 8 * 9 * 70 // 8  # one bit a weight at least
    assert engine.kernels("conv1") == [
        "scalar", "event_bits", "event_rows", "dense_rows", "dense_bytes", "static_bits",
        "lookup_bits", "dot_bits", "vector",
    ]  # fmt: skip
    assert engine.kernels("neuron2") == ["scalar", "rows", "planes", "vector", "block"]
    assert Engine(spiking_conv(), isa="scalar").kernels("conv1") == ["scalar"]


@pytest.mark.parametrize(
    ("kernels", "words"),
    [
        ({"conv1": "nothing"}, ("conv1", "nothing")),
        ({"input0": "event_bits"}, ("input0", "event_bits")),
        ({"neuron2": "planes", "conv1": "event_rows"}, ("neuron2", "planes")),
        ({"neuron2": "planes", "conv1": "scalar"}, ("neuron2", "planes")),
        ({"absent": "scalar"}, ("absent",)),
    ],
)
def test_unsupported_kernels_are_refused_by_name(kernels: dict[str, str], words: tuple[str, ...]) -> None:
    with pytest.raises(PackError) as error:
        Engine(spiking_conv(), kernels=kernels)
    assert all(word in str(error.value) for word in words)


def test_instruction_sets_are_known_forced_and_refused() -> None:
    assert ISAS[:2] == ("scalar", "generic")
    for isa in ISAS:
        assert Engine(spiking_conv(), isa=isa).info()["isa"] == isa
    for isa in {"neon", "avx2", "avx512"} - set(ISAS):
        with pytest.raises(PackError, match=f"no {isa}.*scalar, generic.*isa='auto'"):
            Engine(spiking_conv(), isa=isa)
    with pytest.raises(PackError, match="scalar, generic, neon, avx2, avx512, got 'sse9'"):
        Engine(spiking_conv(), isa="sse9")


def test_a_decay_that_is_no_power_of_two_leaves_the_planes() -> None:
    graph = spiking_conv(decay=1)
    tensors = dict(graph.tensors)
    tensors[graph["neuron2"].decay] = np.array([[3]])  # type: ignore[attr-defined]
    odd = graph.replace(tensors=tensors, nodes=graph.nodes)
    assert Engine(odd).kernels("neuron2") == ["scalar", "rows", "vector", "block"]
    with pytest.raises(PackError, match=r"neuron2.*planes"):
        Engine(odd, kernels={"neuron2": "planes"})


def test_wrong_data_is_refused() -> None:
    engine = Engine(spiking_conv())
    with pytest.raises(ShapeError, match=r"\[B, 4, 8, 6, 6\]"):
        engine(spikes(1, 3))
    with pytest.raises(ShapeError, match="input0"):
        engine({"x": spikes(1, 4)})
    with pytest.raises(ValueError, match="input0"):
        engine(np.full((1, 4, 8, 6, 6), np.nan, np.float32))
    with pytest.raises(ValueError, match="kind of spikes"):
        engine(np.full((1, 4, 8, 6, 6), 2, np.int8))
    with pytest.raises(PackError, match="captured"):
        Engine(spiking_conv().replace(stage="captured"))
    with pytest.raises(PackError, match="max_bytes"):
        Engine(spiking_conv(), max_bytes=100)


def test_inconsistent_nodes_are_refused_by_name() -> None:
    graph = spiking_conv()
    conv = graph["conv1"]
    for change in (
        {"edge": g.Edge(kinds.fixed(9, 0), (70, 6, 7), 4)},
        {"groups": 3},
        {"padding": ((1, 1),)},
        {"stride": (0, 1)},
        {"dilation": (9, 9)},
    ):
        fields = {name: getattr(conv, name) for name in ("name", "inputs", "edge", *g.node_fields(conv))}
        broken = g.Conv(**{**fields, **change})  # type: ignore[arg-type]
        with pytest.raises(PackError, match="conv1"):
            Engine(graph.replace(nodes=(graph.nodes[0], broken)))
    tensors = dict(graph.tensors)
    tensors[conv.weight] = np.ones((70, 8, 3, 0), np.int8)  # type: ignore[attr-defined]
    with pytest.raises(PackError, match="conv1"):
        Engine(graph.replace(tensors=tensors))


def test_streams_go_on_past_T_and_stop_where_nothing_is_proven() -> None:
    engine = Engine(spiking_conv(T=4))
    long = Engine(spiking_conv(T=40))(spikes(2, 40))
    stream, parts = engine.stream(), []
    for at, n in ((0, 7), (7, 1), (8, 32)):
        parts.append(stream.step(spikes(2, 40)[:, at : at + n])["spikes"])
    np.testing.assert_array_equal(np.concatenate(parts, 1), long["spikes"])
    assert stream.position == 40
    assert stream._limit == STREAM_LIMIT
    with pytest.raises(ShapeError, match="batch of 2"):
        stream.step(spikes(1, 1))

    graph = spiking_conv(T=4)
    summed = g.Readout(
        name="sum", inputs=("neuron2",), edge=g.Edge(kinds.fixed(4, 0), (70, 6, 6)), mode="sum"
    )
    out = g.Output(name="total", inputs=("sum",), edge=summed.edge, key="total")
    bounded = Engine(graph.replace(nodes=(*graph.nodes, summed, out))).stream()
    bounded.step(spikes(1, 4))
    with pytest.raises(ShapeError, match="proven for 4 steps"):
        bounded.step(spikes(1, 1))


def test_integrators_without_leak_keep_exact_long_streams() -> None:
    """decay 1: the membrane is not bounded, so the stream holds it in 64 bits."""
    T = 300
    engine = Engine(spiking_conv(T=4, decay=2))
    long = Engine(spiking_conv(T=T, decay=2), isa="scalar")(spikes(1, T))
    found = engine.stream().step(spikes(1, T))
    np.testing.assert_array_equal(found["spikes"], long["spikes"])


def test_noncausal_graphs_do_not_stream() -> None:
    b = Builder(np.random.default_rng(0), 3)
    x = b.events((4, 5))
    kind = kinds.fixed(12, 0)
    x = b.add(g.TimeMix, (x,), kind, (4, 5), 3, matrix=b.const(np.ones((3, 3))), causal=False)
    b.output(x, "out")
    with pytest.raises(CausalityError, match="timemix1"):
        Engine(b.graph()).stream()


def test_two_python_threads_share_an_engine() -> None:
    engine, x = Engine(spiking_conv(), threads=2), spikes(6, 4)
    wanted = engine(x)
    failures: list[int] = []

    def work() -> None:
        for i in range(50):
            if not same(engine(x), wanted):
                failures.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("order", ["call then fork", "fork then call"])
def test_forks(order: str) -> None:
    """A child finds a working pool, whether or not its parent had one."""
    engine, x = Engine(spiking_conv(), threads=3), spikes(5, 4)
    wanted = Engine(spiking_conv(), isa="scalar")(x)
    if order == "call then fork":
        assert same(engine(x), wanted)
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        queue = context.Queue()
        child = context.Process(
            target=lambda q=queue: q.put(same(engine(x), wanted) and same(engine(x), wanted))
        )
        child.start()
        assert queue.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
    assert same(engine(x), wanted)


def test_fork_while_another_thread_runs() -> None:
    engine, x = Engine(spiking_conv(), threads=2), spikes(8, 4)
    wanted = engine(x)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            engine(x)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if same(engine(x), wanted) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        thread.join(60)


class _Images:
    """A map-style data set that runs an engine in the worker."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> np.ndarray:
        return self.engine(spikes(1, 4, index))["spikes"][0]


def test_inside_a_dataloader_worker() -> None:
    loader = pytest.importorskip("torch.utils.data").DataLoader
    engine = Engine(spiking_conv(), threads=2)
    rows = [row.numpy() for batch in loader(_Images(engine), batch_size=2, num_workers=2) for row in batch]
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(row, engine(spikes(1, 4, index))["spikes"][0])


def test_engines_travel_by_pickle() -> None:
    engine, x = Engine(spiking_conv(), isa="generic", kernels={"conv1": "event_rows"}), spikes(2, 4)
    again = pickle.loads(pickle.dumps(engine))
    assert same(again(x), engine(x))
    assert again.info()["isa"] == "generic"


def test_needs_no_torch() -> None:
    code = "import sys, picojoule.deploy.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_empty_batches_and_odd_dtypes() -> None:
    engine = Engine(spiking_conv(), threads=2)
    assert engine(spikes(0, 4))["spikes"].shape == (0, 4, 70, 6, 6)
    wanted = engine(spikes(3, 4))
    for dtype in (bool, np.int8, np.int16, np.int64, np.float16, np.float32, np.float64):
        assert same(engine(spikes(3, 4).astype(dtype)), wanted)
    assert same(engine(np.asfortranarray(spikes(3, 4))), wanted)
    graph = random_graph(3)
    assert all(v.shape[0] == 0 for v in Engine(graph)(random_inputs(graph, 0, 3)).values())


@pytest.mark.parametrize(
    "moves",
    [
        (("expand", (2**40, 70)), ("slice", 0, 0, 1, 1), ("view", (70,))),
        (("pad", ((0, 2**40),)), ("slice", 0, 0, 70, 1)),
        (("view", (-1, -1)),),
        (("permute", (0, 0)),),
        (("slice", 5, 0, 1, 1),),
        (("slice", 0, 0, 70, 0),),
        (("flip", 3),),
        (("turn", 1),),
    ],
)
def test_impossible_moves_are_refused(moves: tuple[tuple[object, ...], ...]) -> None:
    """Also those whose intermediate rows would not fit in memory."""
    b = Builder(np.random.default_rng(0), 1)
    x = b.add(g.Input, (), kinds.binary, (70,), 1)
    x = b.add(g.Reshape, (x,), kinds.binary, (70,), 1, moves=moves)
    b.output(x, "out")
    with pytest.raises(PackError, match="reshape1"):
        Engine(b.graph())


def test_profile_names_every_step() -> None:
    engine = Engine(spiking_conv())
    rows = engine.profile(spikes(2, 4))
    assert ("neuron2", "event_bits+planes") in {(row["node"], row["what"]) for row in rows}
    assert all(row["seconds"] >= 0 for row in rows)


@pytest.mark.parametrize("bits", [12, 20, 40])
def test_repeat_onto_a_wider_edge(bits: int) -> None:
    """Found by mutation under AddressSanitizer: the copy read beyond a narrower row."""
    b = Builder(np.random.default_rng(0), 3)
    x = b.add(g.Input, (), kinds.fixed(8, 0), (5,), 0)
    b.output(b.add(g.Repeat, (x,), kinds.fixed(bits, 0), (5,), 3), "y")
    data = np.array([[1.0, -2.0, 3.0, 127.0, -128.0], [0.0, 5.0, -6.0, 7.0, 8.0]])
    for isa in ISAS:
        got = Engine(b.graph(), isa=isa)(data)["y"]
        assert np.array_equal(got, np.repeat(data[:, None].astype(np.int64), 3, axis=1))
