"""Real rates from real bytes: the latents that reach a network, and the length of their streams.

What comes out of the entropy decoder is compared with the store's ŷ, and it, not the store's copy,
is what the network gets. The flush is what is left of the bytes after the ledger's bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import RankedReader
from latent_store.errors import IntegrityError
from latent_store.format.schema import HYPER_STRIDE, LATENT_STRIDE

if TYPE_CHECKING:
    from latent_store.codec.hyperprior import Codec, Gaussians

DECODE_MODES = ("all", "sample", "none")
SAMPLE_STEP = 16
"""With `--decode sample`, every how many-th row of the store is decoded."""

Size = tuple[int, int]
Sent = tuple[int, Callable[[], np.ndarray]]
"""The length of a y string, and what decodes it to ŷ [K, h, w]."""


@dataclass(frozen=True, kw_only=True)
class ImageRate:
    """The real bytes of one image, part by part.

    Attributes:
        hyper_bytes: Of the z string.
        y_bytes: Of the y string, or of its prefix, that carries the kept channels.
        mask_bytes: That tell the decoder which channels come, where that is no constant.
        flush_bits: Of both strings, beyond the ledger's: the coder's flush, and a cut's.
        channels: That were kept.
        decoded: Whether the strings were decoded and gave the network its input.
    """

    hyper_bytes: int
    y_bytes: int
    mask_bytes: int
    flush_bits: float
    channels: int
    decoded: bool

    @property
    def total_bytes(self) -> int:
        """Bytes that the task needs."""
        return self.hyper_bytes + self.y_bytes + self.mask_bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredStreams:
    """A split's streams of one codec.

    Attributes:
        latents: Gives z strings, natural y strings and the ledger.
        ranked: Gives ŷ in ranked order and the scalable strings; None without a ranking.
        decode: Which rows' streams are decoded, one of `DECODE_MODES`.
    """

    codec: Codec
    latents: LatentsReader
    ranked: RankedReader | None = None
    decode: str = "all"

    def is_decoded(self, row: int) -> bool:
        """Returns whether the streams of a row are decoded."""
        return self.decode == "all" or (self.decode == "sample" and row % SAMPLE_STEP == 0)

    def gaussians(self, row: int, size: Size) -> Gaussians:
        """Returns what a row's z string says of its ŷ, [M, h, w]."""
        # It loads torch, which names and numbers of rates need not.
        from latent_store.codec.streams import decode_z

        height, width = size[0] // HYPER_STRIDE, size[1] // HYPER_STRIDE
        z_symbols_NHW = decode_z(self.codec.tables, self.latents.z_string(row), height, width)
        return self.codec.gaussians(z_symbols_NHW)

    def rate(self, row: int, mask_C: np.ndarray, *, y_bytes: int, mask_bytes: int) -> ImageRate:
        """Returns the rate of a row whose kept channels take `y_bytes`."""
        hyper_bytes = int(self.latents.stream_bytes([row])["z"][0])
        symbols = self.latents.column("channel_bits", [row])[0][mask_C].sum(dtype=np.float64)
        ledger = symbols + float(self.latents.column("hyper_bits", [row])[0])
        return ImageRate(
            hyper_bytes=hyper_bytes,
            y_bytes=y_bytes,
            mask_bytes=mask_bytes,
            flush_bits=float(8 * (hyper_bytes + y_bytes) - ledger),
            channels=int(mask_C.sum()),
            decoded=self.is_decoded(row),
        )


class StreamReceiver(ABC):
    """The server's end of a store's streams, by one way of choosing channels."""

    def __init__(self, streams: StoredStreams) -> None:
        self.streams = streams
        self.tables = streams.codec.tables

    def receive(self, rows: Sequence[int], size: Size) -> tuple[np.ndarray, list[ImageRate]]:
        """Returns the network's input, ŷ [B, K, h, w], and the rate of each row.

        The rows have one coded size, `size` in pixels.

        Raises:
            IntegrityError: A stream does not decode to the store's ŷ.
        """
        y_hat_BKHW, masks_BC = self.read(np.asarray(rows))
        y_hat_BKHW = y_hat_BKHW[..., : size[0] // LATENT_STRIDE, : size[1] // LATENT_STRIDE]
        rates = []
        for row, y_hat_KHW, mask_C in zip(rows, y_hat_BKHW, masks_BC, strict=True):
            y_bytes, decode = self.send(row, size, y_hat_KHW, mask_C)
            if self.streams.is_decoded(row):
                decoded_KHW = decode()
                if differing := int((decoded_KHW != y_hat_KHW).sum()):
                    key = (self.streams.ranked or self.streams.latents).key
                    raise IntegrityError(
                        f"the stream of row {row} of {key} decodes to another ŷ than "
                        f"the store holds ({differing} of {decoded_KHW.size} elements differ); see "
                        "`latent-store verify`"
                    )
                y_hat_KHW[...] = decoded_KHW
            mask_bytes = self.mask_bytes(mask_C)
            rates.append(self.streams.rate(row, mask_C, y_bytes=y_bytes, mask_bytes=mask_bytes))
        return y_hat_BKHW, rates

    @abstractmethod
    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ŷ as the network gets it, [B, K, ...], and the kept channels, bool [B, M]."""

    @abstractmethod
    def send(self, row: int, size: Size, y_hat_KHW: np.ndarray, mask_C: np.ndarray) -> Sent:
        """Returns the y string that carries a row's kept channels."""

    def mask_bytes(self, mask_C: np.ndarray) -> int:
        """Returns what it costs to say which channels come: nothing where that is a constant."""
        return 0
