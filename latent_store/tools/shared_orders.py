"""One scalable stream for several tasks: an order of channels that starts with what all need.

The codec is frozen, so one stream can serve every task, and what tasks need in common is sent
once. A channel's place in the shared order is its best rank among the tasks. So for every N, the
first N channels of every task, together, are a prefix of the shared order, and no channel that
none of them has among its first N lies in that prefix.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latent_store.catalogue.rankings import Ranking, order_channels, ties_at_cuts
from latent_store.errors import RankingError
from latent_store.store import Split

METHOD = "shared"


@dataclass(frozen=True, kw_only=True)
class SharedCut:
    """The costs of one cut of a shared stream, beside those of a stream of each task's own.

    Rates are all images' bits over all their original pixels, as `evaluate-from-store` has them,
    but those of y by the ledger: without what the coder writes to finish.

    Attributes:
        keep: N, the channels that each task needs.
        common: Channels that all tasks have among their first N.
        together: Channels of the shared prefix: those that any of them has.
        own_bpp: Ranking id -> bits a pixel of that task's first N channels alone, z included.
        shared_bpp: Bits a pixel of the shared prefix, z included.
    """

    keep: int
    common: int
    together: int
    own_bpp: dict[str, float]
    shared_bpp: float

    @property
    def apart_bpp(self) -> float:
        """Bits a pixel of one stream for each task."""
        return sum(self.own_bpp.values())


def share_order(rankings: Sequence[Ranking], ranking_id: str) -> Ranking:
    """Merges rankings of several tasks into the order of one stream that serves them all.

    Returns:
        A ranking by `METHOD`. Its score is -1 times a channel's best rank, less a fraction
        that rises with the mean of its ranks; its cuts are where the first N of every task end,
        for each N at which any of them can be cut.

    Raises:
        RankingError: Fewer than two rankings, one of them twice, or of different codecs.
    """
    _require_one_codec(rankings)
    first = rankings[0]
    channels = len(first.order)
    ranks_TC = np.stack([np.argsort(ranking.order) for ranking in rankings]) + 1
    # One number, since a ranking keeps no other: the mean is at most M, so the fraction is below 1.
    score = -(ranks_TC.min(0) + ranks_TC.mean(0) / (channels + 1))
    order = order_channels(score)
    ends = [len(set().union(*(r.channels(n) for r in rankings))) for n in _wanted(rankings)]
    cuts = tuple(dict.fromkeys([*ends, channels]))
    tasks = dict.fromkeys(ranking.task for ranking in rankings)
    return Ranking(
        ranking_id=ranking_id,
        codec_id=first.codec_id,
        method=METHOD,
        order=tuple(order.tolist()),
        cuts=cuts,
        score=tuple(score.tolist()),
        tied_at_cut=ties_at_cuts(score, order, cuts),
        num_samples=sum(ranking.num_samples for ranking in rankings),
        dataset=first.dataset,
        split=first.split,
        task="+".join(tasks),
    )


def shared_cuts(rankings: Sequence[Ranking], split: Split) -> list[SharedCut]:
    """Returns what each cut of the tasks' own rankings costs on a split, views left out.

    Raises:
        RankingError: As `share_order`.
        MissingComponentError: The split lacks latents of that codec.
    """
    _require_one_codec(rankings)
    latents = split.latents(rankings[0].codec_id)
    rows = latents.rows[split.source_rows(latents.rows) == latents.rows]
    pixels = int(split.sizes(rows).astype(np.int64).prod(1).sum())
    z_bpp = 8 * int(latents.stream_bytes(rows)["z"].sum()) / pixels
    channel_bpp_C = latents.column("channel_bits", rows).sum(0, dtype=np.float64) / pixels

    def bpp(channels: set[int]) -> float:
        return z_bpp + float(channel_bpp_C[sorted(channels)].sum())

    found = []
    for keep in _wanted(rankings):
        masks = {ranking.ranking_id: set(ranking.channels(keep)) for ranking in rankings}
        union = set().union(*masks.values())
        found.append(
            SharedCut(
                keep=keep,
                common=len(set.intersection(*masks.values())),
                together=len(union),
                own_bpp={name: bpp(mask) for name, mask in masks.items()},
                shared_bpp=bpp(union),
            )
        )
    return found


def describe_sharing(cuts: Sequence[SharedCut]) -> str:
    """Returns a table, one line a cut."""
    names = list(cuts[0].own_bpp)
    table = [["N each", "common", "together", *(f"bpp {n}" for n in names), "shared", "apart"]]
    for cut in cuts:
        rates = [*(cut.own_bpp[name] for name in names), cut.shared_bpp, cut.apart_bpp]
        counts = (cut.keep, cut.common, cut.together)
        table.append([*map(str, counts), *(f"{rate:.4f}" for rate in rates)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in table
    )


def _wanted(rankings: Sequence[Ranking]) -> list[int]:
    """Returns each N at which a task's own stream can be cut."""
    return sorted({n for ranking in rankings for n in ranking.cuts})


def _require_one_codec(rankings: Sequence[Ranking]) -> None:
    names = [ranking.ranking_id for ranking in rankings]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise RankingError(
            "a shared order needs the rankings of two tasks or more, each once, got "
            + (", ".join(names) or "none")
        )
    for first, second in itertools.pairwise(rankings):
        if first.codec_id != second.codec_id:
            raise RankingError(
                f"rankings {first.ranking_id} of {first.codec_id} and {second.ranking_id} of "
                f"{second.codec_id} order different things; share rankings of one codec"
            )
