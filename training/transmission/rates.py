"""Real rates from real bytes: what reaches a network, and what the streams that carry it weigh.

    none     ─ z string ─ whole natural y string ───────────────────────────► all M channels
    static   ─ z string ─ scalable y string up to the cut N ────────────────► N ranked channels
    any      ─ the same, for each N in turn
    dynamic  ─ z string ─ mask ─ y string of the chosen channels, coded here ► M, the rest zero

What comes out of the entropy decoder is compared with the store's ŷ, and it, not the store's copy,
is what the network gets. The flush is what is left of the bytes after the ledger's bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from latent_store.codec import Codec, decode_scalable, decode_y, decode_z, encode_y
from latent_store.components.readers import LatentsReader, RankedReader
from latent_store.errors import IntegrityError, RankingError
from latent_store.format.schema import HYPER_STRIDE, LATENT_STRIDE
from training.tasks.sample_results import ImageRate

DECODE_MODES = ("all", "sample", "none")
SAMPLE_STEP = 16
"""With `--decode sample`, every how many-th row of the store is decoded."""

ChooseChannels = Callable[[np.ndarray], np.ndarray]
"""Row numbers -> bool [n, M]: which channels a dynamic gate keeps of each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Received:
    """What a decoder hands to the network, for some rows.

    Attributes:
        y_hat_BCHW: Integers; all M channels, or N in ranked order.
        rates: One a row.
    """

    y_hat_BCHW: np.ndarray
    rates: tuple[ImageRate, ...]


class Receiver(Protocol):
    """One way of choosing channels and sending them."""

    @property
    def rows(self) -> np.ndarray:
        """Rows that can be received."""

    def receive(self, rows: Sequence[int], size: tuple[int, int]) -> Received:
        """Returns latents and rates of rows whose coded size, in pixels, is `size`.

        Raises:
            IntegrityError: A stream does not decode to the store's ŷ.
        """


