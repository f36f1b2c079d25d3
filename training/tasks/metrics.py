"""Mean intersection over union from one confusion matrix over a whole split.

Averaging per-image or per-batch IoUs gives other numbers; published ones come from the sum.
"""

import math
from collections.abc import Sequence

import torch

from latent_store.format.schema import IGNORE_LABEL


class ConfusionMatrix:
    """Counts of (true class, predicted class) over every labelled pixel seen so far.

    Attributes:
        counts_KK: Int64 tensor [K, K] on the CPU; rows are true classes, columns predictions.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts_KK = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, labels: torch.Tensor, predictions: torch.Tensor) -> None:
        """Adds pixels; where the label is 255 the prediction does not count.

        Args:
            labels: Integer tensor of train ids, any shape.
            predictions: Integer tensor of the same shape, values in [0, K).

        Raises:
            ValueError: If the shapes differ, or a label is neither a class nor 255.
        """
        if labels.shape != predictions.shape:
            raise ValueError(
                f"labels and predictions must have one shape, got {tuple(labels.shape)} and "
                f"{tuple(predictions.shape)}"
            )
        valid = labels != IGNORE_LABEL
        true, predicted = labels[valid].long(), predictions[valid].long()
        if true.numel() and not 0 <= int(true.min()) <= int(true.max()) < self.num_classes:
            raise ValueError(
                f"labels must lie in [0, {self.num_classes}) or be {IGNORE_LABEL}, got "
                f"{int(true.min())} to {int(true.max())}"
            )
        cells = torch.bincount(true * self.num_classes + predicted, minlength=self.num_classes**2)
        self.counts_KK += cells.view(self.num_classes, self.num_classes).cpu()

    @property
    def pixels(self) -> int:
        """Number of labelled pixels counted."""
        return int(self.counts_KK.sum())

    def iou(self) -> list[float]:
        """Returns each class's IoU in [0, 1]; nan for a class absent from the ground truth."""
        counts = self.counts_KK.double()
        hits, truths, predictions = counts.diag(), counts.sum(1), counts.sum(0)
        iou_K = hits / (truths + predictions - hits)
        return [float(v) if t > 0 else math.nan for v, t in zip(iou_K, truths, strict=True)]

    def miou(self) -> float:
        """Returns the mean IoU over the classes that occur in the ground truth (nan if none)."""
        present = [v for v in self.iou() if not math.isnan(v)]
        return sum(present) / len(present) if present else math.nan

    def accuracy(self) -> float:
        """Returns the share of labelled pixels that are predicted right (nan if there are none)."""
        return float(self.counts_KK.diag().sum()) / self.pixels if self.pixels else math.nan

    def constant_miou(self) -> float:
        """Returns the mIoU of always predicting the most frequent class of the ground truth.

        With class frequencies f, that is max(f) / (number of classes that occur).
        """
        truths = self.counts_KK.sum(1)
        present = int((truths > 0).sum())
        return float(truths.max()) / self.pixels / present if present else math.nan

    def summary(self, class_names: Sequence[str]) -> dict[str, float]:
        """Returns mIoU, accuracy and the constant prediction's mIoU, and `iou/<class>` for each."""
        parts = {f"iou/{name}": v for name, v in zip(class_names, self.iou(), strict=True)}
        return {
            "miou": self.miou(),
            "accuracy": self.accuracy(),
            "constant_miou": self.constant_miou(),
        } | parts
