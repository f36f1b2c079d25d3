"""A split as xarray and Dask see it: lazy, with named dimensions, usable rows only.

Chunks are shards. Void, failed and absent rows are never read: a chunk holds the usable rows of
exactly one shard, so chunks may be shorter than `samples_per_shard` and of different lengths,
and a shard without a usable row has no chunk. The other axes are whole; slicing them before
computing makes Dask fetch only what was sliced (16 ranked channels: one inner chunk of twelve).

What is read is checked as the readers check it, on a worker too. `import latent_store` does not
load this module, which loads xarray and Dask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from latent_store.components.reader import ComponentReader
from latent_store.components.registry import task_kinds
from latent_store.errors import MissingComponentError
from latent_store.storage import groups
from latent_store.store import Split
from latent_store.views.usable_rows import UsableRows, by_shard

SAMPLE = "sample"
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
            lazy = by_shard(UsableRows(reader, variable, rows), reader.plan.samples_per_shard)
            variables[name] = (groups.dims_of(reader.array(variable.array)), lazy)
        coords |= {name: ((dim,), array) for name, (dim, array) in reader.coordinates().items()}
    quality = latents.quality(rows)
    variables |= {name: ((SAMPLE,), values) for name, values in quality.items()}
    attrs = {"store": split.store.url, "split": split.plan.name, "codec": latents.spec.codec_id}
    return xr.Dataset(variables, coords={**coords, **_sample_coords(split, rows)}, attrs=attrs)


def _annotations(split: Split, task: str | None) -> list[ComponentReader]:
    kinds = task_kinds()
    if task is None:
        there = split.components()
        task = next((name for name, kind in kinds.items() if kind.key_of() in there), None)
    elif task not in kinds:
        raise MissingComponentError(f"there is no task {task!r}; choose one of: {', '.join(kinds)}")
    return [split.component(kinds[task].key_of())] if task else []


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
