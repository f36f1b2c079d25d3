"""The training of a teacher: networks on raw pictures, by the loop that trains all others."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from latent_store.format.samples import Sample
from pipelines.datasets.base import DatasetReader, list_annotated
from pipelines.datasets.raw_images import RawImages
from pipelines.datasets.registry import open_dataset
from pipelines.teacher_training.config import CONFIGS, TeacherConfig
from training.data.loader import CropLoader, WholeImages
from training.data.loader_config import LoaderConfig
from training.data.source import held_out
from training.flags import free_fields
from training.networks.network_config import NetworkConfig
from training.tasks.objective import Objective
from training.tasks.registry import build_network, find_task, require_own_fields
from training.trainer.assembly import require_batch_norm
from training.trainer.initialise import start_from_pretrained, unfold_pretrained
from training.trainer.job import NONE, TrainerConfig
from training.trainer.ranks import ALONE, Ranks
from training.trainer.run_folder import FitResult, RunFolder
from training.trainer.trainer import Trainer
from training.trainer.validation import Validator

FLIPPED = "hflip"


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
    samples, held = _parts(reader, teacher.split, teacher.hold_out or ())
    config = _network_config(teacher, reader)
    task = find_task(config.task)
    require_batch_norm(task, loader_config, trainer_config)
    samples = samples[: loader_config.max_samples or None]
    if loader_config.views:
        samples += [sample.seen_as(FLIPPED) for sample in samples]
    images = RawImages(reader, samples, cache_mb=loader_config.cache_mb)
    torch.manual_seed(trainer_config.seed)
    network = build_network(config)
    if teacher.pretrained != NONE:
        start_from_pretrained(network, teacher.pretrained)
        unfold_pretrained(network, images, loader_config, seed=trainer_config.seed)
    loader = CropLoader(images, loader_config, seed=trainer_config.seed, share=ranks)
    loss = task.loss(lambda_kd=0, rate_weight=0)
    objective = Objective(task, network, loss, seed=trainer_config.seed)
    folder = RunFolder(
        output,
        meta=_meta(reader),
        config=_resolved(teacher, config, loader.config, trainer_config),
        free=free_fields(*CONFIGS),
        safetensors=trainer_config.safetensors,
    )
    validate = _validator(reader, teacher, held, loader_config, ranks)
    with contextlib.closing(loader):
        trainer = Trainer(objective, loader, trainer_config, folder, validate=validate, ranks=ranks)
        return trainer.fit(resume=resume)


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
        held = list_annotated(reader, teacher.val_split or "val")
    samples = held[: teacher.val_max_samples or None]
    images = RawImages(reader, samples, cache_mb=loader.cache_mb)
    whole = WholeImages(images, share=ranks)
    return Validator(find_task(reader.task), whole, reader.class_names, ranks=ranks)


def _parts(
    reader: DatasetReader, split: str, hold_out: Sequence[str]
) -> tuple[list[Sample], list[Sample]]:
    """Returns the samples to train on, and those that are held out."""
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    samples = list_annotated(reader, split)
    held = held_out([sample.sample_id for sample in samples], hold_out, split)
    for sample, is_held in zip(samples, held, strict=True):
        parts[is_held].append(sample)
    return parts
