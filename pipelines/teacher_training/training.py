"""The training of a teacher: networks on raw pictures, by the loop that trains all others."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from latent_store.errors import LatentStoreError
from latent_store.format.samples import Sample
from pipelines.datasets.base import DatasetReader, list_annotated
from pipelines.datasets.raw_images import RawImages
from pipelines.datasets.registry import open_dataset
from pipelines.teacher_training.config import AUTO, CONFIGS, IMAGENET, TeacherConfig
from training.data.loader import CropLoader, WholeImages
from training.data.loader_config import LoaderConfig
from training.data.source import held_out
from training.flags import free_fields
from training.networks.network_config import NetworkConfig
from training.networks.networks import Network
from training.tasks.objective import Objective
from training.tasks.registry import build_network, find_task, require_own_fields
from training.trainer.assembly import require_batch_norm
from training.trainer.initialise import start_from_pretrained, unfold_pretrained
from training.trainer.job import NONE, TrainerConfig
from training.trainer.ranks import ALONE, Ranks
from training.trainer.run_folder import FitResult, RunFolder, holds_run, tell_where_none
from training.trainer.trainer import Trainer
from training.trainer.validation import Validator

FLIPPED = "hflip"
_LOG = logging.getLogger(__name__)


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
    tell_where_none(output, resume=resume)
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
    begun = resume and teacher.pretrained == AUTO and holds_run(output)
    found = _begun_with(output) if begun else None
    if found is None:
        found = _start(network, teacher.pretrained)
        if found != NONE:
            unfold_pretrained(network, images, loader_config, seed=trainer_config.seed)
    teacher = dataclasses.replace(teacher, pretrained=found)
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
    validate = _validator(
        reader, teacher, held, loader_config, ranks, drawn=trainer_config.tensorboard
    )
    with contextlib.closing(loader):
        trainer = Trainer(objective, loader, trainer_config, folder, validate=validate, ranks=ranks)
        return trainer.fit(resume=resume)


def _start(network: Network, pretrained: str) -> str:
    """Gives a network its first weights; returns what they are, which `auto` leaves open."""
    if pretrained == NONE:
        return NONE
    try:
        start_from_pretrained(network, IMAGENET if pretrained == AUTO else pretrained)
    except LatentStoreError as error:
        if pretrained != AUTO:
            raise
        _LOG.warning("the backbone starts from random weights: %s", error)
        return NONE
    if pretrained == AUTO:
        _LOG.info("the backbone starts from torchvision's ImageNet weights")
        return IMAGENET
    return pretrained


def _begun_with(output: Path) -> str | None:
    """Returns what weights an interrupted run began with; None where there is none.

    Whatever can be had by now, the run goes on from its own.
    """
    try:
        found = json.loads((output / "config.json").read_text())["pretrained"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None


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
    *,
    drawn: bool,
) -> Validator | None:
    if teacher.val_split == NONE:
        return None
    if teacher.val_split is not None or not held:
        held = list_annotated(reader, teacher.val_split or "val")
    samples = held[: teacher.val_max_samples or None]
    images = RawImages(reader, samples, cache_mb=loader.cache_mb)
    whole = WholeImages(images, share=ranks)
    return Validator(find_task(reader.task), whole, reader.class_names, ranks=ranks, drawn=drawn)


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
