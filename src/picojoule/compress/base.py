"""Quantizers as PyTorch parametrizations: the codes they stand for, attaching, reading and walking them.

A quantizer's forward value *is* its decoded code: `decode(get_codes(layer)) == layer.weight`, bit for bit,
because both sides run `codes * scale` in the same dtype. Packing therefore never quantizes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from picojoule.core.errors import ConfigError, NonFiniteError, ShapeError
from picojoule.core.registry import Registry

MIN_STEP = 1e-8


@dataclass(frozen=True, slots=True)
class Codes:
    """Weights as stored integers.

        weight[o, ...] = scales[o] * ints[o, ...]                                 int, sign, ternary
        weight[o].flatten()[g*word : (g+1)*word] = scales[o] * codebook[ints[o, g]]   codebook

    Fields:
        ints: int8 or int16, the weight's shape; for a codebook the indices [C_out, fan_in / word].
        scales: [C_out] or [1], in the weight's dtype, never negative.
        coding: "int" (two's complement), "sign", "ternary" or "codebook"; the names of the graph's Coding.
        bits: bits of one entry of `ints` as stored.
        shape: shape of the weight.
        codebook: int8 code words [K, word], or None.
    """

    ints: Tensor
    scales: Tensor
    coding: str
    bits: int
    shape: tuple[int, ...]
    codebook: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.coding == "codebook") != (self.codebook is not None):
            raise ShapeError("a codebook belongs to the coding 'codebook', and only to it")
        if self.scales.ndim != 1 or self.scales.shape[0] not in (1, self.shape[0]):
            raise ShapeError(f"scales must be [1] or [{self.shape[0]}], got {list(self.scales.shape)}")

    @property
    def payload_bits(self) -> int:
        """Bits of indices or codes and of the codebook at one bit an entry; scales are not counted."""
        return self.ints.numel() * self.bits + (0 if self.codebook is None else self.codebook.numel())

    @property
    def payload_bytes(self) -> int:
        """Bytes in a file: every tensor rounded up to whole bytes; scales at four bytes each."""
        book = 0 if self.codebook is None else -(-self.codebook.numel() // 8)
        return -(-self.ints.numel() * self.bits // 8) + book + 4 * self.scales.numel()

    @property
    def bits_per_weight(self) -> float:
        """Payload bits divided by the number of weights; below one for a codebook."""
        count = 1
        for size in self.shape:
            count *= size
        return self.payload_bits / max(count, 1)

    def decode(self) -> Tensor:
        """The weight, bit for bit."""
        return decode(self)


def decode(codes: Codes) -> Tensor:
    """Weight that codes stand for, in the dtype of their scales.

    Returns:
        Tensor of shape `codes.shape`.
    """
    if codes.codebook is None:
        values = codes.ints.to(codes.scales.dtype)
    else:
        words = codes.codebook.to(codes.scales.dtype)
        values = words[codes.ints.long()].reshape(codes.shape)
    return values * per_row(codes.scales, values.ndim)


def per_row(vector: Tensor, ndim: int) -> Tensor:
    """[C] or [1] as [C, 1, ...] of `ndim` axes, to broadcast along a weight's output channels."""
    return vector.reshape((-1,) + (1,) * (ndim - 1))


class Quantizer(nn.Module):
    """Base of all weight quantizers: a parametrization of a weight [C_out, C_in/groups, *kernel].

    A subclass has `bits` (of one stored code), `coding`, and three methods: `prepare(w)` sets its state
    from the weight it is attached to (never later: a quantizer has no uninitialised steps), `forward(w)`
    returns the weight on its grid with straight-through gradients, `codes(w)` the same as integers.

    `fan_in_keep` [1, C_in/groups, 1, ...] marks input channels that pruning keeps: row statistics (scales,
    thresholds, deviations) are taken over these only, so that removing the others changes nothing.
    """

    coding: str = "int"
    paper: ClassVar[str] = ""
    bits: int
    fan_in_keep: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fan_in_keep", None)

    def check(self, shape: tuple[int, ...], path: str) -> None:
        """Refuses a weight shape that this method cannot hold; raises ConfigError naming `path`."""

    def prepare(self, w: Tensor) -> None:
        """Sets the initial state from the weight `w` of float values."""

    def forward(self, w: Tensor) -> Tensor:
        """The weight on its grid, same shape and dtype as `w`."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def codes(self, w: Tensor) -> Codes:
        """Integers and scales of `forward(w)`."""
        raise NotImplementedError(f"{type(self).__name__} must define codes")

    def progress(self, step: int, fraction: float, latent: Callable[[], Tensor]) -> None:
        """Moves schedules: optimizer step `step`, `fraction` in [0, 1] of training done.

        `latent()` gives the tensor that enters this quantizer.
        """

    def cut(self, rows: np.ndarray, cols: np.ndarray | None, path: str) -> None:
        """Follows a weight that keeps only these output and input channels (indices; cols None: all)."""
        self.fan_in_keep = None

    def row_mean(self, x: Tensor) -> Tensor:
        """Mean over the kept fan-in of every output channel: [C_out, ...] -> [C_out, 1, ...]."""
        axes = tuple(range(1, x.ndim))
        if self.fan_in_keep is None:
            return x.mean(dim=axes, keepdim=True)
        keep = self.fan_in_keep.to(x.dtype)
        total = keep.expand((1, *x.shape[1:])).sum().clamp_min(1.0)
        return (x * keep).sum(dim=axes, keepdim=True) / total

    @property
    def setting(self) -> str:
        """One line for tables, e.g. 'lsq, 4 bit'."""
        return f"{type(self).__name__.lower()}, {self.bits} bit"

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


QUANTIZERS: Registry[Any] = Registry("weight quantizer")


def check_weight(w: Tensor, what: str) -> None:
    """Refuses weights that cannot be quantized: wrong rank, empty, or not finite."""
    if w.ndim < 2 or w.numel() == 0:
        raise ShapeError(f"{what}: a quantizer needs a weight [C_out, C_in, ...], got shape {list(w.shape)}")
    if not bool(torch.isfinite(w).all()):
        raise NonFiniteError(f"{what}: the weight holds NaN or infinity; look at the run that made it")


def attach_(module: nn.Module, quantizer: Quantizer, name: str = "weight") -> nn.Module:
    """Attaches a quantizer to `module.<name>` in place, initialised from the present value.

    Masks that are already attached stay in front of it; a second quantizer is refused.

    Raises:
        ConfigError: the tensor is missing, or quantized already.
        ShapeError, NonFiniteError: the tensor cannot be quantized.
    """
    value = getattr(module, name, None)
    if not isinstance(value, Tensor):
        raise ConfigError(f"{type(module).__name__} has no tensor {name!r} to quantize")
    if quantizer_of(module, name) is not None:
        raise ConfigError(
            f"{type(module).__name__}.{name} is quantized already; call remove_ first to quantize it anew"
        )
    weight = value.detach()
    check_weight(weight, type(module).__name__)
    quantizer.check(tuple(weight.shape), type(module).__name__)
    quantizer.to(weight.device)
    quantizer.fan_in_keep = _kept_fan_in(module, name)
    quantizer.prepare(weight)
    quantizer.to(dtype=weight.dtype)
    quantizer.train(module.training)
    parametrize.register_parametrization(module, name, quantizer)
    return module


def chain(module: nn.Module, name: str = "weight") -> Any:
    """The parametrizations of a tensor in order (empty list when it has none)."""
    if not parametrize.is_parametrized(module, name):
        return []
    return module.parametrizations[name]  # type: ignore[index]


def quantizer_of(module: nn.Module, name: str = "weight") -> Quantizer | None:
    """The quantizer attached to a tensor, or None."""
    found = [p for p in chain(module, name) if isinstance(p, Quantizer)]
    return found[-1] if found else None


def latent_of(module: nn.Module, name: str = "weight") -> Tensor:
    """The tensor that enters the quantizer: the trained value behind its masks, without gradient."""
    if not parametrize.is_parametrized(module, name):
        return getattr(module, name).detach()
    parts = chain(module, name)
    with torch.no_grad():
        value = parts.original.detach()
        for part in parts:
            if isinstance(part, Quantizer):
                break
            value = part(value)
    return value


def get_codes(module: nn.Module, name: str = "weight") -> Codes | None:
    """Codes of `module.<name>`, or None when no quantizer is attached.

    >>> layer = attach_(nn.Linear(4, 2), QUANTIZERS.get("binary")())
    >>> codes = get_codes(layer)
    >>> bool((decode(codes) == layer.weight).all())
    True
    """
    quantizer = quantizer_of(module, name)
    if quantizer is None:
        return None
    with torch.no_grad():
        return quantizer.codes(latent_of(module, name))


def codes_of(model: nn.Module) -> dict[str, Codes]:
    """Codes of every quantized tensor, keyed by its path, e.g. 'blocks.0.conv.weight'."""
    found: dict[str, Codes] = {}
    for path, module, name, _ in quantized(model):
        codes = get_codes(module, name)
        if codes is not None:
            found[f"{path}.{name}" if path else name] = codes
    return found


def quantized(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Quantizer]]:
    """Every (module path, module, tensor name, quantizer) of a model, in module order."""
    for path, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        for name in module.parametrizations:  # type: ignore[union-attr]
            quantizer = quantizer_of(module, name)
            if quantizer is not None:
                yield path, module, name, quantizer


def progress_(model: nn.Module, step: int, fraction: float) -> None:
    """Walks the schedules of all quantizers; call it once before each optimizer step.

    Args:
        step: optimizer steps done.
        fraction: share of the training done, in [0, 1].
    """
    if not 0.0 <= fraction <= 1.0:
        raise ConfigError(f"progress_: fraction must lie in [0, 1], got {fraction}")
    for _, module, name, quantizer in list(quantized(model)):

        def latent(module: nn.Module = module, name: str = name) -> Tensor:
            return latent_of(module, name)

        quantizer.progress(step, fraction, latent)


def quantizer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Learned parameters of quantizers (steps); keep them out of weight decay."""
    found: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        if not isinstance(module, Quantizer):
            continue
        for parameter in module.parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found.append(parameter)
    return found


def _kept_fan_in(module: nn.Module, name: str) -> Tensor | None:
    """Input channels kept by the pruning mask that was attached to this weight earlier."""
    for part in chain(module, name):
        keep = getattr(part, "fan_in_keep", None)
        if keep is not None:
            return keep.clone()
    return None
