"""Layout arithmetic: padded sizes, rows and shards, chunks, and the names of objects.

Pure functions of integers; everything else in the package asks here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from latent_store.errors import CapacityError
from latent_store.format.schema import PAD_MULTIPLE, ArraySpec, BytesSpec

Rows = Sequence[int] | np.ndarray
"""Row numbers, in any order."""
Numbers = range | tuple[int, ...]
"""Positions on an axis: consecutive ones, or any."""
STREAM_CHUNK = 1 << 16
"""Bytes in an inner chunk of flat bitstreams."""
INDEX_ENTRY = 16
"""Bytes of a shard index for each inner chunk: start and length."""
NO_CHUNK = 2**64 - 1
"""Start and length, in a shard index, of a chunk that is not there."""
INDEX_CRC = 4
"""Bytes of the crc32c behind a shard index, and behind each inner chunk."""


def round_up(value: int, multiple: int) -> int:
    """Returns the smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def coded_size(height: int, width: int) -> tuple[int, int]:
    """Returns the size, in pixels, at which a picture is coded: padded to multiples of 64.

    Raises:
        CapacityError: A side is below 1.
    """
    if height < 1 or width < 1:
        raise CapacityError(f"a picture has at least one pixel a side, got {height}x{width}")
    return round_up(height, PAD_MULTIPLE), round_up(width, PAD_MULTIPLE)


def shard_of(row: int, samples_per_shard: int) -> int:
    """Returns the shard that holds a row."""
    return row // samples_per_shard


def num_shards(num_rows: int, samples_per_shard: int) -> int:
    """Returns how many shards `num_rows` rows take; the last one may be partly void."""
    return -(-num_rows // samples_per_shard)


def chunk_shapes(
    array: ArraySpec, samples_per_shard: int
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Returns `(chunks, shards)` for Zarr, the sample axis first.

    A shard spans every row of one shard of samples, so that one object holds it; sides that are
    no multiple of the inner chunk are rounded up, which Zarr fills.
    """
    if array.inner is None:
        return (samples_per_shard, *array.shape), None
    whole = tuple(round_up(n, c) for n, c in zip(array.shape, array.inner, strict=True))
    return (1, *array.inner), (samples_per_shard, *whole)


def stream_row_bytes(stream: BytesSpec, samples_per_shard: int) -> int:
    """Returns the bytes that one shard's row of a flat bitstream can hold."""
    return round_up(stream.capacity * samples_per_shard, STREAM_CHUNK)


def object_key(array_path: str, shard: int, rank: int) -> str:
    """Returns the key of the one object that holds a shard of an array of `rank` axes."""
    return "/".join([array_path, "c", str(shard), *["0"] * (rank - 1)])


def present_chunks(index: bytes | np.ndarray) -> np.ndarray:
    """Returns where the inner chunks of a shard lie, from its index.

    Args:
        index: The bytes of the index, its crc32c at the end included.

    Returns:
        int64 `[n, 2]`: start and length of every chunk that is there, by rising start.
    """
    entries = np.frombuffer(bytes(index)[:-INDEX_CRC], dtype="<u8").reshape(-1, 2)
    there: np.ndarray = entries[(entries != NO_CHUNK).any(axis=1)].astype(np.int64)
    return there[np.argsort(there[:, 0])]


def chunk_trailers(data: bytes, inner_chunks: int) -> bytes:
    """Returns the crc32c that each piece of an object ends in: its chunks as they lie, its index.

    Args:
        data: The object.
        inner_chunks: How many inner chunks its index has room for; 0 for a plain chunk, which is
            one piece.

    Returns:
        uint32, little-endian, end to end.
    """
    index = data[-(INDEX_ENTRY * inner_chunks + INDEX_CRC) :]
    ends = (present_chunks(index).sum(axis=1) if inner_chunks else np.empty(0)).astype(int)
    return b"".join(data[end - INDEX_CRC : end] for end in [*ends.tolist(), len(data)])


def spans(starts: np.ndarray, stops: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """Joins byte ranges that lie no further apart than `gap`, in rising order.

    Args:
        starts: int64 `[n]`; -1 where nothing lies.
        stops: int64 `[n]`.
        gap: In bytes.
    """
    there = np.flatnonzero(starts >= 0)
    order = there[np.argsort(starts[there])]
    if not order.size:
        return []
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    (breaks,) = np.nonzero(starts[1:] - stops[:-1] > gap)
    firsts, lasts = starts[[0, *(breaks + 1)]], stops[[*breaks, -1]]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def runs(rows: Rows) -> list[tuple[int, int]]:
    """Cuts row numbers into `(start, stop)` runs of consecutive ones, in the order given.

    Readers fetch one slice a run, because slices are the fast path of every Zarr reader.
    """
    values = np.asarray(rows, dtype=np.int64)
    if not values.size:
        return []
    breaks = np.flatnonzero(np.diff(values) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(values, breaks)]


def pack_bytes(parts: Iterable[bytes], capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lays byte strings end to end.

    Args:
        parts: One byte string a row; void rows are empty.
        capacity: The most bytes that fit.

    Returns:
        `(data uint8 [n], offset int64 [rows], length int64 [rows])`.

    Raises:
        CapacityError: They do not fit.
    """
    parts = list(parts)
    length = np.array([len(p) for p in parts], dtype=np.int64)
    offset = np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64)
    if int(length.sum()) > capacity:
        raise CapacityError(
            f"the streams of one shard take {int(length.sum())} bytes, more than the {capacity} "
            "planned; encode with fewer `samples_per_shard=` into a new store"
        )
    return np.frombuffer(b"".join(parts), dtype=np.uint8), offset, length


def pieces(numbers: Numbers, chunk: int) -> list[tuple[int, Any, Any]]:
    """Cuts positions on an axis at the borders of its chunks.

    Returns:
        For each chunk that holds some: its number, where they stand among `numbers`, and where they
        lie in the chunk; slices of a range, else int64 `[n]`.
    """
    if isinstance(numbers, range):
        first, stop = numbers.start, numbers.stop
        borders = [first, *range(round_up(first + 1, chunk), stop, chunk), stop]
        return [
            (a // chunk, slice(a - first, b - first), slice(a % chunk, a % chunk + b - a))
            for a, b in itertools.pairwise(borders)
            if a < b
        ]
    values = np.asarray(numbers, dtype=np.int64)
    found = ((n, np.flatnonzero(values // chunk == n)) for n in np.unique(values // chunk).tolist())
    return [(n, at, values[at] - n * chunk) for n, at in found]


def window_or_all(
    window: tuple[int, int, int, int] | None, height: int, width: int
) -> tuple[range, range]:
    """Turns `(top, left, height, width)` into rows and columns, and None into the whole plane.

    Raises:
        CapacityError: The window leaves the plane.
    """
    if window is None:
        return range(height), range(width)
    top, left, rows, columns = map(int, window)
    if not (0 <= top < top + rows <= height and 0 <= left < left + columns <= width):
        raise CapacityError(
            f"window (top, left, height, width) = {window} leaves the plane of {height}x{width}"
        )
    return range(top, top + rows), range(left, left + columns)
