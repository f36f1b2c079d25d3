"""Segmentation labels: one class id a pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latent_store.components.reader import ComponentReader, Rows, Windows, name_classes
from latent_store.format.schema import IGNORE_LABEL, SEGMENTATION, ArraySpec, ComponentSpec


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
    remedy = "run encode-to-store, which writes labels first"
    task = SEGMENTATION
    source = "label_uri"

    def read(self, rows: Rows, window: Windows = None) -> np.ndarray:
        """Reads class ids, uint8 `[n, H, W]`, 255 = ignore; `window` in pixels."""
        return self._read("segmentation", rows, windows=window)
