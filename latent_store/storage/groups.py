"""Opens Zarr groups and arrays as they are now, from metadata that was checked.

A group's consolidated metadata is a picture of its children taken when a job finished; Zarr
would serve later children from it, that is, not at all. So every group is opened by its full
path, and never reached through its parent. Zarr parses no metadata here that was not read and
checked first: an altered shape would give wrong numbers, or exhaust the memory.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import zarr
from msgspec import Meta
from zarr.abc.store import Store
from zarr.storage import StorePath

from latent_store.errors import IntegrityError, LatentStoreError
from latent_store.storage import records
from latent_store.storage.keys import METADATA
from latent_store.storage.location import Location
from latent_store.storage.records import Count
from latent_store.storage.seals import json_crc32c

LARGEST_METADATA = 2**27
"""In bytes; consolidated metadata of a large store is the longest."""
MOST_AXES = 16
_QUOTED = 200
"""Characters of an error of Zarr's, which may quote what it read."""
_FOREIGN = (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, MemoryError)
"""Errors that Zarr and its codecs raise for stored bytes that they cannot use."""


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A Zarr group or array, of which Zarr itself reads the rest."""

    node_type: Literal["group", "array"]
    attributes: dict[str, Any] = field(default_factory=dict)
    shape: Annotated[tuple[Count, ...], Meta(max_length=MOST_AXES)] = ()


@dataclass(frozen=True, kw_only=True)
class _Named:
    """A part of an array's metadata, and the settings of it that change what is read."""

    name: Literal["regular", "default", "bytes", "zstd", "blosc", "crc32c", "sharding_indexed"]
    configuration: _Settings = field(default_factory=lambda: _Settings())


@dataclass(frozen=True, kw_only=True)
class _Settings:
    separator: Literal["/"] = "/"
    endian: Literal["little"] = "little"
    codecs: tuple[_Named, ...] = ()
    index_codecs: tuple[_Named, ...] = ()
    index_location: Literal["end"] = "end"


@dataclass(frozen=True, kw_only=True)
class _StoredArray:
    """The metadata of an array of a component, which receipts vouch for: nothing that makes other
    numbers of the same bytes, and 0 where there are none."""

    fill_value: Annotated[int, Meta(ge=0, le=0)] | Annotated[float, Meta(ge=0, le=0)]
    chunk_grid: _Named
    chunk_key_encoding: _Named
    codecs: tuple[_Named, ...]
    storage_transformers: Annotated[tuple[Any, ...], Meta(max_length=0)] = ()


def metadata_key(path: str) -> str:
    """Returns the key of a node's metadata; an empty path is the root."""
    return f"{path}/{METADATA}" if path else METADATA


def read_metadata(location: Location, path: str) -> dict[str, Any] | None:
    """Reads the metadata of a group or array as JSON, or returns None where there is none.

    Raises:
        IntegrityError: It is no Zarr metadata.
    """
    try:
        data = location.read(metadata_key(path), LARGEST_METADATA)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_metadata(location, path, data)


def read_all_metadata(location: Location, paths: Iterable[str]) -> dict[str, dict[str, Any] | None]:
    """Reads the metadata of several nodes at once, as `read_metadata` does."""
    keys = {metadata_key(path): path for path in paths}
    found = location.read_all(keys, LARGEST_METADATA)
    return {
        keys[key]: None if data is None else parse_metadata(location, keys[key], data)
        for key, data in found.items()
    }


def parse_metadata(location: Location, path: str, data: bytes) -> dict[str, Any]:
    """Returns the metadata of a node as JSON.

    Raises:
        IntegrityError: It is no Zarr metadata.
    """
    what = f"{location.url}: the Zarr metadata {metadata_key(path)}"
    record = records.parse(data, what, repair_hint(location))
    records.typed(_Node, record, what, repair_hint(location))
    return record


def written(record: Mapping[str, Any]) -> bytes:
    """Returns metadata as it is written."""
    return json.dumps(record, indent=2).encode()


def metadata_crc32c(record: dict[str, Any], *, growing: bool = False) -> int:
    """Returns the crc32c of an array's metadata, without its attributes.

    Args:
        record: As `read_metadata` returns it.
        growing: Leave out the length of the first axis, which an append changes.
    """
    kept = {k: v for k, v in record.items() if k != "attributes"}
    if growing:
        kept["shape"] = kept.get("shape", [])[1:]
    return json_crc32c(kept)


def attrs_of(group: zarr.Group) -> dict[str, Any]:
    """Returns a group's attributes, which are whatever was written: Zarr's type says less."""
    return dict(group.attrs)


def dims_of(array: zarr.Array) -> tuple[str, ...]:
    """Returns the names of an array's dimensions; version 3 of Zarr alone has any."""
    return tuple(getattr(array.metadata, "dimension_names", None) or ())


def open_group(location: Location, path: str = "") -> zarr.Group | None:
    """Opens a group, or returns None where there is none.

    Raises:
        IntegrityError: Its metadata is unreadable.
    """
    record = read_metadata(location, path)
    if record is None or record["node_type"] != "group":
        return None
    return group_of(location, path, record.get("attributes", {}))


def group_of(location: Location, path: str, attrs: Mapping[str, Any]) -> zarr.Group:
    """Returns the group at `path`, which has those attributes."""
    node = StorePath(location.zarr_store(), path)
    kept = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
    return zarr.Group(zarr.AsyncGroup.from_dict(node, kept))


