"""One split of a store, opened for measuring networks on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latent_store import LatentStore
from latent_store.codec import Codec, codec_from_store
from latent_store.components.readers import (
    BoxesReader,
    ComponentReader,
    LabelsReader,
    LatentsReader,
    RankedReader,
)
from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from latent_store.format.layout import coded_size
from latent_store.store import Split
from training.evaluation.candidates import Candidate
from training.tasks.classes import class_names
from training.tasks.object_boxes import ObjectBoxes
from training.tasks.pixel_labels import PixelLabels
from training.tasks.registry import find_task


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a measurement.

    Attributes:
        decode: Which rows' streams are decoded, see `rates.DECODE_MODES`.
        permute: Whether what is said of each image is also compared with another image's truth.
        batch_size: Images in one forward pass; they are of one coded size.
        device: Where networks and the codec run.
    """

    decode: str = "all"
    permute: bool = False
    batch_size: int = 1
    device: str = "cpu"


def open_bench(split: Split, options: Options, task: str) -> Bench:
    """Opens a split for one task's networks; classes are those that its component names.

    Raises:
        DatasetError: It names none, and they are not known otherwise.
        MissingComponentError: The split has not what the task is compared with.
    """
    truth = find_task(task).annotations().open(split)
    names = truth.class_names or class_names(split.dataset)
    return Bench(split.store, split, names, options, task)


class Bench:
    """One split, opened for measuring networks on it.

    Attributes:
        store, split: What networks are measured on.
        class_names: Of the dataset.
        options: See `Options`.
        task: `segmentation` or `detection`: whether labels or boxes are compared with.
    """

    def __init__(
        self,
        store: LatentStore,
        split: Split,
        class_names: Sequence[str],
        options: Options,
        task: str = "segmentation",
    ) -> None:
        self.store = store
        self.split = split
        self.class_names = tuple(class_names)
        self.options = options
        self.task = task
        self._codecs: dict[str, Codec] = {}
        self._latents: dict[str, LatentsReader] = {}
        self._ranked: dict[tuple[str, str], RankedReader] = {}

    @cached_property
    def labels(self) -> LabelsReader:
        """The split's labels."""
        return self.split.labels()

    @cached_property
    def boxes(self) -> BoxesReader:
        """The split's objects."""
        return self.split.boxes()

    @property
    def truth(self) -> LabelsReader | BoxesReader:
        """The reader of the annotations that outputs are compared with."""
        return self.boxes if self.task == "detection" else self.labels

    def codec(self, codec_id: str) -> Codec:
        """Returns a codec of the store on the device, loaded once."""
        if codec_id not in self._codecs:
            codec = codec_from_store(self.store, codec_id)
            self._codecs[codec_id] = codec.to(self.options.device)
        return self._codecs[codec_id]

    def latents(self, codec_id: str) -> LatentsReader:
        """Returns the reader of one codec's latents, opened once."""
        if codec_id not in self._latents:
            self._latents[codec_id] = self.split.latents(codec_id)
        return self._latents[codec_id]

    def ranked(self, codec_id: str, ranking_id: str) -> RankedReader:
        """Returns the reader of one ranking's copy, opened once."""
        if (codec_id, ranking_id) not in self._ranked:
            reader = self.split.ranked(ranking_id, codec_id)
            self._ranked[codec_id, ranking_id] = reader
        return self._ranked[codec_id, ranking_id]

    def readers(self, candidate: Candidate) -> list[ComponentReader]:
        """Returns the components that a candidate's numbers depend on."""
        codec_id = candidate.spec.codec_id
        readers: list[ComponentReader] = [self.truth, self.latents(codec_id)]
        if candidate.ranking_id is not None:
            readers.append(self.ranked(codec_id, candidate.ranking_id))
        return readers

    def rows(self, candidates: Sequence[Candidate], max_samples: int | None) -> np.ndarray:
        """Returns the rows that every candidate can be measured on: all see the same images.

        Raises:
            DatasetError: There is none.
        """
        readers = [reader for c in candidates for reader in self.readers(c)]
        rows = self.split.common_rows(*readers)[:max_samples]
        if not len(rows):
            raise DatasetError(
                f"{self.split.plan.name} of {self.store.url} has no sample with both "
                f"{self.truth.key} and latents of every codec and ranking asked for; encode some, "
                "or see `latent-store inspect` for what failed"
            )
        return rows

    def batches(self, rows: np.ndarray) -> Iterator[tuple[list[int], tuple[int, int]]]:
        """Yields rows in order, in batches of one coded size, with that size."""
        batch: list[int] = []
        batch_size: tuple[int, int] = (0, 0)
        for row, (height, width) in zip(rows.tolist(), self.split.sizes(rows), strict=True):
            size = coded_size(int(height), int(width))
            if batch and (size != batch_size or len(batch) == self.options.batch_size):
                yield batch, batch_size
                batch = []
            batch.append(row)
            batch_size = size
        if batch:
            yield batch, batch_size

    def read_labels(self, row: int) -> np.ndarray:
        """Returns a row's labels at original size, uint8 [H, W].

        Raises:
            DatasetError: They contain a class that the dataset does not have.
        """
        height, width = (int(n) for n in self.split.sizes([row])[0])
        labels = PixelLabels(num_classes=len(self.class_names))
        return labels.read(self.labels, row, (0, 0, height, width))

    def read_boxes(self, row: int) -> Boxes:
        """Returns a row's objects, in pixels of the original picture.

        Raises:
            DatasetError: One has a class that the dataset does not have.
        """
        return ObjectBoxes(num_classes=len(self.class_names)).read(self.boxes, row)
