"""The training loop: any task, any loader, one process or several; stops and continues anywhere.

Under `torchrun` every rank runs the loop, in step with the others; the first one alone writes.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Protocol

import torch
from torch import nn

from latent_store.console import progress
from latent_store.errors import CheckpointError, JobFailedError, LatentStoreError
from training.data.loader import EpochLoader
from training.tasks.losses import Counts
from training.tasks.objective import to_device
from training.trainer.arithmetic import algorithms, flushed_denormals, uses_bf16
from training.trainer.checkpoints import state_on_cpu
from training.trainer.interruptions import LossWatch, until_stopped
from training.trainer.job import TrainerConfig
from training.trainer.optimizer import make_optimizer, resumed, set_rate
from training.trainer.ranks import ALONE, Ranks
from training.trainer.run_folder import (
    FitResult,
    RunFiles,
    RunState,
    random_state,
    set_random_state,
)
from training.trainer.run_log import Clock, Forecast, Meters, RunLog, merged_parts
from training.trainer.validation import Validation

SETTLING_BATCHES = 32
"""Batches that a finished network's batch norm statistics are of, where they are taken anew."""

Batch = Mapping[str, Any]
Validate = Callable[[Any, torch.device], Validation]


class Trainable(Protocol):
    """A network with its loss: what the loop needs of a task, see `Objective`."""

    network: Any
    score: str
    unlabelled: str
    rate_shares: Mapping[str, float]
    settles: bool

    def __call__(self, batch: Batch, counts: Counts, epoch: int) -> dict[str, torch.Tensor]: ...
    def count(self, batch: Batch) -> Counts: ...
    def anneal(self, progress: float) -> None: ...
    def settle(self, batches: Iterator[Batch]) -> None: ...
    def compile_network(self) -> None: ...


