"""Timing that bears a busy machine: contenders in turn, percentiles, a JSON that remembers what is done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]
Sampler = Callable[[], float]


def wall(call: Call, inner: int = 1, pause: float = 0.0) -> Sampler:
    """Seconds of a call: the mean of `inner` runs, after one that brings its data back into the caches.

    Args:
        pause: seconds of rest before, so that another library's spinning threads have gone to sleep.
    """

    def sample() -> float:
        if pause:
            time.sleep(pause)
        call()
        start = time.perf_counter()
        for _ in range(inner):
            call()
        return (time.perf_counter() - start) / inner

    return sample


def interleave(samplers: dict[str, Sampler], rounds: int) -> dict[str, Any]:
    """Milliseconds by name, {"median", "p95", "min"}.

    Each round takes one sample of all, so that load hits them alike, in an order drawn anew: none always
    follows the one that leaves the caches worst. One more round before them warms up and is not counted.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    rng = np.random.default_rng(0)
    for index in range(rounds + 1):
        for name in rng.permutation(list(samplers)):
            spent = samplers[name]()
            if index:
                samples[name].append(spent * 1e3)
    return {name: summary(values) for name, values in samples.items()}


def summary(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and minimum, to four digits."""
    found = {"median": np.median(values), "p95": np.percentile(values, 95), "min": min(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


class Report:
    """A JSON file of sections; one that is there already is not measured again.

    Args:
        path: the file.
        head: what stands beside the sections (machine, settings), replaced at every run.
        fresh: forget what the file holds.
    """

    def __init__(self, path: Path, head: dict[str, Any], fresh: bool = False) -> None:
        self.path, self.head = path, head
        known = json.loads(path.read_text()) if path.is_file() and not fresh else {}
        self.sections: dict[str, Any] = known.get("sections", {})

    def section(self, name: str, make: Callable[[], Any]) -> Any:
        """The section's value, measured now or taken from the file; written at once."""
        if name not in self.sections:
            began = time.monotonic()
            self.sections[name] = make()
            self.save()
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        return self.sections[name]

    def save(self, **more: Any) -> None:
        """Write the file, with further entries at its top level."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**self.head, **more, "sections": self.sections}, indent=1)
        self.path.write_text(text + "\n")
