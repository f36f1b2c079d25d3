"""COCO's average precision, by COCO's own library."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence

import numpy as np

from latent_store.format.boxes import Boxes
from training.tasks.detections import Detections

COCO_DETECTIONS = 100
"""The most detections of one class in one picture that COCO looks at, best scores first."""


def coco_ap(truths: Sequence[Boxes], found: Sequence[Detections]) -> float:
    """Returns COCO's AP: mean over overlaps 0.5 to 0.95, 101 recalls and classes, all sizes.

    COCO knows no difficult objects; they are its crowds (`iscrowd`): objects that need not be
    found, and detections of which the most part lies in one, any number, are ignored.

    Args:
        truths: The objects of each picture.
        found: The detections in each; beyond the surest 100 of a class they are left out.

    Returns:
        In [0, 1]; nan if no object counts.
    """
    # Imported here: only evaluation needs it.
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    boxes_M7 = np.concatenate([*_rows(truths), np.empty((0, 7))])
    found_N7 = np.concatenate([*_rows(found), np.empty((0, 7))])
    if not (boxes_M7[:, 5] == 0).any():
        return math.nan
    if not len(found_N7):
        return 0.0
    objects, labels = COCO(), np.unique(np.concatenate([boxes_M7[:, 6], found_N7[:, 6]]))
    objects.dataset = {
        "images": [{"id": number} for number in range(len(truths))],
        "categories": [{"id": int(label)} for label in labels],
        # Their numbers start at 1: to the library, an object of number 0 is none.
        "annotations": [
            {
                "id": number,
                "image_id": int(image),
                "category_id": int(label),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(difficult),
            }
            for number, (image, *box, difficult, label) in enumerate(boxes_M7.tolist(), start=1)
        ],
    }
    # It reports its progress on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        objects.createIndex()
        evaluation = COCOeval(objects, objects.loadRes(found_N7), "bbox")
        # Its other sizes and counts would be computed, and are not asked for.
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.params.maxDets = [COCO_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return float(precision[precision > -1].mean())


def _rows(pictures: Sequence[Boxes | Detections]) -> Iterator[np.ndarray]:
    """Yields the boxes of each picture as the library's own rows, float64 [n, 7].

    A row is the picture's number, x, y, width, height, score (of an object, whether it is
    difficult) and class.
    """
    for number, picture in enumerate(pictures):
        boxes_N4 = picture.boxes_N4.astype(np.float64)
        fifth_N = picture.difficult_N if isinstance(picture, Boxes) else picture.scores_N
        yield np.column_stack(
            [
                np.full(len(picture), number),
                boxes_N4[:, :2],
                boxes_N4[:, 2:] - boxes_N4[:, :2],
                fifth_N,
                picture.labels_N,
            ]
        )
