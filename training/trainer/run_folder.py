"""The folder of a run: its files, how they are written, and the state that they keep.

    config.json   the resolved configuration
    log.jsonl     records of steps, epochs and validations; tb/ the same for TensorBoard
    log.1.jsonl   of an earlier start, of which nothing was saved
    resume.pt     until the end: everything that `--resume` needs
    last.pt       the network as it is (the reported one); best.pt at its best validation
    finished.json, README.md, last.safetensors    at the end: counters, model card, exported weights

`resume.pt` alone decides where a run goes on; `last.pt` and `best.pt` are networks for others to
use. One file, renamed into place, cannot be half old and half new. A finished run goes on nowhere:
`finished.json` takes the place of `resume.pt`, and a `best.pt` that is `last.pt` is a link to it.
"""

import contextlib
import dataclasses
import filecmp
import itertools
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from latent_store.errors import CheckpointError, LatentStoreError, public_url
from latent_store.storage.local_files import atomic_path, remove, write_atomically
from training.trainer import checkpoints
from training.trainer.model_card import model_card
from training.trainer.run_log import RunLog

_LOG = logging.getLogger(__name__)
RESUME_FILE = "resume.pt"
FINISHED_FILE = "finished.json"
LAST_FILE = "last.pt"
BEST_FILE = "best.pt"
LOG_FILE = "log.jsonl"
PATHS = ("store", "data_root", "data", "pretrained", "init_from")
"""Names in a configuration whose values are paths or URLs, or a word of one's own."""
RESUME_FORMAT = "latent-store-training"


@dataclass(kw_only=True)
class RunState:
    """Counters of a run.

    Attributes:
        step: Optimiser steps done.
        epoch: Epochs finished.
        best_score: The best validation so far; nan before the first.
        seconds: Training time of all sittings.
        validated: Epochs that were finished when the network was last measured.
        settled: Whether the task brought the network to rest, after the last step.
        finished: Whether the run came to its end.
    """

    step: int = 0
    epoch: int = 0
    best_score: float = math.nan
    seconds: float = 0.0
    validated: int = 0
    settled: bool = False
    finished: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Returns the counters that a file holds."""
        values = dict(values)
        if "best_miou" in values:  # written before there were other scores
            values["best_score"] = values.pop("best_miou")
        values.setdefault("validated", values["epoch"])  # nor was it told then
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The result of a run.

    Attributes:
        checkpoint: The network's file.
        sha256: Of that file.
        step, epoch, seconds: See `RunState`.
        scores: The last validation; empty without one.
        wait_share: Share of this sitting's time spent waiting for data.
    """

    checkpoint: Path
    sha256: str
    step: int
    epoch: int
    scores: dict[str, float]
    seconds: float
    wait_share: float


