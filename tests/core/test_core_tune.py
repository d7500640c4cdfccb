"""tune(): freed memory stays in the process, threads are set, nothing else changes."""

import platform
import subprocess
import sys

import pytest

from picojoule.core.errors import ConfigError
from picojoule.core.tune import tune

FAULTS = """
import resource, sys
import numpy as np
from picojoule.core.tune import tune
if sys.argv[1] == "on":
    print(tune()["keep_bytes"])
def block():
    np.empty(64 << 20, np.uint8)[:] = 1
block()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    block()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code: str, *args: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc is the subject")
def test_memory_stays_in_the_process():
    kept, faults = run(FAULTS, "on")
    assert int(kept) == 1 << 30
    assert int(faults) < 50
    # Without it every block comes back as fresh pages: 32 a block where pages hold 2 MiB, 16384 where 4 KiB.
    assert int(run(FAULTS, "off")[0]) > 90 > int(faults)


def test_threads_before_and_after_torch():
    code = (
        "import sys; from picojoule.core.tune import tune;"
        "print(tune(threads=2)['threads'], 'torch' in sys.modules);"
        "import torch; print(torch.get_num_threads()); tune(threads=1); print(torch.get_num_threads());"
        "tune(); print(torch.get_num_threads())"
    )
    assert run(code) == ["2", "False", "2", "1", "1"]


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"keep_bytes": -1}, {"keep_bytes": 1 << 31}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        tune(**wrong)


def test_shortcut():
    import picojoule

    assert picojoule.tune is tune
