"""How a residual branch and its shortcut meet: on membranes, or on spikes.

    ms    u + f(u)            membranes; neurons come after the sum (MS-ResNet, arXiv:2112.08954)
    add   a + b               spikes to spike counts (SEW-ResNet ADD, arXiv:2102.04159)
    and   a * b               spikes stay binary (SEW AND)
    iand  (1 - a) * b         a = branch, b = shortcut (SEW IAND)
    or    a + b - a * b       spikes stay binary (SynA-ResNet ORRC, arXiv:2311.06570)

For a, b in {0, 1} the last three are exact logic, with gradients of the polynomials as written.
"""

from __future__ import annotations

from torch import Tensor, nn

from picojoule.core.errors import ConfigError, suggest

JOINS = ("add", "and", "iand", "or")


def join(a: Tensor, b: Tensor, op: str = "add") -> Tensor:
    """Meet of a branch `a` and a shortcut `b` of equal shape.

    >>> import torch
    >>> a, b = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])
    >>> [join(a, b, op).int().tolist() for op in JOINS]
    [[0, 1, 1, 2], [0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 1]]
    """
    if op == "add":
        return a + b
    if op == "and":
        return a * b
    if op == "iand":
        return b - a * b
    if op == "or":
        return a + b - a * b
    raise ConfigError(f"unknown join {op!r}; {suggest(op, JOINS)}")


class Join(nn.Module):
    """`join` as a module, so that plans and reports can name it.

    Args:
        op: "add", "and", "iand" or "or".
    """

    def __init__(self, op: str = "add") -> None:
        super().__init__()
        if op not in JOINS:
            raise ConfigError(f"unknown join {op!r}; {suggest(op, JOINS)}")
        self.op = op

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Rows of the branch and of the shortcut -> rows of the same shape."""
        return join(a, b, self.op)

    def extra_repr(self) -> str:
        return f"op={self.op!r}"
