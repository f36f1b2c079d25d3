"""A split as xarray and Dask see it: lazy, with named dimensions, usable rows only.

Chunks are shards. Void, failed and absent rows are never read: a chunk holds the usable rows of
exactly one shard, so chunks may be shorter than `samples_per_shard` and of different lengths,
and a shard without a usable row has no chunk. The other axes are whole; slicing them before
computing makes Dask fetch only what was sliced (16 ranked channels: one inner chunk of twelve).

What is read is checked as the readers check it, on a worker too. `import latent_store` does not
load this module, which loads xarray and Dask.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from latent_store.components.reader import ComponentReader, OpenComponent, Variable
from latent_store.components.registry import task_kinds
from latent_store.errors import IntegrityError, MissingComponentError
from latent_store.format import layout
from latent_store.storage import groups
from latent_store.storage.location import Location
from latent_store.store import Split

SAMPLE = "sample"
Key = slice | list[int] | np.ndarray
Variables = dict[str, tuple[tuple[str, ...], Any]]


def to_xarray(
    split: Split,
    codec: str | None = None,
    *,
    ranked: str | None = None,
    teacher: str | None = None,
    task: str | None = None,
    views: bool = False,
) -> xr.Dataset:
    """Returns the chosen components of a split as one lazy Dataset.

    Variables are named as the stored arrays (`y_hat`, `channel_bits`, `segmentation`, ...)
    and keep their dtypes and dimensions; `features` are dequantised to float32. A ranking adds
    `y_hat_ranked` and `cut_bytes`, with the coordinates `ranked_channel` and `cut`. The
    sample axis is labelled with sample ids and has the coordinates `row`, `view` and, in
    pixels, `original_height`, `original_width`, `coded_height` and `coded_width` (plain
    `height` and `width` are axes of the labels).

    Args:
        codec: Codec id; None for the only one.
        ranked: Ranking id; None leaves ranked copies out.
        teacher: Teacher id; None leaves features out.
        task: `segmentation` takes the labels, `detection` the boxes; None takes labels where
            the split has any, else boxes.
        views: Also stored views, e.g. flipped pictures.

    Returns:
        Dask arrays of the rows that every chosen component has. The Dataset can be pickled;
        Dask workers open the store by its URL themselves.

    Raises:
        LatentStoreError: A component is missing, incomplete or damaged, or several codecs leave
            a choice.
    """
    latents = split.latents(codec)
    readers: list[ComponentReader] = [latents]
    readers += _annotations(split, task)
    if teacher is not None:
        readers.append(split.teacher(teacher))
    if ranked is not None:
        readers.append(split.ranked(ranked, latents.spec.codec_id))
    rows = split.common_rows(*readers, views=views)
    variables: Variables = {}
    coords: Variables = {}
    for reader in readers:
        for name, variable in reader.variables().items():
            lazy = _by_shard(UsableRows(reader, variable, rows), reader.plan.samples_per_shard)
            variables[name] = (groups.dims_of(reader.array(variable.array)), lazy)
        coords |= {name: ((dim,), array) for name, (dim, array) in reader.coordinates().items()}
    quality = latents.quality(rows)
    variables |= {name: ((SAMPLE,), values) for name, values in quality.items()}
    attrs = {"store": split.store.url, "split": split.plan.name, "codec": latents.spec.codec_id}
    return xr.Dataset(variables, coords={**coords, **_sample_coords(split, rows)}, attrs=attrs)


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
        self.dtype = np.dtype(stored.dtype if variable.scale is None else np.float32)
        self.ndim = len(self.shape)

    def __getitem__(self, key: tuple[Key | int, ...]) -> np.ndarray:
        # Integers become slices of one first, so that axes keep their places while reading.
        first, *rest = (slice(k, k + 1) if isinstance(k, int | np.integer) else k for k in key)
        rows = self.rows[first]
        values = self._read(self.variable.array, rows, rest)
        if self.variable.scale is not None:
            scale_NF = self._read(self.variable.scale, rows, rest[:1])
            values = values.astype(np.float32) * scale_NF[:, :, None, None]
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


def _annotations(split: Split, task: str | None) -> list[ComponentReader]:
    kinds = task_kinds()
    if task is None:
        there = split.components()
        task = next((name for name, kind in kinds.items() if kind.key_of() in there), None)
    elif task not in kinds:
        raise MissingComponentError(f"there is no task {task!r}; choose one of: {', '.join(kinds)}")
    return [split.component(kinds[task].key_of())] if task else []


def _by_shard(source: UsableRows, samples_per_shard: int) -> da.Array:
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


def _sample_coords(split: Split, rows: np.ndarray) -> Variables:
    by_row = {sample["row"]: sample for sample in split.index.to_pylist()}
    picked = [by_row[row] for row in rows.tolist()]
    return {
        name: ((SAMPLE,), np.array([sample[column] for sample in picked], dtype=dtype))
        for name, column, dtype in (
            (SAMPLE, "sample_id", str),
            ("row", "row", np.int64),
            ("view", "view", str),
            ("original_height", "height", np.int32),
            ("original_width", "width", np.int32),
            ("coded_height", "coded_height", np.int32),
            ("coded_width", "coded_width", np.int32),
        )
    }
