"""A split as xarray and Dask see it: lazy, with named dimensions, usable rows only.

Chunks are shards. Void, failed and absent rows are never read: a chunk holds the usable rows of
exactly one shard, so chunks may be shorter than `samples_per_shard` and of different lengths,
and a shard without a usable row has no chunk. The other axes are whole; slicing them before
computing makes Dask fetch only what was sliced (16 ranked channels: one inner chunk of twelve).

It loads xarray and Dask; `import latent_store` does not load it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from numbers import Integral
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr

from latent_store.components.readers import ComponentReader, RankedReader
from latent_store.errors import MissingComponentError
from latent_store.format import layout, schema
from latent_store.shards import index, receipts
from latent_store.storage.location import Location
from latent_store.store import Split

SAMPLE = "sample"
Key = slice | list[int] | np.ndarray
Variables = dict[str, tuple[tuple[str, ...], Any]]


def to_xarray(
    split: Split,
    codec: str | None = None,
    *,
    ranking: str | None = None,
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
        split: The split.
        codec: Codec id; None for the only one.
        ranking: Ranking id; None leaves ranked copies out.
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
    if ranking is not None:
        readers.append(split.ranked(ranking, latents.spec.codec_id))
    rows = split.common_rows(*readers, views=views)
    variables: Variables = {}
    coords: Variables = {"channel": (("channel",), np.arange(latents.channels))}
    for reader in readers:
        variables |= _variables(reader, rows)
        if isinstance(reader, RankedReader):
            coords["ranked_channel"] = (("rank",), np.array(reader.ranking.order))
            coords["cut"] = (("cut",), np.array(reader.cuts))
    quality = latents.quality(rows)
    variables |= {name: ((SAMPLE,), values) for name, values in quality.items()}
    attrs = {"store": split.store.url, "split": split.plan.name, "codec": latents.spec.codec_id}
    return xr.Dataset(variables, coords={**coords, **_sample_coords(split, rows)}, attrs=attrs)


class UsableRows:
    """One stored array without its unusable rows; each axis indexed as Dask does, by position.

    It holds an address, not an open file: a Dask worker that receives it opens the array itself,
    once a process.

    Args:
        location: The store.
        path: The array's path.
        rows: Row numbers, ascending: position `i` is row `rows[i]`.
        scale_path: Path of the float32 factors `[row, feature]` that dequantise the array.
        content: Changes whenever the array was written anew.
    """

    def __init__(
        self, location: Location, path: str, rows: np.ndarray, scale_path: str | None, content: str
    ):
        self.location = location
        self.path = path
        self.rows = rows
        self.scale_path = scale_path
        self.content = content
        stored = self._open(path)
        self.shape = (len(rows), *stored.shape[1:])
        self.dtype = np.dtype(stored.dtype if scale_path is None else np.float32)
        self.ndim = len(self.shape)

    def __getitem__(self, key: tuple[Key | int, ...]) -> np.ndarray:
        # Integers become slices of one first, so that axes keep their places while reading.
        first, *rest = (slice(k, k + 1) if isinstance(k, Integral) else k for k in key)
        rows = self.rows[first]
        values = _read_rows(self._open(self.path), rows, tuple(rest))
        if self.scale_path is not None:
            scale_NF = _read_rows(self._open(self.scale_path), rows, tuple(rest[:1]))
            values = values.astype(np.float32) * scale_NF[:, :, None, None]
        return values[tuple(0 if isinstance(k, Integral) else slice(None) for k in key)]

    def _open(self, path: str) -> zarr.Array:
        return _open_array(self.location, path, self.content)


@lru_cache(maxsize=64)
def _open_array(location: Location, path: str, _content: str) -> zarr.Array:
    # Keyed by content as well, so that a long-lived worker sees what was written anew.
    return zarr.open_array(location.zarr_store(read_only=True), path=path, mode="r")


def _read_rows(array: zarr.Array, rows: np.ndarray, rest: tuple[Key, ...]) -> np.ndarray:
    # Slices alone are the faster path.
    source = array if all(isinstance(k, slice) for k in rest) else array.oindex
    runs = layout.runs(rows) or [(0, 0)]
    return np.concatenate([source[(slice(start, stop), *rest)] for start, stop in runs])


def _annotations(split: Split, task: str | None) -> list[ComponentReader]:
    tasks = schema.TASK_COMPONENTS
    if task is None:
        there = split.components()
        task = next((name for name, key in tasks.items() if key in there), None)
    elif task not in tasks:
        raise MissingComponentError(f"there is no task {task!r}; choose one of: {', '.join(tasks)}")
    return [getattr(split, tasks[task])()] if task else []


def _variables(reader: ComponentReader, rows: np.ndarray) -> Variables:
    """Returns the arrays of a component by name, each with its dimensions."""
    content = _content_of(reader)
    found = dict(_arrays(reader))
    scale = found.pop("feature_scale", None)
    suffix = {"y_hat": "_ranked"} if isinstance(reader, RankedReader) else {}
    variables: Variables = {}
    for name, array in found.items():
        scale_path = scale.path if scale is not None and name == "features" else None
        source = UsableRows(reader.split.store.location, array.path, rows, scale_path, content)
        lazy = _by_shard(source, reader.split.plan.samples_per_shard)
        variables[name + suffix.get(name, "")] = (tuple(array.metadata.dimension_names), lazy)
    return variables


def _arrays(reader: ComponentReader) -> Iterator[tuple[str, zarr.Array]]:
    yield from sorted(reader.group.arrays())
    if isinstance(reader, RankedReader):
        yield "cut_bytes", reader.array("bitstream/cut_bytes")


def _content_of(reader: ComponentReader) -> str:
    """Names what a component holds now: its table of objects lists every checksum."""
    name = f"{index.part_name(reader.key)}.objects"
    location = reader.split.store.location
    table = location.read(index.index_key(reader.split.plan.name, name))
    return f"{receipts.crc32c(table):08x}"


def _by_shard(source: UsableRows, samples_per_shard: int) -> da.Array:
    shards = source.rows // samples_per_shard
    lengths = tuple(int(n) for n in np.unique(shards, return_counts=True)[1]) or (0,)
    key = (source.location.url, source.path, source.content, source.rows.tobytes())
    return da.from_array(
        source,
        chunks=(lengths, *((n,) for n in source.shape[1:])),
        name=f"{source.path.rsplit('/', 1)[-1]}-{da.core.tokenize(key)}",
        meta=np.empty((0,) * source.ndim, dtype=source.dtype),
    )


def _sample_coords(split: Split, rows: np.ndarray) -> Mapping[str, tuple[tuple[str, ...], Any]]:
    by_row = {sample["row"]: sample for sample in split.index.to_pylist()}
    picked = [by_row[row] for row in rows.tolist()]

    def column(name: str, dtype: type) -> tuple[tuple[str, ...], np.ndarray]:
        return (SAMPLE,), np.array([sample[name] for sample in picked], dtype=dtype)

    return {
        SAMPLE: column("sample_id", str),
        "row": column("row", np.int64),
        "view": column("view", str),
        "original_height": column("height", np.int32),
        "original_width": column("width", np.int32),
        "coded_height": column("coded_height", np.int32),
        "coded_width": column("coded_width", np.int32),
    }