class HyperDecoder:
    """Decodes z strings to the scale indexes that y strings are read with."""

    def __init__(self, codec: Codec, latents: LatentsReader) -> None:
        self.codec = codec
        self.latents = latents

    def indexes(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """Returns uint8 [M, h, w], from the row's z string alone."""
        height, width = size[0] // HYPER_STRIDE, size[1] // HYPER_STRIDE
        data = self.latents.z_string(row)
        z_symbols_NHW = decode_z(self.codec.tables, data, height, width)
        return self.codec.indexes(torch.from_numpy(z_symbols_NHW)[None])[0].cpu().numpy()


class WholeStreams:
    """No selection, and the pixel domain: every channel, in the natural y string."""

    def __init__(self, codec: Codec, latents: LatentsReader, decode: str = "all") -> None:
        self.latents = latents
        self.decode = decode
        self.hyper = HyperDecoder(codec, latents)

    @property
    def rows(self) -> np.ndarray:
        """Rows that can be received."""
        return self.latents.rows

    def receive(self, rows: Sequence[int], size: tuple[int, int]) -> Received:
        """See `Receiver`."""
        y_hat_BCHW = _valid(self.latents.read(rows), size)
        rates = []
        for item, row in enumerate(rows):
            decoded = is_decoded(row, self.decode)
            if decoded:
                y_hat_BCHW[item] = self._decode(row, size, y_hat_BCHW[item])
            rates.append(self._rate(row, decoded=decoded))
        return Received(y_hat_BCHW=y_hat_BCHW, rates=tuple(rates))

    def _decode(self, row: int, size: tuple[int, int], stored_CHW: np.ndarray) -> np.ndarray:
        tables = self.hyper.codec.tables
        y_hat_CHW = decode_y(tables, self.latents.y_string(row), self.hyper.indexes(row, size))
        return _require_equal(y_hat_CHW, stored_CHW, self.latents.key, row)

    def _rate(self, row: int, *, decoded: bool) -> ImageRate:
        y_bytes = int(self.latents.stream_bytes([row])["y"][0])
        everything = np.ones(self.latents.channels, dtype=bool)
        return _image_rate(self.latents, row, everything, y_bytes=y_bytes, decoded=decoded)


class ScalableStreams:
    """The first N ranked channels, from the scalable y string up to the cut N.

    Args:
        codec: The store's codec.
        latents: Gives z strings and the ledger.
        ranked: Gives ŷ in ranked order and the scalable strings.
        channels: The channel numbers that the network was trained on, in its order.
        decode: See `DECODE_MODES`.

    Raises:
        RankingError: The ranking's first N channels are others now, or N is no cut of the stream.
    """

    def __init__(
        self,
        codec: Codec,
        latents: LatentsReader,
        ranked: RankedReader,
        channels: Sequence[int],
        decode: str = "all",
    ) -> None:
        self.keep = len(channels)
        ranking = ranked.ranking
        if ranking.channels(self.keep) != tuple(channels):
            raise RankingError(
                f"the first {self.keep} channels of ranking {ranking.ranking_id!r} are not those "
                "that the network was trained on: the ranking was made again since; train again, "
                "or evaluate on a store that has the old ranking"
            )
        if self.keep not in ranked.cuts:
            raise RankingError(
                f"the scalable streams of ranking {ranking.ranking_id!r} have cuts at "
                f"{list(ranked.cuts)}, not at {self.keep}; derive the ranking with "
                f"channel-frequency --keep {self.keep}, then reorder-latents --overwrite"
            )
        self.latents = latents
        self.ranked = ranked
        self.decode = decode
        self.hyper = HyperDecoder(codec, latents)
        self.order = np.asarray(ranking.order)
        self.mask = np.zeros(latents.channels, dtype=bool)
        self.mask[list(channels)] = True

    @property
    def rows(self) -> np.ndarray:
        """Rows that can be received."""
        return np.intersect1d(self.latents.rows, self.ranked.rows)

    def receive(self, rows: Sequence[int], size: tuple[int, int]) -> Received:
        """See `Receiver`."""
        y_hat_BCHW = _valid(self.ranked.read(rows, self.keep), size)
        cut_bytes = self.ranked.cut_bytes(rows)[:, self.ranked.cuts.index(self.keep)]
        rates = []
        for item, row in enumerate(rows):
            decoded = is_decoded(row, self.decode)
            if decoded:
                y_hat_BCHW[item] = self._decode(row, size, y_hat_BCHW[item])
            y_bytes = int(cut_bytes[item])
            rates.append(
                _image_rate(self.latents, row, self.mask, y_bytes=y_bytes, decoded=decoded)
            )
        return Received(y_hat_BCHW=y_hat_BCHW, rates=tuple(rates))

    def _decode(self, row: int, size: tuple[int, int], stored_KHW: np.ndarray) -> np.ndarray:
        indexes_CHW = self.hyper.indexes(row, size)
        prefix = self.ranked.scalable_string(row, self.keep)
        tables = self.hyper.codec.tables
        y_hat_KHW = decode_scalable(tables, prefix, indexes_CHW, self.order, self.keep)
        self.ranked.check_symbols(row, y_hat_KHW, indexes_CHW[self.order[: self.keep]])
        return _require_equal(y_hat_KHW, stored_KHW, self.ranked.key, row)


class ChosenStreams:
    """Dynamic selection: each image's own channels, entropy-coded here, image by image.

    The mask is sent as a bitmap of ⌈M/8⌉ bytes. With `decode="none"` the string is still made,
    since its length is the rate, but not read back.
    """

    def __init__(
        self, codec: Codec, latents: LatentsReader, choose: ChooseChannels, decode: str = "all"
    ) -> None:
        self.latents = latents
        self.choose = choose
        self.decode = decode
        self.hyper = HyperDecoder(codec, latents)

    @property
    def rows(self) -> np.ndarray:
        """Rows that can be received."""
        return self.latents.rows

    def receive(self, rows: Sequence[int], size: tuple[int, int]) -> Received:
        """See `Receiver`."""
        masks_BC = self.choose(np.asarray(rows))
        y_hat_BCHW = _valid(self.latents.read(rows), size)
        y_hat_BCHW = y_hat_BCHW * masks_BC[:, :, None, None].astype(y_hat_BCHW.dtype)
        rates = []
        for item, row in enumerate(rows):
            string = self._code(row, size, y_hat_BCHW[item], masks_BC[item])
            rates.append(
                _image_rate(
                    self.latents, row, masks_BC[item], y_bytes=len(string),
                    mask_bytes=len(pack_mask(masks_BC[item])), decoded=is_decoded(row, self.decode),
                )
            )  # fmt: skip
        return Received(y_hat_BCHW=y_hat_BCHW, rates=tuple(rates))

    def _code(
        self, row: int, size: tuple[int, int], y_hat_CHW: np.ndarray, mask_C: np.ndarray
    ) -> bytes:
        """Encodes the chosen channels; decodes them in place, from string and mask alone."""
        indexes_CHW = self.hyper.indexes(row, size)
        tables = self.hyper.codec.tables
        string = encode_y(tables, y_hat_CHW, indexes_CHW, np.flatnonzero(mask_C))
        if is_decoded(row, self.decode):
            kept = unpack_mask(pack_mask(mask_C), len(mask_C))
            decoded_CHW = np.zeros_like(y_hat_CHW)
            decoded_CHW[kept] = decode_y(tables, string, indexes_CHW, kept)
            y_hat_CHW[...] = _require_equal(decoded_CHW, y_hat_CHW, self.latents.key, row)
        return string


def pack_mask(mask_C: np.ndarray) -> bytes:
    """Returns a dynamic mask as a stream file has it: one bit a channel, ⌈M/8⌉ bytes."""
    return np.packbits(mask_C, bitorder="little").tobytes()


def unpack_mask(data: bytes, channels: int) -> np.ndarray:
    """Returns the channel numbers of a mask that `pack_mask` made, ascending int64."""
    packed = np.frombuffer(data, dtype=np.uint8)
    bits = np.unpackbits(packed, count=channels, bitorder="little")
    return np.flatnonzero(bits)


def is_decoded(row: int, decode: str) -> bool:
    """Returns whether `decode`, one of `DECODE_MODES`, has the streams of a row decoded."""
    return decode == "all" or (decode == "sample" and row % SAMPLE_STEP == 0)


def _image_rate(
    latents: LatentsReader,
    row: int,
    mask_C: np.ndarray,
    *,
    y_bytes: int,
    decoded: bool,
    mask_bytes: int = 0,
) -> ImageRate:
    hyper_bytes = int(latents.stream_bytes([row])["z"][0])
    symbols = latents.column("channel_bits", [row])[0][mask_C].sum(dtype=np.float64)
    ledger = symbols + float(latents.column("hyper_bits", [row])[0])
    return ImageRate(
        hyper_bytes=hyper_bytes,
        y_bytes=y_bytes,
        mask_bytes=mask_bytes,
        flush_bits=float(8 * (hyper_bytes + y_bytes) - ledger),
        channels=int(mask_C.sum()),
        decoded=decoded,
    )


def _valid(y_hat_BCHW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the extent of the canvas that was coded."""
    return y_hat_BCHW[..., : size[0] // LATENT_STRIDE, : size[1] // LATENT_STRIDE]


def _require_equal(
    decoded_CHW: np.ndarray, stored_CHW: np.ndarray, key: str, row: int
) -> np.ndarray:
    if not np.array_equal(decoded_CHW, stored_CHW):
        differing = int((decoded_CHW != stored_CHW).sum())
        raise IntegrityError(
            f"the stream of row {row} of {key} decodes to another ŷ than the store holds "
            f"({differing} of {decoded_CHW.size} symbols differ); see `latent-store verify`"
        )
    return decoded_CHW
