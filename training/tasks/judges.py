"""What a network's outputs are worth: image by image, and on the whole split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from latent_store.errors import DatasetError
from latent_store.format.schema import IGNORE_LABEL
from training.evaluation.evaluation_split import Bench
from training.selection.rates import ImageRate
from training.tasks.detection_metrics import Detections, DetectionScores, mean_ap, voc_ap
from training.tasks.metrics import ConfusionMatrix
from training.tasks.sample_results import DetectionResult, SampleResult, SegmentationResult

_PERMUTATION_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The scores of a whole split; the fields are those of `training.evaluation.points.Point`."""

    score: float
    class_scores: tuple[float | None, ...]
    permuted_score: float | None
    constant_class: int | None = None
    constant_score: float | None = None
    more_scores: dict[str, float] = field(default_factory=dict)


class Judge(Protocol):
    """Compares outputs of one task with what the split says."""

    def add(self, row: int, output: np.ndarray | Detections, rate: ImageRate) -> SampleResult:
        """Judges one image."""

    def verdict(self) -> Verdict:
        """Returns the scores of all images so far.

        Raises:
            DatasetError: There was nothing to get right.
        """


def make_judge(bench: Bench, rows: np.ndarray) -> Judge:
    """Returns the judge of the bench's task for `rows`."""
    return {"segmentation": SegmentationJudge, "detection": DetectionJudge}[bench.task](bench, rows)


class SegmentationJudge:
    """mIoU, from one confusion matrix over all images."""

    def __init__(self, bench: Bench, rows: np.ndarray) -> None:
        self.bench = bench
        self.others = _others(bench, rows)
        self.total = ConfusionMatrix(len(bench.class_names))
        self.mixed = ConfusionMatrix(len(bench.class_names))
        self.images = 0

    def add(self, row: int, output: np.ndarray, rate: ImageRate) -> SegmentationResult:
        """Judges one map at original size, uint8 [H, W]."""
        self.images += 1
        counts_KK = _compare(self.bench.read_labels(row), output, self.total)
        if row in self.others:
            _compare(self.bench.read_labels(self.others[row]), output, self.mixed)
        return SegmentationResult(
            **_identity(self.bench, row, rate),
            hits=tuple(counts_KK.diag().tolist()),
            labelled=tuple(counts_KK.sum(1).tolist()),
            predicted=tuple(counts_KK.sum(0).tolist()),
        )

    def verdict(self) -> Verdict:
        """See `Judge`."""
        if not self.total.pixels:
            raise DatasetError(
                f"every pixel of the {self.images} images of {self.bench.split.plan.name} is "
                f"labelled {IGNORE_LABEL} (ignore): there is nothing to compare with; encode a "
                "split with labels"
            )
        return Verdict(
            score=self.total.miou(),
            class_scores=_with_none(self.total.iou()),
            permuted_score=self.mixed.miou() if self.others else None,
            constant_class=int(self.total.counts_KK.sum(1).argmax()),
            constant_score=self.total.constant_miou(),
        )


class DetectionJudge:
    """AP50 as VOC counts it since 2010, beside it as in 2007, and COCO's AP."""

    def __init__(self, bench: Bench, rows: np.ndarray) -> None:
        self.bench = bench
        self.others = _others(bench, rows)
        self.total = DetectionScores(len(bench.class_names))
        self.mixed = DetectionScores(len(bench.class_names))

    def add(self, row: int, output: Detections, rate: ImageRate) -> DetectionResult:
        """Judges one image's detections, in pixels of the original picture."""
        matches = self.total.update(self.bench.read_boxes(row), output)
        if row in self.others:
            self.mixed.update(self.bench.read_boxes(self.others[row]), output)
        return DetectionResult.of(matches, **_identity(self.bench, row, rate))

    def verdict(self) -> Verdict:
        """See `Judge`."""
        if not self.total.objects:
            raise DatasetError(
                f"no object of the {len(self.total.matches)} images of "
                f"{self.bench.split.plan.name} counts (there is none, or all are difficult): there "
                "is nothing to compare with; encode a split with objects"
            )
        ap_K = voc_ap(self.total.matches, use_07_metric=False)
        permuted_score = None
        if self.others:
            permuted_score = mean_ap(voc_ap(self.mixed.matches, use_07_metric=False))
        return Verdict(
            score=mean_ap(ap_K),
            class_scores=_with_none(ap_K.tolist()),
            permuted_score=permuted_score,
            more_scores={
                "AP50-07": mean_ap(voc_ap(self.total.matches, use_07_metric=True)),
                "COCO AP": self.total.coco_ap(),
            },
        )


def permuted(rows: np.ndarray) -> np.ndarray:
    """Returns `rows` so shuffled that none stays where it was (but a single one).

    One cycle through a random order: neighbours of a video sequence look too much alike for a
    shift by one to be a control.
    """
    order = np.random.default_rng(_PERMUTATION_SEED).permutation(len(rows))
    moved = np.empty_like(rows)
    moved[order] = rows[np.roll(order, 1)]
    return moved


def _others(bench: Bench, rows: np.ndarray) -> dict[int, int]:
    """Returns whose labels each row is also compared with; empty where that is not asked for."""
    if not bench.options.permute or len(rows) < 2:
        return {}
    return dict(zip(rows.tolist(), permuted(rows).tolist(), strict=True))


def _identity(bench: Bench, row: int, rate: ImageRate) -> dict[str, object]:
    height, width = (int(n) for n in bench.split.sizes([row])[0])
    sample_id = bench.split.sample_ids([row])[0]
    return {"sample_id": sample_id, "pixels": height * width, "rate": rate}


def _compare(labels_HW: np.ndarray, map_HW: np.ndarray, total: ConfusionMatrix) -> torch.Tensor:
    """Adds one image, at the extent that both have, to `total`; returns its own counts [K, K]."""
    height = min(labels_HW.shape[0], map_HW.shape[0])
    width = min(labels_HW.shape[1], map_HW.shape[1])
    labels = torch.from_numpy(labels_HW[:height, :width])
    prediction = torch.from_numpy(map_HW[:height, :width])
    before_KK = total.counts_KK.clone()
    total.update(labels, prediction)
    return total.counts_KK - before_KK


def _with_none(scores: Sequence[float]) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(v) else v for v in scores)
