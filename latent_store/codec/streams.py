"""Entropy-coded streams: ẑ, ŷ in natural order, any subset of channels, and the scalable stream.

Given ẑ every channel of ŷ is coded on its own tables, so channels can be left out or put in any
order. Coded in order of importance a stream is prefix-decodable: rANS works backwards, so the
words that the tail alone emits stand at the end, and the first `k` channels need only the first
`len(full) - len(tail alone) + 8` bytes. One stream serves every number of channels.

Natural-order streams are exactly CompressAI's strings.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from latent_store.codec import stock
from latent_store.codec.symbols import (
    MIN_SYMBOLS,
    check_channels,
    check_hyper_symbols,
    check_indexes,
    check_symbols,
    crc32c,
    hyper_rows,
    indexes_crc32c,
    symbols_crc32c,
)
from latent_store.codec.tables import PRECISION, CoderTables, EntropyTables
from latent_store.errors import IntegrityError, LatentStoreError

WORD = 4
FLUSH_BYTES = 8
"""The encoder ends by writing its 64-bit state, with which the decoder starts."""
STATE_RANGE = (1 << 31, 1 << 63)
NIBBLE = 4
"""Bits of a digit of a symbol outside its table."""
DEAREST_SYMBOL = 7
"""Bytes that no symbol exceeds: the escape of 16 bits, the count of its digits, and 8 digits."""


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Numbers of channels at which a stream may be cut, and what stands before each cut.

    Attributes:
        cuts: Channel counts, rising.
        cut_bytes: Bytes that the first `cuts[i]` channels need.
        symbols_crc32c: Of the symbols up to each cut, in stream order.
        indexes_crc32c: Of their scale indexes.
    """

    cuts: tuple[int, ...]
    cut_bytes: tuple[int, ...]
    symbols_crc32c: tuple[int, ...]
    indexes_crc32c: tuple[int, ...]

    def cut_index(self, keep: int) -> int:
        """Returns the position of `keep` channels among the cuts.

        Raises:
            LatentStoreError: `keep` is no cut.
        """
        if keep not in self.cuts:
            raise LatentStoreError(
                f"the stream has cuts at {list(self.cuts)}, not at {keep}; choose one of them"
            )
        return self.cuts.index(keep)


@dataclass(frozen=True, kw_only=True)
class CutStream(Cuts):
    """One stream of ŷ, and where it may be cut.

    Attributes:
        data: The whole stream.
        bytes_crc32c: Of the prefix of each cut.
    """

    data: bytes
    bytes_crc32c: tuple[int, ...]

    def prefix(self, keep: int) -> bytes:
        """Returns the bytes of the first `keep` channels.

        Raises:
            LatentStoreError: `keep` is no cut.
        """
        return self.data[: self.cut_bytes[self.cut_index(keep)]]


def encode_z(tables: EntropyTables, z_symbols_NHW: ArrayLike, *, verify: bool = False) -> bytes:
    """Returns the stream of the hyper-latent's symbols, int [N, h, w], as CompressAI writes it.

    Raises:
        LatentStoreError: The channel count is not the codec's, or there are too few symbols.
        IntegrityError: With `verify`, the stream does not decode to these symbols.
    """
    symbols, rows = check_hyper_symbols(tables, z_symbols_NHW)
    return _encode(_listed(symbols), _listed(rows), tables.z_coder, verify=verify)


def decode_z(tables: EntropyTables, data: bytes, height: int, width: int) -> np.ndarray:
    """Returns the symbols of a hyper stream, int32 [N, height, width].

    Args:
        tables: The codec's tables.
        data: The stream; check its crc32c first, since a damaged one decodes to garbage.
        height: In positions of ẑ: coded pixels / 64.
        width: As `height`.

    Raises:
        IntegrityError: These bytes cannot be the start of a stream, or so few cannot hold so many
            symbols. This is found before anything of the picture's size is allocated.
    """
    _require_bits(data, tables.z_bits.min(axis=1), height * width)
    rows = hyper_rows(tables, (tables.hyper_channels, height, width))
    return _decode(data, rows, tables.z_coder)


