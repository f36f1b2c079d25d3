"""Decodes one picture from all channels of its stream, or from the most important ones.

The stream comes from a store or from a stream file. With N channels the rest of ŷ is zero: what a
viewer sees of the channels that a task needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from latent_store.codec.checkpoints import codec_from_store, load_codec
from latent_store.codec.hyperprior import Codec
from latent_store.codec.packing import unpack_stream
from latent_store.codec.pictures import psnr, tensor_to_image
from latent_store.codec.stream_file import StreamFile
from latent_store.codec.streams import decode_scalable, decode_y
from latent_store.components.readers import RankedReader
from latent_store.errors import IdentityError, MissingComponentError, RankingError
from latent_store.format.schema import LATENT_STRIDE, CodecSpec
from latent_store.store import LatentStore, Split
from latent_store.tools.deep_check import decode_indexes
from latent_store.tools.panels import strip

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class DecodedPicture:
    """One picture decoded from some channels.

    Attributes:
        name: Sample id, or the stream file's name.
        image_HWC: Uint8 RGB at the original size.
        channels: How many were decoded.
        of_channels: How many the codec has.
        y_bytes: Bytes of the y stream that were needed.
        z_bytes: Bytes of the z stream.
    """

    name: str
    image_HWC: np.ndarray
    channels: int
    of_channels: int
    y_bytes: int
    z_bytes: int

    @property
    def bpp(self) -> float:
        """Bits of both streams a pixel of the original picture."""
        height, width = self.image_HWC.shape[:2]
        return 8 * (self.y_bytes + self.z_bytes) / (height * width)

    def describe(self) -> str:
        """Returns channels, bytes and rate."""
        total = self.y_bytes + self.z_bytes
        return (
            f"{self.name}: {self.channels} of {self.of_channels} channels, {total} bytes "
            f"(y {self.y_bytes}, z {self.z_bytes}), {self.bpp:.4f} bpp"
        )


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The picture that decoded pictures are compared with.

    Attributes:
        name: `the original` or `the full decode`.
        image_HWC: Uint8 RGB at the original size.
    """

    name: str
    image_HWC: np.ndarray

    def psnr(self, picture: DecodedPicture) -> float:
        """Returns the PSNR of a decoded picture in dB; infinite if it is the reference."""
        return psnr(picture.image_HWC, self.image_HWC)

    def describe(self, picture: DecodedPicture) -> str:
        """Returns the PSNR in words."""
        value = self.psnr(picture)
        return self.name if np.isinf(value) else f"{value:.2f} dB PSNR against {self.name}"


class Source(Protocol):
    """One picture's stream, wherever it lies."""

    full_psnr: float | None
    """PSNR in dB of the full decode, where it was measured when the picture was encoded."""

    def decode(self, channels: str) -> DecodedPicture:
        """Decodes `all`, or the `N` most important channels."""


class StoredSource:
    """One sample of a store.

    Args:
        split: The split that holds it.
        sample_id: The sample.
        codec_id: Needed where the store has several codecs.
        ranking_id: Needed for N channels where the codec has several rankings.

    Raises:
        LatentStoreError: Something is missing; each names its remedy.
    """

    def __init__(
        self, split: Split, sample_id: str, codec_id: str | None, ranking_id: str | None
    ) -> None:
        self.split, self.ranking_id = split, ranking_id
        self.row = split.row_of(sample_id)
        (self.sample_id,) = split.sample_ids([self.row])
        self.latents = split.latents(codec_id)
        self.codec = codec_from_store(split.store, self.latents.spec.codec_id)
        measured = float(self.latents.quality([self.row])["psnr"][0])
        self.full_psnr = None if np.isnan(measured) else measured

    @cached_property
    def ranked(self) -> RankedReader:
        """The ranked copy that N channels are decoded from."""
        codec_id = self.codec.spec.codec_id
        return self.split.ranked(_the_ranking(self.split, codec_id, self.ranking_id), codec_id)

    @cached_property
    def indexes_CHW(self) -> np.ndarray:
        """Scale indexes of the row, uint8 [M, h, w]."""
        return decode_indexes(self.codec, self.latents, self.row)

    def decode(self, channels: str) -> DecodedPicture:
        """Decodes the natural-order stream for `all`, a prefix of the scalable one for N.

        Raises:
            RankingError: N is no cut of the ranked copy.
            IntegrityError: The stream, or what it decodes to, is not what was encoded.
        """
        if channels == ALL:
            y_string = self.latents.y_string(self.row)
            y_hat_CHW = decode_y(self.codec.tables, y_string, self.indexes_CHW)
            keep = len(y_hat_CHW)
        else:
            keep = _number(channels)
            y_string, y_hat_CHW = self._decode_prefix(keep)
        height, width = (int(n) for n in self.split.sizes([self.row])[0])
        return DecodedPicture(
            name=self.sample_id,
            image_HWC=reconstruct_image(self.codec, y_hat_CHW, height, width),
            channels=keep,
            of_channels=self.codec.spec.channels,
            y_bytes=len(y_string),
            z_bytes=int(self.latents.stream_bytes([self.row])["z"][0]),
        )

    def _decode_prefix(self, keep: int) -> tuple[bytes, np.ndarray]:
        prefix = self.ranked.scalable_string(self.row, keep)
        order = self.ranked.ranking.order
        kept_KHW = decode_scalable(self.codec.tables, prefix, self.indexes_CHW, order, keep)
        chosen = list(order[:keep])
        self.ranked.check_symbols(self.row, kept_KHW, self.indexes_CHW[chosen])
        y_hat_CHW = np.zeros(self.indexes_CHW.shape, dtype=np.int32)
        y_hat_CHW[chosen] = kept_KHW
        return prefix, y_hat_CHW


