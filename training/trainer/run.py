"""A run of training: its network, optimiser, log and files, and what `fit` does with them."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from latent_store.console import progress
from latent_store.errors import JobFailedError, LatentStoreError
from latent_store.storage.location import write_atomically
from training.flags import free_fields
from training.tasks.losses import Counts
from training.tasks.tasks import to_device
from training.trainer.checkpoints import export_safetensors, save_checkpoint
from training.trainer.interruptions import LossWatch
from training.trainer.model_card import model_card
from training.trainer.ranks import Ranks
from training.trainer.run_log import Clock, Meters, RunLog
from training.trainer.run_state import RESUME_FILE, RunState, load_run, random_state, save_run
from training.trainer.trainer_config import TrainerConfig

LAST_FILE = "last.pt"
BEST_FILE = "best.pt"
SETTLING_BATCHES = 32
"""What a finished network's batch norm statistics are taken from, where they are taken anew."""

Batch = Mapping[str, Any]
Validate = Callable[[nn.Module, torch.device], dict[str, float]]


class Loader(Protocol):
    """What the loop needs of a loader; `EpochLoader` gives it."""

    def __len__(self) -> int:
        """Returns the batches in an epoch."""

    def __iter__(self) -> Iterator[Batch]:
        """Yields the rest of the current epoch and goes on to the next."""

    def state_dict(self) -> dict[str, Any]:
        """Returns where it is."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes there."""

    def stream(self, epoch: int, position: int) -> Generator[Batch]:
        """Yields batches for ever, starting with batch `position` of `epoch`."""

    def close_stream(self) -> None:
        """Drops what was prepared."""


class Task(Protocol):
    """What the loop needs of a task; see `SegmentationTask`."""

    network: nn.Module
    score: str
    unlabelled: str

    def __call__(self, batch: Batch, counts: Counts, epoch: int) -> dict[str, torch.Tensor]:
        """Returns "loss" and its parts."""

    def count(self, batch: Batch) -> Counts:
        """Returns what the loss's sums are divided by; the counts of a step's batches are added."""

    def anneal(self, progress: float) -> None:
        """Is told how far the run is, in [0, 1]."""

    def settle(self, batches: Iterator[Batch]) -> None:
        """Is given batches after the last step; the network is in training mode."""

    def compile_network(self) -> None:
        """Runs the network, or what of it can be, through torch.compile from now on."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What came out of a run.

    Attributes:
        checkpoint: Path of the network's file.
        sha256: Of that file.
        step: Optimiser steps done.
        epoch: Epochs finished.
        scores: The last validation; empty without one.
        seconds: Training time, of all sittings.
        wait_share: Share of this sitting's time spent waiting for data.
    """

    checkpoint: Path
    sha256: str
    step: int
    epoch: int
    scores: dict[str, float]
    seconds: float
    wait_share: float