class RunFiles:
    """The file that a run goes on from, and its log; written by one process.

    Args:
        resume, log: Of the run.
        config: Everything that the run depends on, plain types.
        free: Names in `config` that a resumed run may change.

    Attributes:
        path: The name by which users know the run.
        checkpoint: The reported network's file.
    """

    anew: ClassVar[str] = "--resume"
    """The flag that begins anew where nothing is saved."""

    def __init__(
        self, resume: Path, log: Path, *, config: Mapping[str, Any], free: frozenset[str]
    ) -> None:
        self.path = self.checkpoint = self.resume = resume
        self.log, self.config, self.free = log, _public(config), free

    def holds_run(self) -> bool:
        """Says whether there is a run to go on with."""
        return self.resume.exists()

    def require_room(self, *, resume: bool) -> None:
        """Refuses to begin where a run is, or where one left a log or a network behind.

        Raises:
            LatentStoreError: Says what is there, and what to do.
        """
        if resume:
            return
        if self.holds_run():
            raise LatentStoreError(
                f"{self.path} holds a run already: go on with it with --resume, or give another "
                "--output"
            )
        if left := self._left_behind():
            raise LatentStoreError(
                f"{self.path} has {' and '.join(left)} of a run, and nothing to go on from: give "
                f"another --output, or {self.anew} to begin anew with the older log kept beside"
            )

    def _left_behind(self) -> list[str]:
        """Returns the names of what a run left that was never saved."""
        return [self.log.name] if _is_filled(self.log) else []

    def begin(self) -> None:
        """Makes the folder; a log of what was never saved is kept beside."""
        self.resume.parent.mkdir(parents=True, exist_ok=True)
        if self.holds_run() or not _is_filled(self.log):
            return
        numbered = (self.log.with_suffix(f".{n}{self.log.suffix}") for n in itertools.count(1))
        aside = next(path for path in numbered if not path.exists())
        self.log.rename(aside)
        _LOG.warning("%s begins at step 0, older log: %s", self.path, aside)

    def open_log(self, state: RunState, *, tensorboard: bool) -> RunLog:
        """Opens the log; what an interrupted run did after `state` is dropped from it."""
        board = self.log.with_name("tb") if tensorboard else None
        done = {"step": state.step, "epoch": state.epoch, "validation": state.validated}
        return RunLog(self.log, board=board, done=done)

    def save(self, network: Any, state: RunState, parts: Mapping[str, Any]) -> None:
        """Saves a run; `parts` is all that going on bit by bit needs, see `Trainer`."""
        payload = {"format": RESUME_FORMAT, "format_version": 1, "config": self.config, **parts}
        checkpoints.write_payload(self.resume, payload)

    def load(self) -> Mapping[str, Any]:
        """Returns what `save` was given as `parts`.

        Raises:
            LatentStoreError: If the run had another configuration; the first field is named.
            CheckpointError: If the file is damaged.
        """
        name = str(self.resume)
        data = checkpoints.read_file(self.resume)
        payload = checkpoints.parse(data, name, expected_format=RESUME_FORMAT)
        require_same_config(_public(payload["config"]), self.config, self.free)
        return payload

    def save_best(self, network: Any, state: RunState) -> None:
        """Keeps the best network so far, where one is kept."""

    def finish(self, network: Any, state: RunState, scores: Mapping[str, float]) -> None:
        """Writes what is made of a finished network and its last validation."""

    def close(self, state: RunState) -> None:
        """Leaves of a finished run what is of use."""


