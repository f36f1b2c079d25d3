"""Names and colours of the classes that networks predict; the order is the order of the train ids.

How a dataset's files number their classes is the readers' matter (`pipelines`); a store holds
train ids, with 255 where a pixel has no class.
"""

from collections.abc import Sequence

from latent_store.errors import DatasetError

Colour = tuple[int, int, int]
"""RGB of 8 bits."""

CITYSCAPES_CLASSES: tuple[str, ...] = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
    "bicycle",
)  # fmt: skip
"""The 19 training classes of Cityscapes (cityscapesScripts, `helpers/labels.py`, by train id)."""

CITYSCAPES_COLOURS: tuple[Colour, ...] = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
    (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
    (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
"""Of each training class, the dataset's own palette."""

VOC_CLASSES: tuple[str, ...] = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
"""The classes of PASCAL VOC in the devkit's order (`VOCinit.m`), which numbers its masks; objects
have the same ids, from 1."""


def voc_colour(label: int) -> Colour:
    """Returns the devkit's colour of a label (`VOClabelcolormap.m`), 0 to 255.

    The bits of the label, from the lowest, go in turn to red, green and blue, from their highest.
    """
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (label >> bit & 1) << 7 - bit // 3
    return channels[0], channels[1], channels[2]


def class_colours(names: Sequence[str]) -> tuple[Colour, ...]:
    """Returns the colours that pictures show classes in: their dataset's own palette.

    Classes of no known dataset get the devkit's colours, which are distinct for 255 classes.
    """
    if tuple(names) == CITYSCAPES_CLASSES:
        return CITYSCAPES_COLOURS
    return tuple(voc_colour(label) for label in range(len(names)))


def class_names(dataset: str) -> tuple[str, ...]:
    """Returns the class names of a dataset whose store does not carry them, by train id.

    Raises:
        DatasetError: If `dataset` is a PASCAL VOC set, whose components always carry them. Every
            other id is a set in Cityscapes' layout, whatever `--dataset_id` calls it.
    """
    if dataset.startswith("voc"):
        raise DatasetError(
            f"the store of {dataset!r} does not name its classes: encode its labels or boxes again "
            "with encode-to-store --dataset voc"
        )
    return CITYSCAPES_CLASSES