def encode_y(
    tables: EntropyTables,
    symbols_CHW: ArrayLike,
    indexes_CHW: ArrayLike,
    channels: Sequence[int] | np.ndarray | None = None,
    *,
    verify: bool = False,
) -> bytes:
    """Returns the stream of ŷ, or of some of its channels.

    Args:
        tables: The codec's tables.
        symbols_CHW: Integers [C, h, w], the symbols of ŷ.
        indexes_CHW: Scale indexes [C, h, w].
        channels: Channel numbers in the stream's order; None means all, in natural order, which
            is CompressAI's string. No channels give no bytes.
        verify: Decode it again.

    Raises:
        LatentStoreError: Shapes or values are off, or there are fewer than 4 symbols.
        IntegrityError: With `verify`, the stream does not decode to these symbols.
    """
    symbols, indexes = check_symbols(tables, symbols_CHW, indexes_CHW)
    if channels is not None:
        numbers = check_channels(channels, len(symbols))
        symbols, indexes = symbols[numbers], indexes[numbers]
    if not len(symbols):
        return b""
    return _encode(_listed(symbols), _listed(indexes), tables.y_coder, verify=verify)


def decode_y(
    tables: EntropyTables,
    data: bytes,
    indexes_CHW: ArrayLike,
    channels: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Returns the symbols of a stream of ŷ.

    Args:
        tables: The codec's tables.
        data: The stream, or a prefix that holds at least these channels; check its crc32c first.
        indexes_CHW: Scale indexes [C, h, w], of all channels unless `channels` is None.
        channels: The channels that the stream starts with, in its order; None: the indexes'.

    Returns:
        int32 [k, h, w] in the stream's order.

    Raises:
        IntegrityError: These bytes cannot be the start of a stream, or so few cannot hold so many
            symbols.
        LatentStoreError: Channels or indexes are out of range.
    """
    indexes = check_indexes(tables, indexes_CHW)
    if channels is not None:
        indexes = indexes[check_channels(channels, len(indexes))]
    if not len(indexes):
        return np.empty(indexes.shape, dtype=np.int32)
    counts = np.bincount(indexes.ravel(), minlength=tables.num_scales)
    _require_bits(data, tables.y_bits.min(axis=1), counts)
    return _decode(data, indexes, tables.y_coder)


def encode_scalable(
    tables: EntropyTables,
    symbols_CHW: ArrayLike,
    indexes_CHW: ArrayLike,
    order: Sequence[int],
    cuts: Sequence[int],
    *,
    verify: bool = False,
) -> CutStream:
    """Codes all channels in order of importance, and finds the prefix of each cut.

    Args:
        tables: The codec's tables.
        symbols_CHW: Integers [C, h, w], the symbols of ŷ.
        indexes_CHW: Scale indexes [C, h, w].
        order: All C channel numbers, the most important first.
        cuts: Rising numbers of channels, from 1 to C.
        verify: Decode the stream again, and the prefix of the first cut. Behind every cut, in any
            case, are the very words that the tail alone is coded to.

    Raises:
        LatentStoreError: `order` is no permutation, `cuts` do not rise within 1..C, or the
            symbols are not codable.
        IntegrityError: The stream does not end in a tail, or does not decode to its symbols.
    """
    channels = len(np.asarray(symbols_CHW))
    if len(order) != channels:
        raise LatentStoreError(
            f"the order has {len(order)} channels, ŷ {channels}; give an order of all of them"
        )
    return encode_with_cuts(tables, symbols_CHW, indexes_CHW, order, cuts, verify=verify)


def encode_with_cuts(
    tables: EntropyTables,
    symbols_CHW: ArrayLike,
    indexes_CHW: ArrayLike,
    channels: Sequence[int],
    cuts: Sequence[int],
    *,
    verify: bool = False,
) -> CutStream:
    """Codes as `encode_scalable`, but only some channels, for which no channels need no cuts."""
    symbols, indexes = check_symbols(tables, symbols_CHW, indexes_CHW)
    numbers = check_channels(channels, len(symbols))
    _check_cuts(len(numbers), cuts)
    symbols, indexes = symbols[numbers], indexes[numbers]
    lists, coder = (_listed(symbols), _listed(indexes)), tables.y_coder
    data = _encode(*lists, coder, verify=verify) if len(numbers) else b""
    plane = symbols[:1].size
    cut_bytes = tuple(len(data) - _tail_bytes(data, *lists, keep * plane, coder) for keep in cuts)
    if verify and cuts:
        first = decode_y(tables, data[: cut_bytes[0]], indexes[: cuts[0]])
        _require_same(np.array_equal(first, symbols[: cuts[0]]), f"cut at {cuts[0]} channels")
    return CutStream(
        data=data,
        cuts=tuple(int(keep) for keep in cuts),
        cut_bytes=cut_bytes,
        symbols_crc32c=tuple(symbols_crc32c(symbols[:keep]) for keep in cuts),
        indexes_crc32c=tuple(indexes_crc32c(indexes[:keep]) for keep in cuts),
        bytes_crc32c=tuple(crc32c(data[:end]) for end in cut_bytes),
    )


def decode_scalable(
    tables: EntropyTables,
    prefix: bytes,
    indexes_CHW: ArrayLike,
    order: Sequence[int] | np.ndarray,
    keep: int,
) -> np.ndarray:
    """Returns the first `keep` channels of a scalable stream, int32 [keep, h, w], ranked.

    Args:
        tables: The codec's tables.
        prefix: At least the bytes of that cut; more do no harm.
        indexes_CHW: Scale indexes of all channels [C, h, w], in natural order.
        order: The ranking that the stream was coded in.
        keep: Channels to decode.

    Raises:
        IntegrityError: These bytes cannot be the start of a stream.
        LatentStoreError: `keep` exceeds the ranking.
    """
    if not 0 <= keep <= len(order):
        raise LatentStoreError(
            f"keep is {keep}, the ranking has {len(order)} channels; ask for fewer"
        )
    return decode_y(tables, prefix, indexes_CHW, order[:keep])


def _check_cuts(channels: int, cuts: Sequence[int]) -> None:
    steps = [0, *cuts]
    rising = all(a < b for a, b in itertools.pairwise(steps))
    if bool(cuts) != bool(channels) or not rising or steps[-1] > channels:
        raise LatentStoreError(f"cuts must rise within 1 to {channels}, got {list(cuts)}")


def _tail_bytes(
    data: bytes, symbols: list[int], indexes: list[int], start: int, tables: CoderTables
) -> int:
    """Returns how many bytes at the end of a stream serve only symbols from `start` on."""
    # One to three symbols cannot be coded alone: the prefix before them is the whole stream.
    # (Padded pictures have at least 16 symbols a channel.)
    if len(symbols) - start < MIN_SYMBOLS:
        return 0
    words = _encode(symbols[start:], indexes[start:], tables)[FLUSH_BYTES:]
    _require_same(data.endswith(words), f"tail from symbol {start} on")
    return len(words)


def _encode(
    symbols: list[int], indexes: list[int], tables: CoderTables, *, verify: bool = False
) -> bytes:
    _require_enough(len(symbols))
    data = bytes(stock.RansEncoder().encode_with_indexes(symbols, indexes, *tables))
    if verify:
        # The encoder's own stream needs no padding, and lists are compared sooner than converted.
        decoded = stock.RansDecoder().decode_with_indexes(data, indexes, *tables)
        _require_same(decoded == symbols, f"{len(symbols)} symbols")
    return data


def _require_same(same: bool, what: str) -> None:  # noqa: FBT001
    if not same:
        raise IntegrityError(
            f"a stream does not decode to what was encoded ({what}): the codec's tables are damaged"
        )


def _listed(values: np.ndarray) -> list[int]:
    """Returns integers as the coder takes them, faster than `tolist`: small ones by table."""
    if values.dtype == np.uint8:
        return list(values.tobytes())
    return np.ascontiguousarray(values, dtype=np.int32).ravel().data.tolist()


def _decode(data: bytes, indexes: np.ndarray, tables: CoderTables) -> np.ndarray:
    data = bytes(data[: 2 * FLUSH_BYTES + DEAREST_SYMBOL * indexes.size])
    padded = data.ljust(len(data) + _padding(len(data), indexes.size, tables), b"\0")
    values = stock.RansDecoder().decode_with_indexes(padded, _listed(indexes), *tables)
    decoded = np.empty(indexes.shape, dtype=np.int32)
    # Faster than numpy's own reading of a list.
    struct.pack_into(f"{decoded.size}i", decoded.data, 0, *values)
    return decoded


def _padding(length: int, symbols: int, tables: CoderTables) -> int:
    """Returns how many zero bytes keep the decoder, which has no bound, inside its input.

    A whole stream or prefix needs none of them. Of an altered one every count of digits may be
    wrong: it is the sum of 4-bit numbers up to the first below 15. Before the end of the data each
    number demands 15 digits at most, so 15 bytes a byte. Behind it see `_most_bytes`.
    """
    return -length % WORD + _most_bytes(tables) * symbols + 16 * length + (1 << 10)


def _most_bytes(tables: CoderTables) -> int:
    """Returns how many bytes of zeros each symbol takes at most, in the mean of many.

    The decoder's state x is below 2^63. Where it falls below 2^31 a word is read: 32 zeros from
    below. A symbol of frequency f takes 16 zeros away and leaves f / 2^16 of x, a digit 4 zeros
    and a sixteenth. Digits of 15 come from bits above the zeros, and the escape, which is a
    table's last symbol, is not 0: so between the last word of one escape with such a count and
    the next such escape all but 15 of the zeros must go, which takes 1, 2 or 3 symbols (the last
    of them the escape) where 12, 28 or 32 zeros were left. Of the state, below 2^(31 + zeros),
    the escape's frequency leaves so much that `counts` numbers are read until the next word, which
    ends the count: 15 digits each. An escape without a 15 has 14 digits at most.
    """
    frequency = max(row[-1] - row[-2] for row in tables.cdf)
    escape = PRECISION - (frequency - 1).bit_length()
    bits = NIBBLE * (1 + 14) + PRECISION
    for zeros, symbols in ((12, 1), (28, 2), (32, 3)):
        counts = max(0, -((escape - zeros) // NIBBLE))
        bits = max(bits, -(-(zeros + 2 * NIBBLE + NIBBLE * 15 * counts) // symbols))
    return -(-bits // 8)


def _require_bits(data: bytes, least_bits: np.ndarray, counts: np.ndarray | int) -> None:
    """Refuses too few symbols, and bytes that start no stream or are too few for the symbols.

    Args:
        data: The stream.
        least_bits: Float64, of the likeliest symbol of each table.
        counts: Symbols of each table.
    """
    _require_enough(np.broadcast_to(counts, least_bits.shape).sum(dtype=np.float64))
    _require_state(data)
    # The coder's state is an integer: each symbol may take 2^-15 less than its share.
    needed = float((least_bits * counts).sum()) * (1 - 2**-14)
    if needed > 8 * len(data):
        raise IntegrityError(
            f"these {len(data)} bytes cannot hold the symbols of such a picture, which take "
            f"{needed / 8:.0f} at least; they were truncated or altered, copy or encode them again"
        )


def _require_enough(symbols: float) -> None:
    if symbols < MIN_SYMBOLS:
        raise LatentStoreError(
            f"a stream of {symbols:g} symbols is too short for the coder, which needs "
            f"{MIN_SYMBOLS}; code whole channels of a picture padded to multiples of 64"
        )


def _require_state(data: bytes) -> None:
    # Within this range the decoder's state never reaches 0, so the padding's bound holds.
    state = int.from_bytes(data[:4], "little") | int.from_bytes(data[4:8], "little") << 32
    if len(data) < FLUSH_BYTES or not STATE_RANGE[0] <= state < STATE_RANGE[1]:
        raise IntegrityError(
            f"these {len(data)} bytes are not the start of an entropy-coded stream; they were "
            "truncated or altered, copy or encode them again"
        )
