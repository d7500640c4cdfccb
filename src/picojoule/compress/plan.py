"""Compression plans: which layer gets what, as a frozen, versioned, serialisable config."""

from __future__ import annotations

import fnmatch
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from torch import nn

from picojoule.compress.base import QUANTIZERS, Quantizer
from picojoule.compress.membrane import MEMBRANES, MembraneQuantizer
from picojoule.core.errors import ConfigError, suggest
from picojoule.core.registry import Registry
from picojoule.neurons.base import Neuron

if TYPE_CHECKING:
    from picojoule.compress.report import Report

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
VERSION = 1


class _Frozen(BaseModel):
    """Frozen config whose errors are ConfigError and name the nearest field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigError(_tell(type(self), error)) from None


class WeightRule(_Frozen):
    """Quantizer of weights.

    Fields:
        method: a name of `QUANTIZERS`, or "none" to keep floating point.
        bits: bits a weight, where the method has a choice (lsq 2..8; codebook in (0, 1]).
        options: further constructor arguments of the quantizer.
    """

    method: str = "lsq"
    bits: float | None = None
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _buildable(self) -> WeightRule:
        self.build()
        return self

    def build(self) -> Quantizer | None:
        """A fresh quantizer, or None for method "none"."""
        if self.method == "none":
            if self.bits is not None or self.options:
                raise ConfigError("weights: method 'none' takes neither bits nor options")
            return None
        return _build(QUANTIZERS, self.method, self.bits, self.options)


class MembraneRule(_Frozen):
    """Quantizer of membranes.

    Fields:
        bits: bits a membrane, 2..16.
        method: a name of `MEMBRANES`.
        limit: largest magnitude in the units of the membrane; None takes twice the neuron's threshold
            (uniform) or the method's default, until `calibrate_membranes_` sets it from data.
    """

    bits: int = 8
    method: str = "uniform"
    limit: float | None = None

    @model_validator(mode="after")
    def _buildable(self) -> MembraneRule:
        self.build(1.0)
        return self

    def build(self, fallback: float) -> MembraneQuantizer:
        """A fresh quantizer; `fallback` is the limit where the rule states none."""
        limit = {} if self.limit is None and self.method != "uniform" else {"limit": self.limit or fallback}
        if self.limit is not None and self.limit <= 0:
            raise ConfigError(f"membrane: limit must be positive, got {self.limit}")
        return _build(MEMBRANES, self.method, self.bits, limit)


class PruneRule(_Frozen):
    """Magnitude pruning of output channels.

    Fields:
        ratio: share of channels to mask, in (0, 1).
    """

    ratio: float

    @field_validator("ratio")
    @classmethod
    def _share(cls, ratio: float) -> float:
        if not 0 < ratio < 1:
            raise ConfigError(f"prune: ratio must lie in (0, 1), got {ratio}; 1 would empty the layer")
        return ratio


class Rule(_Frozen):
    """What happens to the modules whose path matches a shell pattern; parts left out stay as they are.

    Fields:
        match: pattern on module paths, e.g. "*", "blocks.*.conv1", "head".
        weights, membrane, prune: see WeightRule, MembraneRule and PruneRule.
    """

    match: str
    weights: WeightRule | None = None
    membrane: MembraneRule | None = None
    prune: PruneRule | None = None

    @model_validator(mode="after")
    def _does_something(self) -> Rule:
        if self.weights is None and self.membrane is None and self.prune is None:
            raise ConfigError(f"rule {self.match!r} does nothing; give it weights, membrane or prune")
        return self


class CompressPlan(_Frozen):
    """A list of rules; of two that match the same module and part, the later one counts.

    Fields:
        version: version of this config.
        rules: see Rule.
        first_last_bits: the first and the last layer with weights keep this many bits (lsq), as is usual;
            a rule that names them exactly (without wildcards) wins; None treats them like the others.

    >>> plan = CompressPlan(rules=({"match": "*", "weights": {"method": "lsq", "bits": 4}},))
    >>> CompressPlan.from_yaml(plan.to_yaml()) == plan
    True
    """

    version: Literal[1] = VERSION
    rules: tuple[Rule, ...]
    first_last_bits: int | None = 8

    @field_validator("first_last_bits")
    @classmethod
    def _edge_bits(cls, bits: int | None) -> int | None:
        if bits is not None and bits not in range(2, 9):
            raise ConfigError(f"first_last_bits must lie in 2..8 or be null, got {bits}")
        return bits

    @classmethod
    def from_dict(cls, fields: Any) -> CompressPlan:
        """A plan from plain data."""
        if not isinstance(fields, dict):
            raise ConfigError(f"a plan is a mapping with 'rules', got {type(fields).__name__}")
        return cls(**fields)

    @classmethod
    def from_yaml(cls, source: str | Path) -> CompressPlan:
        """A plan from a YAML file (a Path, or a name ending in .yaml or .yml) or from YAML text."""
        is_file = isinstance(source, Path) or ("\n" not in source and source.endswith((".yaml", ".yml")))
        if is_file and not Path(source).is_file():
            raise ConfigError(f"there is no plan file {str(source)!r}; presets: {', '.join(PRESETS)}")
        text = Path(source).read_text(encoding="utf-8") if is_file else str(source)
        try:
            fields = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"the plan is not valid YAML: {error}") from None
        return cls.from_dict(fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without fields left at None."""
        return self.model_dump(mode="json", exclude_none=True) | {"first_last_bits": self.first_last_bits}

    def to_yaml(self) -> str:
        """YAML text that `from_yaml` reads back to an equal plan."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def weights(self, model: nn.Module) -> dict[str, WeightRule]:
        """Rule of every layer whose weights this plan quantizes, in module order."""
        layers = weight_layers(model)
        chosen = self._assign("weights", layers, "layer with weights")
        if self.first_last_bits is not None and chosen and any(r.weights for r in self.rules):
            exact = {rule.match for rule in self.rules if rule.weights is not None}
            edge = WeightRule(method="lsq", bits=self.first_last_bits)
            for path in first_and_last(layers):
                if path in chosen and path not in exact and chosen[path].method != "none":
                    chosen[path] = edge
        return {path: chosen[path] for path in layers if path in chosen and chosen[path].method != "none"}

    def membranes(self, model: nn.Module) -> dict[str, MembraneRule]:
        """Rule of every neuron whose membrane this plan quantizes."""
        neurons = {p: m for p, m in model.named_modules() if isinstance(m, Neuron)}
        chosen = self._assign("membrane", neurons, "neuron")
        return {path: chosen[path] for path in neurons if path in chosen}

    def pruning(self, model: nn.Module) -> dict[str, float]:
        """Share of channels to mask, by pattern, in the order of the rules."""
        self._assign("prune", weight_layers(model), "layer with weights")
        return {rule.match: rule.prune.ratio for rule in self.rules if rule.prune is not None}

    def report(self, model: nn.Module) -> Report:
        """Table of layers, bits and bytes under this plan; the model is not changed."""
        from picojoule.compress.report import report  # reads plans, so it cannot be imported above

        return report(model, self)

    def _assign(self, part: str, modules: dict[str, Any], sort: str) -> dict[str, Any]:
        """Last matching rule of each module for one part; a rule that matches nothing is an error."""
        chosen: dict[str, Any] = {}
        for rule in self.rules:
            setting = getattr(rule, part)
            if setting is None:
                continue
            hits = [path for path in modules if fnmatch.fnmatchcase(path, rule.match)]
            if not hits:
                hint = suggest(rule.match, modules)
                raise ConfigError(f"rule {rule.match!r} ({part}) names no {sort} of this model; {hint}")
            chosen.update(dict.fromkeys(hits, setting))
        return chosen


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers whose weights can be quantized, by path, in module order."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LAYERS)}


def first_and_last(layers: dict[str, nn.Module]) -> list[str]:
    """The first layer, and the last linear layer (the last layer where there is none)."""
    paths = list(layers)
    if not paths:
        return []
    linear = [path for path in paths if isinstance(layers[path], nn.Linear)]
    return [paths[0], linear[-1] if linear else paths[-1]]


def _preset(method: str, bits: float | None = None) -> CompressPlan:
    return CompressPlan(rules=(Rule(match="*", weights=WeightRule(method=method, bits=bits)),))


PRESETS = ("w8", "w4", "w3", "w2", "w1", "ternary", "subbit")


def preset(name: str) -> CompressPlan:
    """A ready plan: w8, w4, w3, w2 (learned steps), w1 (binary), ternary, subbit (5 bits a 3x3 kernel).

    >>> preset("w4").rules[0].weights.bits
    4.0
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; {suggest(name, PRESETS)}")
    if name in ("w8", "w4", "w3", "w2"):
        return _preset("lsq", int(name[1:]))
    return {"w1": _preset("binary"), "ternary": _preset("ternary"), "subbit": _preset("codebook", 0.56)}[name]


