"""Process groups: how a run leaves the one it joined."""

from __future__ import annotations

import atexit
import functools

import torch.distributed as dist


@functools.cache
def leave_group_at_exit() -> None:
    """Destroy the process group when the interpreter ends.

    A group that is still alive then ends with its threads running, which aborts the process (exit status
    134) after a run that went well. The group stays whole until then: other runs of the process use it.
    """
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
