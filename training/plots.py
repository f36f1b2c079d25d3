"""The rate–mIoU plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from training.points import Point, by_label

_MARKERS = "osD^v<>pPX*h"
_SIZE_INCHES = (8.0, 5.0)
_DPI = 140


def plot_rate_miou(points: Sequence[Point], path: Path) -> None:
    """Draws bpp (log) against mIoU: one labelled marker a network, one line a method.

    Args:
        points: At least one.
        path: PNG to write.
    """
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    # Beyond the middle, texts stand left of their markers, or they would leave the plot.
    middle = math.sqrt(min(p.bpp for p in points) * max(p.bpp for p in points))
    for index, (label, members) in enumerate(by_label(points).items()):
        members = sorted(members, key=lambda p: p.bpp)
        axes.plot(
            [p.bpp for p in members],
            [p.miou for p in members],
            marker=_MARKERS[index % len(_MARKERS)],
            color=f"C{index % 10}",
            linestyle="--" if members[0].domain == "pixel" else "-",
            label=label,
        )
        for point in members:
            text = label if len(members) == 1 else _codec_name(point)
            _annotate(axes, point, text, leftwards=point.bpp > middle)
    _decorate(axes, points)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    figure.savefig(unfinished, format="png", dpi=_DPI)
    unfinished.replace(path)


def _codec_name(point: Point) -> str:
    return point.codec_id[-8:] if point.quality is None else f"q{point.quality}"


def _annotate(axes: Axes, point: Point, text: str, *, leftwards: bool) -> None:
    axes.annotate(
        text,
        (point.bpp, point.miou),
        xytext=(-5 if leftwards else 5, 4),
        textcoords="offset points",
        horizontalalignment="right" if leftwards else "left",
        fontsize=7,
    )


def _decorate(axes: Axes, points: Sequence[Point]) -> None:
    constant = max(p.constant_miou for p in points)
    axes.axhline(constant, color="0.6", linewidth=0.8, linestyle=":", label="most frequent class")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = min(p.bpp for p in points), max(p.bpp for p in points)
    axes.set_xlim(low / 1.25, high * 1.4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("bits per pixel, real bytes (log)")
    axes.set_ylabel("mIoU")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8, loc="best")