def open_array(
    location: Location,
    path: str,
    crc32c: int | None,
    *,
    growing: bool = False,
    store: Store | None = None,
    lengths: Mapping[str, int] | None = None,
) -> zarr.Array:
    """Opens an array for reading, if its metadata is what was written; see `array_of`.

    Raises:
        IntegrityError: The metadata is missing or was altered.
    """
    record = read_metadata(location, path)
    return array_of(
        *(location, path, record, crc32c), growing=growing, store=store, lengths=lengths
    )


def array_of(
    location: Location,
    path: str,
    record: dict[str, Any] | None,
    crc32c: int | None,
    *,
    growing: bool = False,
    store: Store | None = None,
    lengths: Mapping[str, int] | None = None,
) -> zarr.Array:
    """Returns an array for reading, if its metadata is what was written.

    Args:
        location: The store.
        path: The array's path.
        record: Its metadata; None where there is none.
        crc32c: The `metadata_crc32c` that its group recorded; None: it recorded none.
        growing: As for `metadata_crc32c`.
        store: What to read from; the location's own store if None.
        lengths: By the name of its first dimension, how much of a longer one is shown.

    Raises:
        IntegrityError: The metadata is missing or was altered.
    """
    if record is None or record["node_type"] != "array":
        raise IntegrityError(f"{location.url} lacks the array {path}; {repair_hint(location)}")
    with reading(location, path):
        found = metadata_crc32c(record, growing=growing)
        if found != crc32c:
            raise IntegrityError(
                f"{location.url}: the metadata of {path} was altered; {repair_hint(location)}"
            )
        if growing:
            what = f"{location.url}: the metadata of {path}"
            records.typed(_StoredArray, record, what, repair_hint(location))
        node = StorePath(store or location.zarr_store(), path)
        array = zarr.Array.from_dict(node, record)
        shown = lengths.get(dims_of(array)[0], array.shape[0]) if lengths else array.shape[0]
        if shown >= array.shape[0]:
            return array
        return zarr.Array.from_dict(node, {**record, "shape": [shown, *record["shape"][1:]]})


@contextmanager
def reading(location: Location, what: str) -> Iterator[None]:
    """Turns what Zarr raises for damaged bytes into one line.

    Raises:
        IntegrityError: With the remedy.
    """
    try:
        yield
    except LatentStoreError:
        raise
    except _FOREIGN as error:
        text = str(error)[:_QUOTED]
        raise IntegrityError(
            f"{location.url}: {what} cannot be read ({type(error).__name__}: {text}); "
            f"{repair_hint(location)}"
        ) from error


def repair_hint(location: Location) -> str:
    """Returns what to do about damage that a job can mend."""
    return f"run `latent-store verify {location.url}` with `repair=`, then its job again"


def update_attrs(
    location: Location, path: str, changes: Mapping[str, Any], *, without: Collection[str] = ()
) -> None:
    """Changes a group's attributes, and nothing else of its metadata.

    Its consolidated metadata, a picture of the nodes below it, stays as it is. Where nothing
    changes nothing is written.

    Args:
        location: The store.
        path: The group.
        changes: New values.
        without: Names to remove.

    Raises:
        IntegrityError: Its metadata is missing or unreadable.
    """
    with changed_attrs(location, path) as attrs:
        attrs |= json.loads(json.dumps(changes))
        for name in without:
            attrs.pop(name, None)


@contextmanager
def changed_attrs(location: Location, path: str) -> Iterator[dict[str, Any]]:
    """Yields a group's attributes, which a block may change; they are written then.

    Raises:
        IntegrityError: As `update_attrs` does.
    """
    record = read_metadata(location, path)
    if record is None:
        what = f"{location.url} lacks the Zarr metadata {metadata_key(path)}"
        raise IntegrityError(f"{what}; {repair_hint(location)}")
    attrs = dict(record.get("attributes", {}))
    yield attrs
    if attrs != record.get("attributes"):
        location.write(metadata_key(path), written({**record, "attributes": attrs}))


def make_groups(
    location: Location, path: str, attrs: Mapping[str, Any] | None = None
) -> zarr.Group:
    """Opens a group, making every group on the way, so that a tree reader finds them all.

    Args:
        location: The store.
        path: The group.
        attrs: What it has if it is made here.

    Raises:
        IntegrityError: An array lies there.
    """
    if path:
        ensure_groups(location, path.rpartition("/")[0])
    return _open_or_make(location, path, json.loads(json.dumps(attrs or {})))


def ensure_groups(location: Location, path: str) -> None:
    """Makes a group and every group on the way, where they are not known to be there."""
    parts = path.split("/") if path else []
    for parent in ("/".join(parts[:n]) for n in range(len(parts) + 1)):
        if not location.knows_group(metadata_key(parent)):
            _open_or_make(location, parent, {})


def _open_or_make(location: Location, path: str, attrs: dict[str, Any]) -> zarr.Group:
    key = metadata_key(path)
    record = {"attributes": attrs, "zarr_format": 3, "node_type": "group"}
    # Another job may be making the same group: what is there by now stays.
    made = not location.knows_group(key) and location.create(key, written(record))
    group = group_of(location, path, attrs) if made else open_group(location, path)
    if group is None:
        raise IntegrityError(f"{location.url}: {path} is an array, not a group; write it anew")
    location.note_group(key)
    return group


def child_names(location: Location, path: str) -> list[str]:
    """Returns the names of the groups in a group, readable or not; none where it is not there."""
    return [name for name in location.folders(path) if is_group(location, f"{path}/{name}")]


def is_group(location: Location, path: str) -> bool:
    """Tells whether a group lies at `path`, readable or not."""
    try:
        record = read_metadata(location, path)
    except IntegrityError:
        # Whoever opens it says what is wrong with it.
        return True
    return record is not None and record["node_type"] == "group"
