"""The flags of `train-from-store`: what is trained, on what, and how."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_store.errors import LatentStoreError
from latent_store.format.ids import is_one_line
from training.data.loader import LoaderConfig
from training.flags import Flags, flag, free_fields
from training.networks.backbones import BACKBONES
from training.networks.network_config import DOMAINS, MOST_WIDTH
from training.networks.transforms import ACTIVATIONS, TRANSFORMS
from training.selection.registry import SELECTIONS, check_flags
from training.tasks.registry import TASKS, find_task, require_own_fields
from training.trainer.trainer_config import TrainerConfig

NONE = "none"
TRANSFORM_INITS = ("distilled", "computed", "fresh")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Flags):
    """Flags of the data that a network is trained on."""

    store: str = flag("URL of the store", free=True)
    dataset: str = flag("the dataset's id in the store", default="cityscapes")
    split: str = flag("split to train on", default="train")
    hold_out: tuple[str, ...] | None = flag(
        "samples whose ids begin with one of these (in Cityscapes: cities) are not trained on, and "
        "are validated on unless --val_split is given",
        default=None,
    )
    val_split: str | None = flag(
        "split to validate on (default: what is held out, else val, if the store has it); none = "
        "no validation",
        default=None,
        free=True,
    )
    codec: str | None = flag("id of the codec (default: the only one)", default=None)
    teacher: str | None = flag("id of the teacher (default: the only one), or none", default=None)
    val_max_samples: int = flag(
        "validate on the first so many samples; 0 = all", default=0, free=True
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Flags):
    """Flags of the network that is trained."""

    task: str = flag("the vision task", default="segmentation", choices=TASKS)
    domain: str = flag(
        "latents, or the images that the codec decodes from them", default="latent", choices=DOMAINS
    )
    selection: str = flag(
        "how channels are selected: all, by a gate, the first N of a ranking, or one network for "
        "any of several N",
        default="none",
        choices=SELECTIONS,
    )
    mask: str | None = flag(
        "ranking that the channels of a static network, or one for any N, come from", default=None
    )
    keep: int | None = flag("how many channels a static network keeps", default=None, least=1)
    cuts: tuple[int, ...] | None = flag(
        "numbers of channels that a network for any N works with (default: the ranking's cuts)",
        default=None,
        least=1,
    )
    transform: str = flag("from latents to features", default="deconv", choices=TRANSFORMS)
    transform_activation: str = flag(
        "inside the deconv transform", default="igdn", choices=ACTIVATIONS
    )
    backbone: str | None = flag(
        "ResNet of DeepLab v3 or Faster R-CNN (default: the teacher's, else resnet50)",
        default=None,
        choices=tuple(BACKBONES),
    )
    aspp_width: int | None = flag(
        "channels inside ASPP (default: the teacher's, else 256)",
        default=None,
        least=1,
        most=MOST_WIDTH,
    )
    fpn_width: int | None = flag(
        "channels of the feature pyramid, in detection (default: the teacher's, else 256)",
        default=None,
        least=1,
        most=MOST_WIDTH,
    )
    box_head_width: int | None = flag(
        "units of the box head's layers, in detection (default: the teacher's, else 1024)",
        default=None,
        least=1,
        most=MOST_WIDTH,
    )
    anchor_size: int | None = flag(
        "side in pixels of the smallest anchors, in detection; each of five levels doubles it "
        "(default: the teacher's, else 24)",
        default=None,
        least=1,
        most=MOST_WIDTH,
    )
    dropout: float = flag("dropout after ASPP", default=0.1, most=1)
    auxiliary_head: bool = flag(
        "train an FCN head on layer3 beside, as torchvision has it", default=False
    )
    gate_pool: str = flag(
        "what the gate sees of a channel", default="mean", choices=("mean", "rms")
    )
    gate_bias: str = flag("the gate's initial bias: neutral, dctnet or a number", default="neutral")
    temperature: float = flag("of the Gumbel-softmax", default=1.0, above_least=True)
    temperature_end: float | None = flag(
        "what it is annealed to (default: no annealing)", default=None, above_least=True
    )
    transform_init: str | None = flag(
        "where the transform starts: computed from the codec's synthesis and least squares on the "
        "teacher's features; distilled, which goes on with label-free steps of the transform alone "
        "(for res these alone); or fresh (default: distilled where features are distilled)",
        default=None,
        choices=TRANSFORM_INITS,
    )
    distil_steps: int = flag("label-free steps of a distilled start", default=300)
    fit_images: int = flag("images that a computed start is fitted to", default=100, least=1)
    init: str = flag("where the tail starts", default="teacher", choices=("teacher", "scratch"))
    init_from: str | None = flag(
        "checkpoint of another network to start from instead", default=None
    )
    pretrained: str = flag(
        "backbone to start from with --init scratch: imagenet (torchvision's), or a file; in "
        "detection torchvision's Faster R-CNN too",
        default=NONE,
    )
    lambda_kd: float = flag("weight of the distillation loss; the paper's 1", default=1.0)
    rate_weight: float = flag(
        "weight of the kept channels' bits a pixel; the paper's 0", default=0.0
    )
    label: str | None = flag("name in tables (default: made from the selection)", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self)
        require_own_fields(self, self.task)
        if self.label is not None and not (self.label.strip() and is_one_line(self.label)):
            raise LatentStoreError(f"--label must be one line, not blank, got {self.label!r}")
        if self.pretrained != NONE and self.init != "scratch":
            raise LatentStoreError("--pretrained goes with --init scratch")


CONFIGS = (DataConfig, ModelConfig, LoaderConfig, TrainerConfig)
FREE = free_fields(*CONFIGS)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The flags of one run."""

    data: DataConfig
    model: ModelConfig
    loader: LoaderConfig
    trainer: TrainerConfig
    output: Path
    resume: bool = False

    def resolved(self) -> dict[str, Any]:
        """Returns every flag's value but `output` and `resume`, as plain types."""
        loader = self.loader.for_annotations(find_task(self.model.task).annotations)
        parts = (self.data, self.model, loader, self.trainer)
        return {name: value for part in parts for name, value in dataclasses.asdict(part).items()}
