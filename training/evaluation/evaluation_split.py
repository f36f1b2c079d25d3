"""One split of a store, opened for measuring networks on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from latent_store import LatentStore
from latent_store.codec import Codec, codec_from_store
from latent_store.components.readers import ComponentReader, LatentsReader, RankedReader
from latent_store.errors import DatasetError
from latent_store.format.layout import coded_size
from latent_store.store import Split
from training.evaluation.candidates import Candidate
from training.tasks.base import Task
from training.tasks.classes import class_names


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


def open_bench(split: Split, options: Options, task: Task) -> Bench:
    """Opens a split for one task's networks; classes are those that its annotations name.

    Raises:
        DatasetError: It names none, and they are not known otherwise.
        MissingComponentError: The split has no such annotations.
    """
    names = task.annotations().open(split).class_names or class_names(split.dataset)
    return Bench(split.store, split, names, options, task)


class Bench:
    """One split, opened for measuring networks on it.

    Attributes:
        store, split: What networks are measured on.
        class_names: Of the dataset.
        options: See `Options`.
        task: Of the networks.
    """

    def __init__(
        self,
        store: LatentStore,
        split: Split,
        class_names: Sequence[str],
        options: Options,
        task: Task,
    ) -> None:
        self.store = store
        self.split = split
        self.class_names = tuple(class_names)
        self.options = options
        self.task = task
        self.annotations = task.annotations(num_classes=len(self.class_names))
        self._codecs: dict[str, Codec] = {}
        self._latents: dict[str, LatentsReader] = {}
        self._ranked: dict[tuple[str, str], RankedReader] = {}

    @cached_property
    def truth(self) -> ComponentReader:
        """The annotations that predictions are compared with."""
        return self.annotations.open(self.split)

    def read_truth(self, row: int) -> Any:
        """Returns the annotations of a row.

        Raises:
            DatasetError: They contain a class that the dataset does not have.
        """
        return self.annotations.read(self.truth, row)

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
