"""One sample's streams as they lie in a store, and pictures decoded from them.

Nothing is coded again: a stream file has the store's own strings, and decodes without it. A picture
of N channels shows what a task's channels hold of it: the rest of ŷ is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from latent_store.codec.checkpoints import codec_from_store
from latent_store.codec.hyperprior import Codec, Gaussians
from latent_store.codec.packing import unpack_stream
from latent_store.codec.pictures import psnr, tensor_to_image
from latent_store.codec.stream_file import StreamFile
from latent_store.codec.streams import decode_z
from latent_store.codec.symbols import indexes_crc32c, symbols_crc32c
from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import RankedReader
from latent_store.errors import MissingComponentError, RankingError
from latent_store.format.schema import HYPER_STRIDE, LATENT_STRIDE
from latent_store.store import Split
from latent_store.views.panels import strip


@dataclass(frozen=True, kw_only=True)
class DecodedPicture:
    """One picture decoded from some channels.

    Attributes:
        name: Sample id, or the stream file's name.
        image_HWC: Uint8 RGB at the original size.
        stream: The streams that were decoded, without channels that were not.
    """

    name: str
    image_HWC: np.ndarray
    stream: StreamFile

    @property
    def num_bytes(self) -> int:
        """Bytes of both streams."""
        return len(self.stream.y) + len(self.stream.z)

    @property
    def bpp(self) -> float:
        """Bits of both streams a pixel of the original picture."""
        return 8 * self.num_bytes / (self.stream.height * self.stream.width)

    def describe(self) -> str:
        """Returns channels, bytes and rate."""
        y, z = self.stream.y, self.stream.z
        return (
            f"{self.name}: {len(self.stream.channels)} of {self.stream.num_channels} channels, "
            f"{self.num_bytes} bytes (y {len(y)}, z {len(z)}), {self.bpp:.4f} bpp"
        )


class Reference(NamedTuple):
    """A picture that decoded ones are compared with: a name, and uint8 RGB of the original size."""

    name: str
    image_HWC: np.ndarray

    def psnr(self, picture: DecodedPicture) -> float:
        """Returns the PSNR of a decoded picture in dB; infinite if it is the reference."""
        return psnr(picture.image_HWC, self.image_HWC)

    def describe(self, picture: DecodedPicture) -> str:
        """Returns the PSNR in words."""
        value = self.psnr(picture)
        return self.name if np.isinf(value) else f"{value:.2f} dB PSNR against {self.name}"


def decode_stream(codec: Codec, stream: StreamFile, name: str) -> DecodedPicture:
    """Decodes all channels of a stream to a picture of that name.

    Raises:
        IntegrityError: The stream, or what it decodes to, is not what was encoded.
    """
    y_hat_CHW = unpack_stream(codec, stream).full()
    image_HWC = _reconstruct(codec, y_hat_CHW, stream.height, stream.width)
    return DecodedPicture(name=name, image_HWC=image_HWC, stream=stream)


def decode_row(
    split: Split,
    row: int,
    channels: Sequence[int] | None = None,
    codec_id: str | None = None,
    *,
    ranked: str | None = None,
    keep: int | None = None,
) -> np.ndarray:
    """Decodes the stored ŷ of one row to pixels: what its stream decodes to, or a part of it.

    Args:
        channels: Channel numbers; the other channels are zero. None for all.
        codec_id: Needed where the store has several codecs.
        ranked, keep: A ranking and how many of its first channels, in place of numbers.

    Returns:
        uint8 RGB `[height, width, 3]` at the original size.

    Raises:
        LatentStoreError: The row is not usable, there are no such channels, or the codec is
            missing; names the remedy.
    """
    latents = split.latents(codec_id)
    if ranked is not None or keep is not None:
        channels = _first_channels(split, latents, channels, ranked, keep)
    elif isinstance(channels, int):
        raise RankingError(
            f"`channels=` are numbers of channels, e.g. [3, 5], not how many; got {channels}: for "
            "the most important ones give `ranked=` and `keep=`"
        )
    codec = codec_from_store(split.store, latents.spec.codec_id)
    y_hat_CHW = latents.read([row])[0]
    if channels is not None:
        kept_CHW = latents.read([row], channels)[0]
        y_hat_CHW = np.zeros_like(y_hat_CHW)
        y_hat_CHW[list(channels)] = kept_CHW
    ((coded_height, coded_width),) = (split.coded_sizes([row]) // LATENT_STRIDE).tolist()
    y_hat_CHW = y_hat_CHW[:, :coded_height, :coded_width]
    return _reconstruct(codec, y_hat_CHW, *split.sizes([row])[0].tolist())


def _first_channels(
    split: Split,
    latents: LatentsReader,
    channels: Sequence[int] | None,
    ranked: str | None,
    keep: int | None,
) -> tuple[int, ...]:
    if channels is not None or ranked is None or keep is None:
        raise RankingError(
            "the first channels of a ranking are `ranked=` and `keep=` together, and no "
            f"`channels=`; got ranked={ranked!r}, keep={keep}, channels={channels}"
        )
    return split.store.ranking(latents.spec.codec_id, ranked).channels(keep)


def _reconstruct(codec: Codec, y_hat_CHW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Runs g_s on ŷ `[M, h, w]`: uint8 RGB `[height, width, 3]`, the padding cut off."""
    x_hat_BCHW = codec.reconstruct(torch.from_numpy(np.ascontiguousarray(y_hat_CHW))[None])
    return tensor_to_image(x_hat_BCHW)[0, :height, :width]


