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
from latent_store.storage.location import write_atomically
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


class RunFolder:
    """A run's files, written by one process.

    Args:
        path: Of the folder, made when the run begins.
        meta: The checkpoint's, see `LoadedNetwork`; "train", "epoch" and "step" are filled in.
        config: Everything that the run depends on, plain types.
        free: Names in `config` that a resumed run may change.
        codec_bytes: The codec's checkpoint file, to lie in the network's.

    Attributes:
        checkpoint: Path of the reported network's file.
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
        self.path, self.checkpoint = path, path / LAST_FILE
        self.meta, self.config, self.free = dict(meta), dict(config), free
        self.codec_bytes = codec_bytes

    def holds_run(self) -> bool:
        """Says whether there is a run to go on with."""
        return (self.path / RESUME_FILE).exists()

    def begin(self) -> None:
        """Makes the folder and writes the configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.config, indent=2) + "\n"
        write_atomically(self.path / "config.json", text.encode())

    def open_log(self, resumed_step: int, *, tensorboard: bool) -> RunLog:
        """Opens the log; records of later steps, which an interrupted run left, are dropped."""
        board = self.path / "tb" if tensorboard else None
        return RunLog(self.path / LOG_FILE, board=board, resumed_step=resumed_step)

    def save(self, network: nn.Module, state: RunState, parts: Mapping[str, Any]) -> None:
        """Writes last.pt, then resume.pt.

        Args:
            network: As it is.
            state: Of the run.
            parts: Everything that continuing needs, see `Trainer.state_dict`.
        """
        self.save_network(LAST_FILE, network, state)
        payload = {"format": RESUME_FORMAT, "format_version": 1, "config": self.config, **parts}
        write_payload(self.path / RESUME_FILE, payload)

    def load(self) -> dict[str, Any]:
        """Returns what `save` was given as `parts`.

        Raises:
            LatentStoreError: If the run had another configuration; the first field is named.
            CheckpointError: If the file is damaged.
        """
        path = self.path / RESUME_FILE
        payload = parse(read_file(path), str(path), expected_format=RESUME_FORMAT)
        require_same_config(payload["config"], self.config, self.free)
        return payload

    def save_best(self, network: nn.Module, state: RunState) -> None:
        """Keeps the network as the best so far."""
        self.save_network(BEST_FILE, network, state)

    def finish(self, network: nn.Module, state: RunState, scores: Mapping[str, float]) -> None:
        """Exports the finished network's weights and writes its card."""
        meta = self._meta_at(state)
        export_safetensors(self.path / "last.safetensors", network, meta=meta)
        card = model_card(uncompiled(network).config, meta, scores)
        write_atomically(self.path / "README.md", card.encode())

    def save_network(self, name: str, network: nn.Module, state: RunState) -> None:
        """Writes a network's checkpoint file."""
        meta = self._meta_at(state)
        save_checkpoint(self.path / name, network, meta=meta, codec_bytes=self.codec_bytes)

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
