"""The figures in files: each chart as PNG and as SVG, with names beside the curves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Affine2D, Bbox, Transform

from latent_store.storage.local_files import atomic_path
from training.reports.charts import Chart, Series

_MARKERS = "osD^v<>pPX*h"
_SIZE_INCHES = (9.5, 6.0)
_DPI = 140
_FONT = 8
_SPARSE = (1.0, 2.0, 3.0, 5.0, 7.0)
_DENSE = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
_NARROW = 8
"""Of rates that lie closer together than this factor, the axis shows more."""
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_DISTANCES = (6, 12, 20, 30, 44, 60, 80)
"""Where a name may stand, in points from its mark: the nearest place that is free is taken."""
_MARK_COST, _LINE_COST, _OUT_COST = 200.0, 30.0, 2000.0
"""Points of distance that are gone to leave such things to be seen, or to stay in the axes."""


def write_figures(charts: Sequence[Chart], folder: Path) -> tuple[tuple[str, str], ...]:
    """Draws charts to `NAME.png` and `NAME.svg`; returns file name of the PNG and title of each."""
    for chart in charts:
        draw(chart, folder)
    return tuple((f"{chart.name}.png", chart.title) for chart in charts)


def draw(chart: Chart, folder: Path) -> None:
    """Draws one chart: a line along each series' front, a name beside each.

    Bars are the intervals over images, small dots single seeds, hollow marks those that the series
    itself beats; a key below says so.
    """
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _decorate(axes, chart)
    for series in chart.series:
        _draw_series(axes, series)
    axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    bottom, top = axes.get_ylim()
    seen = chart.level is not None and bottom <= chart.level <= top
    if seen and chart.level is not None:
        axes.axhline(chart.level, color="0.5", linewidth=0.9, linestyle=":")
    key = _key(chart, seen=seen)
    figure.legend(handles=key, loc="outside lower center", ncols=3, fontsize=_FONT, frameon=False)
    figure.draw_without_rendering()
    _name_all(axes, chart)
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        with atomic_path(folder / f"{chart.name}.{kind}") as unfinished:
            # Without a date, the same numbers give the same file.
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(unfinished, format=kind, dpi=_DPI, metadata=metadata)


def _draw_series(axes: Axes, series: Series) -> None:
    look: dict[str, Any] = {"color": series.colour, "marker": _MARKERS[series.form % len(_MARKERS)]}
    style = "--" if series.dashed else "-"
    axes.plot(*zip(*series.line, strict=True), color=series.colour, linestyle=style, linewidth=1.3)
    for mark in series.marks:
        if mark.low is not None and mark.high is not None:
            ends = [[max(0, mark.y - mark.low)], [max(0, mark.high - mark.y)]]
            bar: dict[str, Any] = {"fmt": "none", "capsize": 2, "elinewidth": 0.8, "alpha": 0.55}
            axes.errorbar([mark.x], [mark.y], yerr=ends, ecolor=series.colour, **bar)
        face = "white" if mark.beaten else series.colour
        axes.plot([mark.x], [mark.y], linestyle="", markersize=6, markerfacecolor=face, **look)
        for x, y, _ in mark.dots:
            axes.plot([x], [y], ".", color=series.colour, markersize=4, alpha=0.6)


def _decorate(axes: Axes, chart: Chart) -> None:
    x = [mark.x for series in chart.series for mark in series.marks]
    axes.set_title(chart.title, fontsize=10)
    if chart.log:
        axes.set_xscale("log")
        low, high = min(x), max(x)
        axes.xaxis.set_major_locator(LogLocator(subs=_DENSE if high < _NARROW * low else _SPARSE))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low / 1.2, high * 1.2)
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
    axes.grid(visible=True, alpha=0.3)


def _key(chart: Chart, *, seen: bool) -> list[Line2D]:
    """Returns what explains the forms that the chart has, and the hues of its kinds.

    `seen` tells whether the level lies in the axes.
    """
    marks = [mark for series in chart.series for mark in series.marks]
    grey: dict[str, Any] = {"color": "0.35", "linestyle": ""}
    key = [
        Line2D([], [], color=colour, linewidth=4, label=kind)
        for kind, colour in {s.kind: s.colour for s in reversed(chart.series)}.items()
    ]
    if any(mark.low is not None for mark in marks):
        key.append(Line2D([], [], marker="|", label="bar: 95 % over images", **grey))
    if any(mark.beaten for mark in marks):
        label = "hollow: the method itself has more for less rate"
        key.append(Line2D([], [], marker="o", markerfacecolor="white", label=label, **grey))
    if any(mark.dots for mark in marks):
        label = "small dot: one seed (mark: their mean)"
        key.append(Line2D([], [], marker=".", markersize=4, label=label, **grey))
    if chart.level is not None:
        label = chart.level_name if seen else f"{chart.level_name} (out of sight)"
        key.append(Line2D([], [], color="0.5", linestyle=":" if seen else "", label=label))
    return key


def _name_all(axes: Axes, chart: Chart) -> None:
    """Writes each series' name, and what its marks say, where nothing else stands."""
    to_points = axes.transData + Affine2D().scale(72 / axes.figure.dpi)
    inside = axes.bbox.transformed(Affine2D().scale(72 / axes.figure.dpi))
    taken = [box for series in chart.series for box in _drawn_boxes(series, to_points)]
    for series in chart.series:
        named = max((m for m in series.marks if not m.beaten), key=lambda m: m.x)
        for mark in series.marks:
            text = f"{series.name} {mark.text}".strip() if mark is named else mark.text
            if text:
                at = to_points.transform((mark.x, mark.y))
                box, far = _free_place(text, at, taken, inside)
                taken.append((box, _MARK_COST))
                look = {"arrowstyle": "-", "color": series.colour, "linewidth": 0.6, "shrinkB": 4}
                axes.annotate(
                    text,
                    (mark.x, mark.y),
                    xytext=(box.x0 - at[0], box.y0 - at[1]),
                    textcoords="offset points",
                    fontsize=_FONT,
                    color=series.colour,
                    arrowprops=look if far else None,
                )


