"""A split as PyTorch's two kinds of datasets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch.utils.data

from latent_store.batches.columns import Y_HAT, Columns
from latent_store.batches.prefetch import Prefetcher
from latent_store.batches.sampling import Batch, plan_epoch
from latent_store.batches.source import Arrays, CropRule
from latent_store.errors import LatentStoreError
from latent_store.format.boxes import Boxes
from latent_store.format.schema import LATENT_STRIDE
from latent_store.store import Split
from latent_store.torch.tensors import as_tensors, box_arrays

Sample = dict[str, Any]


class _Windows:
    """What both datasets read: columns of a split, and a window of each sample."""

    def __init__(
        self, split: Split, columns: Sequence[str], *, crop: int, seed: int, **choice: Any
    ) -> None:
        if crop < 0 or crop % LATENT_STRIDE:
            raise LatentStoreError(
                f"`crop=` must be a multiple of {LATENT_STRIDE} pixels (one latent position), or 0 "
                f"for whole images, got {crop}"
            )
        names = (columns,) if isinstance(columns, str) else tuple(columns)
        self.columns = Columns(split.store.location, split.plan.name, names, **choice)
        self.rule = CropRule(seed=seed, crop=crop)
        self.rows = self.columns.rows
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0, which crops and order depend on."""
        self.epoch = epoch


class Dataset(_Windows, torch.utils.data.Dataset[Sample]):
    """Samples of a split, by position or by id; a `DataLoader` reads a batch of them together.

    A sample is a dict: the columns as tensors, "sample_id" and "row". Columns are "y_hat" (integers
    [C, h, w], or float32 where the codec has means), "labels" (uint8 [H, W]), "boxes" (a dict of
    tensors), "features" (float32 [D, H/4, W/4]), and numbers of each channel or picture:
    "channel_bits", "channel_mean", "channel_rms", "hyper_bits", "overhead_bits". Labels of what
    lies beyond the picture, up to a multiple of 64 pixels, are 255.

    Args:
        split: Of a store; it is opened anew, by its address, in every process.
        columns: One or several of those; samples are those that have them all.
        crop: Side, in pixels, of a random window of each sample, a multiple of 16, the same of all
            columns; 0 for whole ones, at the size that they are coded at.
        seed: Windows depend on it, on the epoch (`set_epoch`) and on the sample, on nothing else.
        codec, channels, ranked, keep, teacher, views: See `Columns`: which latents, in which order
            and how many channels of them, whose features, and whether flipped views count.

    Attributes:
        rows: Int64, the row of each position.

    Raises:
        LatentStoreError: A column is unknown, or a component is missing; or it is read in a fork of
            the process that opened it (`DataLoader(..., multiprocessing_context="spawn")` starts
            workers that may).
    """

    def __init__(
        self,
        split: Split,
        columns: Sequence[str] = (Y_HAT,),
        *,
        crop: int = 0,
        seed: int = 0,
        codec: str | None = None,
        channels: Sequence[int] | None = None,
        ranked: str | None = None,
        keep: int | None = None,
        teacher: str | None = None,
        views: bool = False,
    ) -> None:
        choice = {"codec": codec, "channels": channels, "ranked": ranked, "keep": keep}
        super().__init__(
            split, columns, crop=crop, seed=seed, **choice, teacher=teacher, views=views
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | str]) -> list[Sample]:
        """Returns several samples, which are read together: what a `DataLoader` calls."""
        rows = [self._row(key) for key in keys]
        groups: dict[tuple[int, int], list[int]] = {}
        for place, coded in enumerate(self.columns.coded_sizes(rows)):
            groups.setdefault(self.rule.size(coded), []).append(place)
        samples: dict[int, Sample] = {}
        for places in groups.values():
            batch = tuple(rows[place] for place in places)
            (arrays,) = self.columns.load([batch], self.rule, self.epoch)
            samples |= {p: self._sample(arrays, i) for i, p in enumerate(places)}
        return [samples[place] for place in range(len(rows))]

    def _row(self, key: int | str) -> int:
        if not isinstance(key, str):
            return int(self.rows[key])
        row = self.columns.split.row_of(key)
        if row not in self.rows:
            raise LatentStoreError(
                f"{key!r} of {self.columns.name} lacks one of {', '.join(self.columns.names)}: see "
                "`latent-store inspect`"
            )
        return row

    def _sample(self, arrays: Arrays, place: int) -> Sample:
        values = {name: arrays[name][place] for name in self.columns.names}
        plain = {
            name: box_arrays(value) if isinstance(value, Boxes) else np.asarray(value)
            for name, value in values.items()
        }
        nested = {name: as_tensors(v) for name, v in plain.items() if isinstance(v, dict)}
        found = {"sample_id": arrays["sample_ids"][place], "row": int(arrays["rows_B"][place])}
        return as_tensors(plain) | nested | found


