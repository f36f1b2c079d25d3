"""The flags of a teacher's training."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.datasets.registry import DatasetFlags
from training.data.loader_config import LoaderConfig
from training.flags import flag
from training.networks.backbones import BACKBONES
from training.own_code import OrOwn
from training.trainer.job import ShapeFlags, TrainerConfig

AUTO = "auto"
IMAGENET = "imagenet"


@dataclass(frozen=True, kw_only=True)
class _SplitFlags(DatasetFlags):
    split: str = flag("split to train on", default="train")
    hold_out: tuple[str, ...] | None = flag(
        "samples whose ids begin with one of these (in Cityscapes: cities) are not trained on, and "
        "are validated on unless --val_split is given",
        default=None,
    )
    val_split: str | None = flag(
        "split to validate on (default: what is held out, else val); none = no validation",
        default=None,
        free=True,
    )
    val_max_samples: int = flag(
        "validate on the first so many samples; 0 = all", default=0, free=True
    )


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(ShapeFlags, _SplitFlags):
    """Flags of the teacher's network and data."""

    backbone: str = flag(
        "of DeepLab v3 or Faster R-CNN, or the place of a function of your own that builds one",
        default="resnet50",
        choices=OrOwn(BACKBONES, "build"),
    )
    pretrained: str = flag(
        "backbone to start from: imagenet (torchvision's, downloaded once and held to its hash), a "
        "file (for boxes torchvision's Faster R-CNN too; or another teacher's), none, or auto: "
        "imagenet where it can be had, else none, which is told",
        default=AUTO,
    )


CONFIGS = (TeacherConfig, LoaderConfig, TrainerConfig)
