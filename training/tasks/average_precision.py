"""Average precision of detections, as the PASCAL VOC devkit and as COCO count it.

VOC looks at overlaps of 0.5 and more, and is written out here: `VOCevaldet.m` and `VOCap.m` of
the devkit, which exist in MATLAB alone. COCO averages over ten overlaps, and its numbers are those
of its own library, `pycocotools`. They pair detections with objects by different rules: to VOC a
detection belongs to the object that it overlaps best, even where a better detection has that one
already; to COCO it takes the best object that is still free.

The devkit's boxes are inclusive pixels, counted from 1, hence its `+ 1` in every width. Edges
here are half-open, so that `x2 - x1` is that width, and all overlaps are the same numbers.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torchvision.ops import box_iou

from latent_store.format.boxes import Boxes
from training.tasks.detections import Detections
from training.tasks.mean_iou import mean_over
from training.tasks.metric import ImageResult, Metric

MIN_OVERLAP = 0.5
"""Of VOC; an overlap that reaches it counts, as in the devkit (in some ports it must exceed it)."""
_LEVELS = (0.0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Recalls of VOC2007 as the devkit's 0:0.1:1 rounds them: MATLAB counts a range from both ends, so
0.3 alone lies 1e-16 above, and a recall of exactly 0.3 misses its level. (Ports that count from 0
miss 0.6 and 0.7 too.)"""
COCO_DETECTIONS = 100
"""The most detections of one class in one picture that COCO looks at, best scores first."""
_MOST_WEIGHTS = 1 << 22
"""Numbers held at once while AP is drawn: 32 MiB."""


@dataclass(frozen=True, kw_only=True)
class BoxesResult(ImageResult):
    """One image's part of VOC's AP; images do not influence each other's.

    Attributes:
        labels: Class of each detection; those of difficult objects are left out.
        scores: Of each, a float32 in its shortest decimal form.
        hits: 1 for each that is true, 0 for each that is false.
        objects: [K] objects of each class that count: those that are not difficult.
        pair: Objects and detections as they are, for COCO's AP.
    """

    labels: tuple[int, ...]
    scores: tuple[float, ...]
    hits: tuple[int, ...]
    objects: tuple[int, ...]
    pair: tuple[Boxes, Detections] | None = field(default=None, compare=False, repr=False)

    @property
    def counted(self) -> int:
        """Objects that count."""
        return sum(self.objects)


def match(truth: Boxes, prediction: Detections, num_classes: int) -> BoxesResult:
    """Judges one picture's detections as the devkit does; K classes have the background.

    From the surest on, each belongs to the object of its class that it overlaps best (of equal
    overlaps, the first). It is true if they overlap by half and the object had none before; a
    second one is false. Those of difficult objects, any number, are left out.

    Raises:
        ValueError: A label is none of the K classes.
    """
    for labels_N in (truth.labels_N, prediction.labels_N):
        if len(labels_N) and not 0 < labels_N.min() <= labels_N.max() < num_classes:
            raise ValueError(
                f"labels {labels_N.min()} to {labels_N.max()} are not in [1, {num_classes})"
            )
    hits_N, kept_N = np.zeros(len(prediction), dtype=int), np.ones(len(prediction), dtype=bool)
    if len(prediction) and len(truth):
        same_NM = prediction.labels_N[:, None] == truth.labels_N
        overlaps_NM = same_NM * _overlaps(prediction.boxes_N4, truth.boxes_N4)
        best_N = overlaps_NM.argmax(axis=1)
        reached_N = overlaps_NM.max(axis=1) >= MIN_OVERLAP
        kept_N = ~(reached_N & truth.difficult_N[best_N])
        by_score = np.argsort(-prediction.scores_N, kind="stable")
        counting = by_score[(reached_N & kept_N)[by_score]]
        _, first = np.unique(best_N[counting], return_index=True)
        hits_N[counting[first]] = 1
    objects_K = np.bincount(truth.labels_N[~truth.difficult_N], minlength=num_classes)
    return BoxesResult(
        labels=tuple(prediction.labels_N[kept_N].tolist()),
        scores=tuple(float(str(score)) for score in prediction.scores_N[kept_N]),
        hits=tuple(hits_N[kept_N].tolist()),
        objects=tuple(objects_K.tolist()),
        pair=(truth, prediction),
    )


def voc_ap(pictures: Sequence[BoxesResult], *, use_07_metric: bool) -> np.ndarray:
    """Returns each class's AP at an overlap of 0.5, float64 [K]; nan where no object counts.

    Equal scores rank in the order of the pictures, then of the detections within one. With
    `use_07_metric` it is the mean of the best precision at 11 recalls, as for VOC2007; else the
    area below the curve of the best precision, as since VOC2010.
    """
    objects_K = np.sum([p.objects for p in pictures], axis=0)
    ap_K = np.where(objects_K > 0, 0.0, np.nan)
    for label, hits_N, _ in ranked_hits(pictures):
        if objects_K[label]:
            true_N = np.cumsum(hits_N)
            recall_N = true_N / objects_K[label]
            precision_N = true_N / np.arange(1, len(true_N) + 1)
            average = _eleven_points if use_07_metric else _area
            ap_K[label] = average(recall_N, precision_N)
    return ap_K


def mean_ap(ap_K: np.ndarray) -> float:
    """Returns the mean over the classes of which an object counts; nan if there is none."""
    present = ap_K[~np.isnan(ap_K)]
    return float(present.mean()) if present.size else math.nan


