"""Checkpoints: safetensors, written atomically, enough to resume a run bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from picojoule.core.errors import CheckpointError

VERSION = "1"


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename.

    Raises:
        CheckpointError: the disk is full or the folder is not writable; the old file is left whole.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not write {path}: {error.strerror}; the previous file is untouched"
        ) from error


def rng_state() -> dict[str, Any]:
    """State of the generators of Python, NumPy and torch (CPU and CUDA)."""
    version, internal, gauss = random.getstate()
    name, keys, pos, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), pos, has_gauss, cached],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": [s.cpu() for s in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, pos, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), pos, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


class _Packer:
    """Splits nested state into tensors (by number) and JSON."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def pack(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            key = f"t{len(self.tensors)}"
            self.tensors[key] = value.detach().cpu().contiguous().clone()
            return {"__tensor__": key}
        if isinstance(value, dict):
            return {"__dict__": [[k, self.pack(v)] for k, v in value.items()]}
        if isinstance(value, tuple):
            return {"__tuple__": [self.pack(v) for v in value]}
        if isinstance(value, list):
            return [self.pack(v) for v in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.integer | np.floating):
            return value.item()
        raise CheckpointError(f"cannot store a {type(value).__name__} in a checkpoint")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, tensors) for v in value]
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        if "__tuple__" in value:
            return tuple(_unpack(v, tensors) for v in value["__tuple__"])
        return {k: _unpack(v, tensors) for k, v in value["__dict__"]}
    return value


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write nested state (dicts, lists, tuples, numbers, strings, tensors) to one safetensors file."""
    packer = _Packer()
    tree = json.dumps(packer.pack(state))
    write_atomic(path, save(packer.tensors, metadata={"picojoule_checkpoint": VERSION, "tree": tree}))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        CheckpointError: absent, damaged, or of another version.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); remove it and resume from an older one"
        ) from None
    if meta.get("picojoule_checkpoint") != VERSION:
        raise CheckpointError(
            f"{path} is not a checkpoint of this version (found {meta.get('picojoule_checkpoint')!r}, "
            f"need {VERSION!r})"
        )
    return _unpack(json.loads(meta["tree"]), tensors)


def architecture(model: nn.Module) -> str:
    """A fingerprint of parameter names and shapes."""
    rows = [f"{k}:{tuple(v.shape)}" for k, v in model.state_dict().items()]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def load_weights(model: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Load a state dict into `model`, or say exactly how the architectures differ.

    Raises:
        CheckpointError: names or shapes differ; the model is left as it was.
    """
    mine = model.state_dict()
    missing = [k for k in mine if k not in weights]
    extra = [k for k in weights if k not in mine]
    shapes = [
        f"{k}: {tuple(weights[k].shape)} there, {tuple(mine[k].shape)} here"
        for k in mine
        if k in weights and weights[k].shape != mine[k].shape
    ]
    if missing or extra or shapes:
        parts = [
            f"{label}: {', '.join(rows[:3])}{' ...' if len(rows) > 3 else ''}"
            for label, rows in (("absent there", missing), ("unknown here", extra), ("other shape", shapes))
            if rows
        ]
        raise CheckpointError(f"{origin} belongs to another architecture; " + "; ".join(parts))
    model.load_state_dict(weights)
