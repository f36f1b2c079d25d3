"""The figures as plain data: rate against the score of every method, and over N at one codec.

`training.reports.plots` draws them to files, the page to the screen: both from the same numbers.
"""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from training.evaluation.methods import Method, Sweep, make_methods, make_sweeps
from training.evaluation.points import Point
from training.evaluation.resampling import Images, interval
from training.selection.registry import SELECTIONS

RATE = "rate (bits per original pixel, real bytes, log scale)"
_HUES = (12, 48, 140, 210, 285, 330, 180)
_SPREAD = 12
"""Degrees to both sides that the hues of one kind take."""
_LIGHTNESS = (0.24, 0.42)
_SATURATION = 0.72
_HUE_WORDS = "hue: how channels are chosen"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One point of a series.

    Attributes:
        x, y: Means over seeds.
        low, high: Ends of the interval over images; None without draws.
        name: The codec.
        text: What stands beside it; empty for nothing.
        beaten: Whether another point of its series has less rate and at least its score.
        dots: x, y and name of each seed, where there are several.
    """

    x: float
    y: float
    name: str
    low: float | None = None
    high: float | None = None
    text: str = ""
    beaten: bool = False
    dots: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Series:
    """One method: its marks, and the colour and form that no other series of its chart has.

    Attributes:
        kind: How channels are chosen, or that the network sees pixels; its hue says the same.
        form: Number of the marker.
        dashed: Whether its line is.
    """

    name: str
    kind: str
    colour: str
    form: int
    dashed: bool
    marks: tuple[Mark, ...]

    @property
    def line(self) -> list[tuple[float, float]]:
        """The points that the line goes through: those that are not beaten, by rate."""
        return sorted((mark.x, mark.y) for mark in self.marks if not mark.beaten)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure.

    Attributes:
        name: Of its files.
        unit: Of x.
        level: A score that nothing learned reaches too, and `level_name` what it is.
        log: Whether x is drawn in logarithms.
        words: What lines and hues mean.
    """

    name: str
    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    unit: str = "bpp"
    level: float | None = None
    level_name: str = ""
    log: bool = True
    words: tuple[str, ...] = ("line: Pareto front", _HUE_WORDS)


def rate_chart(
    points: Sequence[Point], images: Images | None, name: str, codecs: Mapping[str, str]
) -> Chart:
    """Returns bpp against the score: a line along each method's Pareto front.

    `codecs` are short names by codec ids.
    """
    methods = make_methods(points)
    series = _series((m.name, m.points[0], _front(m, images, codecs)) for m in methods)
    return _chart(points, series, name, f"Rate against {points[0].metric}")


def channels_chart(
    points: Sequence[Point], images: Images | None, name: str, codecs: Mapping[str, str]
) -> Chart | None:
    """Returns how rate and score move with N, of one codec's points; None without several N.

    Methods without an N are single marks. The pixel domain is left out: as far below as it is, it
    would press the rest together.
    """
    points = [p for p in points if p.domain != "pixel"]
    sweeps = make_sweeps(points) if points else []
    if not sweeps:
        return None
    swept = {method.name for sweep in sweeps for method in sweep.methods}
    others = [m for m in make_methods(points) if m.name not in swept]
    rows = [(s.name, s.methods[0].points[0], _over_n(s, images, codecs)) for s in sweeps]
    rows += [(m.name, m.points[0], _front(m, images, codecs)) for m in others]
    title = f"N channels at codec {codecs[points[0].codec_id]} (numbers: N)"
    words = ("line: over N", _HUE_WORDS)
    return dataclasses.replace(_chart(points, _series(rows), name, title), words=words)


def charts_of(points: Sequence[Point], images: Images | None) -> list[Chart]:
    """Returns every chart that points allow: one of rates, one of N for each codec with several.

    Their names are `rate_miou` or `rate_ap50`, and `channels_CODEC`.
    """
    codecs = {p.codec_id: p.codec_name for p in points}
    found = [rate_chart(points, images, f"rate_{points[0].metric.lower()}", codecs)]
    for codec_id in codecs:
        members = [p for p in points if p.codec_id == codec_id]
        name = f"channels_{codec_id.rsplit('-', 1)[-1]}"
        found += filter(None, [channels_chart(members, images, name, codecs)])
    return found


