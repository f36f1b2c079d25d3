"""Annotations of pictures: a class for every pixel, or the objects that are in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latent_store.batches.source import Items, Rows
from latent_store.components.boxes import BoxesReader
from latent_store.components.labels import LabelsReader
from latent_store.components.reader import Window
from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from latent_store.format.schema import IGNORE_LABEL, PAD_MULTIPLE
from latent_store.store import Split
from training.data.source import Annotations

if TYPE_CHECKING:
    import torch

MIN_LEFT = 0.4
"""Share of an object's area that a crop must leave, or it is no target.

Of a smaller piece nobody could tell what it belongs to or how far that reaches, and learning it
would make boxes of fragments; but to call a person without legs background would be as wrong.
Between 0.3 and 0.5 is usual."""

Target = dict[str, np.ndarray]
"""Of one image: "boxes" float32 [n, 4], "labels" int64 [n], "difficult" bool [n]."""


@dataclass(frozen=True, kw_only=True)
class PixelLabels(Annotations):
    """Uint8 class ids [H, W], 255 where a pixel has none; of a batch "labels_BHW"."""

    component = "labels"
    crop = 512
    pixel_bytes = 1

    def open(self, split: Split) -> LabelsReader:
        """Opens the split's labels."""
        return split.labels()

    def read(
        self, reader: LabelsReader, rows: Rows, windows: list[Window] | None = None
    ) -> np.ndarray:
        """Reads the labels of rows on the canvas, or those of a window each, uint8 [n, h, w]."""
        labels_NHW = reader.read(rows, windows)
        reader.require_classes(rows, labels_NHW, windows, self.num_classes)
        return labels_NHW

    def cut(self, whole: np.ndarray, window: Window) -> np.ndarray:
        """Returns the window of a map."""
        top, left, height, width = window
        return whole[top : top + height, left : left + width]

    def entries(self, cut: Items) -> dict[str, np.ndarray]:
        """Returns "labels_BHW"."""
        return {"labels_BHW": np.asarray(cut)}

    def truths(self, batch: Mapping[str, Any]) -> list[torch.Tensor]:
        """Returns the maps."""
        return list(batch["labels_BHW"])

    def count(self, batch: Mapping[str, Any]) -> int:
        """Returns the labelled pixels."""
        return int((batch["labels_BHW"] != IGNORE_LABEL).sum())


@dataclass(frozen=True, kw_only=True)
class ObjectBoxes(Annotations):
    """Boxes with classes from 1; of a batch "targets", one `Target` an image.

    Whole images are learned where nothing else is asked for: a crop cuts objects, and changes what
    sizes there are. Smaller ones than the pyramid's coarsest cell cannot be.
    """

    component = "boxes"
    least_crop = PAD_MULTIPLE

    def open(self, split: Split) -> BoxesReader:
        """Opens the split's boxes."""
        return split.boxes()

    def read(
        self, reader: BoxesReader, rows: Rows, windows: list[Window] | None = None
    ) -> list[Boxes] | list[Target]:
        """Reads the objects of rows, or those that a window each leaves."""
        each = reader.read(rows)
        for row, boxes in zip(rows, each, strict=True):
            wrong_N = (boxes.labels_N < 1) | (boxes.labels_N >= self.num_classes)
            if wrong_N.any():
                raise DatasetError(
                    f"an object of {reader.plan.sample_at(row).sample_id} has class "
                    f"{int(boxes.labels_N[wrong_N][0])}, but {reader.plan.dataset} has classes 1 "
                    f"to {self.num_classes - 1}: encode the split again with that dataset's reader"
                )
        if windows is None:
            return each
        return [self.cut(boxes, window) for boxes, window in zip(each, windows, strict=True)]

    def cut(self, whole: Boxes, window: Window) -> Target:
        """Returns the objects of a crop, in pixels from its top left corner.

        Boxes are clipped to the crop; those of which less than `MIN_LEFT` is left are dropped.
        """
        top, left, height, width = window
        moved_N4: np.ndarray = whole.boxes_N4 - np.array(2 * [left, top], np.float32)
        clipped_N4: np.ndarray = np.clip(moved_N4, 0, np.array(2 * [width, height], np.float32))
        area_N, left_N = _area(moved_N4), _area(clipped_N4)
        kept_N = (left_N > 0) & (left_N >= MIN_LEFT * area_N)
        return {
            "boxes": clipped_N4[kept_N],
            "labels": whole.labels_N[kept_N],
            "difficult": whole.difficult_N[kept_N],
        }

    def entries(self, cut: Items) -> dict[str, list[Target]]:
        """Returns "targets"."""
        return {"targets": list(cut)}

    def truths(self, batch: Mapping[str, Any]) -> list[Boxes]:
        """Returns the objects."""
        return [_boxes(target) for target in batch["targets"]]

    def count(self, batch: Mapping[str, Any]) -> int:
        """Returns the objects that are not difficult."""
        return sum(int((~target["difficult"]).sum()) for target in batch["targets"])


def _area(boxes_N4: np.ndarray) -> np.ndarray:
    return (boxes_N4[:, 2:] - boxes_N4[:, :2]).prod(1)


def _boxes(target: Mapping[str, torch.Tensor]) -> Boxes:
    labels_N, difficult_N = target["labels"].cpu().numpy(), target["difficult"].cpu().numpy()
    return Boxes(
        boxes_N4=target["boxes"].cpu().numpy(),
        labels_N=labels_N,
        difficult_N=difficult_N,
        truncated_N=difficult_N & False,  # no score asks for it
    )
