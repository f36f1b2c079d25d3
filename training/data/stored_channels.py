"""The channels of a codec's stored latents that a network reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StoredChannels:
    """Channels of the store, in the order in which a network takes them.

    Attributes:
        ranking_id: The ranked copy is read, up to the last of `channels`; None for the copy in
            natural order.
        channels: Their numbers; None for all.
        pooled: "mean" or "rms" where a gate sees these of every channel; None without a gate.
    """

    ranking_id: str | None = None
    channels: tuple[int, ...] | None = None
    pooled: str | None = None
