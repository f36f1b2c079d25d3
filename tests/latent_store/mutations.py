"""Seeded changes of JSON records: a value of another type, a key that is gone, one too many."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from latent_store.storage import records, seals
from latent_store.storage.groups import metadata_crc32c

Change = Callable[[dict[str, Any]], Any]
"""Changes a record in place, or returns another."""
Place = tuple[Any, Any]
"""A container in a record, and the key or position of one value in it."""


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 2**31, 2**32, 10**12, 2**63, 10**30, 0.5, -0.5, 1e300,
    math.nan, math.inf, "", "x", "7", "ok", "../../../etc/passwd", "/etc/passwd", "\0", "\ud800",
    "x" * 5000, [], {}, [[]], [1, 2], {"a": 1}, {"x": {"y": []}}, _nested(300),
)  # fmt: skip


def mutate(record: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Returns a copy of a record with one to three changes anywhere in it."""
    changed = copy.deepcopy(record)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(changed))
        if places:
            _change(*rng.choice(places), rng)
    return changed


def resealed(data: bytes, change: Change) -> bytes:
    """Returns a record with a change, and its crc32c made right again."""
    record = json.loads(data)
    record.pop(seals.CRC32C, None)
    return records.seal_record(_changed(record, change))


def resealed_attrs(data: bytes, change: Change) -> bytes:
    """Returns a group's metadata with changed attributes, and their seal made right again."""
    record = json.loads(data)
    record["attributes"] = seals.sealed(_changed(record["attributes"], change))
    return json.dumps(record).encode()


def resealed_array(
    group: bytes, name: str, data: bytes, change: Change, *, growing: bool
) -> tuple[bytes, bytes]:
    """Returns the metadata of a group and of its array `name`, of which the array's is changed.

    Args:
        group: The metadata of the group, whose attributes hold the array's digest.
        name: The array's path below the group.
        data: The array's metadata.
        change: What is changed of it.
        growing: Whether the digest leaves out the length of the first axis.
    """
    record = _changed(json.loads(data), change)
    whole = isinstance(record.get("shape", []), list)
    digest = metadata_crc32c(record, growing=growing) if whole else 0
    sealed = resealed_attrs(group, lambda attrs: attrs["arrays"].update({name: digest}))
    return sealed, json.dumps(record).encode()


def reseal(path: Path, change: Change) -> None:
    """Changes a record in its file; see `resealed`."""
    path.write_bytes(resealed(path.read_bytes(), change))


def reseal_attrs(path: Path, change: Change) -> None:
    """Changes a group's attributes in their file; see `resealed_attrs`."""
    path.write_bytes(resealed_attrs(path.read_bytes(), change))


def reseal_array(group: Path, name: str, change: Change, *, growing: bool = True) -> None:
    """Changes an array's metadata in its file; see `resealed_array`."""
    paths = group / "zarr.json", group / name / "zarr.json"
    contents = [path.read_bytes() for path in paths]
    changed = resealed_array(contents[0], name, contents[1], change, growing=growing)
    for path, data in zip(paths, changed, strict=True):
        path.write_bytes(data)


def unnumbered(path: Path) -> bytes:
    """Returns a file's bytes; of a receipt without the fencing number of the job that wrote it."""
    data = path.read_bytes()
    if "receipts" not in path.parts or not data.startswith(b"{"):
        return data
    return resealed(data, lambda record: {**record, "fence": None})


def _changed(record: dict[str, Any], change: Change) -> dict[str, Any]:
    found = change(record)
    return found if isinstance(found, dict) else record


def _places(value: Any) -> Iterator[Place]:
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _change(where: Any, key: Any, rng: random.Random) -> None:
    what = rng.randrange(8)
    if what == 0:
        del where[key]
    elif what == 1 and isinstance(where, dict):
        where[rng.choice(["", "x", "../y", "9" * 30])] = where[key]
    elif what == 1:
        where.insert(key, copy.deepcopy(where[key]))
    elif what == 2 and isinstance(where, list):
        other = rng.randrange(len(where))
        where[key], where[other] = where[other], where[key]
    elif what == 3 and isinstance(where[key], int) and not isinstance(where[key], bool):
        where[key] += rng.choice([-1, 1, 2, 1000])
    else:
        where[key] = copy.deepcopy(rng.choice(VALUES))
