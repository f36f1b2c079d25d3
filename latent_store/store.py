"""Opens a store: its splits, codecs, teachers and rankings, and each split's components."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from latent_store.catalogue import codecs, rankings
from latent_store.catalogue.rankings import Ranking
from latent_store.components import base as component
from latent_store.components.boxes import BoxesReader
from latent_store.components.features import STEM, FeaturesReader, teacher_of
from latent_store.components.labels import LabelsReader
from latent_store.components.latents import LatentsReader
from latent_store.components.ranked import RankedReader
from latent_store.components.reader import ComponentReader, Rows
from latent_store.components.registry import all_splits, component_keys, kind_of
from latent_store.display import Sections, Shown
from latent_store.errors import IntegrityError, MissingComponentError, StoreNotFoundError
from latent_store.extras import import_with_extra
from latent_store.format import schema
from latent_store.format.ids import ORIGINAL_VIEW, normal_id
from latent_store.format.plan import ShardPlan
from latent_store.format.plan_files import read_plan
from latent_store.format.plan_sizes import coded_sizes
from latent_store.format.schema import CodecSpec
from latent_store.shards import index
from latent_store.storage import groups
from latent_store.storage.location import Location
from latent_store.storage.object_stores import open_location
from latent_store.stored_sample import StoredSample

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

Reader = TypeVar("Reader", bound=ComponentReader)
Result = TypeVar("Result")


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
    return LatentStore(open_location(url, storage_options))


class LatentStore(Shown):
    """A store, opened for reading: its splits, by name, and codecs, teachers and rankings."""

    def __init__(self, location: Location):
        self.location = location
        # A codec's id names its weights: it never becomes another.
        self._codecs: dict[str, CodecSpec] = {}
        root = groups.read_metadata(location, "")
        if root is None:
            raise StoreNotFoundError(
                f"no latent store at {location.url}: make one with encode-to-store"
            )
        is_group = root["node_type"] == "group"
        schema.check_format(root.get("attributes", {}) if is_group else {}, location.url)
        location.note_group(groups.metadata_key(""))

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits())

    def __len__(self) -> int:
        return len(self.splits())

    def __bool__(self) -> bool:
        return True  # One without splits is a store as well.

    def __contains__(self, name: object) -> bool:
        return name in self.splits()

    @property
    def url(self) -> str:
        """The address it was opened at."""
        return self.location.url

    def splits(self) -> list[str]:
        """Returns the splits, as `dataset/split`."""
        return all_splits(self.location)

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
        spec = self._codecs.get(codec_id or "") or codecs.choose_codec(self.location, codec_id)
        return self._codecs.setdefault(spec.codec_id, spec)

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

    def _ipython_key_completions_(self) -> list[str]:
        return self.splits()

    def _headline(self) -> str:
        return self.url

    def _sections(self) -> Sections:
        known = self.codecs()
        words = {
            name: f"{spec.channels} channels; rankings: {', '.join(self.rankings(name)) or 'none'}"
            for name, spec in known.items()
        }
        return {
            "Splits": {name: f"{len(self[name])} samples" for name in self.splits()},
            "Codecs": words,
            "Teachers": dict.fromkeys(self.teachers(), ""),
        }

    def ranking(self, codec_id: str, ranking_id: str) -> Ranking:
        """Returns a ranking of one codec; one of another codec is refused."""
        return rankings.read_ranking(self.location, codec_id, ranking_id)


class Split(Shown):
    """One split of one dataset: its plan, its index, its samples and its components' readers.

    As a sequence it is its samples, in the order of their rows, stored views and failed ones
    included; `split["ID"]` is the one of that id.

        >>> import latent_store
        >>> split = latent_store.open("city.zarr")["cityscapes/train"]
        >>> split.dataset, split.name, len(split)
        ('cityscapes', 'train', 6)
        >>> split.labels().read([0]).shape
        (1, 128, 192)
        >>> split[0].decode(ranked="variance", keep=16).shape  # the picture of 16 channels
        (96, 150, 3)
    """

    def __init__(self, store: LatentStore, plan: ShardPlan):
        self.store = store
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan.samples)

    def __getitem__(self, key: int | str) -> StoredSample:
        if isinstance(key, str):
            row = self.row_of(key)
            return StoredSample(self, row, self.plan.sample_at(row))
        if not -len(self) <= key < len(self):
            raise IndexError(f"{self.plan.name} has {len(self)} samples, 0 to {len(self) - 1}")
        row = int(self.plan.rows_at(np.array([key % len(self)]))[0])
        return StoredSample(self, row, self.plan.samples[key])

    def __iter__(self) -> Iterator[StoredSample]:
        return (self[place] for place in range(len(self)))

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
        return self._settled("", self._read_index)

    def components(self) -> dict[str, bool]:
        """Returns every component's key, and whether it is complete."""
        location = self.store.location
        keys = component_keys(location, self.plan.name)
        found = {key: component.open_component(location, self.plan.name, key) for key in keys}
        return {
            key: component.read_record(location, group).complete for key, group in found.items()
        }

    def component(self, key: str) -> ComponentReader:
        """Opens any component by its key, one of `components`."""
        kind = kind_of(key)
        return self._settled(key, lambda: kind(self.store.location, self.plan, key))

    def latents(self, codec_id: str | None = None) -> LatentsReader:
        """Opens one codec's latents; without an id those of the only codec."""
        spec = self.store.codec(codec_id)
        return self._open(LatentsReader, spec.codec_id, spec=spec)

    def ranked(self, ranking_id: str, codec_id: str | None = None) -> RankedReader:
        """Opens one ranking's copy of one codec's latents.

        Raises:
            RankingError: The ranking is unknown, belongs to another codec, or was made again
                since the copy.
            MissingComponentError: The copy was not made; names `reorder-latents`.
        """
        spec = self.store.codec(codec_id)
        return self._open(RankedReader, spec.codec_id, ranking_id, spec=spec)

    def labels(self) -> LabelsReader:
        """Opens the segmentation labels."""
        return self._open(LabelsReader)

    def boxes(self) -> BoxesReader:
        """Opens the objects of the pictures."""
        return self._open(BoxesReader)

    def teacher(self, teacher_id: str | None = None) -> FeaturesReader:
        """Opens one teacher's features; without an id those of the only one.

        Raises:
            MissingComponentError: There are none, or several.
        """
        keys = component_keys(self.store.location, self.plan.name)
        features = [key for key in keys if kind_of(key) is FeaturesReader]
        have = [FeaturesReader.ids_of(key)["teacher"] for key in features]
        if teacher_id is None and len(have) == 1:
            teacher_id = have[0]
        if teacher_id not in have:
            asked = f"teacher {teacher_id}" if teacher_id else "a teacher"
            names, flag, layer = ", ".join(have) or "none", "teacher", ""
            if teacher_id and teacher_of(teacher_id) in map(teacher_of, have):
                flag, layer = "entry", f" `entry={teacher_id.partition('.')[2] or STEM}`"
            raise MissingComponentError(
                f"{self.plan.name} needs features of {asked}, it has: {names}; name one with "
                f"`{flag}=`, or add some with encode-to-store `teacher_checkpoint=`{layer}"
            )
        return self._open(FeaturesReader, str(teacher_id))

    def to_xarray(self, codec: str | None = None, **choice: Any) -> xr.Dataset:
        """Returns a lazy Dataset of the usable rows; see `latent_store.views.lazy.to_xarray`."""
        lazy = import_with_extra("latent_store.views.lazy", "xarray")
        dataset: xr.Dataset = lazy.to_xarray(self, codec, **choice)
        return dataset

    def to_dask(self, name: str, codec: str | None = None, **choice: Any) -> da.Array:
        """Returns one variable of `to_xarray`, one chunk a shard."""
        array: da.Array = self.to_xarray(codec, **choice)[name].data
        return array

    def read(
        self,
        rows: Rows,
        channels: Sequence[int] | None = None,
        codec: str | None = None,
    ) -> np.ndarray:
        """Reads ŷ; opens the latents each time, so that loops do better with `latents`."""
        return self.latents(codec).read(rows, channels)

    def decode(
        self,
        row: int | str,
        channels: Sequence[int] | None = None,
        codec: str | None = None,
        **first: Any,
    ) -> np.ndarray:
        """Returns the picture of a row, or of a sample's id, uint8 RGB `[height, width, 3]`, from
        all channels of ŷ, from those numbered in `channels`, or with `ranked="RANKING", keep=N`
        from the first N of a ranking; loads torch and the codec."""
        row = self.row_of(row) if isinstance(row, str) else row
        decode = import_with_extra("latent_store.tools.decode", "codec")
        return np.asarray(decode.decode_row(self, row, channels, codec, **first))

    def common_rows(self, *readers: ComponentReader, views: bool = False) -> np.ndarray:
        """Returns the rows that every reader has, ascending int64; stored views only on request."""
        table = self.index
        keep = np.asarray(table["row"].to_pylist(), dtype=np.int64)
        if not views:
            keep = keep[[view == ORIGINAL_VIEW for view in table["view"].to_pylist()]]
        for reader in readers:
            keep = np.intersect1d(keep, reader.rows)
        return keep

    def sizes(self, rows: Rows) -> np.ndarray:
        """Returns original heights and widths, int32 `[n, 2]`."""
        sides = [self._column(name, rows).to_numpy() for name in ("height", "width")]
        return np.stack(sides, axis=1)

    def coded_sizes(self, rows: Rows) -> np.ndarray:
        """Returns the heights and widths, in pixels, at which rows are coded, int32 `[n, 2]`.

        Arrays have the canvas's shape, `plan.canvas`: what lies beyond a row's own coded size
        (for ŷ divided by 16, for features by 4) is fill, in labels 255.
        """
        return coded_sizes(*self.sizes(rows).T)

    def source_rows(self, rows: Rows) -> np.ndarray:
        """Returns the rows of the original pictures, int64 `[n]`; an original is its own."""
        return self.plan.source_rows(rows)

    def sample_ids(self, rows: Rows) -> list[str]:
        """Returns the ids of rows."""
        ids: list[str] = self._column("sample_id", rows).to_pylist()
        return ids

    def row_of(self, sample_id: str) -> int:
        """Returns the row of a sample; a view of it has an id of its own, e.g. `ID@hflip`.

        Raises:
            StoreNotFoundError: The split has no such sample.
        """
        row = self.plan.row_of(normal_id(sample_id))
        if row is not None:
            return row
        first = self.plan.samples[0].sample_id
        raise StoreNotFoundError(
            f"{self.plan.name} has no sample {sample_id!r} (its first is {first!r})"
        )

    def _ipython_key_completions_(self) -> list[str]:
        ids: list[str] = self.plan.samples.column("sample_id").to_pylist()
        return ids

    def _headline(self) -> str:
        plan = self.plan
        size = f"{plan.canvas[0]}x{plan.canvas[1]}"
        place = f"on a canvas of {size}" if plan.mixed_sizes else f"coded at {size}"
        return f"{plan.name!r}: {plan.describe_samples()} in {plan.num_shards} shards, {place}"

    def _sections(self) -> Sections:
        states = {True: "complete", False: "incomplete"}
        found = {key: states[complete] for key, complete in self.components().items()}
        return {"Components": found}

    def _column(self, name: str, rows: Rows) -> pa.Array:
        return self.plan.samples.column(name).take(self.plan.places_in(rows))

    def _open(self, kind: type[Reader], *ids: str, **known: Any) -> Reader:
        key = kind.key_of(*ids)
        return self._settled(key, lambda: kind(self.store.location, self.plan, key, **known))

    def _read_index(self) -> pa.Table:
        table = index.read_samples(self.store.location, self.plan.name)
        ids = table["sample_id"].to_pylist()
        self.plan.require_samples(table["row"].to_pylist(), ids, "samples.parquet")
        return table

    def _settled(self, key: str, read: Callable[[], Result]) -> Result:
        """Returns what `read` does, which is tried again where a job added to the split meanwhile.

        Between two requests, or since the plan was read, it may have; what was read is refused then
        as what does not fit together. Where nothing changed, it is damage.

        Args:
            key: The component that is read; "" for the split itself.
            read: Raises `IntegrityError` where things do not fit together.
        """
        location, path = self.store.location, f"{self.plan.name}/{key}".rstrip("/")
        found: tuple[ShardPlan, dict[str, Any] | None] | None = None
        while True:
            try:
                return read()
            except IntegrityError:
                before = found
                found = (
                    read_plan(location, self.dataset, self.name),
                    groups.read_metadata(location, path),
                )
                if found == before:
                    raise
                self.plan = found[0]
