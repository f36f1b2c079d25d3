"""Loaders: endless, resumable streams of equal batches, and whole images for validation."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from latent_store.batches.prefetch import Prefetcher
from latent_store.batches.sampling import (
    ORDER_VERSION,
    WHOLE,
    Batch,
    Share,
    endless_loads,
    plan_in_order,
)
from latent_store.batches.source import Arrays, CropRule
from latent_store.errors import LatentStoreError
from latent_store.torch.tensors import as_tensors
from training.data.loader_config import LoaderConfig
from training.data.source import Source

_SIZES = ("batch_size", "chunk_rows", "preload_rows")
TensorBatch = dict[str, Any]
"""Tensors by name, "sample_ids", a list of str, and for boxes "targets", a list of dicts."""


class EpochLoader(ABC):
    """Yields an epoch's batches, and can be stopped and continued anywhere.

    Iterating gives the rest of the current epoch; then `epoch` is one higher. What comes next is
    prepared across the end of an epoch.

    Attributes:
        epoch: The current epoch, from 0.
        position: Batches of it that were handed out.
    """

    def __init__(self) -> None:
        self.epoch = self.position = 0
        self._stream: Iterator[TensorBatch] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of batches in an epoch, the same in every epoch."""

    @abstractmethod
    def stream(self, epoch: int, position: int) -> Generator[TensorBatch]:
        """Yields batches for ever, starting with batch `position` of `epoch`."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Returns the plain values on which the batches depend; a resumed run must have them."""

    def __iter__(self) -> Iterator[TensorBatch]:
        if self._stream is None:
            self._stream = self.stream(self.epoch, self.position)
        while self.position < len(self):
            batch = next(self._stream)
            self.position += 1
            yield batch
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Returns where the loader is; plain types."""
        return {"epoch": self.epoch, "position": self.position, "settings": self.settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where another loader was.

        Raises:
            LatentStoreError: If that one had other settings; the first that differs is named.
        """
        mine = self.settings()
        before = state["settings"]
        for name in {**before, **mine}:
            if before.get(name) != mine.get(name):
                raise LatentStoreError(
                    f"cannot resume: {name} of the training data was {before.get(name)}, now it is "
                    f"{mine.get(name)}; use the same data, settings and release, or start a new "
                    "--output"
                )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        self.close_stream()

    def close_stream(self) -> None:
        """Drops what was prepared; the next iteration starts from `epoch` and `position`."""
        if self._stream is not None and hasattr(self._stream, "close"):
            self._stream.close()
        self._stream = None


class CropLoader(EpochLoader):
    """Random crops of a source's images, in a chunked shuffle, read ahead.

    Several ranks have the batches of one process, in the same order, each its own part of every
    batch. In an epoch each row is read by one of them, but for those that fill up a last batch. A
    rank's rows of a load are a stretch of it: whole runs of `chunk_rows`, where `preload_rows` is a
    multiple of `batch_size`, and of the ranks times `chunk_rows`. So an object of the store is
    asked for by two ranks only where its rows lie in runs, or parts of a run, of both; and in
    another epoch by another rank, since runs are shuffled. Pictures of one size that make one load,
    and are not two or more whole runs, are shuffled row by row: each rank reads some of all places.
    Plans, tables and metadata are read by each.

    Args:
        source: What is read.
        seed: Order and crops depend on it, the epoch and the row, on nothing else.
        pin_memory: Whether tensors are put into page-locked memory, for a GPU.
        share: What is read of each batch.

    Raises:
        LatentStoreError: If a batch is larger than the split, or cannot be shared equally.
    """

    def __init__(
        self,
        source: Source,
        config: LoaderConfig,
        *,
        seed: int,
        pin_memory: bool = False,
        share: Share = WHOLE,
    ) -> None:
        super().__init__()
        if config.batch_size % share.world:
            raise LatentStoreError(
                f"--batch_size {config.batch_size} counts the images of all ranks together and "
                f"cannot be shared equally by {share.world}: give a multiple of {share.world}"
            )
        config = config.for_annotations(source.annotations)
        self.source, self.config = source, config
        self.rule = CropRule(seed=seed, crop=config.crop or 0)
        self.groups = source.groups(self.rule)
        self._pin_memory, self._share = pin_memory, share
        if config.batch_size > len(source.rows):
            raise LatentStoreError(
                f"--batch_size {config.batch_size} is larger than {source.name}, which has "
                f"{len(source.rows)} samples: use a smaller batch, or --accumulate"
            )
        self._prefetcher = Prefetcher(source.load, workers=config.workers, kind=config.worker_kind)

    def __len__(self) -> int:
        return sum(-(-len(group) // self.config.batch_size) for group in self.groups)

    def stream(self, epoch: int, position: int) -> Generator[TensorBatch]:
        for load in self._prefetcher.map(self._loads(epoch, position)):
            for batch in load:
                yield to_tensors(batch, pin_memory=self._pin_memory)

    def settings(self) -> dict[str, Any]:
        ids = "\n".join(self.source.sample_ids(self.source.rows))
        return {
            "seed": self.rule.seed,
            "version of the order": ORDER_VERSION,
            **{name: getattr(self.config, name) for name in ("crop", *_SIZES)},
            "number of samples": len(self.source.rows),
            "digest of sample ids": hashlib.sha256(ids.encode()).hexdigest()[:16],
        }

    def close(self) -> None:
        """Stops the workers."""
        self.close_stream()
        self._prefetcher.close()

    def _loads(
        self, epoch: int, position: int
    ) -> Iterator[tuple[list[Batch], CropRule, int, Share]]:
        sizes = {name: getattr(self.config, name) for name in _SIZES}
        start = {"seed": self.rule.seed, "epoch": epoch, "position": position}
        for current, load in endless_loads(self.groups, **sizes, **start):
            for part in [load] if self.source.in_runs else [[batch] for batch in load]:
                yield part, self.rule, current, self._share


class WholeImages:
    """A source's whole images in row order, for validation: every row once, in one of the shares.

    A thread reads ahead, within one pass. A batch has at most `batch_size` images, of one coded
    size, and batches are in the order of their first rows. A share is consecutive batches, the same
    ones in every pass: with one image a batch, two ranks ask for the same object of the store only
    where one's images end and the next one's begin.
    """

    def __init__(self, source: Source, *, batch_size: int = 1, share: Share = WHOLE) -> None:
        self.source = source
        self.rule = CropRule(seed=0, crop=0)
        loads = sorted(plan_in_order(source.groups(self.rule), batch_size=batch_size))
        # Rounded up, so that the first rank, which draws what it sees, has one if any has.
        first, end = (-(-len(loads) * n // share.world) for n in (share.rank, share.rank + 1))
        self.loads = loads[first:end]
        self._prefetcher = Prefetcher(source.load, workers=1)

    def __len__(self) -> int:
        return len(self.loads)

    def __iter__(self) -> Iterator[TensorBatch]:
        try:
            for load in self._prefetcher.map((load, self.rule, 0) for load in self.loads):
                yield from map(to_tensors, load)
        finally:
            self._prefetcher.close()


def to_tensors(arrays: Arrays, *, pin_memory: bool = False) -> TensorBatch:
    """Returns a batch as tensors; images [B, H, W, 3] become "x_BCHW" without a copy.

    Integers stay as narrow as they were stored: they are widened on the device.
    """
    batch = as_tensors(arrays, pin_memory=pin_memory)
    if "x_BHWC" in batch:
        batch["x_BCHW"] = batch.pop("x_BHWC").permute(0, 3, 1, 2)
    return batch
