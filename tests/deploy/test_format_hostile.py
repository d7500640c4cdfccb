"""Hostile files: each ends in a FormatError that names the field, and none costs memory or time."""

from __future__ import annotations

import copy
import json
import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import c_library
import golden_graphs

from picojoule.core.errors import FormatError
from picojoule.deploy import format as container
from picojoule.deploy import loads, read

RAW = {name: (golden_graphs.GOLDEN / f"{name}.pj").read_bytes() for name in golden_graphs.GRAPHS}


def parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def header_file(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def edited(change: Callable[[Any], Any], name: str = "conv_lif", tensor: str = "graph") -> bytes:
    """The golden file with its JSON tensor changed and all offsets made consistent again."""
    tensors = {key: value.copy() for key, value in container.split(RAW[name]).items()}
    tree = json.loads(tensors[tensor].tobytes())
    text = change(tree)
    text = text if isinstance(text, bytes) else json.dumps(tree).encode()
    tensors[tensor] = np.frombuffer(text, np.uint8)
    return container.join(tensors)


def node(tree: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in tree["nodes"] if row["name"] == name)


def refuse(raw: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        loads(raw)
    refused_in_c(raw)


def refused_in_c(raw: bytes) -> None:
    """The reader of libpicojoule refuses the same file, with a stable number and a field."""
    with pytest.raises(c_library.Refused, match=r"field|tensor|node|constant") as caught:
        c_library.CModel(raw)
    assert caught.value.status in (c_library.FORMAT, c_library.VERSION)


@pytest.fixture(autouse=True, scope="module")
def _library() -> None:
    c_library.library()


@pytest.mark.parametrize("name", sorted(RAW))
def test_truncated_anywhere(name: str) -> None:
    raw = RAW[name]
    for size in (*range(64), *range(64, len(raw), 7), len(raw) - 1):
        with pytest.raises(FormatError, match=r"field|tensor"):
            loads(raw[:size])
        refused_in_c(raw[:size])


def test_trailing_bytes() -> None:
    refuse(RAW["residual"] + b"\0", "data_offsets.*the file holds")


@pytest.mark.parametrize("length", [0, 1, 7, 2**22 + 8, 2**31, 2**63, 2**64 - 1, 2**64 - 8])
def test_header_length(length: int) -> None:
    refuse(length.to_bytes(8, "little") + RAW["residual"][8:], "header length")


def test_foreign_safetensors() -> None:
    save = pytest.importorskip("safetensors.numpy").save
    refuse(save({"weight": np.zeros((3, 3), np.float32)}), "__metadata__.format.*not a packed")
    refuse(save({"graph": np.zeros(4, np.uint8)}, metadata=container.METADATA), "graph|card")
    refuse(save({"w": np.zeros(4, np.float16)}, metadata=container.METADATA), "dtype")


def test_wrong_version_and_metadata() -> None:
    header, data = parts(RAW["residual"])
    for version in ("0", "2", "", 1, None):
        changed = header | {"__metadata__": {"format": "picojoule", "version": version}}
        refuse(header_file(changed, data), "__metadata__.version")
    refuse(header_file(header | {"__metadata__": container.METADATA | {"code": "x"}}, data), "unknown keys")
    refuse(header_file(header | {"__metadata__": None}, data), "__metadata__")


def _shift(row: dict[str, Any], begin: int, end: int) -> None:
    row["data_offsets"] = [row["data_offsets"][0] + begin, row["data_offsets"][1] + end]


OFFSETS = {
    "hole": lambda rows: [_shift(row, 8, 8) for row in rows[1:]],
    "overlap": lambda rows: [_shift(row, -1, -1) for row in rows[1:]],
    "same place": lambda rows: rows[1].update(data_offsets=rows[0]["data_offsets"]),
    "reversed": lambda rows: rows[0].update(data_offsets=rows[0]["data_offsets"][::-1]),
    "negative": lambda rows: rows[0].update(data_offsets=[-8, 0]),
    "beyond the file": lambda rows: _shift(rows[-1], 0, 1 << 20),
    "too large": lambda rows: rows[0].update(data_offsets=[0, 2**64]),
    "float": lambda rows: rows[0].update(data_offsets=[0.0, 8.0]),
    "true": lambda rows: rows[0].update(data_offsets=[False, True]),
    "three": lambda rows: rows[0].update(data_offsets=[0, 1, 2]),
    "swapped": lambda rows: [
        rows[i].update(data_offsets=offsets)
        for i, offsets in enumerate([rows[1]["data_offsets"], rows[0]["data_offsets"]])
    ],
}


@pytest.mark.parametrize("case", OFFSETS)
def test_edited_offsets(case: str) -> None:
    header, data = parts(RAW["conv_lif"])
    OFFSETS[case]([row for key, row in header.items() if key != "__metadata__"])
    refuse(header_file(header, data), "data_offsets")


SHAPES: list[tuple[Any, str]] = [
    ([2**32, 2**32], "bytes"),
    ([2**31, 2**31, 4], "bytes"),
    ([2**33], "shape"),
    ([2**64 + 1], "shape"),
    ([-1], "shape"),
    ([1] * 9, "shape"),
    ([1.0], "shape"),
    ("8", "shape"),
    ([], "bytes"),
    ([0], "bytes"),
]


@pytest.mark.parametrize(("shape", "match"), SHAPES)
def test_header_shapes(shape: Any, match: str) -> None:
    header, data = parts(RAW["conv_lif"])
    header["const.w1"]["shape"] = shape
    refuse(header_file(header, data), f"const.w1.*{match}")


def test_header_fields() -> None:
    header, data = parts(RAW["conv_lif"])
    for change in ({"extra": 1}, {"dtype": "F16"}, {"dtype": "I64"}, {"dtype": 3}):
        changed = copy.deepcopy(header)
        changed["const.w1"] |= change
        refuse(header_file(changed, data), "const.w1")
    missing = copy.deepcopy(header)
    del missing["const.w1"]["shape"]
    refuse(header_file(missing, data), "const.w1.*exactly")
    refuse(header_file([], data), "header")
    refuse(header_file(b'{"a": NaN}', data), "header.*NaN")
    refuse(header_file(b"{" * 4000, data), "header.*nested")
    refuse(header_file(b"\xff\xfe{}", data), "header")
    refuse(header_file(b" " + json.dumps(header).encode(), data), "header")
    twice = json.dumps(header)[:-1] + ', "card": ' + json.dumps(header["card"]) + "}"
    refuse(header_file(twice.encode(), data), "'card' appears twice")


def test_missing_and_foreign_tensors() -> None:
    tensors = container.split(RAW["conv_lif"])
    for gone in ("graph", "card"):
        refuse(container.join({k: v for k, v in tensors.items() if k != gone}), f"tensor '{gone}'")
    refuse(container.join(tensors | {"pickle": np.zeros(3, np.uint8)}), "tensor 'pickle'")
    refuse(container.join(tensors | {"const.more": np.zeros(3, np.int8)}), "const.more.*no node reads it")
    refuse(container.join(tensors | {"const.more": np.zeros(3, np.uint8)}), "const.more.*codes")
    refuse(container.join({k: v for k, v in tensors.items() if k != "const.th1"}), "thresholds.*'th1'")


JSON_TEXT = {
    "NaN": (b'{"a": NaN}', "NaN"),
    "infinity": (b'{"a": -Infinity}', "Infinity"),
    "overflowing float": (b'{"a": 1e999}', "finite"),
    "huge integer": (b'{"a": ' + b"9" * 5000 + b"}", "card"),
    "deep": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    "deep objects": (b'{"a": ' * 40 + b"1" + b"}" * 40, "nested"),
    "brackets in text hide nothing": (b'{"' + b"]" * 50 + b'": ' + b"[" * 40 + b"]" * 40 + b"}", "nested"),
    "twice": (b'{"a": 1, "a": 2}', "twice"),
    "half": (b'{"a": ', "card"),
    "no object": (b"[]", "object"),
    "not UTF-8": (b'{"a": "\xff"}', "card"),
    "bad classes": (b'{"classes": [1]}', "classes"),
}


@pytest.mark.parametrize("case", JSON_TEXT)
def test_json_text(case: str) -> None:
    text, match = JSON_TEXT[case]
    refuse(edited(lambda _: text, tensor="card"), match)


def test_brackets_in_text_are_no_nesting() -> None:
    raw = edited(lambda _: json.dumps({"a": "[" * 100 + '"{' * 100}).encode(), tensor="card")
    assert loads(raw)[1]["a"].startswith("[[[")


def put(name: str, /, **fields: Any) -> Callable[[Any], None]:
    return lambda tree: node(tree, name).update(fields)


def drop(name: str, field: str) -> Callable[[Any], None]:
    return lambda tree: node(tree, name).pop(field)


def move(name: str, to: int) -> Callable[[Any], None]:
    return lambda tree: tree["nodes"].insert(to, tree["nodes"].pop(tree["nodes"].index(node(tree, name))))


# change of the graph's JSON -> what the message must name
GRAPH: dict[str, tuple[Callable[[Any], Any], str]] = {
    "unknown node": (put("pool", type="Exec"), "type.*unknown node 'Exec'"),
    "opaque node": (put("pool", type="Opaque"), "type.*unknown"),
    "no type": (drop("pool", "type"), "type"),
    "cycle": (put("conv1", inputs=["conv2"]), "'conv1'.*inputs|reads 'conv2'"),
    "self reference": (put("pool", inputs=["pool"]), "'pool'"),
    "order": (move("conv2", 0), "'conv2'"),
    "reads an absent node": (put("pool", inputs=["nothing"]), "'nothing'"),
    "reads an output": (put("sum", inputs=["out"]), "out"),
    "duplicate name": (put("conv2", name="conv1"), "conv1"),
    "duplicate output": (lambda t: t["nodes"].append(node(t, "out") | {"name": "again"}), "key"),
    "no output": (lambda t: t["nodes"].pop(), "Output"),
    "no nodes": (lambda t: t.update(nodes=[]), "nodes"),
    "nodes is text": (lambda t: t.update(nodes="x"), "nodes"),
    "node is a list": (lambda t: t["nodes"].append([]), "object"),
    "unknown field": (put("pool", hook="os.system"), "'hook'.*unknown"),
    "missing field": (drop("conv1", "weight"), "'weight'.*missing"),
    "missing kind": (drop("conv1", "kind"), "'kind'.*missing"),
    "wrong stage": (lambda t: t.update(stage="captured"), "stage"),
    "extra section": (lambda t: t.update(code="x"), "graph"),
    "bad name": (put("pool", name="a\nb"), "name.*printable"),
    "long name": (put("pool", name="a" * 1000), "name.*512"),
    "name is a number": (put("pool", name=3), "name"),
    "too many inputs": (put("conv1", inputs=["x", "x"]), "inputs.*needs 1..1"),
    "no inputs": (put("conv1", inputs=[]), "inputs"),
    "zero stride": (put("conv2", stride=[0, 2]), "stride"),
    "negative stride": (put("conv2", stride=[-2, 2]), "stride"),
    "huge stride": (put("conv2", stride=[2**40, 2]), "stride"),
    "true stride": (put("conv2", stride=[True, 2]), "stride"),
    "float stride": (put("conv2", stride=[2.0, 2]), "stride"),
    "short stride": (put("conv2", stride=[2]), "stride"),
    "negative padding": (put("conv1", padding=[[-1, 1], [1, 1]]), "padding"),
    "huge padding": (put("conv1", padding=[[2**61, 2**61], [1, 1]]), "padding"),
    "padding of one": (put("conv1", padding=[[1], [1, 1]]), "padding"),
    "zero dilation": (put("conv1", dilation=[0, 1]), "dilation"),
    "large dilation": (put("conv1", dilation=[9, 9]), "kernel.*larger"),
    "zero groups": (put("conv2", groups=0), "groups"),
    "other groups": (put("conv2", groups=4), "weight.*groups"),
    "wrong rows": (put("conv1", shape=[6, 8, 9]), "shape.*declares"),
    "negative rows": (put("conv1", shape=[6, -8, -8]), "shape"),
    "zero rows": (put("x", shape=[2, 0, 8]), "shape"),
    "huge rows": (put("x", shape=[2, 2**31, 2**31]), "shape"),
    "rows beyond the file": (put("x", shape=[2, 2**14, 2**14]), "one sample takes"),
    "many axes": (put("x", shape=[1] * 9), "shape"),
    "steps": (put("pool", steps=3), "steps"),
    "negative steps": (put("x", steps=-1), "steps"),
    "huge steps": (put("repeat", steps=2**40), "one sample takes"),
    "two T": (lambda t: [node(t, name).update(steps=5) for name in ("repeat", "lif1")], "steps"),
    "real": (put("conv1", kind="real"), "kind"),
    "unknown kind": (put("conv1", kind="float"), "kind"),
    "sloppy kind": (put("conv1", kind="fixed(24,0)"), "kind"),
    "kind with huge bits": (put("conv1", kind="fixed(64, 0)"), "kind"),
    "kind with huge frac": (put("conv1", kind="fixed(24, 99999)"), "kind"),
    "kind with long digits": (put("conv1", kind="integer(" + "9" * 400 + ")"), "kind"),
    "edge too narrow": (put("conv2", kind="fixed(4, 0)"), "kind.*reach"),
    "v_bits too narrow": (put("lif1", v_bits=8), "v_bits"),
    "v_bits out of range": (put("lif1", v_bits=99), "v_bits"),
    "shift out of range": (put("lif1", decay_shift=63), "decay_shift"),
    "negative shift": (put("lif1", decay_shift=-1), "decay_shift"),
    "reset": (put("lif1", reset="explode"), "reset"),
    "rounding": (put("lif1", rounding="up"), "rounding"),
    "axis": (put("lif1", axis=3), "axis"),
    "unlowered": (put("lif1", lowered=False), "lowered"),
    "no constant": (put("lif1", thresholds="nothing"), "thresholds.*'nothing'"),
    "constant of another shape": (put("lif1", thresholds="th2"), "thresholds"),
    "constant of another type": (put("lif1", bias="unit"), "bias"),
    "unit of integers": (put("lif1", unit="b1"), "unit"),
    "half a table": (put("lif1", breaks="th1"), "breaks"),
    "neg_threshold on binary": (put("lif1", neg_threshold="zero"), "neg_threshold"),
    "strict": (put("lif1", strict=[True]), "strict"),
    "many levels": (put("lif1", strict=[False] * 5), "thresholds"),
    "coding bits": (put("head", coding={"name": "int", "bits": 40}), "bits"),
    "coding bits 0": (put("head", coding={"name": "int", "bits": 0}), "bits"),
    "coding widened": (put("head", coding={"name": "int", "bits": 5}), "head_w.*5-bit"),
    "coding narrowed": (put("head", coding={"name": "int", "bits": 3}), "weight.*leave"),
    "coding float": (put("head", coding={"name": "float", "bits": 32}), "coding.name"),
    "coding name": (put("head", coding={"name": "exec", "bits": 4}), "coding"),
    "coding field": (put("head", coding={"name": "int", "bits": 4, "x": 1}), "coding"),
    "codebook on int": (put("head", coding={"name": "int", "bits": 4, "codebook": "w1"}), "codebook"),
    "scale": (put("head", scale="b1"), "'scale'"),
    "pool mode": (put("pool", mode="avg"), "mode"),
    "pool kernel": (put("pool", kernel=[0, 2]), "kernel"),
    "pool padding": (put("pool", padding=[[2, 2], [0, 0]]), "padding"),
    "flip of another size": (put("pool", flip="bias2"), "flip|bias2"),
    "divisor": (put("pool", divisor=4), "divisor"),
    "readout mode": (put("sum", mode="mean"), "mode"),
    "unknown move": (put("flat", moves=[["exec", 1]]), "moves"),
    "view of a number": (put("flat", moves=[["view", 32]]), "moves.*list"),
    "permute by a number": (put("flat", moves=[["permute", 1]]), "moves.*list"),
    "flip of a list": (put("flat", moves=[["flip", [1]]]), "moves.*integers"),
    "pad by a number": (put("flat", moves=[["pad", 1]]), "moves"),
    "empty move": (put("flat", moves=[[]]), "moves"),
    "view of another size": (put("flat", moves=[["view", [33]]]), "moves"),
    "view with two holes": (put("flat", moves=[["view", [-1, -1]]]), "moves"),
    "huge view": (put("flat", moves=[["view", [2**60] * 8]]), "moves"),
    "slice outside": (put("flat", moves=[["slice", 0, 0, 99, 1]]), "moves"),
    "slice of step zero": (put("flat", moves=[["slice", 0, 0, 2, 0]]), "moves"),
    "negative pad": (put("flat", moves=[["pad", [[-1, 0], [0, 0], [0, 0]]]]), "moves"),
    "huge pad": (put("flat", moves=[["pad", [[2**30, 2**30], [0, 0], [0, 0]]]]), "moves"),
    "permute twice": (put("flat", moves=[["permute", [0, 0, 1]]]), "moves"),
    "codes: unknown code": (lambda t: t["codes"]["w1"].update(code="float"), "codes.w1.code"),
    "codes: bits": (lambda t: t["codes"]["w1"].update(bits=2), "codes.w1.bits"),
    "codes: shape": (lambda t: t["codes"]["w1"].update(shape=[6, 2, 3, 4]), "codes.w1.shape"),
    "codes: overflow": (lambda t: t["codes"]["w1"].update(shape=[2**32] * 3), "codes.w1.shape"),
    "codes: zero": (lambda t: t["codes"]["w1"].update(shape=[0]), "codes.w1.shape"),
    "codes: other code": (lambda t: t["codes"]["w1"].update(code="bool"), "const.w1|weight"),
    "codes: absent tensor": (lambda t: t["codes"].update(ghost=t["codes"]["w1"]), "const.ghost"),
    "codes: plain tensor": (lambda t: t["codes"].update(th1=t["codes"]["w1"]), "const.th1"),
    "codes: gone": (lambda t: t["codes"].pop("w1"), "const.w1.*codes"),
    "codes: list": (lambda t: t.update(codes=[]), "codes"),
}  # fmt: skip


@pytest.mark.parametrize("case", GRAPH)
def test_edited_graph(case: str) -> None:
    change, match = GRAPH[case]
    refuse(edited(lambda tree: change(tree) and None), match)


def test_the_editing_itself_is_harmless() -> None:
    for name in RAW:
        loads(edited(lambda tree: None, name))


OTHERS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("codebook", lambda t: node(t, "conv")["coding"].update(bits=2), "weight|index"),
    ("codebook", lambda t: node(t, "conv").update(kernel=[3, 2]), "kernel"),
    ("codebook", lambda t: node(t, "conv").update(kernel=[2**31, 2**31]), "kernel"),
    ("codebook", lambda t: node(t, "conv")["coding"].update(codebook="index"), "codebook|index"),
    ("codebook", lambda t: node(t, "mix").update(matrix="levels"), "matrix"),
    ("codebook", lambda t: node(t, "lut").update(breaks="heights"), "values|breaks"),
    ("codebook", lambda t: node(t, "total").update(total=False), "total"),
    ("codebook", lambda t: node(t, "cell").update(body=[]), "body"),
    ("codebook", lambda t: node(t, "cell")["body"].pop(0), "state0|body|'x'"),
    ("codebook", lambda t: node(t, "cell")["body"][0].update(shape=[5]), "body"),
    ("codebook", lambda t: node(t, "cell")["body"][0].update(hook=1), "hook"),
    ("codebook", lambda t: node(t, "cell")["body"].append(copy.deepcopy(node(t, "cell"))), "cell/cell/w"),
    ("residual", lambda t: node(t, "add").update(shifts=[0, 63]), "shifts"),
    ("residual", lambda t: node(t, "add").update(shifts=[0, 60]), "62 bits|kind"),
    ("residual", lambda t: node(t, "add").update(signs=[0, 1]), "signs"),
    ("residual", lambda t: node(t, "add").update(shifts=[0]), "shifts"),
    ("residual", lambda t: node(t, "up").update(factors=[0, 2]), "factors"),
    ("residual", lambda t: node(t, "up").update(factors=[4096, 4096]), "shape|takes"),
    ("residual", lambda t: node(t, "cat").update(axis=1), "inputs|shape"),
    ("residual", lambda t: node(t, "total").update(axes=[1, 1]), "axes"),
    ("residual", lambda t: node(t, "norm").update(shift=99), "shift"),
    ("attention", lambda t: node(t, "kv").update(inputs=["sv", "kt"]), "shape|inputs"),
    ("attention", lambda t: node(t, "or").update(op="xor"), "op"),
    ("attention", lambda t: node(t, "or").update(inputs=["sk", "att"]), "kind"),
    ("attention", lambda t: node(t, "att").pop("neg_threshold"), "neg_threshold"),
]


@pytest.mark.parametrize("case", range(len(OTHERS)))
def test_edited_other_graphs(case: int) -> None:
    name, change, match = OTHERS[case]
    refuse(edited(lambda tree: change(tree) and None, name), match)


def test_constants_that_overflow() -> None:
    tensors = {k: v.copy() for k, v in container.split(RAW["residual"]).items()}
    tensors["const.gain"] = np.full(4, 2**61, np.int64)
    refuse(container.join(tensors), "'norm'.*62 bits")
    tensors["const.gain"] = np.array([2**62, -(2**63), 1, 1], np.int64)
    refuse(container.join(tensors), "'gain'.*62 bits")


def test_floats_that_are_not_numbers() -> None:
    tensors = {k: v.copy() for k, v in container.split(RAW["conv_lif"]).items()}
    tensors["const.unit"][0, 0] = np.nan
    refuse(container.join(tensors), "unit.*finite")


def test_bit_patterns_that_are_no_codes() -> None:
    tensors = {k: v.copy() for k, v in container.split(RAW["attention"]).items()}
    tensors["const.wq"][0] = 0b10101010
    refuse(container.join(tensors), "const.wq.*10 is no ternary")
    tensors = {k: v.copy() for k, v in container.split(RAW["conv_lif"]).items()}
    tensors["const.w1"][-1] |= 0xF0
    refuse(container.join(tensors), "const.w1.*unused bits")


def test_not_the_narrowest_type() -> None:
    tensors = dict(container.split(RAW["conv_lif"]))
    tensors["const.th1"] = tensors["const.th1"].astype(np.int32)
    refuse(container.join(tensors), "const.th1.*16-bit plain, got 32-bit")


def test_small_file_cannot_ask_for_large_memory() -> None:
    """A refused file allocates at most a small multiple of its own size."""
    cases = [
        edited(put("x", shape=[2, 2**15, 2**15])),
        edited(lambda t: t["codes"]["w1"].update(shape=[2**32, 2**32])),
        edited(put("flat", moves=[["expand", [2**20, 8, 2, 2]]])),
        edited(lambda t: node(t, "up").update(factors=[4000, 4000], shape=[4, 12000, 12000]), "residual"),
        (2**22).to_bytes(8, "little") + b"{" + b" " * 100,
    ]
    for raw in cases:
        tracemalloc.start()
        try:
            with pytest.raises(FormatError):
                loads(raw)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2_000_000


def test_codebook_that_expands_too_far() -> None:
    """One-bit indices into words of 2^16 values: 64 times the file is the limit."""
    tensors = {k: v.copy() for k, v in container.split(RAW["codebook"]).items()}
    tree = json.loads(tensors["graph"].tobytes())
    word, rows = 1 << 14, 1 << 12
    tensors["const.book"] = np.zeros((2 * word + 7) // 8, np.uint8)
    tensors["const.index"] = np.zeros(rows // 8, np.uint8)
    tree["codes"]["book"].update(shape=[2, word])
    tree["codes"]["index"].update(shape=[rows, 1], bits=1)
    row = node(tree, "conv")
    row["coding"].update(bits=1)
    tensors["graph"] = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    refuse(container.join(tensors), "codebook.*64 times")


def test_constants_of_no_axes_and_windows_without_end() -> None:
    """Files that once ended in an IndexError and an OverflowError."""
    tensors = {k: v.copy() for k, v in container.split(RAW["codebook"]).items()}
    tree = json.loads(tensors["graph"].tobytes())
    tree["codes"].pop("book", None)
    tensors["const.book"] = np.array(5, np.int8)
    tensors["graph"] = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    refuse(container.join(tensors), "codebook")
    side = 2**31 - 1
    window = {"mode": "sum", "kernel": [side + 1] * 2, "stride": [1, 1], "padding": [[side, side]] * 2}
    refuse(edited(put("pool", **window)), "shape|pool")


def test_names_in_any_script() -> None:
    assert loads(edited(lambda t: _rename(t, "größe λ")))[0]["größe λ"].name
    for bad in ("a\u2028b", "\u202eabc", "a\ufeff", "\ud800", "\x7f"):
        refuse(edited(lambda t, bad=bad: json.dumps(_rename(t, bad)).encode()), "printable")


def _rename(tree: dict[str, Any], name: str) -> dict[str, Any]:
    node(tree, "pool")["name"] = name
    for row in tree["nodes"]:
        row["inputs"] = [name if x == "pool" else x for x in row["inputs"]]
    return tree


def test_read_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.pj"
    path.write_bytes(b"not a packed file at all")
    with pytest.raises(FormatError, match=re.escape(str(path))):
        read(path)
    with pytest.raises(OSError, match="absent"):
        read(tmp_path / "absent.pj")


def test_sparse_giant(tmp_path: Path) -> None:
    """A file that claims 8 GiB is refused by its size alone."""
    path = tmp_path / "giant.pj"
    with path.open("wb") as handle:
        handle.truncate(8 << 30)
    with pytest.raises(FormatError, match="at most"):
        read(path)


def test_mutants_end_in_clean_errors() -> None:
    """A short run of the fuzzer; the long one is scripts/fuzz_format.py under sanitizers."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    import fuzz_format

    mutator = fuzz_format.Mutator(7, list(RAW.values()))
    outcomes = [fuzz_format.run_case(mutator.draw()) for _ in range(1500)]
    assert set(outcomes) <= {"refused", "ran", "refused by the engine", "loaded, too large to run"}
    assert outcomes.count("ran") > 50
    assert outcomes.count("refused") > 500
