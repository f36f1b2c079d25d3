"""What the pipelines ask of a dataset, and the datasets they know."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Protocol

import numpy as np

from latent_store.errors import DatasetError
from latent_store.location import Location
from latent_store.plan import Sample
from pipelines.cityscapes import Cityscapes


class DatasetReader(Protocol):
    """Lists a dataset's samples, and reads the labels of one.

    Readers are small and picklable: they travel to Beam workers.
    """

    data_root: Location
    canvas: tuple[int, int] | None
    """Height and width, in pixels, that hold every picture of a dataset of mixed sizes; None where
    a split has one size."""

    def manifest(self, split: str) -> list[Sample]:
        """Lists a split's samples, ordered by id, from listings and file headers alone."""
        ...

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Reads the labels of a sample's original picture: uint8 ``[H, W]``, 255 = ignore."""
        ...


READERS: dict[str, Callable[[Location], DatasetReader]] = {"cityscapes": Cityscapes}


def open_dataset(name: str, data_root: str) -> DatasetReader:
    """Opens a dataset.

    Args:
        name: One of ``READERS``.
        data_root: The folder or URL that holds it.

    Raises:
        DatasetError: The name is unknown, or nothing lies at ``data_root``.
    """
    if name not in READERS:
        message = f"unknown dataset {name!r}; known are: {', '.join(sorted(READERS))}"
        raise DatasetError(message)
    location = Location(data_root)
    if not location.fs.exists(location.root):
        message = f"no data root at {data_root}; give --data_root the folder that holds the dataset"
        raise DatasetError(message)
    return READERS[name](location)


def read_picture(reader: DatasetReader, sample: Sample) -> tuple[np.ndarray, bytes]:
    """Reads one sample's picture, as its view shows it.

    Returns:
        ``(uint8 RGB [H, W, 3], the file's bytes)``.

    Raises:
        DatasetError: The file is missing, truncated or no picture, or has another size than
            the plan says.
    """
    from latent_store.codec import read_image

    try:
        data = reader.data_root.read(sample.image_uri)
    except FileNotFoundError:
        message = f"{sample.image_uri} is missing; restore it"
        raise DatasetError(message) from None
    try:
        image_HWC = read_image(io.BytesIO(data))
    except DatasetError as error:
        message = f"{sample.image_uri}: {error}"
        raise DatasetError(message) from error
    if image_HWC.shape[:2] != (sample.height, sample.width):
        message = (
            f"{sample.image_uri} is {image_HWC.shape[0]}x{image_HWC.shape[1]} (height x width), "
            f"planned {sample.height}x{sample.width}; restore it"
        )
        raise DatasetError(message)
    return _seen(image_HWC, sample.view), data


def read_labels(reader: DatasetReader, sample: Sample) -> np.ndarray:
    """Reads one sample's labels, as its view shows them: uint8 train ids ``[H, W]``.

    Raises:
        DatasetError: The file is missing, unreadable, or of another size than its picture.
    """
    return _seen(reader.read_labels(sample), sample.view)


def _seen(original: np.ndarray, view: str) -> np.ndarray:
    """Makes a view of an original picture ``[H, W, ...]``, before it is padded."""
    return np.ascontiguousarray(original[:, ::-1]) if view == "hflip" else original
