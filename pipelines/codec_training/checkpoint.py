"""The file that a codec's training goes on from."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latent_store.errors import CheckpointError
from pipelines.codec_training.images import EPOCH_STEPS
from pipelines.codec_training.training import CodecTraining
from training.flags import free_fields
from training.networks.digests import DIGEST
from training.trainer.checkpoints import require_whole, write_payload
from training.trainer.run_folder import RunFiles, require_same_config
from training.trainer.run_log import Meters
from training.trainer.run_state import RunState

_ENTRIES = ("model", "optimizer", "training", "step", "spent")


class TrainingCheckpoint(RunFiles):
    """A dict of "model", "optimizer", "training" (settings), "step" and "spent" (seconds).

    Args:
        path: Of the file; its log lies beside it.
        training: The settings.
        overwrite: Take no notice of a run that it holds.
    """

    def __init__(self, path: Path, training: CodecTraining, *, overwrite: bool = False) -> None:
        free = free_fields(CodecTraining)
        super().__init__(path, path.with_suffix(".jsonl"), config=asdict(training), free=free)
        self.overwrite = overwrite

    def holds_run(self) -> bool:
        """Says whether there is a run to go on with."""
        return super().holds_run() and not self.overwrite

    def save(self, network: nn.Module, state: RunState, parts: Mapping[str, Any]) -> None:
        """Replaces the file."""
        values = (parts["network"], parts["optimizer"], self.config, state.step, state.seconds)
        write_payload(self.resume, dict(zip(_ENTRIES, values, strict=True)))

    def load(self) -> dict[str, Any]:
        """Returns the parts that there are: means of the epoch under way begin anew."""
        payload = self.read()
        require_same_config(payload["training"], self.config, self.free)
        epoch, position = divmod(payload["step"], EPOCH_STEPS)
        return {
            "state": {"step": payload["step"], "epoch": epoch, "seconds": payload["spent"]},
            "network": payload["model"],
            "optimizer": payload["optimizer"],
            "loader": {"epoch": epoch, "position": position, "settings": {}},
            "meters": Meters().state_dict(),
            "rng": [],
        }

    def read(self) -> dict[str, Any]:
        """Returns the file's dict, whatever its settings.

        Raises:
            CheckpointError: If the file is missing or damaged.
        """
        if not self.resume.is_file():
            raise CheckpointError(
                f"there is no training checkpoint {self.resume}; start without --resume and "
                "--finalize_only"
            )
        try:
            payload = torch.load(self.resume, weights_only=True)
            require_whole(payload, payload.pop(DIGEST, None), str(self.resume))
            return {name: payload[name] for name in _ENTRIES}
        except Exception as error:
            raise CheckpointError(
                f"{self.resume} is no usable training checkpoint ({type(error).__name__}); "
                "remove it and start anew"
            ) from error
