"""One split of a store, opened for measuring networks on it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from latent_store.batches.sampling import plan_in_order
from latent_store.codec import codec_from_store
from latent_store.components.ranked import RankedReader
from latent_store.components.reader import ComponentReader
from latent_store.errors import DatasetError
from latent_store.store import Split
from training.evaluation.networks_to_evaluate import EvaluatedNetwork
from training.tasks.base import Task
from training.tasks.classes import class_names


class EvaluationSplit:
    """One split, opened for measuring networks on it.

    Args:
        stored: The split of a store.
        task: Of the networks.
        decode: Which rows' streams are decoded, see `rates.DECODE_MODES`.
        permute: Whether what is said of each image is also compared with another image's truth.
        batch_size: Images in one forward pass; they are of one coded size.
        device: Where networks and the codec run.

    Attributes:
        truth: Reads the annotations that predictions are compared with.
        class_names: Of the dataset.
        codec, latents: Return the codec of an id, on the device, and the reader of its latents.

    Raises:
        DatasetError: The annotations name no classes, and they are not known otherwise.
        MissingComponentError: The split has no such annotations.
    """

    def __init__(
        self,
        stored: Split,
        task: Task,
        *,
        decode: str = "all",
        permute: bool = False,
        batch_size: int = 1,
        device: str = "cpu",
    ) -> None:
        self.stored, self.task = stored, task
        self.decode, self.permute, self.batch_size = decode, permute, batch_size
        self.device = device
        self.truth = task.annotations().open(stored)
        self.class_names = self.truth.class_names or class_names(stored.dataset)
        self.annotations = task.annotations(num_classes=len(self.class_names))
        self.codec = functools.cache(lambda ident: codec_from_store(stored.store, ident).to(device))
        self.latents = functools.cache(stored.latents)
        self._ranked = functools.cache(stored.ranked)

    def ranked(self, evaluated: EvaluatedNetwork) -> RankedReader | None:
        """Returns the reader of the ranked copy that a network's channels come from, if any."""
        if evaluated.ranking_id is None:
            return None
        return self._ranked(evaluated.ranking_id, evaluated.spec.codec_id)

    def read_truth(self, row: int) -> Any:
        """Returns the annotations of a row.

        Raises:
            DatasetError: They contain a class that the dataset does not have.
        """
        return self.annotations.read(self.truth, [row])[0]

    def readers(self, evaluated: EvaluatedNetwork) -> list[ComponentReader]:
        """Returns the components that the numbers of a network depend on."""
        readers = (self.truth, self.latents(evaluated.spec.codec_id), self.ranked(evaluated))
        return [reader for reader in readers if reader is not None]

    def rows(self, networks: Sequence[EvaluatedNetwork], max_samples: int | None) -> np.ndarray:
        """Returns the rows that every network can be measured on: all see the same images.

        Raises:
            DatasetError: There is none.
        """
        readers = [reader for network in networks for reader in self.readers(network)]
        rows = self.stored.common_rows(*readers)[:max_samples]
        if not len(rows):
            raise DatasetError(
                f"{self.stored.plan.name} of {self.stored.store.url} has no sample with both "
                f"{self.truth.key} and latents of every codec and ranking asked for; encode some, "
                "or see `latent-store inspect` for what failed"
            )
        return rows

    def batches(self, rows: np.ndarray) -> Iterator[tuple[list[int], tuple[int, int]]]:
        """Yields rows in order, in batches of one coded size, with that size."""
        sizes = dict(zip(rows.tolist(), self.stored.coded_sizes(rows).tolist(), strict=True))
        for (height, width), alike in itertools.groupby(rows.tolist(), key=sizes.__getitem__):
            for (batch,) in plan_in_order([list(alike)], batch_size=self.batch_size):
                yield list(batch), (height, width)
