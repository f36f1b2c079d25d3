"""Components on disk: their groups and arrays, made once by the job that owns them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from latent_store.errors import IdentityError, IntegrityError, MissingComponentError
from latent_store.format import layout, schema
from latent_store.format.plan import ShardPlan
from latent_store.format.schema import ArraySpec, BytesSpec, ComponentSpec
from latent_store.shards import index, receipts
from latent_store.storage import groups, seals
from latent_store.storage.location import Location

CREATED_BY = "latent-store 0.1"
ARRAYS = "arrays"
"""Attribute of a component: the crc32c of each array's metadata, by its path below the group."""
TABLES = "tables"
"""Attribute of a finished component: the crc32c of its Parquet files, by name."""


def create_store(location: Location) -> None:
    """Makes an empty store, or checks the one that is there."""
    group = groups.make_groups(location, "")
    if group.attrs:
        schema.check_format(groups.attrs_of(group), location.url)
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
    for parent in sorted({name.rpartition("/")[0] for name in spec.ranks} - {""}):
        groups.make_groups(location, f"{base}/{parent}")
    for name, crc32c in groups.attrs_of(group).get(ARRAYS, {}).items():
        if name in spec.ranks and groups.read_metadata(location, f"{base}/{name}"):
            groups.open_array(location, f"{base}/{name}", crc32c, growing=True)
    for array in spec.arrays:
        _require_array(group, array, plan)
    for stream in spec.streams:
        _require_stream(group, stream, plan)
    digests = {
        name: groups.stored_crc32c(location, f"{base}/{name}", growing=True) for name in spec.ranks
    }
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
    schema.check_format(groups.attrs_of(group), where, kind=key.split("/")[0])
    return group


def require_intact(location: Location, group: zarr.Group) -> None:
    """Refuses a finished component whose attributes are not those that `finalize` sealed.

    Raises:
        IntegrityError: With the remedy.
    """
    what = f"{location.url}/{group.path}"
    seals.require_sealed(groups.attrs_of(group), what, groups.repair_hint(location))


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
    path, attrs = f"{group.path}/{name}", groups.attrs_of(group)
    array = groups.open_array(location, path, attrs[ARRAYS].get(name), growing=True, store=store)
    axis = groups.dims_of(array)[0]
    length = attrs["num_rows" if axis == "sample" else "num_shards"]
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
    expected = groups.attrs_of(group)[TABLES].get(name, -1)
    return index.read_table(location, index.index_key(split, name), expected)


def array_defects(location: Location, group: zarr.Group) -> dict[str, str]:
    """Returns what is wrong with the metadata of a component's arrays, by their paths below it."""
    found = {}
    for name in groups.attrs_of(group).get(ARRAYS, {}):
        try:
            open_array(location, group, name)
        except IntegrityError as error:
            found[name] = str(error)
    return found


def _marks(spec: ComponentSpec) -> dict[str, Any]:
    return {
        "encoding-type": f"{schema.FORMAT_NAME}/{spec.kind}",
        "encoding-version": schema.FORMAT_VERSION,
        **spec.attrs,
    }


def _require_same_spec(group: zarr.Group, spec: ComponentSpec) -> None:
    existing = groups.attrs_of(group)
    for name, value in _marks(spec).items():
        if name in existing and not _agrees(name, existing[name], value):
            raise IdentityError(
                f"{group.path} was written with {name} = {existing[name]!r}, this job would write "
                f"{value!r}; use the same inputs, or another store"
            )


def _agrees(name: str, found: Any, wanted: Any) -> bool:
    if name != "encoding-version":
        return bool(found == wanted)
    # Minor versions only add: what an older one began, this one may go on with.
    (major, minor), newest = (tuple(map(int, text.split("."))) for text in (found, wanted))
    return major == newest[0] and minor <= newest[1]


def _require_array(group: zarr.Group, spec: ArraySpec, plan: ShardPlan) -> None:
    chunks, shards = layout.chunk_shapes(spec, plan.samples_per_shard)
    _require(
        group,
        spec.name,
        shape=(plan.num_rows, *spec.shape),
        dtype=spec.dtype,
        chunks=chunks,
        shards=shards,
        compressors=_compressors(spec),
        dimension_names=("sample", *spec.dims),
    )


def _require_stream(group: zarr.Group, stream: BytesSpec, plan: ShardPlan) -> None:
    capacity = layout.stream_row_bytes(stream, plan.samples_per_shard)
    _require(
        group,
        stream.data,
        shape=(plan.num_shards, capacity),
        dtype="uint8",
        chunks=(1, layout.STREAM_CHUNK),
        shards=(1, capacity),
        # Entropy-coded bytes do not compress again, but the rest of their last chunk does.
        compressors=(ZstdCodec(level=1), Crc32cCodec()),
        dimension_names=("shard", f"{stream.name.rpartition('/')[2]}_byte"),
    )
    for column in stream.columns:
        _require_array(group, column, plan)


def _require(
    group: zarr.Group, name: str, *, shape: tuple[int, ...], dtype: str, **how: Any
) -> None:
    """Makes an array, or makes its first axis longer if it is there."""
    if name not in group:
        group.create_array(name, shape=shape, dtype=dtype, fill_value=0, **how)
        return
    array = groups.array_of(group, name)
    if array.dtype != np.dtype(dtype) or array.shape[1:] != shape[1:]:
        raise IdentityError(
            f"{array.path} is {array.dtype}{array.shape[1:]} a row, this job would write "
            f"{dtype}{shape[1:]}; use the same inputs, or another store"
        )
    if shape[0] > array.shape[0]:
        array.resize(shape)


def _compressors(spec: ArraySpec) -> tuple[Any, ...]:
    if np.dtype(spec.dtype) in (np.int16, np.float16):
        # int16 latents are mostly zero bytes, and rounded mantissas end in zeros: shuffling bits
        # beats a higher level.
        return (BloscCodec(cname="zstd", clevel=9, shuffle="bitshuffle"), Crc32cCodec())
    return (ZstdCodec(level=spec.level), Crc32cCodec())
