"""A run that is killed at any change of its folder, and begun again by the same command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.pipelines.kills import walk
from tests.training.trainer.test_trainer import CHANNELS, MadeLoader, fit, make_config
from training.networks.network_config import NetworkConfig
from training.tasks.losses import Counts
from training.trainer.run_folder import BEST_FILE, FINISHED_FILE, LAST_FILE, LOG_FILE
from training.trainer.trainer import Batch
from training.trainer.validation import Validation

TIMES = ("seconds", "wait_share")


def finished(folder: Path) -> dict[str, Any]:
    """Returns what a run leaves, without its times, and without logs of what was never saved."""
    files = [path for path in folder.iterdir() if not path.match("log.*.jsonl")]
    found: dict[str, Any] = {path.name: path.read_bytes() for path in files}
    records = map(json.loads, found[LOG_FILE].splitlines())
    found[LOG_FILE] = [
        {name: value for name, value in record.items() if name not in TIMES} for record in records
    ]
    # Its header lists the same things in whatever order.
    weights = load_file(folder / "last.safetensors")
    found["last.safetensors"] = {name: values.tolist() for name, values in weights.items()}
    found[FINISHED_FILE] = json.loads(found[FINISHED_FILE])
    found[FINISHED_FILE]["state"]["seconds"] = 0.0
    found["linked"] = (folder / BEST_FILE).samefile(folder / LAST_FILE)
    return found


def measure(network: torch.nn.Module, _: torch.device) -> Validation:
    """Scores of no meaning that tell networks apart."""
    weights = next(iter(network.parameters())).detach().double()
    return Validation(scores={"miou": float((weights.sum() * 1e6).sin())})


class Tiny(nn.Module):
    """A network whose files are small, which draws random numbers and has statistics to settle."""

    def __init__(self) -> None:
        super().__init__()
        self.config = NetworkConfig(backbone="resnet18", latent_channels=CHANNELS)
        self.layers = nn.Sequential(
            nn.Conv2d(CHANNELS, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Conv2d(4, 1, 1)
        )

    def forward(self, y_hat_BCHW: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(y_hat_BCHW.float())
        return found


class TinyTask:
    """Learns the first feature, at a quarter of its resolution."""

    score = "miou"
    unlabelled = "nothing to learn from"
    settles = True
    rate_shares: ClassVar[dict[str, float]] = {}

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = Tiny()

    def __call__(self, batch: Batch, counts: Counts, epoch: int) -> dict[str, torch.Tensor]:
        found_BCHW = self.network(batch["y_hat_BCHW"])
        target_BCHW = batch["features_BCHW"][:, :1, ::4, ::4]
        return {"loss": (found_BCHW - target_BCHW).square().mean()}

    def count(self, batch: Batch) -> Counts:
        return Counts(labels=1)

    def anneal(self, progress: float) -> None:
        return

    def settle(self, batches: Iterator[Batch]) -> None:
        for batch in batches:
            self.network(batch["y_hat_BCHW"])

    def compile_network(self) -> None:
        return


def train(folder: Path) -> None:
    config = make_config(epochs=3, validate_epochs=1, checkpoint_epochs=1, log_steps=2)
    fit(TinyTask(), MadeLoader(), config, folder, validate=measure, resume=True)


@pytest.mark.parametrize("moments", ["changes", pytest.param("every", marks=pytest.mark.slow)])
def test_the_same_command_again_makes_the_same_run(tmp_path: Path, moments: str) -> None:
    (tmp_path / "kills").mkdir()
    kills, wrong = walk(train, tmp_path / "run", tmp_path / "kills", moments, finished)
    assert wrong == []
    assert kills > 20
    records = finished(tmp_path / "run")[LOG_FILE]
    assert [r["epoch"] for r in records if r["kind"] == "validation"] == [0, 1, 2]
    assert (tmp_path / "run" / BEST_FILE).exists()
