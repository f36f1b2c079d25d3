"""Raw pictures, with labels or boxes, for the one network that is trained on them: the teacher."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from latent_store.codec import pad_image
from latent_store.errors import LatentStoreError
from latent_store.format.boxes import Boxes
from latent_store.format.samples import Sample
from latent_store.format.schema import IGNORE_LABEL
from pipelines.datasets.base import DatasetReader, read_boxes, read_labels, read_picture
from training.data.loader import EpochLoader, LoaderConfig, TensorBatch, to_tensors
from training.data.prefetch import Prefetcher
from training.data.sampling import (
    batches_an_epoch,
    crop_origin,
    group_by_size,
    plan_epoch,
    plan_in_order,
)
from training.data.sources import CropRule
from training.tasks.registry import find_task
from training.trainer.ranks import ALONE, Ranks


class RawImages:
    """Reads pictures and annotations of a data root, padded as the codec pads them.

    Args:
        reader: The dataset.
        samples: The samples; row numbers are positions in this list.
        cache_mb: Memory, in MiB, for decoded pictures and labels.

    Raises:
        DatasetError: A picture has no readable header.
    """

    def __init__(self, reader: DatasetReader, samples: Sequence[Sample], *, cache_mb: int) -> None:
        self.reader = reader
        self.annotations = find_task(reader.task).annotations(num_classes=len(reader.class_names))
        self.samples = tuple(samples)
        for sample in samples:
            if not sample.has_size:
                read_picture(reader, sample)  # It says why, before anything is trained.
        self.sizes = [sample.coded_size for sample in samples]
        largest = max((height * width for height, width in self.sizes), default=1)
        self._read = lru_cache(maxsize=(cache_mb << 20) // (4 * largest))(self._read_uncached)

    def groups(self, rule: CropRule) -> list[list[int]]:
        """Returns the rows grouped by the size of what the rule cuts from them."""
        return group_by_size(range(len(self.sizes)), [rule.size(size) for size in self.sizes])

    def load(self, batches: Sequence[Sequence[int]], rule: CropRule, epoch: int) -> list[Any]:
        """Returns batches of arrays, named as `StoreSource.load` names them: `x_BHWC` uint8,
        what its annotations give, `valid_B2`, `rows_B`, `sample_ids`."""
        return [self._load_batch(batch, rule, epoch) for batch in batches]

    def _load_batch(self, rows: Sequence[int], rule: CropRule, epoch: int) -> dict[str, Any]:
        images, learned, valid = [], [], []
        for row in rows:
            whole, sample = self.sizes[row], self.samples[row]
            size = rule.size(whole)
            top, left = crop_origin(rule.seed, epoch, row, size=whole, crop=size)
            image_HWC, annotation = self._read(row)
            images.append(image_HWC[top : top + size[0], left : left + size[1]])
            learned.append(self.annotations.cut(annotation, (top, left, *size)))
            valid.append(np.clip((sample.height - top, sample.width - left), 0, size))
        return {
            "x_BHWC": np.stack(images),
            **self.annotations.entries(learned),
            "valid_B2": np.array(valid, dtype=np.int64),
            "rows_B": np.asarray(rows, dtype=np.int64),
            "sample_ids": [self.samples[row].sample_id for row in rows],
        }

    def _read_uncached(self, row: int) -> tuple[np.ndarray, np.ndarray | Boxes]:
        sample = self.samples[row]
        image_HWC, _ = read_picture(self.reader, sample)
        read = {"labels": _padded_labels, "boxes": read_boxes}[self.annotations.component]
        return pad_image(image_HWC), read(self.reader, sample)


class RawImageLoader(EpochLoader):
    """Random crops of raw pictures, in the order and at the places that a store's loader has.

    Args:
        images: What is read.
        config: How batches are made.
        seed: Order and crops depend on it, the epoch and the row.
        ranks: Those that train together; only this one's part of each batch is read.

    Raises:
        LatentStoreError: A batch is larger than the split, or cannot be shared equally.
    """

    def __init__(
        self, images: RawImages, config: LoaderConfig, *, seed: int, ranks: Ranks = ALONE
    ) -> None:
        super().__init__()
        ranks.require_equal_shares(config.batch_size)
        self.ranks = ranks
        if config.batch_size > len(images.samples):
            raise LatentStoreError(
                f"--batch_size {config.batch_size} is larger than the split, which has "
                f"{len(images.samples)} samples: use a smaller batch, or --accumulate"
            )
        self.images = images
        self.config = config = config.for_annotations(images.annotations)
        self.rule = CropRule(seed=seed, crop=config.crop)
        self.groups = images.groups(self.rule)
        self._prefetcher = Prefetcher(images.load, workers=config.workers)

    def __len__(self) -> int:
        return batches_an_epoch(self.groups, self.config.batch_size)

    def stream(self, epoch: int, position: int) -> Generator[TensorBatch]:
        """Yields batches for ever, starting with batch `position` of `epoch`."""
        for arrays in self._prefetcher.map(self._loads(epoch, position)):
            for batch in arrays:
                yield to_tensors(batch)

    def settings(self) -> dict[str, Any]:
        """Returns what a resumed run must have too."""
        ids = "\n".join(sample.sample_id for sample in self.images.samples)
        return {
            "seed": self.rule.seed,
            "crop": self.config.crop,
            "batch_size": self.config.batch_size,
            "digest of sample ids": hashlib.sha256(ids.encode()).hexdigest()[:16],
        }

    def close(self) -> None:
        """Stops the workers."""
        self.close_stream()
        self._prefetcher.close()

    def _loads(self, epoch: int, position: int) -> Iterator[tuple[Any, CropRule, int]]:
        for current in itertools.count(epoch):
            loads = plan_epoch(
                self.groups,
                batch_size=self.config.batch_size,
                chunk_rows=self.config.chunk_rows,
                preload_rows=self.config.preload_rows,
                seed=self.rule.seed,
                epoch=current,
            )
            batches = [batch for load in loads for batch in load]
            for batch in batches[position if current == epoch else 0 :]:
                yield [self.ranks.share(batch)], self.rule, current


class WholeRawImages:
    """Whole pictures, each once, for validation; each rank has its own batches."""

    def __init__(self, images: RawImages, *, batch_size: int, ranks: Ranks = ALONE) -> None:
        self.images = images
        self.rule = CropRule(seed=0, crop=0)
        loads = plan_in_order(images.groups(self.rule), batch_size=batch_size)
        self.loads = loads[ranks.rank :: ranks.world]

    def __iter__(self) -> Iterator[TensorBatch]:
        for load in self.loads:
            (arrays,) = self.images.load(load, self.rule, 0)
            yield to_tensors(arrays)


def _padded_labels(reader: DatasetReader, sample: Sample) -> np.ndarray:
    labels_HW = np.full(sample.coded_size, IGNORE_LABEL, dtype=np.uint8)
    labels_HW[: sample.height, : sample.width] = read_labels(reader, sample)
    return labels_HW
