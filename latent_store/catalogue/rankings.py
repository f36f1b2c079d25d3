"""Channel rankings: which channels a task needs most, learned once, used everywhere.

A ranking belongs to one codec: the same channel number means something else in another. Its first
N channels are the static mask of N channels.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latent_store.errors import IntegrityError, RankingError
from latent_store.format.ids import require_name
from latent_store.format.schema import DEFAULT_CUTS
from latent_store.storage import groups, records, small_groups
from latent_store.storage.location import Location
from latent_store.storage.records import Count, Finite, Name

METHODS = ("frequency", "variance", "entropy", "random")
_ARRAYS = {
    "order": "int32",
    "score": "float64",
    "counts": "int64",
    "mean_probability": "float64",
}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The agreement of two orders of the same channels.

    Channels of equal importance share the mean of their ranks, so that numbering them alike is no
    agreement. A correlation is None where one side finds all channels equally important.

    Attributes:
        spearman: Correlation of the ranks, -1 to 1.
        kendall: Kendall's tau-b, -1 to 1: pairs in the same order less pairs in the other one.
        shared: N -> channels that are among the first N of both; N²/M of them by chance.
    """

    spearman: Finite | None
    kendall: Finite | None
    shared: dict[int, Count]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """An order of importance over all M channels of one codec.

    Attributes:
        method: `frequency` (how often the gate keeps a channel), `variance` (Wang et al.),
            `entropy` (bits) or `random`.
        order: All channel numbers, the most important first.
        cuts: The N at which the scalable stream can be cut; ends with M.
        score: What each *channel* (not rank) scored.
        counts: For `frequency`: samples in which the gate keeps each channel.
        mean_probability: For `frequency`: mean P(on) of each channel, the tie-break.
        tied_at_cut: N -> channels with the same score on both sides of the cut; 0 means that the
            cut is decided by the score.
        task: Whose gate was counted, `any` where no network was asked, `a+b` of a shared order.
        halves: How far the orders that each half of the samples gives agree, at the cuts; None for
            `random`, where a half has no sample, and in stores of earlier versions.
    """

    ranking_id: Name
    codec_id: Name
    method: Name
    order: tuple[Count, ...]
    cuts: tuple[Count, ...]
    score: tuple[Finite, ...]
    counts: tuple[Count, ...] | None = None
    mean_probability: tuple[Finite, ...] | None = None
    tied_at_cut: dict[int, Count]
    num_samples: Count
    dataset: Name
    split: Name
    checkpoint_sha256: Name | None = None
    seed: int | None = None
    # What is known about an order does not make it another one.
    task: Name = field(default="segmentation", compare=False)
    halves: Agreement | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        channels = len(self.order)
        per_channel = (self.score, self.counts, self.mean_probability)
        if sorted(self.order) != list(range(channels)) or not all(
            values is None or len(values) == channels for values in per_channel
        ):
            raise IntegrityError("its order, score or counts are not of each channel once")
        cuts = (0, *self.cuts)
        if cuts[-1] != channels or any(b <= a for a, b in itertools.pairwise(cuts)):
            raise IntegrityError(f"its cuts do not ascend from 1 to all {channels} channels")

    @property
    def keys(self) -> tuple[np.ndarray, ...]:
        """The sort keys, float64 [M] each: the score, then its tie-break if it has one.

        See `order_channels`.
        """
        keys = (
            (self.score,) if self.mean_probability is None else (self.score, self.mean_probability)
        )
        return tuple(np.asarray(key, dtype=np.float64) for key in keys)

    def channels(self, keep: int) -> tuple[int, ...]:
        """Returns the first `keep` channel numbers: the static mask of that size.

        Raises:
            RankingError: `keep` is below 1 or larger than the ranking.
        """
        if not 1 <= keep <= len(self.order):
            raise RankingError(
                f"`keep={keep}` is out of range: the ranking {self.ranking_id} orders "
                f"{len(self.order)} channels; give 1 to {len(self.order)}"
            )
        return self.order[:keep]

    def to_json(self) -> dict[str, Any]:
        """Returns plain types that `from_json` reads: a ranking outside of a store."""
        return {**_plain_attrs(self), **{name: getattr(self, name) for name in _ARRAYS}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], remedy: str = "derive it again") -> Ranking:
        """Reads `to_json`, also where JSON made lists of tuples; unknown keys are left.

        Raises:
            IntegrityError: It is no ranking.
        """
        return records.typed(cls, content, "a ranking", remedy)