class RunFolder(RunFiles):
    """The folder of a network's run, made when the run begins.

    Args:
        path: Of the folder.
        meta: The checkpoint's, see `LoadedNetwork`; "train", "epoch" and "step" are filled in.
        config, free: See `RunFiles`.
        codec_bytes: The codec's checkpoint file, to lie in the network's.
        safetensors: Whether the finished network's weights are exported too.
    """

    def __init__(
        self,
        path: Path,
        *,
        meta: Mapping[str, Any],
        config: Mapping[str, Any],
        free: frozenset[str],
        codec_bytes: bytes | None = None,
        safetensors: bool = True,
    ) -> None:
        super().__init__(path / RESUME_FILE, path / LOG_FILE, config=config, free=free)
        self.path, self.checkpoint, self.record = path, path / LAST_FILE, path / FINISHED_FILE
        self.meta, self.codec_bytes, self.safetensors = dict(meta), codec_bytes, safetensors

    def holds_run(self) -> bool:
        """Says whether there is a run to go on with, or one that is finished."""
        return holds_run(self.path)

    def _left_behind(self) -> list[str]:
        return super()._left_behind() + [LAST_FILE] * self.checkpoint.exists()

    def begin(self) -> None:
        """Makes the folder and writes the configuration."""
        super().begin()
        text = json.dumps(self.config, indent=2) + "\n"
        write_atomically(self.path / "config.json", text.encode())

    def save(self, network: Any, state: RunState, parts: Mapping[str, Any]) -> None:
        """Writes last.pt, then resume.pt; of a finished run what takes its place."""
        self._save_network(self.checkpoint, network, state)
        if state.finished:
            self.close(state)
        else:
            super().save(network, state, parts)

    def load(self) -> Mapping[str, Any]:
        """Returns what `save` was given as `parts`; of a finished run "state" alone."""
        if not self.record.exists():
            return super().load()
        try:
            record = json.loads(self.record.read_text())
            parts = {"state": dataclasses.asdict(RunState.from_dict(record["state"]))}
            before = dict(record["config"])
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{self.record} is damaged ({type(error).__name__}); the run is finished: use its "
                f"{LAST_FILE}, or start a new --output"
            ) from error
        require_same_config(before, _as_json(self.config), self.free)
        return parts

    def close(self, state: RunState) -> None:
        """Puts a record in the place of resume.pt, and a link in that of a best.pt that is last.pt.

        Folders of earlier versions, which kept both, are made alike.
        """
        # JSON has no nan, which the best score is without a validation.
        counters = {name: n for name, n in dataclasses.asdict(state).items() if n == n}
        record = {"state": counters, "config": _as_json(self.config)}
        write_atomically(self.record, (json.dumps(record, indent=2) + "\n").encode())
        best = self.path / BEST_FILE
        alike = best.exists() and filecmp.cmp(best, self.checkpoint, shallow=False)
        if alike and not best.samefile(self.checkpoint):
            # A file system without links keeps the copy.
            with contextlib.suppress(OSError), atomic_path(best) as neighbour:
                os.link(self.checkpoint, neighbour)
        remove(self.resume)

    def save_best(self, network: Any, state: RunState) -> None:
        """Writes best.pt."""
        self._save_network(self.path / BEST_FILE, network, state)

    def finish(self, network: Any, state: RunState, scores: Mapping[str, float]) -> None:
        """Writes the finished network's card, and exports its weights if they are asked for."""
        meta = self._meta_at(state)
        if self.safetensors:
            checkpoints.export_safetensors(self.path / "last.safetensors", network, meta=meta)
        card = model_card(network.config, meta, scores)
        write_atomically(self.path / "README.md", card.encode())

    def _save_network(self, path: Path, network: Any, state: RunState) -> None:
        meta, codec = self._meta_at(state), self.codec_bytes
        checkpoints.save_checkpoint(path, network, meta=meta, codec_bytes=codec)

    def _meta_at(self, state: RunState) -> dict[str, Any]:
        return self.meta | {"train": self.config, "epoch": state.epoch, "step": state.step}


def holds_run(folder: Path) -> bool:
    """Says whether a folder has a run to go on with, or one that is finished."""
    return any((folder / name).exists() for name in (FINISHED_FILE, RESUME_FILE))


def tell_where_none(folder: Path, *, resume: bool) -> None:
    """Says where `--resume` finds nothing to go on with, and hence begins."""
    if resume and not holds_run(folder):
        _LOG.info("%s holds no run to go on with: --resume begins one", folder)


def _is_filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns where this process's random numbers are: "cpu", and "cuda" for a GPU, else None."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Goes on with the random numbers of another process, see `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def require_same_config(
    before: Mapping[str, Any], now: Mapping[str, Any], free: frozenset[str]
) -> None:
    """Refuses to resume a run whose configuration changed.

    Raises:
        LatentStoreError: Names the first field that differs, with both values.
    """
    for name in {**before, **now}:
        if name not in free and before.get(name) != now.get(name):
            raise LatentStoreError(
                f"cannot resume with another --{name}: the run has {before.get(name)!r}, now it is "
                f"{now.get(name)!r}; give the same value, or start a new --output"
            )


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration as a JSON file gives it back: lists in the place of tuples."""
    return dict(json.loads(json.dumps(config)))


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration that others may read: no credentials, and no paths but the store's.

    Of what was read from elsewhere the last name of its path stays.
    """
    known = dict(config)
    for name in PATHS:
        if known.get(name) is not None:
            value = public_url(str(known[name]))
            known[name] = value if name == "store" else Path(value).name
    return known
