"""The channels of a codec's stored latents that are read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StoredChannels:
    """Channels of one of the store's two copies.

    Attributes:
        ranking_id: The ranked copy is read; None for the one in natural channel order.
        keep: How many channels of the ranked copy; None for all.
        channels: Numbers of the channels of the natural copy; None for all.
        pooled: "mean" or "rms" where a gate sees these of every channel; None without a gate.
    """

    ranking_id: str | None = None
    keep: int | None = None
    channels: tuple[int, ...] | None = None
    pooled: str | None = None
