"""Files of a dataset: read whole, or of many pictures the header alone.

Whatever a file is, it is read if its pixels are whole, and else refused by name with the reason.
"""

from __future__ import annotations

import contextlib
import errno
import io
import stat
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.samples import Sample
from latent_store.storage.location import Location

FILES_AT_ONCE = 16
"""Files read at once: an object store answers many requests in the time of one."""
MOST_BYTES = 1 << 30
"""Bytes of the longest file that is read."""
UNREAD = (0, 0)
"""Size of a picture whose header cannot be read. The job that reads its pixels says why."""

_HEAD = 1 << 16
"""Bytes in which a header is looked for at first; text and profiles can lie before it."""
_FAULTS = {
    errno.EACCES, errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR,
    errno.ENXIO, errno.EPERM,
}  # fmt: skip
"""Errors that lie in one file of a disk. Others end the job, which can be run again."""
_NO_SUCH_PART = {errno.EINVAL}
"""Error of an object store that is asked for the first bytes of an object that has none."""


def read_file(
    location: Location, uri: str, *, first: int | None = None, most: int = MOST_BYTES
) -> bytes:
    """Reads a file, or its `first` bytes; one of its kind may have at most `most`.

    Raises:
        DatasetError: It is missing, no file, too long, or may not be read; names it and the reason.
        OSError: The store or the network failed, not the file.
    """
    path, local = location.path(uri), location.local_path is not None
    try:
        if local:
            about = Path(path).stat()
            if not stat.S_ISREG(about.st_mode):
                # A pipe would be waited for, a device read without an end.
                raise DatasetError(f"{uri} is no regular file; replace it by one, or take it out")
            _require_length(uri, about.st_size, most)
        data: bytes = location.fs.cat_file(path, end=first)
    except FileNotFoundError:
        raise DatasetError(f"{uri} is missing; restore it") from None
    except OSError as error:
        if error.errno not in (_FAULTS if local else _NO_SUCH_PART if first else ()):
            raise
        raise DatasetError(f"{uri} cannot be read ({error.strerror}); restore it") from error
    _require_length(uri, len(data), most)
    return data


def read_pixels(location: Location, uri: str) -> tuple[np.ndarray, bytes]:
    """Reads a picture, uint8 RGB `[H, W, 3]`, and its file's bytes.

    Raises:
        DatasetError: The file is missing, truncated or no picture.
    """
    from latent_store.codec.pictures import read_image

    data = read_file(location, uri)
    file = io.BytesIO(data)
    file.name = uri
    return read_image(file), data


def read_png(
    location: Location, uri: str, *, size: tuple[int, int] | None = None
) -> tuple[str, np.ndarray]:
    """Reads a PNG as it is stored: its mode, and values `[H, W, ...]`.

    `size` is the height and width of the picture that it belongs to; None for any.

    Raises:
        DatasetError: It is missing, unreadable, of another size, or of another format under a PNG's
            name.
    """
    from latent_store.codec.pictures import opened_picture

    data = read_file(location, uri)
    try:
        with opened_picture(data) as image:
            kind, mode, shape = image.format, image.mode, (image.height, image.width)
            # Those of another size, which can be a huge one, are not decoded.
            values = np.array(image) if size in (None, shape) else None
    except DatasetError as error:
        raise DatasetError(f"{uri} is no readable PNG ({error}); restore it") from error
    if kind != "PNG":
        raise DatasetError(
            f"{uri} is no PNG but {kind}, whatever its name says: labels are PNGs, which keep "
            "every value as it is; restore it"
        )
    if values is None:
        height, width = size or shape
        raise DatasetError(
            f"{uri} is {shape[0]}x{shape[1]}, its image is {height}x{width} (height x width): "
            "masks have one label a pixel; correct it"
        )
    return mode, values


def read_label_map(
    location: Location,
    sample: Sample,
    ids: Collection[int],
    rule: str,
    remedy: str = "restore it",
) -> np.ndarray:
    """Reads a sample's labels as they are stored: uint8 `[H, W]`.

    A label may have the values `ids`; `rule` says in words which these are, and `remedy` what to do
    about others.

    Raises:
        DatasetError: The file is missing, unreadable, no palette or greyscale PNG, of another
            size than its picture, or holds other values.
    """
    uri = sample.label_uri
    mode, labels_HW = read_png(location, uri, size=(sample.height, sample.width))
    if mode not in ("P", "L"):
        raise DatasetError(
            f"{uri} has mode {mode}: masks are palette or greyscale PNGs, whose 8-bit values are "
            "class ids; restore it"
        )
    strange = np.setdiff1d(labels_HW, list(ids))
    if strange.size:
        raise DatasetError(f"{uri} holds the value {strange[0]}: {rule}; {remedy}")
    return labels_HW


def picture_sizes(location: Location, uris: Iterable[str]) -> list[tuple[int, int]]:
    """Returns heights and widths, in pixels, of the pictures at `uris`, in their order.

    They come from the headers of the files; `UNREAD` stands where there is no readable one.
    """
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return list(pool.map(lambda uri: _size(location, uri), uris))


def _size(location: Location, uri: str) -> tuple[int, int]:
    from latent_store.codec.pictures import opened_picture

    for first in (_HEAD, None):
        with (
            contextlib.suppress(DatasetError),
            opened_picture(read_file(location, uri, first=first)) as image,
        ):
            return image.height, image.width
    return UNREAD


def _require_length(uri: str, length: int, most: int) -> None:
    if length > most:
        raise DatasetError(
            f"{uri} has {length} bytes, more than the {most} that such a file may have; replace it"
        )
