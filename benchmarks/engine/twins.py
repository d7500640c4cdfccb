"""Trained spiking nets against their ANN twins in int8: `train` makes the networks, `time` the table.

python benchmarks/engine/twins.py train --until 18:30     # resumable; one thread; copies nothing
python benchmarks/engine/twins.py time                    # resumable; writes results/engine_twins.json
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from twin_train import PARTS, networks, queue, run_job

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "results" / "engine_twins.json"
NOTE = (
    "One run with one seed each, trained on one thread within a time budget (epochs and steps beside each): "
    "the accuracies are as they are, not what the architectures can reach."
)


def seconds_until(clock: str) -> float:
    """Seconds to the next HH:MM."""
    now = datetime.datetime.now()
    hour, minute = (int(part) for part in clock.split(":"))
    then = now.replace(hour=hour, minute=minute, second=0)
    return (then - now).total_seconds()


def train(args: argparse.Namespace) -> None:
    """Work through the queue, one process a job, each with its share of the time that is left."""
    jobs = queue()
    if args.job:
        run_job(next(job for job in jobs if job.name == args.job), args.runs, args.seconds)
        return
    done = {job.name for job in jobs if (args.runs / job.name / "result.json").is_file()}
    for index, job in enumerate(jobs):
        finished = job.name in done and (job.part in ("float", "ann") or has_pack(args.runs / job.name))
        if finished:
            continue
        left = sum(other.weight for other in jobs[index:] if other.name not in done)
        share = (job.weight / max(left, job.weight)) * seconds_until(args.until)
        began = time.monotonic()
        command = [sys.executable, __file__, "train", "--runs", str(args.runs), "--job", job.name]
        code = subprocess.run([*command, "--seconds", str(0.85 * share)], check=False).returncode
        word = "done" if code == 0 else f"FAILED with {code}"
        print(f"{job.name}: {word}, {time.monotonic() - began:.0f} s of {share:.0f}", flush=True)


def has_pack(folder: Path) -> bool:
    """The run was packed and checked."""
    return (folder / "packed.json").is_file()


def measure(args: argparse.Namespace) -> None:
    """All sections of every network whose runs are complete; the others are named as missing."""
    import peers
    from clock import Report
    from machine import describe
    from twin_time import memory, quality, speed, threads_word, tune_files

    report = Report(args.out, {"machine": describe(*peers.PACKAGES), "T": 4, "note": NOTE}, args.fresh)
    missing = []
    for job in networks():
        absent = [p for p in PARTS if not (args.runs / replace(job, part=p).name / "result.json").is_file()]
        absent += [p for p in ("w1", "w4") if not has_pack(args.runs / f"{job.base}_{p}")]
        if absent:
            missing.append(f"{job.base}: {', '.join(dict.fromkeys(absent))}")
            continue
        report.section(f"{job.base}: quality", lambda job=job: quality(job, args.runs))
        report.section(f"{job.base}: tuned kernels", lambda job=job: tune_files(job, args.runs))
        report.section(f"{job.base}: memory", lambda job=job: memory(job, args.runs))
        for threads in (1, 2):
            for batch in (1, 64):
                report.section(
                    f"{job.base}: batch {batch}, {threads_word(threads)}",
                    lambda job=job, batch=batch, threads=threads: speed(
                        job, args.runs, batch, threads, args.seconds
                    ),
                )
    report.save(missing=missing)
    print("missing:", missing or "nothing")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "time"))
    parser.add_argument("--runs", type=Path, default=Path("runs/twins"))
    parser.add_argument("--until", default="18:30", help="clock time at which the queue should be through")
    parser.add_argument("--job", help="train this one only")
    parser.add_argument("--seconds", type=float, default=4.0, help="of --job; time: of a section")
    parser.add_argument("--fresh", action="store_true", help="time: measure everything again")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.what == "train":
        train(args)
    else:
        measure(args)


if __name__ == "__main__":
    main()
