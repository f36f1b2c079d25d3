"""What every row of the store's benchmark works on, and what it reports."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from latent_store.codec import Codec, codec_from_store
from latent_store.components.latents import LatentsReader
from latent_store.console import progress
from latent_store.store import LatentStore

HEADER = ("what", "promised", "measured", "holds")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table.

    Attributes:
        holds: None where nothing is promised, or nothing could be measured.
    """

    what: str
    promised: str
    measured: str
    holds: bool | None

    def cells(self) -> tuple[str, ...]:
        """Returns the table's row."""
        verdict = {True: "yes", False: "NO", None: "-"}[self.holds]
        return self.what, self.promised, self.measured, verdict


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A store, and which of its images are measured.

    Attributes:
        splits: Name -> how many of its first images.
        ranking_id: Every codec has this ranking, and every split its copies.
        trials: Of damage.
    """

    store: LatentStore
    data_root: Path
    codec_ids: tuple[str, ...]
    splits: dict[str, int]
    ranking_id: str
    trials: int
    seed: int = 0

    def codec(self, codec_id: str) -> Codec:
        """Returns a codec of the store."""
        return _codec(self.store, codec_id)

    def latents(self, codec_id: str) -> Iterator[tuple[LatentsReader, list[int]]]:
        """Yields one codec's latents in each split, and the rows to measure."""
        for name, count in self.splits.items():
            split = self.store[name]
            reader = split.latents(codec_id)
            yield reader, split.common_rows(reader)[:count].tolist()

    def images(self, what: str) -> Iterator[tuple[Codec, LatentsReader, int]]:
        """Yields every image of every codec, with a progress bar called `what`."""
        items = [
            (codec_id, reader, row)
            for codec_id in self.codec_ids
            for reader, rows in self.latents(codec_id)
            for row in rows
        ]
        for codec_id, reader, row in progress(items, desc=what, unit="image"):
            yield self.codec(codec_id), reader, row


@functools.lru_cache(maxsize=8)
def _codec(store: LatentStore, codec_id: str) -> Codec:
    return codec_from_store(store, codec_id)
