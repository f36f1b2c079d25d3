"""Components on disk: their groups and arrays, made once by the job that owns them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from latent_store.errors import IdentityError, IntegrityError, MissingComponentError
from latent_store.format import layout, schema
from latent_store.format.plan import ShardPlan
from latent_store.format.schema import ArraySpec, ComponentSpec
from latent_store.shards import index, receipts
from latent_store.storage import groups, seals
from latent_store.storage.location import Location

CREATED_BY = "latent-store 0.1"
ARRAYS = "arrays"
"""Attribute of a component: the crc32c of each array's metadata, by its path below the group."""
TABLES = "tables"
"""Attribute of a finished component: the crc32c of its Parquet files, by name."""
STREAM_COLUMNS = {"offset": "int64", "length": "int64", "crc32c": "uint32"}


@dataclass(frozen=True, kw_only=True)
class StoredArray:
    """One array as it lies in the store: where, and how its rows are cut."""

    name: str
    path: str
    dtype: str
    rank: int

    def object_key(self, shard: int) -> str:
        """Returns the key of the object that holds one shard of samples."""
        return layout.object_key(self.path, shard, self.rank)


def create_store(location: Location) -> None:
    """Makes an empty store, or checks the one that is there."""
    group = groups.open_group(location, writable=True)
    if group is None:
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
        IntegrityError: The metadata of one of its arrays was altered.
    """
    base = f"{plan.name}/{spec.key}"
    group = groups.make_groups(location, base)
    _require_same_spec(group, spec)
    names = [array.name for array in stored_arrays(plan.name, spec)]
    for parent in sorted({name.rpartition("/")[0] for name in names} - {""}):
        groups.make_groups(location, f"{base}/{parent}")
    known = group.attrs.get(ARRAYS, {})
    there = [n for n in names if n in known and groups.read_metadata(location, f"{base}/{n}")]
    for name in there:
        groups.open_array(location, f"{base}/{name}", known[name], growing=True)
    for array in spec.arrays:
        _require_array(group, array, plan)
    for stream in spec.streams:
        _require_stream(group, stream, plan)
    digests = {name: _metadata_crc32c(location, f"{base}/{name}") for name in names}
    lengths = {"num_rows": plan.num_rows, "num_shards": plan.num_shards}
    group.attrs.update({**_marks(spec), ARRAYS: digests, "complete": False, **lengths})


def forget_component(location: Location, split: str, key: str) -> None:
    """Removes a component, its receipts first; `split` is `dataset/split`."""
    location.delete_tree(receipts.receipt_prefix(split, key))
    location.delete_tree(f"{split}/{key}")


def open_component(
    location: Location, split: str, key: str, *, writable: bool = False
) -> zarr.Group:
    """Opens a component's group.

    Raises:
        MissingComponentError: There is none.
        FormatVersionError: It is of a newer major version.
        IntegrityError: Its metadata is unreadable.
    """
    group = groups.open_group(location, f"{split}/{key}", writable=writable)
    if group is None:
        raise MissingComponentError(f"{location.url} has no {key} for {split}")
    where = f"{split}/{key} in {location.url}"
    schema.check_format(dict(group.attrs), where, kind=key.split("/")[0])
    return group


def require_intact(location: Location, group: zarr.Group) -> None:
    """Refuses a finished component whose attributes are not those that `finalize` sealed.

    Raises:
        IntegrityError: With the remedy.
    """
    seals.require_sealed(group.attrs, f"{location.url}/{group.path}", groups.repair_hint(location))


def open_array(
    location: Location, group: zarr.Group, name: str, store: Store | None = None
) -> zarr.Array:
    """Opens one array of a component for reading, if its metadata is what was written.

    Args:
        location: The store.
        group: The component's group.
        name: The array's path below it.
        store: What to read from; the location's own store if None.

    Raises:
        IntegrityError: The metadata is missing or was altered.
    """
    path = f"{group.path}/{name}"
    expected = group.attrs[ARRAYS].get(name)
    array = groups.open_array(location, path, expected, growing=True, store=store)
    axis = array.metadata.dimension_names[0]
    length = group.attrs["num_rows" if axis == "sample" else "num_shards"]
    if array.shape[0] != length:
        raise IntegrityError(
            f"{location.url}: {path} has {array.shape[0]} on its axis {axis}, its component "
            f"{length}; {groups.repair_hint(location)}"
        )
    return array


def read_table(location: Location, group: zarr.Group, split: str, name: str) -> pa.Table:
    """Reads one of a finished component's tables, if it is the one that was written with it.

    Raises:
        IntegrityError: It is missing, altered, or older or newer than the component.
    """
    # A table that the attributes do not list has no valid crc32c.
    expected = group.attrs[TABLES].get(name, -1)
    return index.read_table(location, index.index_key(split, name), expected)


def array_defects(location: Location, group: zarr.Group) -> dict[str, str]:
    """Returns what is wrong with the metadata of a component's arrays, by their paths below it."""
    found = {}
    for name in group.attrs.get(ARRAYS, {}):
        try:
            open_array(location, group, name)
        except IntegrityError as error:
            found[name] = str(error)
    return found


def stored_arrays(split: str, spec: ComponentSpec) -> Iterator[StoredArray]:
    """Yields every array of a component, the four of each bitstream included."""
    base = f"{split}/{spec.key}"

    def stored(name: str, dtype: str, rank: int) -> StoredArray:
        return StoredArray(name=name, path=f"{base}/{name}", dtype=dtype, rank=rank)

    for array in spec.arrays:
        yield stored(array.name, array.dtype, 1 + len(array.shape))
    for stream in spec.streams:
        yield stored(f"{stream.name}_data", "uint8", 2)
        for column, dtype in STREAM_COLUMNS.items():
            yield stored(f"{stream.name}_{column}", dtype, 1)


def _metadata_crc32c(location: Location, path: str) -> int:
    return groups.metadata_crc32c(groups.read_metadata(location, path) or {}, growing=True)


def _marks(spec: ComponentSpec) -> dict[str, Any]:
    return {
        "encoding-type": f"{schema.FORMAT_NAME}/{spec.kind}",
        "encoding-version": schema.FORMAT_VERSION,
        **spec.attrs,
    }


def _require_same_spec(group: zarr.Group, spec: ComponentSpec) -> None:
    existing = dict(group.attrs)
    for name, value in _marks(spec).items():
        if name in existing and not _agrees(name, existing[name], value):
            raise IdentityError(
                f"{group.path} was written with {name} = {existing[name]!r}, this job would write "
                f"{value!r}; use the same inputs, or another store"
            )


def _agrees(name: str, found: Any, wanted: Any) -> bool:
    if name != "encoding-version":
        return found == wanted
    # Minor versions only add: what an older one began, this one may go on with.
    (major, minor), newest = (tuple(map(int, text.split("."))) for text in (found, wanted))
    return major == newest[0] and minor <= newest[1]


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
        raise IdentityError(
            f"{array.path} is {array.dtype}{array.shape[1:]} a row, this job would write "
            f"{dtype}{shape[1:]}; use the same inputs, or another store"
        )
    if shape[0] > array.shape[0]:
        array.resize(shape)
