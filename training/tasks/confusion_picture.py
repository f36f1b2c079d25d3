"""The picture of a confusion matrix: what each class is taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CELL = 0.34
"""Inches across a class."""
_MARGIN = 1.9
"""Inches for the names."""
_DPI = 90
_SHOWN_SHARE = 0.1
"""From which a cell has its number."""
_LIGHT = 0.55
"""Share below which a cell is so light that its number is black."""


def draw_confusion(confusion_KK: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Returns the matrix with truth by rows, each row as shares of what the class has.

    Classes that have nothing are left out of the rows and the columns.

    Args:
        confusion_KK: Int64 counts, truth by rows.
        class_names: Of the K classes.

    Returns:
        uint8 RGB [H, W, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow, and only for pictures
    from matplotlib.figure import Figure

    present = np.flatnonzero(confusion_KK.sum(axis=1) + confusion_KK.sum(axis=0))
    counts_PP = confusion_KK[np.ix_(present, present)]
    total_P = np.maximum(counts_PP.sum(axis=1, keepdims=True), 1)
    share_PP, names = counts_PP / total_P, [class_names[k] for k in present]
    side = _MARGIN + _CELL * max(len(present), 4)
    figure = Figure(figsize=(side, side), dpi=_DPI, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.imshow(share_PP, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("the network says")
    axes.set_ylabel("the label says")
    for row, column in np.argwhere(share_PP >= _SHOWN_SHARE):
        share = share_PP[row, column]
        colour = "black" if share < _LIGHT else "white"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, size=7)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
