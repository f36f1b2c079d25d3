"""Opens a store: its splits, codecs, teachers and rankings, and each split's components."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from latent_store.catalogue import codecs, rankings
from latent_store.catalogue.rankings import Ranking
from latent_store.components import base as component
from latent_store.components.finalize import component_keys
from latent_store.components.readers import (
    BoxesReader,
    ComponentReader,
    FeaturesReader,
    LabelsReader,
    LatentsReader,
    RankedReader,
)
from latent_store.errors import (
    IntegrityError,
    MissingComponentError,
    StoreNotFoundError,
)
from latent_store.extras import import_with_extra
from latent_store.format import schema
from latent_store.format.ids import ORIGINAL_VIEW, normal_id
from latent_store.format.plan import Sample, ShardPlan, list_splits, read_plan
from latent_store.format.schema import CodecSpec
from latent_store.shards import index
from latent_store.storage import groups
from latent_store.storage.location import Location

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr


def open_store(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> LatentStore:
    """Opens a latent store for reading.

    Args:
        url: A local path, or a `file://`, `s3://`, `gs://` or `memory://` URL.
        storage_options: Passed to fsspec.

    Raises:
        StoreNotFoundError: Nothing lies there.
        FormatVersionError: It is no latent store, or one of a newer major version.
    """
    return LatentStore(Location(url, storage_options))


class LatentStore:
    """A store, opened for reading: its splits, codecs, teachers and rankings."""

    def __init__(self, location: Location):
        location.require()
        self.location = location
        root = groups.open_group(location)
        schema.check_format({} if root is None else dict(root.attrs), location.url)

    def __repr__(self) -> str:
        return f"LatentStore({self.url!r}, splits={self.splits()})"

    @property
    def url(self) -> str:
        """The address it was opened at."""
        return self.location.url

    def splits(self) -> list[str]:
        """Returns the splits, as `dataset/split`."""
        return list_splits(self.location)

    def __getitem__(self, name: str) -> Split:
        dataset, _, split = name.partition("/")
        if not dataset or not split:
            raise StoreNotFoundError(
                f"a split is named dataset/split, got {name!r}; there are: {self.splits()}"
            )
        return Split(self, read_plan(self.location, dataset, split))

    def codecs(self) -> dict[str, CodecSpec]:
        """Returns every codec by its id."""
        return codecs.list_codecs(self.location)

    def codec(self, codec_id: str | None = None) -> CodecSpec:
        """Returns the codec of that id; without one the only codec, else an error lists them."""
        return codecs.choose_codec(self.location, codec_id)

    def codec_checkpoint(self, codec_id: str) -> bytes:
        """Returns the bytes of a codec's checkpoint file, sha256 checked."""
        return codecs.read_codec_checkpoint(self.location, self.codec(codec_id))

    def codec_tables(self, codec_id: str) -> dict[str, np.ndarray]:
        """Returns a codec's CDF tables by name."""
        return codecs.read_codec_tables(self.location, codec_id)

    def teachers(self) -> list[str]:
        """Returns the ids of the teachers whose checkpoints the store keeps."""
        return codecs.list_teachers(self.location)

    def teacher_checkpoint(self, teacher_id: str) -> bytes:
        """Returns the bytes of a teacher's checkpoint file."""
        return codecs.read_teacher_checkpoint(self.location, teacher_id)

    def rankings(self, codec_id: str) -> list[str]:
        """Returns the ids of a codec's rankings."""
        return rankings.list_rankings(self.location, codec_id)

    def ranking(self, codec_id: str, ranking_id: str) -> Ranking:
        """Returns a ranking of one codec; one of another codec is refused."""
        return rankings.read_ranking(self.location, codec_id, ranking_id)