def _drawn_boxes(series: Series, to_points: Transform) -> list[tuple[Bbox, float]]:
    """Returns where a series' marks, seeds, bars and line are, and what it costs to hide them."""
    found = []
    for mark in series.marks:
        x, y = to_points.transform((mark.x, mark.y))
        found.append((Bbox([[x - 4, y - 4], [x + 4, y + 4]]), _MARK_COST))
        for dot in mark.dots:
            x, y = to_points.transform(dot[:2])
            found.append((Bbox([[x - 2, y - 2], [x + 2, y + 2]]), _LINE_COST))
        if mark.low is not None and mark.high is not None:
            ends = to_points.transform([(mark.x, mark.low), (mark.x, mark.high)])
            found.append((Bbox([ends[0] - 1, ends[1] + 1]), _LINE_COST))
    for start, end in itertools.pairwise(to_points.transform(series.line)):
        for share in np.linspace(0, 1, 40):
            at = start + share * (end - start)
            found.append((Bbox([at - 1, at + 1]), _LINE_COST / 4))
    return found


def _free_place(
    text: str, at: np.ndarray, taken: list[tuple[Bbox, float]], inside: Bbox
) -> tuple[Bbox, bool]:
    """Returns the cheapest place of a text beside a mark, and whether it needs a line to it."""
    width, height = 0.58 * _FONT * len(text), 1.15 * _FONT
    half = np.array([width / 2, height / 2])
    places = []
    for distance in _DISTANCES:
        for across, up in _DIRECTIONS:
            middle = at + np.array([across, up]) * (distance + half)
            box = Bbox([middle - half, middle + half])
            hidden = sum(cost for other, cost in taken if box.overlaps(other))
            out = not (inside.contains(*box.min) and inside.contains(*box.max))
            places.append((distance + hidden + _OUT_COST * out, distance, box))
    _, distance, box = min(places, key=lambda place: place[:2])
    return box, distance > _DISTANCES[1]
