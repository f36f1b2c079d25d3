"""Comparing methods by rate: savings at equal quality, bounds, and Bjøntegaard's average.

A curve is one method at several rates. Its Pareto front holds the points that no other point of
the method beats in both rate and score; between them log-rate is linear in the score. The rate
saved at a score is then `1 − r_test / r_anchor`, and the headline of the paper (section 3.2,
"save up to … bitrates") is its maximum over the scores that both methods reach.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

MIN_BD_POINTS = 4
"""Pareto points that Bjøntegaard's average needs; the library returns numbers for 2 as well."""

_SCORE_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One method at several rates.

    Attributes:
        rates: Bits per original pixel of each point, above 0, in any order.
        scores: MIoU, AP or another score of which more is better, of each point.
    """

    name: str
    rates: tuple[float, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.scores) or not self.rates:
            raise ValueError(
                f"curve {self.name!r} has {len(self.rates)} rates and {len(self.scores)} scores; "
                "give as many of each, and at least one"
            )
        if not (np.isfinite([self.rates, self.scores]).all() and min(self.rates) > 0):
            raise ValueError(
                f"curve {self.name!r} has rates {self.rates} and scores {self.scores}; rates must "
                "be finite and above 0, scores finite"
            )

    @cached_property
    def front(self) -> tuple[np.ndarray, np.ndarray]:
        """Rates and scores of the Pareto front, float64 [k], both strictly ascending.

        Those are the points that no other point beats: less rate and at least the score.
        """
        rate, score = np.array([self.rates, self.scores], dtype=np.float64)
        order = np.lexsort((-score, rate))
        best_before = np.maximum.accumulate(np.concatenate([[-np.inf], score[order][:-1]]))
        kept = order[score[order] > best_before]
        return rate[kept], score[kept]


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Rate saved against another method over the scores that both reach; fractions of 1.

    Attributes:
        maximum: Largest saving, negative where the method always costs more.
        maximum_at: The score at which it is reached.
        median: Median over the overlap, scores weighted evenly.
        overlap: Lowest and highest score that both fronts reach.
    """

    maximum: float
    maximum_at: float
    median: float
    overlap: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The rate that is certainly saved when a method starts where the other one ends.

    The anchor's best score, at `anchor_rate`, is reached or passed by the test at `test_rate`,
    so at least `at_least = 1 − test_rate / anchor_rate` is saved there.
    """

    at_least: float
    anchor_rate: float
    anchor_score: float
    test_rate: float
    test_score: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that can be said about one method against another.

    Exactly one of `saving`, `bound` and `note` is given; `bd_rate` (percent, negative is
    better) comes with `saving` or is replaced by `bd_note`, which says what it lacks.
    """

    anchor: str
    test: str
    saving: Saving | None = None
    bound: Bound | None = None
    note: str | None = None
    bd_rate: float | None = None
    bd_note: str | None = None

    @property
    def largest(self) -> float | None:
        """The largest saving, or the bound; None where there is neither."""
        if self.saving is not None:
            return self.saving.maximum
        return None if self.bound is None else self.bound.at_least


def rate_at(curve: Curve, scores: np.ndarray) -> np.ndarray:
    """Returns the rates [n] at which a curve's front reaches `scores` [n], log-rate interpolated.

    Raises:
        ValueError: A score lies beyond the front.
    """
    rate, score = curve.front
    low, high = score[0], score[-1]
    if np.any((scores < low) | (scores > high)):
        raise ValueError(
            f"curve {curve.name!r} reaches scores {low:.4f} to {high:.4f}, asked for "
            f"{np.min(scores):.4f} to {np.max(scores):.4f}; ask within its range"
        )
    return np.exp(np.interp(scores, score, np.log(rate)))


