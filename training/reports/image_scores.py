"""The score of each picture on its own, and the pictures that networks find hardest."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from training.evaluation.points import Point
from training.tasks.registry import find_task

_AT_ONCE = 512
"""Images whose scores are taken at once, against memory that grows with their square."""


def image_scores(point: Point) -> np.ndarray:
    """Returns the score that each image alone would give, float64 [S]; nan where nothing counts."""
    metric, parts = find_task(point.task).metric, [s.part for s in point.samples]
    starts = range(0, len(parts), _AT_ONCE)
    alone = (np.eye(min(_AT_ONCE, len(parts) - first), len(parts), first) for first in starts)
    return np.concatenate([metric.drawn(parts, times_DS) for times_DS in alone])


def mean_scores(points: Sequence[Point]) -> np.ndarray:
    """Returns each image's score, mean over points of the same images; nan where nothing counts."""
    with warnings.catch_warnings():
        # An image in which nothing counts has no mean: that is its answer.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean([image_scores(point) for point in points], axis=0)


def worst(scores_S: np.ndarray, count: int) -> list[int]:
    """Returns the numbers of the lowest scores, the lowest first; nan are none."""
    order = np.argsort(scores_S, kind="stable")
    return [int(i) for i in order[:count] if np.isfinite(scores_S[i])]
