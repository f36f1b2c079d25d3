"""One sample of a split: what is stored of it, without what lies beyond it on the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from latent_store.components.boxes import BoxesReader
from latent_store.components.features import FeaturesReader
from latent_store.components.labels import LabelsReader
from latent_store.components.latents import LatentsReader
from latent_store.display import Sections, Shown
from latent_store.format.boxes import Boxes
from latent_store.format.samples import Sample
from latent_store.format.schema import LATENT_STRIDE


class Readers(Protocol):
    """What a sample asks of its split."""

    def latents(self, codec_id: str | None = None) -> LatentsReader: ...
    def labels(self) -> LabelsReader: ...
    def boxes(self) -> BoxesReader: ...
    def teacher(self, teacher_id: str | None = None) -> FeaturesReader: ...
    def decode(
        self,
        row: int | str,
        channels: Sequence[int] | None = None,
        codec: str | None = None,
        **first: Any,
    ) -> np.ndarray: ...


@dataclass(frozen=True, repr=False)
class StoredSample(Shown):
    """One sample; each method opens a component, so that loops do better with its reader.

    Attributes:
        split: Its split.
        row: Its row number.
        sample: What the plan says of it: id, size, view, places of its files.
    """

    split: Readers
    row: int
    sample: Sample

    @property
    def sample_id(self) -> str:
        """Its id."""
        return self.sample.sample_id

    def y_hat(self, channels: Sequence[int] | None = None, codec: str | None = None) -> np.ndarray:
        """Returns ŷ [C, h, w] at its own coded size; all channels or those numbered."""
        y_hat_CHW: np.ndarray = self.split.latents(codec).read([self.row], channels)[0]
        height, width = (side // LATENT_STRIDE for side in self.sample.coded_size)
        return y_hat_CHW[:, :height, :width]

    def labels(self) -> np.ndarray:
        """Returns the labels of the original picture, uint8 [H, W]."""
        labels_HW: np.ndarray = self.split.labels().read([self.row])[0]
        return labels_HW[: self.sample.height, : self.sample.width]

    def boxes(self) -> Boxes:
        """Returns the objects."""
        return self.split.boxes().read([self.row])[0]

    def features(self, teacher: str | None = None) -> np.ndarray:
        """Returns a teacher's features, float32 [D, h, w] at its own coded size."""
        reader = self.split.teacher(teacher)
        height, width = (side // reader.stride for side in self.sample.coded_size)
        features_CHW: np.ndarray = reader.read([self.row])[0]
        return features_CHW[:, :height, :width]

    def decode(
        self, channels: Sequence[int] | None = None, codec: str | None = None, **first: Any
    ) -> np.ndarray:
        """Returns the picture, uint8 RGB [H, W, 3], as `Split.decode` does."""
        return self.split.decode(self.row, channels, codec, **first)

    def _headline(self) -> str:
        size = f"{self.sample.height}x{self.sample.width}"
        return f"{self.sample_id!r}, row {self.row}, {size} (height x width), {self.sample.view}"

    def _sections(self) -> Sections:
        files = {"picture": self.sample.image_uri, "labels": self.sample.label_uri}
        files["boxes"] = self.sample.boxes_uri
        return {"Files": {name: uri for name, uri in files.items() if uri}}
