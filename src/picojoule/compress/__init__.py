"""Compression that is attached to a model, not written into it: weights, membranes, channels, plans."""

from __future__ import annotations

from picojoule.compress.apply import compress_
from picojoule.compress.base import (
    QUANTIZERS,
    Codes,
    Quantizer,
    attach_,
    codes_of,
    decode,
    get_codes,
    progress_,
    quantized,
    quantizer_of,
    quantizer_parameters,
)
from picojoule.compress.binary import Binary
from picojoule.compress.codebook import Codebook
from picojoule.compress.grid import Grid, grid_parameters
from picojoule.compress.lsq import LSQ
from picojoule.compress.membrane import (
    MEMBRANES,
    MembraneQuantizer,
    TanhMembrane,
    UniformMembrane,
    attach_membrane_,
    calibrate_membranes_,
    membranes,
)
from picojoule.compress.plan import PRESETS, CompressPlan, MembraneRule, PruneRule, Rule, WeightRule, preset
from picojoule.compress.prune import Pruned, prune_
from picojoule.compress.report import Report, report
from picojoule.compress.shrink import shrink
from picojoule.compress.standardized import Standardized
from picojoule.compress.strip import remove_, strip
from picojoule.compress.ternary import Ternary

__all__ = [
    "LSQ",
    "MEMBRANES",
    "PRESETS",
    "QUANTIZERS",
    "Binary",
    "Codebook",
    "Codes",
    "CompressPlan",
    "Grid",
    "MembraneQuantizer",
    "MembraneRule",
    "PruneRule",
    "Pruned",
    "Quantizer",
    "Report",
    "Rule",
    "Standardized",
    "TanhMembrane",
    "Ternary",
    "UniformMembrane",
    "WeightRule",
    "attach_",
    "attach_membrane_",
    "calibrate_membranes_",
    "codes_of",
    "compress_",
    "decode",
    "get_codes",
    "grid_parameters",
    "membranes",
    "preset",
    "progress_",
    "prune_",
    "quantized",
    "quantizer_of",
    "quantizer_parameters",
    "remove_",
    "report",
    "shrink",
    "strip",
]
