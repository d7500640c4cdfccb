"""The wheel installs into an empty environment and runs there without torch or a compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CHECK = """
import json, sys
import numpy as np
import picojoule.deploy as deploy
names = deploy.shipped()
model = deploy.load(names[0])
shape = model.graph.inputs[0].edge.shape
out = model(np.zeros((2, *shape), np.uint8))
print(json.dumps({"names": names, "shape": list(out.shape), "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    out = tmp_path_factory.mktemp("wheel")
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(out), str(ROOT)]
    subprocess.run([sys.executable, *build, f"-Cbuild-dir={out}/build"], check=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.slow
def test_wheel_holds_packed_models_and_recipes_and_no_sources(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(n.endswith(".pj") for n in names)
    assert any(n.startswith("picojoule/recipes/") and n.endswith(".yaml") for n in names)
    assert "picojoule/py.typed" in names
    assert not any(n.endswith((".cpp", ".o", ".a")) for n in names)
    assert wheel.stat().st_size < 8 << 20


@pytest.mark.slow
def test_wheel_runs_in_an_empty_environment_without_a_compiler(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    bare = {**os.environ, "CC": "false", "CXX": "false"}
    subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True, env=bare)
    found = subprocess.run([python, "-c", CHECK], check=True, capture_output=True, text=True, cwd=tmp_path)
    answer = json.loads(found.stdout)
    assert answer["torch"] is False
    assert answer["shape"][0] == 2
    pj = tmp_path / "env" / "bin" / "pj"
    listed = subprocess.run(
        [pj, "list", "packed", "--json"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert {row["name"] for row in json.loads(listed.stdout)} == set(answer["names"])


@pytest.mark.slow
def test_sdist_holds_what_a_build_needs(tmp_path):
    code = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, cwd=ROOT)
    (found,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = [n.partition("/")[2] for n in archive.getnames()]
    for needed in (
        "pyproject.toml",
        "CMakeLists.txt",
        "native/CMakeLists.txt",
        "src/picojoule/__init__.py",
        "LICENSE",
    ):
        assert needed in names
