"""The folder of a run: its files, and how they are written.

    config.json   the resolved configuration
    log.jsonl     records of steps, epochs and validations; tb/ the same for TensorBoard
    resume.pt     everything that `--resume` needs
    last.pt       the network as it is (the reported one); best.pt at its best validation
    last.safetensors, README.md    at the end: exported weights and model card

`resume.pt` alone decides where a run goes on; `last.pt` and `best.pt` are networks for others to
use. One file, renamed into place, cannot be half old and half new.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from latent_store.errors import LatentStoreError
from latent_store.storage.location import public_url, write_atomically
from training.trainer.checkpoints import (
    export_safetensors,
    parse,
    read_file,
    save_checkpoint,
    uncompiled,
    write_payload,
)
from training.trainer.model_card import model_card
from training.trainer.run_log import RunLog
from training.trainer.run_state import RunState

RESUME_FILE = "resume.pt"
LAST_FILE = "last.pt"
BEST_FILE = "best.pt"
LOG_FILE = "log.jsonl"
RESUME_FORMAT = "latent-store-training"


class RunFiles:
    """The file that a run goes on from, and its log; written by one process.

    Args:
        resume: Path of the file that the run goes on from.
        log: Path of the log.
        config: Everything that the run depends on, plain types.
        free: Names in `config` that a resumed run may change.

    Attributes:
        path: The name by which users know the run.
        checkpoint: Path of the reported network's file.
    """

    def __init__(
        self, resume: Path, log: Path, *, config: Mapping[str, Any], free: frozenset[str]
    ) -> None:
        self.path = self.checkpoint = self.resume = resume
        self.log, self.config, self.free = log, _public(config), free

    def holds_run(self) -> bool:
        """Says whether there is a run to go on with."""
        return self.resume.exists()

    def begin(self) -> None:
        """Makes the folder."""
        self.resume.parent.mkdir(parents=True, exist_ok=True)

    def open_log(self, resumed_step: int, *, tensorboard: bool) -> RunLog:
        """Opens the log; records of later steps, which an interrupted run left, are dropped."""
        board = self.log.with_name("tb") if tensorboard else None
        return RunLog(self.log, board=board, resumed_step=resumed_step)

    def save(self, network: nn.Module, state: RunState, parts: Mapping[str, Any]) -> None:
        """Saves a run.

        Args:
            network: As it is.
            state: Of the run.
            parts: Everything that going on bit by bit needs, see `Trainer`.
        """
        payload = {"format": RESUME_FORMAT, "format_version": 1, "config": self.config, **parts}
        write_payload(self.resume, payload)

    def load(self) -> Mapping[str, Any]:
        """Returns what `save` was given as `parts`.

        Raises:
            LatentStoreError: If the run had another configuration; the first field is named.
            CheckpointError: If the file is damaged.
        """
        name = str(self.resume)
        payload = parse(read_file(self.resume), name, expected_format=RESUME_FORMAT)
        require_same_config(_public(payload["config"]), self.config, self.free)
        return payload

    def save_best(self, network: nn.Module, state: RunState) -> None:
        """Keeps the best network so far, where one is kept."""

    def finish(self, network: nn.Module, state: RunState, scores: Mapping[str, float]) -> None:
        """Writes what is made of a finished network and its last validation."""


class RunFolder(RunFiles):
    """The folder of a network's run, made when the run begins.

    Args:
        path: Of the folder.
        meta: The checkpoint's, see `LoadedNetwork`; "train", "epoch" and "step" are filled in.
        config: Everything that the run depends on, plain types.
        free: Names in `config` that a resumed run may change.
        codec_bytes: The codec's checkpoint file, to lie in the network's.
    """

    def __init__(
        self,
        path: Path,
        *,
        meta: Mapping[str, Any],
        config: Mapping[str, Any],
        free: frozenset[str] = frozenset(),
        codec_bytes: bytes | None = None,
    ) -> None:
        super().__init__(path / RESUME_FILE, path / LOG_FILE, config=config, free=free)
        self.path, self.checkpoint = path, path / LAST_FILE
        self.meta, self.codec_bytes = dict(meta), codec_bytes

    def begin(self) -> None:
        """Makes the folder and writes the configuration."""
        super().begin()
        text = json.dumps(self.config, indent=2) + "\n"
        write_atomically(self.path / "config.json", text.encode())

    def save(self, network: nn.Module, state: RunState, parts: Mapping[str, Any]) -> None:
        """Writes last.pt, then resume.pt."""
        self._save_network(self.checkpoint, network, state)
        super().save(network, state, parts)

    def save_best(self, network: nn.Module, state: RunState) -> None:
        """Writes best.pt."""
        self._save_network(self.path / BEST_FILE, network, state)

    def finish(self, network: nn.Module, state: RunState, scores: Mapping[str, float]) -> None:
        """Exports the finished network's weights and writes its card."""
        meta = self._meta_at(state)
        export_safetensors(self.path / "last.safetensors", network, meta=meta)
        card = model_card(uncompiled(network).config, meta, scores)
        write_atomically(self.path / "README.md", card.encode())

    def _save_network(self, path: Path, network: nn.Module, state: RunState) -> None:
        save_checkpoint(path, network, meta=self._meta_at(state), codec_bytes=self.codec_bytes)

    def _meta_at(self, state: RunState) -> dict[str, Any]:
        return self.meta | {"train": self.config, "epoch": state.epoch, "step": state.step}


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


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration that others may read: no credentials, and no path of a data root."""
    known = dict(config)
    if isinstance(known.get("store"), str):
        known["store"] = public_url(known["store"])
    if known.get("data_root") is not None:
        known["data_root"] = Path(public_url(str(known["data_root"]))).name
    return known
