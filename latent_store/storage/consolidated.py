"""Consolidated metadata: the picture of a finished hierarchy that foreign readers open.

This package writes it, and compares it with what it is a picture of. From an object store it takes
the metadata of arrays out of it, to ask for less, where that has the digest that its group records.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from latent_store.errors import IntegrityError
from latent_store.storage import groups
from latent_store.storage.keys import METADATA
from latent_store.storage.location import Location

CONSOLIDATED = "consolidated_metadata"
PENDING = "pending"
"""Attribute of a finished component that a job adds to, beside its seal and with one of its own:
the attributes that it has once the job has finished, and `again`, the shards that are written anew.
Until then readers keep to what is sealed, without those shards."""
Nodes = dict[str, bytes]
"""Key of a node's metadata -> it."""


def consolidate(
    location: Location,
    path: str,
    nodes: Nodes | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Writes consolidated metadata for the group at `path` (empty: the root), if it is another.

    Zarr readers then open it with one request and see it as it was when the job finished.

    Args:
        location: The store.
        path: The group.
        nodes: Of the whole store, as `read_nodes` gives them, where they are known: what is written
            here becomes one of them.
        attrs: What the group's attributes become with it; None: they stay.

    Raises:
        IntegrityError: The metadata of a node in it is unreadable.
    """
    key, below = groups.metadata_key(path), f"{path}/" if path else ""
    known = read_nodes(location, path) if nodes is None else nodes
    own = {name: data for name, data in known.items() if name == key or name.startswith(below)}
    before = own[key]
    if attrs is not None:
        record = groups.parse_metadata(location, path, before)
        own[key] = groups.written({**record, "attributes": json.loads(json.dumps(attrs))})
    buffer = default_buffer_prototype().buffer
    held = {name: buffer.from_bytes(data) for name, data in own.items()}
    with warnings.catch_warnings():
        # Version 3 of the Zarr specification has no consolidated metadata yet; every reader that
        # does not know it reads the groups one by one, so writing it harms nobody.
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        # What an unfinished job made below a group that keeps an older picture.
        warnings.filterwarnings("ignore", ".*not found in consolidated metadata", ZarrUserWarning)
        # In memory: Zarr would ask for each node several times.
        zarr.consolidate_metadata(MemoryStore(held), path=path or None)
    known[key] = held[key].to_bytes()
    if known[key] != before:
        location.write(key, known[key])


def read_nodes(location: Location, path: str) -> Nodes:
    """Returns the metadata of a group and of all nodes below it.

    A folder without metadata is no node, and nothing below it; of an object store, which lists
    everything at once, groups that are missing on the way to others are made.
    """
    away = location.local_path is None
    folders = _listed_folders(location, path) if away else {}
    found: dict[str, bytes] = {}
    shown: dict[str, bytes] = {}
    level, picture = [path], dict[str, Any]()
    while level:
        asked = {groups.metadata_key(node): node for node in level}
        known = {key: shown[node] for key, node in asked.items() if node in shown}
        datas = location.read_all(asked.keys() - known.keys(), groups.LARGEST_METADATA)
        level = []
        for key, node in sorted(asked.items()):
            data = known.get(key) or datas[key]
            if data is None:
                continue
            found[key] = data
            try:
                record = groups.parse_metadata(location, node, data)
            except IntegrityError:
                continue  # Who is shown it says so.
            if record["node_type"] != "group":
                continue
            names = folders.get(node, []) if away else location.folders(node)
            level += [f"{node}/{name}".lstrip("/") for name in names]
            if away:
                picture |= pictured_in(node, record)
                shown |= _shown(node, record, picture)
    return found


def _listed_folders(location: Location, path: str) -> dict[str, list[str]]:
    """Returns the nodes directly below each node of an object store, from one listing."""
    found: dict[str, list[str]] = {}
    there = {key.rpartition("/")[0] for key in location.sizes(path) if key.endswith(f"/{METADATA}")}
    for node in sorted(there - {path}):
        while node != path:
            parent, _, name = node.rpartition("/")
            names = found.setdefault(parent, [])
            if name in names:
                break
            names.append(name)
            if parent and parent not in there:
                groups.ensure_groups(location, parent)
                there.add(parent)
            node = parent
    return found


def pictured_in(path: str, record: dict[str, Any]) -> dict[str, Any]:
    """Returns the metadata of the nodes that a group's consolidated metadata shows."""
    picture = record.get(CONSOLIDATED)
    nodes = picture.get("metadata") if isinstance(picture, dict) else None
    if not isinstance(nodes, dict):
        return {}
    return {f"{path}/{name}".lstrip("/"): node for name, node in nodes.items()}


def pictured_arrays(
    location: Location, path: str, digests: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Returns the metadata of a component's arrays that its group shows with these digests."""
    shown = pictured_in("", groups.read_metadata(location, path) or {})
    return {
        name: shown[name]
        for name, digest in digests.items()
        if isinstance(shown.get(name), dict)
        and groups.metadata_crc32c(shown[name], growing=True) == digest
    }


def _shown(path: str, record: dict[str, Any], picture: dict[str, Any]) -> dict[str, bytes]:
    """Returns the metadata of those of a group's arrays that need not be read: a picture shows
    them with the digests that the group has, and as long as it says."""
    attrs = record.get("attributes", {})
    # While a job adds to it, the picture is one of what was finished before.
    digests = None if PENDING in attrs else attrs.get("arrays")
    growing = "num_rows" in attrs
    lengths = {attrs.get("num_rows"), attrs.get("num_shards")}
    found = {}
    for name, digest in digests.items() if isinstance(digests, dict) else ():
        array = picture.get(f"{path}/{name}")
        if (
            isinstance(array, dict)
            and groups.metadata_crc32c(array, growing=growing) == digest
            and (not growing or array["shape"][0] in lengths)
        ):
            found[f"{path}/{name}"] = groups.written(array)
    return found


def differences(location: Location, path: str, finished: set[str]) -> Iterator[tuple[str, str]]:
    """Compares the picture that a group keeps with its nodes as they are.

    Args:
        location: The store.
        path: The group.
        finished: Paths of the finished components. Nodes in them must look as they did, those
            above them must still be there, all others may have changed since.

    Yields:
        `(path of a node, what is wrong)`; the group's own path where the picture is.
    """
    record = groups.read_metadata(location, path) or {}
    picture = record.get(CONSOLIDATED)
    pictured = picture.get("metadata") if isinstance(picture, dict) else None
    # Without a picture, foreign readers read the nodes themselves.
    for name, then in (pictured if isinstance(pictured, dict) else {}).items():
        node = f"{path}/{name}" if path else name
        inside = any(f"{node}/".startswith(f"{part}/") for part in finished)
        above = any(part.startswith(f"{node}/") for part in finished)
        if not (inside or above):
            continue
        try:
            now = groups.read_metadata(location, node)
        except IntegrityError as error:
            yield node, str(error)
            continue
        if now is None or now["node_type"] != _plain(then).get("node_type"):
            yield node, "its metadata is missing, or another node's"
        elif inside and not _shows(_plain(then), _plain(now)):
            yield path, f"its consolidated metadata shows another {node} than there is"


def _shows(then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Tells whether a node looks as in the picture, but for attributes added since."""
    attrs, shown = now.get("attributes", {}), then.get("attributes", {})
    same = isinstance(shown, dict) and {k: attrs.get(k) for k in shown} == shown
    return same and {**now, "attributes": shown} == {**then, "attributes": shown}


def _plain(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        return {}
    return {key: value for key, value in record.items() if key != CONSOLIDATED}
