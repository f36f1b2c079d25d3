"""A teacher's stem features, which students imitate."""

from __future__ import annotations

import numpy as np

from latent_store.components.reader import ComponentReader, Rows, Variable, Window
from latent_store.format import layout
from latent_store.format.feature_encoding import UINT8, FeatureEncoding
from latent_store.format.schema import FEATURE_STRIDE, ArraySpec, ComponentSpec


def teacher_spec(
    teacher_id: str,
    height: int,
    width: int,
    channels: int,
    encoding: FeatureEncoding | None = None,
) -> ComponentSpec:
    """A teacher's stem features at a quarter of the coded size.

    Without an `encoding` they are `uint8`. Chunks hold 256×256 pixels, so that a crop reads a
    crop.
    """
    encoding = encoding or FeatureEncoding()
    rows, columns = height // FEATURE_STRIDE, width // FEATURE_STRIDE
    features = ArraySpec(
        name="features",
        dtype=encoding.dtype,
        shape=(channels, rows, columns),
        dims=("feature", "feature_y", "feature_x"),
        inner=(channels, min(rows, 64), min(columns, 64)),
    )
    scale = ArraySpec(name="feature_scale", dtype="float32", shape=(channels,), dims=("feature",))
    attrs = {"teacher_id": teacher_id, "feature_stride": FEATURE_STRIDE, **encoding.to_attrs()}
    return ComponentSpec(
        key=FeaturesReader.key_of(teacher_id),
        arrays=(features, scale) if encoding.dtype == UINT8 else (features,),
        attrs=attrs,
    )


class FeaturesReader(ComponentReader):
    """One teacher's stem features, on a quarter of the canvas; 0 beyond a row's coded size."""

    kind = "teacher"
    parts = ("teacher",)
    remedy = "run encode-to-store `teacher_checkpoint=` with that teacher"

    @property
    def teacher_id(self) -> str:
        """The teacher's id."""
        return self.ids["teacher"]

    @property
    def channels(self) -> int:
        """Feature channels, 64 for a ResNet stem."""
        return int(self.array("features").shape[1])

    @property
    def encoding(self) -> FeatureEncoding:
        """The encoding of the stored features."""
        return FeatureEncoding.from_attrs(self.attrs, str(self.array("features").dtype))

    def read(self, rows: Rows, window: Window | None = None) -> np.ndarray:
        """Reads dequantised features, float32 `[n, F, H/4, W/4]`; `window` in feature cells."""
        array = self.array("features")
        vertical, horizontal = layout.window_or_all(window, *array.shape[2:])
        raw = self._gather(rows, lambda part: array[part, :, vertical, horizontal])
        features = raw.astype(np.float32)
        if array.dtype == np.uint8:
            features *= self._column("feature_scale", rows)[:, :, None, None]
        return features

    def variables(self) -> dict[str, Variable]:
        """Returns the features, dequantised."""
        scale = "feature_scale" if self.encoding.dtype == UINT8 else None
        return {"features": Variable(array="features", scale=scale)}