def paint(groups: Sequence[tuple[str, int]]) -> list[str]:
    """Returns a colour for each series of a chart: a hue for each kind, no colour twice.

    Args:
        groups: Of each series its kind, and the number of the kind's hue.
    """
    kinds, found = [kind for kind, _ in groups], []
    for at, (kind, place) in enumerate(groups):
        number, count = kinds[:at].count(kind), kinds.count(kind)
        share = number / (count - 1) if count > 1 else 0.5
        # Beyond the list, between its hues.
        hue = _HUES[place % len(_HUES)] + 30 * (place // len(_HUES)) + _SPREAD * (2 * share - 1)
        # Neighbours differ in lightness too: even numbers are dark, odd ones light.
        weight = number % 2 * 0.6 + 0.4 * share if count > 1 else 0.5
        light = _LIGHTNESS[0] + (_LIGHTNESS[1] - _LIGHTNESS[0]) * weight
        rgb = colorsys.hls_to_rgb(hue % 360 / 360, light, _SATURATION)
        found.append("#" + "".join(f"{round(255 * part):02x}" for part in rgb))
    return found


def _chart(points: Sequence[Point], series: tuple[Series, ...], name: str, title: str) -> Chart:
    level = max((p.constant_score for p in points if p.constant_score is not None), default=None)
    return Chart(
        name=name,
        title=title,
        x_title=RATE,
        y_title=points[0].metric,
        series=series,
        level=level,
        level_name="" if level is None else f"always the most frequent class: {level:.3f}",
    )


def _series(rows: Iterator[tuple[str, Point, list[Mark]]] | Sequence) -> tuple[Series, ...]:
    rows = list(rows)
    groups = [_kind(point) for _, point, _ in rows]
    kinds, colours = [kind for kind, _ in groups], paint(groups)
    return tuple(
        Series(
            name=name,
            kind=kind,
            colour=colour,
            form=kinds[:number].count(kind),
            dashed=point.domain == "pixel",
            marks=tuple(marks),
        )
        for number, ((name, point, marks), kind, colour) in enumerate(
            zip(rows, kinds, colours, strict=True)
        )
    )


def _kind(point: Point) -> tuple[str, int]:
    """Returns what a point's series is painted by, and its place: the same in every report."""
    if point.domain == "pixel":
        return "pixels", 0
    return f"latents, selection {point.selection}", 1 + list(SELECTIONS).index(point.selection)


def _front(method: Method, images: Images | None, codecs: Mapping[str, str]) -> list[Mark]:
    """Returns a method's marks, one a codec; those that are not on its Pareto front are beaten."""
    curve, front = method.curve, set(method.curve.front[0])
    rows = zip(method.by_codec.items(), curve.rates, curve.scores, strict=True)
    return [
        _mark(group, rate, score, images, codecs[codec_id], beaten=rate not in front)
        for (codec_id, group), rate, score in rows
    ]


def _over_n(sweep: Sweep, images: Images | None, codecs: Mapping[str, str]) -> list[Mark]:
    marks = []
    for method, keep in zip(sweep.methods, sweep.keeps, strict=True):
        (rate,), (score,) = method.curve.rates, method.curve.scores
        name = codecs[sweep.codec_id]
        marks.append(_mark(method.points, rate, score, images, name, text=str(keep)))
    return marks


def _mark(
    group: Sequence[Point],
    rate: float,
    score: float,
    images: Images | None,
    name: str,
    *,
    text: str = "",
    beaten: bool = False,
) -> Mark:
    ends = images and interval(images.score(*group))
    seeds = [(p.bpp, p.score, f"seed {p.seed}") for p in group] if len(group) > 1 else []
    return Mark(
        x=rate,
        y=score,
        name=name,
        text=text,
        beaten=beaten,
        low=ends.low if ends else None,
        high=ends.high if ends else None,
        dots=tuple(seeds),
    )
