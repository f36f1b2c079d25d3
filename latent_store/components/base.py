"""Components on disk: their groups and arrays, made once by the job that owns them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
import zarr
from msgspec import Meta
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from latent_store.errors import IdentityError, IntegrityError, MissingComponentError
from latent_store.format import layout, schema
from latent_store.format.plan import ShardPlan
from latent_store.format.schema import ArraySpec, BytesSpec, ComponentSpec
from latent_store.shards import index, receipts
from latent_store.shards.receipts import Receipt
from latent_store.storage import groups, records, seals
from latent_store.storage.location import Location
from latent_store.storage.records import Count, Crc32c, Text

CREATED_BY = "latent-store 0.1"
PENDING = "pending"
"""Attribute of a finished component that a job adds to, beside its seal and with one of its own:
the attributes that it has once the job has finished, and `again`, the shards that are written anew.
Until then readers keep to what is sealed, without those shards."""
AGAIN = "again"


@dataclass(frozen=True, kw_only=True)
class ComponentRecord:
    """The attributes that components have; those of one kind alone are in a subclass beside it.

    Attributes:
        arrays: The crc32c of each array's metadata, by its path below the group.
        tables: The crc32c of each Parquet file of a finished component, by its name.
        complete: Whether every shard of the plan that it covers has a valid receipt.
        num_rows: Length of the sample axis; None before the component's job began.
        num_shards: Length of the shard axis.
        max_failures: Failed rows that its job tolerated.
        encoder_threads: Of torch, which a rerun of its job keeps to; None where it noted none.
        class_names: Of labels or boxes, by class id.
        origin: What its numbers are made from (`ComponentSpec.origin`); this and the next are
            missing in components of format version 1.1 and older.
        pictures_crc32c: Of the pictures that a finished component's usable rows show
            (`ShardPlan.pictures_crc32c`).
        again: Shards of a finished component that are being written anew.
        pending: See `PENDING`.
    """

    arrays: dict[Text, Crc32c] = field(default_factory=dict)
    tables: dict[Text, Crc32c] = field(default_factory=dict)
    complete: bool = False
    num_rows: Count | None = None
    num_shards: Count | None = None
    max_failures: Count = 0
    encoder_threads: Annotated[int, Meta(ge=1, le=2**16)] | None = None
    class_names: tuple[Text, ...] = ()
    origin: dict[Text, Text] = field(default_factory=dict)
    pictures_crc32c: Crc32c | None = None
    again: tuple[Count, ...] = ()
    pending: dict[Text, Any] = field(default_factory=dict)


Recorded = TypeVar("Recorded", bound=ComponentRecord)


def create_store(location: Location) -> None:
    """Makes an empty store, or checks the one that is there."""
    group = groups.make_groups(location, "")
    if group.attrs:
        schema.check_format(groups.attrs_of(group), location.url)
        return
    marks = {
        "encoding-type": schema.FORMAT_NAME,
        "encoding-version": schema.FORMAT_VERSION,
        "created_by": CREATED_BY,
    }
    groups.update_attrs(location, "", marks)


def create_component(location: Location, plan: ShardPlan, spec: ComponentSpec) -> None:
    """Makes a component's group and arrays, or widens their sample axis after an append.

    Nothing is written into the arrays. What is there is kept, and stays readable if it is finished;
    a component of another identity at the same place is refused.

    Raises:
        IdentityError: The component exists with other attributes or another dtype.
        FormatVersionError: What is there is no such component, or of a newer major version.
        IntegrityError: The metadata of one of its arrays was altered.
    """
    base = f"{plan.name}/{spec.key}"
    group = groups.make_groups(location, base)
    _require_same_spec(group, spec)
    lengths = {"num_rows": plan.num_rows, "num_shards": plan.num_shards}
    if is_readable(location, group):
        note(location, base, {**_marks(spec), **lengths})
    for parent in sorted({name.rpartition("/")[0] for name in spec.ranks} - {""}):
        groups.make_groups(location, f"{base}/{parent}")
    for name, crc32c in read_record(location, group).arrays.items():
        if name in spec.ranks and groups.read_metadata(location, f"{base}/{name}"):
            groups.open_array(location, f"{base}/{name}", crc32c, growing=True)
    for array in spec.arrays:
        _require_array(group, array, plan)
    for stream in spec.streams:
        _require_stream(group, stream, plan)
    digests = {
        name: groups.stored_crc32c(location, f"{base}/{name}", growing=True) for name in spec.ranks
    }
    if not is_readable(location, group):
        changes = {**_marks(spec), "arrays": digests, "complete": False, **lengths}
        groups.update_attrs(location, base, changes, without=[PENDING])


def is_readable(location: Location, group: zarr.Group) -> bool:
    """Tells whether a component was finished, and has the attributes that were sealed then."""
    try:
        require_intact(location, group)
    except IntegrityError:
        return False
    return bool(group.attrs.get("complete"))


def pending(group: zarr.Group) -> dict[str, Any]:
    """Returns what a job has begun to add to a finished component; nothing where none has.

    Raises:
        IntegrityError: It is not what the job noted.
    """
    found = groups.attrs_of(group).get(PENDING)
    if found is None:
        return {}
    seals.require_sealed(found, f"{group.path} ({PENDING})", "run its job again")
    again, lengths = found.get(AGAIN), [found.get(name) for name in ("num_rows", "num_shards")]
    if not isinstance(again, list) or not all(type(n) is int for n in [*again, *lengths]):
        raise IntegrityError(f"{group.path}: {PENDING} names no rows and shards; run its job again")
    return {name: value for name, value in found.items() if name != seals.SEAL}


def noted_record(location: Location, group: zarr.Group) -> ComponentRecord:
    """Returns what `noted` does, as `read_record` does."""
    what = f"{location.url}/{group.path}"
    return records.typed(ComponentRecord, noted(group), what, groups.repair_hint(location))


def noted(group: zarr.Group) -> dict[str, Any]:
    """Returns a component's attributes as they are once its job has finished."""
    return {**groups.attrs_of(group), **pending(group)}


