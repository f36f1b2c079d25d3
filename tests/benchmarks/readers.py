"""Other Zarr readers on the same store: they see the same numbers, or are not installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from latent_store.components.features import FeaturesReader
from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import RankedReader
from latent_store.components.reader import ComponentReader
from latent_store.console import progress
from tests.benchmarks.bench import Bench, Line

IMAGES = 16
"""Of each split; readers differ by array, not by row."""

ReadArray = Callable[[Path, str, int], np.ndarray]
"""Folder of a group, name of an array in it, and how many of its first rows to read."""


def read_xarray(group: Path, name: str, count: int) -> np.ndarray:
    """Reads with `xarray.open_zarr`."""
    import xarray as xr

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(group)[name][:count].values


def read_dask(group: Path, name: str, count: int) -> np.ndarray:
    """Reads with `dask.array.from_zarr`."""
    import dask.array

    return dask.array.from_zarr(str(group), component=name)[:count].compute()


def read_tensorstore(group: Path, name: str, count: int) -> np.ndarray:
    """Reads with TensorStore's `zarr3` driver."""
    import tensorstore as ts

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{group / name}/"}}
    return np.asarray(ts.open(spec, open=True, read=True).result()[:count].read().result())


def read_zarrs(group: Path, name: str, count: int) -> np.ndarray:
    """Reads with zarr-python over the codecs of `zarrs`."""
    import zarrs  # noqa: F401, the codec pipeline is found by its name

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr.open_array(group / name, mode="r")[:count]


READERS: dict[str, ReadArray] = {
    "xarray": read_xarray,
    "Dask": read_dask,
    "TensorStore": read_tensorstore,
    "zarrs": read_zarrs,
}


def measure(bench: Bench) -> list[Line]:
    """Compares the first images of every array with what this package reads."""
    lines = []
    for name, read in progress(READERS.items(), desc="other readers", unit="reader"):
        try:
            lines.append(_compare(bench, name, read))
        except ModuleNotFoundError as error:
            reason = f"skipped: {error.name} is not installed"
            lines.append(_line(name, reason, holds=None))
    return lines


def _compare(bench: Bench, name: str, read: ReadArray) -> Line:
    differing = []
    arrays = images = 0
    for split in bench.splits:
        for reader, array, expected in _arrays(bench, split):
            count = min(IMAGES, int(reader.rows[-1]) + 1)
            rows = reader.rows[reader.rows < count]
            folder = _folder(bench, reader)
            found = read(folder, array, count)[rows]
            if isinstance(reader, FeaturesReader) and found.dtype == np.uint8:
                scale = read(folder, "feature_scale", count)[rows]
                found = found.astype(np.float32) * scale[:, :, None, None]
            if isinstance(reader, LatentsReader | RankedReader) and found.dtype.kind == "i":
                found = reader.spec.from_stored(found)  # as who does not know CF's factor must
            arrays += 1
            images += len(rows)
            if not np.array_equal(found, expected(rows)):
                differing.append(f"{split}/{reader.key}/{array}")
    measured = f"{images} images of {arrays} arrays (ŷ, ranked ŷ, labels, features)"
    if differing:
        measured += f"; differ: {', '.join(differing)}"
    return _line(name, measured, holds=not differing)


def _line(name: str, measured: str, *, holds: bool | None) -> Line:
    return Line(
        what=f"{name} reads the store", promised="the same numbers", measured=measured, holds=holds
    )


def _arrays(
    bench: Bench, split_name: str
) -> list[tuple[ComponentReader, str, Callable[[np.ndarray], np.ndarray]]]:
    split = bench.store[split_name]
    teachers = [key for key in split.components() if key.startswith("teacher/")]
    labels, features = split.labels(), split.teacher(teachers[0].removeprefix("teacher/"))
    arrays: list[tuple[ComponentReader, str, Callable[[np.ndarray], np.ndarray]]] = [
        (labels, "segmentation", labels.read),
        (features, "features", features.read),
    ]
    for codec_id in bench.codec_ids:
        latents, ranked = split.latents(codec_id), split.ranked(bench.ranking_id, codec_id)
        arrays += [(latents, "y_hat", latents.read), (ranked, "y_hat", ranked.read)]
    return arrays


def _folder(bench: Bench, reader: ComponentReader) -> Path:
    folder = bench.store.location.local_path
    assert folder is not None, "other readers are compared on a local store"
    return folder / reader.plan.name / reader.key
