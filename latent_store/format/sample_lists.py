"""Samples by the million: a sequence of them that is kept as parts, and looked up by columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latent_store.errors import DatasetError
from latent_store.format.ids import ORIGINAL_VIEW
from latent_store.format.sample_parts import COLUMNS, SamplePart, cut_parts, to_table
from latent_store.format.samples import Sample

SAMPLES_A_PART = 2**14
"""About 100 KB, read in some milliseconds."""


class Samples(Sequence[Sample]):
    """Samples in their order, each made when it is asked for; 10 million take some 100 MB.

    Args:
        parts: Of all of them, in their order.
    """

    def __init__(self, parts: Iterable[SamplePart] = ()) -> None:
        self.parts = tuple(parts)
        counts = [part.record.samples for part in self.parts]
        self.starts = np.cumsum([0, *counts], dtype=np.int64)
        """Place of the first sample of each part, and how many there are."""
        self._columns: dict[str, pa.Array] = {}

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Samples:
        """Keeps samples as parts, one after another as they come."""
        if isinstance(samples, Samples):
            return samples
        given, size = iter(samples), SAMPLES_A_PART
        batches = iter(lambda: list(itertools.islice(given, size)), [])
        return cls(cut_parts(map(to_table, batches), 0, size))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Sample, ...]: ...
    def __getitem__(self, place: int | slice) -> Sample | tuple[Sample, ...]:
        if isinstance(place, slice):
            return tuple(self[n] for n in range(*place.indices(len(self))))
        number = range(len(self))[place]
        part = int(np.searchsorted(self.starts, number, side="right")) - 1
        start = number - int(self.starts[part])
        return self.parts[part].samples(start, start + 1)[0]

    def __iter__(self) -> Iterator[Sample]:
        return (sample for part in self.parts for sample in part.samples())

    def __eq__(self, other: object) -> bool:
        """Tells whether they lie in the same rows of the same parts."""
        if not isinstance(other, Samples):
            return NotImplemented
        return [part.record for part in self.parts] == [part.record for part in other.parts]

    __hash__ = None  # type: ignore[assignment]

    def first(self, count: int | None) -> Samples:
        """Returns the first of them; all for None."""
        if count is None or count >= len(self):
            return self
        parts = list(self.parts[: int(np.searchsorted(self.starts, count))])
        whole = int(self.starts[len(parts)])
        if whole > count:
            last = parts.pop()
            keep = last.record.samples - (whole - count)
            parts.append(SamplePart.of(last.table().slice(0, keep), last.record.first_row))
        return Samples(parts)

    def tables(self) -> Iterator[pa.Table]:
        """Yields the samples of each part as `COLUMNS`."""
        return (part.table() for part in self.parts)

    def column(self, name: str) -> pa.Array:
        """Returns one column of all; it is kept, for those who read samples at random."""
        if name not in self._columns:
            chunks = [chunk for table in self.tables() for chunk in table[name].chunks]
            empty = pa.array([], COLUMNS.field(name).type)
            self._columns[name] = pa.concat_arrays([empty, *chunks])
        return self._columns[name]

    def has(self, name: str) -> np.ndarray:
        """Tells which samples have a text, or a number but 0, in a column: bool `[n]`."""
        parts = [_filled(table[name]) for table in self.tables()]
        return np.concatenate([np.zeros(0, bool), *parts])

    def largest(self, name: str) -> int:
        """Returns the largest number in a column; 0 of no samples."""
        return max((pc.max(table[name]).as_py() for table in self.tables()), default=0)

    def take(self, places: np.ndarray, *names: str) -> pa.Table:
        """Returns the samples at places, in that order, as `COLUMNS`, or those that are named."""
        columns = list(names or COLUMNS.names)
        numbers = np.searchsorted(self.starts, places, side="right") - 1
        found, order = [], []
        for number in np.unique(numbers).tolist():
            mine = np.flatnonzero(numbers == number)
            order.append(mine)
            table = self.parts[number].table().select(columns)
            found.append(table.take(places[mine] - self.starts[number]))
        if not found:
            return COLUMNS.empty_table().select(columns)
        if len(found) == 1:
            return found[0]
        back = np.argsort(np.concatenate(order), kind="stable")
        return pa.concat_tables(found).take(back)

    @cached_property
    def twice(self) -> tuple[int, int] | None:
        """Places of the first two samples that have one id; None where ids differ."""
        in_order = self._hashes()
        in_order.sort()
        shared = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
        first: dict[str, int] = {}
        # Most that share a hash of 32 bits differ: of 10 million some 20,000.
        for start, table in zip(
            self.starts.tolist(), self.tables() if shared.size else (), strict=False
        ):
            names = table["sample_id"].to_pylist()
            for place in np.flatnonzero(np.isin(_hashed(names), shared)).tolist():
                if first.setdefault(names[place], start + place) != start + place:
                    return first[names[place]], start + place
        return None

    def require_unique(self) -> Samples:
        """Returns itself.

        Raises:
            DatasetError: Two samples have one id.
        """
        if found := self.twice:
            name = self[found[0]].sample_id
            raise DatasetError(f"sample id {name!r} occurs twice; ids are unique in a split")
        return self

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Returns the places of ids, int64 `[n]`; -1 of an id that none has."""
        in_order, order = self._by_hash
        hashes = _hashed(ids)
        at = np.searchsorted(in_order, hashes)
        found = np.full(len(ids), -1, dtype=np.int64)
        left = np.arange(len(ids))
        while left.size:
            left = left[at[left] < len(in_order)]
            left = left[in_order[at[left]] == hashes[left]]
            # Texts can share a hash, though two of millions hardly do.
            places = order[at[left]].astype(np.int64)
            names = self.take(places, "sample_id")["sample_id"].to_pylist()
            same = np.array([ids[n] == name for n, name in zip(left, names, strict=True)], bool)
            found[left[same]] = places[same]
            left = left[~same]
            at[left] += 1
        return found

    @cached_property
    def _by_hash(self) -> tuple[np.ndarray, np.ndarray]:
        hashes = self._hashes()
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
        return hashes[order], order

    def _hashes(self) -> np.ndarray:
        # Room is made for what was read, not for what a record says.
        parts = [_hashed(table["sample_id"].to_pylist()) for table in self.tables()]
        return np.concatenate([np.zeros(0, np.uint32), *parts])

    def __getstate__(self) -> tuple[SamplePart, ...]:
        # Hashes of texts are a process's own.
        return self.parts

    def __setstate__(self, parts: tuple[SamplePart, ...]) -> None:
        self.__init__(parts)  # type: ignore[misc]


def is_original(table: pa.Table) -> pa.ChunkedArray:
    """Tells which samples of a table are no views."""
    return pc.equal(table["view"], ORIGINAL_VIEW)


def _filled(column: pa.ChunkedArray) -> np.ndarray:
    empty = "" if column.type == pa.string() else 0
    filled: np.ndarray = pc.not_equal(column, empty).to_numpy()
    return filled


def _hashed(ids: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, ids), np.int64, len(ids)).astype(np.uint32)
