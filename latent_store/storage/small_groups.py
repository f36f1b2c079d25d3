"""Groups of small arrays that are read whole: a ranking, a codec's tables.

No receipt lists their objects. Instead the group's sealed attributes, written last, hold the
crc32c of each array's metadata and values.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np

from latent_store.errors import IntegrityError
from latent_store.storage import drafts, groups, records
from latent_store.storage.location import Location
from latent_store.storage.records import Crc32c, Text
from latent_store.storage.seals import require_sealed, sealed

LARGEST_ARRAY = 2**26
"""In bytes: the tables of a codec with thousands of channels take a tenth of it."""


@dataclass(frozen=True, kw_only=True)
class _Digests:
    """The crc32c of each array's values, and of its metadata, by its name."""

    values: dict[Text, Crc32c]
    arrays: dict[Text, Crc32c]


def write(
    location: Location,
    path: str,
    attrs: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    dims: Mapping[str, tuple[str, ...]],
    there: Collection[str] | None = None,
) -> None:
    """Writes a group of small arrays that are read whole: a ranking, a codec's tables.

    Its attributes are sealed, written last, and hold the crc32c of each array's values.

    Args:
        location: The store.
        path: The group.
        attrs: Its attributes.
        arrays: By name.
        dims: The names of each array's dimensions.
        there: The keys of what lies below the group, where they are known.
    """
    objects = made(path, arrays, dims)
    key, own = groups.metadata_key(path), tuple(f"{path}/{name}/" for name in arrays)
    there = location.sizes(path) if there is None else there
    if key in there:
        # First of all: what is half written has no attributes, and so does not count.
        location.delete(key)
    location.delete_all([k for k in there if k.startswith(own) and k not in objects])
    groups.make_groups(location, path.rpartition("/")[0])
    location.write_all(objects)
    # A power cut must not leave a seal of what never reached the disk.
    location.sync(objects)
    record = {"attributes": closed(path, attrs, arrays, objects)}
    location.write(key, groups.written({**record, "zarr_format": 3, "node_type": "group"}))


def made(
    path: str, arrays: Mapping[str, np.ndarray], dims: Mapping[str, tuple[str, ...]]
) -> dict[str, bytes]:
    """Returns the objects of small arrays in the group at `path`."""
    objects = {}
    for name, values in arrays.items():
        metadata = drafts.array_metadata(
            shape=values.shape,
            dtype=values.dtype,
            chunks=tuple(max(side, 1) for side in values.shape),  # One object each.
            dimension_names=dims[name],
        )
        objects[groups.metadata_key(f"{path}/{name}")] = metadata
        objects |= drafts.encode(f"{path}/{name}", json.loads(metadata), ..., values)
    return objects


def closed(
    path: str,
    attrs: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    objects: Mapping[str, bytes],
) -> dict[str, Any]:
    """Returns the sealed attributes of a group whose arrays are `objects`, as `made` gives them."""
    digests = {name: crc32c_of(values) for name, values in arrays.items()}
    keys = {name: groups.metadata_key(f"{path}/{name}") for name in arrays}
    metadata = {n: groups.metadata_crc32c(json.loads(objects[k])) for n, k in keys.items()}
    return sealed({**attrs, "complete": True, "values": digests, "arrays": metadata})


def is_finished(location: Location, path: str) -> bool:
    """Tells whether `write` came to its end at `path`; what was altered since did."""
    try:
        group = groups.open_group(location, path)
    except IntegrityError:
        return True
    return group is not None and bool(group.attrs.get("complete"))


def read_attrs(location: Location, path: str, remedy: str) -> dict[str, Any] | None:
    """Returns the attributes of `write`; None where it is not, or not finished.

    Raises:
        IntegrityError: They were altered.
    """
    group = groups.open_group(location, path)
    if group is None or not group.attrs.get("complete"):
        return None
    attrs = groups.attrs_of(group)
    require_sealed(attrs, f"{location.url}/{path}", remedy)
    return attrs


def read_arrays(
    location: Location, path: str, attrs: Mapping[str, Any], remedy: str
) -> dict[str, np.ndarray]:
    """Returns the arrays of `write` by name; those added since are left.

    Raises:
        IntegrityError: One is missing or was altered, or has more bytes than it can.
    """
    found = {}
    record = records.typed(_Digests, attrs, f"{location.url}/{path}", remedy)
    stored = location.sizes(path)
    paths = {name: f"{path}/{name}" for name in record.values}
    parts = {n: [k for k in stored if k.startswith(f"{at}/c")] for n, at in paths.items()}
    for name, keys in parts.items():
        # All are asked for at once.
        _require_small(location, paths[name], sum(stored[key] for key in keys), remedy)
    keys = [*itertools.chain(*parts.values()), *map(groups.metadata_key, paths.values())]
    datas = location.read_all(keys, groups.LARGEST_METADATA)
    for name, at in paths.items():
        data = datas[groups.metadata_key(at)]
        metadata = None if data is None else groups.parse_metadata(location, at, data)
        array = groups.array_of(location, at, metadata, record.arrays.get(name))
        chunk = math.prod(array.chunks) * array.dtype.itemsize
        _require_small(location, at, max(array.nbytes, chunk), remedy)
        objects = {key: data for key in parts[name] if (data := datas[key]) is not None}
        with groups.reading(location, at):
            found[name] = np.asarray(drafts.opened(at, metadata or {}, objects)[...])
        if crc32c_of(found[name]) != record.values[name]:
            raise IntegrityError(
                f"{location.url}: the values of {path}/{name} were altered; {remedy}"
            )
    return found


def _require_small(location: Location, path: str, most: int, remedy: str) -> None:
    if most > LARGEST_ARRAY:
        raise IntegrityError(
            f"{location.url}: {path} takes {most} bytes, more than the {LARGEST_ARRAY} "
            f"that it can have; {remedy}"
        )


def values_crc32c(
    location: Location, path: str, attrs: Mapping[str, Any], remedy: str
) -> dict[str, int]:
    """Returns the crc32c of each array's values, as the attributes of `write` have them."""
    return dict(records.typed(_Digests, attrs, f"{location.url}/{path}", remedy).values)


def crc32c_of(values: np.ndarray) -> int:
    """Returns the crc32c of values, little-endian in C order."""
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return int(google_crc32c.value(little.tobytes()))