class FileSource:
    """A stream file, which needs a codec and nothing else.

    Args:
        stream: The file's content.
        codec: The codec that it names; see `find_codec`.
        name: What to call the picture.
    """

    full_psnr: float | None = None

    def __init__(self, stream: StreamFile, codec: Codec, name: str) -> None:
        self.stream, self.codec, self.name = stream, codec, name

    def decode(self, channels: str) -> DecodedPicture:
        """Decodes everything that the file holds for `all`, up to the cut for N.

        Raises:
            LatentStoreError: N is no cut of the stream.
            IntegrityError: What it decodes to is not what was encoded.
        """
        keep = len(self.stream.channels) if channels == ALL else _number(channels)
        decoded = unpack_stream(self.codec, self.stream, keep)
        cut = self.stream.cut_bytes[self.stream.cut_index(keep)] if keep else 0
        return DecodedPicture(
            name=self.name,
            image_HWC=reconstruct_image(
                self.codec, decoded.full(), self.stream.height, self.stream.width
            ),
            channels=keep,
            of_channels=self.codec.spec.channels,
            y_bytes=cut,
            z_bytes=len(self.stream.z),
        )


def find_codec(
    spec: CodecSpec, checkpoint: Path | None = None, store: LatentStore | None = None
) -> Codec:
    """Returns the codec that a stream file names.

    Args:
        spec: From the file.
        checkpoint: The codec's checkpoint file, if it is given.
        store: A store that keeps it, if one is given; without both, the packaged demo codec.

    Raises:
        IdentityError: It is another codec.
        MissingComponentError: The store has no such codec.
    """
    if checkpoint is not None:
        codec = load_codec(checkpoint=checkpoint)
    elif store is not None:
        codec = codec_from_store(store, spec.codec_id)
    else:
        codec = load_codec(demo=True)
        if codec.spec.identity != spec.identity:
            raise IdentityError(
                f"the stream file is of codec {spec.codec_id}, which does not come with the "
                "package; give its checkpoint with --codec_checkpoint, or a store that keeps it "
                "with --store"
            )
    codec.spec.require_identity(spec.identity, "the stream file")
    return codec


def decode_row(
    split: Split, row: int, channels: Sequence[int] | None = None, codec_id: str | None = None
) -> np.ndarray:
    """Decodes the stored ŷ of one row to pixels: what its stream decodes to, or a part of it.

    Args:
        split: The split that holds it.
        row: Row number.
        channels: Channel numbers; the other channels are zero. None for all.
        codec_id: Needed where the store has several codecs.

    Returns:
        uint8 RGB `[height, width, 3]` at the original size.

    Raises:
        LatentStoreError: The row is not usable, or the codec is missing; names the remedy.
    """
    latents = split.latents(codec_id)
    codec = codec_from_store(split.store, latents.spec.codec_id)
    y_hat_CHW = latents.read([row])[0]
    if channels is not None:
        dropped = np.setdiff1d(np.arange(len(y_hat_CHW)), channels)
        y_hat_CHW[dropped] = 0
    height, width = (int(n) for n in split.sizes([row])[0])
    ((coded_height, coded_width),) = (split.coded_sizes([row]) // LATENT_STRIDE).tolist()
    return reconstruct_image(codec, y_hat_CHW[:, :coded_height, :coded_width], height, width)


def reconstruct_image(codec: Codec, y_hat_CHW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Runs g_s and rounds to 8 bits.

    Args:
        codec: The codec.
        y_hat_CHW: Integers `[M, h, w]`.
        height: Of the original picture, in pixels; the padding is cut off.
        width: As `height`.

    Returns:
        uint8 RGB `[height, width, 3]`.
    """
    x_hat_BCHW = codec.reconstruct(torch.from_numpy(np.ascontiguousarray(y_hat_CHW))[None])
    return tensor_to_image(x_hat_BCHW)[0, :height, :width]


def picture_strip(pictures: Sequence[DecodedPicture], reference: Reference | None) -> np.ndarray:
    """Returns pictures side by side, uint8 [H, W, 3]; over each its channels, bytes, rate, PSNR."""
    panels = []
    for picture in pictures:
        title = f"{picture.channels} channels, {picture.y_bytes + picture.z_bytes} B"
        title += f", {picture.bpp:.3f} bpp"
        value = np.inf if reference is None else reference.psnr(picture)
        panels.append((title + (f", {value:.1f} dB" if np.isfinite(value) else ""), picture))
    return strip([(title, p.image_HWC) for title, p in panels], across=len(panels))


def _number(channels: str) -> int:
    if not channels.isdecimal() or not channels.isascii():
        raise RankingError(f"--channels must be all or a number of channels, got {channels!r}")
    return int(channels)


def _the_ranking(split: Split, codec_id: str, ranking_id: str | None) -> str:
    if ranking_id is not None:
        return ranking_id
    known = split.store.rankings(codec_id)
    if len(known) != 1:
        names = ", ".join(known) or "none; derive one with channel-frequency"
        raise MissingComponentError(f"name a ranking with --ranking; {codec_id} has: {names}")
    return known[0]
