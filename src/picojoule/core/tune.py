"""Settings of the process that make PyTorch on a CPU faster; off unless asked for.

glibc returns every large tensor to the kernel when it is freed, and the next one is made of fresh pages, each
zeroed at its first touch: training spends several times the cost of its element-wise work on page faults.
`tune` keeps freed memory in the process instead. The price: memory that was once used stays reserved.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from picojoule.core.errors import ConfigError

KEEP_BYTES = 1 << 30
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def tune(threads: int | None = None, keep_bytes: int = KEEP_BYTES) -> dict[str, Any]:
    """Keep freed memory in the process and set the number of threads; call it once, early.

    The library never calls it by itself; `pj train`, `pj compress` and `pj demo` do. It lasts until the
    process ends. Without glibc the allocator is left as it is.

    Args:
        threads: threads of PyTorch's operators and of the native training kernels, >= 1; None leaves them.
            Where torch is not loaded yet the number goes to OMP_NUM_THREADS, which torch reads when it loads.
        keep_bytes: blocks below this size are kept in the process, >= 0 and below 2 GiB.
    Returns:
        what is set now: "keep_bytes" (0 where the allocator was left alone) and "threads" (None: untouched).
    Raises:
        ConfigError: threads or keep_bytes out of range.

    >>> tune()["threads"] is None
    True
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}; None leaves them as they are")
    if not 0 <= keep_bytes < 1 << 31:
        raise ConfigError(f"keep_bytes must lie in [0, 2 GiB), got {keep_bytes}")
    if threads is not None:
        torch = sys.modules.get("torch")
        if torch is None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        else:
            torch.set_num_threads(threads)
    return {"keep_bytes": keep_bytes if _keep(keep_bytes) else 0, "threads": threads}


def _keep(size: int) -> bool:
    """Tell glibc to serve blocks below `size` from memory that stays; False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has a mallopt that does nothing
        return False
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, size)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, size))
