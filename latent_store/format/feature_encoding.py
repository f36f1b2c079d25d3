"""Encodings of a teacher's stored features: quantised, as they are, or with fewer mantissa bits.

Whatever loses precision happens before Zarr sees the numbers, so that metadata names core codecs
only and every reader gets values that it need not decode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numcodecs import BitRound

from latent_store.errors import CapacityError, LatentStoreError

UINT8, FLOAT16, BITROUND = "uint8", "float16", "float16-bitround"
ENCODINGS = (UINT8, FLOAT16, BITROUND)
KEEPBITS = 4
"""Mantissa bits of `float16-bitround`: a fifth smaller than `uint8` (MEASUREMENTS.md)."""
_FLOAT16_BITS = 10


@dataclass(frozen=True, kw_only=True)
class FeatureEncoding:
    """One way to store features; a component has one for all its rows.

    Attributes:
        name: `uint8`: `round(F / scale)` with one scale a sample and channel.
            `float16`: F, cast. `float16-bitround`: F rounded to `keepbits` mantissa bits
            first; the zeros behind them are what compresses.
        keepbits: For `float16-bitround`, 1 to 10.

    Raises:
        LatentStoreError: Another name, or bits that float16 has not.
    """

    name: str = UINT8
    keepbits: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ENCODINGS:
            raise LatentStoreError(
                f"features are stored as {', '.join(ENCODINGS)}, got {self.name!r}"
            )
        rounds = self.name == BITROUND
        if (self.keepbits is not None) != rounds:
            raise LatentStoreError(
                f"{BITROUND} and no other has keepbits, got {self.name}, {self.keepbits}"
            )
        if self.keepbits is not None and not 1 <= self.keepbits <= _FLOAT16_BITS:
            raise LatentStoreError(
                f"float16 keeps 1 to {_FLOAT16_BITS} mantissa bits, got {self.keepbits}"
            )

    def __str__(self) -> str:
        return self.name if self.keepbits is None else f"{self.name} ({self.keepbits} bits)"

    @classmethod
    def named(cls, name: str) -> FeatureEncoding:
        """Returns the encoding of that name with its usual precision."""
        return cls(name=name, keepbits=KEEPBITS if name == BITROUND else None)

    @classmethod
    def chosen(cls, name: str | None, *, signed: bool) -> FeatureEncoding:
        """Returns the encoding of that name, or the usual one of features with or without sign.

        Raises:
            CapacityError: It has no sign, and the features have one.
        """
        if name == UINT8 and signed:
            raise CapacityError(
                "features that may be negative, those of a layer without ReLU behind it, cannot "
                f"be stored as uint8: encode with `teacher_dtype={BITROUND}`"
            )
        return cls.named(name or (BITROUND if signed else UINT8))

    def to_attrs(self) -> dict[str, Any]:
        """Returns what a component's attributes say, which `FeaturesRecord` reads."""
        bits = {} if self.keepbits is None else {"feature_keepbits": self.keepbits}
        return {"feature_encoding": self.name, **bits}

    @property
    def dtype(self) -> str:
        """Of the stored array."""
        return UINT8 if self.name == UINT8 else FLOAT16

    def encode(self, features_CHW: np.ndarray) -> dict[str, np.ndarray]:
        """Encodes one sample.

        Args:
            features_CHW: Float32 `[F, h, w]`; for `uint8` not negative, as behind ReLU.

        Returns:
            `features` `[F, h, w]`, and for `uint8` `feature_scale` float32 `[F]`.

        Raises:
            CapacityError: A feature is beyond float16, which would store infinity, or negative
                where no sign is stored.
        """
        if self.name == UINT8:
            return _quantised(features_CHW)
        if self.keepbits is not None:
            # In float32 first: the cast is then exact, where rounding twice would add error.
            rounded = BitRound(self.keepbits).encode(features_CHW)
            features_CHW = rounded.view(features_CHW.dtype)
        highest = float(np.abs(features_CHW).max())
        if not highest <= np.finfo(np.float16).max:
            raise CapacityError(
                f"a feature of {highest:.6g} is beyond float16; encode with `teacher_dtype=uint8`"
            )
        return {"features": features_CHW.astype(np.float16)}


def _quantised(features_CHW: np.ndarray) -> dict[str, np.ndarray]:
    lowest, highest = float(features_CHW.min(initial=0)), float(features_CHW.max(initial=0))
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise CapacityError(
            f"features reach from {lowest} to {highest}: the teacher gave what is no number; train "
            "it anew, with a lower learning rate"
        )
    if lowest < 0:
        raise CapacityError(
            f"a feature of {lowest:.6g} has a sign, which uint8 has not; encode with "
            f"`teacher_dtype={BITROUND}`"
        )
    scale_C = features_CHW.max(axis=(1, 2)) / 255
    # A dead channel is all zeros at any scale; 1 keeps the division defined.
    scale_C = np.where(scale_C > 0, scale_C, 1).astype(np.float32)
    quantised = np.rint(features_CHW / scale_C[:, None, None]).astype(np.uint8)
    return {"features": quantised, "feature_scale": scale_C}
