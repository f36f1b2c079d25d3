"""The judge of stored bytes: whether an object, or a piece of one, is what its receipt lists.

Inner chunks and shard indexes end in a crc32c of their own. That shows altered bytes, but not bytes
that are whole and in the wrong place: another shard, another component's, an older one. So the
receipts list those trailing checksums too, and what arrives must end in the one that belongs there.
Nothing is fetched for this that would not be fetched anyway.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import google_crc32c
import numpy as np
import pyarrow as pa

from latent_store.errors import IntegrityError
from latent_store.format.layout import INDEX_CRC, INDEX_ENTRY, NO_CHUNK
from latent_store.shards.index import ABSENT
from latent_store.shards.receipts import StoredObject

_OTHER = "is another object than its receipt lists"
_ALTERED = "has a piece without its crc32c"


@dataclass(frozen=True)
class ChunkTable:
    """The chunks of an object, in the order of its index.

    Attributes:
        starts: Of each chunk in bytes, int64; -1 where it is not there, because it is fill.
        stops: Likewise, behind its crc32c.
        crcs: The crc32c that each of them ends in, uint32.
    """

    starts: np.ndarray
    stops: np.ndarray
    crcs: np.ndarray

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return self.starts.nbytes + self.stops.nbytes + self.crcs.nbytes

    def chunk(self, number: int) -> tuple[int, int, int]:
        """Returns start, stop and crc32c of a chunk."""
        return int(self.starts[number]), int(self.stops[number]), int(self.crcs[number])


def holds_crc(piece: bytes, crc: int) -> bool:
    """Tells whether a piece ends in a crc32c, and has it."""
    end = crc.to_bytes(INDEX_CRC, "little")
    return piece[-INDEX_CRC:] == end and google_crc32c.value(piece[:-INDEX_CRC]) == crc


class ListedObjects:
    """The objects of one component, as its table lists them.

    Args:
        objects: The component's object table.
        remedy: What to do about a wrong object.
        left_out: Shards that are fill, since they are being written anew.
    """

    def __init__(self, objects: pa.Table, remedy: str, left_out: Collection[int] = ()) -> None:
        self._objects, self._remedy = objects, remedy
        keys = objects["key"].to_pylist()
        self._places = {key: place for place, key in enumerate(keys)}
        self._left_out = frozenset(left_out)
        self._shards = objects["shard"].to_numpy()
        self._entries: dict[str, StoredObject | None] = {}

    def is_left_out(self, key: str) -> bool:
        """Tells whether an object is fill, whatever lies there."""
        return bool(self._left_out) and int(self._shards[self._place(key)]) in self._left_out

    def entry(self, key: str) -> StoredObject | None:
        """Returns what is listed of an object; None where all its values are fill.

        Raises:
            IntegrityError: It is in no receipt.
        """
        if key not in self._entries:
            row = self._objects.slice(self._place(key), 1).to_pylist()[0]
            fields = ("length", "crc32c", "inner_chunks", "trailers")
            there = row["length"] != ABSENT
            self._entries[key] = StoredObject(**{n: row[n] for n in fields}) if there else None
        return self._entries[key]

    def require_whole(self, key: str, listed: StoredObject, data: bytes) -> None:
        """Refuses bytes that are not an object."""
        defect = listed.defect(data)
        if defect is not None:
            raise self.refusal(key, f"{_OTHER} ({defect})")

    def require_piece(self, key: str, piece: bytes, crc: int) -> None:
        """Refuses bytes that are not the piece of an object that ends in `crc`."""
        if not holds_crc(piece, crc):
            same = piece.endswith(crc.to_bytes(INDEX_CRC, "little"))
            raise self.refusal(key, _ALTERED if same else _OTHER)

    def chunk_table(self, key: str, listed: StoredObject, index: bytes) -> ChunkTable:
        """Reads the index of an object.

        Args:
            key: The object.
            listed: Its entry.
            index: Its last `index_length` bytes: the index and its crc32c.
        """
        if not listed.inner_chunks:
            crcs = np.frombuffer(listed.trailers, "<u4")
            return ChunkTable(np.zeros(1, np.int64), np.array([listed.length], np.int64), crcs)
        self.require_piece(key, index, int.from_bytes(listed.trailer(-1), "little"))
        entries = np.frombuffer(index, "<u8", 2 * listed.inner_chunks).reshape(-1, 2)
        (there,) = np.nonzero((entries != NO_CHUNK).any(axis=1))
        crcs = np.frombuffer(listed.trailers, "<u4")[:-1]
        if len(there) != len(crcs):
            raise self.refusal(key, _OTHER)
        starts, stops = np.full((2, len(entries)), -1, np.int64)
        starts[there] = entries[there, 0].astype(np.int64)
        stops[there] = starts[there] + entries[there, 1].astype(np.int64)
        by_chunk = np.zeros(len(entries), np.uint32)
        by_chunk[there[np.argsort(starts[there])]] = crcs
        return ChunkTable(starts, stops, by_chunk)

    def refusal(self, key: str, what: str) -> IntegrityError:
        """Returns the error that an object is met with."""
        return IntegrityError(f"{key} {what}: it was deleted, swapped or altered; {self._remedy}")

    def _place(self, key: str) -> int:
        if key not in self._places:
            raise self.refusal(key, "is in no receipt")
        return self._places[key]


def index_length(listed: StoredObject) -> int:
    """Returns the bytes of an object's index, its crc32c included; 0 of a plain chunk."""
    return INDEX_ENTRY * listed.inner_chunks + INDEX_CRC if listed.inner_chunks else 0
