"""The objects of one picture: boxes, labels, and what the PASCAL VOC devkit marks of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The objects of one picture, in its reader's order.

    Edges are half-open pixel edges counted from 0, so that `x2 - x1` is the width: the devkit's
    inclusive `(xmin, ymin, xmax, ymax)`, counted from 1, is `(xmin - 1, ymin - 1, xmax, ymax)`.

    Attributes:
        boxes_N4: Float32, `x1, y1, x2, y2` in pixels of the original picture.
        labels_N: Int64 class ids; 0 is the background, which no object has.
        difficult_N: Bool; those that the devkit leaves out of the score.
        truncated_N: Bool; those that reach beyond the picture.

    Raises:
        ValueError: The arrays are of different lengths.
    """

    boxes_N4: np.ndarray
    labels_N: np.ndarray
    difficult_N: np.ndarray
    truncated_N: np.ndarray

    def __post_init__(self) -> None:
        boxes_N4 = np.asarray(self.boxes_N4, np.float32).reshape(-1, 4)
        object.__setattr__(self, "boxes_N4", boxes_N4)
        for name, dtype in (("labels_N", np.int64), ("difficult_N", bool), ("truncated_N", bool)):
            values = np.asarray(getattr(self, name), dtype).reshape(-1)
            if len(values) != len(boxes_N4):
                raise ValueError(f"{len(boxes_N4)} boxes have {len(values)} {name}")
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.boxes_N4)

    def within(self, window: tuple[int, int, int, int]) -> Boxes:
        """Returns what a window (top, left, height, width) has of the objects, from its corner on.

        Boxes are clipped; those of which nothing is left are dropped.
        """
        top, left, height, width = window
        moved_N4: np.ndarray = self.boxes_N4 - np.array(2 * [left, top], np.float32)
        clipped_N4: np.ndarray = np.clip(moved_N4, 0, np.array(2 * [width, height], np.float32))
        kept_N = (clipped_N4[:, 2:] > clipped_N4[:, :2]).all(axis=1)
        return Boxes(
            boxes_N4=clipped_N4[kept_N],
            labels_N=self.labels_N[kept_N],
            difficult_N=self.difficult_N[kept_N],
            truncated_N=self.truncated_N[kept_N],
        )

    def flipped(self, width: int) -> Boxes:
        """Returns the objects of the picture mirrored left to right; `width` in pixels."""
        x1, y1, x2, y2 = self.boxes_N4.T
        mirrored_N4 = np.stack([width - x2, y1, width - x1, y2], axis=1)
        return Boxes(
            boxes_N4=mirrored_N4,
            labels_N=self.labels_N,
            difficult_N=self.difficult_N,
            truncated_N=self.truncated_N,
        )
