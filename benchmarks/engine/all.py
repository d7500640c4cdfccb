"""Every benchmark of the engine, one after the other, then pages and pictures: for a quiet machine.

    python benchmarks/engine/all.py --fresh                  # about a quarter of an hour
    python benchmarks/engine/all.py                          # goes on where it was stopped

--runs: folder of the trained networks (`twins.py train`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/twins"))
    args = parser.parse_args()
    fresh = ["--fresh"] if args.fresh else []
    steps = (
        ["twins.py", "time", "--runs", str(args.runs), *fresh],
        ["layers.py", *fresh],
        ["growth.py", *fresh],
        ["table.py"],
    )
    for script, *rest in steps:
        began = time.monotonic()
        code = subprocess.run([sys.executable, str(HERE / script), *rest], check=False).returncode
        print(f"{script}: {'done' if code == 0 else f'FAILED with {code}'}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
