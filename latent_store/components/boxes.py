"""The objects of each picture: edges, classes, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latent_store.components.reader import ComponentReader, Rows, name_classes
from latent_store.format.boxes import Boxes
from latent_store.format.schema import DETECTION, ArraySpec, ComponentSpec

BOX_EDGES = ("x1", "y1", "x2", "y2")
"""The last axis of stored boxes: half-open pixel edges of the original picture, from 0."""
BOX_MULTIPLE = 8
"""Room for boxes comes in such steps: a dataset may gain a few without a wider array."""


def boxes_spec(max_boxes: int, class_names: Sequence[str]) -> ComponentSpec:
    """The objects of each picture, float32 edges and uint8 class ids, padded with 0.

    Args:
        max_boxes: Objects that a row has room for.
        class_names: By class id; 0 is the background, which no object has.
    """
    names = ("box_label", "box_difficult", "box_truncated")
    flags = (ArraySpec(name=n, dtype="uint8", shape=(max_boxes,), dims=("box",)) for n in names)
    arrays = (
        ArraySpec(name="boxes", dtype="float32", shape=(max_boxes, 4), dims=("box", "edge")),
        *flags,
        ArraySpec(name="box_count", dtype="int32"),
    )
    attrs = {"edges": list(BOX_EDGES), **name_classes(class_names)}
    return ComponentSpec(key=BoxesReader.key_of(), arrays=arrays, attrs=attrs)


class BoxesReader(ComponentReader):
    """The objects of each picture; rows that the detection task's list lacks are not usable."""

    kind = "boxes"
    remedy = "run encode-to-store with `voc_task=detection`, or on a data root that has boxes"
    task = DETECTION
    source = "boxes_uri"

    @property
    def max_boxes(self) -> int:
        """Objects that a row has room for."""
        return int(self.array("boxes").shape[1])

    def read(self, rows: Rows) -> list[Boxes]:
        """Reads the objects of rows; of a stored view as it shows them, that is, mirrored."""
        names = ("boxes", "box_label", "box_difficult", "box_truncated")
        columns = [self._column(name, rows) for name in names]
        return [
            Boxes(
                boxes_N4=edges[:count],
                labels_N=labels[:count],
                difficult_N=difficult[:count],
                truncated_N=truncated[:count],
            )
            for count, edges, labels, difficult, truncated in zip(
                self.counts(rows), *columns, strict=True
            )
        ]

    def counts(self, rows: Rows) -> np.ndarray:
        """Returns how many objects rows have, int32 `[n]`."""
        return self._column("box_count", rows)
