"""The training loop on Accelerate: resumable bit for bit, one process or several."""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import set_seed
from torch import Tensor, nn

from picojoule.compress import progress_
from picojoule.core.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from picojoule.learn.anomaly import named_anomalies
from picojoule.learn.checkpoint import (
    architecture,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
    write_atomic,
)
from picojoule.learn.config import Recipe, differing
from picojoule.learn.ema import EMA
from picojoule.learn.feed import Feed
from picojoule.learn.logs import RunLog
from picojoule.learn.optim import cosine, make_optimizer
from picojoule.learn.parallel import Workers, load_whole, whole_state
from picojoule.learn.progress import Progress
from picojoule.learn.recompute import checkpoint_
from picojoule.learn.rules import RULES
from picojoule.learn.saving import Checkpoints
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
        self.workers = Workers(t.parallel, t.precision, t.accumulate)
        self.accelerator = self.workers.accelerator
        self.checkpoints = Checkpoints(self.folder / "checkpoints", self.workers)
        set_seed(recipe.seed)
        rule = RULES.get(t.rule)
        if t.loss.name == "tet" and getattr(rule, "stepwise", False):
            raise ConfigError(
                f"train.loss.name='tet' needs the logits of all steps at once, train.rule={t.rule!r} gives "
                "one at a time; use the loss 'ce', or the rule 'bptt'"
            )
        if self.workers.sharded and t.checkpoint == "time":
            raise ConfigError(
                'train.checkpoint="time" runs the model several times a step, and train.parallel=fsdp2 would '
                'collect its weights anew each time; use "block", or ddp'
            )
        self._open_folder(resume)
        self.task = task or prepare(recipe)
        self.feed = Feed(self.task.data, recipe, self.workers.rank, self.workers.world)
        self.criterion = self.task.criterion
        checkpoint_(self.task.model, t.checkpoint, steps=t.chunk if t.checkpoint == "time" else None)
        self.model = self.workers.wrap(self.task.model, channels_last=t.channels_last)
        self.raw = self.workers.raw(self.model)
        optimizer = make_optimizer(self.raw, t.optimizer, t.lr, t.weight_decay, t.momentum)
        self.optimizer = self.workers.optimizer(optimizer)
        self.ema = EMA(self.raw, t.ema) if t.ema else None
        self.updates_per_epoch = math.ceil(self.feed.batches / t.accumulate)
        self.total = max(1, self.updates_per_epoch * t.epochs)
        self.warmup = min(self.total - 1, round(t.warmup_epochs * self.updates_per_epoch))
        self.rule = rule()
        self.at = _Position()
        self.pending = 0
        self.share = 1.0
        self._began = self._saved = time.monotonic()
        if resume and self.checkpoints.found():
            self._restore()

    # -- folder ----------------------------------------------------------------------------------------

    def _open_folder(self, resume: bool) -> None:
        config = self.folder / "config.yaml"
        mine = self.recipe.to_dict()
        if config.exists() and (self.checkpoints.found() or (self.folder / "result.json").exists()):
            if not resume:
                raise ConfigError(
                    f"{self.folder} already holds a run; resume it with --resume or choose another folder"
                )
            theirs = yaml.safe_load(config.read_text())
            changed = differing(_binding(theirs), _binding(mine))
            if changed:
                raise ConfigError(
                    f"{self.folder} was started with other settings ({'; '.join(changed)}); a resumed run "
                    "keeps its settings: start a new folder for new ones"
                )
        if self.workers.main:
            try:
                (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
                write_atomic(config, yaml.safe_dump(mine, sort_keys=False).encode())
            except OSError as error:
                raise CheckpointError(f"cannot write to {self.folder}: {error.strerror}") from error

    def _save(self) -> None:
        self.at.seconds += time.monotonic() - self._began
        self._began = self._saved = time.monotonic()
        sums = self.workers.total(self.at.loss_sum, self.at.correct, self.at.seen)
        position = asdict(self.at) | {"loss_sum": sums[0], "correct": int(sums[1]), "seen": int(sums[2])}
        rest = {
            "ema_updates": self.ema.updates if self.ema else 0,
            "rng": rng_state(),
            "feed": self.feed.state_dict(),
            "position": position,
            "architecture": architecture(self.raw),
        }
        self.checkpoints.save(self.raw, self.optimizer, self.ema, rest)

    def _restore(self) -> None:
        state = self.checkpoints.load(self.raw, self.optimizer, self.ema)
        self.feed.load_state_dict(state["feed"])
        self.at = _Position(**state["position"])
        if not self.workers.main:  # the sums of all processes so far are counted once
            self.at.loss_sum, self.at.correct, self.at.seen = 0.0, 0, 0
        set_rng_state(state["rng"])

    # -- what a rule may call --------------------------------------------------------------------------

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`; a loss that is no number stops the run before the weights change."""
        if not torch.isfinite(loss):
            if self.recipe.train.detect_anomaly:
                raise NonFiniteError(f"the loss is {loss.item()} though every layer's output is finite")
            raise NonFiniteError(
                f"the loss is {loss.item()} at step {self.at.step} (epoch {self.at.epoch}); lower train.lr, "
                "set train.clip=1, or run with train.detect_anomaly=true to name the layer"
            )
        self.accelerator.backward(loss if self.share == 1 else loss * self.share)

    def step(self) -> None:
        """Update the weights once a group of `accumulate` batches is complete."""
        if not self.accelerator.sync_gradients:
            return
        t = self.recipe.train
        factor = cosine(self.at.step, self.total, self.warmup, t.lr_floor)
        for group in self.optimizer.param_groups:
            group["lr"] = t.lr * factor
        self.workers.finish_gradients(self.model, t.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.at.step += 1
        progress_(self.raw, self.at.step, min(1.0, self.at.step / self.total))
        if self.ema:
            self.ema.update(self.raw)

    # -- training --------------------------------------------------------------------------------------

    def fit(self) -> Result:
        """Train to the end, evaluate on the test split once, and write `result.json`."""
        t, main = self.recipe.train, self.workers.main
        resumed = self.at.step if self.at.step or self.at.epoch else None
        log = RunLog(self.folder, resumed) if main else None
        progress_(self.raw, self.at.step, min(1.0, self.at.step / self.total))
        stopped = "finished"
        bar = Progress(self.recipe.name, self.total, self.at.step, enabled=main and not self.quiet)
        watch = (
            named_anomalies(self.raw, backward=t.precision != "fp16")  # scaled losses overflow on purpose
            if t.detect_anomaly
            else contextlib.nullcontext()
        )
        try:
            with bar, watch, self.workers.stop_signals() as self._signals:
                while self.at.epoch < t.epochs:
                    stopped = self._epoch(log, bar)
                    if stopped:
                        break
                    if self._patience_over():
                        stopped = "patience"
                        break
                stopped = stopped or "finished"
        except KeyboardInterrupt:
            if self.workers.world == 1:  # several have saved together, in `_pause`
                self._save()
            raise
        except NonFiniteError as error:
            if not t.detect_anomaly:
                raise
            raise NonFiniteError(f"{error} (step {self.at.step}, epoch {self.at.epoch})") from error
        finally:
            if log is not None:
                log.close()
        return self._finish(stopped)

    def _epoch(self, log: RunLog | None, bar: Progress) -> str:
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
                if self._pause():
                    return "time limit"
        finally:
            restore_readouts(modes)
        self._close_epoch(log, bar)
        return "time limit" if self.workers.any(self._late())[0] else ""

    def _pause(self) -> bool:
        """Save when it is due, all processes at the same step; True when the time is over.

        Raises:
            KeyboardInterrupt: a signal asked one of several processes to stop; the checkpoint is written.
        """
        due, late, told = self.workers.any(self._save_due(), self._late(), bool(self._signals))
        if due or late or told:
            self._save()
        if told:
            raise KeyboardInterrupt
        return late

    def _batch(self, x: Tensor, y: Tensor, last: bool) -> None:
        self.at.batches += 1
        x, y = x.to(self.workers.device), y.to(self.workers.device)
        if self.recipe.train.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        self.pending = (self.pending + 1) % self.recipe.train.accumulate
        sync = last or self.pending == 0
        self.pending = 0 if sync else self.pending
        # The mean over all rows is the mean of the processes' means, weighed by their rows.
        self.share = len(x) * self.workers.world / self.feed.rows
        self.workers.seed_batch(self.recipe.seed, self.at.epoch, self.feed.position)
        with self.workers.batch(self.model, sync):
            loss, logits = self.rule(self, x, y)
        hard = y if y.dim() == 1 else y.argmax(1)
        self.at.loss_sum += float(loss) * len(x)
        self.at.correct += int((logits.argmax(1) == hard).sum())
        self.at.seen += len(x)

    def _close_epoch(self, log: RunLog | None, bar: Progress) -> None:
        self.at.epoch += 1
        val = self.evaluate("val")
        loss, correct, seen = self.workers.total(self.at.loss_sum, self.at.correct, self.at.seen)
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

    def _late(self) -> bool:
        limit = self.recipe.train.minutes
        return bool(limit) and self._elapsed() > 60 * limit

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
        hits = count = 0
        with holder, self.accelerator.autocast() if self.workers.sharded else contextlib.nullcontext():
            for x, y in self.feed.evaluation(split):
                logits = self.raw(x.to(self.workers.device))
                hits += int((logits.argmax(1).cpu() == y).sum())
                count += len(y)
        hits, count = self.workers.total(hits, count)
        self.raw.train()
        if not count:
            raise DataError(f"the split {split!r} is empty")
        return 100 * hits / count

    def _write_weights(self, name: str) -> None:
        weights = whole_state((self.ema.state_dict() if self.ema else self.raw.state_dict()).items())
        if self.workers.main:
            save_checkpoint(self.folder / name, {"model": weights, "architecture": architecture(self.raw)})
        self.workers.wait()  # the others may read it next

    def _finish(self, stopped: str) -> Result:
        best = self.folder / "best.safetensors"
        if self.recipe.train.patience and best.exists():
            weights = load_checkpoint(best)["model"]
            load_whole(self.raw, weights, str(best))
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
        if self.workers.main:
            write_atomic(self.folder / "result.json", json.dumps(asdict(result), indent=2).encode())
        return result


def _binding(values: dict[str, Any]) -> dict[str, Any]:
    """Settings that a resumed run must share; names, and how the same numbers are computed, are not."""
    free = ("parallel", "checkpoint", "chunk", "detect_anomaly")
    train = {k: v for k, v in values.get("train", {}).items() if k not in free}
    return {**values, "notes": None, "name": None, "train": train}


def train(
    recipe: Recipe, folder: Path | str, *, resume: bool = False, quiet: bool = False
) -> tuple[nn.Module, Result]:
    """Run a recipe to its end; the trained model (eval mode, chosen weights) and the result."""
    trainer = Trainer(recipe, folder, resume=resume, quiet=quiet)
    result = trainer.fit()
    return trainer.raw, result