class Run:
    """The parts of a run that `fit` moves through."""

    def __init__(
        self,
        task: Task,
        loader: Loader,
        config: TrainerConfig,
        output: Path,
        meta: Mapping[str, Any],
        run_config: Mapping[str, Any] | None,
        codec_bytes: bytes | None,
        free: frozenset[str] | None,
        ranks: Ranks,
    ) -> None:
        self.task, self.loader, self.config, self.output = task, loader, config, output
        self.ranks, self.device = ranks, ranks.device(config.device)
        own = {name: getattr(config, name) for name in TrainerConfig.__dataclass_fields__}
        self.run_config = dict(run_config) if run_config is not None else own
        self.free = free if free is not None else free_fields(TrainerConfig)
        self.meta, self.codec_bytes = dict(meta), codec_bytes
        self.total_steps = config.total_steps(len(loader))
        self.state, self.meters, self.clock = RunState(), Meters(), Clock()
        self.watch = LossWatch(ranks)
        self._saved_at, self._saved_epoch = time.monotonic(), 0
        task.network.to(self.device, memory_format=torch.channels_last)
        ranks.prepare(task.network, self.device, frozen=config.freeze_batch_norm)
        # One fused pass over all parameters: the plain form takes as long as a small network.
        self.optimizer = torch.optim.Adam(
            task.network.parameters(), lr=config.learning_rate, fused=True
        )

    # -- beginning and end ------------------------------------------------------------------

    def start(self, *, resume: bool) -> None:
        """Prepares the folder, and reads the interrupted run back if there is one."""
        self.output.mkdir(parents=True, exist_ok=True)
        # Dropout differs between ranks, and begins as it does in one process.
        if not self.ranks.first:
            torch.manual_seed(self.config.seed + self.ranks.rank)
        if self._holds_run():
            if not resume:
                raise LatentStoreError(
                    f"{self.output} holds a run already: go on with it with --resume, or give "
                    "another --output"
                )
            self.state = load_run(
                self.output,
                self.task.network,
                self.optimizer,
                self.loader,
                self.meters,
                self.run_config,
                free=self.free,
                device=self.device,
                ranks=self.ranks,
            )
            self._saved_epoch = self.state.epoch
        text = json.dumps(self.run_config, indent=2) + "\n"
        if self.ranks.first:
            write_atomically(self.output / "config.json", text.encode())
        if self.config.compile:
            self.task.compile_network()
        self.set_training_mode()

    def _holds_run(self) -> bool:
        found = self.ranks.gather((self.output / RESUME_FILE).exists())
        if len(set(found)) > 1:
            raise LatentStoreError(
                f"only some ranks see the run in {self.output}: give an --output that all machines "
                "share"
            )
        return found[0]

    def set_training_mode(self) -> None:
        """Puts the network into training mode, except for frozen batch norms."""
        self.task.network.train()
        if self.config.freeze_batch_norm:
            for module in self.task.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def opened(self) -> RunLog:
        """Opens the log."""
        return RunLog(
            self.output,
            resumed_step=self.state.step,
            tensorboard=self.config.tensorboard,
            silent=not self.ranks.first,
        )

    def bar(self) -> Any:
        """Returns the progress bar."""
        shown = {} if self.ranks.first else {"disable": True}
        return progress(total=self.total_steps, initial=self.state.step, unit="step", **shown)

    def finish(self, scores: dict[str, float]) -> FitResult:
        """Saves the run, exports the network and writes its card."""
        self.state.finished = True
        self.save()
        network, meta = self.task.network, self.current_meta()
        if self.ranks.first:
            export_safetensors(self.output / "last.safetensors", network, meta=meta)
            card = model_card(network.config, meta, scores)
            write_atomically(self.output / "README.md", card.encode())
        return self.result(scores)

    def result(self, scores: dict[str, float]) -> FitResult:
        """Returns what `fit` returns."""
        path = self.output / LAST_FILE
        return FitResult(
            checkpoint=path,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            step=self.state.step,
            epoch=self.state.epoch,
            scores=scores,
            seconds=self.state.seconds,
            wait_share=self.clock.wait_share,
        )

    # -- a step -----------------------------------------------------------------------------

    def train_step(self, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
        """Does one optimiser step over one or several batches; returns the summed parts."""
        # Counted before the transfer: a number read back from a GPU would make it wait.
        own = reduce(add, [self.task.count(batch) for batch in batches])
        counts = Counts(**self.ranks.sum_numbers(dataclasses.asdict(own)))
        on_device = [to_device(batch, self.device) for batch in batches]
        rate = self.config.rate(self.state.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.task.anneal(self.state.step / self.total_steps)
        self.optimizer.zero_grad()
        own_parts = _merged([self._backward(batch, counts) for batch in on_device])
        parts = self.ranks.sum_step(self.task.network, own_parts)
        if self.config.clip_norm:
            parameters = self.task.network.parameters()
            norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
            parts["gradient_norm"] = norm
        self.optimizer.step()
        self.state.step += 1
        self.watch.add(self.state.step, batches, own_parts["loss"], parts)
        return parts | {"labels": torch.tensor(float(counts.labels))}

    def _backward(self, batch: Batch, counts: Counts) -> dict[str, torch.Tensor]:
        bf16 = self.config.amp == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            parts = self.task(batch, counts, self.state.epoch)
        parts["loss"].backward()
        return {name: part.detach() for name, part in parts.items()}

    # -- what is told and saved ----------------------------------------------------------------

    def log_step(self, log: RunLog, bar: Any, parts: Mapping[str, torch.Tensor]) -> None:
        """Writes a step's record and shows it beside the bar."""
        self.watch.check(self.state.epoch)
        rate = self.optimizer.param_groups[0]["lr"]
        scalars = {name: part for name, part in parts.items() if name != "decisions"}
        values = {name: float(part.float().mean()) for name, part in scalars.items()}
        shown = {"loss": f"{values['loss']:.3f}", "lr": f"{rate:.0e}"}
        if "kept" in values:
            shown["kept"] = f"{values['kept']:.0f}"
        wait = self.clock.wait_share
        bar.set_postfix(shown | {"wait": f"{wait:.0%}"}, refresh=False)
        values |= {"learning_rate": rate, "wait_share": wait}
        log.write("step", self.state.step, self.state.epoch, values)

    def settle(self) -> None:
        """Lets the task bring its network to rest after the last step."""
        if not self.config.freeze_batch_norm:
            bf16 = self.config.amp == "bf16"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                self.task.settle(self._settling_batches())

    def _settling_batches(self) -> Iterator[Batch]:
        # From the beginning, not from where the loader is: resumed, it gets the same ones.
        self.loader.close_stream()
        count = min(SETTLING_BATCHES, self.total_steps)
        with contextlib.closing(self.loader.stream(0, 0)) as stream:
            some = itertools.islice(stream, count)
            for batch in progress(some, total=count, desc="batch norm", unit="batch"):
                yield to_device(batch, self.device)

    def end_epoch(self, log: RunLog) -> None:
        """Writes the epoch's means and counts it."""
        self.watch.check(self.state.epoch)
        means = self.meters.means()
        timing = {"wait_share": self.clock.wait_share, "seconds": self.clock.total}
        log.write("epoch", self.state.step, self.state.epoch, means | timing)
        if means.get("labels") == 0:
            raise JobFailedError(self.task.unlabelled)
        self.meters = Meters()
        self.state.epoch += 1
        every = self.config.checkpoint_epochs
        if every and self.state.epoch - self._saved_epoch >= every:
            self.save()

    def validation_due(self) -> bool:
        """Says whether this epoch ends with a validation; one comes after the last step anyway."""
        every = self.config.validate_epochs
        last = self.state.step == self.total_steps
        return not last and every > 0 and self.state.epoch % every == 0

    def validate(self, validate: Validate, log: RunLog) -> dict[str, float]:
        """Measures the network, and keeps it as best.pt if it is the best so far."""
        if self.state.step == self.total_steps:
            self.save()  # whatever comes of the last validation, nothing is lost
        network = self.task.network
        scores = validate(network, self.device)
        self.set_training_mode()
        log.write("validation", self.state.step, self.state.epoch - 1, scores)
        score = scores.get(self.task.score, math.nan)
        if score > self.state.best_score or math.isnan(self.state.best_score):
            self.state.best_score = score
            if self.ranks.first:
                self.save_network(BEST_FILE)
        return scores

    def checkpoint_due(self) -> bool:
        """Says whether the minutes between checkpoints are over."""
        every = self.config.checkpoint_minutes
        return bool(every) and time.monotonic() - self._saved_at >= 60 * every

    def save(self) -> None:
        """Writes resume.pt and last.pt, after making sure that the weights are sound."""
        self.watch.check(self.state.epoch)
        self.state.seconds += self.clock.lap()
        rng = self.ranks.gather(random_state(self.device))
        if self.ranks.first:
            self.save_network(LAST_FILE)
            save_run(
                self.output,
                self.state,
                self.task.network,
                self.optimizer,
                self.loader,
                self.meters,
                self.run_config,
                rng,
            )
        self.ranks.wait()  # torchrun ends them all when the first of them ends
        self._saved_at, self._saved_epoch = time.monotonic(), self.state.epoch

    def save_network(self, name: str) -> None:
        """Writes the network's file."""
        path = self.output / name
        meta = self.current_meta()
        save_checkpoint(path, self.task.network, meta=meta, codec_bytes=self.codec_bytes)

    def current_meta(self) -> dict[str, Any]:
        """Returns the checkpoint's meta as of now."""
        now = {"train": self.run_config, "epoch": self.state.epoch, "step": self.state.step}
        return self.meta | now


def _merged(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Adds the parts of a step's batches (each is already divided by the step's counts)."""
    merged: dict[str, torch.Tensor] = {}
    for part in parts:
        for name, value in part.items():
            if name == "kept":
                merged[name] = torch.cat([merged[name], value]) if name in merged else value
            else:
                merged[name] = merged[name] + value if name in merged else value
    return merged
