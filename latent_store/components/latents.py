"""One codec's latents: ŷ, the ledger of bits, the gate's pooled inputs, both bitstreams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latent_store.catalogue import codecs
from latent_store.components.base import ComponentRecord
from latent_store.components.reader import ComponentReader, Coordinate, Rows, Variable, Windows
from latent_store.errors import MissingComponentError
from latent_store.format.layout import Numbers
from latent_store.format.plan import ShardPlan
from latent_store.format.schema import (
    CHANNEL_GROUP,
    HYPER_STRIDE,
    LATENT_STRIDE,
    ArraySpec,
    BytesSpec,
    CodecSpec,
    ComponentSpec,
)
from latent_store.storage.location import Location


def latents_spec(codec: CodecSpec, height: int, width: int, dtype: str = "int16") -> ComponentSpec:
    """One codec's latents, on a canvas of `height` and `width` pixels."""
    y_hat = y_hat_spec(codec, "channel", (height, width), dtype)
    names = ("channel_bits", "channel_mean", "channel_rms")
    shape, dims = (codec.channels,), ("channel",)
    hyper = codec.hyper_channels * (height // HYPER_STRIDE) * (width // HYPER_STRIDE)
    return ComponentSpec(
        key=LatentsReader.key_of(codec.codec_id),
        arrays=(
            y_hat,
            *(ArraySpec(name=name, dtype="float32", shape=shape, dims=dims) for name in names),
            ArraySpec(name="hyper_bits", dtype="float32"),
            ArraySpec(name="overhead_bits", dtype="float32"),
        ),
        streams=(stream_spec("y", int(np.prod(y_hat.shape))), stream_spec("z", hyper)),
        attrs={"codec": codec.to_attrs(), "latent_stride": LATENT_STRIDE},
        version=codec.latents_version,
        origin=codec.origin,
    )


def y_hat_spec(codec: CodecSpec, axis: str, size: tuple[int, int], dtype: str) -> ArraySpec:
    """ŷ of one sample, its channels along `axis`.

    Args:
        codec: The codec.
        axis: `channel` for natural order, `rank` for a ranking's.
        size: Height and width of the canvas, in pixels.
        dtype: `int8` or `int16`.
    """
    rows, columns = (side // LATENT_STRIDE for side in size)
    # High levels of zstd pay here: latents are written once and read for ever, and what a
    # reader decompresses costs the same at every level.
    return ArraySpec(
        name="y_hat",
        dtype=dtype,
        shape=(codec.channels, rows, columns),
        dims=(axis, "latent_y", "latent_x"),
        inner=(CHANNEL_GROUP, rows, columns),
        level=19,
        attrs=codec.y_hat_attrs,
    )


def stream_spec(name: str, symbols: int) -> BytesSpec:
    """A bitstream of so many symbols a sample."""
    # An escaped symbol costs at most 16 bits for the escape, and 4-bit nibbles for a count and
    # the digits of an int16: under 6 bytes. The flush costs at most 8.
    return BytesSpec(name=f"bitstream/{name}", capacity=6 * symbols + 64)


@dataclass(frozen=True, kw_only=True)
class CodedRecord(ComponentRecord):
    """The attributes of a component that is one codec's."""

    codec: CodecSpec

    @property
    def y_hat(self) -> Variable:
        """ŷ as lazy views show it."""
        factor = 1 / self.codec.y_hat_steps
        return Variable(array="y_hat", factor=None if factor == 1 else factor)


class LatentsReader(ComponentReader):
    """One codec's latents in natural channel order."""

    record_kind = CodedRecord
    record: CodedRecord
    kind = "latents"
    parts = ("codec",)
    remedy = "run encode-to-store with that codec"

    def __init__(
        self, location: Location, plan: ShardPlan, key: str, spec: CodecSpec | None = None
    ):
        self.spec = spec or codecs.choose_codec(location, self.ids_of(key)["codec"])
        super().__init__(location, plan, key)
        self.spec.require_identity(self.record.codec.identity, self.group.path)
        self._require_origin(self.spec.origin)

    @property
    def channels(self) -> int:
        """M."""
        return self.spec.channels

    @property
    def y_hat_bytes(self) -> int:
        """Bytes of one element of the ŷ that `read` returns."""
        stored = np.empty(0, self.array("y_hat").dtype)
        return self.record.codec.from_stored(stored).itemsize

    def read(
        self, rows: Rows, channels: Sequence[int] | None = None, window: Windows = None
    ) -> np.ndarray:
        """Reads ŷ.

        Args:
            rows: Row numbers in any order.
            channels: Channel numbers in any order; None for all.
            window: In latent positions.

        Returns:
            `[n, k, h, w]` on the canvas: integers, int8 or int16 as stored, or float32 where the
            codec has means (`CodecSpec.y_hat_steps`); 0 beyond a row's own coded size
            (`Split.coded_sizes`).

        Raises:
            MissingComponentError: There is no such channel, or a row is not usable.
        """
        wanted: Numbers = range(self.channels)
        if channels is not None:
            wanted = tuple(map(int, channels))
            if wrong := sorted({n for n in wanted if not 0 <= n < self.channels}):
                named = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
                raise MissingComponentError(
                    f"{self.key} has channels 0 to {self.channels - 1}, not {named}"
                )
        stored = self._read("y_hat", rows, (wanted,), window)
        return self.record.codec.from_stored(stored)

    def column(self, name: str, rows: Rows) -> np.ndarray:
        """Reads numbers of each row, float32: `channel_bits`, `channel_mean`, `channel_rms`
        `[n, M]`; `hyper_bits`, `overhead_bits` `[n]`. Bits are of the natural streams."""
        return self._column(name, rows)

    def column_part(self, name: str, rows: Rows) -> np.ndarray:
        """Reads what `column` does of the rows' own shards alone, and keeps none of it: for who
        passes over a split once, a shard at a time."""
        return self._read(name, rows)

    def y_string(self, row: int) -> bytes:
        """Returns the natural-order y string, stock CompressAI's `strings[0]`; crc32c checked."""
        return self._stream("bitstream/y", row)

    def z_string(self, row: int) -> bytes:
        """Returns the z string, stock CompressAI's `strings[1]`; crc32c checked."""
        return self._stream("bitstream/z", row)

    def stream_bytes(self, rows: Rows) -> dict[str, np.ndarray]:
        """Returns the real lengths, in bytes, of the y and z strings: int64 `[n]` each."""
        return {name: self._column(f"bitstream/{name}_length", rows) for name in ("y", "z")}

    def quality(self, rows: Rows) -> dict[str, np.ndarray]:
        """Returns PSNR in dB (nan where it was not measured) and bits per original pixel."""
        by_row = {row["row"]: row for row in self.index.to_pylist()}
        picked = [by_row[int(row)] for row in rows]
        return {
            name: np.array([np.nan if r.get(name) is None else r[name] for r in picked], float)
            for name in ("psnr", "bpp")
        }

    def variables(self) -> dict[str, Variable]:
        """Returns the arrays by their own names."""
        return {**super().variables(), "y_hat": self.record.y_hat}

    def coordinates(self) -> dict[str, Coordinate]:
        """Returns the channel numbers."""
        return {"channel": ("channel", np.arange(self.channels))}