class IterableDataset(_Windows, torch.utils.data.IterableDataset[Sample]):
    """Shuffled batches of a split, read ahead; iterate again for the next epoch.

    A batch is a dict: the columns as tensors [B, ...] ("boxes" a list of dicts), "sample_ids",
    "rows_B", and "valid_B2", the height and width of each window that are original picture. Rows
    that lie together are read together: runs of `chunk_rows` are shuffled, and `preload_rows` in
    memory. Every batch is full and holds one size; the last of an epoch begins the order anew.

    Without a `DataLoader` it reads ahead by itself. In one, give `batch_size=None` and `workers=0`,
    spawned workers, and call `set_epoch`: each worker reads its part of the epoch.

    Args:
        split, columns, crop, seed, codec, channels, ranked, keep, teacher, views: See `Dataset`;
            the order depends on seed and epoch.
        batch_size: Samples in a batch.
        chunk_rows: Consecutive rows that stay together until they are in memory.
        preload_rows: Rows that are in memory together.
        workers: How many read ahead; 0 for none.
        worker_kind: "thread", or "process", which is spawned.

    Attributes:
        epoch: The next, from 0.

    Raises:
        LatentStoreError: As `Dataset`; or a batch is larger than the split.
    """

    def __init__(
        self,
        split: Split,
        columns: Sequence[str] = (Y_HAT,),
        *,
        batch_size: int = 8,
        crop: int = 0,
        seed: int = 0,
        chunk_rows: int = 8,
        preload_rows: int = 32,
        workers: int = 2,
        worker_kind: str = "thread",
        codec: str | None = None,
        channels: Sequence[int] | None = None,
        ranked: str | None = None,
        keep: int | None = None,
        teacher: str | None = None,
        views: bool = False,
    ) -> None:
        choice = {"codec": codec, "channels": channels, "ranked": ranked, "keep": keep}
        super().__init__(
            split, columns, crop=crop, seed=seed, **choice, teacher=teacher, views=views
        )
        if not 1 <= batch_size <= len(self.rows):
            raise LatentStoreError(
                f"`batch_size=` must be 1 to {len(self.rows)}, the samples of {split.plan.name} "
                f"that have {', '.join(self.columns.names)}; got {batch_size}"
            )
        self.batch_size, self.groups = batch_size, self.columns.groups(self.rule)
        self._sizes = {"chunk_rows": chunk_rows, "preload_rows": preload_rows}
        self._workers, self._kind = workers, worker_kind
        self._prefetcher().close()  # Refuses workers that cannot be.

    def __len__(self) -> int:
        return sum(-(-len(group) // self.batch_size) for group in self.groups)

    def __iter__(self) -> Iterator[Sample]:
        self.columns.require_own_process()
        epoch, self.epoch = self.epoch, self.epoch + 1
        prefetcher = self._prefetcher()
        try:
            for load in prefetcher.map((part, self.rule, epoch) for part in self._loads(epoch)):
                yield from map(self._batch, load)
        finally:
            prefetcher.close()

    def _prefetcher(self) -> Prefetcher:
        return Prefetcher(self.columns.load, workers=self._workers, kind=self._kind)

    def _loads(self, epoch: int) -> list[list[Batch]]:
        """Returns what is read together in an epoch; in a DataLoader's worker, its part of it."""
        loads = plan_epoch(
            self.groups, batch_size=self.batch_size, **self._sizes, seed=self.rule.seed, epoch=epoch
        )
        worker = torch.utils.data.get_worker_info()
        return loads if worker is None else loads[worker.id :: worker.num_workers]

    def _batch(self, arrays: Arrays) -> Sample:
        boxes = {
            name: [box_arrays(item) for item in value]
            for name, value in arrays.items()
            if isinstance(value, list) and isinstance(value[0], Boxes)
        }
        return as_tensors({k: v for k, v in (arrays | boxes).items() if k != "batch_rows"})
