"""Decodes chunks, several at once, into NumPy arrays.

Python's lock is given up and taken again for each call that decodes, and with two threads each of
these may have to wait. So the frames of a row's chunks are laid end to end, which is one zstd
stream, and decoded in one call, by the library that reads the tables anyway. For one picture
(192 x 64 x 128 symbols, 1024 x 2048 labels, 44 chunks) that and the copy into a batch took 1.47 ms
of a core; with `zstandard`, chunk by chunk, 1.82; with `numcodecs`, which makes a context a chunk,
3.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, Endian, ShardingCodec, ZstdCodec

from latent_store.errors import IntegrityError
from latent_store.format.layout import INDEX_CRC

Unfold = Callable[[Sequence[bytes], int], Any]
"""Compressed chunks, and how many bytes each must unfold to; gives all of them, end to end."""
_BLOSC_HEADER = 16
_zstd = pa.Codec("zstd")


class ChunkCodec:
    """The codec of one array's chunks.

    Attributes:
        nbytes: Of a chunk, decoded.

    Raises:
        IntegrityError: They are coded as none of the format's are.
    """

    def __init__(self, array: zarr.Array) -> None:
        self.dtype, self.shape = array.dtype, array.chunks
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self._unfold = _unfold_of(array.path, getattr(array.metadata, "codecs", ()))

    def decode(self, pieces: Sequence[bytes]) -> np.ndarray:
        """Returns the values of chunks whose crc32c was checked, `[n, ...]`.

        Raises:
            ValueError: They do not unfold to as many as they have.
        """
        if not pieces:
            return np.empty((0, *self.shape), self.dtype)
        data = self._unfold([piece[:-INDEX_CRC] for piece in pieces], self.nbytes)
        # The format's bytes are little-endian, whatever the machine's are.
        return np.frombuffer(data, self.dtype.newbyteorder("<")).reshape(len(pieces), *self.shape)


def _unfold_of(path: str, codecs: Sequence[Any]) -> Unfold:
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        codecs = codecs[0].codecs
    compressors = {ZstdCodec: _unfold_zstd, BloscCodec: _unfold_blosc}
    kinds = [type(codec) for codec in codecs]
    whole = len(kinds) == 3 and (kinds[0], kinds[2]) == (BytesCodec, Crc32cCodec)
    # Of single bytes there is no order.
    little = whole and codecs[0].endian in (None, Endian.little)
    if not little or kinds[1] not in compressors:
        raise IntegrityError(
            f"{path} has chunks that no version of the format writes; run its job again"
        )
    return compressors[kinds[1]]


def _unfold_zstd(chunks: Sequence[bytes], nbytes: int) -> Any:
    try:
        return _zstd.decompress(b"".join(chunks), decompressed_size=nbytes * len(chunks))
    except OSError as error:
        raise ValueError(str(error)) from error


def _unfold_blosc(chunks: Sequence[bytes], nbytes: int) -> Any:
    out = np.empty((len(chunks), nbytes), np.uint8)
    for values, chunk in zip(out, chunks, strict=True):
        # Nothing is allocated for what a header says.
        if len(chunk) < _BLOSC_HEADER or int.from_bytes(chunk[4:8], "little") != nbytes:
            raise ValueError(f"a chunk does not unfold to {nbytes} bytes")
        blosc.decompress(chunk, values)
    return out
