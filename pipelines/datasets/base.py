"""The interface of a dataset's reader; pictures and annotations as a sample's view shows them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from latent_store.format.samples import Sample
from latent_store.format.schema import IGNORE_LABEL
from latent_store.storage.location import Location
from pipelines.datasets.files import read_pixels


class DatasetReader(ABC):
    """Lists a dataset's samples, and reads the labels or the boxes of one.

    Readers are small and picklable: they travel to Beam workers.

    Attributes:
        dataset_id: Name of the dataset in a store unless `--dataset_id` gives another.
        task: Whose list is read, and whose annotations are stored.
        class_names: By the ids that labels and boxes are stored with.
        label_ids: Names that numbering.
        canvas: Height and width, in pixels, that hold every picture of a dataset of mixed sizes;
            None where a split has one size.
    """

    data_root: Location
    dataset_id: str
    task: str
    class_names: tuple[str, ...]
    label_ids: str
    canvas: tuple[int, int] | None = None

    choices: ClassVar[tuple[str, ...]] = ()
    """Flags beside `--dataset` and `--data_root` that this reader knows."""

    def __init__(self, data_root: Location, **choices: Any) -> None:
        """Opens a data root, given the value of each of the reader's choices, or None.

        Raises:
            DatasetError: A choice is missing, or names what is not there.
        """
        self.data_root = data_root

    @abstractmethod
    def manifest(self, split: str) -> list[Sample]:
        """Lists a split's samples, ordered by id, from listings and file headers alone.

        Raises:
            DatasetError: The split is missing or empty, or a file is missing or unreadable.
        """

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Reads the labels of a sample's original picture: uint8 `[H, W]`, 255 = ignore.

        Raises:
            DatasetError: There are none, or they are missing, unreadable or of another size.
        """
        raise DatasetError(f"{sample.sample_id}: {self.dataset_id} has no labels to read")

    def read_boxes(self, sample: Sample) -> Boxes:
        """Reads the objects of a sample's original picture.

        Raises:
            DatasetError: There are none, or they are missing or unreadable, or one cannot be.
        """
        raise DatasetError(f"{sample.sample_id}: {self.dataset_id} has no boxes to read")


def read_picture(reader: DatasetReader, sample: Sample) -> tuple[np.ndarray, bytes]:
    """Reads one sample's picture, uint8 RGB `[H, W, 3]` as its view shows it, and its file's bytes.

    Raises:
        DatasetError: The file is missing, truncated or no picture, or has another size than
            the plan says.
    """
    image_HWC, data = read_pixels(reader.data_root, sample.image_uri)
    if not sample.has_size:
        raise DatasetError(
            f"{sample.image_uri} had no readable header when the plan was made, and has one now: "
            "run the same command again"
        )
    if image_HWC.shape[:2] != (sample.height, sample.width):
        raise DatasetError(
            f"{sample.image_uri} is {image_HWC.shape[0]}x{image_HWC.shape[1]} (height x width), "
            f"planned {sample.height}x{sample.width}; restore it"
        )
    return _seen(image_HWC, sample.view), data


def read_labels(reader: DatasetReader, sample: Sample, canvas: tuple[int, int]) -> np.ndarray:
    """Reads one sample's labels, as its view shows them: uint8 train ids of the canvas's size.

    Right and bottom they are padded with 255.

    Raises:
        DatasetError: The file is missing, unreadable, or of another size than its picture.
    """
    padded_HW = np.full(canvas, IGNORE_LABEL, dtype=np.uint8)
    labels_HW = _seen(reader.read_labels(sample), sample.view)
    padded_HW[: sample.height, : sample.width] = labels_HW
    return padded_HW


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
