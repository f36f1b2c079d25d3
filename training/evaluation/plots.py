"""The figures: rate against the score of every method, and over N at one codec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from latent_store.storage.local_files import atomic_path
from training.evaluation.comparisons import Analysis
from training.evaluation.methods import Method, Sweep, make_methods, make_sweeps
from training.evaluation.points import Point
from training.evaluation.resampling import Images, interval

Style = dict[str, Any]
_MARKERS = "osD^v<>pPX*h"
_COLOURS = 10
_SIZE_INCHES = (9.0, 5.0)
_DPI = 140
_LEGEND_ROWS = 24
_SPARSE = (1.0, 2.0, 3.0, 5.0, 7.0)
_DENSE = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
_NARROW = 8
"""Of rates that lie closer together than this factor, the axis shows more."""


def write_figures(analysis: Analysis, folder: Path) -> tuple[tuple[str, str], ...]:
    """Draws every figure that the points allow, and returns file name and title of each.

    They are `rate_miou.png` or `rate_ap50.png`, and `channels_CODEC.png` for every codec at which
    one method was measured at several N.
    """
    points, images = analysis.points, analysis.images
    name = f"rate_{analysis.metric.lower()}.png"
    plot_rate_score(points, images, folder / name)
    figures = [(name, f"Rate against {analysis.metric}")]
    for codec_id in dict.fromkeys(sweep.codec_id for sweep in make_sweeps(points)):
        members = [p for p in points if p.codec_id == codec_id]
        name = f"channels_{codec_id.rsplit('-', 1)[-1]}.png"
        plot_channels(members, images, folder / name)
        figures.append((name, f"N channels at codec {members[0].codec_name}"))
    return tuple(figures)


def plot_rate_score(points: Sequence[Point], images: Images | None, path: Path) -> None:
    """Draws bpp (log) against the score to a PNG: a line along each method's Pareto front.

    Points are means over seeds, with the interval over images, if these can be drawn, as error bar;
    single seeds are small dots, points that the method itself beats are hollow.
    """
    with _figure(path, points, images, "one marker a codec, line: Pareto front") as axes:
        for index, method in enumerate(make_methods(points)):
            _draw_method(axes, method, images, _style(index, method))


def plot_channels(points: Sequence[Point], images: Images | None, path: Path) -> None:
    """Draws to a PNG how rate and score move with N, of one codec's points with several N.

    Methods without an N are single markers. The pixel domain is left out: as far below as it is, it
    would press the rest together.
    """
    points = [p for p in points if p.domain != "pixel"]
    sweeps = make_sweeps(points)
    swept = {method.name for sweep in sweeps for method in sweep.methods}
    others = [method for method in make_methods(points) if method.name not in swept]
    title = f"codec {points[0].codec_name}, numbers: N"
    with _figure(path, points, images, title) as axes:
        for index, sweep in enumerate(sweeps):
            _draw_sweep(axes, sweep, images, _style(index, sweep.methods[0]), above=index % 2 == 0)
        for index, method in enumerate(others, start=len(sweeps)):
            _draw_method(axes, method, images, _style(index, method))


def _draw_method(axes: Axes, method: Method, images: Images | None, style: Style) -> None:
    _draw_points(axes, method, images, style)
    curve = method.curve
    rates, scores = curve.front
    axes.plot(rates, scores, label=method.name, **style)
    beaten = [q for q in range(len(curve.rates)) if curve.rates[q] not in rates]
    hollow = style | {"linestyle": "", "markerfacecolor": "white"}
    axes.plot([curve.rates[q] for q in beaten], [curve.scores[q] for q in beaten], **hollow)


def _draw_sweep(
    axes: Axes, sweep: Sweep, images: Images | None, style: Style, *, above: bool
) -> None:
    for method in sweep.methods:
        _draw_points(axes, method, images, style)
    curves = [method.curve for method in sweep.methods]
    rates, scores = [c.rates[0] for c in curves], [c.scores[0] for c in curves]
    axes.plot(rates, scores, label=sweep.name, **style)
    for keep, rate, score in zip(sweep.keeps, rates, scores, strict=True):
        axes.annotate(
            str(keep),
            (rate, score),
            xytext=(-5, 5) if above else (5, -11),
            textcoords="offset points",
            horizontalalignment="right" if above else "left",
            fontsize=8,
            color=style["color"],
        )


def _draw_points(axes: Axes, method: Method, images: Images | None, style: Style) -> None:
    """Draws the error bars of a curve's points, and each point's seeds if there are several."""
    groups, curve = method.by_codec.values(), method.curve
    for group, rate, score in zip(groups, curve.rates, curve.scores, strict=True):
        if found := images and interval(images.score(*group)):
            ends = [[max(0, score - found.low)], [max(0, found.high - score)]]
            look = Style(fmt="none", capsize=2, elinewidth=0.9, alpha=0.7)
            axes.errorbar([rate], [score], yerr=ends, ecolor=style["color"], **look)
        if len(group) > 1:
            dots = [p.bpp for p in group], [p.score for p in group]
            look = Style(linestyle="", marker=".", markersize=4, alpha=0.6)
            axes.plot(*dots, color=style["color"], **look)


def _style(index: int, method: Method) -> Style:
    return {
        "color": f"C{index % _COLOURS}",
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 6,
        "linestyle": "--" if method.points[0].domain == "pixel" else "-",
    }


@contextmanager
def _figure(
    path: Path, points: Sequence[Point], images: Images | None, title: str
) -> Iterator[Axes]:
    """Yields axes to draw in, and writes the figure whole or not at all."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    yield axes
    _decorate(axes, points)
    bars = "" if images is None else ", bars: 95 % over images"
    axes.set_title(title + bars, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=_DPI)


def _decorate(axes: Axes, points: Sequence[Point]) -> None:
    bottom, top = axes.get_ylim()
    constant = max((p.constant_score for p in points if p.constant_score is not None), default=None)
    if constant is not None:
        if bottom <= constant <= top:
            axes.axhline(constant, color="0.5", linewidth=0.9, linestyle=":")
        # What nothing learned gives stands in the legend, also where it is out of sight.
        axes.plot([], [], color="0.5", linestyle=":", label=f"most frequent class: {constant:.3f}")
    axes.set_xscale("log")
    low, high = min(p.bpp for p in points), max(p.bpp for p in points)
    axes.xaxis.set_major_locator(LogLocator(subs=_DENSE if high < _NARROW * low else _SPARSE))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.set_ylim(bottom=max(0, bottom))
    axes.set_xlabel("rate (bits per original pixel, real bytes, log scale)")
    axes.set_ylabel(points[0].metric)
    axes.grid(visible=True, alpha=0.3)
    columns = 1 + (len(axes.get_legend_handles_labels()[1]) - 1) // _LEGEND_ROWS
    place = Style(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    axes.legend(fontsize=8, ncols=columns, **place)
