"""A Zarr store that compares every piece of a shard that it fetches with the receipts.

Inner chunks and shard indexes end in a crc32c of their own, which Zarr checks. That shows altered
bytes, but not bytes that are whole and in the wrong place: another shard, another component's, an
older one. So the receipts list those trailing checksums too, and what arrives must end in the one
that belongs there. Nothing is fetched for this that would not be fetched anyway.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from latent_store.errors import IntegrityError
from latent_store.format.layout import present_chunks
from latent_store.shards.index import ABSENT
from latent_store.shards.receipts import StoredObject


class CheckedStore(WrapperStore[Store]):
    """Serves the objects of one component, each checked against its receipt as it is read.

    Args:
        store: Where the objects lie.
        objects: The component's object table.
        remedy: What to do about a wrong object.
        left_out: Shards that are served as fill, since they are being written anew.
    """

    def __init__(
        self,
        store: Store,
        objects: pa.Table,
        remedy: str,
        left_out: Collection[int] = (),
    ) -> None:
        super().__init__(store)
        self._remedy = remedy
        rows = objects.to_pylist()
        self._left_out = {row["key"] for row in rows if row["shard"] in left_out}
        fields = ("length", "crc32c", "inner_chunks", "trailers")
        # Of those that are absent because all their values are fill: None.
        self._listed = {
            row["key"]: None
            if row["length"] == ABSENT
            else StoredObject(**{name: row[name] for name in fields})
            for row in rows
        }
        self._starts: dict[str, np.ndarray] = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Returns an object, or a part of it, as `Store.get` does.

        Raises:
            IntegrityError: It is not what the receipt lists.
        """
        if key in self._left_out:
            return None
        if key not in self._listed:
            raise self._refusal(key, "is in no receipt")
        value = await self._store.get(key, prototype, byte_range)
        listed = self._listed[key]
        if (value is None) != (listed is None):
            what = "is missing" if value is None else "is there, but in no receipt"
            raise self._refusal(key, what)
        if value is not None and listed is not None:
            self._check(key, listed, value, byte_range)
        return value

    def _check(
        self, key: str, listed: StoredObject, value: Buffer, byte_range: ByteRequest | None
    ) -> None:
        data = value.to_bytes()
        if byte_range is None:
            right = listed.defect(data) is None
        elif isinstance(byte_range, SuffixByteRequest):
            right = data.endswith(listed.trailer(-1))
            self._starts[key] = present_chunks(data)[:, 0] if right else np.empty(0)
        elif isinstance(byte_range, RangeByteRequest):
            # Zarr reads a shard's index before its chunks, so the positions are known.
            position = int(np.searchsorted(self._starts[key], byte_range.start))
            right = data.endswith(listed.trailer(position))
        else:
            right = False
        if not right:
            raise self._refusal(key, "is another object than its receipt lists")

    def _refusal(self, key: str, what: str) -> IntegrityError:
        return IntegrityError(f"{key} {what}: it was deleted, swapped or altered; {self._remedy}")
