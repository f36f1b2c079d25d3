"""Detections: the boxes that a network finds in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SHOWN_SCORE = 0.5
"""Detections that are less sure are not drawn: dozens of them would hide the picture."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Boxes found in one picture, in any order.

    Attributes:
        boxes_N4: Float32, half-open edges `x1, y1, x2, y2` in pixels of the original picture.
        labels_N: Int64 class ids, 1 and up.
        scores_N: Float32, more is surer.

    Raises:
        ValueError: The arrays are of different lengths, or a score or an edge is not finite.
    """

    boxes_N4: np.ndarray
    labels_N: np.ndarray
    scores_N: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype, shape in (
            ("boxes_N4", np.float32, (-1, 4)),
            ("labels_N", np.int64, -1),
            ("scores_N", np.float32, -1),
        ):
            values = np.asarray(getattr(self, name), dtype).reshape(shape)
            object.__setattr__(self, name, values)
        if not len(self.boxes_N4) == len(self.labels_N) == len(self.scores_N):
            raise ValueError(
                f"{len(self.boxes_N4)} boxes have {len(self.labels_N)} labels, "
                f"{len(self.scores_N)} scores"
            )
        if not (np.isfinite(self.scores_N).all() and np.isfinite(self.boxes_N4).all()):
            raise ValueError("detections have boxes or scores that are not finite")

    def __len__(self) -> int:
        return len(self.boxes_N4)

    @classmethod
    def from_output(cls, output: Mapping[str, torch.Tensor]) -> Detections:
        """Returns one picture's detections out of a network's output for it in evaluation."""
        return cls(
            boxes_N4=output["boxes"].detach().float().cpu().numpy(),
            labels_N=output["labels"].detach().cpu().numpy(),
            scores_N=output["scores"].detach().float().cpu().numpy(),
        )
