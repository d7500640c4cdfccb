"""The module around every neuron equation: steps, streams, export, kinds and lowering."""

from __future__ import annotations

import itertools
import weakref
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import (
    CausalityError,
    ConfigError,
    KindError,
    NonFiniteError,
    PackError,
    ShapeError,
)
from picojoule.core.kinds import Kind, binary
from picojoule.core.spec import NeuronSpec
from picojoule.neurons.expand import Expansion, expansion
from picojoule.timeline import module_path


class Membrane(NamedTuple):
    """State of a neuron with one membrane potential `v` [B, ...]."""

    v: Tensor


class Fired(NamedTuple):
    """What the operator of a neuron returns: spikes [T*B, ...], the state after step T, and the membrane
    before firing h [T*B, ...] (None unless asked for)."""

    spikes: Tensor
    state: Any
    h: Tensor | None


def start(x: Tensor, T: int, state: Membrane | None, value: float) -> Tensor:
    """Membrane [B, ...] before the first step: the state's, or `value` everywhere.

    Raises:
        ShapeError: the state belongs to rows of another shape.
    """
    shape = (x.shape[0] // T, *x.shape[1:])
    if state is None:
        return x.new_full(shape, value)
    if tuple(state.v.shape) != shape:
        raise ShapeError(
            f"the state holds membranes {tuple(state.v.shape)}, rows {tuple(x.shape)} with T={T} need "
            f"{shape}; start a new stream for another batch"
        )
    return state.v


class Neuron(nn.Module):
    """Base of all neurons: rows `[T*B, ...]` of current in, rows of spikes out, shape unchanged.

    A call starts from rest; nothing has to be reset. Subclasses implement
    `run(x, T, state, want_h) -> Fired` (the operator) and, where it exists, `lower() -> NeuronSpec`.

    Args:
        T: steps in a call, overridable per call by `neuron(x, T=n)`.
        membrane_quant: module applied to the membrane after reset (a quantizer), or None.
    """

    kind: Kind = binary
    causal: bool = True
    op_name: str = ""
    quantizable: bool = True  # has a membrane that a quantizer may act on after the reset
    leaf: str

    def __init__(self, T: int = 4, membrane_quant: nn.Module | None = None) -> None:
        super().__init__()
        if T < 1:
            raise ShapeError(f"T must be at least 1, got {T}")
        self.T = T
        self.membrane_quant = membrane_quant
        leaf_key(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        leaf_key(self)  # a copy is another module

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "membrane_quant" and value is not None and not self.quantizable:
            raise ConfigError(
                f"{type(self).__name__} has no membrane that a quantizer could act on; use IF, LIF, PLIF, "
                "ILIF, TernaryLIF, QIF, EIF, KLIF, CUBA or ALIF"
            )
        super().__setattr__(name, cast(Any, value))

    def set_steps(self, T: int) -> None:
        """Change T."""
        self.T = T

    def run(self, x: Tensor, T: int, state: Any = None, want_h: bool = False) -> Fired:
        """The operator: current rows [T*B, ...] and state -> Fired."""
        raise TypeError(f"{type(self).__name__} defines no run(x, T, state, want_h)")

    def spikes(self, x: Tensor, T: int) -> Tensor:
        """Spikes from rest, where nobody asks for the state."""
        return self.run(x, T).spikes

    def lower(self) -> NeuronSpec:
        """The neuron as constants, for packing.

        Raises:
            PackError: this neuron has no packed form.
        """
        raise PackError(
            f"{self._get_name()} trains and measures but has no packed form; use IF, LIF, PLIF, ILIF, "
            "a ternary LIF or a causal PSN where the model is to be packed"
        )

    @property
    def packable(self) -> bool:
        """True when `lower` is implemented."""
        return type(self).lower is not Neuron.lower

    def expand(self, code: str = "unary") -> Expansion:
        """The virtual binary steps of an integer neuron, by code "unary" (D steps) or "bits" (log2(D + 1)).

        Raises:
            KindError: the neuron does not emit integers.
        """
        if self.kind.name != "integer":
            raise KindError(
                f"{type(self).__name__} emits {self.kind} spikes; only integer neurons (ILIF, NILIF, "
                "SFA, IELIF) "
                "expand to virtual steps"
            )
        params: Any = getattr(self, "params", None)
        return expansion(self.kind.levels, code, params().out_scale if params is not None else 1.0)

    def exported(self, x: Tensor, T: int) -> Tensor:
        """The same spikes through a registered operator, used while exporting."""
        return _leaf_op(x, T, leaf_key(self))

    def forward(self, x: Tensor, T: int | None = None) -> Tensor:
        """Spikes for current rows: [T*B, ...] -> [T*B, ...].

        Raises:
            ShapeError: the rows are not a multiple of T.
            NonFiniteError: NaN or infinite current while torch.autograd anomaly detection is on.
        """
        tracing = torch.compiler.is_compiling()
        active = None if tracing else timeline.current_stream()
        if T is None:
            T = active.T if active is not None else self.T
        if tracing and torch.compiler.is_exporting():
            return self.exported(x, T)
        if T < 1 or x.shape[0] % T:
            raise ShapeError(
                f"{module_path(self)}: the leading axis of {tuple(x.shape)} is not a multiple of T={T}; rows "
                "are [T*B, ...]: use timeline.repeat or timeline.fold at the entry, or set_steps(model, T)"
            )
        if not tracing and torch.is_anomaly_enabled() and not torch.isfinite(x).all():
            raise NonFiniteError(
                f"{module_path(self)}: the input current holds NaN or infinity; look at the layer before it "
                "(learning rate, BatchNorm of an empty batch, mixed precision)"
            )
        if active is None:
            return self.spikes(x, T)
        if not self.causal:
            raise CausalityError(
                f"{module_path(self)} looks at future steps and cannot run in a stream; use a masked "
                "(lam=1) or "
                "sliding PSN"
            )
        key = active.slot(self)
        try:
            fired = self.run(x, T, active.get(key))
        except ShapeError as wrong:  # the equations know no module paths
            raise ShapeError(f"{key[0] or type(self).__name__}: {wrong}") from None
        active.put(key, fired.state)
        return fired.spikes


# -- a leaf operator for modules without an operator of their own ---------------------------------------

_leaves: weakref.WeakValueDictionary[str, nn.Module] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def leaf_key(module: nn.Module) -> str:
    """The key under which operators find this very module (a copy gets its own)."""
    key = module.__dict__.get("leaf")
    if key is None or _leaves.get(key) is not module:
        key = f"{type(module).__name__}:{next(_numbers)}"
        module.__dict__["leaf"] = key
        _leaves[key] = module
    return key


def leaf_module(key: str) -> nn.Module:
    """The module filed under `key`.

    Raises:
        KeyError: the module is gone; an exported or compiled program needs its model alive.
    """
    module = _leaves.get(key)
    if module is None:
        raise KeyError(
            f"module {key!r} no longer exists; keep the model alive as long as its exported program"
        )
    return module


@torch.library.custom_op("pj::leaf", mutates_args=())
def _leaf_op(x: Tensor, T: int, key: str) -> Tensor:
    module: Any = leaf_module(key)
    return module.run(x, T).spikes.clone()


@_leaf_op.register_fake
def _(x: Tensor, T: int, key: str) -> Tensor:
    return x.new_empty(x.shape)


def _leaf_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, ctx.T, ctx.key = inputs
    ctx.save_for_backward(x)


def _leaf_backward(ctx: Any, g: Tensor) -> Any:
    module: Any = leaf_module(ctx.key)
    with torch.enable_grad():  # recomputed here: inside an operator autograd is switched off
        x = ctx.saved_tensors[0].detach().requires_grad_()
        spikes = module.run(x, ctx.T).spikes
    return torch.autograd.grad(spikes, x, g)[0], None, None


_leaf_op.register_autograd(_leaf_backward, setup_context=_leaf_setup)
