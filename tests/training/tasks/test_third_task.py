"""A third task, written and registered here alone, goes through every command.

Which classes occur in a picture at all: learned from the labels, from a linear layer behind the
mean of the backbone's last map.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.conftest import VAL, TinyStore
from training import evaluate, segment, train
from training.networks.backbones import find_backbone
from training.networks.network_config import NetworkConfig
from training.networks.stages import Stages, Stem
from training.tasks.annotations import PixelLabels
from training.tasks.base import Panel, Task
from training.tasks.losses import Counts, TaskLoss
from training.tasks.metric import ImageResult, Metric
from training.tasks.registry import TASKS
from training.trainer.checkpoints import load_network
from training.transmission.command import transmit
from training.transmission.transmission_flags import transmission_parser


class PresenceTail(Stages):
    """A backbone's stages and one linear layer: "presence_logits" [B, K]."""

    def __init__(self, stages: Mapping[str, nn.Module], config: NetworkConfig) -> None:
        super().__init__(stages)
        channels = find_backbone(config.backbone).stage_channels[-1]
        self.head = nn.Linear(channels, config.num_classes)

    def forward(self, features_BCHW: torch.Tensor, size: tuple[int, int]) -> dict[str, Any]:
        return {"presence_logits": self.head(self.maps(features_BCHW)[-1].mean((2, 3)))}


class PresenceLoss(TaskLoss):
    """Binary cross-entropy of every class, "presence"."""

    own_weights: ClassVar = {"presence": 1.0}

    def task_parts(
        self, outputs: Mapping[str, Any], batch: Mapping[str, Any], counts: Counts
    ) -> dict[str, torch.Tensor]:
        logits_BK = outputs["presence_logits"]
        there_BK = torch.stack([there(x, logits_BK.shape[1]) for x in batch["labels_BHW"]])
        errors = F.binary_cross_entropy_with_logits(logits_BK, there_BK, reduction="sum")
        return {"presence": errors / max(counts.samples, 1)}


