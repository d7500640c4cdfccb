"""A native module of other sources is refused by name before anything is called in it."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from picojoule.core import native as core_native
from picojoule.core.errors import BuildError

ROOT = Path(__file__).resolve().parents[2]
# What the binding of each number looks like: checksum of the names and arguments that are bound.
SURFACE = {
    1: 3467383693,
    2: 1182101701,
    3: 2968102687,
    4: 940885145,
    5: 2456142674,
    6: 290857305,
    7: 3840223357,
    8: 1623324258,
}


def surface() -> int:
    """Checksum of everything that Python can call, from the sources."""
    text = "".join(path.read_text() for path in sorted((ROOT / "native" / "bindings").glob("*.cpp")))
    calls = re.findall(r'(?:nb::arg|def|def_ro|def_prop_ro|def_static|class_<\w+>)\((?:m, )?\s*"(\w+)"', text)
    return zlib.crc32(" ".join(calls).encode())


def test_binding_number_is_raised_with_the_binding() -> None:
    assert SURFACE.get(core_native.BINDING) == surface(), (
        "a bound name or argument changed: raise kBinding in native/include/picojoule/version.h and BINDING "
        f"in picojoule/core/native.py, then record SURFACE[number] = {surface()} here"
    )


def test_both_sides_agree() -> None:
    number = int(
        re.findall(r"kBinding = (\d+)", (ROOT / "native/include/picojoule/version.h").read_text())[0]
    )
    assert number == core_native.BINDING
    pytest.importorskip("picojoule._native")
    assert core_native.native().__binding__ == number


@pytest.mark.parametrize("found", [{}, {"__binding__": core_native.BINDING + 1}])
def test_stale_build_is_named(monkeypatch: pytest.MonkeyPatch, found: dict[str, int]) -> None:
    monkeypatch.setitem(sys.modules, "picojoule._native", SimpleNamespace(__file__="old.so", **found))  # type: ignore[arg-type]
    with pytest.raises(BuildError, match=r"old\.so.*build it again"):
        core_native.native()


@pytest.mark.parametrize("module", ["picojoule.deploy.engine", "picojoule.neurons.leaky_native"])
def test_both_users_ask(module: str) -> None:
    """The engine and the training kernels refuse a stale module instead of calling into it."""
    if "neurons" in module:
        pytest.importorskip("torch")
    code = (
        "import sys, types; sys.modules['picojoule._native'] = types.SimpleNamespace(__file__='old.so')\n"
        f"import {module}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "BuildError: old.so has binding 0" in done.stderr
