"""The interface of a dataset's reader; pictures and annotations as a sample's view shows them."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import msgspec
import numpy as np

from latent_store.components.registry import task_kinds
from latent_store.errors import DatasetError, LatentStoreError
from latent_store.format.boxes import Boxes
from latent_store.format.plan_sizes import distinct_sizes
from latent_store.format.sample_lists import Samples
from latent_store.format.samples import Sample
from latent_store.format.schema import IGNORE_LABEL
from latent_store.storage.location import Location
from pipelines.datasets.files import FILES_AT_ONCE, read_pixels
from pipelines.datasets.listing import require_names

_reading = threading.Lock()
"""A worker has several pictures under way, and a reader may keep one archive open for all."""


class DatasetReader(ABC):
    """Lists a dataset's samples, and reads the labels or the boxes of one.

    Readers are small and picklable: they travel to Beam workers, which read one annotation at a
    time, though several pictures. One that names its `dataset_id` and lists samples is whole: its
    pictures are encoded. With a `task` it has `class_names` and reads that task's annotations,
    `read_labels` or `read_boxes`.

    Attributes:
        dataset_id: Name of the dataset in a store unless `--dataset_id` gives another.
        task: Whose list is read, and whose annotations are stored; empty where there are none.
        class_names: By the ids that labels and boxes are stored with.
        label_ids: Names that numbering.
        canvas: Height and width, in pixels, that hold every picture of a dataset of mixed sizes;
            None where a split has one size.
    """

    data_root: Location
    dataset_id: str
    task: str = ""
    class_names: tuple[str, ...] = ()
    label_ids: str = "class-ids"
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
    def manifest(self, split: str) -> Iterable[Sample]:
        """Lists a split's samples, ordered by id, from listings and file headers alone.

        Millions had better be yielded, one after another: no more than some are kept at once.

        Raises:
            DatasetError: The split is missing or empty, or a file is missing or unreadable.
        """

    def canvas_of(self, samples: Sequence[Sample]) -> tuple[int, int] | None:
        """Returns the canvas of a new store that holds these samples; see `canvas`."""
        return self.canvas

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
        DatasetError: The file is missing, unreadable, or of another size than its picture, or the
            reader's labels are none.
    """
    padded_HW = np.full(canvas, IGNORE_LABEL, dtype=np.uint8)
    with _reading:
        original_HW = ask(reader, "read_labels", sample)
    _require_labels(reader, sample, original_HW)
    labels_HW = _seen(original_HW, sample.view)
    padded_HW[: sample.height, : sample.width] = labels_HW
    return padded_HW


def read_boxes(reader: DatasetReader, sample: Sample) -> Boxes:
    """Reads one sample's objects, as its view shows them.

    Raises:
        DatasetError: The file is missing or unreadable, an object cannot be one, or there are not
            as many as the plan says.
    """
    with _reading:
        boxes = ask(reader, "read_boxes", sample)
    _require_boxes(reader, sample, boxes)
    if len(boxes) != sample.num_boxes:
        raise DatasetError(
            f"{sample.boxes_uri} has {len(boxes)} objects, planned {sample.num_boxes}; restore it"
        )
    return boxes.flipped(sample.width) if sample.view == "hflip" else boxes


def list_samples(reader: DatasetReader, split: str) -> Samples:
    """Lists a split's samples as its reader does, if they are such; one that yields them, one after
    another, may have more of them than memory holds.

    Raises:
        DatasetError: The reader cannot list them, there are none, or they are none.
    """
    listed: Any = ask(reader, "manifest", split)
    call = f"{type(reader).__name__}.manifest({split!r})"
    refusal = f"{call} must return samples, one or more, got {type(listed).__name__}"
    if not isinstance(listed, Iterable):
        raise DatasetError(f"{refusal}; see `DatasetReader`")
    samples = require_names(_required(listed, call, refusal))
    if not samples:
        raise DatasetError(f"{refusal} of none; see `DatasetReader`")
    return samples


def _required(listed: Iterable[Any], call: str, refusal: str) -> Iterator[Sample]:
    for sample in listed:
        if not isinstance(sample, Sample):
            raise DatasetError(f"{refusal} with a {type(sample).__name__}; see `DatasetReader`")
        try:
            msgspec.convert(vars(sample), Sample)
        except msgspec.ValidationError as error:
            raise DatasetError(
                f"{call} must return samples as `Sample` describes them, {sample.sample_id!r} is "
                f"none ({error}); mend the reader"
            ) from error
        yield sample