def there(labels_HW: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Which classes occur, float32 [K] of 0 and 1."""
    counts = torch.bincount(labels_HW.flatten().long(), minlength=256)[:num_classes]
    return (counts > 0).float()


@dataclass(frozen=True, kw_only=True)
class PresenceResult(ImageResult):
    """Whether one image was right about each class [K], 0 or 1."""

    right: tuple[int, ...]

    @property
    def counted(self) -> int:
        return len(self.right)


class PresenceAccuracy(Metric):
    """The share of right answers."""

    score = "presence"
    title = "Presence"
    class_title = "Right"
    result = PresenceResult

    def compare(self, truth: Any, prediction: torch.Tensor, num_classes: int) -> PresenceResult:
        is_there_K = there(torch.as_tensor(truth), num_classes).bool()
        return PresenceResult(right=tuple((is_there_K == prediction).int().tolist()))

    def summary(
        self, results: Sequence[PresenceResult], class_names: Sequence[str]
    ) -> dict[str, float]:
        right_SK = np.array([result.right for result in results])
        by_class = zip(class_names, right_SK.mean(axis=0).tolist(), strict=True)
        return {"presence": float(right_SK.mean())} | {f"right/{k}": v for k, v in by_class}

    def drawn(self, results: Sequence[PresenceResult], times_DS: np.ndarray) -> np.ndarray:
        right_S = np.array([np.mean(result.right) for result in results])
        return times_DS @ right_S / times_DS.sum(axis=1)


class Presence(Task):
    """Which classes occur; a prediction is bool [K], the truth a map of labels."""

    name = "presence"
    title = "Presence of classes"
    architecture = "Mean of features"
    pipeline_tag = "image-classification"
    command = "classify"
    purpose = "classify"
    teacher_prefix = "presence"
    annotations = PixelLabels
    loss = PresenceLoss
    metric = PresenceAccuracy()
    nothing = "{images} are none"
    wanted = "labels"
    score_note = "Presence is the share of classes that are rightly said to occur, or not to."
    pictures_note = "Decoded picture, and how many classes each network says."
    kept = "classes/{row:06d}.json"

    def build_parts(self, config: NetworkConfig) -> tuple[Stem, nn.Module]:
        stem, stages = find_backbone(config.backbone).build(dilated=False)
        return stem, PresenceTail(stages, config)

    def predictions(self, outputs: Mapping[str, Any], sizes: Sequence[Any]) -> list[torch.Tensor]:
        return list(outputs["presence_logits"].cpu() > 0)

    def truth_panels(
        self, truth: Any, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> list[Panel]:
        return [("decoded picture", picture_HWC)]

    def draw(
        self, prediction: torch.Tensor, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> np.ndarray:
        drawn_HWC = picture_HWC.copy()
        drawn_HWC[: int(prediction.sum())] = 255
        return drawn_HWC

    def write(
        self, base: Path, prediction: Any, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> None:
        said = [name for name, yes in zip(class_names, prediction, strict=True) if yes]
        base.with_name(f"{base.name}_classes.json").write_text(json.dumps(said))

    def keep(self, path: Path, prediction: torch.Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(prediction.tolist()))

    def read_kept(self, path: Path) -> torch.Tensor:
        return torch.tensor(json.loads(path.read_text()))


@pytest.fixture
def presence(monkeypatch: pytest.MonkeyPatch) -> Presence:
    task = Presence()
    monkeypatch.setitem(TASKS, task.name, task)
    return task


def test_it_is_trained_measured_and_used_like_the_others(
    presence: Presence,
    tiny_store: TinyStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fails: Any,
) -> None:
    words = ["--store", tiny_store.url, "--output", tmp_path / "run", "--task", "presence"]
    words += [
        "--transform_init",
        "fresh",
        "--selection",
        "dynamic",
        "--backbone",
        "mobilenet_v2",
        "--batch_size",
        2,
    ]
    words += ["--crop", 64, "--max_steps", 4, "--learning_rate", 1e-3, "--workers", 0]
    words += ["--no-tensorboard", "--device", "cpu"]
    assert train.main([*map(str, words)]) == 0  # the tail starts from a segmentation teacher
    assert "Presence 0." in capsys.readouterr().out
    checkpoint = tmp_path / "run/last.pt"
    assert load_network(checkpoint).config.task == "presence"
    card = (tmp_path / "run/README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "| class | Right |" in card

    words = ["--store", tiny_store.url, "--dataset", "cityscapes", "--checkpoint", checkpoint]
    words += ["--output", tmp_path / "table", "--device", "cpu", "--permute_latents"]
    for _ in range(2):  # the second time from what is kept
        assert evaluate.main([*map(str, words), "--pictures", "1"]) == 0
        assert "Presence" in capsys.readouterr().out.splitlines()[0].split()
    (point,) = json.loads((tmp_path / "table/results.json").read_text())["points"]
    assert (point["task"], point["metric"], point["num_samples"]) == ("presence", "Presence", VAL)
    low, high = point["score_interval"]
    assert 0 <= low <= point["score"] <= high <= 1
    report = (tmp_path / "table/report.md").read_text()
    assert "# Rate and Presence on cityscapes/val" in report
    assert "## Right by class" in report
    assert presence.score_note in report
    # Of the picture that is shown, and of that with the lowest score where it is another one.
    assert len(list(tmp_path.glob("table/points/*-classes/*.json"))) in (1, 2)
    assert len(list(tmp_path.glob("table/pictures/*.png"))) == 1
    assert (tmp_path / "table/rate_presence.png").exists()

    image = next(tiny_store.data_root.glob("leftImg8bit/val/*/*.png"))
    flags = ["--checkpoint", checkpoint, "--image", image, "--output", tmp_path, "--device", "cpu"]
    parser = transmission_parser(presence.command, "Classifies.", "")
    assert transmit(parser.parse_args([*map(str, flags)]), presence) == 0
    assert isinstance(json.loads((tmp_path / f"{image.stem}_classes.json").read_text()), list)
    assert "use `classify`, or a checkpoint for seg" in fails(segment.main, [*map(str, flags)])


def test_its_settings_are_its_own(
    presence: Presence, tiny_store: TinyStore, tmp_path: Path, fails: Any
) -> None:
    words = ["--store", tiny_store.url, "--output", tmp_path, "--task", "presence"]
    line = fails(train.main, [*map(str, words), "--aspp_width", "8"])
    assert "--aspp_width is a setting of segmentation, the task is presence" in line
