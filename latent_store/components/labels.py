"""Segmentation labels: one class id a pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latent_store.components.reader import ComponentReader, Rows, Window, Windows, name_classes
from latent_store.errors import DatasetError
from latent_store.format.plan import ShardPlan
from latent_store.format.schema import IGNORE_LABEL, SEGMENTATION, ArraySpec, ComponentSpec
from latent_store.storage.location import Location


def labels_spec(
    height: int,
    width: int,
    class_names: Sequence[str] = (),
    label_ids: str = "cityscapes-train-ids",
) -> ComponentSpec:
    """Segmentation labels, uint8 class ids at the coded size, 255 = ignore.

    Args:
        height: Of the canvas, in pixels.
        width: Of the canvas, in pixels.
        class_names: By class id; empty where they are not known.
        label_ids: Names the numbering.
    """
    segmentation = ArraySpec(
        name="segmentation",
        dtype="uint8",
        shape=(height, width),
        dims=("height", "width"),
        inner=(min(height, 256), min(width, 256)),
        level=9,
    )
    return ComponentSpec(
        key=LabelsReader.key_of(),
        arrays=(segmentation,),
        attrs={"ignore_label": IGNORE_LABEL, "label_ids": label_ids, **name_classes(class_names)},
        origin={"label_ids": label_ids},
    )


class LabelsReader(ComponentReader):
    """Segmentation labels on the canvas."""

    kind = "labels"
    remedy = "run encode-to-store on a data root that has masks"
    task = SEGMENTATION
    source = "label_uri"

    def __init__(self, location: Location, plan: ShardPlan, key: str):
        super().__init__(location, plan, key)
        self._seen: dict[int, tuple[int, Window | None]] = {}

    def read(self, rows: Rows, window: Windows = None) -> np.ndarray:
        """Reads class ids, uint8 `[n, H, W]`, 255 = ignore; `window` in pixels."""
        return self._read("segmentation", rows, windows=window)

    def require_classes(
        self,
        rows: Rows,
        labels_NHW: np.ndarray,
        windows: list[Window] | None,
        num_classes: int,
    ) -> None:
        """Refuses labels of classes that there are not, as `read` returned them.

        Whole images are looked at once: what is read again has the same checksums.

        Raises:
            DatasetError: Names the sample and the class.
        """
        for i, row in enumerate(map(int, rows)):
            window = None if windows is None else windows[i]
            seen = num_classes, window
            if self._seen.get(row) == seen:
                continue
            # 255 is ignored: as 0 it is the smallest.
            largest = int((labels_NHW[i] + np.uint8(1)).max(initial=0)) - 1
            if largest >= num_classes:
                name = self.plan.sample_at(row).sample_id
                raise DatasetError(
                    f"the labels of {name} contain train id {largest}, "
                    f"but {self.plan.dataset} has {num_classes} classes (0 to {num_classes - 1}, "
                    f"{IGNORE_LABEL} = ignore): encode the split again with that dataset's reader"
                )
            if window is None or window[:2] == (0, 0):
                self._seen[row] = seen