def ask(reader: DatasetReader, method: str, *args: Any) -> Any:
    """Returns what a method of a reader does.

    Raises:
        DatasetError: As the method; or whatever it raises, which may be somebody else's code, in
            one line, so that it fails a row and no job. So does what an iterator gives.
    """
    with _mending(reader, method):
        found = getattr(reader, method)(*args)
    return _given(reader, method, found) if isinstance(found, Iterator) else found


def _given(reader: DatasetReader, method: str, found: Iterator[Any]) -> Iterator[Any]:
    with _mending(reader, method):
        yield from found


@contextlib.contextmanager
def _mending(reader: DatasetReader, method: str) -> Iterator[None]:
    try:
        yield
    except (LatentStoreError, OSError, MemoryError):
        raise
    except Exception as error:
        raise DatasetError(
            f"{type(reader).__name__}.{method} raised {type(error).__name__}: {error}; mend the "
            "reader"
        ) from error


def choose_canvas(reader: DatasetReader, samples: Sequence[Sample]) -> tuple[int, int] | None:
    """Returns the canvas that a reader wants for a new store that holds these samples.

    Raises:
        DatasetError: It is none.
    """
    canvas = ask(reader, "canvas_of", samples)
    if canvas is None:
        return None
    try:
        height, width = map(operator.index, canvas)
    except (TypeError, ValueError):
        raise DatasetError(
            f"{type(reader).__name__}.canvas_of must return a height and a width in pixels, or "
            f"None, got {canvas!r}; mend the reader"
        ) from None
    return height, width


def list_annotated(reader: DatasetReader, split: str) -> list[Sample]:
    """Lists those of a split's samples that have what its reader's task learns from.

    Raises:
        DatasetError: As `list_samples`; or there is none.
    """
    listed = list_samples(reader, split)
    kind = task_kinds().get(reader.task)
    samples = [sample for sample in listed if kind is not None and kind.lists(sample)]
    if not samples:
        raise DatasetError(
            f"the pictures of {split} in {reader.data_root.url} have no "
            f"{'labels or boxes' if kind is None else kind.kind}, and training on pictures learns "
            "from them: put them beside the pictures (README: Files of a dataset)"
        )
    return samples


def count_boxes(reader: DatasetReader, samples: Sequence[Sample]) -> list[Sample]:
    """Returns samples with the numbers of their objects; 0 where reading them will fail."""

    def counted(sample: Sample) -> Sample:
        if not sample.boxes_uri:
            return sample
        try:
            return dataclasses.replace(sample, num_boxes=len(ask(reader, "read_boxes", sample)))
        except DatasetError:
            return sample  # The job itself reports it, with its row.

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return list(pool.map(counted, samples))


def canvas_for(samples: Sequence[Sample]) -> tuple[int, int] | None:
    """Returns the least height and width, in pixels, that hold pictures of several sizes; None for
    pictures of one."""
    sizes = distinct_sizes(Samples.of(samples)) - {(0, 0)}
    heights, widths = zip(*sizes, strict=True) if sizes else ((), ())
    return (max(heights), max(widths)) if len(sizes) > 1 else None


def _require_labels(reader: DatasetReader, sample: Sample, labels: Any) -> None:
    shape, dtype = getattr(labels, "shape", None), getattr(labels, "dtype", type(labels).__name__)
    if shape != (sample.height, sample.width) or dtype != np.uint8:
        raise DatasetError(
            f"the labels of {sample.sample_id} must be uint8 of {sample.height}x{sample.width} "
            f"(height x width), {type(reader).__name__} gives {dtype} of {shape}; mend the reader"
        )
    most = int(labels[labels != IGNORE_LABEL].max(initial=0))
    if most >= len(reader.class_names):
        raise DatasetError(
            f"the labels of {sample.sample_id} hold {most}: there are {len(reader.class_names)} "
            f"classes, from 0, and {IGNORE_LABEL} is ignored; mend the reader or its class names"
        )


def _require_boxes(reader: DatasetReader, sample: Sample, boxes: Any) -> None:
    if not isinstance(boxes, Boxes):
        raise DatasetError(
            f"the boxes of {sample.sample_id} must be `Boxes`, {type(reader).__name__} gives "
            f"{type(boxes).__name__}; mend the reader"
        )
    labels_N = boxes.labels_N
    wrong_N = labels_N[(labels_N < 1) | (labels_N >= len(reader.class_names))]
    if wrong_N.size:
        raise DatasetError(
            f"an object of {sample.sample_id} has the class {wrong_N[0]}: classes of objects are 1 "
            f"to {len(reader.class_names) - 1}, 0 is the background; mend the reader or its class "
            "names"
        )


def _seen(original: np.ndarray, view: str) -> np.ndarray:
    """Makes a view of an original picture `[H, W, ...]`, before it is padded."""
    return np.ascontiguousarray(original[:, ::-1]) if view == "hflip" else original
