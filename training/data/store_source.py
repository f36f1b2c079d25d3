"""The source that reads a store: all that a network of one kind needs of each image.

A source is described by plain values and opens the store when it is first used, so that it can be
sent to another process.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from latent_store.batches.columns import FEATURES, Y_HAT, Columns, in_cells
from latent_store.batches.source import Arrays, Items, Rows
from latent_store.components.features import FeaturesReader
from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import RankedReader
from latent_store.components.reader import ComponentReader, Window
from latent_store.errors import DatasetError
from latent_store.format.schema import LATENT_STRIDE
from latent_store.storage.location import Location
from latent_store.store import Split
from training.data.source import Annotations, Source, held_out


@dataclass(frozen=True, kw_only=True)
class StoredChannels:
    """The channels that are read of one of the store's two copies of latents.

    Attributes:
        ranking_id: The ranked copy is read; None for the one in natural channel order.
        keep: How many channels of the ranked copy; None for all.
        channels: Numbers of the channels of the natural copy; None for all.
        pooled: "mean" or "rms" where a gate sees these of every channel; None without a gate.
    """

    ranking_id: str | None = None
    keep: int | None = None
    channels: tuple[int, ...] | None = None
    pooled: str | None = None


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """Names what is read.

    Attributes:
        split: "dataset/split".
        annotations: What is learned of each image.
        domain: "latent", or "pixel" for decoded images.
        codec_id: Whose latents.
        stored: Which of their channels.
        teacher_id: Whose features; None for none.
        hold_out: Samples whose ids begin with one of these are left out.
        held: Whether these are read instead, and the others left out.
        views: Whether stored views (flips) count as samples.
        max_samples: Only the first so many pictures, and with `views` theirs; 0 for all.
        cache_mb: Memory for images that need not be read or decoded twice, in each worker process.
    """

    url: str
    split: str
    annotations: Annotations
    domain: str
    codec_id: str
    stored: StoredChannels = field(default_factory=StoredChannels)
    teacher_id: str | None = None
    hold_out: tuple[str, ...] = ()
    held: bool = False
    views: bool = False
    max_samples: int = 0
    cache_mb: int = 1024


class StoreSource(Source):
    """A split of a store: latents, or the images that they decode to."""

    in_runs = True

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self.name, self.annotations = spec.split, spec.annotations
        self._lock = threading.Lock()
        self._cache: dict[tuple[str, int], np.ndarray] = {}
        self._cached_bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreSource, (self.spec,)

    @cached_property
    def columns(self) -> Columns:
        """What is read of the split besides annotations, opened at first use."""
        stored = self.spec.stored
        pooled = () if stored.pooled is None else (f"channel_{stored.pooled}",)
        features = () if self.spec.teacher_id is None else (FEATURES,)
        return Columns(
            Location(self.spec.url),
            self.spec.split,
            (Y_HAT, "channel_bits", *features, *pooled),
            codec=self.spec.codec_id,
            channels=stored.channels if stored.ranking_id is None else None,
            ranked=stored.ranking_id,
            keep=None if stored.ranking_id is None else stored.keep,
            teacher=self.spec.teacher_id,
        )

    @property
    def split(self) -> Split:
        """The split."""
        return self.columns.split

    @property
    def latents(self) -> LatentsReader:
        """The natural-order component: its ledger and pooled values, and ŷ if not ranked."""
        return self.columns.latents

    @property
    def ranked(self) -> RankedReader | None:
        """The ranked copy, for networks that read it."""
        return self.columns.ranked

    @property
    def teacher(self) -> FeaturesReader | None:
        """The teacher's features."""
        return None if self.spec.teacher_id is None else self.columns.features

    @cached_property
    def learned(self) -> ComponentReader:
        """The reader of the annotations."""
        return self.annotations.open(self.split)

    @cached_property
    def rows(self) -> np.ndarray:  # type: ignore[override]  # read when it is first asked for
        """Rows that every component has, ascending.

        Raises:
            DatasetError: If there is none, or nothing to hold out.
        """
        names = ("learned", "latents", "ranked", "teacher")
        _ = self.split
        # Side by side: from a distance each of them waits for half a dozen answers in turn.
        with ThreadPoolExecutor(len(names)) as pool:
            wanted = list(pool.map(functools.partial(getattr, self), names))
        readers: list[ComponentReader] = [reader for reader in wanted if reader is not None]
        rows = self.split.common_rows(*readers, views=self.spec.views)
        keys = ", ".join(reader.key for reader in readers)
        place = f"{self.spec.split} of {self.split.store.url}"
        if not len(rows):
            raise DatasetError(
                f"{place} has no sample with {keys}: see `latent-store inspect` for what failed, "
                "and encode some"
            )
        held = held_out(self.split.sample_ids(rows), self.spec.hold_out, self.spec.split)
        rows = rows[np.array(held) == self.spec.held]
        sources = self.split.source_rows(rows)
        if self.spec.views and np.array_equal(sources, rows):
            raise DatasetError(
                f"{place} has no stored view with {keys}: write them with encode-to-store --views "
                "(and reorder-latents, for a ranked copy), or leave --views out"
            )
        first = np.unique(sources)[: self.spec.max_samples or None]
        return rows[np.isin(sources, first)]

    def sample_ids(self, rows: Rows) -> list[str]:
        return self.columns.sample_ids(rows)

    def sizes(self, rows: Rows) -> np.ndarray:
        return self.columns.sizes(rows)

    def coded_sizes(self, rows: Rows) -> list[tuple[int, int]]:
        return self.columns.coded_sizes(rows)

    def read_features(self, rows: Rows, windows: list[Window] | None = None) -> np.ndarray:
        """Returns the teacher's features, float32 [n, D, h, w]; windows, one a row, are in cells.

        Raises:
            DatasetError: If one of them is not finite.
        """
        return np.asarray(self.columns.read(FEATURES, rows, windows))

    def cut(self, rows: Sequence[int], windows: list[Window]) -> Arrays:
        """Reads what a network needs of a window of each row.

        Returns:
            "y_hat_BCHW" or "x_BHWC" (uint8), what its annotations give, "features_BCHW"
            (float32) and "feature_stride" (if there is a teacher), "pooled_BC" (if there is a
            gate), "channel_bits_BC" and "pixels_B" (original pixels).
        """
        arrays = self._images(rows, windows)
        arrays |= self.annotations.entries(self._annotated(rows, windows))
        if self.teacher is not None:
            arrays["features_BCHW"] = self._cut(FEATURES, rows, windows)
            arrays["feature_stride"] = self.teacher.stride
        arrays["channel_bits_BC"] = self.latents.column("channel_bits", rows)
        arrays["pixels_B"] = self.sizes(rows).astype(np.int64).prod(1).astype(np.float32)
        if self.spec.stored.pooled is not None:
            arrays["pooled_BC"] = self.latents.column(f"channel_{self.spec.stored.pooled}", rows)
        return arrays

    def _images(self, rows: Sequence[int], windows: list[Window]) -> Arrays:
        """Reads ŷ [n, C, h, w], or decoded images, uint8 [n, H, W, 3]."""
        if self.spec.domain != "pixel":
            return {"y_hat_BCHW": self._cut(Y_HAT, rows, windows)}
        wholes = self._wholes("x_hat", rows, self._read_images)
        each = zip(rows, windows, strict=True)
        return {"x_BHWC": np.stack([_cut(wholes[row], w, channels_last=True) for row, w in each])}

    def _annotated(self, rows: Sequence[int], windows: list[Window]) -> Items:
        read = functools.partial(self.annotations.read, self.learned)
        if not (self.annotations.pixel_bytes and self._fits_in_memory):
            return read(rows, windows)
        wholes = self._wholes("annotations", rows, read)
        return [self.annotations.cut(wholes[row], w) for row, w in zip(rows, windows, strict=True)]

    def _cut(self, name: str, rows: Sequence[int], windows: list[Window]) -> np.ndarray:
        """Reads windows of planes [n, C, h, w]: of whole ones in memory, or from the store."""
        windows = in_cells(windows, self.columns.stride(name))
        read = functools.partial(self.columns.read, name)
        if not self._fits_in_memory:
            return np.asarray(read(rows, windows))
        wholes = self._wholes(name, rows, read)
        return np.stack([_cut(wholes[row], w) for row, w in zip(rows, windows, strict=True)])

    def _wholes(
        self, name: str, rows: Sequence[int], read: Callable[[list[int]], Iterable[Any]]
    ) -> dict[int, Any]:
        """Returns each row's whole; those that are not in memory are read together."""
        found = {row: self._cache[name, row] for row in rows if (name, row) in self._cache}
        missing = [row for row in dict.fromkeys(rows) if row not in found]
        if missing:
            for row, value in zip(missing, read(missing), strict=True):
                found[row] = self._remember(name, row, value)
        return found

    def _read_images(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Decodes images, uint8 [H, W, 3] each."""
        for row, y_hat_CHW in zip(rows, self.columns.read(Y_HAT, rows), strict=True):
            yield self._decode(y_hat_CHW, row)

    def _decode(self, y_hat_CHW: np.ndarray, row: int) -> np.ndarray:
        """Decodes one image whole, then rounds it: a decoded crop of ŷ would lack its borders."""
        # They load torch, which a worker that reads latents starts without.
        import torch

        from latent_store.codec.pictures import tensor_to_image

        ((height, width),) = self.coded_sizes([row])
        y_hat_CHW = y_hat_CHW[:, : height // LATENT_STRIDE, : width // LATENT_STRIDE]
        # One at a time: the codec is shared by threads, and one image is many megabytes in g_s.
        with self._lock:
            x_hat_BCHW = self._codec.reconstruct(torch.from_numpy(y_hat_CHW)[None])
        return tensor_to_image(x_hat_BCHW)[0]

    @cached_property
    def _codec(self) -> Any:
        from latent_store.codec.checkpoints import codec_from_store

        return codec_from_store(self.split.store, self.spec.codec_id)

    @cached_property
    def _fits_in_memory(self) -> bool:
        """True if everything read of every row fits: else windows of it are read.

        Decoded images are kept up to the budget even where not all fit, because they are dear.
        """
        height, width = self.split.plan.canvas
        stored = self.spec.stored
        channels = stored.keep or len(stored.channels or range(self.latents.channels))
        a_cell = channels * self.latents.y_hat_bytes
        one = 3 if self.spec.domain == "pixel" else a_cell / LATENT_STRIDE**2
        one += self.annotations.pixel_bytes
        if self.teacher is not None:
            one += 4 * self.teacher.channels / self.teacher.stride**2
        return one * height * width * len(self.rows) <= self.spec.cache_mb * 2**20

    def _remember(self, name: str, row: int, value: np.ndarray) -> np.ndarray:
        with self._lock:
            fits = self._cached_bytes + value.nbytes <= self.spec.cache_mb * 2**20
            wanted = name == "x_hat" or self._fits_in_memory
            if wanted and fits and (name, row) not in self._cache:
                # A copy: a row of a larger read would keep all of it alive.
                self._cache[name, row] = value.copy()
                self._cached_bytes += value.nbytes
        return value


def _cut(array: np.ndarray, window: Window, *, channels_last: bool = False) -> np.ndarray:
    top, left, height, width = window
    index = (slice(top, top + height), slice(left, left + width))
    return array[index] if channels_last else array[:, *index]