def note(location: Location, path: str, changes: Mapping[str, Any]) -> None:
    """Notes attributes of the component at `path`: beside its seal, if it is finished."""
    group = groups.open_group(location, path)
    if group is not None and is_readable(location, group):
        changes = {PENDING: seals.sealed({AGAIN: [], **pending(group), **changes})}
    groups.update_attrs(location, path, changes)


def leave_out(location: Location, path: str, shards: Collection[int]) -> None:
    """Notes that shards are written anew which readers of the component at `path` know."""
    group = groups.open_group(location, path)
    if group is not None and pending(group):
        count = read_record(location, group).num_shards or 0
        known = {shard for shard in shards if shard < count}
        note(location, path, {AGAIN: sorted(known.union(noted_record(location, group).again))})


def forget_component(location: Location, split: str, key: str) -> None:
    """Removes a component, its receipts first; `split` is `dataset/split`."""
    if groups.open_group(location, f"{split}/{key}") is not None:
        groups.update_attrs(location, f"{split}/{key}", {"complete": False}, without=[PENDING])
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


def read_record(location: Location, group: zarr.Group) -> ComponentRecord:
    """Returns the attributes that every component's group has, as `read_record_of` does."""
    return read_record_of(ComponentRecord, location, group)


def read_record_of(kind: type[Recorded], location: Location, group: zarr.Group) -> Recorded:
    """Returns the attributes of the group of a component of one kind.

    Raises:
        IntegrityError: They cannot be a component's.
    """
    what = f"{location.url}/{group.path}"
    return records.typed(kind, groups.attrs_of(group), what, groups.repair_hint(location))


