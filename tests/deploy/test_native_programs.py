"""The native test programs: every kernel forced against pages that may not be touched, and on 64-bit Arm.

Each script builds incrementally under build/, so that a second run costs what the test costs.
"""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from picojoule.deploy.engine import ISAS

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "native" / "tests"
SUMS = {
    "scalar",
    "event_bits",
    "static_bits",
    "event_rows",
    "dense_rows",
    "dense_bytes",
    "lookup_bits",
    "dot_bits",
}
KERNELS = {
    "Conv": SUMS | {"vector", "depth_bits", "lookup_words"},
    "Linear": SUMS,
    "Neuron": {"scalar", "vector", "rows", "planes"},
    "Pool": {"scalar", "vector", "packed"},
    "Mul": {"scalar", "packed"},
    "Logic": {"scalar", "packed"},
    "Mean": {"scalar", "packed"},
    "Add": {"scalar", "vector"},
}


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def script(name: str, *arguments: str) -> str:
    done = subprocess.run([str(TESTS / name), *arguments], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


def check(output: str, graphs: int, isas: tuple[str, ...]) -> None:
    """`forced_kernels` ran what it was asked to, every kernel of every node among it."""
    found = re.search(r"(\d+) graphs, (\d+) forced kernels, (\d+) refusals; ([\w ]+); ([\w. ]+)\n", output)
    assert found, output
    assert int(found[1]) == graphs
    assert int(found[2]) > 10 * graphs * (len(isas) - 1)
    assert int(found[3]) > graphs
    assert tuple(found[4].split()) == isas
    names = found[5].split()
    for node, kernels in KERNELS.items():
        assert kernels <= {name.split(".")[1] for name in names if name.startswith(node + ".")}


@pytest.mark.slow
def test_no_kernel_reads_beyond_a_tensor() -> None:
    need("g++")
    check(script("run_guarded.sh", "100"), 100, ISAS)


@pytest.mark.slow
def test_every_kernel_on_arm() -> None:
    need("aarch64-linux-gnu-g++", "qemu-aarch64")
    check(script("run_aarch64.sh", "60"), 60, ("scalar", "generic", "neon"))


@pytest.mark.slow
def test_warm_calls_allocate_nothing() -> None:
    need("g++")
    found = re.search(r"(\d+) warm calls allocate nothing", script("run_allocations.sh", "40"))
    assert found
    assert int(found[1]) > 1000


@pytest.mark.slow
def test_sanitizers_find_nothing() -> None:
    need("g++")
    output = script("run_sanitizers.sh", "400")
    assert output.count("graphs,") == output.count("cases:") == 2


@pytest.mark.parametrize(
    "source",
    [
        f"{kernels}_{isa}.cpp"
        for kernels in ("fast", "lookup", "lookup_words")
        for isa in ("avx2", "avx512", "neon")
    ],
)
def test_instruction_sets_compile(source: str, tmp_path: Path) -> None:
    """Where the compiler can: no processor is needed for that."""
    compiler = "aarch64-linux-gnu-g++" if "neon" in source else "g++"
    need(compiler)
    if "avx" in source and platform.machine() != "x86_64":
        pytest.skip("an AVX build needs an x86 compiler")
    listed = dict(re.findall(r'^(avx2|avx512)="(.*)"$', (TESTS / "build_native.sh").read_text(), re.M))
    flags = (
        []
        if "neon" in source
        else listed["avx2"].split() + (listed["avx512"].split() if "512" in source else [])
    )
    command = [
        compiler,
        "-std=c++20",
        "-fsyntax-only",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-psabi",
        "-fwrapv",
        *flags,
    ]
    src = ROOT / "native" / "src"
    include = ["-I", str(ROOT / "native" / "include"), "-I", str(src)]
    done = subprocess.run(
        [*command, *include, str(src / source)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # The build proper compiles with the same flags.
    if flags:
        text = (ROOT / "native" / "CMakeLists.txt").read_text()
        assert all(flag in text for flag in flags)
