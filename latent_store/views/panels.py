"""Pictures side by side, with a title over each, and PNG files that are written whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latent_store.storage.local_files import atomic_path

_GAP = 4
_TITLE_SIZE = 14
_LEAST_PANEL = 200
"""Pixels across a panel, so that a title over a small picture can be read."""
_TITLE_SHARE = 40
"""Letters of a title are this part of a panel's width where that is more: a strip is looked at as
a whole, however large its pictures are."""

Colour = tuple[int, int, int]
"""RGB of 8 bits."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def strip(panels: Sequence[tuple[str, np.ndarray]], across: int = 4) -> np.ndarray:
    """Returns titled panels side by side on white, in as many rows as it takes.

    Args:
        panels: Title and uint8 [H, W, 3] picture of each, any sizes. A title that is too long goes
            on in a second line, and ends in dots where that is full too.
        across: Most panels in a row.

    Returns:
        uint8 [H, W, 3]; each panel has the place of the largest, at least 200 pixels across.
    """
    width = max(_LEAST_PANEL, *(picture.shape[1] for _, picture in panels))
    size = max(_TITLE_SIZE, width // _TITLE_SHARE)
    font = ImageFont.load_default(size=size)
    titles = [_lines(title, width - _GAP, font) for title, _ in panels]
    top = max(map(len, titles)) * (size + _GAP) + _GAP
    height = top + max(picture.shape[0] for _, picture in panels)
    columns, rows = min(across, len(panels)), -(-len(panels) // across)
    whole = (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP)
    canvas = Image.new("RGB", whole, "white")
    draw = ImageDraw.Draw(canvas)
    for number, (lines, (_, picture)) in enumerate(zip(titles, panels, strict=True)):
        down, right = divmod(number, columns)
        x, y = right * (width + _GAP), down * (height + _GAP)
        for line, text in enumerate(lines):
            draw.text((x + 2, y + _GAP + line * (size + _GAP)), text, fill="black", font=font)
        canvas.paste(Image.fromarray(picture), (x, y + top))
    return np.asarray(canvas)


def legend(entries: Sequence[tuple[str, Colour]], height: int, width: int) -> np.ndarray:
    """Returns what colours mean, as a panel of that size or, where it is too small, a higher one.

    Returns:
        uint8 [H, W, 3]: a patch of each colour with its name, on white, column by column.
    """
    size = max(10, min(width // _TITLE_SHARE, _TITLE_SIZE))
    font, step = ImageFont.load_default(size=size), size + _GAP
    columns = max(1, min(3, width // 80))
    rows = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, max(height, rows * step)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (name, colour) in enumerate(entries):
        right, down = divmod(number, rows)
        x, y = right * width // columns, down * step
        draw.rectangle((x + 1, y + 2, x + size, y + size + 1), fill=colour, outline="grey")
        room = width // columns - size - 2 * _GAP
        draw.text((x + size + _GAP, y), _fit(name, room, font), fill="black", font=font)
    return np.asarray(canvas)


def save_png(path: Path, picture: np.ndarray) -> None:
    """Writes a uint8 picture, [H, W] or [H, W, 3], as PNG; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished:
        Image.fromarray(picture).save(unfinished, format="PNG")


def _lines(title: str, width: int, font: Font) -> list[str]:
    """Returns a title in one line or, broken between words, in two."""
    words = title.split(" ")
    fitting = [n for n in range(1, len(words) + 1) if font.getlength(" ".join(words[:n])) <= width]
    first = max(fitting, default=len(words))
    lines = [" ".join(words[:first]), " ".join(words[first:])]
    return [_fit(line, width, font) for line in lines if line]


def _fit(title: str, width: int, font: Font) -> str:
    if font.getlength(title) <= width:
        return title
    while title and font.getlength(title + "…") > width:
        title = title[:-1]
    return title + "…"
