"""What a run will take, before it starts: peak memory and time per epoch, from a few real steps.

A fresh process does what the run does (load data, build the model, train some batches, evaluate, write a
checkpoint) in a folder that is thrown away. Of these the epoch is put together:

    epoch = batches * step + validation samples / samples a second + checkpoint
    run   = setup + epochs * epoch + test samples / samples a second

Steps are timed after two warm ones, each with its data and augmentation; the median counts. There are at
least 8, and more while they fit into five seconds: memory settles only after some. Peak memory is that of the
process. What the estimate cannot know: firing rates that change in training, other work, and
checkpoints in mid-epoch (`train.checkpoint_minutes`), which cost `checkpoint` each.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from picojoule.core.errors import ConfigError, PicojouleError
from picojoule.core.tune import tune
from picojoule.learn.config import Recipe, make_recipe
from picojoule.learn.logs import RunLog
from picojoule.learn.loop import Trainer
from picojoule.learn.setup import restore_readouts, set_readouts

WARM, LEAST, MOST, SECONDS = 2, 8, 40, 5.0
_ERROR = "explained error: "


@dataclass(frozen=True)
class Estimate:
    """Times in seconds, memory in bytes; of one process.

    Args:
        peak_bytes: largest resident memory of the process.
        device_bytes: largest memory allocated on a GPU; 0 without one.
        setup_seconds: imports are not in it; data, model and first two batches are.
        step_seconds: one batch, with its data.
        validation_seconds, checkpoint_seconds: of an epoch; test_seconds: once, at the end.
        batches: of an epoch.
    """

    peak_bytes: int
    device_bytes: int
    setup_seconds: float
    step_seconds: float
    validation_seconds: float
    checkpoint_seconds: float
    test_seconds: float
    batches: int
    epochs: int
    parameters: int
    threads: int
    device: str

    @property
    def epoch_seconds(self) -> float:
        """One epoch with its validation and checkpoint."""
        return self.batches * self.step_seconds + self.validation_seconds + self.checkpoint_seconds

    @property
    def run_seconds(self) -> float:
        """The whole run, if no patience ends it earlier."""
        return self.setup_seconds + self.epochs * self.epoch_seconds + self.test_seconds


def estimate(recipe: Recipe, steps: int | None = None) -> Estimate:
    """Measure a few steps of the recipe in a process of its own.

    Args:
        steps: batches that are timed, >= 1, after two warm ones; None: 8 to 40, by their time.
    Raises:
        ConfigError: steps < 1; or whatever the recipe is refused with.
    """
    if steps is not None and steps < 1:
        raise ConfigError(f"an estimate times at least 1 step, got steps={steps}")
    task = json.dumps({"recipe": recipe.to_dict(), "steps": steps})
    line = [sys.executable, "-m", "picojoule.learn.estimate"]
    done = subprocess.run(line, input=task, capture_output=True, text=True)
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        if told[-1].startswith(_ERROR):
            raise ConfigError(told[-1].removeprefix(_ERROR))
        raise RuntimeError(
            f"the estimate failed: {told[-1]} (exit status {done.returncode}; -9: out of memory)"
        )
    return Estimate(**json.loads(done.stdout.splitlines()[-1]))


def measure(recipe: Recipe, steps: int | None, folder: Path) -> Estimate:
    """The figures, in this process: its peak memory counts from its start. `steps` as in `estimate`."""
    began = time.perf_counter()
    trainer = Trainer(recipe, folder, quiet=True)
    log = RunLog(folder)
    trainer.model.train()
    modes = set_readouts(trainer.raw, "steps") if getattr(trainer.criterion, "needs_steps", False) else []
    times = _steps(trainer, steps)
    restore_readouts(modes)
    setup = time.perf_counter() - began - sum(times)
    log.close()
    rate = _samples_a_second(trainer)
    began = time.perf_counter()
    trainer._save()
    saved = time.perf_counter() - began
    gpu = trainer.workers.device.type == "cuda"
    return Estimate(
        peak_bytes=peak_bytes(),
        device_bytes=torch.cuda.max_memory_allocated() if gpu else 0,
        setup_seconds=setup,
        step_seconds=statistics.median(times),
        validation_seconds=trainer.feed.size("val") / rate,
        checkpoint_seconds=saved,
        test_seconds=trainer.feed.size("test") / rate,
        batches=trainer.feed.batches,
        epochs=recipe.train.epochs,
        parameters=sum(p.numel() for p in trainer.raw.parameters()),
        threads=torch.get_num_threads(),
        device=str(trainer.workers.device),
    )


def _steps(trainer: Trainer, count: int | None) -> list[float]:
    times: list[float] = []

    def enough() -> bool:
        done = len(times) - WARM
        if count is not None:
            return done >= count
        return done >= LEAST and (done >= MOST or sum(times) >= SECONDS)

    while not enough():
        last = time.perf_counter()
        for x, y in trainer.feed.train():
            trainer._batch(x, y, last=trainer.feed.position >= trainer.feed.batches)
            if trainer.workers.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            times.append(now - last)
            last = now
            if enough():
                break
        trainer.feed.next_epoch()
    return times[WARM:]


@torch.no_grad()
def _samples_a_second(trainer: Trainer, batches: int = 3) -> float:
    """Evaluation on the first batches of the validation split; the first of several is a warm one."""
    trainer.raw.eval()
    seconds, samples = 0.0, 0
    last = time.perf_counter()
    for number, (x, _) in enumerate(trainer.feed.evaluation("val")):
        trainer.raw(x.to(trainer.workers.device)).argmax(1).cpu()
        now = time.perf_counter()
        if number == 1:
            seconds, samples = 0.0, 0
        seconds, samples, last = seconds + now - last, samples + len(x), now
        if number == batches:
            break
    return samples / max(seconds, 1e-9)


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would also count what the parent had when it forked
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> int:
    """Read a task from standard input, print the figures as one line."""
    task = json.loads(sys.stdin.read())
    tune()
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(make_recipe(task["recipe"]), task["steps"], Path(folder))
    except PicojouleError as error:
        sys.stderr.write(f"{_ERROR}{' '.join(str(error).split())}\n")
        return 2
    sys.stdout.write(json.dumps(found.__dict__) + "\n")
    return 0


__all__ = ["Estimate", "estimate", "measure", "peak_bytes"]


if __name__ == "__main__":
    sys.exit(main())
