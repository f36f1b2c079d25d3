"""Columns of a split: what is read of each sample, whole or a window of it, by name."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from latent_store.batches.source import Arrays, Items, Rows, WindowSource
from latent_store.components.boxes import BoxesReader
from latent_store.components.features import FeaturesReader
from latent_store.components.labels import LabelsReader
from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import RankedReader
from latent_store.components.reader import ComponentReader, Window
from latent_store.errors import DatasetError, LatentStoreError
from latent_store.format.schema import LATENT_STRIDE
from latent_store.storage.location import Location
from latent_store.store import LatentStore, Split

Y_HAT, LABELS, BOXES, FEATURES = "y_hat", "labels", "boxes", "features"
NUMBERS = ("channel_bits", "channel_mean", "channel_rms", "hyper_bits", "overhead_bits")
NAMES = (Y_HAT, LABELS, BOXES, FEATURES, *NUMBERS)


class Columns(WindowSource):
    """Columns of a split, opened when they are first read; plain values are sent to workers.

    Args:
        location: The store.
        name: `dataset/split`.
        names: Of `NAMES`, what `cut` reads and what `rows` must have.
        codec: Its id; None for the only one.
        channels: Numbers of the channels that are read of ŷ in natural order; None for all.
        ranked: The ranking whose copy ŷ is read from, in its order; None for natural order.
        keep: How many channels of the ranked copy; None for all.
        teacher: Whose features; None for the only one's.
        views: Whether stored views are samples.

    Raises:
        LatentStoreError: There is no such column, or `channels` and `ranked` contradict each other.
    """

    in_runs = True

    def __init__(
        self,
        location: Location,
        name: str,
        names: Sequence[str],
        *,
        codec: str | None = None,
        channels: Sequence[int] | None = None,
        ranked: str | None = None,
        keep: int | None = None,
        teacher: str | None = None,
        views: bool = False,
    ) -> None:
        unknown = [column for column in names if column not in NAMES]
        if unknown or not names:
            raise LatentStoreError(
                f"there is no column {unknown[0] if unknown else 'asked for'!r}; there are: "
                f"{', '.join(NAMES)}"
            )
        if ranked is None and keep is not None:
            raise LatentStoreError(f"`keep={keep}` counts ranked channels: name `ranked=` too")
        if ranked is not None and channels is not None:
            raise LatentStoreError(
                "`channels=` are numbers in natural order, `ranked=` reads the ranked copy: give "
                "one of them; `keep=` says how many ranked channels"
            )
        self.location, self.name, self.names = location, name, tuple(names)
        self._choice: dict[str, Any] = {"codec": codec, "ranked": ranked, "keep": keep}
        self._choice |= {"channels": channels, "teacher": teacher, "views": views}
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        again = functools.partial(Columns, **self._choice)
        return again, (self.location, self.name, self.names)

    @cached_property
    def split(self) -> Split:
        """The split."""
        return LatentStore(self.location)[self.name]

    @cached_property
    def latents(self) -> LatentsReader:
        """The natural-order component: its ledger and pooled values, and ŷ if not ranked."""
        return self.split.latents(self._choice["codec"])

    @cached_property
    def ranked(self) -> RankedReader | None:
        """The ranked copy, if ŷ is read from it."""
        ranked = self._choice["ranked"]
        return None if ranked is None else self.split.ranked(ranked, self._choice["codec"])

    @cached_property
    def features(self) -> FeaturesReader:
        """The teacher's features."""
        return self.split.teacher(self._choice["teacher"])

    @cached_property
    def labels(self) -> LabelsReader:
        """The labels."""
        return self.split.labels()

    @cached_property
    def boxes(self) -> BoxesReader:
        """The objects."""
        return self.split.boxes()

    @cached_property
    def rows(self) -> np.ndarray:  # type: ignore[override]  # read when it is first asked for
        """Rows that have every column, ascending.

        Raises:
            DatasetError: There is none.
        """
        rows = self.split.common_rows(*self.readers(), views=self._choice["views"])
        if not len(rows):
            raise DatasetError(
                f"{self.name} of {self.location.url} has no sample with {', '.join(self.names)}: "
                "see `latent-store inspect` for what failed, and encode some"
            )
        return rows

    def readers(self) -> list[ComponentReader]:
        """Opens the components that the columns lie in, side by side.

        From a distance each of them waits for half a dozen answers in turn.
        """
        wanted = [name for name in (LABELS, BOXES, FEATURES) if name in self.names]
        in_order = self._choice["ranked"] is None and Y_HAT in self.names
        if in_order or set(self.names) & set(NUMBERS):
            wanted.append("latents")
        if self._choice["ranked"] is not None and Y_HAT in self.names:
            wanted.append("ranked")
        _ = self.split
        with ThreadPoolExecutor(len(wanted)) as pool:
            return list(pool.map(functools.partial(getattr, self), wanted))

    def sample_ids(self, rows: Rows) -> list[str]:
        return self.split.sample_ids(rows)

    def sizes(self, rows: Rows) -> np.ndarray:
        return self.split.sizes(rows)

    def coded_sizes(self, rows: Rows) -> list[tuple[int, int]]:
        return [(height, width) for height, width in self.split.coded_sizes(rows).tolist()]

    def cut(self, rows: Sequence[int], windows: list[Window]) -> Arrays:
        """Reads a window of every column of each row; windows are in pixels, on the 16-pixel grid.

        Returns:
            By name: "y_hat" [n, C, h, w] as `LatentsReader.read` gives it, "labels" uint8
            [n, H, W], "features" float32 [n, D, h, w], "boxes", a list of `Boxes` in pixels of the
            window, numbers float32.
        """
        return {
            name: self.read(name, rows, in_cells(windows, self.stride(name))) for name in self.names
        }

    def read(self, name: str, rows: Rows, windows: list[Window] | None = None) -> Items:
        """Reads a column: of each row the whole canvas, or a window in the column's own cells.

        Raises:
            LatentStoreError: The columns were opened by another process, which this one is a fork
                of.
            DatasetError: A feature is not finite, which would spoil every weight at once.
        """
        self.require_own_process()
        if name == Y_HAT and self.ranked is not None:
            return self.ranked.read(rows, self._choice["keep"], windows)
        if name == Y_HAT:
            return self.latents.read(rows, self._choice["channels"], windows)
        if name == LABELS:
            return self.labels.read(rows, windows)
        if name == FEATURES:
            return self._finite(rows, self.features.read(rows, windows))
        if name == BOXES:
            boxes = self.boxes.read(rows)
            if windows is None:
                return boxes
            return [found.within(window) for found, window in zip(boxes, windows, strict=True)]
        return self.latents.column(name, rows)

    def stride(self, name: str) -> int:
        """Returns the pixels, in each direction, that a column has a cell for."""
        if name == FEATURES:
            return self.features.stride
        return LATENT_STRIDE if name == Y_HAT else 1

    def require_own_process(self) -> None:
        """Refuses to read in a fork of the process that opened the split.

        What answers its requests there is threads, which a fork has not: it would wait for ever.

        Raises:
            LatentStoreError: This is one.
        """
        if os.getpid() != self._process:
            raise LatentStoreError(
                f"{self.name} was opened by process {self._process} and is read in {os.getpid()}, "
                'a fork of it, which would wait for ever: give DataLoader multiprocessing_context="'
                'spawn", or num_workers=0'
            )

    def _finite(self, rows: Rows, features_NCHW: np.ndarray) -> np.ndarray:
        # A sum is finite where all are, unless they are huge: no mask of so many has to be made.
        for row, features_CHW in zip(rows, features_NCHW, strict=True):
            if not np.isfinite(features_CHW.sum()) and not np.isfinite(features_CHW).all():
                raise DatasetError(
                    f"the features of {self.split.sample_ids([row])[0]} by teacher "
                    f"{self.features.teacher_id} in {self.name} are not finite: train the teacher "
                    "again and add its features anew"
                )
        return features_NCHW


def in_cells(windows: list[Window], unit: int) -> list[Window]:
    """Returns windows in pixels as windows in cells of `unit` pixels."""
    return [(y // unit, x // unit, h // unit, w // unit) for y, x, h, w in windows]
