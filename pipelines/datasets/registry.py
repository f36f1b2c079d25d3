"""What the pipelines ask of a dataset, and the datasets they know."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from latent_store.format.plan import Sample
from latent_store.format.schema import TASK_COMPONENTS
from latent_store.storage.location import Location
from pipelines.datasets.cityscapes import Cityscapes
from pipelines.datasets.voc import Voc


class DatasetReader(Protocol):
    """Lists a dataset's samples, and reads the labels or the boxes of one.

    Readers are small and picklable: they travel to Beam workers.
    """

    data_root: Location
    dataset_id: str
    """What the dataset is called in a store unless `--dataset_id` says otherwise."""
    task: str
    """`segmentation` or `detection`: whose list is read, and whose annotations are stored."""
    class_names: tuple[str, ...]
    """By the ids that labels and boxes are stored with."""
    label_ids: str
    """Names that numbering."""
    canvas: tuple[int, int] | None
    """Height and width, in pixels, that hold every picture of a dataset of mixed sizes; None where
    a split has one size."""

    def manifest(self, split: str) -> list[Sample]:
        """Lists a split's samples, ordered by id, from listings and file headers alone."""
        ...

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Reads the labels of a sample's original picture: uint8 `[H, W]`, 255 = ignore."""
        ...

    def read_boxes(self, sample: Sample) -> Boxes:
        """Reads the objects of a sample's original picture."""
        ...


READERS: dict[str, Callable[..., DatasetReader]] = {"cityscapes": Cityscapes, "voc": Voc}
"""By the names of `--dataset`. What a reader takes beside the data root are further choices."""


def open_dataset(
    name: str, data_root: str, *, voc_task: str | None = None, years: Sequence[int] | None = None
) -> DatasetReader:
    """Opens a dataset.

    Args:
        name: One of `READERS`.
        data_root: The folder or URL that holds it.
        voc_task: `segmentation` or `detection`; for `voc`, and needed there.
        years: Of `voc`; None for the only one that the data root holds.

    Raises:
        DatasetError: The name is unknown, a choice is missing or not one of this dataset, or
            nothing lies at `data_root`.
    """
    if name not in READERS:
        raise DatasetError(f"unknown dataset {name!r}; known are: {', '.join(sorted(READERS))}")
    if name == "voc" and voc_task not in TASK_COMPONENTS:
        raise DatasetError(
            "--dataset voc needs --voc_task segmentation or --voc_task detection, which says whose "
            f"image lists and annotations are meant; got {voc_task or 'none'}"
        )
    if name != "voc" and (voc_task or years):
        flag = "--voc_task" if voc_task else "--year"
        raise DatasetError(f"{flag} is a choice of --dataset voc, not of {name}; leave it out")
    location = Location(data_root)
    if not location.fs.exists(location.root):
        raise DatasetError(
            f"no data root at {data_root}; give --data_root the folder that holds the dataset"
        )
    if name == "voc":
        return READERS[name](location, task=voc_task, years=tuple(years or ()))
    return READERS[name](location)


def read_picture(reader: DatasetReader, sample: Sample) -> tuple[np.ndarray, bytes]:
    """Reads one sample's picture, as its view shows it.

    Returns:
        `(uint8 RGB [H, W, 3], the file's bytes)`.

    Raises:
        DatasetError: The file is missing, truncated or no picture, or has another size than
            the plan says.
    """
    from latent_store.codec import read_image

    try:
        data = reader.data_root.read(sample.image_uri)
    except FileNotFoundError:
        raise DatasetError(f"{sample.image_uri} is missing; restore it") from None
    try:
        image_HWC = read_image(io.BytesIO(data))
    except DatasetError as error:
        raise DatasetError(f"{sample.image_uri}: {error}") from error
    if image_HWC.shape[:2] != (sample.height, sample.width):
        raise DatasetError(
            f"{sample.image_uri} is {image_HWC.shape[0]}x{image_HWC.shape[1]} (height x width), "
            f"planned {sample.height}x{sample.width}; restore it"
        )
    return _seen(image_HWC, sample.view), data


def read_labels(reader: DatasetReader, sample: Sample) -> np.ndarray:
    """Reads one sample's labels, as its view shows them: uint8 train ids `[H, W]`.

    Raises:
        DatasetError: The file is missing, unreadable, or of another size than its picture.
    """
    return _seen(reader.read_labels(sample), sample.view)


def read_boxes(reader: DatasetReader, sample: Sample) -> Boxes:
    """Reads one sample's objects, as its view shows them.

    Raises:
        DatasetError: The file is missing or unreadable, an object cannot be one, or there are not
            as many as the plan says.
    """
    boxes = reader.read_boxes(sample)
    if len(boxes) != sample.num_boxes:
        raise DatasetError(
            f"{sample.boxes_uri} has {len(boxes)} objects, planned {sample.num_boxes}; restore it"
        )
    return boxes.flipped(sample.width) if sample.view == "hflip" else boxes


def _seen(original: np.ndarray, view: str) -> np.ndarray:
    """Makes a view of an original picture `[H, W, ...]`, before it is padded."""
    return np.ascontiguousarray(original[:, ::-1]) if view == "hflip" else original
