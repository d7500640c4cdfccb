"""Every benchmark of training, one after the other, then the tables: for a quiet machine.

    python benchmarks/train/all.py --fresh                       # about 25 minutes
    python benchmarks/train/all.py                               # goes on where it was stopped
    python benchmarks/train/all.py --sections whole_step table   # these alone

| section | minutes | threads | |
|---|---|---|---|
| lif_layer | 3 | 1 | a LIF layer against other libraries |
| event_limits | 1 | 1 | where event kernels beat dense ones |
| whole_step | 10 | 1 | whole training steps, at the rates in train_rates.json too |
| scaling | 2 | 1, 2 | T, batch, width; two processes |
| estimate | 3 | 1 | `pj train --estimate` against real epochs |
| time_to_accuracy | 6 | 2 | one seed of each data set; `--seeds 0 1 2` three |
| table | 0 | | docs/training-speed.md |

A section whose file is complete is not measured again; --fresh removes the files of the sections first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
# Sections that go on by themselves where their file ends.
RESUMED = ("whole_step", "time_to_accuracy")
SECTIONS: dict[str, list[str]] = {
    "lif_layer": ["--compile"],
    "event_limits": [],
    "whole_step": ["--compile", "resnet18", "vgg11", "sdt_v1", "sdt_v3"],
    "scaling": [],
    "estimate": ["--rounds", "1"],
    "time_to_accuracy": ["--threads", "2"],
    "table": [],
}


def file_of(section: str) -> Path:
    """Where a section's figures stand."""
    return RESULTS / f"train_{section}.json"


def complete(section: str) -> bool:
    """True when nothing of a section is left to be measured."""
    path = file_of(section)
    if section == "table" or section in RESUMED or not path.is_file():
        return False
    found = json.loads(path.read_text())
    sys.path.insert(0, str(HERE))
    if section == "scaling":
        from scaling import SIZES

        return all(part in found for part in ("processes", *SIZES))
    if section == "estimate":
        from estimate import RECIPES

        return all(name in found["recipes"] for name in RECIPES)
    return True


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seeds", nargs="+", default=["0"], help="of time_to_accuracy")
    args = parser.parse_args()
    if args.fresh:
        for section in args.sections:
            file_of(section).unlink(missing_ok=True)
    for section in args.sections:
        if complete(section):
            print(f"{section}: measured already")
            continue
        more = ["--seeds", *args.seeds] if section == "time_to_accuracy" else []
        out = [] if section == "table" else ["--out", str(file_of(section))]
        began = time.monotonic()
        line = [sys.executable, str(HERE / f"{section}.py"), *out, *SECTIONS[section], *more]
        code = subprocess.run(line, check=False).returncode
        told = "done" if code == 0 else f"FAILED with {code}"
        print(f"{section}: {told}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
