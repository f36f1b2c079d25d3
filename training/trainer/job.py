"""The flags of a training: what is trained, on what, and how."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_store.components.features import STEM
from latent_store.console import MOST_SEED
from latent_store.errors import LatentStoreError
from latent_store.format.ids import is_one_line
from training.data.loader_config import LoaderConfig
from training.flags import Flags, asked_for, flag, free_fields
from training.networks.backbones import BACKBONES, ENTRIES
from training.networks.network_config import ACTIVATIONS, DOMAINS, MOST_WIDTH, TRANSFORMS
from training.own_code import OrOwn
from training.selection.registry import SELECTIONS, check_flags
from training.tasks.registry import TASKS, find_task, require_own_fields

NONE = "none"
AMP_CHOICES = ("auto", "off", "bf16")
FRESH = "fresh"
TRANSFORM_INITS = ("distilled", "computed", FRESH)


def _width(what: str, default: int) -> Any:
    help = f"{what} (default: of what it starts from, else {default})"
    return flag(help, default=None, least=1, most=MOST_WIDTH)


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
class ShapeFlags(Flags):
    """Flags of a network's tail, alike for teachers and for those that start from one."""

    backbone: str | None = flag(
        "of DeepLab v3 or Faster R-CNN, or the place of a function of your own that builds one "
        "(default: of what it starts from, else resnet50)",
        default=None,
        choices=OrOwn(BACKBONES, "build"),
    )
    aspp_width: int | None = _width("channels inside ASPP", 256)
    fpn_width: int | None = _width("channels of the feature pyramid, in detection", 256)
    box_head_width: int | None = _width("units of the box head's layers, in detection", 1024)
    anchor_size: int | None = _width(
        "side in pixels of the smallest anchors, in detection; each of five levels doubles it", 24
    )
    dropout: float = flag("dropout after ASPP", default=0.1, most=1)
    auxiliary_head: bool = flag(
        "train an FCN head on layer3 beside, as torchvision has it", default=False
    )


@dataclass(frozen=True, kw_only=True)
class _InputFlags(Flags):
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
    entry: str = flag(
        "the layer whose output latents become, and behind which the network goes on; the paper's "
        "stem. Others need the teacher's features there: encode-to-store --entry",
        default=STEM,
        choices=ENTRIES,
    )
    transform: str = flag("from latents to features", default="deconv", choices=TRANSFORMS)
    transform_activation: str = flag(
        "inside the deconv transform", default="igdn", choices=ACTIVATIONS
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ShapeFlags, _InputFlags):
    """Flags of the network that is trained."""

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
    transform_rate: float | None = flag(
        "the transform's learning rate, as a share of the others' (default: 0.1 with a computed or "
        "distilled start, which Adam undoes at the full rate; else 1)",
        default=None,
        above_least=True,
    )
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
        if self.pretrained != NONE and (self.init != "scratch" or self.init_from is not None):
            raise LatentStoreError("--pretrained goes with --init scratch, and without --init_from")
        if self.domain == "pixel":
            for name in asked_for(self, ("transform", "transform_activation", "transform_rate")):
                raise LatentStoreError(
                    f"--{name} is for networks on latents: leave it out with --domain pixel"
                )
        if self.transform == "res" and asked_for(self, ("transform_activation",)):
            raise LatentStoreError(
                f"--transform_activation is between the layers of --transform {TRANSFORMS[0]}: "
                f"leave it out with {self.transform}, which has its own"
            )


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(Flags):
    """Flags of the training. The schedule's defaults are the paper's (section 3.1)."""

    epochs: int = flag("epochs; the paper's 400", default=400, least=1)
    max_steps: int | None = flag(
        "stop after so many steps, with the schedule fitted to them; 0 saves the network as it "
        "starts, measured (default: all of --epochs)",
        default=None,
    )
    learning_rate: float = flag(
        "Adam's learning rate at the start; the paper's 1e-3", default=1e-3, above_least=True
    )
    drop_at: float = flag(
        "share of the run after which it drops; the paper's 300 of 400", default=0.75, most=1
    )
    drop_factor: float = flag("what it drops to, relatively; the paper's 1e-4", default=0.1, most=1)
    warmup_steps: int = flag("steps over which the learning rate rises linearly", default=0)
    accumulate: int = flag("batches in one optimiser step", default=1, least=1)
    clip_norm: float = flag("largest norm of the gradient; 0 = no clipping", default=0.0)
    freeze_batch_norm: bool = flag(
        "batch norm keeps the statistics that it starts with", default=False
    )
    seed: int = flag("of weights, order, crops and the gate's noise", default=0, most=MOST_SEED)
    deterministic: bool = flag(
        "the same run gives the same weights bit for bit, also on a GPU; slower there",
        default=False,
    )
    device: str = flag("auto, cpu, cuda or cuda:N", default="auto", free=True)
    amp: str = flag(
        "autocast of the networks; auto is bf16 on a GPU that has it, else off",
        default="auto",
        choices=AMP_CHOICES,
    )
    compile: bool = flag("run the networks through torch.compile", default=False)
    validate_epochs: int = flag(
        "epochs between validations; 0 = only at the end", default=10, free=True
    )
    log_steps: int = flag(
        "steps between log records and checks of the loss", default=10, free=True, least=1
    )
    checkpoint_minutes: float = flag(
        "minutes between checkpoints; 0 = off", default=10.0, free=True
    )
    checkpoint_epochs: int = flag("epochs between checkpoints; 0 = off", default=0, free=True)
    tensorboard: bool = flag("write TensorBoard files", default=True, free=True)
    safetensors: bool = flag(
        "export the finished network's weights, for other tools, as last.safetensors too",
        default=True,
        free=True,
    )

    def rate(self, step: int, total: int) -> float:
        """Returns the learning rate of the step after `step` of `total`."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        dropped = self.drop_factor if step >= self.drop_at * total else 1.0
        return self.learning_rate * warm * dropped

    def total_steps(self, batches: int) -> int:
        """Returns how many optimiser steps a run has, with `batches` in an epoch."""
        steps = self.epochs * -(-batches // self.accumulate)
        return steps if self.max_steps is None else min(steps, self.max_steps)


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
