"""Fetches what is read of a component's objects: few requests, several at once, each held to the
receipts.

A request costs as much as some bytes more (`LOCAL_GAP`, `REMOTE_GAP`). So an object of which no
more than that is not wanted is fetched whole; of others first the index, then the wanted chunks,
those together that lie no further apart. What came whole from a distance is kept, compressed, since
an epoch in random order wants the other rows of a shard soon.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future

import numpy as np

from latent_store.format import layout
from latent_store.shards.bounded_cache import BoundedCache
from latent_store.shards.listed_objects import ChunkTable, ListedObjects, index_length
from latent_store.shards.receipts import StoredObject
from latent_store.storage.location import Location, Range

LOCAL_GAP, REMOTE_GAP = 2**16, 2**22
"""Bytes that arrive while a request is under way: 20 ms at 200 MB/s from a distance."""
TABLE_BYTES, OBJECT_BYTES = 2**24, 2**26
"""What is kept in memory of each component: of the indexes of its objects, and of objects that
came from a distance."""

Wanted = Mapping[str, np.ndarray]
"""Key of an object -> numbers of the chunks that are wanted of it."""


class Held:
    """What was fetched of an object: its chunks, each held to its crc32c as it is handed out.

    Args:
        key: The object.
        listed: What it must be.
        table: Its chunks.
        starts: Where its parts begin in it, in bytes, ascending.
        parts: Their bytes.
    """

    def __init__(
        self,
        key: str,
        listed: ListedObjects,
        table: ChunkTable,
        starts: Sequence[int],
        parts: Sequence[bytes],
    ) -> None:
        self._key, self._listed = key, listed
        self._starts, self._parts = starts, parts
        self._table = table

    def piece(self, number: int) -> bytes | None:
        """Returns the bytes of a chunk that was wanted; None where it is fill.

        Raises:
            IntegrityError: They are not those that the receipt lists.
        """
        start, stop, crc = self._table.chunk(number)
        if start < 0:
            return None
        place = bisect_right(self._starts, start) - 1
        before = self._starts[place]
        piece = self._parts[place][start - before : stop - before]
        self._listed.require_piece(self._key, piece, crc)
        return piece


class Fetcher:
    """Fetches from one component's objects.

    Args:
        location: Where they lie.
        listed: What they must be.
    """

    def __init__(self, location: Location, listed: ListedObjects) -> None:
        self.listed = listed
        self._location = location
        self._local = location.local_path is not None
        self._tables: BoundedCache[ChunkTable] = BoundedCache(TABLE_BYTES)
        self._objects: BoundedCache[bytes] = BoundedCache(OBJECT_BYTES)
        self._under_way: dict[str, Future[bytes]] = {}
        self._absent: set[str] = set()

    def fetch(self, wanted: Wanted) -> dict[str, Held]:
        """Fetches chunks; objects that are fill are left out.

        Raises:
            IntegrityError: What lies there is not what the receipts list.
        """
        entries: dict[str, StoredObject] = {}
        for key in wanted:
            entry = None if self.listed.is_left_out(key) else self.listed.entry(key)
            if entry is not None:
                entries[key] = entry
        self._require_absent([key for key in wanted if key not in entries])
        wholes = {k: e for k, e in entries.items() if self._is_wanted_whole(e, len(wanted[k]))}
        found = {
            key: Held(key, self.listed, self._table_in(key, entries[key], data), (0,), (data,))
            for key, data in self._fetch_wholes(wholes).items()
        }
        parted = {key: entry for key, entry in entries.items() if key not in found}
        return found | self._fetch_parts(self._fetch_tables(parted), wanted)

    def _is_wanted_whole(self, entry: StoredObject, chunks: int) -> bool:
        gap = LOCAL_GAP if self._local else REMOTE_GAP
        return entry.length * (1 - chunks / max(entry.inner_chunks, 1)) <= gap

    def _require_absent(self, keys: Sequence[str]) -> None:
        asked = [
            key for key in keys if key not in self._absent and not self.listed.is_left_out(key)
        ]
        for key, data in zip(asked, self._read([(key, 0, 1) for key in asked]), strict=True):
            if data is not None:
                raise self.listed.refusal(key, "is there, but in no receipt")
            self._absent.add(key)

    def _read(self, ranges: Sequence[Range]) -> list[bytes | None]:
        return self._location.read_ranges(ranges) if ranges else []

    def _read_there(self, ranges: Sequence[Range]) -> list[bytes]:
        found = []
        for (key, _, _), data in zip(ranges, self._read(ranges), strict=True):
            if data is None:
                raise self.listed.refusal(key, "is missing")
            found.append(data)
        return found

    def _table_in(self, key: str, entry: StoredObject, data: bytes) -> ChunkTable:
        """Returns the table of an object that was fetched whole."""
        table = self._tables.get(key)
        if table is None:
            if self._local:  # From a distance it was held to that before it was kept.
                self.listed.require_whole(key, entry, data)
            table = self.listed.chunk_table(key, entry, data[len(data) - index_length(entry) :])
            self._tables.put(key, table, table.nbytes)
        return table

    def _fetch_wholes(self, entries: Mapping[str, StoredObject]) -> dict[str, bytes]:
        if self._local:  # The system keeps files in memory as well as anybody.
            datas = self._read_there([(key, 0, e.length) for key, e in entries.items()])
            return dict(zip(entries, datas, strict=True))
        found: dict[str, bytes] = {}
        mine: dict[str, Future[bytes]] = {}
        others: dict[str, Future[bytes]] = {}
        try:
            for key in entries:
                future = mine[key] = Future()
                # Another thread may be fetching it: whoever comes first does, and keeps it first.
                first = self._under_way.setdefault(key, future)
                data = self._objects.get(key)
                if first is not future:
                    del mine[key]
                if data is not None:
                    found[key] = data
                    if first is future:
                        self._settle(key, future, data)
                elif first is not future:
                    others[key] = first
            asked = [key for key in mine if key not in found]
            datas = self._read_there([(key, 0, entries[key].length) for key in asked])
            for key, data in zip(asked, datas, strict=True):
                self.listed.require_whole(key, entries[key], data)
                self._objects.put(key, data, len(data))
                found[key] = data
                self._settle(key, mine[key], data)
        finally:
            for key, future in mine.items():
                if not future.done():
                    self._settle(key, future)
        return found | self._await(others, entries)

    def _settle(self, key: str, future: Future[bytes], data: bytes | None = None) -> None:
        """Tells the threads that wait for an object; without it they fetch it for themselves."""
        if self._under_way.get(key) is future:
            del self._under_way[key]
        if data is None:
            future.cancel()
        else:
            future.set_result(data)

    def _await(
        self, others: Mapping[str, Future[bytes]], entries: Mapping[str, StoredObject]
    ) -> dict[str, bytes]:
        found, left = {}, {}
        for key, future in others.items():
            try:
                found[key] = future.result()
            except CancelledError:
                left[key] = entries[key]
        return found | (self._fetch_wholes(left) if left else {})

    def _fetch_tables(self, entries: Mapping[str, StoredObject]) -> dict[str, ChunkTable]:
        found = {key: self._tables.get(key) for key in entries}
        asked = [key for key, table in found.items() if table is None]
        ends = [(key, entries[key].length) for key in asked]
        ranges = [(key, end - index_length(entries[key]), end) for key, end in ends]
        for key, data in zip(asked, self._read_there(ranges), strict=True):
            table = found[key] = self.listed.chunk_table(key, entries[key], data)
            self._tables.put(key, table, table.nbytes)
        return {key: table for key, table in found.items() if table is not None}

    def _fetch_parts(self, tables: Mapping[str, ChunkTable], wanted: Wanted) -> dict[str, Held]:
        gap = LOCAL_GAP if self._local else REMOTE_GAP
        spans = {
            key: layout.spans(table.starts[wanted[key]], table.stops[wanted[key]], gap)
            for key, table in tables.items()
        }
        ranges = [(key, start, stop) for key, parts in spans.items() for start, stop in parts]
        parts = iter(self._read_there(ranges))
        found = {}
        for key, table in tables.items():
            starts = [start for start, _ in spans[key]]
            found[key] = Held(key, self.listed, table, starts, [next(parts) for _ in starts])
        return found
