"""Groups of small arrays that are read whole: a ranking, a codec's tables.

No receipt lists their objects. Instead the group's sealed attributes, written last, hold the
crc32c of each array's metadata and values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np

from latent_store.errors import IntegrityError
from latent_store.storage import groups, records
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
) -> None:
    """Writes a group of small arrays that are read whole: a ranking, a codec's tables.

    Its attributes are sealed, written last, and hold the crc32c of each array's values.
    """
    # First of all: what is half written has no attributes, and so does not count.
    location.delete(groups.metadata_key(path))
    group = groups.make_groups(location, path)
    for name, values in arrays.items():
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            dimension_names=dims[name],
            overwrite=True,
        )
        array[...] = values
    digests = {name: _values_crc32c(values) for name, values in arrays.items()}
    metadata = {name: groups.stored_crc32c(location, f"{path}/{name}") for name in arrays}
    closing = {"complete": True, "values": digests, "arrays": metadata}
    # A power cut must not leave a seal of what never reached the disk.
    location.sync(location.sizes(path))
    groups.update_attrs(location, path, sealed({**attrs, **closing}))


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
    for name, expected in record.values.items():
        array = groups.open_array(location, f"{path}/{name}", record.arrays.get(name))
        objects = [key for key in stored if key.startswith(f"{path}/{name}/")]
        for key in objects:
            location.local_length(key)  # A pipe or a device would never end.
        chunk = math.prod(array.chunks) * array.dtype.itemsize
        most = max(array.nbytes, chunk, *(stored[key] for key in objects))
        if most > LARGEST_ARRAY:
            raise IntegrityError(
                f"{location.url}: {path}/{name} takes {most} bytes, more than the {LARGEST_ARRAY} "
                f"that it can have; {remedy}"
            )
        with groups.reading(location, f"{path}/{name}"):
            found[name] = np.asarray(array[...])
        if _values_crc32c(found[name]) != expected:
            raise IntegrityError(
                f"{location.url}: the values of {path}/{name} were altered; {remedy}"
            )
    return found


def _values_crc32c(values: np.ndarray) -> int:
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return int(google_crc32c.value(little.tobytes()))