def ranked_hits(
    pictures: Sequence[BoxesResult],
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields each class that was detected at all, with its detections, surest first.

    Of each detection these are 1 or 0, whether it is true, and the number of its picture.
    """
    labels_N, scores_N, hits_N = (
        np.concatenate([np.array(getattr(p, name), dtype) for p in pictures])
        for name, dtype in (("labels", np.int64), ("scores", np.float32), ("hits", np.int64))
    )
    pictures_N = np.repeat(np.arange(len(pictures)), [len(p.labels) for p in pictures])
    # lexsort is stable: equal scores of a class stay in the order of the pictures.
    order = np.lexsort((-scores_N, labels_N))
    classes, counts = np.unique(labels_N, return_counts=True)
    for label, count, end in zip(classes, counts, np.cumsum(counts), strict=True):
        mine = order[end - count : end]
        yield int(label), hits_N[mine], pictures_N[mine]


def drawn_ap50(results: Sequence[BoxesResult], times_DS: np.ndarray) -> np.ndarray:
    """Returns VOC's mean AP (the area) of draws of pictures, see `Metric.drawn`.

    The copies of a picture stand beside each other: of equal scores, all copies of a detection come
    before those of the next one.
    """
    objects_DK = times_DS @ np.array([result.objects for result in results], dtype=np.float64)
    areas_DK = np.zeros_like(objects_DK)
    for label, hits_N, pictures_N in ranked_hits(results):
        true_T = np.flatnonzero(hits_N)
        if not true_T.size:
            continue
        # Recall rises, and precision peaks, at the true ones alone.
        pictures_N = pictures_N[: true_T[-1] + 1]
        starts_T = np.concatenate([[0], true_T[:-1] + 1])
        step = max(1, _MOST_WEIGHTS // len(pictures_N))
        for first in range(0, len(times_DS), step):
            weights_DN = times_DS[first : first + step, pictures_N]
            found_DT = np.cumsum(np.add.reduceat(weights_DN, starts_T, axis=1), axis=1)
            gained_DT = weights_DN[:, true_T]
            precision_DT = np.cumsum(gained_DT, axis=1) / np.maximum(found_DT, 1)
            best_DT = np.maximum.accumulate(precision_DT[:, ::-1], axis=1)[:, ::-1]
            areas_DK[first : first + step, label] = (gained_DT * best_DT).sum(axis=1)
    present_DK = objects_DK > 0
    return mean_over(areas_DK / np.where(present_DK, objects_DK, 1), present_DK)


def coco_ap(truths: Sequence[Boxes], found: Sequence[Detections]) -> float:
    """Returns COCO's AP, in [0, 1]; nan if no object counts.

    It is the mean over overlaps 0.5 to 0.95, 101 recalls and classes, for all sizes, of the surest
    100 detections of a class in a picture. COCO knows no difficult objects; they are its crowds
    (`iscrowd`): objects that need not be found, and detections of which the most part lies in one,
    any number, are ignored.
    """
    # Imported here: only evaluation needs it.
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    boxes_M7, found_N7 = _rows(truths), _rows(found)
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


class AveragePrecision(Metric):
    """AP50 as VOC counts it since 2010, beside it as in 2007, and COCO's AP."""

    score = "ap50"
    title = class_title = "AP50"
    more_scores: ClassVar = {"ap50_07": "AP50-07", "coco_ap": "COCO AP"}
    result = BoxesResult
    compare = staticmethod(match)
    drawn = staticmethod(drawn_ap50)

    def summary(
        self, results: Sequence[BoxesResult], class_names: Sequence[str]
    ) -> dict[str, float]:
        """Returns "ap50", "ap50_07", "coco_ap", and "ap50/<class>" of all but the background."""
        ap_K = voc_ap(results, use_07_metric=False)
        truths, found = zip(*(result.pair for result in results), strict=True)
        by_class = zip(class_names[1:], ap_K.tolist()[1:], strict=True)
        return {
            "ap50": mean_ap(ap_K),
            "ap50_07": mean_ap(voc_ap(results, use_07_metric=True)),
            "coco_ap": coco_ap(truths, found),
        } | {f"ap50/{name}": value for name, value in by_class}


def _overlaps(boxes_N4: np.ndarray, others_M4: np.ndarray) -> np.ndarray:
    """Returns intersection over union of each pair, float64 [N, M]; 0 where they do not meet."""
    pair = (torch.tensor(boxes, dtype=torch.float64) for boxes in (boxes_N4, others_M4))
    return box_iou(*pair).nan_to_num().numpy()


def _area(recall_N: np.ndarray, precision_N: np.ndarray) -> float:
    best_N = np.maximum.accumulate(precision_N[::-1])[::-1]
    return float(np.diff(recall_N, prepend=0) @ best_N)


def _eleven_points(recall_N: np.ndarray, precision_N: np.ndarray) -> float:
    return float(np.mean([precision_N[recall_N >= r].max(initial=0) for r in _LEVELS]))


def _rows(pictures: Sequence[Boxes | Detections]) -> np.ndarray:
    """Returns the boxes of pictures as the library's own rows, float64 [n, 7].

    A row is the picture's number, x, y, width, height, score (of an object, whether it is
    difficult) and class.
    """
    rows = [np.empty((0, 7))]
    for number, picture in enumerate(pictures):
        numbers_N = np.full(len(picture), number)
        starts_N2, ends_N2 = np.split(picture.boxes_N4.astype(np.float64), 2, axis=1)
        fifth_N = picture.difficult_N if isinstance(picture, Boxes) else picture.scores_N
        columns = (numbers_N, starts_N2, ends_N2 - starts_N2, fifth_N, picture.labels_N)
        rows.append(np.column_stack(columns))
    return np.concatenate(rows)
