"""Methods against the methods that they are meant to beat: savings and differences with intervals.

Two kinds of chance are kept apart: that of the images (intervals, from the same draws of images
for both methods) and that of training (the spread over seeds).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation.curves import Bound, Comparison, Curve, Saving, bound, compare, saving
from training.evaluation.methods import Method, make_methods, point_names
from training.evaluation.points import PIXEL_RAW, Point
from training.evaluation.resampling import (
    Images,
    Interval,
    draw_images,
    drawn_curves,
    interval,
    why_not_drawn,
)
from training.selection.registry import find_selection

_BASELINE_RANKINGS = ("variance", "entropy", "random")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The rate that one method saves against another, with intervals.

    Points that are no better than what nothing learned gives take no part.

    Attributes:
        found: The saving at all images, means over seeds.
        maximum, median, at_least: Intervals of the saving's and of the bound; None without it or
            without draws.
        over_seeds: The largest saving (or the bound) seed by seed, None where there is neither; a
            method without one of the seeds takes part with its mean. Empty where neither method has
            several.
    """

    found: Comparison
    maximum: Interval | None = None
    median: Interval | None = None
    at_least: Interval | None = None
    over_seeds: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The score of a test less that of an anchor at one codec, means over the seeds of each.

    Attributes:
        point: One of the test's points at the codec.
        score: Of all images.
        interval: By the same draws of images for both; None without draws.
        rate: The test's bits per pixel over the anchor's.
    """

    anchor: str
    test: str
    point: Point
    score: float
    interval: Interval | None
    rate: float


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """The score of one method at one codec over its seeds, two or more.

    Attributes:
        point: One of its points at the codec.
        mean, low, high: Of the score.
    """

    name: str
    point: Point
    seeds: tuple[int | None, ...]
    mean: float
    low: float
    high: float
    mean_bpp: float


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Points of one table, and the intervals, savings, differences and spreads that they give.

    Attributes:
        points: At least one.
        names: Of each point: its method's, and its seed where the method has several.
        images: Draws of the images, the same for every point; None if there can be none.
        why_no_intervals: The reason then.
        intervals: Of each point's score; None without draws.
    """

    points: tuple[Point, ...]
    names: tuple[str, ...]
    images: Images | None
    why_no_intervals: str | None
    intervals: tuple[Interval | None, ...]
    saved: tuple[Saved, ...]
    differences: tuple[Difference, ...]
    spreads: tuple[SeedSpread, ...]

    @property
    def metric(self) -> str:
        """The name of the points' score."""
        return self.points[0].metric


def analyse(points: Sequence[Point], seed: int = 0) -> Analysis:
    """Returns intervals, savings, differences and spreads of points.

    Points that were measured on different images get no intervals, and a reason.

    Raises:
        DatasetError: See `training.evaluation.methods.require_comparable`.
    """
    methods = make_methods(points)
    images = draw_images(points, seed=seed)
    pairs = pair_methods(methods)
    return Analysis(
        points=tuple(points),
        names=tuple(point_names(points)),
        images=images,
        why_no_intervals=why_not_drawn(points),
        intervals=tuple(images and interval(images.score(p)) for p in points),
        saved=tuple(find_savings(pairs, images)),
        differences=tuple(d for pair in pairs for d in find_differences(*pair, images)),
        spreads=tuple(spread for method in methods for spread in find_spreads(method)),
    )


def pair_methods(methods: Sequence[Method]) -> list[tuple[Method, Method]]:
    """Returns each method with each that it is meant to beat, as (anchor, test).

    Those are the pixel domain, all channels (`none`), and, for a network on N ranked channels,
    static networks, and those of its kind, on as many by a ranking that learned nothing from the
    task.
    """
    return [
        (anchor, test)
        for anchor in methods
        for test in methods
        if anchor is not test and _is_anchor(anchor.points[0], test.points[0])
    ]


