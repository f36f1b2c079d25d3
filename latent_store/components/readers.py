"""Reads the components of a split: ŷ with channel selection, streams, labels, features.

Opening a component checks, with one table and one listing, that every object is there with the
length its receipt gave, because a missing object would read as zeros in every Zarr reader. Tables
and metadata are compared with the digests in the component's sealed attributes, and what is read
of an object with its receipt (`latent_store.shards.checked_store`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import zarr

from latent_store.catalogue.rankings import Ranking
from latent_store.components import base as component
from latent_store.errors import (
    IncompleteComponentError,
    IntegrityError,
    MissingComponentError,
    RankingError,
)
from latent_store.format import layout
from latent_store.format.boxes import Boxes
from latent_store.format.feature_encoding import FeatureEncoding
from latent_store.format.schema import CodecSpec
from latent_store.shards import index
from latent_store.shards.checked_store import CheckedStore
from latent_store.shards.receipts import OK, crc32c
from latent_store.storage import groups
from latent_store.storage.location import Location

if TYPE_CHECKING:
    from latent_store.store import Split

Window = tuple[int, int, int, int]
"""`(top, left, height, width)`."""


class ComponentReader:
    """Opens one component and knows which of its rows are usable.

    Raises:
        MissingComponentError: The component does not exist; `remedy` says how to make it.
        IncompleteComponentError: Its job has not finished.
        IntegrityError: An object is missing or has another length than its receipt says.
    """

    def __init__(self, split: Split, key: str, remedy: str):
        self.split = split
        self.key = key
        self._location = location = split.store.location
        try:
            self.group = component.open_component(location, split.plan.name, key)
        except MissingComponentError as error:
            raise MissingComponentError(f"{error}; {remedy}") from None
        if not self.group.attrs.get("complete"):
            raise IncompleteComponentError(
                f"{split.plan.name}/{key} in {location.url} is incomplete; {remedy} (finished "
                "shards are kept), or `latent-store finalize` if its job ran detached"
            )
        component.require_intact(location, self.group)
        name = index.part_name(key)
        self.index = component.read_table(location, self.group, split.plan.name, name)
        objects = component.read_table(location, self.group, split.plan.name, f"{name}.objects")
        self._check_presence(location, objects)
        status = self.index["status"].to_pylist()
        rows = np.asarray(self.index["row"].to_pylist(), dtype=np.int64)
        split.require_samples(rows.tolist(), self.index["sample_id"].to_pylist(), self.key)
        self.rows = rows[[s == OK for s in status]]
        self._objects = CheckedStore(
            location.zarr_store(read_only=True), objects, groups.repair_hint(location)
        )
        self._arrays: dict[str, zarr.Array] = {}
        self._columns: dict[str, np.ndarray] = {}

    def _check_presence(self, location: Location, objects: pa.Table) -> None:
        found = location.sizes(f"{self.split.plan.name}/{self.key}")
        for key, length in zip(
            objects["key"].to_pylist(), objects["length"].to_pylist(), strict=True
        ):
            size = found.get(key, index.ABSENT)
            if size != length:
                what = "is missing" if size < 0 else f"has {size} bytes, its receipt says {length}"
                raise IntegrityError(
                    f"{location.url}: {key} {what}; see `latent-store verify {location.url}`, then "
                    "run its job again"
                )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of labels or boxes, by class id; empty in stores that were written without them."""
        return tuple(self.group.attrs.get("class_names", ()))

    def array(self, name: str) -> zarr.Array:
        """Returns one array of the component, whose reads are checked against its receipts.

        Raises:
            IntegrityError: Its metadata is missing or was altered.
        """
        if name not in self._arrays:
            opened = component.open_array(self._location, self.group, name, self._objects)
            self._arrays[name] = opened
        return self._arrays[name]

    def _gather(
        self, rows: Sequence[int] | np.ndarray, read: Callable[[slice], np.ndarray]
    ) -> np.ndarray:
        self._require_rows(rows)
        with groups.reading(self._location, self.key):
            parts = [read(slice(start, stop)) for start, stop in layout.runs(rows)]
            return np.concatenate(parts) if parts else read(slice(0, 0))

    def _require_rows(self, rows: Sequence[int] | np.ndarray) -> None:
        missing = np.setdiff1d(np.asarray(rows, dtype=np.int64), self.rows)
        if missing.size:
            raise MissingComponentError(
                f"row {int(missing[0])} of {self.split.plan.name} is not usable in {self.key} "
                "(void, failed or absent); take rows from .rows or common_rows()"
            )

    def _column(self, name: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        # Columns hold a few numbers a row: one read of the whole column beats many small ones.
        self._require_rows(rows)
        if name not in self._columns:
            with groups.reading(self._location, f"{self.key}/{name}"):
                self._columns[name] = self.array(name)[...]
        return self._columns[name][np.asarray(rows, dtype=np.int64)]

    def _stream(self, name: str, row: int, end: int | None = None) -> bytes:
        """Reads a row's byte string, or its first `end` bytes; only the whole has a checksum."""
        self._require_rows([row])
        offset = int(self._column(f"{name}_offset", [row])[0])
        length = int(self._column(f"{name}_length", [row])[0])
        stop = length if end is None else min(end, length)
        shard = layout.shard_of(row, self.split.plan.samples_per_shard)
        with groups.reading(self._location, f"{self.key}/{name}_data"):
            data = self.array(f"{name}_data")[shard, offset : offset + stop].tobytes()
        if stop == length:
            self._check_crc(data, int(self._column(f"{name}_crc32c", [row])[0]), name, row)
        return data

    def _check_crc(self, data: bytes, expected: int, name: str, row: int) -> None:
        if crc32c(data) != expected:
            raise IntegrityError(
                f"the stream {name} of row {row} in {self.key} does not have its crc32c: the bytes "
                "were altered; see `latent-store verify`, then run its job again"
            )


class LatentsReader(ComponentReader):
    """One codec's latents in natural channel order."""

    def __init__(self, split: Split, spec: CodecSpec):
        super().__init__(split, f"latents/{spec.codec_id}", "run encode-to-store with that codec")
        stored = CodecSpec.from_attrs(self.group.attrs["codec"])
        spec.require_identity(stored.identity, f"{split.plan.name}/{self.key}")
        self.spec = spec

    @property
    def channels(self) -> int:
        """M."""
        return self.spec.channels

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Height and width of ŷ's canvas."""
        height, width = self.array("y_hat").shape[2:]
        return height, width

    def read(
        self, rows: Sequence[int] | np.ndarray, channels: Sequence[int] | None = None
    ) -> np.ndarray:
        """Reads ŷ.

        Args:
            rows: Row numbers in any order; consecutive ones are read as slices.
            channels: Channel numbers in any order; None for all.

        Returns:
            Integers `[n, k, h, w]` on the canvas, int8 or int16 as stored; 0 beyond a row's own
            coded size (`Split.coded_sizes`).
        """
        y_hat = self.array("y_hat")
        if channels is None:
            return self._gather(rows, lambda part: y_hat[part])
        wanted = np.asarray(channels, dtype=np.int64)
        return self._gather(rows, lambda part: y_hat.oindex[part, wanted])

    def column(self, name: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Reads numbers of each row, float32: `channel_bits`, `channel_mean`, `channel_rms`
        `[n, M]`; `hyper_bits`, `overhead_bits` `[n]`. Bits are of the natural streams."""
        return self._column(name, rows)

    def y_string(self, row: int) -> bytes:
        """Returns the natural-order y string, stock CompressAI's `strings[0]`; crc32c checked."""
        return self._stream("bitstream/y", row)

    def z_string(self, row: int) -> bytes:
        """Returns the z string, stock CompressAI's `strings[1]`; crc32c checked."""
        return self._stream("bitstream/z", row)

    def stream_bytes(self, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Returns the real lengths, in bytes, of the y and z strings: int64 `[n]` each."""
        return {name: self._column(f"bitstream/{name}_length", rows) for name in ("y", "z")}

    def quality(self, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Returns PSNR in dB (nan where it was not measured) and bits per original pixel."""
        by_row = {row["row"]: row for row in self.index.to_pylist()}
        picked = [by_row[int(row)] for row in rows]
        return {
            name: np.array([np.nan if r.get(name) is None else r[name] for r in picked], float)
            for name in ("psnr", "bpp")
        }


class RankedReader(ComponentReader):
    """One ranking's copy: ŷ in importance order, and the scalable stream."""

    def __init__(self, split: Split, spec: CodecSpec, ranking: Ranking):
        remedy = f"run reorder-latents --ranking {ranking.ranking_id} on {split.plan.name}"
        super().__init__(split, f"ranked/{spec.codec_id}/{ranking.ranking_id}", remedy)
        if tuple(self.group.attrs["order"]) != ranking.order:
            raise RankingError(
                f"{split.plan.name}/{self.key} holds channels in another order than ranking "
                f"{ranking.ranking_id} has now; {remedy} --overwrite"
            )
        self.spec = spec
        self.ranking = ranking
        self.cuts = tuple(int(n) for n in self.group.attrs["cuts"])

    def read(self, rows: Sequence[int] | np.ndarray, keep: int | None = None) -> np.ndarray:
        """Reads the `keep` most important channels, and fetches only the chunks that hold them.

        Returns:
            Integers `[n, keep, h, w]` in ranked order, on the canvas, as of the latents.

        Raises:
            RankingError: `keep` is out of range.
        """
        count = len(self.ranking.channels(len(self.ranking.order) if keep is None else keep))
        y_hat = self.array("y_hat")
        return self._gather(rows, lambda part: y_hat[part, :count])

    def cut_bytes(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the bytes of the scalable stream up to each cut, int64 `[n, cuts]`."""
        return self._column("bitstream/cut_bytes", rows)

    def cut_checksums(self, row: int) -> dict[str, np.ndarray]:
        """Returns the crc32c of the `symbols` and of the `indexes` up to each cut, uint32."""
        return {
            name: self._column(f"bitstream/cut_{name}_crc32c", [row])[0]
            for name in ("symbols", "indexes")
        }

    def scalable_string(self, row: int, keep: int) -> bytes:
        """Returns the prefix of the scalable stream that holds `keep` channels; crc32c checked.

        Raises:
            RankingError: `keep` is no cut of this copy.
        """
        cut = self._cut(keep)
        prefix = self._stream("bitstream/scalable", row, int(self.cut_bytes([row])[0, cut]))
        crc = int(self._column("bitstream/cut_bytes_crc32c", [row])[0, cut])
        self._check_crc(prefix, crc, "bitstream/scalable", row)
        return prefix

    def check_symbols(self, row: int, y_hat_KHW: np.ndarray, indexes_KHW: np.ndarray) -> None:
        """Refuses decoded symbols, or scale indexes, that are not those that were encoded.

        Args:
            row: Row number.
            y_hat_KHW: Decoded channels in ranked order; K is one of the cuts.
            indexes_KHW: Their scale indexes, uint8.

        Raises:
            IntegrityError: Their crc32c differs: h_s ran differently here, or bytes were altered.
        """
        cut = self._cut(len(y_hat_KHW))
        for name, values, dtype in (
            ("indexes", indexes_KHW, np.uint8),
            ("symbols", y_hat_KHW, np.int32),
        ):
            found = crc32c(np.ascontiguousarray(values, dtype=dtype).tobytes())
            if found != int(self._column(f"bitstream/cut_{name}_crc32c", [row])[0, cut]):
                raise IntegrityError(
                    f"row {row} of {self.key}: the {name} of the first {len(values)} channels are "
                    "not those that were encoded; check the store with `latent-store verify`"
                )

    def _cut(self, keep: int) -> int:
        if keep not in self.cuts:
            raise RankingError(
                f"the scalable stream of {self.key} has cuts at {list(self.cuts)}, not at {keep}; "
                f"add it with channel-frequency --keep and reorder-latents --overwrite"
            )
        return self.cuts.index(keep)


class LabelsReader(ComponentReader):
    """Segmentation labels on the canvas."""

    def __init__(self, split: Split):
        super().__init__(split, "labels", "run encode-to-store, which writes labels first")

    def read(self, rows: Sequence[int] | np.ndarray, window: Window | None = None) -> np.ndarray:
        """Reads class ids, uint8 `[n, H, W]`, 255 = ignore; `window` in pixels."""
        array = self.array("segmentation")
        vertical, horizontal = layout.window_or_all(window, *array.shape[1:])
        return self._gather(rows, lambda part: array[part, vertical, horizontal])


class BoxesReader(ComponentReader):
    """The objects of each picture; rows that the detection task's list lacks are not usable."""

    def __init__(self, split: Split):
        super().__init__(split, "boxes", "run encode-to-store with --voc_task detection")

    @property
    def max_boxes(self) -> int:
        """Objects that a row has room for."""
        return int(self.array("boxes").shape[1])

    def read(self, rows: Sequence[int] | np.ndarray) -> list[Boxes]:
        """Reads the objects of rows; of a stored view as it shows them, that is, mirrored."""
        names = ("boxes", "box_label", "box_difficult", "box_truncated")
        columns = [self._column(name, rows) for name in names]
        counts = self._column("box_count", rows)
        return [
            Boxes(
                boxes_N4=edges[:count],
                labels_N=labels[:count],
                difficult_N=difficult[:count],
                truncated_N=truncated[:count],
            )
            for count, edges, labels, difficult, truncated in zip(counts, *columns, strict=True)
        ]

    def counts(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns how many objects rows have, int32 `[n]`."""
        return self._column("box_count", rows)


class FeaturesReader(ComponentReader):
    """One teacher's stem features, on a quarter of the canvas; 0 beyond a row's coded size."""

    def __init__(self, split: Split, teacher_id: str):
        remedy = "run encode-to-store --teacher_checkpoint with that teacher"
        super().__init__(split, f"teacher/{teacher_id}", remedy)
        self.teacher_id = teacher_id

    @property
    def channels(self) -> int:
        """Feature channels, 64 for a ResNet stem."""
        return int(self.array("features").shape[1])

    @property
    def encoding(self) -> FeatureEncoding:
        """The encoding of the stored features."""
        return FeatureEncoding.from_attrs(self.group.attrs, str(self.array("features").dtype))

    def read(self, rows: Sequence[int] | np.ndarray, window: Window | None = None) -> np.ndarray:
        """Reads dequantised features, float32 `[n, F, H/4, W/4]`; `window` in feature cells."""
        array = self.array("features")
        vertical, horizontal = layout.window_or_all(window, *array.shape[2:])
        raw = self._gather(rows, lambda part: array[part, :, vertical, horizontal])
        features = raw.astype(np.float32)
        if array.dtype == np.uint8:
            features *= self._column("feature_scale", rows)[:, :, None, None]
        return features
