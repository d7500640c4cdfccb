"""A plain torch network as a spiking one: activations become neurons, time is added around it."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import CaptureError


class Wrapped(nn.Module):
    """Entry, a model that works on rows, Readout."""

    def __init__(self, body: nn.Module, T: int, mode: str = "static", readout: str = "mean") -> None:
        super().__init__()
        self.entry = timeline.Entry(T, mode)
        self.body = body
        self.readout = timeline.Readout(T, readout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] (static) or [B, T, ...] (frames) -> [B, ...]."""
        return self.readout(self.body(self.entry(x)))


def spiking(
    model: nn.Module,
    neuron: Callable[[], nn.Module],
    T: int,
    *,
    replace: tuple[type[nn.Module], ...] = (nn.ReLU,),
    mode: str = "static",
    readout: str = "mean",
) -> Wrapped:
    """A copy of any torch model with each activation module replaced by a neuron, over T steps.

    Args:
        model: works on [B, ...]; not touched. An activation that is called twice becomes one neuron, which is
            right, because neurons start from rest at every call.
        neuron: makes one neuron with T steps.
        replace: classes of the activations.
        mode, readout: as in timeline.Entry and timeline.Readout.
    Raises:
        CaptureError: the model holds no module of these classes (functional activations cannot be found).
    """
    body = copy.deepcopy(model)
    places = [(parent, name) for parent in body.modules() for name, child in parent.named_children()
              if isinstance(child, replace)]  # fmt: skip
    if not places:
        raise CaptureError(
            f"{type(model).__name__} holds no {' or '.join(c.__name__ for c in replace)} module to "
            "replace; write "
            "activations as modules (nn.ReLU()) instead of functions (F.relu)"
        )
    made: dict[int, nn.Module] = {}
    for parent, name in places:
        old = getattr(parent, name)
        setattr(parent, name, made.setdefault(id(old), neuron()))
    return Wrapped(body, T, mode, readout)
