"""What a crop leaves of a picture's objects."""

from collections.abc import Sequence

import numpy as np

from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes

MIN_LEFT = 0.4
"""Share of an object's area that a crop must leave, or it is no target.

Of a smaller piece nobody could tell what it belongs to or how far that reaches, and learning it
would make boxes of fragments; but to call a person without legs background would be as wrong.
Between 0.3 and 0.5 is usual."""

Target = dict[str, np.ndarray]
"""Of one image: "boxes" float32 [n, 4], "labels" int64 [n], "difficult" bool [n]."""


def crop_boxes(boxes: Boxes, window: Sequence[int]) -> Target:
    """Returns the objects of a crop, in pixels from its top left corner.

    Args:
        boxes: Of the whole picture.
        window: Top, left, height and width of the crop, in pixels.

    Returns:
        Boxes are clipped to the crop; those of which less than `MIN_LEFT` is left are dropped.
    """
    top, left, height, width = window
    moved_N4 = boxes.boxes_N4 - np.float32([left, top, left, top])
    clipped_N4 = np.clip(moved_N4, 0, np.float32([width, height, width, height]))
    area_N, left_N = _area(moved_N4), _area(clipped_N4)
    kept_N = (left_N > 0) & (left_N >= MIN_LEFT * area_N)
    return {
        "boxes": clipped_N4[kept_N],
        "labels": boxes.labels_N[kept_N],
        "difficult": boxes.difficult_N[kept_N],
    }


def check_box_classes(boxes: Boxes, num_classes: int, sample_id: str, dataset: str) -> Boxes:
    """Returns the boxes.

    Raises:
        DatasetError: If a label is none of the classes 1 to `num_classes` - 1.
    """
    wrong_N = (boxes.labels_N < 1) | (boxes.labels_N >= num_classes)
    if wrong_N.any():
        raise DatasetError(
            f"an object of {sample_id} has class {int(boxes.labels_N[wrong_N][0])}, but {dataset} "
            f"has classes 1 to {num_classes - 1}: encode the split again with that dataset's reader"
        )
    return boxes


def _area(boxes_N4: np.ndarray) -> np.ndarray:
    return (boxes_N4[:, 2:] - boxes_N4[:, :2]).prod(1)
