"""Mean intersection over union, from the hits and misses of a whole split.

Averaging per-image or per-batch IoUs gives other numbers; published ones come from the sum: the
diagonal and the margins of one confusion matrix over all images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from latent_store.format.schema import IGNORE_LABEL
from training.tasks.base import ImageResult, Metric


@dataclass(frozen=True, kw_only=True)
class MaskResult(ImageResult):
    """One image's part of mIoU.

    Attributes:
        hits, labelled, predicted: [K] pixels of each class that were right, that the label has,
            that the network says (where the label is not ignored).
    """

    hits: tuple[int, ...]
    labelled: tuple[int, ...]
    predicted: tuple[int, ...]

    @property
    def counted(self) -> int:
        """Labelled pixels."""
        return sum(self.labelled)


class MeanIou(Metric):
    """mIoU over every labelled pixel seen so far.

    Attributes:
        counts_3K: Int64: pixels of each class that were right, are labelled so, are predicted so.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__(class_names)
        self.counts_3K = np.zeros((3, len(self.class_names)), dtype=np.int64)

    def add(
        self, row: int, truth: torch.Tensor | np.ndarray, prediction: torch.Tensor
    ) -> MaskResult:
        """Adds one map; where the label is 255 the prediction does not count.

        Args:
            row: Of the image.
            truth: Integer train ids [H, W] at least; what lies beyond the prediction is padding.
            prediction: Integer [h, w], values in [0, K).

        Raises:
            ValueError: If a label is neither a class nor 255, or is missing.
        """
        height, width = prediction.shape
        labels = torch.as_tensor(truth, device=prediction.device)[:height, :width]
        if labels.shape != prediction.shape:
            raise ValueError(
                f"every predicted pixel needs a label, got {tuple(labels.shape)} for "
                f"{tuple(prediction.shape)}"
            )
        valid = labels != IGNORE_LABEL
        true, predicted = labels[valid].long(), prediction[valid].long()
        classes = len(self.class_names)
        if true.numel() and not 0 <= int(true.min()) <= int(true.max()) < classes:
            raise ValueError(
                f"labels must lie in [0, {classes}) or be {IGNORE_LABEL}, got "
                f"{int(true.min())} to {int(true.max())}"
            )
        parts = (true[true == predicted], true, predicted)
        counts = torch.stack([torch.bincount(part, minlength=classes) for part in parts]).cpu()
        self.counts_3K += counts.numpy()
        hits, labelled, said = (tuple(part) for part in counts.tolist())
        return MaskResult(hits=hits, labelled=labelled, predicted=said)

    def merge(self, other: Self) -> None:
        """Adds another one's pixels."""
        self.counts_3K += other.counts_3K

    @property
    def counted(self) -> int:
        """Labelled pixels."""
        return int(self.counts_3K[1].sum())

    @property
    def constant_class(self) -> int:
        """The most frequent class."""
        return int(self.counts_3K[1].argmax())

    def iou(self) -> np.ndarray:
        """Returns each class's IoU in [0, 1], float64 [K]; nan where no label has the class."""
        hits_K, labelled_K, predicted_K = self.counts_3K
        union_K = np.where(labelled_K > 0, labelled_K + predicted_K - hits_K, 1)
        return np.where(labelled_K > 0, hits_K / union_K, np.nan)

    def main(self) -> float:
        """Returns the mean IoU over the classes that occur (nan if none does)."""
        present = [value for value in self.iou().tolist() if not math.isnan(value)]
        return sum(present) / len(present) if present else math.nan

    def summary(self) -> dict[str, float]:
        """Returns "miou", "accuracy", "constant_miou" and the IoU of each class.

        "constant_miou" is that of always predicting the most frequent class, max(f) / (number of
        classes that occur) with class frequencies f. All are nan without a labelled pixel.
        """
        (hits_K, labelled_K, _), pixels = self.counts_3K, self.counted
        present = int((labelled_K > 0).sum())
        iou = zip(self.class_names, self.iou().tolist(), strict=True)
        return {
            "miou": self.main(),
            "accuracy": float(hits_K.sum()) / pixels if pixels else math.nan,
            "constant_miou": float(labelled_K.max()) / pixels / present if pixels else math.nan,
        } | {f"iou/{name}": value for name, value in iou}


def drawn_miou(results: Sequence[MaskResult], times_DS: np.ndarray) -> np.ndarray:
    """Returns the mIoU of draws of images, float64 [D]; nan where no pixel is labelled."""
    hits_DK, labelled_DK, predicted_DK = (
        times_DS @ np.array([getattr(result, name) for result in results], dtype=np.float64)
        for name in ("hits", "labelled", "predicted")
    )
    present_DK = labelled_DK > 0
    union_DK = np.where(present_DK, labelled_DK + predicted_DK - hits_DK, 1)
    return mean_over(hits_DK / union_DK, present_DK)


def mean_over(values_DK: np.ndarray, present_DK: np.ndarray) -> np.ndarray:
    """Returns the mean over the classes that are present, [D]; nan where none is."""
    present_D = present_DK.sum(axis=1)
    total_D = np.where(present_DK, values_DK, 0).sum(axis=1)
    return np.divide(total_D, present_D, out=np.full(len(total_D), np.nan), where=present_D > 0)
