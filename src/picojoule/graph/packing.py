"""pack: capture, choose the smallest grid that passes the gate, write the packed file with its figures."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from picojoule.core.errors import ConfigError, PackError
from picojoule.graph import nodes as g
from picojoule.graph import rates, reference
from picojoule.graph.capturing import capture
from picojoule.graph.checking import require_packable
from picojoule.graph.comparing import Baseline
from picojoule.graph.fold import snap
from picojoule.graph.grid import Grid, as_grid
from picojoule.graph.snapped import SnappedModel

CANDIDATES = (0, 1, 2, 3, 4, 6, 8, 10, 12, 16)
AGREEMENT = 0.997  # the gate without labels
ENOUGH = 2000  # samples that the gate wants
QUICK = 256  # samples of the first look, which only rejects
INPUT_BITS = 8  # of real inputs, if the gate allows
HOPELESS = 0.95  # agreement below which the first look rejects


@dataclass(frozen=True)
class PackResult:
    """What `pack` made: the snapped graph, the card of the file, the figures of statement (c), the model."""

    graph: g.Graph
    card: dict[str, Any]
    figures: dict[str, Any]
    model: SnappedModel


def pack(
    model: nn.Module | g.Graph,
    samples: Any,
    labels: Any = None,
    *,
    path: Any = None,
    grid: str | int | Grid = "search",
    gate: float = 0.3,
    base: Grid | None = None,
    card: dict[str, Any] | None = None,
    output: str | None = None,
    batch: int = 128,
    budget_s: float = 600.0,
    progress: bool = True,
    **capturing: Any,
) -> PackResult:
    """Capture, snap on the smallest grid that keeps the accuracy, measure, and write.

    Args:
        model: a module, or a captured graph.
        samples: batch-first inputs to measure on, an array or one per input; 2000 or more, not the test
            split.
        labels: class numbers; without them the gate is 99.7 % agreement.
        path: where to write the packed file; None writes nothing.
        grid: "search", fraction bits, or a Grid; a given grid is measured, not judged.
        gate: largest accuracy drop in points.
        base: settings of the search other than its fraction bits; its `input_frac` is the finest that the
            search takes: real inputs get 8 bits where that passes, unless `input_bits` is given.
        card: further entries of the file's card (plain JSON).
        output: key of the output that decides; None takes the first.
        budget_s: seconds after which the search lowers no further layer.
        progress: show a progress bar while searching.
        capturing: passed to `capture` (steps, input_kinds).
    Raises:
        PackError: something has no integer form, or no grid passes the gate; the figures are in the message.
    """
    captured = model
    if isinstance(model, nn.Module):
        first = samples if not isinstance(samples, dict) else list(samples.values())
        parts = first if isinstance(first, list | tuple) else [first]
        captured = capture(model, tuple(_two(part) for part in parts), **capturing)
    elif capturing:
        raise ConfigError(f"{sorted(capturing)} belong to capture; the graph was captured already")
    if not isinstance(captured, g.Graph):
        raise ConfigError(f"pack takes a module or a captured graph, got {type(model).__name__}")
    require_packable(captured)
    given = base if grid == "search" else grid if isinstance(grid, Grid) else None
    scale = given.input_bytes if given is not None else None
    measured = Baseline(captured, samples, labels, output=output, batch=batch, input_bytes=scale)
    if grid == "search":
        search = Search(captured, measured, gate, base or Grid(), budget_s, progress)
        chosen, snapped = search.run()
        tried = search.tried
    elif isinstance(grid, str):
        raise ConfigError(f"grid must be 'search', a number of fraction bits or a Grid, got {grid!r}")
    else:
        chosen, tried = as_grid(grid), []
        snapped = snap(captured, chosen, samples=measured.data)
    graph = snapped.graph()
    figures = measured.against(graph)
    figures.update(
        gate=gate, passed=_passes(figures, gate), enough_samples=measured.count >= ENOUGH, tried=tried,
        fraction_bits=chosen.frac, node_fraction_bits=dict(chosen.nodes),
        output_fraction_bits=chosen.out_frac, input_fraction_bits=chosen.input_frac,
    )  # fmt: skip
    steps = max((node.edge.steps for node in graph.nodes), default=0)
    rounding = {"decay": chosen.decay_rounding, "affine": "half_up", "input": "half_up"}
    # deploy reads graph, never the other way round at import: it is looked up when it is wanted
    paper = importlib.import_module("picojoule.deploy.sizes").paper_bytes(captured)
    whole = {"T": max(steps, 1), "rounding": rounding, "paper_bytes": paper, "figures": figures}
    whole["rates"] = rates.measure(graph, measured.parts(rates.RATE_SAMPLES), reference.run)
    whole |= card or {}
    if path is not None:
        importlib.import_module("picojoule.deploy.write").write(path, graph, whole)
    return PackResult(graph, whole, figures, snapped)


def _two(part: Any) -> Any:
    tensor = torch.as_tensor(part)
    if not len(tensor):
        raise ConfigError(
            "pack got no sample; give a batch of inputs as the model takes them, 2000 or more: the grid is "
            "chosen and measured on them"
        )
    tensor = tensor[:2] if len(tensor) > 1 else tensor.expand(2, *tensor.shape[1:])
    return tensor if tensor.is_floating_point() else tensor.float()


def _passes(figures: dict[str, Any], gate: float) -> bool:
    if "drop" in figures:
        return figures["drop"] <= gate
    return figures["agreement"] >= AGREEMENT


class Search:
    """Smallest global grid that passes, byte inputs, then fewer bits layer by layer while the gate holds."""

    def __init__(
        self, captured: g.Graph, measured: Baseline, gate: float, base: Grid, budget_s: float, progress: bool
    ) -> None:
        self.captured, self.measured, self.gate, self.base = captured, measured, gate, base
        self.until = time.monotonic() + budget_s
        self.progress = progress
        self.tried: list[dict[str, Any]] = []

    def run(self) -> tuple[Grid, SnappedModel]:
        """Grid and model.

        Raises:
            PackError: no grid passes; the message holds the figures of the finest one.
        """
        with _bar(self.progress) as tick:
            grid, model = self._inputs(*self._global(tick), tick)
            return self._lower(grid, model, tick)

    def _global(self, tick: Callable[[str], None]) -> tuple[Grid, SnappedModel]:
        for frac in CANDIDATES:
            tick(f"{frac} fraction bits everywhere")
            grid = replace(self.base, frac=frac)
            found = self._try(grid)
            if found is not None:
                return grid, found
        last = {k: v for k, v in self.tried[-1].items() if k != "nodes"}
        raise PackError(
            f"no grid up to {CANDIDATES[-1]} fraction bits passes the gate of {self.gate} points; the "
            f"finest gave {last}. Train on after snapping (graph.snap gives a trainable model), raise "
            "Grid.weight_bits or input_frac, or relax the gate"
        )

    def _inputs(
        self, grid: Grid, model: SnappedModel, tick: Callable[[str], None]
    ) -> tuple[Grid, SnappedModel]:
        """Real inputs of a byte, which processors multiply fastest; bits that the caller fixed stay."""
        bits = [node.edge.kind.bits for node in model.graph().inputs if not node.edge.kind.is_spikes]
        frac = grid.input_frac - (max(bits, default=0) - INPUT_BITS)
        if grid.input_bits is not None or not bits or not 0 <= frac < grid.input_frac:
            return grid, model
        tick(f"inputs of {INPUT_BITS} bits")
        lower = replace(grid, input_frac=frac)
        found = self._try(lower, first_look=self.measured.labels is None)
        return (grid, model) if found is None else (lower, found)

    def _lower(
        self, grid: Grid, model: SnappedModel, tick: Callable[[str], None]
    ) -> tuple[Grid, SnappedModel]:
        for node in model.grid_nodes:
            for frac in [c for c in reversed(CANDIDATES) if c < grid.of(node)]:
                if time.monotonic() > self.until:
                    return grid, model
                tick(f"{node}: {frac} fraction bits")
                lower = grid.with_node(node, frac)
                found = self._try(lower)
                if found is None:
                    break
                grid, model = lower, found
        return grid, model

    def _try(self, grid: Grid, first_look: bool = True) -> SnappedModel | None:
        """The snapped model when it passes, else None.

        The first look judges by answers that change; coarse inputs change some at random, so that with labels
        only the accuracy tells.
        """
        try:
            model = snap(self.captured, grid, samples=self.measured.data)
            model.graph()
        except PackError as error:
            if "bits" not in str(error):
                raise  # nothing that another grid could mend
            self.tried.append({**self._tried(grid), "passed": False, "error": str(error)})
            return None
        figures = self._figures(model, first_look)
        passed = "drop" in figures or "agreement" in figures
        passed = passed and not figures.get("quick", False) and _passes(figures, self.gate)
        self.tried.append({**self._tried(grid), "passed": passed, **figures})
        return model if passed else None

    @staticmethod
    def _tried(grid: Grid) -> dict[str, Any]:
        return {"frac": grid.frac, "input_frac": grid.input_frac, "nodes": dict(grid.nodes)}

    def _figures(self, model: SnappedModel, first_look: bool) -> dict[str, Any]:
        base = self.measured
        quick = min(QUICK, base.count)
        real = base.outputs(model, quick)
        if quick < base.count:
            agreement = base.agreement(real)
            if first_look and agreement < HOPELESS:
                return {"agreement": agreement, "quick": True}
            real = torch.cat([real, base.outputs(model, base.count, quick)])
        figures: dict[str, Any] = {"agreement": base.agreement(real)}
        if base.labels is not None:
            figures["drop"] = 100 * (base.accuracy(base.real) - base.accuracy(real))
        return figures


class _bar:
    """A progress line after two seconds of work; silent otherwise."""

    def __init__(self, shown: bool) -> None:
        self.shown, self.live = shown, None
        self.start = time.monotonic()

    def __enter__(self) -> Callable[[str], None]:
        return self.tick

    def tick(self, what: str) -> None:
        """Say what is tried now."""
        if not self.shown or time.monotonic() - self.start < 2:
            return
        if self.live is None:
            from rich.console import Console

            self.live = Console(stderr=True).status("choosing the grid")
            self.live.start()
        self.live.update(f"choosing the grid: {what} ({time.monotonic() - self.start:.0f} s)")

    def __exit__(self, *error: Any) -> None:
        if self.live is not None:
            self.live.stop()


__all__ = ["PackResult", "pack"]
