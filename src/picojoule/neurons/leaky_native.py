"""The linear-charge core on the native kernels: one pass over memory forward, one backward (CPU).

Same spikes and membranes as `leaky_reference` in float32, bit for bit. Rows of bfloat16 are widened and
rounded in passing: membranes, states and sums stay float32. Between the passes the state named by
`saved_state` is kept: by default nothing but the input, from which the membranes are computed again.

Where a kernel does not apply (another type or device, constants that differ along two axes, a build without
the extension), `apply` answers None and the PyTorch path runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode  # tracers must see tensor operations

from picojoule.core.errors import ConfigError
from picojoule.core.native import native
from picojoule.neurons import surrogate as sg
from picojoule.neurons.fire import FireRule
from picojoule.neurons.leaky_kernel import LeakyParams, Number

try:
    _native: Any = native()
except ImportError:  # a source tree without a build: everything runs on PyTorch
    _native = None

AVAILABLE = hasattr(_native, "leaky_forward")

RECOMPUTE, HALF, BYTE, MEMBRANE = range(4)
FORMS = {"exact": RECOMPUTE, "half": HALF, "byte": BYTE}
_KINDS = {"binary": 0, "ternary": 1, "integer": 2}
_RESETS = {"hard": 0, "soft": 1, "none": 2}
GIVEN = 0

# Surrogate -> code of the kernel, its constants a and b, and the largest slope.
_FORMULAS: dict[type, Any] = {
    sg.Sigmoid: lambda s: (1, s.alpha, 0.0, s.alpha / 4),
    sg.ATan: lambda s: (2, s.alpha, 0.0, s.alpha / 2),
    sg.Triangle: lambda s: (3, s.alpha, 0.0, s.alpha),
    sg.Rect: lambda s: (4, s.alpha, 0.5 / s.alpha, s.alpha),
    sg.PiecewiseExp: lambda s: (5, s.alpha, 0.0, s.alpha / 2),
    sg.SoftSign: lambda s: (6, s.alpha, 0.0, s.alpha / 2),
    sg.SuperSpike: lambda s: (7, s.alpha, 0.0, s.alpha),
    sg.Erf: lambda s: (8, s.alpha, 0.0, s.alpha * 0.5641895835477563),
    sg.NonzeroSignLogAbs: lambda s: (9, s.alpha, 0.0, s.alpha),
    sg.PiecewiseLeakyReLU: lambda s: (10, s.w, s.c, max(0.5 / s.w, s.c)),
    sg.LeakyKReLU: lambda s: (11, s.k, s.leak, max(s.k, s.leak)),
    sg.LogTailedReLU: lambda s: (12, s.alpha, 0.0, max(1.0, s.alpha)),
    sg.S2NN: lambda s: (13, s.alpha, s.beta, max(s.alpha / 4, s.beta)),
    sg.QPseudoSpike: lambda s: (14 if s.alpha in range(2, 17) else GIVEN, s.alpha, 0.0, 1.0),
    sg.FakeNumericalGradient: lambda s: (15, s.alpha, 0.0, s.alpha),
    sg.StraightThrough: lambda s: (16, 0.0, 0.0, 1.0),
    sg.FastSigmoid: lambda s: (17, s.slope, 0.0, 1.0),
    sg.SpikeRateEscape: lambda s: (18, s.slope, s.beta, s.slope),
}


def formula(surrogate: sg.Surrogate) -> tuple[int, float, float, float, float]:
    """Code, a, b, offset and peak of a surrogate; code GIVEN where the kernel has no formula for it and its
    `grad` is called on the membranes instead."""
    offset = 0.0
    if type(surrogate) is sg.Shifted:
        surrogate, offset = surrogate.inner, surrogate.offset
    make = _FORMULAS.get(type(surrogate))
    code, a, b, peak = (GIVEN, 0.0, 0.0, 1.0) if make is None else make(surrogate)
    return code, float(a), float(b), float(offset), float(peak)


def has_formula(surrogate: sg.Surrogate) -> bool:
    """True where the kernels compute the slope themselves."""
    return formula(surrogate)[0] != GIVEN


# -- what is kept between the passes -----------------------------------------------------------------------

_form = RECOMPUTE


class saved_state:
    """What native neurons keep for the backward pass: "exact" keeps the input and computes the membranes
    again, "half" keeps h - v_th in 16 bits, "byte" 7 bits of the slope and the spike. Calling it switches; as
    a context manager it switches back at the end.

    Relative error of input gradients (norm): half below 1e-3, byte below 1e-2 for slopes of one hump. Spikes
    are never approximated. "byte" keeps no membrane: neurons whose hard reset carries a gradient, and ternary
    neurons, keep halves instead. Neurons with learned constants, and surrogates without a native formula,
    keep exact state. Integer neurons are exact in every form.

    >>> with saved_state("half"):
    ...     pass

    Raises:
        ConfigError: an unknown name.
    """

    def __init__(self, form: str = "exact") -> None:
        global _form
        if form not in FORMS:
            raise ConfigError(f"saved_state must be one of {', '.join(FORMS)}, got {form!r}")
        self.before, _form = _form, FORMS[form]

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        global _form
        _form = self.before


def _form_for(p: LeakyParams, code: int, learned: bool) -> int:
    """The form that this neuron can use, at least as exact as the one that is set."""
    integer, ternary = p.rule.kind.name == "integer", p.rule.kind.name == "ternary"
    if _form == RECOMPUTE or learned or (code == GIVEN and not integer):
        return RECOMPUTE
    if _form == BYTE and not integer and (ternary or (p.reset == "hard" and not p.detach_reset)):
        return HALF
    return _form


# -- constants and storage ---------------------------------------------------------------------------------


def _dense(x: Tensor) -> bool:
    """Storage without holes whose outermost axis is the leading one."""
    if x.is_contiguous():
        return True
    if x.dim() < 2 or x.stride(0) * x.shape[0] != x.numel():
        return False
    size = 1
    for stride, length in sorted(zip(x.stride()[1:], x.shape[1:])):
        if length > 1:
            if stride != size:
                return False
            size *= length
    return size * x.shape[0] == x.numel()


def _layout(c: Tensor, x: Tensor) -> tuple[int, int] | None:
    """(inner, count): constant c belongs to flat index i of one step of x by (i / inner) % count."""
    if c.numel() == 1:
        return 1, 1
    axes = [a for a in range(-c.dim(), 0) if c.shape[a] != 1]
    if len(axes) != 1 or c.dim() > x.dim() or not c.is_contiguous():
        return None
    axis = axes[0]
    if -axis == x.dim() or c.shape[axis] != x.shape[axis]:
        return None  # differs between samples
    return x.stride(axis), c.shape[axis]


def _constant(c: Number, x: Tensor) -> tuple[float, int, int, int] | None:
    if not isinstance(c, Tensor):
        return float(c), 0, 1, 1
    if not _addressable(c):
        return None
    layout = _layout(c, x)
    return None if layout is None else (0.0, c.data_ptr(), *layout)


def _rule(p: LeakyParams, x: Tensor) -> tuple[Any, int] | None:
    """The constants for the kernels and the code of the surrogate, or None where they have no such form."""
    constants = [_constant(c, x) for c in (p.decay, p.gain, p.bias)]
    if None in constants:
        return None
    rule: FireRule = p.rule
    code, *slope = (GIVEN, 0.0, 0.0, 0.0, 1.0) if rule.kind.name == "integer" else formula(rule.surrogate)
    levels = float(rule.kind.levels) if rule.kind.name == "integer" else 1.0
    native = _native.Leaky(
        (_KINDS[rule.kind.name], _RESETS[p.reset], code),
        (rule.strict, rule.rounding == "half_up", rule.open_window, p.detach_reset, not p.memoryless),
        (float(rule.v_th), levels, float(p.reset_value), float(p.v_init), float(p.out_scale)),
        tuple(slope),
        *constants,
    )
    return native, code


ROWS = (torch.float32, torch.bfloat16)
_PLAIN = (Tensor, torch.nn.Parameter)  # subclasses (fake, wrapped) may have no storage to point at


def _addressable(x: Tensor, *types: torch.dtype) -> bool:
    return (
        type(x) in _PLAIN
        and x.dtype in (types or (torch.float32,))
        and x.device.type == "cpu"
        and x.layout == torch.strided
    )


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _like(value: Tensor | None, model: Tensor, dtype: torch.dtype | None = None) -> Tensor | None:
    """`value` in the memory order of `model` and in `dtype`, by default that of `model`."""
    dtype = dtype or model.dtype
    if value is None or (value.stride() == model.stride() and value.dtype == dtype):
        return value
    return torch.empty_like(model, dtype=dtype).copy_(value)


def _single(value: Tensor | None, model: Tensor) -> Tensor | None:
    """`value` in the memory order of `model` and in float32, the type of membranes."""
    return _like(value, model, torch.float32)


_UNNORMED = (0, 0, 0, 0, 1.0, 1, 1)


# -- the passes --------------------------------------------------------------------------------------------


def _forward(
    native: Any,
    x: Tensor,
    v0: Tensor | None,
    T: int,
    want_v: bool,
    form: int | None,
    bits: Tensor | None = None,
) -> Any:
    """Spikes, last membrane (None unless wanted) and saved state of a form, None: nothing is saved."""
    spikes = torch.empty_like(x)
    v = torch.empty_like(x[: x.shape[0] // T], dtype=torch.float32) if want_v else None
    saved = None
    if form == MEMBRANE:
        saved = torch.empty_like(x, dtype=torch.float32)
    elif form is not None and form != RECOMPUTE:
        saved = torch.empty(x.numel() * native.saved_bytes(form), dtype=torch.uint8)
    _native.leaky_forward(
        native,
        T,
        x.numel() // T,
        torch.get_num_threads(),
        x.data_ptr(),
        _address(v0),
        spikes.data_ptr(),
        _address(v),
        _address(saved),
        RECOMPUTE if saved is None else form,
        x.dtype == torch.bfloat16,
        _UNNORMED,
        _address(bits),
    )
    return spikes, v, saved


def _given(native: Any, x: Tensor, v0: Tensor | None, p: LeakyParams, T: int) -> tuple[Tensor, Tensor | None]:
    """Slopes at h - v_th and, for ternary neurons, at -h - v_th, by the surrogate's own `grad`."""
    h = _forward(native, x, v0, T, False, MEMBRANE)[2]
    slope, rule = p.rule.surrogate.grad, p.rule
    up = _single(slope(h - rule.v_th), x)
    return up, _single(slope(-h - rule.v_th), x) if rule.kind.name == "ternary" else None  # type: ignore[return-value]


