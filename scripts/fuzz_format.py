"""Feed mutated packed files to the loader and the native engine, and report whatever is not a clean error.

    python scripts/fuzz_format.py --count 200000 --seed 0

Every mutant of tests/deploy/golden/*.pj is loaded; one that loads is also run on a tiny input. A mutant is
fine when it loads and runs, or ends in a FormatError or PackError. Anything else is reported with a file to
repeat it: another exception, a case that takes longer than --seconds, memory beyond the stated limit. A crash
kills the process; the case under way is in the file named by --last.

Under AddressSanitizer and UBSan, build the extension into its own folder and put it first:

    cmake -S . -B build/asan -G Ninja -DSKBUILD=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo \\
        -DPython_EXECUTABLE=$(which python) \\
        -DCMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
    cmake --build build/asan
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \\
        LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \\
        python scripts/fuzz_format.py --count 200000 --native build/asan
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "deploy" / "golden"
WORK = 1 << 20  # elements of one sample and synapses of one step that a mutant may have to be run
EDGES = (
    0,
    1,
    2,
    3,
    7,
    8,
    63,
    64,
    127,
    128,
    255,
    256,
    1023,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**62,
)
WORDS = (
    *(
        "x",
        "conv",
        "w1",
        "Conv",
        "Scan",
        "binary",
        "ternary",
        "real",
        "integer(4)",
        "fixed(63, 0)",
        "fixed(1, 9)",
    ),
    *(
        "sign",
        "int",
        "codebook",
        "half_up",
        "floor",
        "hard",
        "soft",
        "none",
        "max",
        "sum",
        "view",
        "pad",
        "",
        "\0",
    ),
)


class Mutator:
    """Changes to a packed file: bytes anywhere, constants, or its JSON with sizes kept right."""

    def __init__(self, seed: int, files: list[bytes]) -> None:
        self.rng, self.files = np.random.default_rng(seed), files
        self.parts = [_split(raw) for raw in files]

    def draw(self) -> bytes:
        """One mutant."""
        which = int(self.rng.integers(len(self.files)))
        if self.rng.random() < 0.4:
            return self._bytes(bytearray(self.files[which]))
        header, tensors = self.parts[which]
        header, tensors = json.loads(json.dumps(header)), dict(tensors)
        place = self.rng.random()
        if place < 0.1:
            self._json(header)
        elif place < 0.4:
            self._constant(tensors)
        else:
            name = "card" if place > 0.97 else "graph"
            tree = json.loads(tensors[name])
            for _ in range(int(self.rng.integers(1, 3))):
                self._json(tree)
            tensors[name] = json.dumps(tree).encode()
        return _join(header, tensors)

    def _bytes(self, raw: bytearray) -> bytes:
        for _ in range(int(self.rng.integers(1, 5))):
            at = int(self.rng.integers(len(raw) or 1))
            kind = int(self.rng.integers(5))
            if kind == 0:
                raw[at : at + 1] = bytes([raw[at] ^ (1 << int(self.rng.integers(8)))] if raw else b"")
            elif kind == 1:
                raw[at : at + 8] = int(EDGES[int(self.rng.integers(len(EDGES)))]).to_bytes(8, "little")
            elif kind == 2:
                del raw[at:]
            elif kind == 3:
                other = self.files[int(self.rng.integers(len(self.files)))]
                start = int(self.rng.integers(len(other)))
                raw[at:at] = other[start : start + int(self.rng.integers(1, 64))]
            else:
                del raw[at : at + int(self.rng.integers(1, 32))]
            if not raw:
                break
        return bytes(raw)

    def _constant(self, tensors: dict[str, bytes]) -> None:
        names = [name for name in tensors if name.startswith("const.")]
        data = bytearray(tensors[name := names[int(self.rng.integers(len(names)))]])
        for _ in range(int(self.rng.integers(1, 4))):
            data[int(self.rng.integers(len(data)))] = int(self.rng.integers(256))
        tensors[name] = bytes(data)

    def _json(self, tree: Any) -> None:
        """Change one place of a tree: a value, a key, an entry twice, gone, or exchanged with another."""
        places: list[tuple[Any, Any]] = []
        stack = [tree]
        while stack:
            node = stack.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node))
            for key in keys:
                places.append((node, key))
                if isinstance(node[key], dict | list):
                    stack.append(node[key])
        if not places:
            return
        node, key = places[int(self.rng.integers(len(places)))]
        kind = int(self.rng.integers(8))
        if kind <= 3:
            node[key] = self._value(node[key])
        elif kind == 4:
            del node[key]
        elif kind == 5:
            there, other = places[int(self.rng.integers(len(places)))]
            if (isinstance(there, dict) and other in there) or (
                isinstance(there, list) and other < len(there)
            ):
                node[key] = json.loads(json.dumps(there[other]))
        elif isinstance(node, list):
            node.insert(int(self.rng.integers(len(node) + 1)), json.loads(json.dumps(node[key])))
        else:
            node[str(self._value(key))] = node.pop(key)

    def _value(self, old: Any) -> Any:
        if isinstance(old, bool):
            return not old
        if isinstance(old, int) and self.rng.random() < 0.8:
            near = (old + 1, old - 1, -old, old * 2, 0, 1)
            return near[int(self.rng.integers(len(near)))] if self.rng.random() < 0.6 else self._edge()
        if isinstance(old, str) and self.rng.random() < 0.8:
            return WORDS[int(self.rng.integers(len(WORDS)))]
        return [None, True, 1.5, -1, "x", [], {}, [[1]], self._edge()][int(self.rng.integers(9))]

    def _edge(self) -> int:
        return int(EDGES[int(self.rng.integers(len(EDGES)))]) * (1 if self.rng.random() < 0.7 else -1)


def _split(raw: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    at = 8 + length
    tensors = {
        name: raw[at + row["data_offsets"][0] : at + row["data_offsets"][1]]
        for name, row in header.items()
        if name != "__metadata__"
    }
    return header, tensors


def _join(header: dict[str, Any], tensors: dict[str, bytes]) -> bytes:
    """A file whose offsets fit the tensors again, where the header was left alone."""
    at = 0
    for name, data in tensors.items():
        row = header.get(name)
        if isinstance(row, dict) and name in ("graph", "card") and row.get("shape") != [len(data)]:
            row["shape"] = [len(data)]
        if isinstance(row, dict) and isinstance(row.get("data_offsets"), list) and name in ("graph", "card"):
            row["data_offsets"] = [at, at + len(data)]
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensors.values())


def small(graph: Any) -> bool:
    """Whether one sample is cheap enough to run thousands of times."""
    work = 0
    for node in graph.nodes:
        steps = max(1, node.edge.steps)
        work += node.edge.size * steps
        weight = graph.tensors.get(getattr(node, "weight", None))
        if weight is not None:
            fan_in = node.kernel and int(np.prod(node.kernel)) * 64 if hasattr(node, "kernel") else 0
            work += node.edge.size * steps * max(fan_in or 0, weight.size // max(1, weight.shape[0]))
        window = getattr(node, "kernel", ()) if type(node).__name__ == "Pool" else ()
        work += node.edge.size * steps * int(np.prod(window, dtype=np.float64))
    return work <= WORK


def tiny_inputs(graph: Any) -> dict[str, np.ndarray]:
    """One sample that the inputs of a graph accept."""
    rng = np.random.default_rng(0)
    inputs = {}
    for node in graph.inputs:
        shape = (1, *((node.edge.steps,) if node.edge.steps else ()), *node.edge.shape)
        if node.table is not None:
            inputs[node.name] = rng.integers(0, 256, shape).astype(np.uint8)
        else:
            high = node.edge.kind.high if node.edge.kind.is_spikes else 9
            inputs[node.name] = rng.integers(0, min(high, 100) + 1, shape).astype(np.float32)
    return inputs


def run_case(raw: bytes) -> str:
    """Load and run one mutant; the outcome in a word. Only clean errors are caught."""
    from picojoule.core.errors import FormatError, PackError
    from picojoule.deploy.engine import Engine
    from picojoule.deploy.model import Model
    from picojoule.deploy.read import loads

    try:
        graph, card = loads(raw)
    except FormatError as error:
        return "refused" if "field" in str(error) or "tensor" in str(error) else "refused without a field"
    try:
        model = Model(graph, card, engine=Engine(graph))
    except PackError:
        return "refused by the engine"
    if not small(graph):
        return "loaded, too large to run"
    model(tiny_inputs(graph))
    return "ran"


def use_native(folder: Path) -> None:
    """Make `picojoule._native` the extension in `folder`."""
    found = sorted(folder.rglob("_native*.so"))
    if not found:
        sys.exit(f"no _native*.so under {folder}; build it first, see the head of this file")
    spec = importlib.util.spec_from_file_location("picojoule._native", found[0])
    if spec is None or spec.loader is None:
        sys.exit(f"cannot load {found[0]}")
    import picojoule

    module = importlib.util.module_from_spec(spec)
    sys.modules["picojoule._native"] = module
    spec.loader.exec_module(module)
    picojoule._native = module  # type: ignore[attr-defined]
    print(f"native: {found[0]}")


def main() -> int:
    """Returns 0 when every case was fine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2.0, help="a case may take")
    parser.add_argument(
        "--memory-mib", type=int, default=512, help="growth of the process allowed over all cases"
    )
    parser.add_argument("--native", type=Path, help="folder of another build of the extension")
    parser.add_argument(
        "--last", type=Path, default=ROOT / "build" / "fuzz", help="folder for cases to repeat"
    )
    parser.add_argument("--repeat", type=Path, help="run this one file and stop")
    options = parser.parse_args()
    if options.native:
        use_native(options.native)
    if options.repeat:
        print(run_case(options.repeat.read_bytes()))
        return 0
    files = [path.read_bytes() for path in sorted(GOLDEN.glob("*.pj"))]
    for raw in files:
        if run_case(raw) != "ran":
            sys.exit("a golden file does not run")
    options.last.mkdir(parents=True, exist_ok=True)
    counts, bad = fuzz(options, Mutator(options.seed, files))
    print(json.dumps({"counts": dict(counts), "bad": bad}, indent=1))
    return 1 if bad else 0


