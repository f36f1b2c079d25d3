"""Files of a dataset: read whole, or of many pictures the header alone."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from latent_store.errors import DatasetError
from latent_store.storage.location import Location

FILES_AT_ONCE = 16
"""Files read at once: an object store answers many requests in the time of one."""


def read_file(location: Location, uri: str) -> bytes:
    """Reads a file.

    Raises:
        DatasetError: It is missing.
    """
    try:
        return location.read(uri)
    except FileNotFoundError:
        raise DatasetError(f"{uri} is missing; restore it") from None


def read_png(location: Location, uri: str) -> tuple[str, np.ndarray]:
    """Reads a PNG as it is stored: its mode, and values `[H, W, ...]`.

    Raises:
        DatasetError: It is missing or unreadable.
    """
    try:
        with Image.open(io.BytesIO(read_file(location, uri))) as image:
            return image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{uri} is no readable PNG ({error}); restore it") from error


def picture_sizes(location: Location, uris: Iterable[str]) -> list[tuple[int, int]]:
    """Returns heights and widths, in pixels, of the pictures at `uris`, in their order.

    Raises:
        DatasetError: A header is unreadable.
    """
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return list(pool.map(lambda uri: _size(location, uri), uris))


def _size(location: Location, uri: str) -> tuple[int, int]:
    try:
        # Pillow reads the header alone here; pixels are read when they are encoded.
        with location.fs.open(location.path(uri), "rb") as file, Image.open(file) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise DatasetError(f"{uri} has no readable picture header ({error}); restore it") from error
