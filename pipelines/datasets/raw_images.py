"""Raw pictures, with labels or boxes, for the one network that is trained on them: the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from latent_store.batches.source import Arrays, Rows
from latent_store.codec import pad_image
from latent_store.components.reader import Window
from latent_store.format.samples import Sample
from pipelines.datasets.base import DatasetReader, read_boxes, read_labels, read_picture
from training.data.source import Source
from training.tasks.registry import find_task

Read = tuple[np.ndarray, Any]
"""A padded picture, uint8 [H, W, 3], and its annotations."""


class RawImages(Source):
    """Pictures and annotations of a dataset's samples, padded as the codec pads them.

    Row numbers are positions among the samples; `cache_mb` is memory, in MiB, for what was decoded.

    Raises:
        DatasetError: A picture has no readable header.
    """

    in_runs = False
    name = "the split"

    def __init__(self, reader: DatasetReader, samples: Sequence[Sample], *, cache_mb: int) -> None:
        self.reader = reader
        self.annotations = find_task(reader.task).annotations(num_classes=len(reader.class_names))
        self.samples, self.cache_mb = tuple(samples), cache_mb
        for sample in samples:
            if not sample.has_size:
                read_picture(reader, sample)  # It says why, before anything is trained.
        self.rows = np.arange(len(self.samples))
        largest = max((height * width for height, width in self.coded_sizes(self.rows)), default=1)
        self._read = lru_cache(maxsize=(cache_mb << 20) // (4 * largest))(self._read_uncached)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(RawImages, self.reader, self.samples, cache_mb=self.cache_mb), ()

    def sample_ids(self, rows: Rows) -> list[str]:
        """Returns the ids of rows."""
        return [self.samples[row].sample_id for row in rows]

    def sizes(self, rows: Rows) -> np.ndarray:
        """Returns the original height and width of rows in pixels, integers [n, 2]."""
        return np.array([(self.samples[row].height, self.samples[row].width) for row in rows])

    def coded_sizes(self, rows: Rows) -> list[tuple[int, int]]:
        """Returns the padded height and width of each row, in pixels."""
        return [self.samples[row].coded_size for row in rows]

    def cut(self, rows: Sequence[int], windows: list[Window]) -> Arrays:
        """Returns "x_BHWC", uint8, and what the annotations give."""
        images, learned = [], []
        for row, (top, left, height, width) in zip(rows, windows, strict=True):
            image_HWC, annotation = self._read(int(row))
            images.append(image_HWC[top : top + height, left : left + width])
            learned.append(self.annotations.cut(annotation, (top, left, height, width)))
        return {"x_BHWC": np.stack(images), **self.annotations.entries(learned)}

    def _read_uncached(self, row: int) -> Read:
        sample = self.samples[row]
        image_HWC, _ = read_picture(self.reader, sample)
        labels = partial(read_labels, canvas=sample.coded_size)
        readers: dict[str, Callable[..., Any]] = {"labels": labels, "boxes": read_boxes}
        return pad_image(image_HWC), readers[self.annotations.component](self.reader, sample)
