"""What a first answer costs: time and peak memory of fresh processes, Python and C.

    python benchmarks/engine/import_cost.py --runs 15 --out benchmarks/engine/import_cost.json

Every run is a new process, started by a small C program that waits for it and reads its peak of resident
memory; all kinds take turns, and the median of the runs is kept. Files are in the page cache. Memory counts
pages that are shared with other processes (the interpreter, libraries) as the system does; `above_numpy_mib`
is what picojoule adds to a Python that has imported NumPy. Needs a C compiler and the C library of the build.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests" / "deploy"))

LAUNCHER = r"""
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
int main(int count, char **words) {
  struct timespec a, b;
  struct rusage use;
  int status = 1;
  clock_gettime(CLOCK_MONOTONIC, &a);
  pid_t child = fork();
  if (child == 0) { freopen("/dev/null", "w", stdout); execvp(words[1], words + 1); _exit(127); }
  if (count < 2 || wait4(child, &status, 0, &use) < 0 || status) return 1;
  clock_gettime(CLOCK_MONOTONIC, &b);
  printf("%.6f %ld\n", (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec), use.ru_maxrss);
  return 0;
}
"""

RESULT = """
import numpy as np
from picojoule import deploy
model = deploy.load({name!r})
edge = model.graph.inputs[0].edge
model.predict(np.zeros((1, *edge.shape), np.uint8))
"""


def compiled(folder: Path, source: Path, name: str, *flags: str) -> Path:
    """A program made of one C file."""
    compiler = shutil.which("cc")
    if compiler is None:
        sys.exit("this benchmark needs a C compiler (cc)")
    program = folder / name
    subprocess.run([compiler, "-O2", "-w", str(source), "-o", str(program), *flags], check=True)
    return program


def commands(folder: Path, name: str) -> dict[str, list[str]]:
    """What is measured, by kind."""
    import c_library

    from picojoule.deploy.model import ZOO

    library = Path(c_library.library()._name)
    classify = compiled(
        folder,
        ROOT / "examples" / "c" / "classify.c",
        "classify",
        f"-I{ROOT / 'native' / 'include'}",
        str(library),
        f"-Wl,-rpath,{library.parent}",
    )
    image = folder / "image.raw"
    image.write_bytes(np.zeros(1 << 16, np.uint8).tobytes())
    python = [sys.executable, "-c"]
    return {
        "python": [*python, "pass"],
        "python + numpy": [*python, "import numpy"],
        "import picojoule.deploy": [*python, "import picojoule.deploy"],
        "picojoule.deploy, first result": [*python, RESULT.format(name=name)],
        "C example, first result": [str(classify), str(ZOO / f"{name}.pj"), str(image)],
    }


def measure(runs: int, name: str) -> dict[str, dict[str, float]]:
    """Median seconds and MiB by kind."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        source = folder / "launcher.c"
        source.write_text(LAUNCHER)
        launcher = compiled(folder, source, "launcher")
        kinds = commands(folder, name)
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for turn in range(runs + 1):
            for kind, command in kinds.items():
                done = subprocess.run([launcher, *command], check=True, capture_output=True, text=True)
                seconds, kib = done.stdout.split()
                if turn:  # the first fills the page cache
                    found[kind].append((float(seconds), float(kib) / 1024))
    return {
        kind: {
            "ms": round(1e3 * statistics.median(s for s, _ in rows), 2),
            "peak_mib": round(statistics.median(m for _, m in rows), 2),
        }
        for kind, rows in found.items()
    }


def main() -> None:
    """Prints the table; writes JSON with --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--model", default="digits_vgg_w1", help="a shipped model that reads bytes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measure(options.runs, options.model)
    base = rows["python + numpy"]["peak_mib"]
    for kind, row in rows.items():
        if "picojoule" in kind:
            row["above_numpy_mib"] = round(row["peak_mib"] - base, 2)
        print(f"{kind:32s} {row['ms']:9.2f} ms {row['peak_mib']:8.2f} MiB")
    if options.out:
        from machine import describe

        data = {"machine": describe(threads=1), "model": options.model, "runs": options.runs, "rows": rows}
        options.out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
