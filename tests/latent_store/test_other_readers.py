"""Other Zarr readers see the same numbers: xarray, Dask, TensorStore, zarrs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr

import latent_store
from tests.conftest import RANKING, TinyStore
from tests.latent_store.made_latents import SPLIT, write_latents

Reader = Callable[[Path, str], np.ndarray]
"""URL of a store and path of an array -> all of the array."""


def read_group_with_xarray(url: Path, path: str) -> np.ndarray:
    group, _, name = path.rpartition("/")
    # A component's group has the consolidated metadata of all that lies in it.
    inside = "bitstream" if group.endswith("/bitstream") else None
    with xr.open_zarr(url / group.removesuffix("/bitstream"), group=inside) as dataset:
        return dataset[name].values


def read_tree_with_xarray(url: Path, path: str) -> np.ndarray:
    with xr.open_datatree(url, engine="zarr") as tree:
        return tree[path].values


def read_with_dask(url: Path, path: str) -> np.ndarray:
    return da.from_zarr(str(url), component=path).compute()


def read_with_tensorstore(url: Path, path: str) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(url / path)}}
    return tensorstore.open(spec, read=True).result().read().result()


def read_with_zarrs(url: Path, path: str) -> np.ndarray:
    # Within the block only: everybody else keeps zarr's own pipeline. A codec that zarrs does not
    # know would be a warning, which is an error here.
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr.open_array(url / path, mode="r")[...]


READERS: list[Reader] = [
    read_group_with_xarray,
    read_tree_with_xarray,
    read_with_dask,
    read_with_tensorstore,
    read_with_zarrs,
]


@pytest.mark.parametrize("read", READERS)
def test_every_reader_sees_the_same_numbers(read: Reader, tiny_store: TinyStore) -> None:
    split = latent_store.open(tiny_store.url)["cityscapes/train"]
    latents, ranked, labels = split.latents(), split.ranked(RANKING), split.labels()
    teacher, rows = split.teacher(), split.latents().rows

    def seen(reader: object, name: str) -> np.ndarray:
        return read(tiny_store.url, f"cityscapes/train/{reader.key}/{name}")[rows]

    for reader in (latents, ranked):
        found = seen(reader, "y_hat")
        if found.dtype.kind == "i":  # who knows Zarr alone sees whole steps
            found = found / latents.spec.y_hat_steps
        np.testing.assert_array_equal(found, reader.read(rows))
    np.testing.assert_array_equal(seen(labels, "segmentation"), labels.read(rows))
    np.testing.assert_array_equal(seen(teacher, "features"), teacher.read(rows))
    bits = latents.column("channel_bits", rows)
    np.testing.assert_array_equal(seen(latents, "channel_bits"), bits)
    data = seen_streams(read, tiny_store.url, latents.key)
    assert data == [latents.y_string(row) for row in rows]


def seen_streams(read: Reader, url: Path, key: str) -> list[bytes]:
    """The y strings as FORMAT.md says that they lie: two rows of samples in a row of bytes."""
    base = f"cityscapes/train/{key}/bitstream"
    offset, length = (read(url, f"{base}/y_{name}") for name in ("offset", "length"))
    data = read(url, f"{base}/y_data")
    return [
        data[row // 2, start : start + count].tobytes()
        for row, (start, count) in enumerate(zip(offset, length, strict=True))
    ]


@pytest.mark.parametrize("read", READERS)
def test_wide_latents_are_read_by_all_too(read: Reader, tmp_path: Path) -> None:
    url = tmp_path / "wide.zarr"
    y_hat = np.random.default_rng(0).integers(-3000, 3000, (3, 32, 4, 8)).astype(np.int16)
    write_latents(
        url,
        lambda row: y_hat[row],
        channels=32,
        counts=(3,),
        samples_per_shard=2,
        size=(60, 100),
        dtype="int16",
    )
    latents = latent_store.open(url)[SPLIT].latents()
    assert latents.array("y_hat").dtype == np.int16
    np.testing.assert_array_equal(read(url, f"{SPLIT}/{latents.key}/y_hat")[:3], y_hat)
    np.testing.assert_array_equal(latents.read([0, 1, 2]), y_hat)