def _per_neuron_sum(each: Tensor, c: Tensor, x: Tensor) -> Tensor:
    """Gradient of constant c from its gradient at each neuron of one step, in a fixed order."""
    inner, count = _layout(c, x) or (1, 1)
    out = torch.empty_like(c)
    inner = inner if count > 1 else max(each.numel(), 1)
    _native.sum_by_constant(each.data_ptr(), each.numel(), inner, count, out.data_ptr())
    return out


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v0: Tensor | None,
        decay: Number,
        gain: Number,
        bias: Number,
        T: int,
        p: LeakyParams,
        native: tuple[Any, int],
        want_v: bool,
        bits: Tensor | None,
    ) -> Any:
        rule, code = native
        wants = ctx.needs_input_grad
        form = _form_for(p, code, any(wants[2:5]))
        spikes, v, saved = _forward(rule, x, v0, T, want_v, form if any(wants) else None, bits)
        # Learned constants are saved too, so that a change in place is noticed; `rule` holds their addresses.
        constants = [c if isinstance(c, Tensor) else None for c in (decay, gain, bias)]
        inputs = (x, v0) if form == RECOMPUTE else (None, None)
        ctx.save_for_backward(*inputs, saved, *constants)
        ctx.native, ctx.T, ctx.p, ctx.form = native, T, p, form
        ctx.rows = x.shape, x.stride(), x.dtype
        ctx.set_materialize_grads(False)
        return spikes, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, v0, saved, *_ = ctx.saved_tensors
        shape, stride, dtype = ctx.rows
        like = torch.empty_strided(shape, stride, dtype=dtype) if x is None else x
        wants = ctx.needs_input_grad
        found = _backward(ctx.native, ctx.p, ctx.T, (x, v0), saved, ctx.form, like, (*grads, None), wants)
        return *found, None, None, None, None, None


