"""The training loop on Accelerate: resumable bit for bit, one process or several."""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn

from picojoule.compress import progress_
from picojoule.core.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from picojoule.learn.batchnorm import share_batchnorm_
from picojoule.learn.checkpoint import (
    architecture,
    load_checkpoint,
    load_weights,
    rng_state,
    save_checkpoint,
    set_rng_state,
    write_atomic,
)
from picojoule.learn.config import Recipe, differing
from picojoule.learn.distributed import leave_group_at_exit
from picojoule.learn.ema import EMA
from picojoule.learn.feed import Feed
from picojoule.learn.logs import RunLog
from picojoule.learn.optim import cosine, make_optimizer
from picojoule.learn.progress import Progress
from picojoule.learn.rules import RULES
from picojoule.learn.setup import Task, prepare, restore_readouts, set_readouts


@dataclass
class Result:
    """What a run ended with; accuracies in percent, the test one of the weights chosen on validation."""

    folder: str
    epochs: int
    steps: int
    val_accuracy: float
    test_accuracy: float
    test_samples: int
    seconds: float
    parameters: int
    stopped: str
    history: list[float] = field(default_factory=list)


@dataclass
class _Position:
    """Where the run stands; saved with every checkpoint."""

    epoch: int = 0
    step: int = 0
    batches: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    best: float = -1.0
    since_best: int = 0
    history: list[float] = field(default_factory=list)


