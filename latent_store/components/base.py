"""Components on disk: what their groups say of them, and what is noted there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa
import zarr
from zarr.abc.store import Store

from latent_store.errors import IntegrityError, MissingComponentError
from latent_store.format import schema
from latent_store.format.plan import ShardPlan
from latent_store.shards import index
from latent_store.shards.receipts import Receipt
from latent_store.storage import groups, records, seals
from latent_store.storage.consolidated import PENDING as PENDING
from latent_store.storage.location import Location
from latent_store.storage.records import Count, Crc32c, Text

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
    class_names: tuple[Text, ...] = ()
    origin: dict[Text, Text] = field(default_factory=dict)
    pictures_crc32c: Crc32c | None = None
    again: tuple[Count, ...] = ()
    pending: dict[Text, Any] = field(default_factory=dict)


Recorded = TypeVar("Recorded", bound=ComponentRecord)


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


def open_component(location: Location, split: str, key: str) -> zarr.Group:
    """Opens a component's group.

    Raises:
        MissingComponentError: There is none.
        FormatVersionError: It is of a newer major version.
        IntegrityError: Its metadata is unreadable.
    """
    return opened_component(location, split, key, groups.read_metadata(location, f"{split}/{key}"))


def opened_component(
    location: Location, split: str, key: str, record: dict[str, Any] | None
) -> zarr.Group:
    """Does what `open_component` does, with the group's metadata as it was read."""
    if record is None or record["node_type"] != "group":
        raise MissingComponentError(f"{location.url} has no {key} for {split}")
    group = groups.group_of(location, f"{split}/{key}", record.get("attributes", {}))
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
    pictured: Any = None,
) -> zarr.Array:
    """Opens one array of a component for reading, if its metadata is what was written.

    Args:
        location: The store.
        group: The component's group.
        name: The array's path below it.
        store: What to read from; the location's own store if None.
        plan: What the array must be as long as; None: as the component is.
        grown: Whether more may have been added since the group was opened; what it says is shown.
        pictured: What the group's consolidated metadata shows of the array, which is taken where it
            has the digest that the group has.

    Raises:
        IntegrityError: The metadata is missing or was altered.
    """
    metadata = _as_recorded(read_record(location, group), name, pictured)
    if metadata is None:
        metadata = groups.read_metadata(location, f"{group.path}/{name}")
    return _array_of(location, group, name, metadata, store, plan, grown=grown)


def _as_recorded(record: ComponentRecord, name: str, pictured: Any) -> dict[str, Any] | None:
    """Returns what a group's consolidated metadata shows of an array, if it is as recorded."""
    if not isinstance(pictured, dict) or not isinstance(pictured.get("shape"), list):
        return None
    as_long = pictured["shape"][:1] in ([record.num_rows], [record.num_shards])
    same = groups.metadata_crc32c(pictured, growing=True) == record.arrays.get(name)
    return pictured if as_long and same else None


def _array_of(
    location: Location,
    group: zarr.Group,
    name: str,
    metadata: dict[str, Any] | None,
    store: Store | None = None,
    plan: ShardPlan | None = None,
    *,
    grown: bool = False,
) -> zarr.Array:
    """Does what `open_array` does, with an array's metadata as it was read."""
    path, record = f"{group.path}/{name}", read_record(location, group)
    lengths = {"sample": record.num_rows or 0, "shard": record.num_shards or 0}
    if plan is not None:
        lengths = {"sample": plan.num_rows, "shard": plan.num_shards}
    array = groups.array_of(
        *(location, path, metadata, record.arrays.get(name)),
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


def read_table(
    location: Location, group: zarr.Group, split: str, name: str, fetched: bytes | None = None
) -> pa.Table:
    """Reads one of a finished component's tables, if it is the one that was written with it.

    Args:
        location: The store.
        group: The component's group.
        split: `dataset/split`.
        name: The table's.
        fetched: Its bytes, where they were read already; others are read if these are not right.

    Raises:
        IntegrityError: It is missing, altered, or older or newer than the component.
    """
    # A table that the attributes do not list has no valid crc32c.
    expected = read_record(location, group).tables.get(name, -1)
    return index.read_table(location, split, name, expected, fetched)


def array_defects(
    location: Location, group: zarr.Group, plan: ShardPlan | None = None
) -> dict[str, str]:
    """Returns what is wrong with the metadata of a component's arrays, by their paths below it."""
    found, record = {}, read_record(location, group)
    paths = {name: f"{group.path}/{name}" for name in record.arrays}
    keys = {name: groups.metadata_key(path) for name, path in paths.items()}
    datas: Mapping[str, bytes | None] = {}
    if location.local_path is None:
        datas = location.read_all(keys.values(), groups.LARGEST_METADATA)
    for name, path in paths.items():
        try:
            data = datas.get(keys[name])
            metadata = (
                groups.parse_metadata(location, path, data)
                if data is not None
                else groups.read_metadata(location, path)
            )
            # One of an unfinished component is longer where a job was killed that adds to it.
            grown = not record.complete
            _array_of(location, group, name, metadata, plan=plan, grown=grown)
        except IntegrityError as error:
            found[name] = str(error)
    return found
