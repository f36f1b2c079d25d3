"""Components on disk: their groups and arrays, made once by the job that owns them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.errors import ZarrUserWarning

from latent_store import groups, layout, schema
from latent_store.errors import IdentityError, MissingComponentError
from latent_store.location import Location
from latent_store.plan import ShardPlan
from latent_store.schema import ArraySpec, ComponentSpec

CREATED_BY = "latent-store 0.1"
STREAM_COLUMNS = {"offset": "int64", "length": "int64", "crc32c": "uint32"}


@dataclass(frozen=True, kw_only=True)
class StoredArray:
    """One array as it lies in the store: where, and how its rows are cut."""

    path: str
    dtype: str
    rank: int

    def object_key(self, shard: int) -> str:
        """Returns the key of the object that holds one shard of samples."""
        return layout.object_key(self.path, shard, self.rank)


def create_store(location: Location) -> None:
    """Makes an empty store, or checks the one that is there."""
    store = location.zarr_store(read_only=False)
    group = zarr.open_group(store, mode="a", zarr_format=3, use_consolidated=False)
    if group.attrs:
        schema.check_format(dict(group.attrs), location.url)
        return
    group.attrs.put(
        {
            "encoding-type": schema.FORMAT_NAME,
            "encoding-version": schema.FORMAT_VERSION,
            "created_by": CREATED_BY,
        }
    )


def create_component(location: Location, plan: ShardPlan, spec: ComponentSpec) -> None:
    """Makes a component's group and arrays, or widens their sample axis after an append.

    Nothing is written into the arrays. What is there is kept; a component of another identity at
    the same place is refused.

    Raises:
        IdentityError: The component exists with other attributes or another dtype.
    """
    group = groups.make_groups(location, f"{plan.name}/{spec.key}")
    _require_same_spec(group, spec)
    for array in spec.arrays:
        _require_array(group, array, plan)
    for stream in spec.streams:
        _require_stream(group, stream, plan)
    group.attrs.update({**_marks(spec), "complete": False, "num_rows": plan.num_rows})


def open_component(
    location: Location, split: str, key: str, *, writable: bool = False
) -> zarr.Group:
    """Opens a component's group.

    Raises:
        MissingComponentError: There is none.
    """
    group = groups.open_group(location, f"{split}/{key}", writable=writable)
    if group is None:
        message = f"{location.url} has no {key} for {split}"
        raise MissingComponentError(message)
    return group


def stored_arrays(split: str, spec: ComponentSpec) -> Iterator[StoredArray]:
    """Yields every array of a component, the four of each bitstream included."""
    base = f"{split}/{spec.key}"
    for array in spec.arrays:
        yield StoredArray(path=f"{base}/{array.name}", dtype=array.dtype, rank=1 + len(array.shape))
    for stream in spec.streams:
        yield StoredArray(path=f"{base}/{stream.name}_data", dtype="uint8", rank=2)
        for column, dtype in STREAM_COLUMNS.items():
            yield StoredArray(path=f"{base}/{stream.name}_{column}", dtype=dtype, rank=1)


def consolidate(location: Location, path: str) -> None:
    """Writes consolidated metadata for the group at ``path`` (empty: the root).

    Zarr readers then open it with one request and see it as it was when the job finished.
    """
    with warnings.catch_warnings():
        # Version 3 of the Zarr specification has no consolidated metadata yet; every reader that
        # does not know it reads the groups one by one, so writing it harms nobody.
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        # The store's own objects below .latent_store are no Zarr nodes, by design.
        warnings.filterwarnings("ignore", "Object at .latent_store", ZarrUserWarning)
        zarr.consolidate_metadata(location.zarr_store(read_only=False), path=path or None)


def _marks(spec: ComponentSpec) -> dict[str, Any]:
    return {
        "encoding-type": f"{schema.FORMAT_NAME}/{spec.kind}",
        "encoding-version": schema.FORMAT_VERSION,
        **spec.attrs,
    }


def _require_same_spec(group: zarr.Group, spec: ComponentSpec) -> None:
    existing = dict(group.attrs)
    for name, value in _marks(spec).items():
        if name in existing and existing[name] != value:
            message = (
                f"{group.path} was written with {name} = {existing[name]!r}, this job would write "
                f"{value!r}; use the same inputs, or another store"
            )
            raise IdentityError(message)


def _require_array(group: zarr.Group, spec: ArraySpec, plan: ShardPlan) -> None:
    shape = (plan.num_rows, *spec.shape)
    if spec.name in group:
        _widen(group[spec.name], spec.dtype, shape)
        return
    chunks, shards = layout.chunk_shapes(spec, plan.samples_per_shard)
    _parent(group, spec.name).create_array(
        spec.name.rsplit("/", 1)[-1],
        shape=shape,
        dtype=spec.dtype,
        chunks=chunks,
        shards=shards,
        compressors=_compressors(spec),
        fill_value=0,
        dimension_names=("sample", *spec.dims),
    )


def _require_stream(group: zarr.Group, stream: schema.BytesSpec, plan: ShardPlan) -> None:
    capacity = layout.stream_row_bytes(stream, plan.samples_per_shard)
    shape = (plan.num_shards, capacity)
    data = f"{stream.name}_data"
    if data in group:
        _widen(group[data], "uint8", shape)
    else:
        _parent(group, data).create_array(
            data.rsplit("/", 1)[-1],
            shape=shape,
            dtype="uint8",
            chunks=(1, layout.STREAM_CHUNK),
            shards=(1, capacity),
            # Entropy-coded bytes do not compress again, but the rest of their last chunk does.
            compressors=(ZstdCodec(level=1), Crc32cCodec()),
            fill_value=0,
            dimension_names=("shard", f"{stream.name.rsplit('/', 1)[-1]}_byte"),
        )
    for column, dtype in STREAM_COLUMNS.items():
        _require_array(group, ArraySpec(name=f"{stream.name}_{column}", dtype=dtype), plan)


def _compressors(spec: ArraySpec) -> tuple[Any, ...]:
    if np.dtype(spec.dtype) in (np.int16, np.float16):
        # int16 latents are mostly zero bytes, and rounded mantissas end in zeros: shuffling bits
        # beats a higher level.
        return (BloscCodec(cname="zstd", clevel=9, shuffle="bitshuffle"), Crc32cCodec())
    return (ZstdCodec(level=spec.level), Crc32cCodec())


def _parent(group: zarr.Group, name: str) -> zarr.Group:
    return group.require_group(name.rsplit("/", 1)[0]) if "/" in name else group


def _widen(array: zarr.Array, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype != np.dtype(dtype) or array.shape[1:] != shape[1:]:
        message = (
            f"{array.path} is {array.dtype}{array.shape[1:]} a row, this job would write "
            f"{dtype}{shape[1:]}; use the same inputs, or another store"
        )
        raise IdentityError(message)
    if shape[0] > array.shape[0]:
        array.resize(shape)
