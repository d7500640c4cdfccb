"""The linear-charge core as two compiled graphs, for CUDA: all steps forward, all steps backward.

The loop over steps is unrolled into one graph of element-wise operations, which inductor makes into one
Triton kernel: membranes stay in registers, x is read once forward; x and the gradient of the spikes are read
and dx is written once backward. Nothing but the input is kept between the passes. Rows of half precision are
widened inside, membranes and states are float32. Graphs are made for one shape each, without a guard and
without a synchronisation with the host, so that CUDA graphs can record them after a first call.

The same graphs compile for a CPU, which is how they are tested where there is no GPU; on a GPU they have not
been run yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._triton import has_triton

from picojoule.neurons.leaky_kernel import LeakyParams, Number, reset_membrane, reset_slope
from picojoule.neurons.leaky_native import _dense

TYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS = {"max_fusion_size": 4096}  # the default would cut long sequences in several kernels
LIMIT = 256  # graphs kept; a program with more shapes than that runs on PyTorch

_graphs: dict[Any, Any] = {}


def _charged(x: Tensor, v: Tensor, p: LeakyParams, constants: tuple[Number, ...]) -> list[Tensor]:
    """Membranes h of all steps from rows x [T, N] and v [N], then the membrane after the last."""
    decay, gain, bias = constants
    rows = []
    for current in x.unbind(0):
        h = v * decay + (current.float() * gain + bias)
        v = reset_membrane(h, p.rule.fire(h), p)
        rows.append(h)
    return [*rows, v]


def _forward(x: Tensor, v: Tensor, p: LeakyParams, constants: tuple[Number, ...]) -> tuple[Tensor, Tensor]:
    *rows, v = _charged(x, v, p, constants)
    return torch.stack([(p.rule.fire(h) * p.out_scale).to(x.dtype) for h in rows]), v


def _backward(
    x: Tensor, v0: Tensor, gs: Tensor, gv: Tensor, p: LeakyParams, constants: tuple[Number, ...]
) -> list[Tensor]:
    """dx, dv0 and the gradients of those constants that are tensors."""
    decay, gain, _ = constants
    *rows, _ = _charged(x, v0, p, constants)
    learned = [torch.zeros_like(v0) if isinstance(c, Tensor) else None for c in constants]
    out, dv = [], gv
    for t in range(len(rows) - 1, -1, -1):
        h = rows[t]
        n = p.rule.fire(h)
        slope = p.rule.grad(h)
        keep = reset_slope(h, n, slope, p)
        dh = gs[t].float() * slope * p.out_scale + (dv if keep is None else dv * keep)
        before = v0 if t == 0 else reset_membrane(rows[t - 1], p.rule.fire(rows[t - 1]), p)
        for i, factor in enumerate((before, x[t].float(), None)):
            if learned[i] is not None:
                learned[i] = learned[i] + (dh if factor is None else dh * factor)  # type: ignore[operator]
        out.append((dh * gain).to(x.dtype))
        dv = dh * decay
    sums = [g.sum() for g in learned if g is not None]
    return [torch.stack(out[::-1]), dv, *sums]


def _key(p: LeakyParams, inputs: list[Tensor]) -> Any:
    constants = tuple("tensor" if isinstance(c, Tensor) else c for c in (p.decay, p.gain, p.bias))
    rule = (p.rule, p.reset, p.reset_value, p.detach_reset, p.out_scale)
    return constants, rule, tuple((tuple(i.shape), i.dtype, i.device) for i in inputs)


def _graph(kind: Callable[..., Any], p: LeakyParams, inputs: list[Tensor]) -> Any:
    """`kind` compiled for these rows and constants; tensors among the constants come last in `inputs`."""
    key = (kind.__name__, _key(p, inputs))
    if key not in _graphs:
        names = (p.decay, p.gain, p.bias)
        count = len(p.learned)

        def body(*tensors: Tensor) -> Any:
            left = list(tensors[len(tensors) - count :]) if count else []
            constants = tuple(left.pop(0) if isinstance(c, Tensor) else c for c in names)
            return tuple(kind(*tensors[: len(tensors) - count], p, constants))

        with torch.no_grad():
            examples: list[Any] = [torch.empty_like(i) for i in inputs]
            traced = make_fx(body, tracing_mode="fake")(*examples)
            _graphs[key] = torch._inductor.compile(traced, examples, options=OPTIONS)
    return _graphs[key]


class _Graph(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v0: Tensor, decay: Number, gain: Number, bias: Number, T: int, p: LeakyParams
    ) -> Any:
        rows, v = _flat(x, T), _like(v0, x, T)
        learned = [c.detach().float().reshape(()) for c in (decay, gain, bias) if isinstance(c, Tensor)]
        spikes, last = _graph(_forward, p, [rows, v, *learned])(rows, v, *learned)
        ctx.save_for_backward(x, v0, *learned)
        ctx.T, ctx.p = T, p
        ctx.set_materialize_grads(False)
        return _unflat(spikes, x, x.shape[0]), _unflat(last, x, x.shape[0] // T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, v0, *learned = ctx.saved_tensors
        T, p = ctx.T, ctx.p
        rows, v = _flat(x, T), _like(v0, x, T)
        gs = torch.zeros_like(rows) if grads[0] is None else _flat(_ordered(grads[0], x), T)
        gv = torch.zeros_like(v) if grads[1] is None else _like(grads[1], x, T)
        inputs = [rows, v, gs, gv, *learned]
        dx, dv, *sums = _graph(_backward, p, inputs)(*inputs)
        left = list(sums)
        constants = [
            left.pop(0).reshape(c.shape).to(c.dtype) if isinstance(c, Tensor) else None
            for c in (p.decay, p.gain, p.bias)
        ]
        dv0 = _unflat(dv, x, x.shape[0] // T).to(v0.dtype) if ctx.needs_input_grad[1] else None
        return _unflat(dx, x, x.shape[0]), dv0, *constants, None, None


def _flat(x: Tensor, T: int) -> Tensor:
    """Rows [T, N] in memory order, without a copy."""
    return x.detach().as_strided((T, x.numel() // T), (x.numel() // T, 1))


def _unflat(rows: Tensor, x: Tensor, leading: int) -> Tensor:
    """Rows in memory order back in the shape of `x`, with another leading axis."""
    return rows.as_strided((leading, *x.shape[1:]), x.stride())


def _ordered(value: Tensor, x: Tensor) -> Tensor:
    """`value` in the memory order and type of `x`."""
    same = value.stride() == x.stride() and value.dtype == x.dtype
    return value if same else torch.empty_like(x).copy_(value)


def _like(v: Tensor, x: Tensor, T: int) -> Tensor:
    """Membranes [N] float32 in the memory order of one step of x."""
    step = x[: x.shape[0] // T]
    return _ordered(v.detach().float(), step.float()).as_strided((step.numel(),), (1,))


def _applies(x: Tensor, p: LeakyParams, T: int) -> bool:
    known = type(x) in (Tensor, torch.nn.Parameter) and x.dtype in TYPES and x.numel() > 0
    single = all(c.numel() == 1 for c in p.learned)
    return known and single and x.shape[0] % T == 0 and _hashable(p.rule) and len(_graphs) < LIMIT


def _hashable(rule: Any) -> bool:
    try:
        hash(rule)
    except TypeError:  # a surrogate of a user that is no frozen dataclass
        return False
    return True


def apply(x: Tensor, T: int, v0: Tensor | None, p: LeakyParams) -> tuple[Tensor, Tensor] | None:
    """Spikes [T*B, ...] and the last membrane [B, ...] by compiled graphs, or None where they do not apply:
    other types than float32 and halves, constants that differ between channels, more shapes than LIMIT, or
    CUDA without Triton."""
    if not _applies(x, p, T) or torch.compiler.is_compiling() or (x.is_cuda and not has_triton()):
        return None
    x = x if _dense(x) else x.contiguous()
    if v0 is None:
        v0 = x.new_full((x.shape[0] // T, *x.shape[1:]), p.v_init, dtype=torch.float32)
    return _Graph.apply(x, v0, p.decay, p.gain, p.bias, T, p)


__all__ = ["apply"]