class Split:
    """One split of one dataset: its plan, its index and the readers of its components."""

    def __init__(self, store: LatentStore, plan: ShardPlan):
        self.store = store
        self.plan = plan

    def __repr__(self) -> str:
        return f"Split({self.plan.name!r}, samples={len(self.plan.samples)})"

    @property
    def dataset(self) -> str:
        """The dataset's id."""
        return self.plan.dataset

    @property
    def name(self) -> str:
        """The split's name, e.g. `train`."""
        return self.plan.split

    @cached_property
    def index(self) -> pa.Table:
        """The samples table (see `latent_store.shards.index.SAMPLES`)."""
        table = index.read_samples(self.store.location, self.plan.name)
        ids = table["sample_id"].to_pylist()
        self.require_samples(table["row"].to_pylist(), ids, "samples.parquet")
        return table

    def components(self) -> dict[str, bool]:
        """Returns every component's key, and whether it is complete."""
        location = self.store.location
        keys = component_keys(location, self.plan.name)
        found = {key: component.open_component(location, self.plan.name, key) for key in keys}
        return {key: bool(group.attrs.get("complete")) for key, group in found.items()}

    def latents(self, codec_id: str | None = None) -> LatentsReader:
        """Opens one codec's latents; without an id those of the only codec."""
        spec = self.store.codec(codec_id)
        return LatentsReader(self, spec)

    def ranked(self, ranking_id: str, codec_id: str | None = None) -> RankedReader:
        """Opens one ranking's copy of one codec's latents.

        Raises:
            RankingError: The ranking is unknown, belongs to another codec, or was made again
                since the copy.
            MissingComponentError: The copy was not made; names `reorder-latents`.
        """
        spec = self.store.codec(codec_id)
        return RankedReader(self, spec, self.store.ranking(spec.codec_id, ranking_id))

    def labels(self) -> LabelsReader:
        """Opens the segmentation labels."""
        return LabelsReader(self)

    def boxes(self) -> BoxesReader:
        """Opens the objects of the pictures."""
        return BoxesReader(self)

    def teacher(self, teacher_id: str | None = None) -> FeaturesReader:
        """Opens one teacher's features; without an id those of the only one.

        Raises:
            MissingComponentError: There are none, or several.
        """
        keys = component_keys(self.store.location, self.plan.name)
        have = [key.removeprefix("teacher/") for key in keys if key.startswith("teacher/")]
        if teacher_id is None and len(have) == 1:
            teacher_id = have[0]
        if teacher_id not in have:
            asked = (
                "teacher features" if teacher_id is None else f"features of teacher {teacher_id}"
            )
            names = ", ".join(have) or "none"
            raise MissingComponentError(
                f"{self.plan.name} needs {asked}, it has: {names}; name one with --teacher, or add "
                "features with encode-to-store --teacher_checkpoint"
            )
        return FeaturesReader(self, str(teacher_id))

    def to_xarray(self, codec: str | None = None, **choice: Any) -> xr.Dataset:
        """Returns a lazy Dataset of the usable rows; see `latent_store.views.lazy.to_xarray`."""
        return import_with_extra("latent_store.views.lazy", "xarray").to_xarray(
            self, codec, **choice
        )

    def to_dask(self, name: str, codec: str | None = None, **choice: Any) -> da.Array:
        """Returns one variable of `to_xarray`, one chunk a shard."""
        return self.to_xarray(codec, **choice)[name].data

    def read(
        self,
        rows: Sequence[int] | np.ndarray,
        channels: Sequence[int] | None = None,
        codec: str | None = None,
    ) -> np.ndarray:
        """Reads ŷ; opens the latents each time, so that loops do better with `latents`."""
        return self.latents(codec).read(rows, channels)

    def decode(
        self, row: int, channels: Sequence[int] | None = None, codec: str | None = None
    ) -> np.ndarray:
        """Returns a row's picture, uint8 RGB `[height, width, 3]`, from all channels of ŷ or from
        those numbered in `channels`; loads torch and the codec."""
        decoding = import_with_extra("latent_store.tools.decode", "codec")
        return decoding.decode_row(self, row, channels, codec)

    def common_rows(self, *readers: ComponentReader, views: bool = False) -> np.ndarray:
        """Returns the rows that every reader has, ascending int64; stored views only on request."""
        table = self.index
        keep = np.asarray(table["row"].to_pylist(), dtype=np.int64)
        if not views:
            keep = keep[[view == ORIGINAL_VIEW for view in table["view"].to_pylist()]]
        for reader in readers:
            keep = np.intersect1d(keep, reader.rows)
        return keep

    def require_samples(self, rows: Sequence[int], sample_ids: Sequence[str], what: str) -> None:
        """Refuses a table whose rows hold other samples than the plan says.

        Raises:
            IntegrityError: Names the first such row: the plan or the table is another store's or
                an older one.
        """
        for row, sample_id in zip(rows, sample_ids, strict=True):
            sample = self._samples_by_row.get(row)
            if sample is None or sample.sample_id != sample_id:
                planned = "no sample" if sample is None else repr(sample.sample_id)
                raise IntegrityError(
                    f"row {row} of {self.plan.name} is {sample_id!r} in {what}, but {planned} in "
                    "the shard plan: one of them is older or of another store; restore plan.json"
                )

    def sizes(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns original heights and widths, int32 `[n, 2]`."""
        by_row = self._samples_by_row
        picked = [by_row[int(row)] for row in rows]
        return np.array([[s.height, s.width] for s in picked], dtype=np.int32).reshape(-1, 2)

    def coded_sizes(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the heights and widths, in pixels, at which rows are coded, int32 `[n, 2]`.

        Arrays have the canvas's shape, `plan.canvas`: what lies beyond a row's own coded size
        (for ŷ divided by 16, for features by 4) is fill, in labels 255.
        """
        by_row = self._samples_by_row
        picked = [by_row[int(row)].coded_size for row in rows]
        return np.array(picked, dtype=np.int32).reshape(-1, 2)

    def source_rows(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the rows of the original pictures, int64 `[n]`; an original is its own."""
        sources = self._source_rows
        return np.array([sources[int(row)] for row in rows], dtype=np.int64)

    def sample_ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Returns the ids of rows."""
        return [self._samples_by_row[int(row)].sample_id for row in rows]

    def row_of(self, sample_id: str) -> int:
        """Returns the row of a sample; a view of it has an id of its own, e.g. `ID@hflip`.

        Raises:
            StoreNotFoundError: The split has no such sample.
        """
        name = normal_id(sample_id)
        for row, sample in self._samples_by_row.items():
            if sample.sample_id == name:
                return row
        first = self.plan.samples[0].sample_id
        raise StoreNotFoundError(
            f"{self.plan.name} has no sample {sample_id!r} (its first is {first!r})"
        )

    @cached_property
    def _source_rows(self) -> dict[int, int]:
        return self.plan.source_rows

    @cached_property
    def _samples_by_row(self) -> dict[int, Sample]:
        return dict(zip(self.plan.rows, self.plan.samples, strict=True))
