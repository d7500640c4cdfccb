"""Recipes: a training run as one validated, frozen setting, read from YAML with `key=value` overrides."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from picojoule.core.errors import ConfigError, suggest


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """Which network: a registered name, its steps, and overrides of its constructor."""

    name: str
    T: int | None = Field(default=None, ge=1, description="steps; None keeps the model's default")
    args: dict[str, Any] = Field(default_factory=dict)


class AugmentConfig(_Section):
    """Training-time changes of images; all off by default."""

    crop: int = Field(default=0, ge=0, description="random crop after padding by so many pixels")
    flip: bool = False
    cutout: int = Field(default=0, ge=0, description="side of a zeroed square, pixels")
    randaugment: int = Field(default=0, ge=0, le=30, description="RandAugment strength; needs kornia")
    mixup: float = Field(default=0.0, ge=0, description="Beta(a, a) of mixup; 0 is off")
    cutmix: float = Field(default=0.0, ge=0, description="Beta(a, a) of cutmix; 0 is off")


class DataConfig(_Section):
    """Which data, how it is split and augmented."""

    name: str
    root: str | None = None
    download: bool = False
    batch: int = Field(default=64, ge=1)
    eval_batch: int = Field(default=250, ge=1)
    fold: int | None = Field(
        default=None, ge=0, le=4, description="digits only: which of 5 stratified folds is the test"
    )
    limit: int | None = Field(default=None, ge=1, description="use only so many training samples")
    normalise: bool = Field(default=True, description="to mean 0 and deviation 1 by channel")
    augment: AugmentConfig = AugmentConfig()
    options: dict[str, Any] = Field(
        default_factory=dict, description="of the data set, e.g. steps of event frames"
    )


class LossConfig(_Section):
    """Loss: cross-entropy of the readout, or TET over the steps."""

    name: Literal["ce", "tet"] = "ce"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    tet_lambda: float = Field(default=1e-3, ge=0, le=1)
    tet_means: float = 1.0


class TrainConfig(_Section):
    """Optimization."""

    epochs: int = Field(default=10, ge=0)
    rule: str = Field(default="bptt", description="learning rule, see learn.rules")
    optimizer: Literal["sgd", "adamw", "lamb"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    lr_floor: float = Field(default=0.0, ge=0, le=1, description="last learning rate as a share of lr")
    loss: LossConfig = LossConfig()
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay of the averaged weights that are evaluated; 0 is off"
    )
    clip: float = Field(default=0.0, ge=0, description="largest gradient norm; 0 is off")
    accumulate: int = Field(default=1, ge=1, description="batches per optimizer step")
    parallel: Literal["ddp", "fsdp2"] = Field(default="ddp", description="of several processes")
    checkpoint: Literal["none", "block", "time"] = Field(
        default="none", description="what is computed again in the backward pass instead of kept"
    )
    chunk: int | None = Field(default=None, ge=1, description="steps of a chunk with checkpoint=time")
    precision: Literal["no", "bf16", "fp16"] = "no"
    patience: int = Field(
        default=0, ge=0, description="stop after so many epochs without a better validation accuracy"
    )
    minutes: float = Field(default=0.0, ge=0, description="stop cleanly after so many minutes; 0 is no limit")
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    checkpoint_steps: int = Field(default=0, ge=0, description="also after so many optimizer steps; 0 is off")
    detect_anomaly: bool = False
    channels_last: bool = True
    spike_aware: bool = Field(
        default=False, description="convolutions and linear layers driven by spikes, on a CPU in float32"
    )


class Recipe(_Section):
    """A whole run. `start` names a run folder or checkpoint whose weights are taken before compression."""

    name: str = "run"
    model: ModelConfig
    data: DataConfig
    train: TrainConfig = TrainConfig()
    compress: dict[str, Any] | str | None = Field(
        default=None, description="a plan, or the name of a preset such as w1"
    )
    start: str | None = None
    seed: int = Field(default=0, ge=0)
    notes: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and YAML."""
        return self.model_dump(mode="json")


def _known_fields(section: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = section.model_fields.get(str(part))
        kind = field.annotation if field is not None else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        section = kind
    return list(section.model_fields)


def make_recipe(values: dict[str, Any]) -> Recipe:
    """Validate plain values.

    Raises:
        ConfigError: names the field, what is allowed, and the nearest known name for an unknown one.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            where = ".".join(str(p) for p in item["loc"])
            if item["type"] == "extra_forbidden":
                known = _known_fields(Recipe, item["loc"][:-1])
                lines.append(f"unknown field {where!r}; {suggest(str(item['loc'][-1]), known)}")
            else:
                lines.append(f"{where}: {item['msg']} (got {item.get('input')!r})")
        raise ConfigError("recipe: " + "; ".join(lines)) from None


def override(values: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Apply `a.b=value` settings to nested values; the value is read as YAML.

    >>> override({"train": {"epochs": 1}}, ["train.epochs=3"])
    {'train': {'epochs': 3}}
    """
    result = json.loads(json.dumps(values))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"cannot read the setting {setting!r}; write e.g. train.epochs=3")
        *parents, last = key.strip().split(".")
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{setting!r}: {parent!r} is a value, not a section")
        target[last] = yaml.safe_load(text)
    return result


def differing(before: Any, after: Any, path: str = "") -> list[str]:
    """Leaves of nested values that differ, as text.

    >>> differing({"train": {"lr": 0.1, "epochs": 3}}, {"train": {"lr": 0.2, "epochs": 3}})
    ['train.lr was 0.1, now 0.2']
    """
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        inside = [differing(before.get(k), after.get(k), f"{path}.{k}" if path else k) for k in keys]
        return [line for lines in inside for line in lines]
    return [] if before == after else [f"{path} was {before!r}, now {after!r}"]


def recipe_names() -> list[str]:
    """Recipes that ship with the package."""
    folder = resources.files("picojoule.recipes")
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_recipe(name_or_path: str, settings: list[str] | None = None) -> Recipe:
    """A shipped recipe by name or a YAML file, with overrides.

    Raises:
        ConfigError: no such recipe (the nearest is suggested), not YAML, or a wrong field.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.exists():
        if not path.is_file():
            raise ConfigError(f"no recipe file {name_or_path!r}")
        text = path.read_text()
    else:
        names = recipe_names()
        if name_or_path not in names:
            raise ConfigError(f"unknown recipe {name_or_path!r}; {suggest(name_or_path, names)}")
        text = resources.files("picojoule.recipes").joinpath(f"{name_or_path}.yaml").read_text()
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {name_or_path!r} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {name_or_path!r} must be a mapping with the sections model, data, train")
    return make_recipe(override(values, settings or []))