def decode_gaussians(codec: Codec, latents: LatentsReader, row: int) -> Gaussians:
    """Returns what the z string of one row says of its ŷ, `[M, h, w]` at its coded size."""
    height, width = latents.plan.sample_at(row).coded_size
    z_string = latents.z_string(row)
    z_NHW = decode_z(codec.tables, z_string, height // HYPER_STRIDE, width // HYPER_STRIDE)
    return codec.gaussians(z_NHW)


def picture_strip(pictures: Sequence[DecodedPicture], reference: Reference | None) -> np.ndarray:
    """Returns pictures side by side, uint8 [H, W, 3]; over each its channels, bytes, rate, PSNR."""
    panels = []
    for picture in pictures:
        title = f"{len(picture.stream.channels)} channels, {picture.num_bytes} B, "
        title += f"{picture.bpp:.3f} bpp"
        value = np.inf if reference is None else reference.psnr(picture)
        title += f", {value:.1f} dB" if np.isfinite(value) else ""
        panels.append((title, picture.image_HWC))
    return strip(panels, across=len(panels))


class CodedSample:
    """One sample of a split, with its codec, which is named where the store has several.

    Likewise a ranking is named for N channels where the codec has several.

    Raises:
        LatentStoreError: Something is missing; each names its remedy.
    """

    def __init__(
        self,
        split: Split,
        sample_id: str,
        codec_id: str | None = None,
        ranking_id: str | None = None,
    ) -> None:
        self.split, self.ranking_id = split, ranking_id
        self.row = split.row_of(sample_id)
        (self.name,) = split.sample_ids([self.row])
        self.latents = split.latents(codec_id)
        self.codec = codec_from_store(split.store, self.latents.spec.codec_id)
        measured = float(self.latents.quality([self.row])["psnr"][0])
        self.full_psnr = None if np.isnan(measured) else measured

    @cached_property
    def ranked(self) -> RankedReader:
        """The ranked copy that N channels are decoded from."""
        codec_id = self.codec.spec.codec_id
        known = self.split.store.rankings(codec_id)
        if self.ranking_id is None and len(known) != 1:
            names = ", ".join(known) or "none; derive one with channel-frequency"
            raise MissingComponentError(f"name a ranking with `ranking=`; {codec_id} has: {names}")
        return self.split.ranked(self.ranking_id or known[0], codec_id)

    def export(self, keep: int | None = None) -> StreamFile:
        """Returns the scalable stream up to `keep`; without any ranking the natural-order one."""
        known = self.split.store.rankings(self.codec.spec.codec_id)
        ranked = known or keep is not None or self.ranking_id is not None
        return self._scalable(keep) if ranked else self.stream()

    def stream(self, keep: int | None = None) -> StreamFile:
        """Returns all channels in natural order, or the scalable stream up to the cut at `keep`.

        Raises:
            RankingError: `keep` is no cut of the ranked copy.
            MissingComponentError: There is no such copy, or several rankings and none is named.
            IntegrityError: A stored string is not what was written.
        """
        if keep is not None:
            return self._scalable(keep)
        gaussians = decode_gaussians(self.codec, self.latents, self.row)
        indexes_CHW = gaussians.indexes_CHW
        channels, height, width = indexes_CHW.shape
        # The canvas of a split of mixed sizes is larger than a picture's own latent.
        y_hat_CHW = self.latents.read([self.row])[0, :, :height, :width]
        y_string = self.latents.y_string(self.row)
        return self._file(
            selection="all",
            channels=tuple(range(channels)),
            cuts=(channels,),
            cut_bytes=(len(y_string),),
            symbols_crc32c=(symbols_crc32c(gaussians.symbols(y_hat_CHW)),),
            indexes_crc32c=(indexes_crc32c(indexes_CHW),),
            y=y_string,
        )

    def _scalable(self, keep: int | None) -> StreamFile:
        """Returns the scalable stream up to the cut at `keep`; None means all of it."""
        row, ranked = self.row, self.ranked
        keep = ranked.cuts[-1] if keep is None else keep
        y_string = ranked.scalable_string(row, keep)
        end = ranked.cuts.index(keep) + 1
        checksums = ranked.cut_checksums(row)
        return self._file(
            selection="scalable",
            channels=ranked.ranking.order[:keep],
            cuts=ranked.cuts[:end],
            cut_bytes=tuple(ranked.cut_bytes([row])[0, :end].tolist()),
            symbols_crc32c=tuple(checksums["symbols"][:end].tolist()),
            indexes_crc32c=tuple(checksums["indexes"][:end].tolist()),
            y=y_string,
        )

    def _file(self, **parts: Any) -> StreamFile:
        ((height, width),) = self.split.sizes([self.row]).tolist()
        z_string = self.latents.z_string(self.row)
        spec = self.codec.spec
        return StreamFile(
            codec_digest=spec.digest,
            num_channels=spec.channels,
            height=height,
            width=width,
            z=z_string,
            **parts,
        )
