"""The usable rows of one stored array as Dask reads them, chunk by chunk, on whatever worker.

A worker needs this module and no xarray: what travels to it is an address, never an open file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from latent_store.components.opened import OpenComponent
from latent_store.components.reader import ComponentReader, Variable
from latent_store.errors import IntegrityError
from latent_store.format import layout
from latent_store.storage import groups
from latent_store.storage.location import Location

Key = slice | list[int] | np.ndarray


class UsableRows:
    """One stored array without its unusable rows; each axis indexed as Dask does, by position.

    It holds an address, not an open file: a Dask worker that receives it opens the component
    itself, once a process, and checks it and every read of it as a reader does. Position `i` is row
    `rows[i]`; these are ascending.
    """

    def __init__(self, reader: ComponentReader, variable: Variable, rows: np.ndarray):
        written = reader.record.num_shards or 0, reader.content
        self.address = (reader.location, reader.plan.name, reader.key, *written)
        self.variable = variable
        self.rows = rows
        stored = reader.array(variable.array)
        self.shape = (len(rows), *stored.shape[1:])
        # Features are float32, however they are stored.
        scaled = variable.scale is not None or variable.factor is not None
        short = scaled or stored.dtype == np.float16
        self.dtype = np.dtype(np.float32 if short else stored.dtype)
        self.ndim = len(self.shape)

    def __getitem__(self, key: tuple[Key | int, ...]) -> np.ndarray:
        # Integers become slices of one first, so that axes keep their places while reading.
        first, *rest = (slice(k, k + 1) if isinstance(k, int | np.integer) else k for k in key)
        rows = self.rows[first]
        values = self._read(self.variable.array, rows, rest)
        if self.variable.scale is not None:
            scale_NF = self._read(self.variable.scale, rows, rest[:1])
            values = values.astype(np.float32) * scale_NF[:, :, None, None]
        if self.variable.factor is not None:
            values = np.multiply(values, self.variable.factor, dtype=self.dtype)
        values = values.astype(self.dtype, copy=False)
        return values[tuple(0 if isinstance(k, int | np.integer) else slice(None) for k in key)]

    def _read(self, name: str, rows: np.ndarray, rest: Sequence[Key]) -> np.ndarray:
        component = _open(*self.address)
        array = component.array(name)
        # Slices alone are the faster path.
        source: Any = array if all(isinstance(k, slice) for k in rest) else array.oindex
        runs = layout.runs(rows) or [(0, 0)]
        with groups.reading(component.location, array.path):
            return np.concatenate([source[(slice(start, stop), *rest)] for start, stop in runs])


@lru_cache(maxsize=64)
def _open(location: Location, split: str, key: str, shards: int, content: int) -> OpenComponent:
    # Keyed by content as well, so that a long-lived worker sees what was written anew. What was
    # added since the view was made is none of it.
    component = OpenComponent(location, split, key)
    if component.content_until(shards) != content:
        raise IntegrityError(
            f"{split}/{key} of {location.url} was written anew since this view of it was made; "
            "make the view again"
        )
    return component


def by_shard(source: UsableRows, samples_per_shard: int) -> da.Array:
    shards = source.rows // samples_per_shard
    lengths = tuple(int(n) for n in np.unique(shards, return_counts=True)[1]) or (0,)
    location, *address = source.address
    key = (location.url, *address, source.variable, source.rows.tobytes())
    array: da.Array = da.from_array(
        source,
        chunks=(lengths, *((n,) for n in source.shape[1:])),
        name=f"{source.variable.array.rsplit('/', 1)[-1]}-{tokenize(key)}",
        meta=np.empty((0,) * source.ndim, dtype=source.dtype),
    )
    return array
