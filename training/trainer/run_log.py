"""The log of a run: JSON lines, TensorBoard, a progress bar, and where its time went."""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self, TypeVar

import numpy as np
import torch

from latent_store.errors import LatentStoreError
from latent_store.line_progress import in_words
from latent_store.storage.changes import tell
from latent_store.storage.local_files import write_text

Item = TypeVar("Item")
_LOG = logging.getLogger(__name__)
LONG_SECONDS = 24 * 3600
"""Of the rest of a run, beyond which a warning says what would shorten it."""
SHORT_SECONDS = 60
"""Likewise, below which nothing needs to be said."""


class RunLog:
    """Writes records to a file of JSON lines and their numbers to TensorBoard.

    Args:
        path: Of the file; None writes nothing, another rank does.
        board: Folder of TensorBoard's files.
        done: Steps, epochs and validations that a resumed run has done, by the kinds of their
            records; those of later ones, which an interrupted run left, are dropped.

    Raises:
        LatentStoreError: If TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        board: Path | None = None,
        done: Mapping[str, int] = MappingProxyType({"step": 0, "epoch": 0, "validation": 0}),
    ) -> None:
        self._file: IO[str] | None = None
        self._board: Any = None
        if path is None:
            return
        _drop_later(path, done)
        self._path = path
        self._file = path.open("a", encoding="utf-8")
        if board is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter  # slow, and optional
        except ImportError as error:
            raise LatentStoreError(
                "TensorBoard is not installed: pip install tensorboard, or give --no-tensorboard"
            ) from error
        purged = done["step"] + 1 if done["step"] else None
        self._board = SummaryWriter(board, purge_step=purged)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, kind: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Writes one record.

        Args:
            kind: "step", "epoch" or "validation"; the prefix of its curves.
            step, epoch: See `RunState`; the epoch is the one that the steps belong to.
            values: By name; nan becomes null in JSON and a gap in curves.
        """
        if self._file is None:
            return
        finite = {name: value if value == value else None for name, value in values.items()}
        record = {"kind": kind, "step": step, "epoch": epoch, **finite}
        tell("append", self._path)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in finite.items():
                if value is not None:
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def show(self, kind: str, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Shows pictures, uint8 RGB [H, W, 3] by name, in TensorBoard."""
        if self._board is not None:
            for name, picture_HWC in pictures.items():
                self._board.add_image(f"{kind}/{name}", picture_HWC, step, dataformats="HWC")


class Meters:
    """Running means of a step's parts, kept on the device so that nothing waits for them."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}
        self.kept: list[torch.Tensor] = []
        self.decisions: torch.Tensor | None = None

    def add(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Adds one step's parts; "kept" [B] and "decisions" [C] are collected for their spread."""
        for name, value in parts.items():
            value = value.detach()
            if name == "kept":
                self.kept.append(value)
            elif name == "decisions":
                self.decisions = value if self.decisions is None else self.decisions + value
            else:
                self.sums[name] = self.sums.get(name, 0) + value.double()
                self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Returns the mean of each part, and what was kept where channels are selected.

        "kept_mean" and so on are of the channels kept in each image; "always_on" and "never_on"
        count the channels that a gate, without its noise, keeps in every image and in none.
        """
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        if self.kept:
            kept = torch.cat(self.kept).double()
            spread = {"mean": kept.mean(), "std": kept.std(correction=0)}
            spread |= {"min": kept.min(), "max": kept.max()}
            means |= {f"kept_{name}": float(value) for name, value in spread.items()}
        if self.decisions is not None:
            images = sum(len(kept) for kept in self.kept)
            means["always_on"] = float((self.decisions == images).sum())
            means["never_on"] = float((self.decisions == 0).sum())
        return means

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums as plain values."""
        return {
            "sums": {name: total.cpu() for name, total in self.sums.items()},
            "counts": dict(self.counts),
            "kept": torch.cat(self.kept).cpu() if self.kept else torch.zeros(0),
            "decisions": None if self.decisions is None else self.decisions.cpu(),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Takes another's sums."""
        self.sums = {name: total.to(device) for name, total in state["sums"].items()}
        self.counts = dict(state["counts"])
        self.kept = [state["kept"].to(device)] if len(state["kept"]) else []
        decisions = state["decisions"]
        self.decisions = None if decisions is None else decisions.to(device)


def merged_parts(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Adds the parts of a step's batches (each is already divided by the step's counts)."""
    first, *others = parts
    merged = dict(first)
    for part in others:
        for name, value in part.items():
            both = merged[name], value
            merged[name] = torch.cat(both) if name == "kept" else torch.add(*both)
    return merged


class Clock:
    """Seconds since the start and since the last lap, and those spent waiting for data."""

    def __init__(self) -> None:
        self.start = self._lap = time.perf_counter()
        self.waited = 0.0

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    @property
    def since_lap(self) -> float:
        """Seconds since the last lap, or the start."""
        return time.perf_counter() - self._lap

    def lap(self) -> float:
        """Returns `since_lap`, and begins another."""
        seconds = self.since_lap
        self._lap += seconds
        return seconds

    @property
    def wait_share(self) -> float:
        """The share of the time in which the loop waited for the loader."""
        return self.waited / self.total if self.total else 0.0

    def timed(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yields the items and counts the time that each took to come."""
        while True:
            before = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - before
            yield item


class Forecast:
    """Says once, after the first steps, how long the rest takes; beyond a day it is a warning.

    Where the first step takes long by itself, it is said then what steps like it would take.
    """

    least_seconds, least_steps = 20.0, 20

    def __init__(self, device: torch.device) -> None:
        self._device, self._first, self._began = device, 0, 0.0
        self._told, self._start = False, math.inf

    def begin(self) -> None:
        """Starts the clock of a sitting's first step, which also loads and compiles."""
        self._start = time.perf_counter()

    def tell(self, done: int, total: int) -> None:
        """Counts a step of a run; the first one of a sitting begins the clock."""
        now = time.perf_counter()
        steps = done - self._first
        if self._told or not self._began:
            if not self._told:
                self._first, self._began = done, now
                self._tell_first(now - self._start, total - done)
            return
        if now - self._began < self.least_seconds and steps < self.least_steps:
            return
        self._told = True
        each = (now - self._began) / steps
        rest = (total - done) * each
        text = f"at {each:.3g} s a step the {total - done} steps that are left take about "
        text += f"{in_words(rest)} on {self._device.type}"
        if rest > LONG_SECONDS:
            _LOG.warning(
                "warning: %s: Ctrl-C saves; a smaller --preset or --backbone, fewer --epochs or "
                "--max_steps take less",
                text,
            )
        elif rest > SHORT_SECONDS:
            _LOG.info("%s", text)

    def _tell_first(self, seconds: float, left: int) -> None:
        if seconds >= self.least_seconds and left * seconds > SHORT_SECONDS:
            _LOG.info(
                "the first step took %.3g s, loading included; at most %s for the %d that are "
                "left, and the next steps tell more",
                *(seconds, in_words(left * seconds), left),
            )


def _drop_later(path: Path, done: Mapping[str, int]) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break  # the interrupted run died while writing it
        kind = record["kind"]
        # Steps are counted once done, epochs from 0.
        if record["step"] <= done["step"] if kind == "step" else record["epoch"] < done[kind]:
            kept.append(line + "\n")
    write_text(path, "".join(kept))
