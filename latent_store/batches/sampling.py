"""Sampling: the rows of each batch, a process's share of them, and crops; all pure.

Chunked shuffle: rows are cut into runs of `chunk_rows` consecutive ones, the runs are shuffled,
`preload_rows` rows at a time are loaded with few contiguous reads, and dealt out in memory: a load
is cut into as many equal stretches as a batch has rows, and each batch gets a random row of each.
Random single-row reads, the slow path of every chunked store, do not occur; rows of a stretch meet
in no batch; and whoever takes the same places of every batch reads stretches that lie together, by
which several processes share a store. A group of rows that makes one load is shuffled more, see
`_order`.

Everything depends on (seed, epoch) or (seed, epoch, row) only: any epoch can be entered at any
batch, and all networks that are compared see the same crops in the same order.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from latent_store.format.schema import LATENT_STRIDE

Value = TypeVar("Value")
Batch = tuple[int, ...]
"""Row numbers."""

# First in every generator's key, so that no two uses of randomness share a stream; `training` goes
# on from 3.
ORDER_KEY, CROP_KEY = 1, 2
ORDER_VERSION = 2
"""Of `plan_epoch`; another one orders the same rows otherwise, so that no run goes on under it."""


@dataclass(frozen=True)
class Share:
    """One process's of several equal shares.

    Of a load of `plan_epoch` it is consecutive rows of the load's order, and whole runs where
    `preload_rows` is a multiple of the batch size, and of `world` times `chunk_rows`.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    def part(self, batch: Sequence[Value]) -> Sequence[Value]:
        """Returns this share of a batch's rows: consecutive ones, rank 0 has the first."""
        size = len(batch) // self.world
        return batch[self.rank * size : (self.rank + 1) * size]


WHOLE = Share()
"""The only share there is."""


def plan_epoch(
    groups: Sequence[Sequence[int]],
    *,
    batch_size: int,
    chunk_rows: int,
    preload_rows: int,
    seed: int,
    epoch: int,
) -> list[list[Batch]]:
    """Orders an epoch, for any number of shares the same.

    Args:
        groups: Rows by the size of what is cut from them; a batch comes from one group.
        batch_size: Rows in every batch. A group's last batch is filled up with rows from the
            beginning of its order, so that every batch is full and every row is seen.
        chunk_rows: Consecutive rows that stay together until they are in memory.
        preload_rows: Rows that are in memory together, rounded up to whole batches.
        seed, epoch: Key what is drawn.

    Returns:
        Loads, each a list of batches: what is read, shuffled and handed out together. Place `i` of
        its batches has the rows of the load's stretch `i`.
    """
    rng = np.random.default_rng((ORDER_KEY, seed, epoch))
    span = -(-preload_rows // batch_size) * batch_size
    loads: list[list[Batch]] = []
    for group in groups:
        rows = np.asarray(group, dtype=np.int64)
        order = _order(rows, chunk_rows, rng, one_load=len(rows) <= span)
        order = np.resize(order, -(-len(order) // batch_size) * batch_size)
        for start in range(0, len(order), span):
            stretches = order[start : start + span].reshape(batch_size, -1)
            batches = rng.permuted(stretches, axis=1).T
            loads.append([tuple(batch) for batch in batches.tolist()])
    return [loads[i] for i in rng.permutation(len(loads))]


def _order(
    rows: np.ndarray, chunk_rows: int, rng: np.random.Generator, *, one_load: bool
) -> np.ndarray:
    """Returns a group's rows with its runs shuffled.

    Of one load the rows of each run are shuffled too; and all rows together where it has a short
    run or no other, so that any of them may fill up the last batch, and any two may meet.
    """
    if one_load and (len(rows) % chunk_rows or len(rows) == chunk_rows):
        return rng.permutation(rows)
    # A short run at the end comes last: before others it would shift them all against loads.
    whole = rows[: len(rows) // chunk_rows * chunk_rows]
    runs = rng.permutation(whole.reshape(-1, chunk_rows))
    return np.append(rng.permuted(runs, axis=1) if one_load else runs, rows[len(whole) :])


def endless_loads(
    groups: Sequence[Sequence[int]],
    *,
    batch_size: int,
    chunk_rows: int,
    preload_rows: int,
    seed: int,
    epoch: int,
    position: int,
) -> Iterator[tuple[int, list[Batch]]]:
    """Yields epochs and loads for ever, from batch `position` of `epoch` on; see `plan_epoch`."""
    sizes = {"batch_size": batch_size, "chunk_rows": chunk_rows, "preload_rows": preload_rows}
    skip = position
    for current in itertools.count(epoch):
        for load in plan_epoch(groups, **sizes, seed=seed, epoch=current):
            if skip < len(load):
                yield current, load[skip:]
            skip = max(skip - len(load), 0)


def plan_in_order(groups: Sequence[Sequence[int]], *, batch_size: int) -> list[list[Batch]]:
    """Returns one load a batch, in row order, every row once; the last of a group may be short."""
    return [
        [tuple(int(row) for row in group[start : start + batch_size])]
        for group in groups
        for start in range(0, len(group), batch_size)
    ]


def crop_origin(
    seed: int, epoch: int, row: int, *, size: tuple[int, int], crop: tuple[int, int]
) -> tuple[int, int]:
    """Returns (top, left) of an image's random crop in pixels, multiples of 16.

    Args:
        seed, epoch, row: Key what is drawn.
        size: Coded height and width in pixels.
        crop: Height and width in pixels, multiples of 16, not larger than `size`.
    """
    rng = np.random.default_rng((CROP_KEY, seed, epoch, row))
    steps = [(whole - part) // LATENT_STRIDE + 1 for whole, part in zip(size, crop, strict=True)]
    top, left = (int(rng.integers(n)) * LATENT_STRIDE for n in steps)
    return top, left


def group_by_size(rows: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Returns rows grouped by size; groups by size, rows within a group in the order given."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, size in zip(rows, sizes, strict=True):
        groups.setdefault(size, []).append(int(row))
    return [groups[size] for size in sorted(groups)]
