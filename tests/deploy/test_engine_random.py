"""Engine == reference interpreter, bit for bit, on random graphs: every kernel, ISA and thread count."""

import numpy as np
import pytest
from random_graphs import random_graph, random_inputs

from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.graph import reference

GRAPHS = 320
GROUP = 40
BATCHES = (3, 1, 2, 5, 0)
THREADS = (1, 2, 5)
MODES = ("auto", "latency")  # the second splits the rows of every node over the threads


def expect(graph: g.Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in reference.run(graph, inputs).items()}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], what: str) -> None:
    assert found.keys() == wanted.keys(), what
    for key, value in wanted.items():
        assert found[key].dtype == np.int64
        np.testing.assert_array_equal(found[key], value, err_msg=f"{what}, output {key}")


@pytest.mark.parametrize("start", range(0, GRAPHS, GROUP))
def test_engine_equals_reference(start: int) -> None:
    for seed in range(start, start + GROUP):
        graph = random_graph(seed)
        inputs = random_inputs(graph, BATCHES[seed % len(BATCHES)], seed)
        wanted = expect(graph, inputs)
        threads = THREADS[seed % len(THREADS)]
        for isa in ISAS:
            assert_same(
                Engine(graph, isa=isa, threads=threads, mode=MODES[seed % 2])(inputs),
                wanted,
                f"seed {seed}, {isa}",
            )
        for isa in {ISAS[-1], ISAS[1 + seed % (len(ISAS) - 1)]}:  # each in turn beside the widest
            able = Engine(graph, isa=isa)
            for node in graph.nodes:
                for kernel in able.kernels(node.name)[1:]:
                    engine = Engine(
                        graph, isa=isa, kernels={node.name: kernel}, threads=threads, mode="latency"
                    )
                    rows = {row["name"]: row["kernel"] for row in engine.info()["nodes"]}
                    assert rows[node.name] == kernel
                    assert_same(engine(inputs), wanted, f"seed {seed}, {isa}, {node.name} = {kernel}")


def test_every_kernel_and_node_is_met() -> None:
    """The random graphs exercise what they claim to."""
    kinds, kernels = set(), set()
    graph = random_graph(0)
    for seed in range(GRAPHS):
        graph = random_graph(seed)
        kinds |= {type(node).__name__ for node in graph.nodes}
        kernels |= {(row["type"], row["kernel"]) for row in Engine(graph).info()["nodes"]}
    assert kinds == set(g.NODE_TYPES) - {"Opaque"}
    # Byte products are worth it only where the instruction set has them.
    bytes_too = {"dense_bytes"} if Engine(graph).info()["isa"] in ("avx2", "avx512") else set[str]()
    by_rows = {"vector", "event_bits", "depth_bits", "dense_rows"}
    # Static counting and rows of events are chosen by their price, which may be too high here; forced above.
    priced = {"static_bits", "event_rows", "lookup_bits", "dot_bits", "lookup_words"}
    assert {k for t, k in kernels if t == "Conv"} - priced == by_rows | bytes_too
    assert {k for t, k in kernels if t == "Neuron"} - {"scalar"} == {"vector", "rows", "planes", "block"}
    assert {k for t, k in kernels if t == "Pool"} == {"packed", "vector"}


def test_thread_counts_agree_in_both_splits() -> None:
    """Fewer samples than threads split rows, more split samples."""
    for seed in range(400, 430):
        graph = random_graph(seed)
        for batch in (1, 7):
            inputs = random_inputs(graph, batch, seed)
            one = Engine(graph)(inputs)
            for threads in (2, 5):
                assert_same(
                    Engine(graph, threads=threads, mode="latency")(inputs),
                    one,
                    f"seed {seed}, {threads} threads",
                )


def test_streams_equal_the_whole_sequence() -> None:
    """Any chunking gives the same steps, and the readout after the last chunk is that of the sequence."""
    streamed = 0
    for seed in range(500, 560):
        graph = random_graph(seed, causal=True)
        T = max(node.edge.steps for node in graph.nodes)
        inputs = random_inputs(graph, 2, seed)
        whole = expect(graph, inputs)
        timed = [n.name for n in graph.inputs if n.edge.steps]
        rng = np.random.default_rng(seed)
        for isa in ISAS:
            stream = Engine(graph, isa=isa).stream()
            parts, at = [], 0
            while at < T:
                n = int(rng.integers(1, T - at + 1))
                chunk = {k: v[:, at : at + n] if k in timed else v for k, v in inputs.items()}
                parts.append(stream.step(chunk, steps=n))
                at += n
            found = {
                node.key: np.concatenate([p[node.key] for p in parts], 1)
                if node.edge.steps
                else parts[-1][node.key]
                for node in graph.outputs
            }
            assert_same(found, whole, f"seed {seed}, {isa}, {len(parts)} chunks")
            streamed += len(parts) > 1
    assert streamed > 20


@pytest.mark.slow
def test_many_more_random_graphs() -> None:
    for seed in range(10_000, 12_000):
        graph = random_graph(seed)
        inputs = random_inputs(graph, BATCHES[seed % len(BATCHES)], seed)
        assert_same(Engine(graph, threads=THREADS[seed % 3])(inputs), expect(graph, inputs), f"seed {seed}")