def find_savings(pairs: Sequence[tuple[Method, Method]], images: Images | None) -> list[Saved]:
    """Returns what each test saves against its anchor, with intervals if there are draws."""
    learned = {id(method): method.learned for pair in pairs for method in pair}
    drawn = {
        key: drawn_curves(method, images)
        for key, method in learned.items()
        if method is not None and images is not None
    }
    found = []
    for anchor, test in pairs:
        theirs, mine = learned[id(anchor)], learned[id(test)]
        if theirs is None or mine is None:
            note = why_not_stated(anchor if theirs is None else test)
            nothing = Comparison(anchor=anchor.name, test=test.name, note=note)
            found.append(Saved(found=nothing))
        else:
            curves = drawn.get(id(anchor), []), drawn.get(id(test), [])
            found.append(_find_saving(theirs, mine, *curves))
    return found


def why_not_stated(method: Method) -> str:
    """Returns why there is no saving where `method` is one side and learned nothing."""
    best, floor = max(method.curve.scores), max(p.floor for p in method.points)
    return (
        f"{method.name} reaches {best:.4f}, no more than the {floor:.4f} of a prediction that "
        "never looks"
    )


def find_differences(anchor: Method, test: Method, images: Images | None) -> list[Difference]:
    """Returns the difference in score at each codec that both methods have."""
    return [
        Difference(
            anchor=anchor.name,
            test=test.name,
            point=mine[0],
            score=_mean_score(mine) - _mean_score(theirs),
            interval=images and interval(images.score(*mine) - images.score(*theirs)),
            rate=_mean_bpp(mine) / _mean_bpp(theirs),
        )
        for codec_id, mine in test.by_codec.items()
        if (theirs := anchor.by_codec.get(codec_id))
    ]


def find_spreads(method: Method) -> list[SeedSpread]:
    """Returns the spread over seeds at each codec at which a method has several."""
    return [
        SeedSpread(
            name=method.name,
            point=group[0],
            seeds=tuple(p.seed for p in group),
            mean=_mean_score(group),
            low=min(p.score for p in group),
            high=max(p.score for p in group),
            mean_bpp=_mean_bpp(group),
        )
        for group in method.by_codec.values()
        if len(group) > 1
    ]


def _find_saving(
    anchor: Method, test: Method, anchors: Sequence[Curve | None], tests: Sequence[Curve | None]
) -> Saved:
    found = compare(anchor.curve, test.curve)
    measure: Callable[[Curve, Curve], Saving | Bound | None] = bound
    names: tuple[str, ...] = () if found.bound is None else ("at_least",)
    if found.saving is not None:
        measure, names = saving, ("maximum", "median")
    drawn = [a and t and measure(a, t) for a, t in zip(anchors, tests, strict=True)]
    intervals = {
        name: interval(np.array([np.nan if d is None else getattr(d, name) for d in drawn]))
        for name in names
        if drawn
    }
    return Saved(found=found, over_seeds=_over_seeds(anchor, test), **intervals)


def _over_seeds(anchor: Method, test: Method) -> tuple[float | None, ...]:
    seeds = max(test.seeds, anchor.seeds, key=len)
    if len(seeds) < 2:
        return ()
    pairs = [(anchor.of_seed(seed) or anchor, test.of_seed(seed) or test) for seed in seeds]
    return tuple(compare(theirs.curve, mine.curve).largest for theirs, mine in pairs)


def _mean_score(points: Sequence[Point]) -> float:
    return float(np.mean([p.score for p in points]))


def _mean_bpp(points: Sequence[Point]) -> float:
    return float(np.mean([p.bpp for p in points]))


def _is_anchor(anchor: Point, test: Point) -> bool:
    if anchor.domain == test.domain == "pixel":
        return anchor.label == PIXEL_RAW
    if anchor.domain == "pixel":
        return True
    if test.domain == "pixel":
        return False
    kind = find_selection(anchor.selection)
    if kind.takes_all:
        return True
    return (
        ("cuts" not in kind.names or kind is find_selection(test.selection))
        and anchor.keep == test.keep
        and anchor.ranking_method in _BASELINE_RANKINGS
        and test.ranking_method not in _BASELINE_RANKINGS
    )
