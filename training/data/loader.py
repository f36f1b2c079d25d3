"""Loaders: endless, resumable streams of equal batches, and whole images for validation."""

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from latent_store.errors import LatentStoreError
from training.data.loader_config import LoaderConfig
from training.data.prefetch import Prefetcher
from training.data.sampling import WHOLE, Batch, Share, plan_epoch, plan_in_order
from training.data.source import Arrays, CropRule, Source

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
        for name, value in state["settings"].items():
            if mine.get(name) != value:
                raise LatentStoreError(
                    f"cannot resume: {name} of the training data was {value}, now it is "
                    f"{mine.get(name)}; use the same data and settings, or start a new --output"
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
        for current in itertools.count(epoch):
            loads = plan_epoch(self.groups, **sizes, seed=self.rule.seed, epoch=current)
            skip = position if current == epoch else 0
            if not self.source.in_runs:
                loads = [[batch] for load in loads for batch in load]
            for load in loads:
                if skip < len(load):
                    yield load[skip:], self.rule, current, self._share
                skip = max(skip - len(load), 0)


class WholeImages:
    """A source's whole images in row order, for validation: every row once, in one of the shares.

    A thread reads ahead, within one pass. A batch has at most `batch_size` images, of one coded
    size; of the batches a share is read.
    """

    def __init__(self, source: Source, *, batch_size: int = 1, share: Share = WHOLE) -> None:
        self.source = source
        self.rule = CropRule(seed=0, crop=0)
        loads = plan_in_order(source.groups(self.rule), batch_size=batch_size)
        self.loads = loads[share.rank :: share.world]
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
    batch: TensorBatch = {}
    for name, value in arrays.items():
        if name == "targets":
            batch[name] = [to_tensors(target, pin_memory=pin_memory) for target in value]
        elif isinstance(value, np.ndarray):
            tensor = torch.from_numpy(np.ascontiguousarray(value))
            if name == "x_BHWC":
                name, tensor = "x_BCHW", tensor.permute(0, 3, 1, 2)
            batch[name] = tensor.pin_memory() if pin_memory else tensor
        else:
            batch[name] = value
    return batch