def saving(anchor: Curve, test: Curve) -> Saving | None:
    """Returns what `test` saves against `anchor` at equal score; None without an overlap."""
    anchor_score, test_score = anchor.front[1], test.front[1]
    low = max(anchor_score[0], test_score[0])
    high = min(anchor_score[-1], test_score[-1])
    if low > high:
        return None
    # Both log-rates are piecewise linear in the score, so extremes lie on the fronts' points;
    # the even grid is for the median.
    knots = np.concatenate([anchor_score, test_score, [low, high]])
    knots = np.unique(knots[(knots >= low) & (knots <= high)])
    at_knots = _saved(anchor, test, knots)
    best = int(np.argmax(at_knots))
    even = np.clip(np.linspace(low, high, _SCORE_STEPS + 1), low, high)
    return Saving(
        maximum=float(at_knots[best]),
        maximum_at=float(knots[best]),
        # Where all savings are equal, rounding must not lift the median above the maximum.
        median=min(float(np.median(_saved(anchor, test, even))), float(at_knots[best])),
        overlap=(float(low), float(high)),
    )


def bound(anchor: Curve, test: Curve) -> Bound | None:
    """Returns the least that `test` saves where it begins above the anchor's best score.

    The anchor's rate is that of its best point on the front, its highest useful rate: points
    beyond it that score less would only flatter. None if the test never reaches that score, or
    only at a higher rate.
    """
    (anchor_rate, anchor_score), (test_rate, test_score) = anchor.front, test.front
    first = np.searchsorted(test_score, anchor_score[-1])
    if first == len(test_score) or test_rate[first] >= anchor_rate[-1]:
        return None
    return Bound(
        at_least=float(1 - test_rate[first] / anchor_rate[-1]),
        anchor_rate=float(anchor_rate[-1]),
        anchor_score=float(anchor_score[-1]),
        test_rate=float(test_rate[first]),
        test_score=float(test_score[first]),
    )


def bd_rate(anchor: Curve, test: Curve) -> tuple[float | None, str | None]:
    """Returns Bjøntegaard's average rate difference over the fronts, or why there is none.

    Akima interpolation of log-rate over the score, by the library `bjontegaard`, which answers
    silently for two points and for curves that are not monotone: hence the guards.

    Returns:
        `(percent, None)`, negative where the test needs less rate, or `(None, reason)`.
    """
    for curve in (anchor, test):
        if (points := len(curve.front[0])) < MIN_BD_POINTS:
            found = f"{points} Pareto points of {len(curve.rates)}"
            return None, f"{curve.name} has {found}, BD-rate needs {MIN_BD_POINTS}"
    (anchor_rate, anchor_score), (test_rate, test_score) = anchor.front, test.front
    if min(anchor_score[-1], test_score[-1]) <= max(anchor_score[0], test_score[0]):
        return None, "no overlap in score"
    # Imported here: the library imports matplotlib's pyplot, which the rest does not need.
    import bjontegaard

    percent = bjontegaard.bd_rate(
        anchor_rate, anchor_score, test_rate, test_score,
        method="akima", require_matching_points=False, min_overlap=0,
    )  # fmt: skip
    return float(percent), None


def compare(anchor: Curve, test: Curve) -> Comparison:
    """Returns the saving of `test` against `anchor`, else a bound, else why there is none."""
    percent, reason = bd_rate(anchor, test)
    found = Comparison(anchor=anchor.name, test=test.name, bd_note=reason)
    if at_equal_score := saving(anchor, test):
        return replace(found, saving=at_equal_score, bd_rate=percent)
    if certain := bound(anchor, test):
        return replace(found, bound=certain)
    return replace(found, note=_why_nothing(anchor, test))


def _saved(anchor: Curve, test: Curve, scores: np.ndarray) -> np.ndarray:
    saved: np.ndarray = 1 - rate_at(test, scores) / rate_at(anchor, scores)
    return saved


def _why_nothing(anchor: Curve, test: Curve) -> str:
    (anchor_rate, anchor_score), (test_rate, test_score) = anchor.front, test.front
    if test_score[-1] < anchor_score[0]:
        return (
            f"{test.name} reaches {test_score[-1]:.4f} at most, "
            f"{anchor.name} starts at {anchor_score[0]:.4f}"
        )
    return (
        f"{test.name} starts at {test_rate[0]:.4f} bpp, not below {anchor_rate[-1]:.4f} bpp, "
        f"with which {anchor.name} reaches its best"
    )
