"""What was measured on one image: its bytes, and what the network got right, by task.

Everything that a score of the whole split is made of is kept image by image, so that images can be
drawn again with replacement later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.selection.rates import ImageRate
from training.tasks.detection_metrics import FALSE, IGNORED, TRUE, Matches


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """One image, whatever the task.

    Attributes:
        sample_id: As in the store's index.
        pixels: Original height × width.
        rate: Its bytes.
    """

    sample_id: str
    pixels: int
    rate: ImageRate

    @property
    def counted(self) -> int:
        """How much there was to get right: labelled pixels, or objects that count."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SegmentationResult(SampleResult):
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


@dataclass(frozen=True, kw_only=True)
class DetectionResult(SampleResult):
    """One image's part of AP50.

    Attributes:
        labels: Class of each detection; those of difficult objects are left out.
        scores: Of each, a float32 in its shortest decimal form.
        hits: 1 for each that is true, 0 for each that is false.
        objects: [K] objects of each class that count.
    """

    labels: tuple[int, ...]
    scores: tuple[float, ...]
    hits: tuple[int, ...]
    objects: tuple[int, ...]

    @property
    def counted(self) -> int:
        """Objects that count."""
        return sum(self.objects)

    @property
    def matches(self) -> Matches:
        """The same as the metric takes it."""
        return Matches(
            labels_N=np.array(self.labels, np.int64),
            scores_N=np.array(self.scores, np.float32),
            outcomes_N=np.where(np.array(self.hits, bool), TRUE, FALSE).astype(np.int8),
            objects_K=np.array(self.objects, np.int64),
        )

    @classmethod
    def of(
        cls, matches: Matches, *, sample_id: str, pixels: int, rate: ImageRate
    ) -> DetectionResult:
        """Returns the result of one image's matches."""
        counting = matches.outcomes_N != IGNORED
        return cls(
            sample_id=sample_id,
            pixels=pixels,
            rate=rate,
            labels=tuple(matches.labels_N[counting].tolist()),
            scores=tuple(float(str(score)) for score in matches.scores_N[counting]),
            hits=tuple((matches.outcomes_N[counting] == TRUE).astype(int).tolist()),
            objects=tuple(matches.objects_K.tolist()),
        )


_RESULTS = {"segmentation": SegmentationResult, "detection": DetectionResult}


def sample_result(task: str, data: Mapping[str, Any]) -> SampleResult:
    """Reads one image's result from JSON.

    Raises:
        KeyError, TypeError: It is of another shape.
    """
    kind = _RESULTS[task]
    own = {f.name for f in dataclasses.fields(kind)} - {
        f.name for f in dataclasses.fields(SampleResult)
    }
    values = {name: tuple(data[name]) for name in own}
    return kind(**{**data, **values, "rate": ImageRate(**data["rate"])})
