"""The C library reads the table of measured kernels that Python writes, under the same rules."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import c_library as c
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_engine_calls import spikes, spiking_conv

from picojoule.deploy import load, tune, write
from picojoule.deploy.engine import ISAS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = write(tmp_path / "net.pj", spiking_conv(), {"rates": {"input0": [0.3]}})
    tune.write_table(path, {"conv1": {"kernel": "dense_rows", "us": {"dense_rows": 1.5}}}, ISAS[-1])
    return path


def edit(file: Path, **fields: Any) -> None:
    path = tune.table_path(file)
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def note(model: c.CModel) -> str:
    return c.library().pj_tuned(model.handle).decode()


def test_a_table_of_this_machine_is_applied(file: Path) -> None:
    tuned, plain, copied = c.CModel(file), c.CModel(file, table=0), c.CModel(file.read_bytes())
    assert note(tuned) == "kernels from net.pj.tune.json"
    assert note(plain) == note(copied) == ""
    assert tuned.info.constant_bytes != plain.info.constant_bytes == copied.info.constant_bytes
    x = spikes(2, 4)
    wanted = load(file).integers(x)
    for model in (tuned, plain, copied):
        for key, value in model({"input0": x}).items():
            np.testing.assert_array_equal(value, wanted[key])


def test_boundaries_come_with_it(file: Path) -> None:
    for boundary in (0, 0.25, 1):
        tune.write_table(file, {"conv1": {"kernel": "event_bits", "boundary": boundary}}, ISAS[-1])
        assert note(c.CModel(file)) == "kernels from net.pj.tune.json"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"file_sha256": "0" * 64}, "another file"),
        ({"machine": {"processor": "abacus", "isa": "avx2", "engine": "0"}}, "another machine.*abacus"),
        ({"machine": {"processor": "abacus"}}, "damaged.*machine"),
        ({"version": 2}, "damaged.*version"),
        ({"version": 1.0}, "damaged.*version"),
        ({"format": "x"}, "damaged.*version"),
        ({"nodes": []}, "damaged.*nodes"),
        ({"nodes": {"conv1": {"kernel": 3}}}, "damaged.*conv1"),
        ({"nodes": {"conv1": {}}}, "damaged.*conv1"),
        ({"nodes": {"conv1": {"kernel": "event_rows", "boundary": 2}}}, "damaged.*boundary"),
        ({"nodes": {"conv1": {"kernel": "event_rows", "boundary": True}}}, "damaged.*boundary"),
        ({"nodes": {"conv1": {"kernel": "event_rows", "hook": "x"}}}, "damaged.*conv1"),
        ({"more": 1}, "damaged.*table"),
    ],
)
def test_foreign_and_damaged_tables_are_left_alone(file: Path, change: dict[str, Any], match: str) -> None:
    plain = c.CModel(file, table=0).info.constant_bytes
    edit(file, **change)
    model = c.CModel(file)
    assert model.info.constant_bytes == plain
    words = note(model)
    at = 0
    for part in match.split(".*"):
        at = words.index(part, at)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", '{"nodes": {"a": NaN}}', "\x00" * 100, '{"format": 1}' * 2]
)
def test_broken_tables_lose_nothing(file: Path, text: str) -> None:
    tune.table_path(file).write_text(text)
    assert "damaged" in note(c.CModel(file))


def test_hashes_of_every_length_agree(tmp_path: Path) -> None:
    """The digest is compared through tables: files that differ in length by one byte each, past a block."""
    base = write(tmp_path / "net.pj", spiking_conv(), {}).read_bytes()
    seen = set()
    for pad in range(0, 130, 3):
        path = write(tmp_path / "n.pj", spiking_conv(), {"about": "x" * pad})
        tune.write_table(path, {}, ISAS[-1])
        assert (
            json.loads(tune.table_path(path).read_text())["file_sha256"]
            == hashlib.sha256(path.read_bytes()).hexdigest()
        )
        assert note(c.CModel(path)).startswith("kernels from")
        seen.add(path.stat().st_size % 64)
    assert len(base) > 64
    assert len(seen) > 2
