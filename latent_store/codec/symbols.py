"""Checks of what goes into the coder, and checksums of what comes out of it.

`compressai.ans` checks nothing: an index without a table, or fewer than four symbols, reads or
writes outside of its memory. Every call therefore passes here first.
"""

from __future__ import annotations

import google_crc32c
import numpy as np
from numpy.typing import ArrayLike

from latent_store.codec.tables import MAX_SYMBOL, EntropyTables
from latent_store.errors import IntegrityError, LatentStoreError

MIN_SYMBOLS = 4
"""The coder's output buffer has one word a symbol, which the flush overruns below four."""


def check_symbols(
    tables: EntropyTables, symbols: ArrayLike, indexes: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Returns symbols of ŷ and their scale indexes as arrays that the coder can take.

    Args:
        tables: The codec's tables.
        symbols: Integers [C, h, w].
        indexes: Integers of the same shape, each a row of `tables.y_cdf`.

    Raises:
        LatentStoreError: Shapes differ, values are no integers or out of range.
    """
    symbols = _integers(symbols, "ŷ")
    indexes = check_indexes(tables, indexes)
    if symbols.shape != indexes.shape:
        raise LatentStoreError(
            f"ŷ has shape {symbols.shape}, its scale indexes {indexes.shape}; give the indexes of "
            "the same picture and channels"
        )
    return symbols, indexes


def check_indexes(tables: EntropyTables, indexes: ArrayLike) -> np.ndarray:
    """Returns scale indexes [C, h, w] as an array.

    Raises:
        LatentStoreError: They are no integers of three axes, or one has no table.
    """
    indexes = _integers(indexes, "scale indexes")
    if indexes.size and not 0 <= indexes.min() <= indexes.max() < tables.num_scales:
        raise LatentStoreError(
            f"scale indexes reach from {indexes.min()} to {indexes.max()}, the codec has tables 0 "
            f"to {tables.num_scales - 1}; compute them with this codec"
        )
    return indexes


def check_hyper_symbols(tables: EntropyTables, symbols: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns symbols of ẑ [N, h, w] and the table number of each, int64 of the same shape.

    Raises:
        LatentStoreError: The channel count is not the codec's, or values are no integers.
    """
    symbols = _integers(symbols, "ẑ")
    return symbols, hyper_rows(tables, symbols.shape)


def hyper_rows(tables: EntropyTables, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the table number of each symbol of ẑ: its channel, int64 `shape`."""
    if shape[0] != tables.hyper_channels:
        raise LatentStoreError(
            f"ẑ has {shape[0]} channels, the codec {tables.hyper_channels}; use its own codec"
        )
    return np.broadcast_to(np.arange(shape[0])[:, None, None], shape)


def check_channels(channels: ArrayLike, total: int) -> np.ndarray:
    """Returns channel numbers as int64 [k].

    Raises:
        LatentStoreError: One is out of range or given twice.
    """
    numbers = np.asarray(channels)
    if not numbers.size:
        return np.empty(0, dtype=np.int64)
    whole = numbers.ndim == 1 and np.issubdtype(numbers.dtype, np.integer)
    if not whole or numbers.min() < 0 or numbers.max() >= total:
        raise LatentStoreError(f"channels are numbers from 0 to {total - 1}, got {_brief(numbers)}")
    if len(np.unique(numbers)) != len(numbers):
        raise LatentStoreError(f"a channel is given twice in {_brief(numbers)}; give each one once")
    return numbers.astype(np.int64)


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C (Castagnoli) of `data`."""
    return int(google_crc32c.value(bytes(data)))


def symbols_crc32c(symbols: ArrayLike) -> int:
    """Returns the crc32c of symbols, in their order in the stream, as little-endian int32."""
    return crc32c(np.asarray(symbols).astype("<i4").tobytes())


def indexes_crc32c(indexes: ArrayLike) -> int:
    """Returns the crc32c of scale indexes, in the stream's order, as uint8."""
    return crc32c(np.asarray(indexes).astype(np.uint8).tobytes())


def require_crc32c(data: bytes, expected: int, what: str) -> None:
    """Refuses a stream whose bytes have another crc32c: rANS would decode it to garbage.

    Raises:
        IntegrityError: Names `what` and both checksums.
    """
    why = f"was written: its {len(data)} bytes were truncated or altered; copy or encode it again"
    _require_equal(crc32c(data), expected, f"{what} has", why)


def require_indexes(indexes: ArrayLike, expected_crc32c: int, what: str) -> None:
    """Refuses scale indexes that are not the encoder's, before they decode a stream to garbage.

    Raises:
        IntegrityError: Names `what` and both checksums.
    """
    why = (
        "was encoded: ẑ or the codec is not the encoder's; decode with the codec and the hyper "
        "stream that belong to it"
    )
    found = indexes_crc32c(indexes)
    _require_equal(found, expected_crc32c, f"the scale indexes of {what} have", why)


def require_symbols(symbols: ArrayLike, expected_crc32c: int, what: str) -> None:
    """Refuses decoded symbols that are not those encoded.

    Raises:
        IntegrityError: Names `what` and both checksums.
    """
    why = "was encoded: the stream is another picture's or was altered; encode it again"
    found = symbols_crc32c(symbols)
    _require_equal(found, expected_crc32c, f"the decoded symbols of {what} have", why)


def _require_equal(found: int, expected: int, what: str, why: str) -> None:
    if found != expected:
        raise IntegrityError(f"{what} crc32c {found:08x}, {expected:08x} {why}")


def _integers(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer):
        raise LatentStoreError(
            f"{name} must be integers [channel, y, x], got {array.dtype} {array.shape}"
        )
    if array.size and not -MAX_SYMBOL <= array.min() <= array.max() <= MAX_SYMBOL:
        raise LatentStoreError(
            f"{name} reaches from {array.min()} to {array.max()}, symbols stay within "
            f"±{MAX_SYMBOL}; the codec's weights or the picture are damaged"
        )
    return array


def _brief(numbers: np.ndarray) -> str:
    text = ", ".join(str(n) for n in numbers.ravel()[:8])
    return f"[{text}{', ...' if numbers.size > 8 else ''}]"
