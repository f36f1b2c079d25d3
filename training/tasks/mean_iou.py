"""Mean intersection over union, from the hits and misses of a whole split.

Averaging per-image or per-batch IoUs gives other numbers; published ones come from the sum: the
diagonal and the margins of one confusion matrix over all images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from latent_store.format.schema import IGNORE_LABEL
from training.tasks.metric import ImageResult, Metric


@dataclass(frozen=True, kw_only=True)
class MapResult(ImageResult):
    """One image's part of mIoU.

    Attributes:
        hits, labelled, predicted: [K] pixels of each class that were right, that the label has,
            that the network says (where the label is not ignored).
        confusion_KK: Int64, pixels of each true class (rows) that are said to be each class.
    """

    hits: tuple[int, ...]
    labelled: tuple[int, ...]
    predicted: tuple[int, ...]
    confusion_KK: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def counted(self) -> int:
        """Labelled pixels."""
        return sum(self.labelled)


class MeanIou(Metric):
    """mIoU over the classes that labels have; pixels labelled 255 count nowhere."""

    score = "miou"
    title = "mIoU"
    class_title = "IoU"
    result = MapResult

    def compare(
        self, truth: torch.Tensor | np.ndarray, prediction: torch.Tensor, num_classes: int
    ) -> MapResult:
        """Returns the result of one map.

        Args:
            truth: Integer train ids [H, W] at least; what lies beyond the prediction is padding.
            prediction: Integer [h, w], values in [0, K).
            num_classes: K.

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
        if true.numel() and not 0 <= int(true.min()) <= int(true.max()) < num_classes:
            raise ValueError(
                f"labels must lie in [0, {num_classes}) or be {IGNORE_LABEL}, got "
                f"{int(true.min())} to {int(true.max())}"
            )
        pairs = torch.bincount(num_classes * true + predicted, minlength=num_classes**2)
        confusion_KK = pairs.reshape(num_classes, num_classes).cpu().numpy()
        parts = (confusion_KK.diagonal(), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0))
        hits, labelled, said = (tuple(part.tolist()) for part in parts)
        return MapResult(hits=hits, labelled=labelled, predicted=said, confusion_KK=confusion_KK)

    def summary(self, results: Sequence[MapResult], class_names: Sequence[str]) -> dict[str, float]:
        """Returns "miou", "accuracy", "constant_miou" and the IoU of each class.

        "constant_miou" is that of always predicting the most frequent class, max(f) / (number of
        classes that occur) with class frequencies f.
        """
        hits_K, labelled_K, predicted_K = (part.sum(axis=0) for part in _parts(results))
        present_K, pixels = labelled_K > 0, int(labelled_K.sum())
        union_K = np.where(present_K, labelled_K + predicted_K - hits_K, 1)
        iou = np.where(present_K, hits_K / union_K, np.nan).tolist()
        present = [value for value in iou if not math.isnan(value)]
        return {
            "miou": sum(present) / len(present),
            "accuracy": float(hits_K.sum()) / pixels,
            "constant_miou": float(labelled_K.max()) / pixels / len(present),
        } | {f"iou/{name}": value for name, value in zip(class_names, iou, strict=True)}

    def drawn(self, results: Sequence[MapResult], times_DS: np.ndarray) -> np.ndarray:
        """Returns mIoUs, each from the sum of its images."""
        hits_DK, labelled_DK, predicted_DK = (times_DS @ part for part in _parts(results))
        present_DK = labelled_DK > 0
        union_DK = np.where(present_DK, labelled_DK + predicted_DK - hits_DK, 1)
        return mean_over(hits_DK / union_DK, present_DK)

    def confusion(self, results: Sequence[MapResult]) -> np.ndarray:
        """Returns the confusion matrix of all images."""
        known = [r.confusion_KK for r in results if r.confusion_KK is not None]
        return np.sum(known, axis=0)

    def constant_class(self, results: Sequence[MapResult]) -> int:
        """Returns the most frequent class."""
        return int(_parts(results)[1].sum(axis=0).argmax())


def mean_over(values_DK: np.ndarray, present_DK: np.ndarray) -> np.ndarray:
    """Returns the mean over the classes that are present, [D]; nan where none is."""
    present_D = present_DK.sum(axis=1)
    total_D = np.where(present_DK, values_DK, 0).sum(axis=1)
    return np.divide(total_D, present_D, out=np.full(len(total_D), np.nan), where=present_D > 0)


def _parts(results: Sequence[MapResult]) -> tuple[np.ndarray, ...]:
    """Returns hits, labelled and predicted pixels, int64 [S, K] each."""
    names = MapResult.kept_fields()
    return tuple(np.array([getattr(r, name) for r in results], np.int64) for name in names)
