"""The way from latents to a stream file and back, with every check on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from latent_store.codec.hyperprior import Codec
from latent_store.codec.stream_file import StreamFile
from latent_store.codec.streams import (
    decode_y,
    decode_z,
    encode_scalable,
    encode_with_cuts,
    encode_z,
)
from latent_store.codec.symbols import require_indexes, require_symbols
from latent_store.errors import LatentStoreError


@dataclass(frozen=True, kw_only=True)
class DecodedStream:
    """The channels that a stream file carried.

    Attributes:
        channels: Channel numbers, in the stream's order.
        y_hat_KHW: [K, h, w], those channels in that order; int32, or float32 where the codec has
            means.
        num_channels: Of the codec.
    """

    channels: tuple[int, ...]
    y_hat_KHW: np.ndarray
    num_channels: int

    def full(self) -> np.ndarray:
        """Returns ŷ [C, h, w] in natural order, with 0 where nothing was sent."""
        shape = (self.num_channels, *self.y_hat_KHW.shape[1:])
        y_hat_CHW = np.zeros(shape, dtype=self.y_hat_KHW.dtype)
        y_hat_CHW[list(self.channels)] = self.y_hat_KHW
        return y_hat_CHW


def pack_stream(
    codec: Codec,
    symbols_CHW: ArrayLike,
    z_symbols_NHW: ArrayLike,
    indexes_CHW: ArrayLike,
    *,
    size: tuple[int, int],
    selection: str,
    channels: Sequence[int] | None = None,
    cuts: Sequence[int] | None = None,
) -> StreamFile:
    """Codes one picture's latents.

    Args:
        codec: The codec that made them.
        symbols_CHW: Integers [C, h, w], the symbols of ŷ.
        z_symbols_NHW: Integers [N, h/4, w/4].
        indexes_CHW: `codec.indexes` of them, [C, h, w].
        size: Height and width of the picture before padding.
        selection: `"all"`, `"static"`, `"dynamic"` or `"scalable"`.
        channels: The channels to send: in order of importance (static; scalable: all of them),
            rising (dynamic); None for `"all"`.
        cuts: For `"scalable"`: where the stream may be cut; all channels are added.

    Raises:
        LatentStoreError: Arguments contradict each other.
    """
    if (channels is None) != (selection == "all") or (cuts is None) != (selection != "scalable"):
        raise LatentStoreError(
            f"selection {selection!r} came with channels: {channels is not None}, cuts: "
            f"{cuts is not None}; give channels for all but 'all', cuts for 'scalable' only"
        )
    symbols_CHW = np.asarray(symbols_CHW)
    order = tuple(range(len(symbols_CHW)) if channels is None else (int(c) for c in channels))
    if cuts is None:
        whole = (len(order),) if order else ()
        coded = encode_with_cuts(codec.tables, symbols_CHW, indexes_CHW, order, whole)
    else:
        inner = (cut for cut in cuts if cut != len(order))
        coded = encode_scalable(codec.tables, symbols_CHW, indexes_CHW, order, (*inner, len(order)))
    return StreamFile(
        codec_digest=codec.spec.digest,
        num_channels=codec.spec.channels,
        height=size[0],
        width=size[1],
        selection=selection,
        channels=order,
        cuts=coded.cuts,
        cut_bytes=coded.cut_bytes,
        symbols_crc32c=coded.symbols_crc32c,
        indexes_crc32c=coded.indexes_crc32c,
        z=encode_z(codec.tables, z_symbols_NHW),
        y=coded.data,
    )


def unpack_stream(codec: Codec, stream: StreamFile, keep: int | None = None) -> DecodedStream:
    """Decodes a stream file, and checks scale indexes and symbols against the encoder's.

    Args:
        codec: The codec that the file names.
        stream: The file.
        keep: Decode only up to this cut; None means all that is there.

    Raises:
        IdentityError: The file is another codec's.
        IntegrityError: Indexes or symbols are not the encoder's.
        LatentStoreError: `keep` is no cut.
    """
    codec.spec.require_digest(stream.codec_digest, "the stream file")
    stream = cut_stream(stream, keep)
    z_symbols = decode_z(codec.tables, stream.z, *stream.hyper_size)
    gaussians = codec.gaussians(z_symbols, stream.channels)
    if stream.channels:
        require_indexes(gaussians.indexes_CHW, stream.indexes_crc32c[-1], "the stream file")
    symbols_KHW = decode_y(codec.tables, stream.y, gaussians.indexes_CHW)
    if stream.channels:
        require_symbols(symbols_KHW, stream.symbols_crc32c[-1], "the stream file")
    return DecodedStream(
        channels=stream.channels,
        y_hat_KHW=gaussians.y_hat(symbols_KHW),
        num_channels=codec.spec.channels,
    )


def cut_stream(stream: StreamFile, keep: int | None) -> StreamFile:
    """Returns a scalable stream cut down to its first `keep` channels; None means all of them.

    Nothing is coded again. A stream of no channels, which a gate may send, has no cut and is
    whole.

    Raises:
        LatentStoreError: `keep` is no cut.
    """
    if keep in (None, len(stream.channels)):
        return stream
    end = stream.cut_index(keep) + 1
    return dataclasses.replace(
        stream,
        channels=stream.channels[:keep],
        cuts=stream.cuts[:end],
        cut_bytes=stream.cut_bytes[:end],
        symbols_crc32c=stream.symbols_crc32c[:end],
        indexes_crc32c=stream.indexes_crc32c[:end],
        y=stream.y[: stream.cut_bytes[end - 1]],
    )
