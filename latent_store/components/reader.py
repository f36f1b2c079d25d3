"""Reads a component: what the readers of every kind share.

Opening a component checks, with one table and one listing, that every object is there with the
length its receipt gave, because a missing object would read as zeros in every Zarr reader. Tables
and metadata are compared with the digests in the component's sealed attributes, and what is read
of an object with its receipt (`latent_store.shards.listed_objects`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import zarr

from latent_store.components.opened import OpenComponent
from latent_store.display import Sections, Shown
from latent_store.errors import (
    CapacityError,
    IdentityError,
    IntegrityError,
    MissingComponentError,
)
from latent_store.format import layout
from latent_store.format.plan import ShardPlan
from latent_store.format.samples import Sample
from latent_store.shards import index
from latent_store.shards.covers import Cut
from latent_store.shards.receipts import OK, crc32c
from latent_store.storage import groups
from latent_store.storage.keys import is_key
from latent_store.storage.local_files import sizes_of
from latent_store.storage.location import Location

Rows = layout.Rows
"""Row numbers, in any order."""
Window = tuple[int, int, int, int]
"""`(top, left, height, width)`."""
Windows = Window | list[Window] | None
"""The same window of every row, or a list of one each, all of one size; None for whole planes."""
_LARGEST_COLUMN, _LARGEST_PIXEL = 2**24, 2**10
"""Bytes that one row of an array may take: numbers of the whole picture, and for each pixel."""
Coordinate = tuple[str, np.ndarray]
"""Dimension, and its values."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One array as lazy views show it.

    Attributes:
        array: Its path below the component's group.
        scale: Path of the float32 factors `[sample, feature]` that dequantise it; None where it is
            shown as it is stored.
        factor: One for all, by which it is shown as float32; None: it is not.
    """

    array: str
    scale: str | None = None
    factor: float | None = None


class ComponentReader(OpenComponent, Shown):
    """A kind of component, and the reader of one; it knows which rows are usable.

    A kind is a subclass in a file of its own, beside the spec of its arrays, and
    `latent_store.components.registry` finds it.

    Attributes:
        kind: First part of its keys, and last of its groups' `encoding-type`.
        parts: What the further parts of its keys are ids of: `codec`, `ranking`, `teacher`.
        remedy: The way to make one; may name `{split}` and each of `parts`.
        task: The task that learns from it; empty where it is no task's own.
        source: The field of `Sample` that is empty where there is nothing to write of a sample.
        rows: Int64, the usable rows, ascending.

    Raises:
        MissingComponentError: The component does not exist.
        IncompleteComponentError: Its job has not finished.
        IntegrityError: An object is missing or has another length than its receipt says.
    """

    kind: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()
    remedy: ClassVar[str]
    task: ClassVar[str] = ""
    source: ClassVar[str] = "image_uri"

    def __init__(self, location: Location, plan: ShardPlan, key: str):
        self.plan = plan
        self.ids = self.ids_of(key)
        path, remedy = f"{plan.name}/{key}", self.remedy.format(split=plan.name, **self.ids)
        with ThreadPoolExecutor(1) as pool:
            # From a distance an answer takes as long as the rest of opening.
            listing = pool.submit(location.sizes, path) if location.local_path is None else None
            super().__init__(location, plan.name, key, remedy)
            # A listing has nothing that lies elsewhere.
            keys = [key for key in self.objects["key"].to_pylist() if is_key(key)]
            below = (key for key in keys if key.startswith(f"{path}/"))
            self._check_presence(listing.result() if listing else sizes_of(location.root, below))
        rows, samples = (self.index[name].to_pylist() for name in ("row", "sample_id"))
        plan.require_samples(rows, samples, key)
        # Arrays are shown as long as it says, and a slice would end there without a word.
        if not max(rows, default=-1) < (self.record.num_rows or 0) <= plan.num_rows:
            raise IntegrityError(
                f"{plan.name}/{key} says that it has {self.record.num_rows} rows, the shard plan "
                f"{plan.num_rows}: one of them is older or of another store; restore plan.json"
            )
        numbers = np.asarray(rows, dtype=np.int64)
        fine = np.array([status == OK for status in self.index["status"].to_pylist()], dtype=bool)
        left = np.isin(numbers // plan.samples_per_shard, list(self.left_out))
        self.rows = numbers[fine & ~left]
        pictures = plan.pictures_crc32c(self.rows)
        # Of what is written anew, the plan knows the new pictures already.
        if not self.left_out and self.record.pictures_crc32c not in (None, pictures):
            raise IntegrityError(
                f"{plan.name}/{key} was made from other pictures than the shard plan lists: one of "
                f"them is older or of another store; restore plan.json, or {self._remedy}"
            )
        self._columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def key_of(cls, *ids: str) -> str:
        """Returns the key of the component of those ids, one for each of `parts`."""
        return "/".join([cls.kind, *ids])

    @classmethod
    def ids_of(cls, key: str) -> dict[str, str]:
        """Returns the ids in a key, by what they are ids of."""
        return dict(zip(cls.parts, key.split("/")[1:], strict=False))

    @classmethod
    def lists(cls, sample: Sample) -> bool:
        """Tells whether there is something to write of a sample."""
        return bool(getattr(sample, cls.source))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of labels or boxes, by class id; empty in stores that were written without them."""
        return self.record.class_names

    def _headline(self) -> str:
        return f"{self.plan.name}/{self.key}: {len(self.rows)} usable rows"

    def _sections(self) -> Sections:
        arrays, shown = {}, {v.array: v.factor for v in self.variables().values()}
        # What lazy views show comes first.
        for name in sorted(self.record.arrays, key=lambda name: ("/" in name, name)):
            array = self.array(name)
            sizes = zip(groups.dims_of(array), array.shape, strict=True)
            axes = ", ".join(f"{dim}: {size}" for dim, size in sizes)
            arrays[name] = f"{array.dtype}{f' × {f}' if (f := shown.get(name)) else ''} ({axes})"
        return {"Arrays": arrays}

    def variables(self) -> dict[str, Variable]:
        """Returns the arrays that lazy views show, by the names that they show them by."""
        names = sorted(self.record.arrays)
        return {name: Variable(array=name) for name in names if "/" not in name}

    def coordinates(self) -> dict[str, Coordinate]:
        """Returns what labels the component's own dimensions in lazy views."""
        return {}

    def array(self, name: str) -> zarr.Array:
        """Returns one array of the component, as `OpenComponent.array` does.

        Raises:
            IntegrityError: Its metadata is missing or was altered, or asks for more memory than
                pictures of the split's canvas can.
        """
        array = super().array(name)
        row = _LARGEST_COLUMN + _LARGEST_PIXEL * math.prod(self.plan.canvas)
        axes = array.shape[1:], array.chunks, array.shards or ()
        most = row * self.plan.samples_per_shard
        if array.dtype.itemsize * max(map(math.prod, axes)) > most:
            raise IntegrityError(
                f"{self.location.url}: {array.path} says that it has the shape {array.shape} in "
                f"chunks of {array.chunks}, more than a split with a canvas of "
                f"{self.plan.canvas[0]}x{self.plan.canvas[1]} can; {self._remedy}"
            )
        return array

    def _require_origin(self, now: Mapping[str, str]) -> None:
        """Refuses a component that was made from something else than there is now.

        What only a newer minor version notes is ignored.
        """
        for name, then in self.record.origin.items():
            if name in now and now[name] != then:
                raise IdentityError(
                    f"{self.group.path} was made from {name} {then!r:.99}, the store has "
                    f"{now[name]!r:.99} now; {self._remedy} again"
                )

    def _check_presence(self, found: Mapping[str, int]) -> None:
        columns = (self.objects[name].to_pylist() for name in ("shard", "key", "length"))
        for shard, key, length in zip(*columns, strict=True):
            if shard in self.left_out:
                continue
            size = found.get(key, index.ABSENT)
            if size != length:
                what = "is missing" if size < 0 else f"has {size} bytes, its receipt says {length}"
                url = self.location.url
                raise IntegrityError(
                    f"{url}: {key} {what}; see `latent-store verify {url}`, then run its job again"
                )

    def rows_in(self, shard: int) -> np.ndarray:
        """Returns the usable rows of one shard, ascending int64."""
        first = shard * self.plan.samples_per_shard
        start, stop = np.searchsorted(self.rows, (first, first + self.plan.samples_per_shard))
        return self.rows[start:stop]

    def _read(self, name: str, rows: Rows, first: Cut = (), windows: Windows = None) -> np.ndarray:
        """Reads an array, `[n, ...]`.

        Args:
            name: The array.
            rows: Row numbers, in any order.
            first: Positions on the axes before the planes; all where there is nothing else.
            windows: What of the planes, which are the last two axes.

        Raises:
            CapacityError: A window leaves the plane, or they are not one a row and of one size.
        """
        self._require_rows(rows)
        cuts: Cut | list[Cut] = first
        if windows is not None and len(rows):
            plane = self.array(name).shape[-2:]
            each = _windows_of(windows, len(rows))
            cuts = [(*first, *layout.window_or_all(window, *plane)) for window in each]
            cuts = cuts if isinstance(windows, list) else cuts[0]
        with groups.reading(self.location, f"{self.key}/{name}"):
            return self._reader(name).read(rows, cuts)

    def _require_rows(self, rows: Rows) -> None:
        wanted = np.asarray(rows, dtype=np.int64)
        # Looked up, not compared with all: a split has many rows, and is read a few at a time.
        found = np.searchsorted(self.rows, wanted).clip(max=max(len(self.rows) - 1, 0))
        missing = wanted[self.rows[found] != wanted] if len(self.rows) else wanted
        if missing.size:
            raise MissingComponentError(
                f"row {int(missing.min())} of {self.plan.name} is not usable in {self.key} "
                "(void, failed or absent); take rows from .rows or common_rows()"
            )

    def _column(self, name: str, rows: Rows) -> np.ndarray:
        """Reads a few numbers a row, which are kept; with a row come all of its shard."""
        self._require_rows(rows)
        size, last = self.plan.samples_per_shard, self.record.num_rows or 0
        if name not in self._columns:
            array = self.array(name)
            read = np.zeros(layout.num_shards(last, size), dtype=bool)
            self._columns[name] = np.zeros(array.shape, array.dtype), read
        (values, read), numbers = self._columns[name], np.asarray(rows, dtype=np.int64)
        shards = np.unique(numbers // size)
        new = shards[~read[shards]]
        if new.size:
            there = np.concatenate([np.arange(n * size, min((n + 1) * size, last)) for n in new])
            with groups.reading(self.location, f"{self.key}/{name}"):
                values[there] = self._reader(name).read(there)
            read[new] = True
        return values[numbers]

    def _stream(self, name: str, row: int, end: int | None = None) -> bytes:
        """Reads a row's byte string, or its first `end` bytes; only the whole has a checksum."""
        offset = int(self._column(f"{name}_offset", [row])[0])
        length = int(self._column(f"{name}_length", [row])[0])
        stop = length if end is None else min(end, length)
        shard = layout.shard_of(row, self.plan.samples_per_shard)
        with groups.reading(self.location, f"{self.key}/{name}_data"):
            part = range(offset, offset + stop)
            data = self._reader(f"{name}_data").read([shard], (part,)).tobytes()
        if stop == length:
            self._check_crc(data, int(self._column(f"{name}_crc32c", [row])[0]), name, row)
        return data

    def _check_crc(self, data: bytes, expected: int, name: str, row: int) -> None:
        if crc32c(data) != expected:
            raise IntegrityError(
                f"the stream {name} of row {row} in {self.key} does not have its crc32c: the bytes "
                "were altered; see `latent-store verify`, then run its job again"
            )


def _windows_of(windows: Window | list[Window], num_rows: int) -> list[Window]:
    each = windows if isinstance(windows, list) else [windows]
    one_each = not isinstance(windows, list) or len(windows) == num_rows
    fours = all(np.shape(window) == (4,) for window in each)
    if not (one_each and fours and len({tuple(window[2:]) for window in each}) == 1):
        raise CapacityError(
            f"`window=` must be one (top, left, height, width), or a list of {num_rows} of one "
            f"height and width, one a row; got {windows!r:.200}"
        )
    return each


def name_classes(class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the attributes that `ComponentReader.class_names` reads; none where none is known."""
    return {"class_names": list(class_names)} if class_names else {}
