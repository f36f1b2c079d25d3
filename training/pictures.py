"""Pictures for people: label maps in colour, overlays, and strips of panels side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latent_store.errors import DatasetError

_GAP = 4
_TITLE_SIZE = 14
_LEAST_PANEL = 160
"""Pixels across a panel, so that a title over a small picture can be read."""
_BACKGROUND = (255, 255, 255)
_INK = (0, 0, 0)


def colourise(labels_HW: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Returns a label map in its classes' colours; labels without a colour (255) are black.

    Args:
        labels_HW: uint8 train ids.
        colours: RGB of each class.

    Returns:
        uint8 [H, W, 3].
    """
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colours)] = np.asarray(colours, dtype=np.uint8)
    return table[labels_HW]


def overlay(
    image_HWC: np.ndarray,
    labels_HW: np.ndarray,
    colours: Sequence[tuple[int, int, int]],
    strength: float = 0.55,
) -> np.ndarray:
    """Returns the picture tinted by its label map; ignored pixels stay as they are.

    Args:
        image_HWC: uint8 RGB.
        labels_HW: uint8 train ids of the same height and width.
        colours: RGB of each class.
        strength: Share of the class colour, 0 to 1.

    Returns:
        uint8 [H, W, 3].
    """
    tinted = (1 - strength) * image_HWC + strength * colourise(labels_HW, colours)
    labelled = (labels_HW < len(colours))[..., None]
    return np.where(labelled, np.rint(tinted).astype(np.uint8), image_HWC)


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
    canvas = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, (title, picture) in enumerate(panels):
        down, right = divmod(number, columns)
        x, y = right * (width + _GAP), down * (height + _GAP)
        draw.text((x + 2, y + _GAP), _fit(title, width - 4, font), fill=_INK, font=font)
        canvas.paste(Image.fromarray(picture), (x, y + top))
    return np.asarray(canvas)


def save_png(path: Path, picture: np.ndarray) -> None:
    """Writes a uint8 picture, [H, W] or [H, W, 3], as PNG; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    Image.fromarray(picture).save(unfinished, format="PNG")
    unfinished.replace(path)


def read_labels(path: Path) -> np.ndarray:
    """Returns a label map that :func:`save_png` wrote, uint8 [H, W].

    Raises:
        DatasetError: The file is no single-channel 8-bit PNG.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            if picture.mode != "L":
                message = f"{path} has mode {picture.mode}, a label map has L; delete it"
                raise DatasetError(message)
            return np.asarray(picture)
    except (SyntaxError, OSError) as error:
        raise DatasetError(f"{path} cannot be read as a label map ({error}); delete it") from error


def _fit(title: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(title) <= width:
        return title
    while title and font.getlength(title + "…") > width:
        title = title[:-1]
    return title + "…"
