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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latent_store.format.boxes import Boxes

if TYPE_CHECKING:
    import torch

MIN_OVERLAP = 0.5
"""Of VOC; an overlap that reaches it counts, as in the devkit (in some ports it must exceed it)."""
TRUE, FALSE, IGNORED = 1, 0, -1
"""What a detection is worth; ignored are those of difficult objects."""
COCO_DETECTIONS = 100
"""The most detections of one class in one picture that COCO looks at, best scores first."""
_LEVELS = (0.0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Recalls of VOC2007 as the devkit's 0:0.1:1 rounds them: MATLAB counts a range from both ends, so
0.3 alone lies 1e-16 above, and a recall of exactly 0.3 misses its level. (Ports that count from 0
miss 0.6 and 0.7 too.)"""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What a network found in one picture, in any order.

    Attributes:
        boxes_N4: Float32, half-open edges `x1, y1, x2, y2` in pixels of the original picture.
        labels_N: Int64 class ids, 1 and up.
        scores_N: Float32, more is surer.

    Raises:
        ValueError: The arrays are of different lengths, or a score or an edge is not finite.
    """

    boxes_N4: np.ndarray
    labels_N: np.ndarray
    scores_N: np.ndarray

    def __post_init__(self) -> None:
        boxes_N4 = np.asarray(self.boxes_N4, np.float32).reshape(-1, 4)
        labels_N = np.asarray(self.labels_N, np.int64).reshape(-1)
        scores_N = np.asarray(self.scores_N, np.float32).reshape(-1)
        if not len(boxes_N4) == len(labels_N) == len(scores_N):
            raise ValueError(
                f"{len(boxes_N4)} boxes have {len(labels_N)} labels, {len(scores_N)} scores"
            )
        if not (np.isfinite(scores_N).all() and np.isfinite(boxes_N4).all()):
            raise ValueError("detections have boxes or scores that are not finite")
        for name, values in (
            ("boxes_N4", boxes_N4),
            ("labels_N", labels_N),
            ("scores_N", scores_N),
        ):
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.boxes_N4)

    @classmethod
    def from_output(cls, output: Mapping[str, torch.Tensor]) -> Detections:
        """Returns one picture's detections out of what a network in evaluation gives for it."""
        return cls(
            boxes_N4=output["boxes"].detach().float().cpu().numpy(),
            labels_N=output["labels"].detach().cpu().numpy(),
            scores_N=output["scores"].detach().float().cpu().numpy(),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready dict that `from_json` reads."""
        return {
            "boxes": self.boxes_N4.tolist(),
            "labels": self.labels_N.tolist(),
            "scores": self.scores_N.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Detections:
        """Reads `to_json`.

        Raises:
            KeyError, TypeError, ValueError: The dict is of another shape.
        """
        return cls(boxes_N4=data["boxes"], labels_N=data["labels"], scores_N=data["scores"])


@dataclass(frozen=True, kw_only=True)
class Matches:
    """What one picture adds to VOC's AP; pictures do not influence each other's.

    Attributes:
        labels_N: Int64 class of each detection.
        scores_N: Float32.
        outcomes_N: Int8, `TRUE`, `FALSE` or `IGNORED`.
        objects_K: Int64, objects of each class that count: those that are not difficult.
    """

    labels_N: np.ndarray
    scores_N: np.ndarray
    outcomes_N: np.ndarray
    objects_K: np.ndarray


def match(truth: Boxes, found: Detections, num_classes: int) -> Matches:
    """Judges one picture's detections as the devkit does.

    From the surest on, each belongs to the object of its class that it overlaps best (of equal
    overlaps, the first). It is true if they overlap by half and the object had none before; a
    second one is false. Those of difficult objects, any number, are ignored.

    Args:
        truth: The picture's objects.
        found: Its detections.
        num_classes: K, with the background.

    Raises:
        ValueError: A label is none of the K classes.
    """
    for labels_N in (truth.labels_N, found.labels_N):
        if len(labels_N) and not 0 < labels_N.min() <= labels_N.max() < num_classes:
            raise ValueError(
                f"labels {labels_N.min()} to {labels_N.max()} are not in [1, {num_classes})"
            )
    outcomes_N = np.full(len(found), FALSE, dtype=np.int8)
    if len(found) and len(truth):
        overlaps_NM = np.where(
            found.labels_N[:, None] == truth.labels_N, overlaps(found.boxes_N4, truth.boxes_N4), 0
        )
        best_N = overlaps_NM.argmax(axis=1)
        reached_N = overlaps_NM.max(axis=1) >= MIN_OVERLAP
        outcomes_N[reached_N & truth.difficult_N[best_N]] = IGNORED
        by_score = np.argsort(-found.scores_N, kind="stable")
        counting = by_score[(reached_N & ~truth.difficult_N[best_N])[by_score]]
        _, first = np.unique(best_N[counting], return_index=True)
        outcomes_N[counting[first]] = TRUE
    return Matches(
        labels_N=found.labels_N,
        scores_N=found.scores_N,
        outcomes_N=outcomes_N,
        objects_K=np.bincount(truth.labels_N[~truth.difficult_N], minlength=num_classes),
    )


def overlaps(boxes_N4: np.ndarray, others_M4: np.ndarray) -> np.ndarray:
    """Returns intersection over union of each pair, float64 [N, M]; 0 where they do not meet."""
    a_N14, b_M4 = boxes_N4.astype(np.float64)[:, None], others_M4.astype(np.float64)
    sides_NM2 = np.minimum(a_N14[..., 2:], b_M4[..., 2:]) - np.maximum(
        a_N14[..., :2], b_M4[..., :2]
    )
    shared_NM = np.where((sides_NM2 > 0).all(-1), sides_NM2.prod(-1), 0)
    area_N1 = (a_N14[..., 2:] - a_N14[..., :2]).prod(-1)
    union_NM = area_N1 + (b_M4[:, 2:] - b_M4[:, :2]).prod(-1) - shared_NM
    return np.divide(shared_NM, union_NM, out=np.zeros_like(union_NM), where=shared_NM > 0)


def voc_ap(pictures: Sequence[Matches], *, use_07_metric: bool) -> np.ndarray:
    """Returns each class's AP at an overlap of 0.5.

    Equal scores rank in the order of the pictures, then of the detections within one.

    Args:
        pictures: At least one.
        use_07_metric: Mean of the best precision at 11 recalls, as for VOC2007; else the area
            below the curve of the best precision, as since VOC2010.

    Returns:
        float64 [K]; nan for classes of which no object counts.
    """
    objects_K = np.sum([p.objects_K for p in pictures], axis=0)
    ap_K = np.where(objects_K > 0, 0.0, np.nan)
    for label, ranked in ranked_outcomes(pictures):
        if objects_K[label]:
            true_N = np.cumsum(ranked.outcomes_N == TRUE)
            recall_N = true_N / objects_K[label]
            precision_N = true_N / np.arange(1, len(true_N) + 1)
            average = _eleven_points if use_07_metric else _area
            ap_K[label] = average(recall_N, precision_N)
    return ap_K


def mean_ap(ap_K: np.ndarray) -> float:
    """Returns the mean over the classes of which an object counts; nan if there is none."""
    present = ap_K[~np.isnan(ap_K)]
    return float(present.mean()) if present.size else math.nan


@dataclass(frozen=True, kw_only=True)
class RankedOutcomes:
    """The detections of one class in all pictures, surest first, without the ignored ones.

    Attributes:
        outcomes_N: Int8, `TRUE` or `FALSE`.
        pictures_N: Int64, the number of the picture of each.
    """

    outcomes_N: np.ndarray
    pictures_N: np.ndarray


def ranked_outcomes(pictures: Sequence[Matches]) -> Iterator[tuple[int, RankedOutcomes]]:
    """Yields each class that was detected at all, with its detections."""
    labels_N, scores_N, outcomes_N = (
        np.concatenate([getattr(p, name) for p in pictures])
        for name in ("labels_N", "scores_N", "outcomes_N")
    )
    pictures_N = np.repeat(np.arange(len(pictures)), [len(p.labels_N) for p in pictures])
    counting = np.flatnonzero(outcomes_N != IGNORED)
    # lexsort is stable: equal scores of a class stay in the order of the pictures.
    order = counting[np.lexsort((-scores_N[counting], labels_N[counting]))]
    classes, counts = np.unique(labels_N[order], return_counts=True)
    for label, count, end in zip(classes, counts, np.cumsum(counts), strict=True):
        mine = order[end - count : end]
        yield int(label), RankedOutcomes(outcomes_N=outcomes_N[mine], pictures_N=pictures_N[mine])


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
    from pycocotools.cocoeval import COCOeval

    labels = np.concatenate([b.labels_N for b in [*truths, *found]])
    classes = np.unique(labels).tolist()
    objects = [_coco_object(*item) for item in _numbered(truths)]
    detections = [_coco_detection(*item) for item in _numbered(found)]
    # It reports its progress on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _coco(objects, len(truths), classes), _coco(detections, len(truths), classes), "bbox"
        )
        # Its other sizes and counts would be computed, and are not asked for.
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.params.maxDets = [COCO_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else math.nan


class DetectionScores:
    """Collects pictures, and says what their detections are worth.

    Attributes:
        matches: Of each picture, in the order in which they came.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.matches: list[Matches] = []
        self._truths: list[Boxes] = []
        self._found: list[Detections] = []

    def update(self, truth: Boxes, found: Detections) -> Matches:
        """Adds one picture, and returns what it is worth."""
        self.matches.append(match(truth, found, self.num_classes))
        self._truths.append(truth)
        self._found.append(found)
        return self.matches[-1]

    @property
    def objects(self) -> int:
        """How many objects count."""
        return int(sum(m.objects_K.sum() for m in self.matches))

    def coco_ap(self) -> float:
        """Returns `coco_ap` of the pictures so far."""
        return coco_ap(self._truths, self._found) if self._truths else math.nan

    def summary(self, class_names: Sequence[str]) -> dict[str, float]:
        """Returns "ap50", "ap50_07", "coco_ap", and "ap50/<class>" of all but the background."""
        if not self.matches:
            return {"ap50": math.nan, "ap50_07": math.nan, "coco_ap": math.nan}
        ap_K = voc_ap(self.matches, use_07_metric=False)
        by_class = {f"ap50/{n}": float(v) for n, v in zip(class_names, ap_K, strict=True)}
        del by_class[f"ap50/{class_names[0]}"]
        return {
            "ap50": mean_ap(ap_K),
            "ap50_07": mean_ap(voc_ap(self.matches, use_07_metric=True)),
            "coco_ap": self.coco_ap(),
        } | by_class


def _area(recall_N: np.ndarray, precision_N: np.ndarray) -> float:
    best_N = np.maximum.accumulate(precision_N[::-1])[::-1]
    return float(np.diff(recall_N, prepend=0) @ best_N)


def _eleven_points(recall_N: np.ndarray, precision_N: np.ndarray) -> float:
    return float(np.mean([precision_N[recall_N >= r].max(initial=0) for r in _LEVELS]))


def _numbered(pictures: Sequence[Any]) -> Iterator[tuple[int, Any, int]]:
    """Yields number of the picture, picture, number within it, of every box."""
    for number, picture in enumerate(pictures):
        for index in range(len(picture)):
            yield number, picture, index


def _coco_box(number: int, picture: Boxes | Detections, index: int) -> dict[str, Any]:
    x1, y1, x2, y2 = picture.boxes_N4[index].tolist()
    return {
        "image_id": number,
        "category_id": int(picture.labels_N[index]),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
    }


def _coco_object(number: int, picture: Boxes, index: int) -> dict[str, Any]:
    return {
        **_coco_box(number, picture, index),
        "iscrowd": int(picture.difficult_N[index]),
    }


def _coco_detection(number: int, picture: Detections, index: int) -> dict[str, Any]:
    score = float(picture.scores_N[index])
    return {**_coco_box(number, picture, index), "iscrowd": 0, "score": score}


def _coco(boxes: list[dict[str, Any]], pictures: int, classes: Sequence[int]) -> Any:
    """Returns the library's own index of objects, or of detections."""
    from pycocotools.coco import COCO

    index = COCO()
    index.dataset = {
        "images": [{"id": number} for number in range(pictures)],
        "categories": [{"id": label} for label in classes],
        # Its numbers start at 1: to the library, an object of number 0 is none.
        "annotations": [{**box, "id": number} for number, box in enumerate(boxes, start=1)],
    }
    index.createIndex()
    return index
