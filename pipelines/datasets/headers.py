"""Sizes of pictures, from the headers of their files alone."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from latent_store.errors import DatasetError
from latent_store.storage.location import Location

READERS = 16
"""Files read at once: an object store answers many requests in the time of one."""


def picture_sizes(location: Location, uris: Iterable[str]) -> list[tuple[int, int]]:
    """Returns heights and widths, in pixels, of the pictures at `uris`, in their order.

    Raises:
        DatasetError: A header is unreadable.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda uri: _size(location, uri), uris))


def _size(location: Location, uri: str) -> tuple[int, int]:
    try:
        # Pillow reads the header alone here; pixels are read when they are encoded.
        with location.fs.open(location.path(uri), "rb") as file, Image.open(file) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise DatasetError(f"{uri} has no readable picture header ({error}); restore it") from error
