"""Intervals by drawing images again: what another validation set of this size could have said.

Paired bootstrap: each draw takes as many images as there are, with replacement, and the same ones
for every point, so that what two networks find equally hard cancels out of their difference. Score
and rate of a draw are computed as those of the whole set are: mIoU from the sum of all images, AP50
from one ranking of all detections, over the classes that the drawn images have; the rate from all
bytes over all pixels. (`scipy.stats.bootstrap` draws for one statistic; here all points share the
draws, and a point's scores are computed once for every comparison.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from training.evaluation.curves import Curve
from training.evaluation.methods import Method, require_comparable
from training.evaluation.points import Point
from training.tasks.registry import find_task

DRAWS = 1000
LEVEL = 0.95
FEW_IMAGES = 30
"""With fewer images than this, intervals by drawing them again come out too narrow."""
_MIN_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval, between the 2.5 % and the 97.5 % quantile of the draws.

    Attributes:
        low, high: Its ends.
        share: Of the draws in which the quantity exists; the others are left out.
    """

    low: float
    high: float
    share: float = 1.0


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Draws of images, the same for every point.

    Attributes:
        times_DS: Float64 [draws, images], how often each draw has each image, in the order in which
            every point holds them; rows sum to S.
    """

    times_DS: np.ndarray
    _scores: dict[int, tuple[Point, np.ndarray]] = field(default_factory=dict, init=False)

    def score(self, *points: Point) -> np.ndarray:
        """Returns the mean of points in each draw, float64 [D]; nan where nothing counts."""
        return np.mean([self._score(point) for point in points], axis=0)

    def bpp(self, *points: Point) -> np.ndarray:
        """Returns the mean of points in each draw, float64 [D], in bits per pixel."""
        bits_PS = 8.0 * np.array([[s.rate.total_bytes for s in p.samples] for p in points])
        pixels_PS = np.array([[s.pixels for s in p.samples] for p in points])
        bpp_DP = (self.times_DS @ bits_PS.T) / (self.times_DS @ pixels_PS.T)
        return bpp_DP.mean(axis=1)

    def _score(self, point: Point) -> np.ndarray:
        if id(point) not in self._scores:
            parts = [sample.part for sample in point.samples]
            scores_D = find_task(point.task).metric.drawn(parts, self.times_DS)
            # The point is kept too, or another one could get its id.
            self._scores[id(point)] = (point, scores_D)
        return self._scores[id(point)][1]


def draw_images(points: Sequence[Point], draws: int = DRAWS, seed: int = 0) -> Images | None:
    """Draws images for points that were all measured on the same ones.

    The same seed draws the same images; None where `why_not_drawn` has a reason.

    Raises:
        DatasetError: See `training.evaluation.methods.require_comparable`.
    """
    require_comparable(points)
    if why_not_drawn(points) is not None:
        return None
    size = len(points[0].samples)
    generator = np.random.default_rng(seed)
    times_DS = generator.multinomial(size, np.full(size, 1 / size), size=draws)
    return Images(times_DS=times_DS.astype(np.float64))


def why_not_drawn(points: Sequence[Point]) -> str | None:
    """Returns why images of these points cannot be drawn again together; None if they can."""
    first = points[0]
    for point in points:
        if [s.sample_id for s in point.samples] != [s.sample_id for s in first.samples]:
            return (
                f"{first.label} was measured on {len(first.samples)} images, {point.label} on "
                f"{len(point.samples)}, and they are not the same"
            )
    if len(first.samples) < _MIN_IMAGES:
        return "a single image cannot be drawn in several ways"
    return None


def drawn_curves(method: Method, images: Images) -> list[Curve | None]:
    """Returns a method's curve in each draw, means over seeds; None where it has no score."""
    groups = list(method.by_codec.values())
    rates_DQ = np.stack([images.bpp(*group) for group in groups], axis=1)
    scores_DQ = np.stack([images.score(*group) for group in groups], axis=1)
    return [
        Curve(name=method.name, rates=tuple(rates_Q.tolist()), scores=tuple(scores_Q.tolist()))
        if np.isfinite(scores_Q).all()
        else None
        for rates_Q, scores_Q in zip(rates_DQ, scores_DQ, strict=True)
    ]


def interval(values_D: np.ndarray) -> Interval | None:
    """Returns the middle 95 % of what draws gave; nan are left out, None if nothing remains."""
    found = values_D[np.isfinite(values_D)]
    if not found.size:
        return None
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high), share=found.size / values_D.size)
