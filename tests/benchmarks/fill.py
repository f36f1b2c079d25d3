"""Brings a store to what the benchmark measures, with the project's own commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from latent_store.codec import load_codec
from latent_store.components import base as component
from latent_store.errors import JobFailedError, LatentStoreError
from latent_store.storage.location import Location
from latent_store.store import LatentStore
from pipelines import encode, frequency, reorder
from pipelines.datasets.registry import DatasetFlags, open_dataset
from tests.benchmarks.teacher_features import random_teacher

DATASET = "cityscapes"
SPLITS = ("val", "train")
"""Images are taken in this order."""


def wanted_splits(data_root: Path, images: int) -> dict[str, int]:
    """Returns how many images of each split make up `images`, or all there are."""
    reader = open_dataset(DatasetFlags(dataset=DATASET, data_root=str(data_root)))
    wanted = {}
    for split in SPLITS:
        if images > 0:
            wanted[f"{DATASET}/{split}"] = min(images, len(reader.manifest(split)))
            images -= wanted[f"{DATASET}/{split}"]
    return wanted


def fill(
    location: Location,
    checkpoints: Sequence[Path],
    splits: dict[str, int],
    flags: argparse.Namespace,
) -> tuple[str, ...]:
    """Encodes, ranks and reorders what the store lacks; touches nothing that is complete.

    Returns:
        The ids of the codecs.

    Raises:
        JobFailedError: A command failed; its own error is above.
    """
    codec_ids = [load_codec(checkpoint=path).spec.codec_id for path in checkpoints]
    for split, count in splits.items():
        for codec_id, path in zip(codec_ids, checkpoints, strict=True):
            if not _has(location, split, f"latents/{codec_id}", count):
                _encode(location, split, count, flags, "--codec_checkpoint", str(path))
        if not _has_teacher(location, split, count):
            teacher = flags.work / "teacher.pt"
            if not teacher.exists():
                random_teacher(teacher)
            _encode(location, split, count, flags, "--teacher_checkpoint", str(teacher))
    for codec_id in codec_ids:
        _rank(location, codec_id, splits, flags.ranking)
    return tuple(codec_ids)


def _encode(
    location: Location, split: str, count: int, flags: argparse.Namespace, *what: str
) -> None:
    name = split.partition("/")[2]
    args = ("--dataset", DATASET, "--data_root", str(flags.data_root), "--split", name)
    _run(encode.main, *args, "--store", location.url, "--max_samples", str(count), *what)


def _rank(location: Location, codec_id: str, splits: dict[str, int], ranking_id: str) -> None:
    common = ("--store", location.url, "--dataset", DATASET, "--codec", codec_id)
    common = (*common, "--ranking", ranking_id)
    if ranking_id not in LatentStore(location).rankings(codec_id):
        first = next(iter(splits)).partition("/")[2]
        _run(frequency.main, *common, "--split", first, "--method", "entropy")
    for split, count in splits.items():
        if not _has(location, split, f"ranked/{codec_id}/{ranking_id}", count):
            _run(reorder.main, *common, "--split", split.partition("/")[2])


def _has(location: Location, split: str, key: str, count: int) -> bool:
    """Tells whether a component is complete for the whole plan, and that for enough samples."""
    try:
        plan = LatentStore(location)[split].plan
        attrs = component.open_component(location, split, key).attrs
    except LatentStoreError:
        return False
    covered = attrs.get("complete") and attrs.get("num_rows") == plan.num_rows
    return bool(covered) and len(plan.samples) >= count


def _has_teacher(location: Location, split: str, count: int) -> bool:
    keys = LatentStore(location)[split].components()
    return any(_has(location, split, key, count) for key in keys if key.startswith("teacher/"))


def _run(main: Callable[[Sequence[str]], int], *args: str) -> None:
    if main(list(args)):
        raise JobFailedError(
            f"a command of the benchmark failed: {' '.join(args)}; its error is above"
        )
