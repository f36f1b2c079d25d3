"""Intervals by drawing images again: what another validation set of this size could have said.

Paired bootstrap: each draw takes as many images as there are, with replacement, and the same ones
for every point, so that what two networks find equally hard cancels out of their difference. mIoU
and rate of a draw are computed as those of the whole set are: from one confusion matrix, over the
classes that the drawn labels contain, and from all bytes over all pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latent_store.errors import DatasetError
from training.curves import Curve
from training.methods import Method, require_comparable
from training.points import Point

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

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Draws of images, the same for every point.

    Attributes:
        sample_ids: The images, in the order in which every point holds them.
        times_DS: float64 [draws, images], how often each draw has each image; rows sum to S.
    """

    sample_ids: tuple[str, ...]
    times_DS: np.ndarray

    @property
    def few(self) -> bool:
        """Whether there are too few images for the intervals to be wide enough."""
        return len(self.sample_ids) < FEW_IMAGES


def draw_images(points: Sequence[Point], draws: int = DRAWS, seed: int = 0) -> Images:
    """Draws images for points that were all measured on the same ones.

    Args:
        points: At least one.
        draws: How many.
        seed: The same seed draws the same images.

    Raises:
        DatasetError: There is a single image, two points were measured on different images, or
            see :func:`training.methods.require_comparable`.
    """
    require_comparable(points)
    reason = why_not_drawn(points)
    if reason is not None:
        message = f"no intervals: {reason}; measure all networks on the same images, two or more"
        raise DatasetError(message)
    size = len(points[0].samples)
    generator = np.random.default_rng(seed)
    times_DS = generator.multinomial(size, np.full(size, 1 / size), size=draws)
    ids = tuple(s.sample_id for s in points[0].samples)
    return Images(sample_ids=ids, times_DS=times_DS.astype(np.float64))


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


def drawn_miou(point: Point, images: Images) -> np.ndarray:
    """Returns mIoU in each draw, float64 [D]; nan where no drawn image has a label."""
    hits_DK, labelled_DK, predicted_DK = (
        images.times_DS @ np.array([getattr(s, name) for s in point.samples], dtype=np.float64)
        for name in ("hits", "labelled", "predicted")
    )
    present_DK = labelled_DK > 0
    union_DK = np.where(present_DK, labelled_DK + predicted_DK - hits_DK, 1)
    present_D = present_DK.sum(axis=1)
    total_D = np.where(present_DK, hits_DK / union_DK, 0).sum(axis=1)
    return np.divide(total_D, present_D, out=np.full(len(total_D), np.nan), where=present_D > 0)


def drawn_bpp(point: Point, images: Images) -> np.ndarray:
    """Returns bits per pixel in each draw, float64 [D]."""
    bits_S = np.array([8 * s.rate.total_bytes for s in point.samples], dtype=np.float64)
    pixels_S = np.array([s.pixels for s in point.samples], dtype=np.float64)
    return (images.times_DS @ bits_S) / (images.times_DS @ pixels_S)


def drawn_curves(method: Method, images: Images) -> list[Curve | None]:
    """Returns a method's curve in each draw, means over seeds; None where mIoU is undefined."""
    groups = list(method.by_codec.values())
    rates_DQ = np.stack([_mean(drawn_bpp, group, images) for group in groups], axis=1)
    scores_DQ = np.stack([_mean(drawn_miou, group, images) for group in groups], axis=1)
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


def _mean(quantity, group: Sequence[Point], images: Images) -> np.ndarray:
    return np.mean([quantity(point, images) for point in group], axis=0)
