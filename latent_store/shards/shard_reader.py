"""Reads one array of a component: many rows at once, each whole or cut, straight into a batch.

zarr-python takes 0.4 ms, and from a distance a request, for every inner chunk, of which a picture
has dozens. Here the chunks of a whole load come in few requests (`latent_store.shards.fetching`),
and those of a row, or of several small ones, are decoded in one call, and copied
to where they belong in another (`latent_store.shards.chunk_codec`, `latent_store.shards.covers`);
meanwhile other threads decode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import zarr

from latent_store.errors import IntegrityError
from latent_store.format import layout
from latent_store.format.layout import Rows
from latent_store.shards import recycled
from latent_store.shards.chunk_codec import ChunkCodec
from latent_store.shards.covers import Cover, Cut
from latent_store.shards.fetching import Fetcher, Held

_COVERS = 1024
_CACHED = 2**20
"""Bytes of rows that one call decodes, which are copied before they leave the processor's cache. A
picture of 256 x 256 takes 0.26 ms of a core, and 0.32 by a call of its own."""
_TOGETHER = 2**23
"""The same of rows of which little is wanted: two threads wait for each other less. A crop of 256
of 1024 x 2048 takes 0.54 ms by the clock with them, and 0.64 by a call of its own."""
_WASTEFUL = 4
"""How many times what is wanted is decoded, then."""


class ShardReader:
    """Reads rows of an array.

    Args:
        array: The array, its metadata checked.
        fetcher: Of its component.

    Raises:
        IntegrityError: It is laid out, or coded, as none of the format's arrays is.
    """

    def __init__(self, array: zarr.Array, fetcher: Fetcher) -> None:
        self.dtype, self.axes = array.dtype, array.shape[1:]
        self._path, self._fetcher = array.path, fetcher
        self._codec = ChunkCodec(array)
        self._per_shard, *whole = array.shards or array.chunks
        per_chunk, *self._inner = array.chunks
        self._in_pieces = array.shards is not None
        self._grid = [side // inner for side, inner in zip(whole, self._inner, strict=True)]
        # In an object that is one chunk, that has all rows; else each row has chunks of its own.
        self._per_row = math.prod(self._grid) if self._in_pieces else 0
        cut_axes = any(side > most for side, most in zip(self.axes, whole, strict=True))
        if cut_axes or (self._in_pieces and per_chunk != 1):
            raise IntegrityError(f"{array.path} is cut into chunks that the format does not know")
        self._cover = lru_cache(_COVERS)(self._cover_of)

    def read(self, rows: Rows, cuts: Cut | list[Cut] = ()) -> np.ndarray:
        """Returns a cut of each row, `[n, ...]`.

        Args:
            rows: Row numbers, in any order.
            cuts: One for all rows, or a list of one each, all of one size.

        Raises:
            IntegrityError: What is stored is not what the receipts list.
            ValueError: A chunk cannot be decoded.
        """
        each = cuts if isinstance(cuts, list) else [cuts] * len(rows)
        like = cuts[0] if isinstance(cuts, list) else cuts
        out = recycled.empty((len(rows), *map(len, self._full(like))), self.dtype)
        rank = 1 + len(self.axes)
        shards, places = np.divmod(np.asarray(rows, dtype=np.int64), self._per_shard)
        keys = [layout.object_key(self._path, shard, rank) for shard in shards.tolist()]
        covers = [self._cover(cut) for cut in each]
        firsts = (places * self._per_row).tolist()
        wanted: dict[str, list[np.ndarray]] = {}
        for key, first, cover in zip(keys, firsts, covers, strict=True):
            wanted.setdefault(key, []).append(cover.numbers + first)
        held = self._fetcher.fetch({k: np.unique(np.concatenate(n)) for k, n in wanted.items()})
        if self._in_pieces:
            parts = list(zip(out, map(held.get, keys), firsts, covers, strict=True))
            step = self._rows_at_once(out.nbytes, [len(cover.numbers) for cover in covers])
            for start in range(0, len(parts), step):
                self._fill(parts[start : start + step])
            return out
        wholes = {key: self._codec.decode(_pieces(there, [0])[1])[0] for key, there in held.items()}
        for i, (key, place, cover) in enumerate(zip(keys, places.tolist(), covers, strict=True)):
            out[i] = cover.pick(wholes[key][place]) if key in wholes else 0
        return out

    def _rows_at_once(self, wanted: int, chunks: Sequence[int]) -> int:
        """Returns how many rows are decoded by one call: several if they are small, or little is
        wanted of each.

        Args:
            wanted: Bytes that are read.
            chunks: How many each row decodes for that.
        """
        decoded = self._codec.nbytes * sum(chunks)
        most = _CACHED if decoded < _WASTEFUL * wanted else _TOGETHER
        return max(most * len(chunks) // max(decoded, 1), 1)

    def _fill(self, parts: Sequence[tuple[np.ndarray, Held | None, int, Cover]]) -> None:
        """Reads rows: each to where it is wanted, from its object, from a chunk on."""
        pieces: list[bytes] = []
        ends: list[tuple[np.ndarray, Cover, list[int], int]] = []
        for out, held, first, cover in parts:
            if held is None:
                out[...] = 0
                continue
            there, found = _pieces(held, (cover.numbers + first).tolist())
            pieces += found
            ends.append((out, cover, there, len(pieces)))
        values = self._codec.decode(pieces)
        for out, cover, there, end in ends:
            cover.place(values[end - len(there) : end, 0], there, out)

    def _full(self, cut: Cut) -> Cut:
        return (*cut, *map(range, self.axes[len(cut) :]))

    def _cover_of(self, cut: Cut) -> Cover:
        return Cover(self._full(cut), self._inner, self._grid)


def _pieces(held: Held, numbers: Sequence[int]) -> tuple[list[int], list[bytes]]:
    """Returns which of some chunks of an object are there, and these."""
    pieces = [held.piece(number) for number in numbers]
    there = [i for i, piece in enumerate(pieces) if piece is not None]
    return there, [piece for piece in pieces if piece is not None]
