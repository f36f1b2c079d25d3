"""Raw pictures and labels for the one network that is trained on them: the teacher."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from latent_store.codec import pad_image
from latent_store.errors import LatentStoreError
from latent_store.layout import coded_size
from latent_store.plan import Sample
from latent_store.schema import IGNORE_LABEL
from pipelines.datasets import DatasetReader, read_picture
from training.loader import EpochLoader, LoaderConfig, TensorBatch, to_tensors
from training.prefetch import Prefetcher
from training.ranks import ALONE, Ranks
from training.sampling import batches_an_epoch, crop_origin, plan_epoch
from training.sources import CropRule


class RawImages:
    """Reads pictures and labels of a data root, padded as the codec pads them.

    Args:
        reader: The dataset.
        samples: The samples, all of one coded size; row numbers are positions in this list.
        cache_mb: Memory, in MiB, for decoded pictures and labels.
    """

    def __init__(self, reader: DatasetReader, samples: Sequence[Sample], *, cache_mb: int) -> None:
        self.reader = reader
        self.samples = tuple(samples)
        sizes = {coded_size(sample.height, sample.width) for sample in samples}
        if len(sizes) != 1:
            message = (
                f"pictures have coded sizes {sorted(sizes)}: a teacher is trained on one size; "
                "choose a split whose pictures agree"
            )
            raise LatentStoreError(message)
        (self.size,) = sizes
        pixels = self.size[0] * self.size[1]
        self._read = lru_cache(maxsize=(cache_mb << 20) // (4 * pixels))(self._read_uncached)

    def load(self, batches: Sequence[Sequence[int]], rule: CropRule, epoch: int) -> list[Any]:
        """Returns batches of arrays: ``x_BHWC`` uint8, ``labels_BHW`` uint8, ``sample_ids``."""
        return [self._load_batch(batch, rule, epoch) for batch in batches]

    def _load_batch(self, rows: Sequence[int], rule: CropRule, epoch: int) -> dict[str, Any]:
        height, width = rule.size(self.size)
        images, labels = [], []
        for row in rows:
            top, left = crop_origin(rule.seed, epoch, row, size=self.size, crop=(height, width))
            image_HWC, labels_HW = self._read(row)
            window = slice(top, top + height), slice(left, left + width)
            images.append(image_HWC[window])
            labels.append(labels_HW[window])
        return {
            "x_BHWC": np.stack(images),
            "labels_BHW": np.stack(labels),
            "rows_B": np.asarray(rows, dtype=np.int64),
            "sample_ids": [self.samples[row].sample_id for row in rows],
        }

    def _read_uncached(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.samples[row]
        image_HWC, _ = read_picture(self.reader, sample)
        labels_HW = np.full(self.size, IGNORE_LABEL, dtype=np.uint8)
        labels_HW[: sample.height, : sample.width] = self.reader.read_labels(sample)
        return pad_image(image_HWC), labels_HW


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
            message = (
                f"--batch_size {config.batch_size} is larger than the split, which has "
                f"{len(images.samples)} samples: use a smaller batch, or --accumulate"
            )
            raise LatentStoreError(message)
        self.images = images
        self.config = config
        self.rule = CropRule(seed=seed, crop=config.crop)
        self.groups = [list(range(len(images.samples)))]
        self._prefetcher = Prefetcher(images.load, workers=config.workers)

    def __len__(self) -> int:
        return batches_an_epoch(self.groups, self.config.batch_size)

    def stream(self, epoch: int, position: int) -> Iterator[TensorBatch]:
        """Yields batches for ever, starting with batch ``position`` of ``epoch``."""
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
    """Whole pictures in order, for validation; each rank has its own batches."""

    def __init__(self, images: RawImages, *, batch_size: int, ranks: Ranks = ALONE) -> None:
        self.images = images
        rows = range(len(images.samples))
        batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        self.batches = batches[ranks.rank :: ranks.world]

    def __iter__(self) -> Iterator[TensorBatch]:
        rule = CropRule(seed=0, crop=0)
        for batch in self.batches:
            (arrays,) = self.images.load([batch], rule, 0)
            yield to_tensors(arrays)
