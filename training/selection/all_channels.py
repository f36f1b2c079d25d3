"""All channels: the whole natural y string goes to the network, latents or the pixels of x̂.

z string ─ whole natural y string ──► all M channels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from latent_store.codec import StreamFile, decode_y
from training.selection.base import Gate, Selection
from training.selection.rates import Sent, Size, StoredStreams, StreamReceiver


@dataclass(frozen=True, kw_only=True)
class AllChannels(Selection):
    """No selection; always so in the pixel domain, whose decoder needs every channel."""

    name = "none"
    summary = "all channels"
    takes_all = True

    @classmethod
    def label(cls, flags: Any) -> str:
        return "no gate"

    def receiver(self, streams: StoredStreams, keep: int | None, gate: Gate) -> StreamReceiver:
        return WholeStreams(streams)

    def sent(self, y_hat_BCHW: torch.Tensor, keep: int | None, gate: Gate) -> dict[str, Any]:
        return {"selection": "all"}

    def accepted(self, stream: StreamFile, keep: int | None = None) -> int | None:
        everything = sorted(stream.channels) == list(range(stream.num_channels))
        return len(stream.channels) if everything else None

    def kind(self, keep: int | None) -> str:
        return "no gate"


class WholeStreams(StreamReceiver):
    """Every channel, in the natural y string."""

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        latents = self.streams.latents
        return latents.read(rows), np.ones((len(rows), latents.channels), dtype=bool)

    def send(self, row: int, size: Size, y_hat_KHW: np.ndarray, mask_C: np.ndarray) -> Sent:
        latents = self.streams.latents

        def decode() -> np.ndarray:
            gaussians = self.streams.gaussians(row, size)
            symbols_CHW = decode_y(self.tables, latents.y_string(row), gaussians.indexes_CHW)
            return gaussians.y_hat(symbols_CHW)

        return int(latents.stream_bytes([row])["y"][0]), decode
