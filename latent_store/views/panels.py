"""Pictures side by side, with a title over each, and PNG files that are written whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latent_store.storage.local_files import atomic_path

_GAP = 4
_TITLE_SIZE = 14
_LEAST_PANEL = 160
"""Pixels across a panel, so that a title over a small picture can be read."""


def strip(panels: Sequence[tuple[str, np.ndarray]], across: int = 4) -> np.ndarray:
    """Returns titled panels side by side on white, in as many rows as it takes.

    Args:
        panels: Title and uint8 [H, W, 3] picture of each, any sizes.
        across: Most panels in a row.

    Returns:
        uint8 [H, W, 3]; each panel has the place of the largest, at least 160 pixels across.
    """
    font = ImageFont.load_default(size=_TITLE_SIZE)
    top = _TITLE_SIZE + 2 * _GAP
    height = top + max(picture.shape[0] for _, picture in panels)
    width = max(_LEAST_PANEL, *(picture.shape[1] for _, picture in panels))
    columns, rows = min(across, len(panels)), -(-len(panels) // across)
    size = (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for number, (title, picture) in enumerate(panels):
        down, right = divmod(number, columns)
        x, y = right * (width + _GAP), down * (height + _GAP)
        draw.text((x + 2, y + _GAP), _fit(title, width - 4, font), fill="black", font=font)
        canvas.paste(Image.fromarray(picture), (x, y + top))
    return np.asarray(canvas)


def save_png(path: Path, picture: np.ndarray) -> None:
    """Writes a uint8 picture, [H, W] or [H, W, 3], as PNG; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished:
        Image.fromarray(picture).save(unfinished, format="PNG")


def _fit(title: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(title) <= width:
        return title
    while title and font.getlength(title + "…") > width:
        title = title[:-1]
    return title + "…"
