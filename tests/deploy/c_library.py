"""The C interface through ctypes, for tests.

`library()` finds or builds libpicojoule, `CModel` loads and runs.
"""

from __future__ import annotations

import ctypes as ct
import functools
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from picojoule.core.native import native

ROOT = Path(__file__).resolve().parents[2]
TYPES = {"int8": 0, "int16": 1, "int32": 2, "int64": 3, "uint8": 4, "bool": 4, "float32": 5, "float64": 6}
OK, ARGUMENT, IO, FORMAT, VERSION, UNSUPPORTED, INPUT, NONFINITE, STREAM = range(9)


class Options(ct.Structure):
    _fields_ = [
        ("size", ct.c_size_t),
        ("threads", ct.c_int),
        ("isa", ct.c_char_p),
        ("map", ct.c_int),
        ("spin", ct.c_int),
        ("max_bytes", ct.c_int64),
        ("mode", ct.c_char_p),
        ("table", ct.c_int),
    ]


class Edge(ct.Structure):
    _fields_ = [
        ("name", ct.c_char_p),
        ("kind", ct.c_int),
        ("low", ct.c_int64),
        ("high", ct.c_int64),
        ("frac", ct.c_int),
        ("scale", ct.c_double),
        ("steps", ct.c_int64),
        ("rank", ct.c_size_t),
        ("shape", ct.POINTER(ct.c_int64)),
        ("row", ct.c_int64),
        ("count", ct.c_int64),
        ("type", ct.c_int),
    ]


class Data(ct.Structure):
    _fields_ = [("data", ct.c_void_p), ("type", ct.c_int), ("count", ct.c_size_t)]


class Info(ct.Structure):
    _fields_ = [
        *((name, ct.c_size_t) for name in ("inputs", "outputs", "nodes", "classes")),
        *(
            (name, ct.c_int64)
            for name in ("steps", "payload_bytes", "constant_bytes", "arena_bytes", "stream_limit")
        ),
        ("isa", ct.c_char_p),
        ("card", ct.c_char_p),
    ]


class Refused(Exception):
    """A call that failed: its status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def installed() -> Path | None:
    """The library beside the native module, as a wheel or an editable build has it."""
    found = sorted((Path(native().__file__).parent / "lib").glob("libpicojoule.*"))
    return found[0] if found else None


@functools.cache
def library() -> ct.CDLL:
    """libpicojoule of this build; without one it is built by CMake, once, into build/libpicojoule."""
    path = installed()
    if path is None:
        if not shutil.which("cmake") or not shutil.which("c++"):
            pytest.skip("no libpicojoule beside the native module, and no cmake or compiler to build it")
        folder = ROOT / "build" / "libpicojoule"
        for command in (
            ["cmake", "-S", str(ROOT), "-B", str(folder)],
            ["cmake", "--build", str(folder), "--target", "picojoule", "-j2"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        path = sorted((folder / "native").glob("libpicojoule.*"))[0]
    lib = ct.CDLL(str(path))
    lib.pj_last_error.restype = lib.pj_version.restype = lib.pj_isa.restype = ct.c_char_p
    lib.pj_class.restype = lib.pj_status_text.restype = lib.pj_tuned.restype = ct.c_char_p
    lib.pj_stream_position.restype = ct.c_int64
    lib.pj_isa.argtypes = [ct.c_size_t]
    lib.pj_class.argtypes = [ct.c_void_p, ct.c_size_t]
    for name in ("pj_free", "pj_tuned", "pj_stream_close", "pj_stream_reset", "pj_stream_position"):
        getattr(lib, name).argtypes = [ct.c_void_p]
    return lib


def check(status: int) -> None:
    if status:
        raise Refused(status, library().pj_last_error().decode("utf-8", "replace"))


def options(**changes: Any) -> Options:
    made = Options()
    library().pj_options_init(ct.byref(made))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


class CModel:
    """A model of the C library: `model(inputs)` gives integers by key, `real=True` real values."""

    def __init__(self, source: bytes | str | Path, **changes: Any) -> None:
        lib, self.handle, chosen = library(), ct.c_void_p(), options(**changes)
        if isinstance(source, bytes):
            status = lib.pj_load_memory(
                source, ct.c_size_t(len(source)), ct.byref(chosen), ct.byref(self.handle)
            )
        else:
            status = lib.pj_load(str(source).encode(), ct.byref(chosen), ct.byref(self.handle))
        check(status)
        self.info = Info()
        check(lib.pj_describe(self.handle, ct.byref(self.info)))
        self.inputs = [self._edge(lib.pj_describe_input, i) for i in range(self.info.inputs)]
        self.outputs = [self._edge(lib.pj_describe_output, i) for i in range(self.info.outputs)]

    def _edge(self, describe: Any, i: int) -> Edge:
        edge = Edge()
        check(describe(self.handle, ct.c_size_t(i), ct.byref(edge)))
        return edge

    def __call__(self, inputs: Mapping[str, np.ndarray], *, real: bool = False) -> dict[str, np.ndarray]:
        batch = len(next(iter(inputs.values())))
        outputs, given, wanted = self._borders(inputs, batch, None, real)
        lib = library()
        check(
            lib.pj_run(
                self.handle,
                ct.c_size_t(batch),
                given,
                ct.c_size_t(len(given)),
                wanted,
                ct.c_size_t(len(wanted)),
            )
        )
        return outputs

    def _borders(
        self, inputs: Mapping[str, np.ndarray], batch: int, steps: int | None, real: bool
    ) -> tuple[dict[str, np.ndarray], Any, Any]:
        self._kept = [np.ascontiguousarray(inputs[e.name.decode()]) for e in self.inputs]
        given = (Data * len(self._kept))(
            *(Data(a.ctypes.data, TYPES[a.dtype.name], a.size) for a in self._kept)
        )
        outputs = {}
        for edge in self.outputs:
            time = (steps or edge.steps,) if edge.steps else ()
            shape = (batch, *time, *edge.shape[: edge.rank])
            outputs[edge.name.decode()] = np.zeros(shape, np.float64 if real else np.int64)
        wanted = (Data * len(outputs))(
            *(Data(a.ctypes.data, TYPES[a.dtype.name], a.size) for a in outputs.values())
        )
        return outputs, given, wanted

    def stream(self, batch: int = 1) -> CStream:
        return CStream(self, batch)

    def close(self) -> None:
        library().pj_free(self.handle)
        self.handle = ct.c_void_p()

    def __del__(self) -> None:
        self.close()


class CStream:
    """A stream of the C library."""

    def __init__(self, model: CModel, batch: int) -> None:
        self.model, self.batch, self.handle = model, batch, ct.c_void_p()
        check(library().pj_stream_open(model.handle, ct.c_size_t(batch), ct.byref(self.handle)))

    def __call__(self, inputs: Mapping[str, np.ndarray], steps: int) -> dict[str, np.ndarray]:
        outputs, given, wanted = self.model._borders(inputs, self.batch, steps, False)
        check(
            library().pj_stream_step(
                self.handle,
                ct.c_size_t(steps),
                given,
                ct.c_size_t(len(given)),
                wanted,
                ct.c_size_t(len(wanted)),
            )
        )
        return outputs

    def reset(self) -> None:
        check(library().pj_stream_reset(self.handle))

    @property
    def position(self) -> int:
        return library().pj_stream_position(self.handle)

    def __del__(self) -> None:
        library().pj_stream_close(self.handle)
