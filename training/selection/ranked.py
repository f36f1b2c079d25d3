"""The first N channels of a ranking, for one N or for any of several.

static   z string ─ scalable y string up to the cut N ──► N ranked channels
any      the same, for each N in turn; one network, which fills up with zeros
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from latent_store import LatentStore, Ranking
from latent_store.codec import StreamFile, decode_scalable
from latent_store.errors import LatentStoreError, RankingError
from latent_store.format.schema import CodecSpec
from training.data.sampling import draw_cut
from training.data.store_source import StoredChannels
from training.selection.base import Batch, Gate, Numbers, Selected, Selection, Tensors, cut_batch
from training.selection.cut_norm import keep_statistics_per_cut
from training.selection.rates import Sent, Size, StoredStreams, StreamReceiver


def find_ranking(ranking_id: str, store: LatentStore, spec: CodecSpec) -> Ranking:
    """Returns the ranking that channels come from.

    Raises:
        RankingError: The codec has none of that name, or it orders other channels.
    """
    ranking = store.ranking(spec.codec_id, ranking_id)
    if len(ranking.order) != spec.channels:
        raise RankingError(
            f"ranking {ranking_id} orders {len(ranking.order)} channels, codec {spec.codec_id} has "
            f"{spec.channels}: derive one with channel-frequency"
        )
    return ranking


@dataclass(frozen=True, kw_only=True)
class Ranked(Selection):
    """Exactly N channels in ranked order, as ranked latents and scalable streams deliver them."""

    name = "static"
    summary = "a fixed subset of the channels"
    required: ClassVar[tuple[str, ...]] = ("mask", "keep")
    names: ClassVar[Sequence[str]] = ("channels",)

    @classmethod
    def find_channels(cls, flags: Any, store: LatentStore, spec: CodecSpec) -> dict[str, Numbers]:
        return {"channels": find_ranking(flags.mask, store, spec).channels(flags.keep)}

    @classmethod
    def label(cls, flags: Any) -> str:
        return f"{cls.name}-{flags.keep} ({flags.mask})"

    def stored(self, ranking_id: str | None) -> StoredChannels:
        return StoredChannels(ranking_id=ranking_id, keep=len(self.numbers))

    def receiver(self, streams: StoredStreams, keep: int | None, gate: Gate) -> StreamReceiver:
        return ScalableStreams(streams, self.numbers[:keep])

    def sent(self, y_hat_BCHW: torch.Tensor, keep: int | None, gate: Gate) -> dict[str, Any]:
        return {"selection": "static", "channels": self.numbers[:keep]}

    def accepted(self, stream: StreamFile, keep: int | None = None) -> int | None:
        for cut in reversed(self.accepts if keep is None else (keep,)):
            if stream.channels[:cut] == self.numbers[:cut] and cut in stream.cuts:
                return cut
        return None


@dataclass(frozen=True, kw_only=True)
class AnyN(Ranked):
    """The first N of the channels, N being one of the cuts; how many come in says which.

    The rest is filled up with zeros, which scaled latents have around them; each cut has batch norm
    statistics of its own.
    """

    name = "any"
    summary = "the first of the ranked channels, as many of them as come"
    required = ("mask",)
    optional = ("cuts",)
    names = ("channels", "cuts")

    def __post_init__(self) -> None:
        super().__post_init__()
        cuts, most = list(self.accepts), len(self.numbers)
        if not self.cuts or cuts != sorted(set(cuts)) or cuts[0] < 1 or cuts[-1] != most:
            raise LatentStoreError(
                f"cuts must rise from 1 or more to all {most} channels of the network, got "
                f"{list(self.cuts or ())}"
            )

    @classmethod
    def find_channels(cls, flags: Any, store: LatentStore, spec: CodecSpec) -> dict[str, Numbers]:
        """Returns the channels up to the largest cut, and the flags' cuts or the ranking's.

        Raises:
            RankingError: There is no such ranking, or the scalable stream cannot be cut there.
        """
        ranking = find_ranking(flags.mask, store, spec)
        cuts = tuple(sorted(set(flags.cuts or ranking.cuts)))
        if unknown := [n for n in cuts if n not in ranking.cuts]:
            raise RankingError(
                f"--cuts {unknown[0]} is no cut of ranking {ranking.ranking_id}, whose streams can "
                f"be cut at {', '.join(map(str, ranking.cuts))}: choose among them, or derive the "
                "ranking with channel-frequency --keep and reorder-latents --overwrite"
            )
        return {"channels": ranking.channels(cuts[-1]), "cuts": cuts}

    @classmethod
    def label(cls, flags: Any) -> str:
        return f"{cls.name} ({flags.mask})"

    def adapt(self, network: Any) -> None:
        """Gives every batch norm statistics for each cut, and the network what switches them."""
        network.switch = keep_statistics_per_cut(network, len(self.accepts))

    def select(self, network: Any, y_hat_BCHW: torch.Tensor, *gate_inputs: Any) -> Selected:
        """Switches to the cut that comes in, and adds zeros for the rest."""
        came = y_hat_BCHW.shape[1]
        network.switch.index = self.accepts.index(came)
        return F.pad(y_hat_BCHW, (0, 0, 0, 0, 0, len(self.numbers) - came)), {}

    def draw(self, batch: Batch, seed: int, epoch: int) -> tuple[Batch, Tensors]:
        """Cuts a batch to an N that is drawn for it."""
        return cut_batch(batch, draw_cut(seed, epoch, batch["batch_rows"], self.accepts)), {}

    def sent(self, y_hat_BCHW: torch.Tensor, keep: int | None, gate: Gate) -> dict[str, Any]:
        """Returns a stream that can be cut behind the camera too, or with `keep` one that can't.

        The latter is coded sooner.
        """
        if keep is not None:
            return super().sent(y_hat_BCHW, keep, gate)
        rest = sorted(set(range(self.latent_channels)) - set(self.numbers))
        return {"selection": "scalable", "channels": (*self.numbers, *rest), "cuts": self.cuts}


class ScalableStreams(StreamReceiver):
    """The first N ranked channels, from the scalable y string up to the cut N.

    `channels` are the channel numbers that the network was trained on, in its order.

    Raises:
        RankingError: The ranking's first N channels are others now, or N is no cut of the stream.
    """

    def __init__(self, streams: StoredStreams, channels: Sequence[int]) -> None:
        super().__init__(streams)
        self.keep = len(channels)
        if streams.ranked is None:
            raise RankingError(
                f"the network takes {self.keep} channels of a ranking that its checkpoint does not "
                "name; train it again"
            )
        self.ranked = streams.ranked
        ranking = self.ranked.ranking
        if ranking.channels(self.keep) != tuple(channels):
            raise RankingError(
                f"the first {self.keep} channels of ranking {ranking.ranking_id!r} are not those "
                "that the network was trained on: the ranking was made again since; train again, "
                "or evaluate on a store that has the old ranking"
            )
        if self.keep not in self.ranked.cuts:
            raise RankingError(
                f"the scalable streams of ranking {ranking.ranking_id!r} have cuts at "
                f"{list(self.ranked.cuts)}, not at {self.keep}; derive the ranking with "
                f"channel-frequency --keep {self.keep}, then reorder-latents --overwrite"
            )
        self.order = np.asarray(ranking.order)
        self.mask_C = np.isin(np.arange(len(self.order)), list(channels))

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.ranked.read(rows, self.keep), np.tile(self.mask_C, (len(rows), 1))

    def send(self, row: int, size: Size, y_hat_KHW: np.ndarray, mask_C: np.ndarray) -> Sent:

        def decode() -> np.ndarray:
            gaussians, kept = self.streams.gaussians(row, size), self.order[: self.keep]
            indexes_CHW = gaussians.indexes_CHW
            prefix = self.ranked.scalable_string(row, self.keep)
            symbols_KHW = decode_scalable(self.tables, prefix, indexes_CHW, self.order, self.keep)
            self.ranked.check_symbols(row, symbols_KHW, indexes_CHW[kept])
            return gaussians.y_hat(symbols_KHW, kept)

        cut_bytes = self.ranked.cut_bytes([row])[0]
        return int(cut_bytes[self.ranked.cuts.index(self.keep)]), decode
