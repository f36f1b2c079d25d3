"""Pictures for people: label maps in colour, and overlays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latent_store.codec.pictures import opened_picture
from latent_store.errors import DatasetError


def colourise(labels_HW: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Returns a label map in its classes' colours; labels without a colour (255) are black.

    Args:
        labels_HW: Uint8 train ids.
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
        image_HWC: Uint8 RGB.
        labels_HW: Uint8 train ids of the same height and width.
        colours: RGB of each class.
        strength: Share of the class colour, 0 to 1.

    Returns:
        uint8 [H, W, 3].
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
