"""Zarr arrays in memory: what Zarr would write and read, without a request of Zarr's own.

Zarr asks for one object after another, whether it is there, and what it is part of. So arrays are
made and filled here, and their objects written together; what was read together is decoded here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import zarr
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

_METADATA = "zarr.json"


def array_metadata(**how: Any) -> bytes:
    """Returns the `zarr.json` of an array that `zarr.create_array` makes of the same arguments."""
    objects: dict[str, Buffer] = {}
    zarr.create_array(MemoryStore(objects), **how)
    return objects[_METADATA].to_bytes()


def encode(path: str, metadata: Mapping[str, Any], selection: Any, values: Any) -> dict[str, bytes]:
    """Returns the objects of an array in which a part is set, and the rest was never written.

    Args:
        path: The array's.
        metadata: Its `zarr.json`.
        selection: The part.
        values: Its values; chunks of fill are no objects.
    """
    objects: dict[str, Buffer] = {}
    array = zarr.Array.from_dict(StorePath(MemoryStore(objects), path), dict(metadata))
    array[selection] = values
    return {key: data.to_bytes() for key, data in objects.items()}


def opened(path: str, metadata: Mapping[str, Any], objects: Mapping[str, bytes]) -> zarr.Array:
    """Returns an array whose objects were read; those that are not there are fill."""
    buffer = default_buffer_prototype().buffer
    held = {key: buffer.from_bytes(data) for key, data in objects.items()}
    return zarr.Array.from_dict(StorePath(MemoryStore(held), path), dict(metadata))


def inner_chunks(metadata: Mapping[str, Any]) -> int:
    """Returns the room in the index of one of an array's objects; 0 where objects are chunks."""
    array = opened("", metadata, {})
    return math.prod(array.shards) // math.prod(array.chunks) if array.shards else 0
