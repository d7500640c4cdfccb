"""Errors, kinds, specs, registries and seeds: torch-free, imports nothing else of picojoule."""

from picojoule.core import errors, kinds
from picojoule.core.kinds import Kind
from picojoule.core.registry import Registry
from picojoule.core.spec import MembraneTable, NeuronSpec

__all__ = ["Kind", "MembraneTable", "NeuronSpec", "Registry", "errors", "kinds"]
