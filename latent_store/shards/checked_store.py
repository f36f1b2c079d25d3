"""A Zarr store that holds every piece of a shard that it fetches to the receipts.

For other people's readers, and for what is read seldom: `latent_store.shards.shard_reader` reads
the same arrays by far quicker, and lets `latent_store.shards.listed_objects` judge likewise.
"""

from __future__ import annotations

import numpy as np
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from latent_store.shards.listed_objects import ChunkTable, ListedObjects
from latent_store.shards.receipts import StoredObject


class CheckedStore(WrapperStore[Store]):
    """Serves the objects of one component, each checked against its receipt as it is read.

    Args:
        store: Where the objects lie.
        listed: What they must be.
    """

    def __init__(self, store: Store, listed: ListedObjects) -> None:
        super().__init__(store)
        self._listed = listed
        self._tables: dict[str, ChunkTable] = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Returns an object, or a part of it, as `Store.get` does.

        Raises:
            IntegrityError: It is not what the receipt lists.
        """
        if self._listed.is_left_out(key):
            return None
        entry = self._listed.entry(key)
        value = await self._store.get(key, prototype, byte_range)
        if (value is None) != (entry is None):
            what = "is missing" if value is None else "is there, but in no receipt"
            raise self._listed.refusal(key, what)
        if value is not None and entry is not None:
            self._check(key, entry, value.to_bytes(), byte_range)
        return value

    def _check(
        self, key: str, entry: StoredObject, data: bytes, byte_range: ByteRequest | None
    ) -> None:
        if byte_range is None:
            self._listed.require_whole(key, entry, data)
        elif isinstance(byte_range, SuffixByteRequest):
            self._tables[key] = self._listed.chunk_table(key, entry, data)
        elif isinstance(byte_range, RangeByteRequest):
            # Zarr reads a shard's index before its chunks, so the table is known.
            table = self._tables[key]
            (number,) = np.flatnonzero(table.starts == byte_range.start)
            self._listed.require_piece(key, data, int(table.crcs[number]))
        else:
            raise self._listed.refusal(key, "is asked for in a way that no receipt vouches for")