def _backward(
    native: tuple[Any, int],
    p: LeakyParams,
    T: int,
    inputs: tuple[Tensor | None, Tensor | None],
    saved: Tensor | None,
    form: int,
    like: Tensor,
    grads: tuple[Tensor | None, ...],
    wants: Any,
) -> list[Tensor | None]:
    """Gradients of x, v0, decay, gain and bias, where they are wanted, from those of spikes, last v and h.

    `like` has the shape and the memory order of x, which is None where `saved` holds what is needed.
    """
    rule, code = native
    x, v0 = inputs
    dx = torch.empty_like(like) if wants[0] else None
    step = like[: like.shape[0] // T]
    up = down = None
    if code == GIVEN and p.rule.kind.name != "integer" and x is not None:
        up, down = _given(rule, x, v0, p, T)
    gs, gv, gh = _like(grads[0], like), _single(grads[1], step), _like(grads[2], like)
    dv0 = torch.empty_like(step, dtype=torch.float32) if wants[1] else None
    each = [torch.empty_like(step, dtype=torch.float32) if want else None for want in wants[2:5]]
    _native.leaky_backward(
        rule,
        T,
        step.numel(),
        torch.get_num_threads(),
        _address(x),
        _address(v0),
        _address(saved),
        form,
        (_address(up), _address(down)),
        (_address(gs), _address(gv), _address(gh)),
        _address(dx),
        _address(dv0),
        tuple(map(_address, each)),
        like.dtype == torch.bfloat16,
    )
    constants: Any = (p.decay, p.gain, p.bias)
    return [dx, dv0, *(None if e is None else _per_neuron_sum(e, c, like) for e, c in zip(each, constants))]


def _ready(x: Tensor, v0: Tensor | None, p: LeakyParams, T: int) -> tuple[Tensor, Tensor | None, Any] | None:
    """x and v0 as the kernels want them, and the constants; None where the kernels do not apply."""
    if not AVAILABLE or torch.compiler.is_compiling() or not _addressable(x, *ROWS) or x.numel() == 0:
        return None
    if (
        x.shape[0] % T
        or not (v0 is None or _addressable(v0, *ROWS))
        or _get_current_dispatch_mode() is not None
    ):
        return None
    if not _dense(x):
        x = x.contiguous()
    native = _rule(p, x)
    if native is None:
        return None
    return x, _single(v0, x[: x.shape[0] // T]), native


def apply(
    x: Tensor, T: int, v0: Tensor | None, p: LeakyParams, want_v: bool, bits: Tensor | None = None
) -> Any:
    """Spikes [T*B, ...] and the last membrane [B, ...] (None unless wanted) by the native kernels, or None
    where they do not apply.

    Args:
        x: rows [T*B, ...].
        v0: membrane [B, ...] before the first step; None starts at v_init.
        bits: room for binary spikes as bits (spike_bits.py), written too where gradients are on.
    """
    ready = _ready(x, v0, p, T)
    if ready is None:
        return None
    x, v0, native = ready
    if torch.is_grad_enabled():
        return _Native.apply(x, v0, p.decay, p.gain, p.bias, T, p, native, want_v, bits)
    return _forward(native[0], x, v0, T, want_v, None)[:2]


def membranes(x: Tensor, p: LeakyParams, T: int) -> Tensor | None:
    """Membranes before firing h from rest, [T*B, ...] in the memory order of x; None where the kernels do not
    apply."""
    ready = _ready(x, None, p, T)
    return None if ready is None else _forward(ready[2][0], ready[0], None, T, False, MEMBRANE)[2]


def all_forward(x: Tensor, v0: Tensor, p: LeakyParams, T: int) -> Any:
    """Spikes, last membrane and h, for the operator; None where the kernels do not apply."""
    ready = _ready(x, v0, p, T)
    return None if ready is None else _forward(ready[2][0], ready[0], ready[1], T, True, MEMBRANE)


def all_backward(x: Tensor, v0: Tensor, p: LeakyParams, T: int, grads: tuple[Tensor | None, ...]) -> Any:
    """Gradients of x, v0 and those of decay, gain, bias that are tensors, for the operator; None where the
    kernels do not apply."""
    ready = _ready(x, v0, p, T)
    if ready is None:
        return None
    wants = (True, True, *(isinstance(c, Tensor) for c in (p.decay, p.gain, p.bias)))
    dx, dv0, *sums = _backward(ready[2], p, T, ready[:2], None, RECOMPUTE, ready[0], grads, wants)
    return dx, dv0, [s for s in sums if s is not None]
