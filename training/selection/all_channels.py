"""All channels: the whole natural y string goes to the network, latents or the pixels of x̂.

z string ─ whole natural y string ──► all M channels
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from latent_store.codec import StreamFile, decode_y
from training.selection.base import Packing, Selection, SelectionFlags
from training.selection.gate import ChannelGate
from training.selection.rates import Decode, StoredStreams, StreamReceiver


@dataclass(frozen=True, kw_only=True)
class AllChannels(Selection):
    """No selection; always so in the pixel domain, whose decoder needs every channel."""

    name = "none"
    summary = "all channels"
    takes_all = True

    @classmethod
    def label(cls, flags: SelectionFlags) -> str:
        """See `Selection`."""
        return "no gate"

    def receiver(
        self, streams: StoredStreams, keep: int | None, gate: ChannelGate | None
    ) -> StreamReceiver:
        """See `Selection`."""
        return WholeStreams(streams)

    def packing(
        self, y_hat_BCHW: torch.Tensor, keep: int | None, gate: ChannelGate | None
    ) -> Packing:
        """See `Selection`."""
        return Packing("all")

    def accepted(self, stream: StreamFile, keep: int | None = None) -> int | None:
        """See `Selection`."""
        everything = sorted(stream.channels) == list(range(stream.codec.channels))
        return len(stream.channels) if everything else None

    def kind(self, keep: int | None) -> str:
        """See `Selection`."""
        return "no gate"


class WholeStreams(StreamReceiver):
    """Every channel, in the natural y string."""

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `StreamReceiver`."""
        latents = self.streams.latents
        return latents.read(rows), np.ones((len(rows), latents.channels), dtype=bool)

    def send(
        self, row: int, size: tuple[int, int], y_hat_KHW: np.ndarray, mask_C: np.ndarray
    ) -> tuple[int, Decode]:
        """See `StreamReceiver`."""
        latents = self.streams.latents

        def decode() -> np.ndarray:
            return decode_y(self.tables, latents.y_string(row), self.streams.indexes(row, size))

        return int(latents.stream_bytes([row])["y"][0]), decode
