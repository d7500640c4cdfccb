"""Applying a plan to a model in place."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from picojoule.compress.base import attach_, check_weight, latent_of, quantizer_of
from picojoule.compress.membrane import attach_membrane_, default_limit
from picojoule.compress.plan import CompressPlan
from picojoule.compress.prune import prune_
from picojoule.core.errors import ConfigError
from picojoule.neurons.base import Neuron

M = TypeVar("M", bound=nn.Module)


def compress_(model: M, plan: CompressPlan, example: Tensor | None = None) -> M:
    """Attaches everything a plan says to a model, in place; returns it.

    All of the plan is checked against the model before anything changes. Masks of pruned channels come first,
    quantizers see masked weights.

    Args:
        example: an input batch; needed only by plans that prune, which follow the channels through it.
    Raises:
        ConfigError: a rule names no layer, a layer is quantized already, or a method does not fit a layer.
    """
    weights = plan.weights(model)
    neurons = plan.membranes(model)
    ratios = plan.pruning(model)
    if ratios and example is None:
        raise ConfigError("this plan prunes channels; give compress_ an example input batch to follow them")
    quantizers: dict[str, Any] = {}
    for path, rule in weights.items():
        module = model.get_submodule(path)
        quantizer = rule.build()
        if quantizer is None:
            continue
        if quantizer_of(module) is not None:
            raise ConfigError(f"layer {path!r} is quantized already; call remove_(model) first")
        check_weight(latent_of(module), path)
        quantizer.check(tuple(module.weight.shape), path)  # type: ignore[arg-type]
        quantizers[path] = quantizer
    for path in neurons:
        neuron = model.get_submodule(path)
        if getattr(neuron, "membrane_quant", None) is not None:
            raise ConfigError(f"the membrane of {path!r} is quantized already")
    if ratios and example is not None:
        prune_(model, ratios, example)
    for path, quantizer in quantizers.items():
        attach_(model.get_submodule(path), quantizer)
    for path, rule in neurons.items():
        neuron = model.get_submodule(path)
        if isinstance(neuron, Neuron):
            attach_membrane_(neuron, rule.build(default_limit(neuron)))
    return model