def make_cuts(keep: Sequence[int] | None, channels: int) -> tuple[int, ...]:
    """Returns the cut points: the requested N, ascending, and all channels last.

    Raises:
        RankingError: A requested N is out of range.
    """
    wanted = sorted({int(n) for n in (keep or [n for n in DEFAULT_CUTS if n < channels])})
    if wanted and not (wanted[0] >= 1 and wanted[-1] <= channels):
        raise RankingError(f"`keep={wanted}` is out of range: the codec has {channels} channels")
    return tuple(dict.fromkeys([*wanted, channels]))


def order_channels(score: np.ndarray, *tie_breaks: np.ndarray) -> np.ndarray:
    """Orders channels by falling score, then by falling tie-breaks, then by number.

    Args:
        score: `[M]`; equal values are ties.
        tie_breaks: Further `[M]` arrays, the most important first.

    Returns:
        int64 `[M]` channel numbers.
    """
    keys = [-np.asarray(k, dtype=np.float64) for k in (score, *tie_breaks)]
    order: np.ndarray = np.lexsort([np.arange(len(score)), *reversed(keys)])
    return order


def ties_at_cuts(score: np.ndarray, order: np.ndarray, cuts: Sequence[int]) -> dict[int, int]:
    """Counts, for each cut, the channels whose score equals both sides of it.

    A cut that runs through a tie is decided by the tie-break alone, not by the score: 0 is good.
    """
    ranked = np.asarray(score)[np.asarray(order)]
    ties = {}
    for cut in cuts:
        inside = cut < len(ranked) and ranked[cut - 1] == ranked[cut]
        ties[int(cut)] = int((ranked == ranked[cut]).sum()) if inside else 0
    return ties


def compare_orders(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], cuts: Sequence[int]
) -> Agreement:
    """Compares two orders of the same channels.

    Args:
        first: Score and tie-breaks, `[M]` each, as `order_channels` takes them.
        second: Those of the other order.
        cuts: The N at which the first N channels are compared.
    """
    one, two = order_channels(*first), order_channels(*second)
    ranks = _mean_ranks(first), _mean_ranks(second)
    signs = [np.sign(rank[:, None] - rank[None, :]) for rank in ranks]
    return Agreement(
        spearman=_correlation(*(rank - rank.mean() for rank in ranks)),
        kendall=_correlation(*signs),
        shared={int(n): len(np.intersect1d(one[:n], two[:n])) for n in cuts},
    )


def compare_rankings(first: Ranking, second: Ranking) -> Agreement:
    """Compares two rankings of one codec at every cut that one of them has, all channels left out.

    Raises:
        RankingError: They belong to different codecs.
    """
    if first.codec_id != second.codec_id:
        raise RankingError(
            f"rankings {first.ranking_id} of {first.codec_id} and {second.ranking_id} of "
            f"{second.codec_id} order different things: the same channel number means something "
            "else in another codec; compare rankings of one codec"
        )
    cuts = sorted({*first.cuts, *second.cuts} - {len(first.order)})
    return compare_orders(first.keys, second.keys, cuts)


def describe_agreement(found: Agreement) -> str:
    """Returns one line, e.g. `Spearman 0.981, Kendall 0.902; agree on 15 of the first 16`."""
    correlations = [
        f"{name} {'undefined' if value is None else f'{value:.3f}'}"
        for name, value in (("Spearman", found.spearman), ("Kendall", found.kendall))
    ]
    first = next(iter(found.shared), None)
    shared = [
        f"{count} of {'the first ' if n == first else ''}{n}" for n, count in found.shared.items()
    ]
    text = ", ".join(correlations)
    return f"{text}; agree on {', '.join(shared)}" if shared else text


def rankings_path(codec_id: str, ranking_id: str = "") -> str:
    """Returns the path of a codec's rankings, or of one of them."""
    return f"codecs/{codec_id}/rankings" + (f"/{ranking_id}" if ranking_id else "")


def lease_name(codec_id: str, ranking_id: str) -> tuple[str, str]:
    """Returns what the right to write a ranking is called, for `latent_store.storage.lease`."""
    return f"codecs/{codec_id}", f"rankings/{ranking_id}"


def write_ranking(location: Location, ranking: Ranking, *, overwrite: bool = False) -> None:
    """Stores a ranking beside its codec; the caller holds its lease (`lease_name`).

    Raises:
        LatentStoreError: No ranking can be called so.
        RankingError: One of that name is there with another order, and `overwrite` is False.
    """
    require_name(ranking.ranking_id, "a ranking's name")
    known = list_rankings(location, ranking.codec_id)
    if ranking.ranking_id in known and not overwrite:
        if read_ranking(location, ranking.codec_id, ranking.ranking_id) == ranking:
            return
        raise RankingError(
            f"ranking {ranking.ranking_id!r} of {ranking.codec_id} exists with other contents; "
            "choose another name, or give `overwrite=` (copies that reorder-latents made "
            "of it must then be made again)"
        )
    path = rankings_path(ranking.codec_id, ranking.ranking_id)
    if ranking.ranking_id in known:
        # Its metadata first: what is half removed is no ranking.
        location.delete(groups.metadata_key(path))
        location.delete_tree(path)
    arrays = {
        name: np.asarray(getattr(ranking, name), dtype=dtype)
        for name, dtype in _ARRAYS.items()
        if getattr(ranking, name) is not None
    }
    dims = {name: ("rank" if name == "order" else "channel",) for name in arrays}
    small_groups.write(location, path, _plain_attrs(ranking), arrays, dims)


