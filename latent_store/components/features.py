"""A teacher's stem features, which students imitate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from latent_store.components.base import ComponentRecord
from latent_store.components.reader import ComponentReader, Rows, Variable, Windows
from latent_store.format.feature_encoding import UINT8, FeatureEncoding
from latent_store.format.samples import LARGEST_SIDE
from latent_store.format.schema import FEATURE_STRIDE, ArraySpec, ComponentSpec
from latent_store.storage.records import Count, Text

STEM = "stem"
"""The layers that students do without, unless they are asked to enter later."""


def teacher_spec(
    teacher_id: str,
    height: int,
    width: int,
    channels: int,
    encoding: FeatureEncoding | None = None,
    *,
    entry: str = STEM,
    stride: int = FEATURE_STRIDE,
) -> ComponentSpec:
    """A teacher's features: of its stem, at a quarter of the coded size, or of a later layer.

    Without an `encoding` they are `uint8`. Chunks hold 256×256 pixels, so that a crop reads a
    crop.
    """
    encoding = encoding or FeatureEncoding()
    rows, columns = height // stride, width // stride
    chunk = 64 * FEATURE_STRIDE // stride
    features = ArraySpec(
        name="features",
        dtype=encoding.dtype,
        shape=(channels, rows, columns),
        dims=("feature", "feature_y", "feature_x"),
        inner=(channels, min(rows, chunk), min(columns, chunk)),
    )
    scale = ArraySpec(name="feature_scale", dtype="float32", shape=(channels,), dims=("feature",))
    attrs = {"teacher_id": teacher_id, "feature_stride": stride, **encoding.to_attrs()}
    attrs |= {} if entry == STEM else {"entry": entry}
    return ComponentSpec(
        key=FeaturesReader.key_of(features_id(teacher_id, entry)),
        arrays=(features, scale) if encoding.dtype == UINT8 else (features,),
        attrs=attrs,
        origin={"teacher": teacher_id, "entry": entry, "encoding": str(encoding)},
    )


def features_id(teacher_id: str, entry: str = STEM) -> str:
    """Returns the id of a teacher's features after one of its layers: of its stem, its own."""
    return teacher_id if entry == STEM else f"{teacher_id}.{entry}"


def teacher_of(features_id: str) -> str:
    """Returns the id of the teacher whose features these are."""
    return features_id.partition(".")[0]


@dataclass(frozen=True, kw_only=True)
class FeaturesRecord(ComponentRecord):
    """The attributes of a teacher's features: how they were stored, and how far apart they
    lie in pixels."""

    feature_encoding: Text | None = None
    feature_keepbits: Count | None = None
    feature_stride: Annotated[int, Meta(ge=1, le=LARGEST_SIDE)] = FEATURE_STRIDE

    def encoding(self, dtype: str) -> FeatureEncoding:
        """Returns the encoding; a component that does not name it is what its dtype says."""
        return FeatureEncoding(name=self.feature_encoding or dtype, keepbits=self.feature_keepbits)


class FeaturesReader(ComponentReader):
    """One teacher's features after one layer; 0 beyond a row's coded size."""

    record_kind = FeaturesRecord
    record: FeaturesRecord
    kind = "teacher"
    parts = ("teacher",)
    remedy = "run encode-to-store `teacher_checkpoint=` with that teacher"

    @property
    def teacher_id(self) -> str:
        """The teacher's id."""
        return teacher_of(self.ids["teacher"])

    @property
    def stride(self) -> int:
        """Pixels per position: 4 after the stem."""
        return self.record.feature_stride

    @property
    def channels(self) -> int:
        """Feature channels, 64 for a ResNet stem."""
        return int(self.array("features").shape[1])

    @property
    def encoding(self) -> FeatureEncoding:
        """The encoding of the stored features."""
        return self.record.encoding(str(self.array("features").dtype))

    def read(self, rows: Rows, window: Windows = None) -> np.ndarray:
        """Reads dequantised features, float32 `[n, F, H/stride, W/stride]`; `window` in cells."""
        raw = self._read("features", rows, (range(self.channels),), window)
        if raw.dtype != np.uint8:
            return raw.astype(np.float32)
        scale_NF = self._column("feature_scale", rows)
        return np.multiply(raw, scale_NF[:, :, None, None], dtype=np.float32)

    def variables(self) -> dict[str, Variable]:
        """Returns the features, dequantised."""
        scale = "feature_scale" if self.encoding.dtype == UINT8 else None
        return {"features": Variable(array="features", scale=scale)}