class Trainer:
    """Runs a recipe in a folder.

    Args:
        recipe: validated settings.
        folder: where config, metrics, checkpoints and results go.
        resume: continue from the folder's last checkpoint, bit for bit.
        quiet: no progress bars.
        task: data and model made elsewhere; None prepares them from the recipe.
    Raises:
        ConfigError, DataError, CheckpointError: before any training, where that can be known.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path | str,
        *,
        resume: bool = False,
        quiet: bool = False,
        task: Task | None = None,
    ) -> None:
        self.recipe, self.folder, self.quiet = recipe, Path(folder), quiet
        t = recipe.train
        # Accelerate keeps one state a process; a second run in it may want another precision.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            mixed_precision=t.precision,
            gradient_accumulation_steps=t.accumulate,
            cpu=not torch.cuda.is_available(),
        )
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if world > 1:
            leave_group_at_exit()
        set_seed(recipe.seed)
        rule = RULES.get(t.rule)
        if t.loss.name == "tet" and getattr(rule, "stepwise", False):
            raise ConfigError(
                f"train.loss.name='tet' needs the logits of all steps at once, train.rule={t.rule!r} gives "
                "one at a time; use the loss 'ce', or the rule 'bptt'"
            )
        if world > 1 and t.rule != "bptt":
            raise ConfigError(f"train.rule={t.rule!r} runs in one process; use 'bptt' with {world} processes")
        self._open_folder(resume)
        self.task = task or prepare(recipe)
        self.raw = self.task.model
        if t.channels_last and any(p.dim() == 4 for p in self.raw.parameters()):
            self.raw.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if world > 1:
            share_batchnorm_(self.raw)
        self.criterion = self.task.criterion
        optimizer = make_optimizer(self.raw, t.optimizer, t.lr, t.weight_decay, t.momentum)
        self.model, self.optimizer = self.accelerator.prepare(self.raw, optimizer)
        self.raw = self.accelerator.unwrap_model(self.model)
        self.ema = EMA(self.raw, t.ema) if t.ema else None
        self.feed = Feed(self.task.data, recipe, rank, world)
        self.updates_per_epoch = math.ceil(self.feed.batches / t.accumulate)
        self.total = max(1, self.updates_per_epoch * t.epochs)
        self.warmup = min(self.total - 1, round(t.warmup_epochs * self.updates_per_epoch))
        self.rule = rule()
        self.at = _Position()
        self.pending = 0
        self._began = self._saved = time.monotonic()
        if resume and self.last.exists():
            self._restore()

    # -- folder ----------------------------------------------------------------------------------------

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoints" / "last.safetensors"

    def _open_folder(self, resume: bool) -> None:
        config = self.folder / "config.yaml"
        mine = self.recipe.to_dict()
        if config.exists() and (self.last.exists() or (self.folder / "result.json").exists()):
            if not resume:
                raise ConfigError(
                    f"{self.folder} already holds a run; resume it with --resume or choose another folder"
                )
            theirs = yaml.safe_load(config.read_text())
            skipped = {"notes": None, "name": None}
            changed = differing({**theirs, **skipped}, {**mine, **skipped})
            if changed:
                raise ConfigError(
                    f"{self.folder} was started with other settings ({'; '.join(changed)}); a resumed run "
                    "keeps its settings: start a new folder for new ones"
                )
        if self.accelerator.is_main_process:
            try:
                (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
                write_atomic(config, yaml.safe_dump(mine, sort_keys=False).encode())
            except OSError as error:
                raise CheckpointError(f"cannot write to {self.folder}: {error.strerror}") from error

    def _save(self) -> None:
        self.at.seconds += time.monotonic() - self._began
        self._began = self._saved = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        state = {
            "model": self.raw.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "ema_updates": self.ema.updates if self.ema else 0,
            "rng": rng_state(),
            "feed": self.feed.state_dict(),
            "position": asdict(self.at),
            "architecture": architecture(self.raw),
        }
        save_checkpoint(self.last, state)

    def _restore(self) -> None:
        state = load_checkpoint(self.last)
        load_weights(self.raw, state["model"], str(self.last))
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.average = state["ema"]
            self.ema.updates = state["ema_updates"]
        self.feed.load_state_dict(state["feed"])
        self.at = _Position(**state["position"])
        set_rng_state(state["rng"])

    # -- what a rule may call --------------------------------------------------------------------------

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`; a loss that is no number stops the run before the weights change."""
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"the loss is {loss.item()} at step {self.at.step} (epoch {self.at.epoch}); lower train.lr, "
                "set train.clip=1, or run with train.detect_anomaly=true to name the layer"
            )
        self.accelerator.backward(loss)

    def step(self) -> None:
        """Update the weights once a group of `accumulate` batches is complete."""
        if not self.accelerator.sync_gradients:
            return
        t = self.recipe.train
        factor = cosine(self.at.step, self.total, self.warmup, t.lr_floor)
        for group in self.optimizer.param_groups:
            group["lr"] = t.lr * factor
        if t.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), t.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.at.step += 1
        progress_(self.raw, self.at.step, min(1.0, self.at.step / self.total))
        if self.ema:
            self.ema.update(self.raw)

    # -- training --------------------------------------------------------------------------------------

    def fit(self) -> Result:
        """Train to the end, evaluate on the test split once, and write `result.json`."""
        main = self.accelerator.is_main_process
        resumed = self.at.step if self.at.step or self.at.epoch else None
        log = RunLog(self.folder, resumed) if main else None
        progress_(self.raw, self.at.step, min(1.0, self.at.step / self.total))
        stopped = "finished"
        bar = Progress(self.recipe.name, self.total, self.at.step, enabled=main and not self.quiet)
        try:
            with bar, torch.autograd.set_detect_anomaly(self.recipe.train.detect_anomaly):
                while self.at.epoch < self.recipe.train.epochs:
                    stopped = self._epoch(log, bar)
                    if stopped:
                        break
                    if self._patience_over():
                        stopped = "patience"
                        break
                stopped = stopped or "finished"
        except KeyboardInterrupt:
            self._save()
            raise
        finally:
            if log is not None:
                log.close()
        return self._finish(stopped)

    def _epoch(self, log: RunLog | None, bar: Progress) -> str:
        t = self.recipe.train
        self.model.train()
        modes = set_readouts(self.raw, "steps") if getattr(self.criterion, "needs_steps", False) else []
        try:
            for x, y in self.feed.train():
                last = self.feed.position >= self.feed.batches
                self._batch(x, y, last)
                if not self.accelerator.sync_gradients:
                    continue
                bar.update(self.at.step, loss=self.at.loss_sum / max(1, self.at.seen))
                if log is not None and self.at.step % 20 == 0:
                    log.write(
                        self.at.step,
                        loss=self.at.loss_sum / self.at.seen,
                        lr=self.optimizer.param_groups[0]["lr"],
                    )
                if last:
                    break
                if self._save_due():
                    self._save()
                if t.minutes and self._elapsed() > 60 * t.minutes:
                    self._save()
                    return "time limit"
        finally:
            restore_readouts(modes)
        self._close_epoch(log, bar)
        return "time limit" if t.minutes and self._elapsed() > 60 * t.minutes else ""

    def _batch(self, x: Tensor, y: Tensor, last: bool) -> None:
        self.at.batches += 1
        device = self.accelerator.device
        x, y = x.to(device), y.to(device)
        if self.recipe.train.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        self.pending = (self.pending + 1) % self.recipe.train.accumulate
        sync = last or self.pending == 0
        self.pending = 0 if sync else self.pending
        self.accelerator.gradient_state._set_sync_gradients(sync)
        hold = contextlib.nullcontext() if sync else self.accelerator.no_sync(self.model)
        with hold, self.accelerator.autocast():
            loss, logits = self.rule(self, x, y)
        hard = y if y.dim() == 1 else y.argmax(1)
        self.at.loss_sum += float(loss) * len(x)
        self.at.correct += int((logits.argmax(1) == hard).sum())
        self.at.seen += len(x)

    def _close_epoch(self, log: RunLog | None, bar: Progress) -> None:
        self.at.epoch += 1
        val = self.evaluate("val")
        mine = torch.tensor([self.at.loss_sum, self.at.correct, self.at.seen], dtype=torch.float64)
        loss, correct, seen = self.accelerator.reduce(mine.to(self.accelerator.device)).tolist()  # type: ignore[union-attr]
        loss, train_accuracy = loss / max(1, seen), 100 * correct / max(1, seen)
        self.at.history.append(val)
        if val > self.at.best:
            self.at.best, self.at.since_best = val, 0
            if self.recipe.train.patience:
                self._write_weights("best.safetensors")
        else:
            self.at.since_best += 1
        if log is not None:
            log.write(
                self.at.step,
                epoch=self.at.epoch,
                train_loss=loss,
                train_accuracy=train_accuracy,
                val_accuracy=val,
            )
        bar.epoch(self.at.epoch, self.recipe.train.epochs, loss, val)
        self.at.loss_sum, self.at.correct, self.at.seen = 0.0, 0, 0
        self.feed.next_epoch()
        self._save()

    def _elapsed(self) -> float:
        return self.at.seconds + time.monotonic() - self._began

    def _save_due(self) -> bool:
        t = self.recipe.train
        by_steps = t.checkpoint_steps and self.at.step % t.checkpoint_steps == 0
        return bool(by_steps) or time.monotonic() - self._saved > 60 * t.checkpoint_minutes

    def _patience_over(self) -> bool:
        return bool(self.recipe.train.patience) and self.at.since_best >= self.recipe.train.patience

    # -- evaluation ------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, split: str) -> float:
        """Accuracy in percent on "train", "val" or "test", with the averaged weights where there are any."""
        holder = self.ema.applied(self.raw) if self.ema else contextlib.nullcontext()
        self.raw.eval()
        counts = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        with holder:
            for x, y in self.feed.evaluation(split):
                logits = self.raw(x.to(self.accelerator.device))
                counts[0] += (logits.argmax(1).cpu() == y).sum().item()
                counts[1] += len(y)
        counts = self.accelerator.reduce(counts)  # type: ignore[assignment]
        self.raw.train()
        if not counts[1]:
            raise DataError(f"the split {split!r} is empty")
        return float(100 * counts[0] / counts[1])

    def _write_weights(self, name: str) -> None:
        if not self.accelerator.is_main_process:
            return
        weights = self.ema.state_dict() if self.ema else self.raw.state_dict()
        save_checkpoint(self.folder / name, {"model": weights, "architecture": architecture(self.raw)})

    def _finish(self, stopped: str) -> Result:
        best = self.folder / "best.safetensors"
        if self.recipe.train.patience and best.exists():
            weights = load_checkpoint(best)["model"]
            load_weights(self.raw, weights, str(best))
            if self.ema:
                self.ema.average = {k: v.clone() for k, v in self.raw.state_dict().items()}
        test = self.evaluate("test")
        val = (
            self.at.best if self.recipe.train.patience else (self.at.history[-1] if self.at.history else -1.0)
        )
        self._write_weights("weights.safetensors")
        if self.ema:
            self.raw.load_state_dict(self.ema.state_dict())
        self.raw.eval()
        result = Result(
            folder=str(self.folder),
            epochs=self.at.epoch,
            steps=self.at.step,
            val_accuracy=val,
            test_accuracy=test,
            test_samples=self.feed.size("test"),
            seconds=self._elapsed(),
            parameters=sum(p.numel() for p in self.raw.parameters()),
            stopped=stopped,
            history=self.at.history,
        )
        if self.accelerator.is_main_process:
            write_atomic(self.folder / "result.json", json.dumps(asdict(result), indent=2).encode())
        return result


def train(
    recipe: Recipe, folder: Path | str, *, resume: bool = False, quiet: bool = False
) -> tuple[nn.Module, Result]:
    """Run a recipe to its end; the trained model (eval mode, chosen weights) and the result."""
    trainer = Trainer(recipe, folder, resume=resume, quiet=quiet)
    result = trainer.fit()
    return trainer.raw, result
