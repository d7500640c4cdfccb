"""Packed files and their execution: NumPy and the native engine, no torch.

model = picojoule.deploy.load("net.pj")
labels = model.predict(images)
"""

from __future__ import annotations

from picojoule.deploy.model import Model, ModelStream, load, shipped
from picojoule.deploy.read import loads, read
from picojoule.deploy.sizes import paper_bytes, payload_bytes
from picojoule.deploy.write import dumps, write

__all__ = [
    "Model",
    "ModelStream",
    "dumps",
    "load",
    "loads",
    "paper_bytes",
    "payload_bytes",
    "read",
    "shipped",
    "write",
]
