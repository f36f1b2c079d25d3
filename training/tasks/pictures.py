"""Pictures for people: label maps in colour and over pictures, and boxes drawn on them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latent_store.codec.pictures import opened_picture
from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from training.tasks.classes import Colour, class_colours
from training.tasks.detections import SHOWN_SCORE, Detections

_LINE = 2
_DASH = 6
_TEXT_SIZE = 11
_DARK = 128
"""Luma below which text on a colour is white."""


def colourise(labels_HW: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Returns uint8 train ids in their classes' colours; ids without one (255) are black.

    Returns:
        uint8 [H, W, 3].
    """
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colours)] = np.asarray(colours, dtype=np.uint8)
    return table[labels_HW]


def overlay(
    image_HWC: np.ndarray, labels_HW: np.ndarray, colours: Sequence[Colour], strength: float = 0.55
) -> np.ndarray:
    """Returns the uint8 picture tinted by its label map; ignored pixels stay as they are.

    Args:
        image_HWC: Uint8 RGB.
        labels_HW: Uint8 train ids of the same height and width.
        colours: RGB of each class.
        strength: Share of the class colour, 0 to 1.
    """
    tinted = (1 - strength) * image_HWC + strength * colourise(labels_HW, colours)
    labelled = (labels_HW < len(colours))[..., None]
    return np.where(labelled, np.rint(tinted).astype(np.uint8), image_HWC)


def read_labels(path: Path) -> np.ndarray:
    """Returns a label map that `save_png` wrote, uint8 [H, W].

    Raises:
        DatasetError: The file is no single-channel 8-bit PNG.
    """
    try:
        with opened_picture(path.read_bytes()) as picture:
            mode, labels_HW = picture.mode, np.array(picture)
    except (OSError, DatasetError) as error:
        raise DatasetError(f"{path} cannot be read as a label map ({error}); delete it") from error
    if mode != "L":
        raise DatasetError(f"{path} has mode {mode}, a label map has L; delete it")
    return labels_HW


def draw_objects(image_HWC: np.ndarray, truth: Boxes, class_names: Sequence[str]) -> np.ndarray:
    """Returns the uint8 RGB picture with its objects; those that are difficult are dashed."""
    picture, colours = Image.fromarray(image_HWC), class_colours(class_names)
    for box_4, label, difficult in zip(
        truth.boxes_N4, truth.labels_N.tolist(), truth.difficult_N.tolist(), strict=True
    ):
        _draw_box(picture, box_4, class_names[label], colours[label], dashed=difficult)
    return np.asarray(picture)


def draw_detections(
    image_HWC: np.ndarray,
    found: Detections,
    class_names: Sequence[str],
    least_score: float = SHOWN_SCORE,
) -> np.ndarray:
    """Returns the uint8 RGB picture with detections of a score and more, the surest on top."""
    picture, colours = Image.fromarray(image_HWC), class_colours(class_names)
    for index in np.argsort(found.scores_N, kind="stable").tolist():
        score, label = float(found.scores_N[index]), int(found.labels_N[index])
        if score >= least_score:
            text = f"{class_names[label]} {score:.2f}"
            _draw_box(picture, found.boxes_N4[index], text, colours[label])
    return np.asarray(picture)


def _draw_box(
    picture: Image.Image, box_4: np.ndarray, text: str, colour: Colour, *, dashed: bool = False
) -> None:
    draw = ImageDraw.Draw(picture)
    # Half-open edges: the last pixel of the box lies before x2, y2.
    left, top, right, bottom = (round(float(v)) for v in (*box_4[:2], *(box_4[2:] - 1)))
    right, bottom = max(left, right), max(top, bottom)
    if dashed:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        for start, end in itertools.pairwise(corners):
            _draw_dashes(draw, start, end, colour)
    else:
        draw.rectangle((left, top, right, bottom), outline=colour, width=_LINE)
    font = ImageFont.load_default(size=_TEXT_SIZE)
    # Above the box if there is room, else inside; moved left where it would leave the picture.
    text_left = min(left, max(0, picture.width - round(draw.textlength(text, font=font)) - 1))
    at = (text_left, top - _TEXT_SIZE - 2 if top > _TEXT_SIZE + 2 else top)
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    draw.rectangle(draw.textbbox(at, text, font=font), fill=colour)
    draw.text(at, text, fill="white" if luma < _DARK else "black", font=font)


def _draw_dashes(
    draw: ImageDraw.ImageDraw, start: tuple[int, int], end: tuple[int, int], colour: Colour
) -> None:
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for begin in range(0, length, 2 * _DASH):
        stop = min(begin + _DASH, length)
        line = [
            tuple(a + (b - a) * t / length for a, b in zip(start, end, strict=True))
            for t in (begin, stop)
        ]
        draw.line(line, fill=colour, width=_LINE)
