"""The source of batches: windows of images, read together where they are handed out together."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from latent_store.batches.sampling import WHOLE, Batch, Share, crop_origin, group_by_size
from latent_store.batches.shared_arrays import sendable
from latent_store.components.reader import Window

Rows = Sequence[int] | np.ndarray
Items = Sequence[Any] | np.ndarray
"""One thing a row."""
Arrays = dict[str, Any]
"""A batch before it is tensors: NumPy arrays, and "sample_ids", a list."""


@dataclass(frozen=True, kw_only=True)
class CropRule:
    """The rule by which images are cropped: a side in pixels, a multiple of 16; 0 for none."""

    seed: int
    crop: int

    def size(self, coded: tuple[int, int]) -> tuple[int, int]:
        """Returns the size of what is cut from an image of a coded size."""
        return (min(self.crop, coded[0]), min(self.crop, coded[1])) if self.crop else coded

    def window(self, row: int, coded: tuple[int, int], epoch: int) -> Window:
        """Returns what is cut from a row's image in an epoch: top, left, height, width."""
        size = self.size(coded)
        return (*crop_origin(self.seed, epoch, row, size=coded, crop=size), *size)


class WindowSource(ABC):
    """A split's images, and what is read of each. It is sent to workers: it pickles.

    Attributes:
        rows: Numbers of the images, ascending.
        in_runs: Whether rows that lie together are read together at less cost.
    """

    rows: np.ndarray
    in_runs: ClassVar[bool]

    @abstractmethod
    def sample_ids(self, rows: Rows) -> list[str]:
        """Returns the ids of rows."""

    @abstractmethod
    def sizes(self, rows: Rows) -> np.ndarray:
        """Returns the original height and width of rows in pixels, integers [n, 2]."""

    @abstractmethod
    def coded_sizes(self, rows: Rows) -> list[tuple[int, int]]:
        """Returns the height and width that rows have where they are cropped, in pixels."""

    @abstractmethod
    def cut(self, rows: Sequence[int], windows: list[Window]) -> Arrays:
        """Reads a window of each row, all of one size: what is the source's own of a load.

        Arrays and lists have an item a row; anything else is the same for every batch.
        """

    def groups(self, rule: CropRule) -> list[list[int]]:
        """Returns the rows grouped by the size of what the rule cuts from them."""
        sizes = [rule.size(coded) for coded in self.coded_sizes(self.rows)]
        return group_by_size(self.rows.tolist(), sizes)

    def load(
        self, batches: Sequence[Batch], rule: CropRule, epoch: int, share: Share = WHOLE
    ) -> "Load":
        """Reads and crops batches, or one share of each, that are handed out together.

        Returns:
            The batches. Each has what `cut` gives, "valid_B2" (height and width of the crop that
            are original image), "rows_B", "sample_ids", and "batch_rows", the row numbers of the
            whole batch.
        """
        parts = [share.part(batch) for batch in batches]
        rows = [row for part in parts for row in part]
        sizes = zip(rows, self.coded_sizes(rows), strict=True)
        windows = [rule.window(row, size, epoch) for row, size in sizes]
        tops, heights = np.array([w[:2] for w in windows]), np.array([w[2:] for w in windows])
        arrays = self.cut(rows, windows) | {
            "valid_B2": np.clip(self.sizes(rows).astype(np.int64) - tops, 0, heights),
            "rows_B": np.asarray(rows, np.int64),
            "sample_ids": self.sample_ids(rows),
        }
        return Load(arrays, batches, [len(part) for part in parts])


class Load:
    """Batches that were read together, and are cut out of the same memory.

    It is sent from a worker process as memory that both processes see.

    Args:
        arrays: Arrays and lists with an item a row; anything else is the same for every batch.
        batches: The row numbers of the whole batches.
        sizes: How many of each batch's rows were read.
    """

    def __init__(self, arrays: Arrays, batches: Sequence[Batch], sizes: Sequence[int]) -> None:
        self._arrays, self._batches, self._sizes = arrays, batches, sizes

    def __iter__(self) -> Iterator[Arrays]:
        stop = 0
        for batch, size in zip(self._batches, self._sizes, strict=True):
            start, stop = stop, stop + size
            parts = {
                name: value[start:stop] if isinstance(value, np.ndarray | list) else value
                for name, value in self._arrays.items()
            }
            yield parts | {"batch_rows": batch}

    def __reduce__(self) -> tuple[Any, ...]:
        shared = {name: sendable(value) for name, value in self._arrays.items()}
        return Load, (shared, self._batches, self._sizes)
