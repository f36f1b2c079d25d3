"""What the page's scripts show, as one JSON document: the numbers of the tables, and no others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from latent_store.catalogue.rankings import Ranking
from training.evaluation.comparisons import Analysis
from training.evaluation.methods import make_sweeps
from training.evaluation.points import Point, summary
from training.reports.charts import Chart
from training.reports.image_scores import image_scores, worst
from training.tasks.classes import class_colours
from training.tasks.registry import find_task

_WORST = 12
"""Pictures in the table of a network's lowest scores."""
_MOST_PAIRS = 200_000
"""Numbers of all confusion matrices together, about a megabyte."""
_NUMBERS = ("bpp", "hyper_bpp", "y_bpp", "mask_bpp", "score", "channels_mean", "class_scores")
Bits = Mapping[str, Sequence[float]]
"""Codec id -> mean bits of each channel in a picture."""


def page_data(
    analysis: Analysis,
    charts: Sequence[Chart],
    rankings: Sequence[Ranking] = (),
    bits: Bits | None = None,
    pictures: Sequence[Mapping[str, Any]] = (),
    codecs: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns everything that the page draws.

    Args:
        analysis: Of the points.
        charts: Their figures.
        rankings: Of the heat map of channels.
        bits: Of the same; None where only records are left.
        pictures: Of `training.reports.album`.
        codecs: Short names by codec ids; by default those that tables have.
    """
    points = analysis.points
    names = codecs or {p.codec_id: p.codec_name for p in points}
    classes = range(len(points[0].class_names))
    present = [k for k in classes if any(p.class_scores[k] is not None for p in points)]
    # Of many classes the matrices are large: the best networks' are shown.
    best = sorted(points, key=lambda p: -p.score)
    confused = {p.key for p in best[: max(1, _MOST_PAIRS // len(points[0].class_names) ** 2)]}
    return {
        "metric": analysis.metric,
        "classTitle": find_task(points[0].task).metric.class_title,
        "charts": [_chart(chart) for chart in charts],
        "classes": list(points[0].class_names),
        "colours": ["#{:02x}{:02x}{:02x}".format(*c) for c in class_colours(points[0].class_names)],
        "present": present,
        "points": [
            _point(p, name, names, confused=p.key in confused)
            for p, name in zip(points, analysis.names, strict=True)
        ],
        "baseline": _baseline(analysis),
        "worst": [_worst(p) for p in points],
        "rankings": _rankings(rankings, bits or {}, names),
        "families": _families(points, names),
        "pictures": list(pictures),
    }


def _chart(chart: Chart) -> dict[str, Any]:
    content = dataclasses.asdict(chart)
    for series, made in zip(content["series"], chart.series, strict=True):
        series["line"] = made.line
    return content


def _point(point: Point, name: str, codecs: Mapping[str, str], *, confused: bool) -> dict[str, Any]:
    numbers = summary(point)
    return {
        "name": name,
        "codec": codecs[point.codec_id],
        **{key: numbers[key] for key in _NUMBERS},
        "confusion": point.confusion if confused else None,
    }


def _baseline(analysis: Analysis) -> int:
    """Returns the point that differences are shown against first: what most methods must beat."""
    anchors = [saved.found.anchor for saved in analysis.saved]
    first = max(dict.fromkeys(anchors), key=anchors.count, default=None)
    found = (i for i, name in enumerate(analysis.names) if first and name.startswith(first))
    return next(found, 0)


def _worst(point: Point) -> list[dict[str, Any]]:
    scores_S = image_scores(point)
    return [
        {
            "id": point.samples[i].sample_id,
            "score": float(scores_S[i]),
            "bpp": 8 * point.samples[i].rate.total_bytes / point.samples[i].pixels,
        }
        for i in worst(scores_S, _WORST)
    ]


def _rankings(
    rankings: Sequence[Ranking], bits: Bits, codecs: Mapping[str, str]
) -> list[dict[str, Any]]:
    distinct = {(r.codec_id, r.ranking_id): r for r in rankings}.values()
    return [
        {
            "name": ranking.ranking_id,
            "codec": codecs.get(ranking.codec_id, ranking.codec_id),
            "method": ranking.method,
            "order": ranking.order,
            "cuts": ranking.cuts,
            # How often the gate keeps a channel, else what the ranking is by.
            "frequency": ranking.counts
            and [count / max(ranking.num_samples, 1) for count in ranking.counts],
            "score": [value if math.isfinite(value) else None for value in ranking.score],
            "bits": bits.get(ranking.codec_id),
        }
        for ranking in distinct
    ]


def _families(points: Sequence[Point], codecs: Mapping[str, str]) -> list[dict[str, Any]]:
    """Returns the networks of the pictures: those of several N together, the others alone."""
    numbers = {id(point): number for number, point in enumerate(points)}
    found: list[dict[str, Any]] = []
    swept: set[int] = set()
    for sweep in make_sweeps(points):
        # Of several seeds the first is shown.
        steps = [
            {"n": keep, "point": numbers[id(method.points[0])]}
            for keep, method in zip(sweep.keeps, sweep.methods, strict=True)
        ]
        swept.update(numbers[id(p)] for method in sweep.methods for p in method.points)
        found.append({"name": sweep.name, "codec": codecs[sweep.codec_id], "steps": steps})
    for number, point in enumerate(points):
        if number not in swept:
            alone = [{"n": point.keep, "point": number}]
            found.append({"name": point.label, "codec": codecs[point.codec_id], "steps": alone})
    return found