def fuzz(options: argparse.Namespace, mutator: Mutator) -> tuple[collections.Counter[str], list[str]]:
    """Run all cases; outcomes and the descriptions of the bad ones."""
    counts: collections.Counter[str] = collections.Counter()
    bad: list[str] = []
    under_way = (options.last / "last.pj").open("wb")
    peak, start, slowest = _peak_mib(), time.monotonic(), 0.0
    for i in range(options.count):
        raw = mutator.draw()
        under_way.seek(0)
        under_way.truncate()
        under_way.write(raw)
        under_way.flush()
        began, why = time.monotonic(), ""
        try:
            outcome = run_case(raw)
        except Exception as error:
            outcome, why = "unexpected", f"{type(error).__name__}: {error}"
        took = time.monotonic() - began
        slowest = max(slowest, took)
        counts[outcome] += 1
        grown = _peak_mib() - peak
        if took > options.seconds:
            why = f"took {took:.1f} s"
        elif grown > options.memory_mib:
            why, peak = f"grew the process by {grown:.0f} MiB", _peak_mib()
        elif outcome == "refused without a field":
            why = outcome
        if why:
            bad.append(f"case {i}: {why}")
            (options.last / f"bad-{options.seed}-{i}.pj").write_bytes(raw)
        if (i + 1) % 10_000 == 0:
            rate = (i + 1) / (time.monotonic() - start)
            state = f"slowest {slowest:.3f} s, peak {_peak_mib():.0f} MiB, {len(bad)} bad"
            print(f"{i + 1} cases, {rate:.0f}/s, {state}", flush=True)
    under_way.close()
    return counts, bad


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
