"""Decodes one stored sample to pixels, from all channels or from the most important ones.

With N channels the rest of ŷ is zero: what a viewer sees of the channels that a task needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from latent_store.codec.checkpoints import codec_from_store
from latent_store.codec.deep_check import decode_indexes
from latent_store.codec.hyperprior import Codec
from latent_store.codec.pictures import tensor_to_image
from latent_store.codec.streams import decode_scalable, decode_y
from latent_store.component_readers import LatentsReader
from latent_store.errors import MissingComponentError, RankingError
from latent_store.location import atomic_path
from latent_store.reader import Split


@dataclass(frozen=True, kw_only=True)
class DecodedSample:
    """One picture decoded from a stored stream.

    Attributes:
        image_HWC: uint8 RGB at the original size.
        y_bytes: Bytes of the y stream that were read.
        z_bytes: Bytes of the z stream.
        full_psnr: PSNR in dB of the full decode, measured when it was encoded; nan if not.
    """

    sample_id: str
    image_HWC: np.ndarray
    channels: int
    y_bytes: int
    z_bytes: int
    full_psnr: float

    def save(self, path: Path) -> None:
        """Writes the picture as PNG, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as neighbour:
            Image.fromarray(self.image_HWC).save(neighbour, format="PNG")

    def describe(self, path: Path) -> str:
        """Returns one line: channels, bytes and rate."""
        height, width = self.image_HWC.shape[:2]
        total = self.y_bytes + self.z_bytes
        return (
            f"{path}: {self.sample_id}, {self.channels} channels, {total} bytes "
            f"(y {self.y_bytes}, z {self.z_bytes}), {8 * total / (height * width):.4f} bpp; "
            f"full decode {self.full_psnr:.2f} dB PSNR"
        )


def decode_sample(
    split: Split,
    sample_id: str,
    channels: str = "all",
    codec_id: str | None = None,
    ranking_id: str | None = None,
) -> DecodedSample:
    """Decodes one sample from its stored streams.

    Args:
        split: The split that holds it.
        sample_id: The sample.
        channels: ``all``: the natural-order stream. ``N``: the prefix of the scalable stream.
        codec_id: Needed where the store has several codecs.
        ranking_id: Needed where the codec has several rankings.

    Raises:
        LatentStoreError: Something is missing; each names its remedy.
    """
    row = split.row_of(sample_id)
    latents = split.latents(codec_id)
    codec = codec_from_store(split.store, latents.spec.codec_id)
    indexes_CHW = decode_indexes(codec, latents, row)
    if channels == "all":
        y_string = latents.y_string(row)
        y_hat_CHW = decode_y(codec.tables, y_string, indexes_CHW)
    else:
        y_string, y_hat_CHW = _decode_prefix(codec, latents, row, channels, ranking_id, indexes_CHW)
    height, width = (int(n) for n in split.sizes([row])[0])
    return DecodedSample(
        sample_id=split.sample_ids([row])[0],
        image_HWC=reconstruct_image(codec, y_hat_CHW, height, width),
        channels=codec.spec.channels if channels == "all" else int(channels),
        y_bytes=len(y_string),
        z_bytes=int(latents.stream_bytes([row])["z"][0]),
        full_psnr=float(latents.quality([row])["psnr"][0]),
    )


def reconstruct_image(codec: Codec, y_hat_CHW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Runs g_s and rounds to 8 bits.

    Args:
        codec: The codec.
        y_hat_CHW: Integers ``[M, h, w]``.
        height: Of the original picture, in pixels; the padding is cut off.
        width: As ``height``.

    Returns:
        uint8 RGB ``[height, width, 3]``.
    """
    x_hat_BCHW = codec.reconstruct(torch.from_numpy(np.ascontiguousarray(y_hat_CHW))[None])
    return tensor_to_image(x_hat_BCHW)[0, :height, :width]


def _decode_prefix(
    codec: Codec,
    latents: LatentsReader,
    row: int,
    channels: str,
    ranking_id: str | None,
    indexes_CHW: np.ndarray,
) -> tuple[bytes, np.ndarray]:
    if not channels.isdigit():
        message = f"--channels must be all or a number of channels, got {channels!r}"
        raise RankingError(message)
    split = latents.split
    ranked = split.ranked(_the_ranking(split, codec, ranking_id), codec.spec.codec_id)
    keep = int(channels)
    prefix = ranked.scalable_string(row, keep)
    order = ranked.ranking.order
    kept_KHW = decode_scalable(codec.tables, prefix, indexes_CHW, order, keep)
    ranked.check_symbols(row, kept_KHW, indexes_CHW[list(order[:keep])])
    y_hat_CHW = np.zeros(indexes_CHW.shape, dtype=np.int32)
    y_hat_CHW[list(order[:keep])] = kept_KHW
    return prefix, y_hat_CHW


def _the_ranking(split: Split, codec: Codec, ranking_id: str | None) -> str:
    if ranking_id is not None:
        return ranking_id
    known = split.store.rankings(codec.spec.codec_id)
    if len(known) != 1:
        names = ", ".join(known) or "none; derive one with channel-frequency"
        message = f"name a ranking with --ranking; {codec.spec.codec_id} has: {names}"
        raise MissingComponentError(message)
    return known[0]
