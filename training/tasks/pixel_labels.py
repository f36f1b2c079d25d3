"""A class for every pixel: the annotations of segmentation, and of all that labels can teach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from latent_store.components.labels import LabelsReader
from latent_store.components.reader import Window
from latent_store.errors import DatasetError
from latent_store.format.schema import IGNORE_LABEL
from latent_store.store import Split
from training.data.annotations import Annotations


@dataclass(frozen=True, kw_only=True)
class PixelLabels(Annotations):
    """Uint8 class ids [H, W], 255 where a pixel has none; of a batch "labels_BHW"."""

    component = "labels"
    crop = 512
    pixel_bytes = 1

    def open(self, split: Split) -> LabelsReader:
        """Opens the split's labels."""
        return split.labels()

    def read(self, reader: LabelsReader, row: int, window: Window | None = None) -> np.ndarray:
        """Reads the labels of a row on its canvas, or those of a window alone."""
        labels_HW = reader.read([row], window)[0]
        classes = labels_HW[labels_HW != IGNORE_LABEL]
        if classes.size and classes.max() >= self.num_classes:
            raise DatasetError(
                f"the labels of {reader.plan.by_row[row].sample_id} contain train id "
                f"{int(classes.max())}, but {reader.plan.dataset} has {self.num_classes} classes "
                f"(0 to {self.num_classes - 1}, {IGNORE_LABEL} = ignore): encode the split again "
                "with that dataset's reader"
            )
        return labels_HW

    def cut(self, whole: np.ndarray, window: Window) -> np.ndarray:
        """Returns the window of a map."""
        top, left, height, width = window
        return whole[top : top + height, left : left + width]

    def entries(self, cut: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Returns "labels_BHW"."""
        return {"labels_BHW": np.stack(cut)}

    def truths(self, batch: Mapping[str, Any]) -> list[torch.Tensor]:
        """Returns the maps."""
        return list(batch["labels_BHW"])

    def count(self, batch: Mapping[str, Any]) -> int:
        """Returns the labelled pixels."""
        return int((batch["labels_BHW"] != IGNORE_LABEL).sum())
