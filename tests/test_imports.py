"""The rooms import what design allows, without cycles, and the runtime never loads torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src" / "picojoule"

# Room -> rooms it may import directly; what those import is allowed as well.
ALLOWED: dict[str, tuple[str, ...]] = {
    "core": (),
    "timeline": ("core",),
    "neurons": ("core", "timeline"),
    "encode": ("core", "timeline"),
    "data": ("core",),
    "layers": ("neurons",),
    "compress": ("neurons",),
    "models": ("layers", "compress"),
    "tasks": ("layers",),
    "learn": ("neurons", "compress", "data", "models"),  # its loop draws batches, its recipes name models
    "graph": ("neurons", "compress"),
    "convert": ("layers", "graph"),
    "deploy": ("core", "graph"),  # of graph only the files of TORCH_FREE
    "export": ("graph", "deploy"),
    "measure": ("graph", "deploy"),
    "claims": ("learn", "measure"),
    "lint": ("neurons",),
    "recipes": (),
    "cli": ("*",),
    "studio": ("*",),
}
# Files of `graph` that deploy may read, and that import none but each other and core.
TORCH_FREE = ("nodes", "moves", "shapes", "intervals", "membranes", "check", "rates")
TRAINING_DATA = ("augment.py", "batches.py")
HEAVY = {"torch", "accelerate", "sklearn", "torchvision", "torchaudio"}


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Absolute modules that a file imports; with `top_only` those that run when it is imported."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        stack.extend(ast.iter_child_nodes(node))
    return found


def room_of(path: Path) -> str:
    parts = path.relative_to(SRC).parts
    return parts[0].removesuffix(".py")


def files() -> list[Path]:
    return [p for p in sorted(SRC.rglob("*.py")) if p != SRC / "__init__.py"]


def reachable(room: str) -> set[str]:
    seen, stack = {room}, [room]
    while stack:
        for other in ALLOWED[stack.pop()]:
            if other not in seen:
                seen.add(other)
                stack.append(other)
    return seen


def test_every_room_has_a_rule() -> None:
    assert {room_of(path) for path in files()} <= set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_rooms_import_what_they_may(room: str) -> None:
    allowed = set(ALLOWED) if "*" in ALLOWED[room] else reachable(room) - {"*"}
    for path in files():
        if room_of(path) != room:
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "picojoule" or len(parts) < 2 or parts[1] not in ALLOWED:
                continue
            assert parts[1] in allowed, (
                f"{path.relative_to(SRC)} imports {name}; {room} may import {sorted(allowed)}"
            )


def test_rules_are_acyclic() -> None:
    for room, direct in ALLOWED.items():
        for other in direct:
            assert other == "*" or room not in reachable(other), (room, other)


def test_rooms_are_acyclic_in_fact() -> None:
    """No two rooms import each other when they load, by the sources and not by the table."""
    edges: dict[str, set[str]] = {}
    for path in files():
        for name in imports(path, top_only=True):
            parts = name.split(".")
            if (
                parts[0] == "picojoule"
                and len(parts) > 1
                and parts[1] in ALLOWED
                and parts[1] != room_of(path)
            ):
                edges.setdefault(room_of(path), set()).add(parts[1])
    edges["deploy"] = edges.get("deploy", set()) - {"graph"}  # torch-free files only, checked below
    for start in edges:
        seen: set[str] = set()
        stack = list(edges[start])
        while stack:
            room = stack.pop()
            assert room != start, f"{start} is imported again through {room}"
            if room not in seen:
                seen.add(room)
                stack.extend(edges.get(room, ()))


def test_deploy_reads_only_the_torch_free_files_of_graph() -> None:
    allowed = {f"picojoule.graph.{name}" for name in TORCH_FREE}
    for path in files():
        in_graph = room_of(path) == "graph" and path.stem in TORCH_FREE
        if not in_graph and room_of(path) != "deploy":
            continue
        for name in imports(path):
            assert name.split(".")[0] not in HEAVY, f"{path.relative_to(SRC)} imports {name}"
            if name.startswith("picojoule.graph."):
                assert any(name == a or name.startswith(f"{a}.") for a in allowed), (path.name, name)
            elif in_graph and name.startswith("picojoule."):
                assert name.startswith("picojoule.core.") or name == "picojoule.graph", (path.name, name)


@pytest.mark.parametrize("room", ["core", "data"])
def test_no_heavy_import_when_the_file_loads(room: str) -> None:
    """Readers of data give NumPy arrays; only what transforms batches for training knows torch."""
    for path in files():
        if room_of(path) == room and path.name not in TRAINING_DATA:
            found = {name.split(".")[0] for name in imports(path, top_only=True)} & HEAVY
            assert not found, f"{path.relative_to(SRC)} imports {found} at the top"


def run_python(code: str) -> None:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


LIGHT = (
    "picojoule",
    "picojoule.core",
    "picojoule.core.spec",
    "picojoule.graph",
    "picojoule.graph.nodes",
    "picojoule.graph.check",
    "picojoule.deploy",
    "picojoule.deploy.model",
)


def test_runtime_loads_no_torch() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = sorted(set(sys.modules) & {HEAVY!r})\n"
        "    assert not heavy, (name, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_command_loads_no_torch_to_show_its_help() -> None:
    code = (
        "import sys\n"
        "from picojoule.cli.main import build, main\n"
        "build()\n"
        "assert main(['doctor', '--json']) == 0\n"
        f"assert not set(sys.modules) & {HEAVY!r}, sorted(set(sys.modules) & {HEAVY!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_reader_of_imports_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "f.py"
    path.write_text("import torch.nn\ndef f():\n    from picojoule.graph import capture\n")
    assert imports(path) == {"torch.nn", "picojoule.graph.capture"}
    assert imports(path, top_only=True) == {"torch.nn"}