def _build(registry: Registry[Any], method: str, bits: float | None, options: dict[str, Any]) -> Any:
    """Calls a registered factory with bits and options, checking their names first."""
    factory = registry.get(method)
    known = list(inspect.signature(factory).parameters)
    for name in options:
        if name not in known or name == "bits":
            hint = suggest(name, [k for k in known if k != "bits"]) if known else "it has no options"
            raise ConfigError(f"{registry.sort} {method!r} has no option {name!r}; {hint}")
    arguments = dict(options)
    if bits is not None:
        if "bits" in known:
            arguments["bits"] = int(bits) if float(bits).is_integer() else bits
        else:
            fixed = factory(**arguments).bits
            if fixed != bits:
                raise ConfigError(f"{registry.sort} {method!r} has {fixed} bit, not {bits:g}; leave bits out")
    return factory(**arguments)


_NAMES = ("CompressPlan", "Rule", "WeightRule", "MembraneRule", "PruneRule")


def _tell(cls: type[BaseModel], error: ValidationError) -> str:
    """One line per problem, each with its place and the nearest field name."""
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or cls.__name__
        if problem["type"] == "extra_forbidden":
            lines.append(
                f"{place}: unknown field; {suggest(str(problem['loc'][-1]), _fields(cls, problem['loc']))}"
            )
        else:
            message = problem["msg"].removeprefix("Value error, ")
            while message.partition(": ")[0] in _NAMES:  # an inner part told its own name already
                message = message.partition(": ")[2]
            lines.append(f"{place}: {message}" if problem["loc"] else message)
    return f"{cls.__name__}: " + "; ".join(lines)


def _fields(cls: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """Field names of the config that an unknown field was put into."""
    inner: dict[str, type[BaseModel]]
    inner = {"rules": Rule, "weights": WeightRule, "membrane": MembraneRule, "prune": PruneRule}
    for part in place[:-1]:
        if isinstance(part, str) and part in inner:
            cls = inner[part]
    return list(cls.model_fields)
