"""`train-teacher`: DeepLab v3, or for boxes Faster R-CNN, on raw pictures.

Its first two layers give the features that students distil, its weights are where students
start, and it is itself the pixel-domain reference ("trained on raw").

    train-teacher --dataset cityscapes --data_root /data/cityscapes --output runs/teacher
    train-teacher --dataset voc --voc_task detection --year 2007 --data_root /data/VOCdevkit \\
        --split trainval --val_split test --pretrained imagenet --output runs/detection-teacher

Several GPUs share every batch under `torchrun --standalone --nproc_per_node 4 -m
pipelines.train_teacher`; `--batch_size` counts all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latent_store.console import make_parser, run_command
from latent_store.format.samples import Sample
from pipelines.datasets.base import DatasetReader
from pipelines.datasets.raw_images import RawImages
from pipelines.datasets.registry import DatasetFlags, open_dataset
from training.data.loader import CropLoader, LoaderConfig, WholeImages
from training.data.source import held_out
from training.flags import add_flags, flag, free_fields, read_flags
from training.networks.backbones import BACKBONES
from training.networks.network_config import NetworkConfig
from training.tasks.objective import Objective
from training.tasks.registry import build_network, find_task, headline, require_own_fields
from training.trainer.assembly import require_batch_norm
from training.trainer.initialise import start_from_pretrained
from training.trainer.job import NONE, ShapeFlags, TrainerConfig
from training.trainer.ranks import ALONE, Ranks, joined
from training.trainer.run_folder import FitResult, RunFolder
from training.trainer.trainer import Trainer
from training.trainer.validation import Validator

FLIPPED = "hflip"


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
        "ResNet of DeepLab v3 or Faster R-CNN", default="resnet50", choices=tuple(BACKBONES)
    )
    pretrained: str = flag(
        "backbone to start from: imagenet (torchvision's), a file (for boxes torchvision's Faster "
        "R-CNN too), or none",
        default=NONE,
    )


CONFIGS = (TeacherConfig, LoaderConfig, TrainerConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `--help`."""
    args = make_flags().parse_args(argv)
    return run_command("train-teacher", lambda: _run(args))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("train-teacher", __doc__ or "")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    for config, title in zip(CONFIGS, ("data and network", "batches", "training"), strict=True):
        add_flags(parser, config, title)
    return parser


def train_teacher(
    teacher: TeacherConfig,
    loader_config: LoaderConfig,
    trainer_config: TrainerConfig,
    output: Path,
    *,
    resume: bool = False,
    ranks: Ranks = ALONE,
) -> FitResult:
    """Trains the teacher, together with other ranks where there are any.

    Raises:
        LatentStoreError: The data root lacks something, or the flags contradict each other.
    """
    reader = open_dataset(teacher)
    config = _network_config(teacher, reader)
    task = find_task(config.task)
    require_batch_norm(task, loader_config, trainer_config)
    samples, held = _parts(reader, teacher.split, teacher.hold_out or ())
    samples = samples[: loader_config.max_samples or None]
    if loader_config.views:
        samples += [sample.seen_as(FLIPPED) for sample in samples]
    images = RawImages(reader, samples, cache_mb=loader_config.cache_mb)
    torch.manual_seed(trainer_config.seed)
    network = build_network(config)
    if teacher.pretrained != NONE:
        start_from_pretrained(network, teacher.pretrained)
    loader = CropLoader(images, loader_config, seed=trainer_config.seed, share=ranks)
    loss = task.loss(lambda_kd=0, rate_weight=0)
    objective = Objective(task, network, loss, seed=trainer_config.seed)
    folder = RunFolder(
        output,
        meta=_meta(reader),
        config=_resolved(teacher, config, loader.config, trainer_config),
        free=free_fields(*CONFIGS),
    )
    validate = _validator(reader, teacher, held, loader_config, ranks)
    with contextlib.closing(loader):
        trainer = Trainer(objective, loader, trainer_config, folder, validate=validate, ranks=ranks)
        return trainer.fit(resume=resume)


def _run(args: argparse.Namespace) -> int:
    with joined() as ranks:
        result = train_teacher(
            read_flags(args, TeacherConfig),
            read_flags(args, LoaderConfig),
            read_flags(args, TrainerConfig),
            args.output,
            resume=args.resume,
            ranks=ranks,
        )
    if not ranks.first:
        return 0
    score = f"{headline(result.scores)}, " if result.scores else ""
    print(f"{result.checkpoint}: {score}{result.step} steps in {result.seconds:.0f} s")
    return 0


def _network_config(teacher: TeacherConfig, reader: DatasetReader) -> NetworkConfig:
    require_own_fields(teacher, reader.task)
    known = {"task": reader.task, "num_classes": len(reader.class_names)}
    return NetworkConfig().with_flags(teacher, domain="pixel", **known)


def _meta(reader: DatasetReader) -> dict[str, Any]:
    return {
        "kind": "teacher",
        "dataset": reader.dataset_id,
        "class_names": list(reader.class_names),
        "label": "pixel (trained on raw)",
    }


def _resolved(teacher: TeacherConfig, config: NetworkConfig, *more: Any) -> dict[str, Any]:
    """Returns every flag's value, as plain types; of the network's shape what was built."""
    flags = {k: v for part in (teacher, *more) for k, v in dataclasses.asdict(part).items()}
    shape = {name: getattr(config, name) for name in find_task(config.task).fields}
    return flags | shape | {"year": teacher.year and list(teacher.year)}


def _validator(
    reader: DatasetReader,
    teacher: TeacherConfig,
    held: list[Sample],
    loader: LoaderConfig,
    ranks: Ranks,
) -> Validator | None:
    if teacher.val_split == NONE:
        return None
    if teacher.val_split is not None or not held:
        held = reader.manifest(teacher.val_split or "val")
    samples = held[: teacher.val_max_samples or None]
    images = RawImages(reader, samples, cache_mb=loader.cache_mb)
    whole = WholeImages(images, share=ranks)
    return Validator(find_task(reader.task), whole, reader.class_names, ranks=ranks)


def _parts(
    reader: DatasetReader, split: str, hold_out: Sequence[str]
) -> tuple[list[Sample], list[Sample]]:
    """Returns the samples to train on, and those that are held out."""
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    samples = reader.manifest(split)
    held = held_out([sample.sample_id for sample in samples], hold_out, split)
    for sample, is_held in zip(samples, held, strict=True):
        parts[is_held].append(sample)
    return parts


if __name__ == "__main__":
    sys.exit(main())