class Trainer:
    """Trains a task's network; everything of a run that is neither its data nor its files.

    Args:
        task: Its network is moved to the device; what requires no gradients is not trained.
        loader: What batches hold is between it and the task; "sample_ids" (list of str) names them
            in errors.
        validate: Called as `validate(network, device)`; the task's score decides which network is
            the best. Every rank calls it, and must get the same.
        ranks: Those that train together; `loader` and `validate` must know them too.

    Raises:
        LatentStoreError: If ranks cannot train this network together.
    """

    remedy = (
        "look at these samples' labels and features, or lower --learning_rate, set --clip_norm, "
        "use --amp off"
    )
    """Advice where the loss is not finite."""

    def __init__(
        self,
        task: Trainable,
        loader: EpochLoader,
        config: TrainerConfig,
        files: RunFiles,
        *,
        validate: Validate | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.task, self.loader, self.config, self.files = task, loader, config, files
        self.ranks, self.device = ranks, ranks.device(config.device)
        self.network = task.network
        self.total_steps = config.total_steps(len(loader))
        self.state, self.meters, self.clock = RunState(), Meters(), Clock()
        self.watch, self.forecast = LossWatch(ranks, self.remedy), Forecast(self.device)
        self._measure, self._bf16 = validate, uses_bf16(config.amp, self.device)
        self._saved_at, self._saved_epoch = time.monotonic(), 0
        self.network.to(self.device).to(memory_format=torch.channels_last)
        ranks.prepare(self.network, self.device, frozen=config.freeze_batch_norm)
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.network, task.rate_shares, config.learning_rate)

    def fit(self, *, resume: bool = False) -> FitResult:
        """Trains to the end of the schedule; resumed, from where the files' run stands.

        Raises:
            LatentStoreError: If the files hold a run and `resume` is not set, or the
                configuration changed since.
            JobFailedError: If the loss is not finite (the samples are named), if the first epoch
                has no label, or after SIGTERM on any rank (a checkpoint is saved first).
            KeyboardInterrupt: After Ctrl-C, likewise.
        """
        self._start(resume=resume)
        if self.state.finished:
            self.ranks.wait()  # all have read the files
            if self.ranks.first:
                self.files.close(self.state)
            return self._result({})
        exact = algorithms(deterministic=self.config.deterministic)
        stop = until_stopped(speaks=self.ranks.first)
        with exact, stop as asked, self._opened_log() as log, self._bar() as bar:
            if self.over and self.meters.counts:
                self.end_epoch(log)  # the run was saved after its last step
            elif self._validation_due():
                self._validate(log)  # or before it
            self.forecast.begin()
            while not self.over:
                for group in self.clock.timed(_in_groups(self.loader, self.config.accumulate)):
                    parts = self._step(group)
                    self.meters.add(parts)
                    if self.state.step % self.config.log_steps == 0:
                        self._log_step(log, bar, parts)
                    bar.update()
                    self.forecast.tell(self.state.step, self.total_steps)
                    self._save_or_stop(asked)
                    if self.over:
                        break
                self.end_epoch(log)
                if self._validation_due():
                    self._validate(log)
            if self.task.settles and not (self.config.freeze_batch_norm or self.state.settled):
                with self._autocast():
                    self.task.settle(self._settling_batches())
            self.state.settled = True
            scores = {} if self._measure is None else self._validate(log)
        if self.ranks.first:
            self.files.finish(self.network, self.state, scores)
        self.state.finished = True
        self.save()
        return self._result(scores)

    @property
    def over(self) -> bool:
        """True if the last step is done."""
        return self.progress >= 1

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1]."""
        return self.state.step / self.total_steps if self.total_steps else 1.0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.config.rate(self.state.step, self.total_steps)

    # -- beginning and end ------------------------------------------------------------------

    def _start(self, *, resume: bool) -> None:
        """Prepares the files, and reads the interrupted run back if there is one."""
        # Dropout differs between ranks, and begins as it does in one process.
        if not self.ranks.first:
            torch.manual_seed(self.config.seed + self.ranks.rank)
        found = self._holds_run()
        self.files.require_room(resume=resume)
        if found:
            self._load_state_dict(self.files.load())
        if self.ranks.first:
            self.files.begin()
        if self.config.compile:
            self.task.compile_network()
        self._call = self.ranks.share_gradients(self.task)
        self._set_training_mode()

    def _holds_run(self) -> bool:
        found = self.ranks.gather(self.files.holds_run())
        if len(set(found)) > 1:
            raise LatentStoreError(
                f"only some ranks see the run in {self.files.path}: give an --output that all "
                "machines share"
            )
        return found[0]

    def _set_training_mode(self) -> None:
        """Puts the network into training mode, except for frozen batch norms."""
        self.network.train()
        if self.config.freeze_batch_norm:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def _opened_log(self) -> RunLog:
        if not self.ranks.first:
            return RunLog(None)
        return self.files.open_log(self.state, tensorboard=self.config.tensorboard)

    def _bar(self) -> Any:
        hidden = None if self.ranks.first else True
        total, done = self.total_steps, self.state.step
        return progress(total=total, initial=done, unit="step", disable=hidden)

    def _settling_batches(self) -> Iterator[Batch]:
        # From the beginning, not from where the loader is: resumed, it gets the same ones.
        self.loader.close_stream()
        count = min(SETTLING_BATCHES, self.total_steps)
        with contextlib.closing(self.loader.stream(0, 0)) as stream:
            some = itertools.islice(stream, count)
            for batch in progress(some, total=count, desc="batch norm", unit="batch"):
                yield to_device(batch, self.device)

    def _result(self, scores: dict[str, float]) -> FitResult:
        return FitResult(
            checkpoint=self.files.checkpoint,
            sha256=hashlib.sha256(self.files.checkpoint.read_bytes()).hexdigest(),
            step=self.state.step,
            epoch=self.state.epoch,
            scores=scores,
            seconds=self.state.seconds,
            wait_share=self.clock.wait_share,
        )

    # -- a step -----------------------------------------------------------------------------

    @flushed_denormals()
    def _step(self, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
        """Does one optimiser step over its batches; returns the summed parts."""
        # Counted before the transfer: a number read back from a GPU would make it wait.
        own = reduce(add, [self.task.count(batch) for batch in batches])
        counts = Counts(**self.ranks.sum_numbers(dataclasses.asdict(own)))
        on_device = [to_device(batch, self.device) for batch in batches]
        set_rate(self.optimizer, self.learning_rate)
        self.task.anneal(self.progress)
        self.optimizer.zero_grad()
        last = on_device[-1]
        each = [self._backward(batch, counts, held=batch is not last) for batch in on_device]
        own_parts = merged_parts(each)
        parts = self.ranks.sum_parts(own_parts)
        if most := self.config.clip_norm:
            parts["gradient_norm"] = nn.utils.clip_grad_norm_(self.parameters, most)
        self.optimizer.step()
        self.state.step += 1
        self.watch.add(self.state.step, batches, own_parts["loss"], parts)
        return parts | {"labels": torch.tensor(float(counts.labels))}

    def _backward(self, batch: Batch, counts: Counts, *, held: bool) -> dict[str, torch.Tensor]:
        """Adds a batch's gradients; those that are held are exchanged with a later batch's."""
        with self.ranks.held(self._call, held=held):
            with self._autocast():
                parts = self._call(batch, counts, self.state.epoch)
            self.ranks.backward(parts["loss"])
        return {name: part.detach() for name, part in parts.items()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    # -- what is told -----------------------------------------------------------------------

    def _log_step(self, log: RunLog, bar: Any, parts: Mapping[str, torch.Tensor]) -> None:
        """Writes a step's record and shows it beside the bar."""
        self.watch.check(self.state.epoch)
        rate = self.optimizer.param_groups[0]["lr"]
        scalars = {name: part for name, part in parts.items() if name != "decisions"}
        values = {name: float(part.float().mean()) for name, part in scalars.items()}
        shown = {"loss": f"{values['loss']:.3f}", "lr": f"{rate:.0e}"}
        if "kept" in values:
            shown["kept"] = f"{values['kept']:.0f}"
        values |= {"learning_rate": rate, "wait_share": self.clock.wait_share}
        bar.set_postfix(shown | {"wait": f"{values['wait_share']:.0%}"}, refresh=False)
        log.write("step", self.state.step, self.state.epoch, values)

    def end_epoch(self, log: RunLog) -> dict[str, float]:
        """Writes the epoch's means, counts it, and returns them."""
        self.watch.check(self.state.epoch)
        means = self.meters.means()
        timing = {"wait_share": self.clock.wait_share, "seconds": self.clock.total}
        log.write("epoch", self.state.step, self.state.epoch, means | timing)
        # Of later epochs: crops may miss every label, and the last one may be a batch long.
        if self.state.epoch == 0 and means.get("labels") == 0:
            raise JobFailedError(self.task.unlabelled)
        self.meters = Meters()
        self.state.epoch += 1
        every = self.config.checkpoint_epochs
        if every and self.state.epoch - self._saved_epoch >= every:
            self.save()
        return means

    def _validation_due(self) -> bool:
        """Says whether this epoch ends with a validation; one comes after the last step anyway."""
        every = 0 if self._measure is None else self.config.validate_epochs
        due = every > 0 and self.state.epoch % every == 0
        return due and not self.over and self.state.validated < self.state.epoch

    def _validate(self, log: RunLog) -> dict[str, float]:
        """Measures the network, and keeps it if it is the best so far."""
        if self.over:
            self.save()  # whatever comes of the last validation, nothing is lost
        assert self._measure is not None  # or no validation is due
        found = self._measure(self.network, self.device)
        self._set_training_mode()
        log.write("validation", self.state.step, self.state.epoch - 1, found.scores)
        log.show("validation", self.state.step, found.pictures)
        self.state.validated = self.state.epoch
        score = found.scores.get(self.task.score, math.nan)
        if score > self.state.best_score or math.isnan(self.state.best_score):
            self.state.best_score = score
            if self.ranks.first:
                self.files.save_best(self.network, self.state)
        return found.scores

    # -- what is saved ----------------------------------------------------------------------

    def _save_or_stop(self, asked: Sequence[int]) -> None:
        """Saves the run where it is time to; where a rank is asked to stop, raises after it."""
        every = self.config.checkpoint_minutes
        due = bool(every) and time.monotonic() - self._saved_at >= 60 * every
        told = self.ranks.sum_numbers({"stop": bool(asked), "save": due})
        if told["stop"] or told["save"]:
            self.save()
        if told["stop"]:
            by_hand = signal.SIGINT in asked
            stopped = KeyboardInterrupt if by_hand else JobFailedError
            raise stopped(
                f"stopped by {'Ctrl-C' if by_hand else 'SIGTERM'} after step {self.state.step} of "
                f"{self.total_steps}; everything is saved in {self.files.path}: go on with the "
                "same command and --resume"
            )

    def save(self) -> None:
        """Writes the run's state and network, after making sure that the weights are sound."""
        self.watch.check(self.state.epoch)
        self.state.seconds += self.clock.lap()
        rng = self.ranks.gather(random_state(self.device))
        if self.ranks.first:
            self.files.save(self.network, self.state, self._state_dict(rng))
        self.ranks.wait()  # torchrun ends them all when the first of them ends
        self._saved_at, self._saved_epoch = time.monotonic(), self.state.epoch

    def _state_dict(self, rng: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns all that going on bit by bit needs; `rng` is of every rank."""
        return {
            "state": dataclasses.asdict(self.state),
            "network": state_on_cpu(self.network),
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
            "meters": self.meters.state_dict(),
            "rng": list(rng),
        }

    def _load_state_dict(self, parts: Mapping[str, Any]) -> None:
        """Goes on where another run was.

        Another number of ranks, or another kind of device, may go on with a run: only dropout then
        starts from fresh random numbers. Of a finished run the counters are enough.
        """
        self.state = RunState.from_dict(parts["state"])
        if self.state.finished:
            return
        try:
            self.network.load_state_dict(parts["network"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.files.path} holds another network than this run's configuration makes: "
                "start a new --output"
            ) from error
        self.optimizer = resumed(self.optimizer, parts["optimizer"], self.network)
        self.loader.load_state_dict(parts["loader"])
        self.meters.load_state_dict(parts["meters"], self.device)
        if len(parts["rng"]) == self.ranks.world:
            set_random_state(parts["rng"][self.ranks.rank], self.device)
        self._saved_epoch = self.state.epoch


def _in_groups(loader: EpochLoader, size: int) -> Iterator[Sequence[Batch]]:
    """Yields the rest of an epoch; the next one begins behind the last group, not with it."""
    batches = iter(loader)
    while group := list(itertools.islice(batches, min(size, len(loader) - loader.position) or 1)):
        yield group