def foreign(record: ComponentRecord, plan: ShardPlan, receipt: Receipt) -> str | None:
    """Returns why a shard is none of a component's: the first thing that it was made from besides.

    Receipts of format version 1.1 and older do not say what their shard was made from.
    """
    for name, ours in (record.origin if receipt.origin else {}).items():
        theirs = receipt.origin.get(name)
        if theirs != ours:
            made = f"made from {name} {theirs!r:.99}, the component {ours!r:.99}"
            return f"it is of another origin: {made}"
    if receipt.pictures_crc32c not in (None, plan.pictures_crc32c(receipt.usable)):
        return "it is of another origin: made from other pictures than the shard plan lists"
    return None


def require_intact(location: Location, group: zarr.Group) -> None:
    """Refuses a finished component whose attributes are not those that `finalize` sealed.

    Raises:
        IntegrityError: With the remedy.
    """
    require_sealed(location, group)
    pending(group)


def require_sealed(location: Location, group: zarr.Group) -> None:
    """Does what `require_intact` does, whatever a job noted beside the seal."""
    what = f"{location.url}/{group.path}"
    seals.require_sealed(groups.attrs_of(group), what, groups.repair_hint(location))


def open_array(
    location: Location,
    group: zarr.Group,
    name: str,
    store: Store | None = None,
    plan: ShardPlan | None = None,
    *,
    grown: bool = False,
) -> zarr.Array:
    """Opens one array of a component for reading, if its metadata is what was written.

    Args:
        location: The store.
        group: The component's group.
        name: The array's path below it.
        store: What to read from; the location's own store if None.
        plan: What the array must be as long as; None: as the component is.
        grown: Whether more may have been added since the group was opened; what it says is shown.

    Raises:
        IntegrityError: The metadata is missing or was altered.
    """
    path, record = f"{group.path}/{name}", read_record(location, group)
    lengths = {"sample": record.num_rows or 0, "shard": record.num_shards or 0}
    if plan is not None:
        lengths = {"sample": plan.num_rows, "shard": plan.num_shards}
    array = groups.open_array(
        *(location, path, record.arrays.get(name)),
        growing=True,
        store=store,
        # While more is added an array is longer than what is finished of it.
        lengths=lengths if plan is None and (grown or pending(group)) else None,
    )
    axis = next(iter(groups.dims_of(array)), "")
    length = lengths.get(axis, lengths["shard"])
    if array.shape[:1] != (length,):
        raise IntegrityError(
            f"{location.url}: {path} has the shape {array.shape}, its component {length} on the "
            f"axis {axis}; {groups.repair_hint(location)}"
        )
    return array


def read_table(location: Location, group: zarr.Group, split: str, name: str) -> pa.Table:
    """Reads one of a finished component's tables, if it is the one that was written with it.

    Raises:
        IntegrityError: It is missing, altered, or older or newer than the component.
    """
    # A table that the attributes do not list has no valid crc32c.
    expected = read_record(location, group).tables.get(name, -1)
    return index.read_table(location, split, name, expected)


def array_defects(
    location: Location, group: zarr.Group, plan: ShardPlan | None = None
) -> dict[str, str]:
    """Returns what is wrong with the metadata of a component's arrays, by their paths below it."""
    found, record = {}, read_record(location, group)
    for name in record.arrays:
        try:
            # One of an unfinished component is longer where a job was killed that adds to it.
            open_array(location, group, name, plan=plan, grown=not record.complete)
        except IntegrityError as error:
            found[name] = str(error)
    return found


def _marks(spec: ComponentSpec) -> dict[str, Any]:
    return {
        "encoding-type": f"{schema.FORMAT_NAME}/{spec.kind}",
        "encoding-version": spec.version,
        **spec.attrs,
        **({"origin": dict(spec.origin)} if spec.origin else {}),
    }


def _require_same_spec(group: zarr.Group, spec: ComponentSpec) -> None:
    existing = groups.attrs_of(group)
    if existing:
        schema.check_format(existing, group.path, kind=spec.kind)
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
    (major, minor), newest = (tuple(map(int, str(text).split("."))) for text in (found, wanted))
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
        attributes=dict(spec.attrs),
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