def list_rankings(location: Location, codec_id: str) -> list[str]:
    """Returns the ids of a codec's rankings; one that is half written is none yet."""
    names = groups.child_names(location, rankings_path(codec_id))
    return [n for n in names if small_groups.is_finished(location, rankings_path(codec_id, n))]


def read_ranking(location: Location, codec_id: str, ranking_id: str) -> Ranking:
    """Reads a ranking of one codec.

    Raises:
        RankingError: The codec has none of that name; names those it has, and the codec that
            does have it, if another one does.
        IntegrityError: It was altered.
    """
    path = rankings_path(codec_id, ranking_id)
    attrs, remedy = _read_attrs(location, codec_id, ranking_id)
    arrays = small_groups.read_arrays(location, path, attrs, remedy)
    values = {name: arrays[name].tolist() for name in _ARRAYS if name in arrays}
    ranking = records.typed(Ranking, {**attrs, **values}, f"{location.url}: {path}", remedy)
    if (ranking.codec_id, ranking.ranking_id) != (codec_id, ranking_id):
        raise IntegrityError(
            f"{location.url}: {path} holds the ranking {ranking.ranking_id!r} of "
            f"{ranking.codec_id}; {remedy}"
        )
    return ranking


def _read_attrs(location: Location, codec_id: str, ranking_id: str) -> tuple[dict[str, Any], str]:
    """Returns a ranking's attributes, and what to do where it is damaged."""
    path = rankings_path(codec_id, ranking_id)
    remedy = f"derive it again with channel-frequency `ranking={ranking_id}` `overwrite=`"
    attrs = small_groups.read_attrs(location, path, remedy)
    if attrs is None:
        raise RankingError(_unknown(location, codec_id, ranking_id))
    return attrs, remedy


def read_order_crc32c(location: Location, codec_id: str, ranking_id: str) -> int:
    """Returns the digest of a ranking's order, `order_crc32c`, without reading the ranking.

    Raises:
        RankingError: The codec has no such ranking.
        IntegrityError: It was altered.
    """
    attrs, remedy = _read_attrs(location, codec_id, ranking_id)
    path = rankings_path(codec_id, ranking_id)
    values = small_groups.values_crc32c(location, path, attrs, remedy)
    if "order" not in values:
        raise IntegrityError(f"{location.url}: {path} has no order; {remedy}")
    return values["order"]


def order_crc32c(order: Sequence[int]) -> int:
    """Returns the digest that a ranking records of its order."""
    return small_groups.crc32c_of(np.asarray(order, dtype=_ARRAYS["order"]))


def _plain_attrs(ranking: Ranking) -> dict[str, Any]:
    # Through JSON, whose keys are strings and whose sequences lists.
    attrs: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(ranking)))
    return {name: value for name, value in attrs.items() if name not in _ARRAYS}


def _mean_ranks(keys: Sequence[np.ndarray]) -> np.ndarray:
    """Returns each channel's place in rising importance, float64 [M]; equals share their mean."""
    rows = np.stack([np.asarray(key, dtype=np.float64) for key in keys], axis=1)
    _, group, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    means: np.ndarray = middle[group.reshape(-1)]  # numpy 2.0 returns the inverse as a column
    return means


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Returns the cosine of two arrays of one shape; None if one is zero everywhere."""
    size = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(np.sum(first * second) / size) if size > 0 else None


def _unknown(location: Location, codec_id: str, ranking_id: str) -> str:
    codecs = groups.child_names(location, "codecs")
    others = [c for c in codecs if ranking_id in list_rankings(location, c)]
    if others:
        return (
            f"ranking {ranking_id!r} belongs to codec {others[0]}, not to {codec_id}: the same "
            "channel number means something else there; derive one of this codec with "
            "channel-frequency"
        )
    known = ", ".join(list_rankings(location, codec_id)) or "none"
    return (
        f"codec {codec_id} has no ranking {ranking_id!r} (it has: {known}); derive it with "
        "channel-frequency, or name another"
    )
