"""Channel rankings: which channels a task needs most, learned once, used everywhere.

A ranking belongs to one codec: the same channel number means something else in another. Its first
N channels are the static mask of N channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latent_store import groups, seals, small_groups
from latent_store.errors import IntegrityError, RankingError
from latent_store.location import Location
from latent_store.schema import DEFAULT_CUTS

METHODS = ("frequency", "variance", "entropy", "random")
_ARRAYS = {
    "order": "int32",
    "score": "float64",
    "counts": "int64",
    "mean_probability": "float64",
}


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """An order of importance over all M channels of one codec.

    Attributes:
        method: ``frequency`` (how often the gate keeps a channel), ``variance`` (Wang et al.),
            ``entropy`` (bits) or ``random``.
        order: All channel numbers, the most important first.
        cuts: The N at which the scalable stream can be cut; ends with M.
        score: What each *channel* (not rank) scored.
        counts: For ``frequency``: samples in which the gate keeps each channel.
        mean_probability: For ``frequency``: mean P(on) of each channel, the tie-break.
        tied_at_cut: N -> channels with the same score on both sides of the cut; 0 means that the
            cut is decided by the score.
    """

    ranking_id: str
    codec_id: str
    method: str
    order: tuple[int, ...]
    cuts: tuple[int, ...]
    score: tuple[float, ...]
    counts: tuple[int, ...] | None = None
    mean_probability: tuple[float, ...] | None = None
    tied_at_cut: dict[int, int]
    num_samples: int
    dataset: str
    split: str
    task: str = "segmentation"
    checkpoint_sha256: str | None = None
    seed: int | None = None

    def channels(self, keep: int) -> tuple[int, ...]:
        """Returns the first ``keep`` channel numbers: the static mask of that size.

        Raises:
            RankingError: ``keep`` is below 1 or larger than the ranking.
        """
        if not 1 <= keep <= len(self.order):
            message = (
                f"--keep {keep} is out of range: the ranking {self.ranking_id} orders "
                f"{len(self.order)} channels; give 1 to {len(self.order)}"
            )
            raise RankingError(message)
        return self.order[:keep]


def make_cuts(keep: Sequence[int] | None, channels: int) -> tuple[int, ...]:
    """Returns the cut points: the requested N, ascending, and all channels last.

    Raises:
        RankingError: A requested N is out of range.
    """
    wanted = sorted({int(n) for n in (keep or [n for n in DEFAULT_CUTS if n < channels])})
    if wanted and not (wanted[0] >= 1 and wanted[-1] <= channels):
        message = f"--keep {wanted} is out of range: the codec has {channels} channels"
        raise RankingError(message)
    return tuple(dict.fromkeys([*wanted, channels]))


def order_channels(score: np.ndarray, *tie_breaks: np.ndarray) -> np.ndarray:
    """Orders channels by falling score, then by falling tie-breaks, then by number.

    Args:
        score: ``[M]``; equal values are ties.
        tie_breaks: Further ``[M]`` arrays, the most important first.

    Returns:
        int64 ``[M]`` channel numbers.
    """
    keys = [-np.asarray(k, dtype=np.float64) for k in (score, *tie_breaks)]
    return np.lexsort([np.arange(len(score)), *reversed(keys)])


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


def rankings_path(codec_id: str, ranking_id: str = "") -> str:
    """Returns the path of a codec's rankings, or of one of them."""
    return f"codecs/{codec_id}/rankings" + (f"/{ranking_id}" if ranking_id else "")


def write_ranking(location: Location, ranking: Ranking, *, overwrite: bool = False) -> None:
    """Stores a ranking beside its codec.

    Raises:
        RankingError: One of that name is there with another order, and ``overwrite`` is False.
    """
    known = list_rankings(location, ranking.codec_id)
    if ranking.ranking_id in known and not overwrite:
        if read_ranking(location, ranking.codec_id, ranking.ranking_id) == ranking:
            return
        message = (
            f"ranking {ranking.ranking_id!r} of {ranking.codec_id} exists with other contents; "
            "choose another --ranking name, or give --overwrite (copies that reorder-latents made "
            "of it must then be made again)"
        )
        raise RankingError(message)
    path = rankings_path(ranking.codec_id, ranking.ranking_id)
    location.delete_tree(path)
    arrays = {
        name: np.asarray(getattr(ranking, name), dtype=dtype)
        for name, dtype in _ARRAYS.items()
        if getattr(ranking, name) is not None
    }
    dims = {name: ("rank" if name == "order" else "channel",) for name in arrays}
    small_groups.write(location, path, _plain_attrs(ranking), arrays, dims)


def list_rankings(location: Location, codec_id: str) -> list[str]:
    """Returns the ids of a codec's rankings."""
    return groups.child_names(location, rankings_path(codec_id))


def read_ranking(location: Location, codec_id: str, ranking_id: str) -> Ranking:
    """Reads a ranking of one codec.

    Raises:
        RankingError: The codec has none of that name; names those it has, and the codec that
            does have it, if another one does.
        IntegrityError: It was altered.
    """
    path = rankings_path(codec_id, ranking_id)
    remedy = f"derive it again with channel-frequency --ranking {ranking_id} --overwrite"
    attrs = small_groups.read_attrs(location, path, remedy)
    if attrs is None:
        raise RankingError(_unknown(location, codec_id, ranking_id))
    if (attrs["codec_id"], attrs["ranking_id"]) != (codec_id, ranking_id):
        message = (
            f"{location.url}: {path} holds the ranking {attrs['ranking_id']!r} of "
            f"{attrs['codec_id']}; {remedy}"
        )
        raise IntegrityError(message)
    arrays = small_groups.read_arrays(location, path, attrs, remedy)
    fields = seals.known_fields(Ranking, attrs)
    fields |= {name: tuple(arrays[name].tolist()) for name in _ARRAYS if name in arrays}
    fields["tied_at_cut"] = {int(k): int(v) for k, v in attrs["tied_at_cut"].items()}
    return Ranking(**{**fields, "cuts": tuple(attrs["cuts"])})


def _plain_attrs(ranking: Ranking) -> dict[str, Any]:
    attrs = {k: v for k, v in vars(ranking).items() if k not in _ARRAYS}
    attrs["cuts"] = list(ranking.cuts)
    attrs["tied_at_cut"] = {str(k): v for k, v in ranking.tied_at_cut.items()}
    return attrs


def _unknown(location: Location, codec_id: str, ranking_id: str) -> str:
    codecs = groups.child_names(location, "codecs")
    others = [c for c in codecs if ranking_id in list_rankings(location, c)]
    if others:
        return (
            f"ranking {ranking_id!r} belongs to codec {others[0]}, not to {codec_id}: the same "
            "channel number means something else there; derive one with channel-frequency "
            f"--codec {codec_id}"
        )
    known = ", ".join(list_rankings(location, codec_id)) or "none"
    return (
        f"codec {codec_id} has no ranking {ranking_id!r} (it has: {known}); derive it with "
        f"channel-frequency --ranking {ranking_id}"
    )
