"""A Zarr store that compares every piece of a shard that it fetches with the receipts.

Inner chunks and shard indexes end in a crc32c of their own, which Zarr checks. That shows altered
bytes, but not bytes that are whole and in the wrong place: another shard, another component's, an
older one. So the receipts list those trailing checksums too, and what arrives must end in the one
that belongs there. Nothing is fetched for this that would not be fetched anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from latent_store.errors import IntegrityError
from latent_store.layout import present_chunks

TRAILER = 4
"""Bytes of a crc32c at the end of an inner chunk, and of a shard index."""


@dataclass(frozen=True, kw_only=True)
class ObjectChecks:
    """What is known of one object.

    Attributes:
        crc32c: Of the whole object.
        trailers: For a shard with inner chunks: their trailing crc32c in the order in which they
            lie in it, then the index's, uint32 little-endian end to end. Empty for a plain chunk.
    """

    crc32c: int
    trailers: bytes

    def trailer(self, position: int) -> bytes:
        """Returns the trailing crc32c of the inner chunk at ``position``; the index's is last."""
        start = TRAILER * position
        return self.trailers[start : start + TRAILER]


class CheckedStore(WrapperStore[Store]):
    """Serves the objects of one component, each checked against its receipt as it is read.

    Args:
        store: Where the objects lie.
        objects: The component's object table.
        remedy: What to do about a wrong object.
    """

    def __init__(self, store: Store, objects: pa.Table, remedy: str) -> None:
        super().__init__(store)
        self._remedy = remedy
        self._checks = dict(_checks(objects))
        self._starts: dict[str, np.ndarray] = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Returns an object, or a part of it, as ``Store.get`` does.

        Raises:
            IntegrityError: It is not what the receipt lists.
        """
        value = await self._store.get(key, prototype, byte_range)
        checks = self._checks.get(key)
        if (value is None) != (checks is None):
            what = "is missing" if value is None else "is there, but in no receipt"
            raise self._refusal(key, what)
        if value is not None and checks is not None:
            self._check(key, checks, value, byte_range)
        return value

    def _check(
        self, key: str, checks: ObjectChecks, value: Buffer, byte_range: ByteRequest | None
    ) -> None:
        data = value.as_numpy_array()
        if byte_range is None:
            right = google_crc32c.value(data.tobytes()) == checks.crc32c
        elif isinstance(byte_range, SuffixByteRequest):
            right = _ends_in(data, checks.trailer(-1 + len(checks.trailers) // TRAILER))
            self._starts[key] = present_chunks(data)[:, 0]
        elif isinstance(byte_range, RangeByteRequest):
            # Zarr reads a shard's index before its chunks, so the positions are known.
            position = int(np.searchsorted(self._starts[key], byte_range.start))
            right = _ends_in(data, checks.trailer(position))
        else:
            right = False
        if not right:
            raise self._refusal(key, "is another object than its receipt lists")

    def _refusal(self, key: str, what: str) -> IntegrityError:
        return IntegrityError(f"{key} {what}: it was deleted, swapped or altered; {self._remedy}")


def _checks(objects: pa.Table) -> Iterator[tuple[str, ObjectChecks]]:
    columns = (objects[name].to_pylist() for name in ("key", "length", "crc32c", "trailers"))
    for key, length, crc32c, trailers in zip(*columns, strict=True):
        if length >= 0:
            yield key, ObjectChecks(crc32c=crc32c, trailers=trailers)


def _ends_in(data: np.ndarray[Any, Any], trailer: bytes) -> bool:
    return len(trailer) == TRAILER and data[-TRAILER:].tobytes() == trailer
