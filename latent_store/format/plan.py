"""The shard plan: which sample lies in which row, settled before anything is encoded.

Rows are assigned once and kept for ever. A data root that no longer agrees with the plan is
refused, because a row that changes its picture silently would poison everything derived from it.
A plan is kept in parts (`latent_store.format.sample_parts`), and reads those that it is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from latent_store.errors import (
    DatasetError,
    IntegrityError,
    PlanMismatchError,
    StoreNotFoundError,
)
from latent_store.format import layout
from latent_store.format.ids import ORIGINAL_VIEW, require_name, view_suffix
from latent_store.format.plan_sizes import require_sizes
from latent_store.format.sample_changes import renewed, source_ids
from latent_store.format.sample_lists import SAMPLES_A_PART, Samples, is_original
from latent_store.format.sample_parts import (
    COLUMNS,
    MOST_SAMPLES,
    SamplePart,
    cut_parts,
)
from latent_store.format.samples import ANNOTATIONS, LARGEST_SIDE, Sample
from latent_store.format.schema import PAD_MULTIPLE
from latent_store.storage.seals import floatless_crc32c

Rows = layout.Rows
CanvasSide = Annotated[int, Meta(ge=1, le=LARGEST_SIDE)]
ShardSize = Annotated[int, Meta(ge=1, le=MOST_SAMPLES)]
"""Samples a shard."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Rows of one split: row `r` lies in shard `r // samples_per_shard`.

    Attributes:
        canvas: Height and width, in pixels, of the arrays.
        samples: Each in the row that its part says. Rows ascend; an append starts at a new shard,
            so numbers may skip.
        mixed_sizes: Whether a sample's coded size may be smaller than the canvas; else it is the
            canvas.
    """

    dataset: str
    split: str
    samples_per_shard: int
    canvas: tuple[int, int]
    samples: Samples
    mixed_sizes: bool = False

    @property
    def originals(self) -> Iterator[Sample]:
        """The samples that are no views."""
        return (sample for sample in self.samples if sample.view == ORIGINAL_VIEW)

    @cached_property
    def num_originals(self) -> int:
        """How many samples are no views."""
        return sum(pc.sum(is_original(table)).as_py() for table in self.samples.tables())

    @property
    def num_shards(self) -> int:
        """Shards that hold at least one sample, or lie before one that does."""
        parts = self.samples.parts
        return layout.num_shards(parts[-1].record.stop, self.samples_per_shard) if parts else 0

    @property
    def num_rows(self) -> int:
        """Length of the sample axis: whole shards, void rows included."""
        return self.num_shards * self.samples_per_shard

    @property
    def name(self) -> str:
        """`dataset/split`, the path of the split's group."""
        return f"{self.dataset}/{self.split}"

    @property
    def rows(self) -> np.ndarray:
        """The row of each sample, ascending int64."""
        return self.rows_at(np.arange(len(self.samples)))

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.array([part.record.first_row for part in self.samples.parts], dtype=np.int64)

    def rows_at(self, places: np.ndarray) -> np.ndarray:
        """Returns the rows of samples by their places, int64 `[n]`."""
        starts = self.samples.starts
        numbers = np.searchsorted(starts, places, side="right") - 1
        rows: np.ndarray = places - starts[numbers] + self._firsts[numbers]
        return rows

    def places_of(self, rows: Rows) -> np.ndarray:
        """Returns the places of the samples in rows, int64 `[n]`; -1 where none is."""
        wanted = np.asarray(rows, dtype=np.int64)
        numbers = np.searchsorted(self._firsts, wanted, side="right") - 1
        starts, firsts = self.samples.starts, np.append(self._firsts, 0)
        within = wanted - firsts[numbers]
        # Number -1 is the count of all, less that of none.
        there = (numbers >= 0) & (within < np.append(np.diff(starts), 0)[numbers])
        return np.where(there, starts[numbers] + within, -1)

    def places_in(self, rows: Rows) -> np.ndarray:
        """Returns what `places_of` does.

        Raises:
            StoreNotFoundError: A row has no sample.
        """
        places = self.places_of(rows)
        if places.size and places.min() < 0:
            void = int(np.asarray(rows)[places < 0][0])
            raise StoreNotFoundError(
                f"row {void} of {self.name} has no sample; take rows from common_rows()"
            )
        return places

    def sample_at(self, row: int) -> Sample:
        """Returns the sample in a row; raises as `places_in` does."""
        return self.samples[int(self.places_in([row])[0])]

    def row_of(self, sample_id: str) -> int | None:
        """Returns the row of the sample of an id in its normal form; None where none has it."""
        for part in self.samples.parts:
            place = pc.index(part.table()["sample_id"], sample_id).as_py()
            if place >= 0:
                return int(part.record.first_row + place)
        return None

    def source_rows(self, rows: Rows) -> np.ndarray:
        """Returns the rows of rows' original pictures, int64 `[n]`; an original is its own.

        Raises:
            IntegrityError: The plan has a view without its original picture.
        """
        found = np.array(rows, dtype=np.int64)
        if self.num_originals < len(self.samples):
            table = self.samples.take(self.places_in(found))
            views = ~is_original(table).to_numpy()
            places = self.samples.find(source_ids(table.filter(views)))
            if places.size and places.min() < 0:
                raise IntegrityError("the shard plan has a view without its original picture")
            found[views] = self.rows_at(places)
        return found

    def count_in(self, shard: int) -> int:
        """Returns how many samples a shard has."""
        return sum(len(rows) for _, rows in self._runs_in(shard))

    def in_shard(self, shard: int) -> list[tuple[int, Sample]]:
        """Returns the `(row, sample)` pairs of one shard, ascending."""
        pairs: list[tuple[int, Sample]] = []
        for part, rows in self._runs_in(shard):
            first = part.record.first_row
            pairs += zip(rows, part.samples(rows.start - first, rows.stop - first), strict=True)
        return pairs

    def _runs_in(self, shard: int) -> Iterator[tuple[SamplePart, range]]:
        """Yields the parts that have samples in a shard, and the rows of these."""
        first = shard * self.samples_per_shard
        stop = first + self.samples_per_shard
        start = max(0, int(np.searchsorted(self._firsts, first, side="right")) - 1)
        for part in self.samples.parts[start:]:
            if part.record.first_row >= stop:
                return
            rows = range(max(first, part.record.first_row), min(stop, part.record.stop))
            if rows:
                yield part, rows

    def pictures_crc32c(self, rows: Rows) -> int:
        """Returns a digest of what rows show: a file of that length and size, in that view."""
        numbers = np.asarray(rows, dtype=np.int64)
        starts = range(0, len(numbers), SAMPLES_A_PART)
        return floatless_crc32c(self._pictures(numbers[n : n + SAMPLES_A_PART]) for n in starts)

    def _pictures(self, rows: np.ndarray) -> list[tuple[object, ...]]:
        places = self.places_of(rows)
        names = ("sample_id", "view", "height", "width", "image_bytes")
        table = self.samples.take(places[places >= 0], *names)
        pictures = zip(*(column.to_pylist() for column in table.columns), strict=True)
        shown = (None if place < 0 else next(pictures) for place in places.tolist())
        return [*zip(rows.tolist(), pictures if len(table) == len(rows) else shown, strict=True)]

    def require_samples(self, rows: Sequence[int], sample_ids: Sequence[str], what: str) -> None:
        """Refuses a table whose rows hold other samples than the plan says.

        Raises:
            IntegrityError: Names the first such row: the plan or the table is another store's or
                an older one.
        """
        for start in range(0, len(rows), SAMPLES_A_PART):
            some = rows[start : start + SAMPLES_A_PART]
            # A table that somebody made up can have anything for a row.
            numbers = [n if type(n) is int and abs(n) < 2**62 else -1 for n in some]
            places = self.places_of(numbers)
            known = self.samples.take(places[places >= 0], "sample_id")["sample_id"].to_pylist()
            names = iter(known)
            planned = [None if place < 0 else next(names) for place in places.tolist()]
            there = sample_ids[start : start + SAMPLES_A_PART]
            for row, found, wanted in zip(some, there, planned, strict=True):
                if wanted is None or found != wanted:
                    listed = "no sample" if wanted is None else repr(wanted)
                    raise IntegrityError(
                        f"row {row} of {self.name} is {found!r} in {what}, but {listed} in the "
                        "shard plan: one of them is older or of another store; restore plan.json"
                    )

    def require_whole(self) -> ShardPlan:
        """Reads all of the plan, and returns it if a job can have made it.

        Raises:
            IntegrityError: A part is missing or altered, an id occurs twice, a view lacks its
                original, or a size is not allowed.
        """
        try:
            self.samples.require_unique()
            require_sizes(self.samples, self.canvas, mixed=self.mixed_sizes)
        except DatasetError as error:
            raise IntegrityError(f"the shard plan is none: {error}") from error
        for part in self.samples.parts:
            self.source_rows(np.arange(part.record.first_row, part.record.stop))
        return self

    def up_to(self, num_rows: int) -> ShardPlan:
        """Returns the plan of the first rows: what a component covers that is behind."""
        parts = self.samples.parts
        count = sum(
            max(0, min(part.stop, num_rows) - part.first_row) for part in (p.record for p in parts)
        )
        return dataclasses.replace(self, samples=self.samples.first(count))

    def _appended(self, tables: Iterable[pa.Table]) -> ShardPlan:
        """Returns the plan with more samples, of ids that it lacks, from a new shard on.

        Raises:
            DatasetError: A size is not allowed.
        """
        size = max(1, SAMPLES_A_PART // self.samples_per_shard) * self.samples_per_shard
        parts = cut_parts(tables, self.num_rows, size)
        longer = dataclasses.replace(self, samples=Samples([*self.samples.parts, *parts]))
        require_sizes(longer.samples, longer.canvas, mixed=longer.mixed_sizes)
        return longer

    def extended(
        self,
        manifest: Iterable[Sample],
        *,
        mended: Collection[str] = (),
        most: int | None = None,
    ) -> ShardPlan:
        """Returns the plan with the samples of `manifest` that it lacks, from a new shard on.

        The tasks of a dataset share a plan, and each may have a list of its own: a sample that
        both name gets the annotations of both, one that only the other's names stays.

        Args:
            manifest: What the data root holds now for one task; the plan's originals that have
                annotations for it must be among it.
            mended: Ids of samples that failed so far, whose files may therefore have changed.
            most: Samples of the manifest that the plan may have then; those beyond are left.

        Raises:
            PlanMismatchError: The data root changed; the first difference is named.
            DatasetError: An id occurs twice, or a new sample's size is not allowed.
        """
        listed = Samples.of(manifest).require_unique()
        annotations = frozenset(name for name in ANNOTATIONS if listed.has(name).any())
        seen = np.zeros(len(listed), dtype=bool)
        parts = []
        ahead = 0
        for part in self.samples.parts:
            names = source_ids(part.table())
            # Mostly the list has them in the plan's order.
            places = np.arange(ahead, min(ahead + len(names), len(listed)))
            if listed.take(places, "sample_id")["sample_id"].to_pylist() != names:
                places = listed.find(names)
            ahead = int(places[-1]) + 1
            seen[places[places >= 0]] = True
            parts.append(renewed(part, listed, places, annotations, frozenset(mended)))
        fresh = np.flatnonzero(~seen)
        if most is not None:
            fresh = fresh[: max(0, most - int(seen.sum()))]
        starts = range(0, len(fresh), SAMPLES_A_PART)
        tables = (listed.take(fresh[n : n + SAMPLES_A_PART]) for n in starts)
        return dataclasses.replace(self, samples=Samples(parts))._appended(tables)

    def with_views(self, views: Collection[str]) -> ShardPlan:
        """Returns the plan with those views of every original, from a new shard on if it lacks any.

        Args:
            views: Of `ids.VIEWS`. Views that the plan has stay, named or not.
        """
        return self._appended(self._lacking(views)) if views else self

    def _lacking(self, views: Collection[str]) -> Iterator[pa.Table]:
        for view in views:
            for table in self.samples.tables():
                table = table.filter(is_original(table))
                names = [f"{name}{view_suffix(view)}" for name in table["sample_id"].to_pylist()]
                seen = {"sample_id": names, "view": [view] * len(names)}
                columns = [seen.get(name, table[name]) for name in COLUMNS.names]
                yield pa.table(columns, schema=COLUMNS).filter(self.samples.find(names) < 0)

    def describe_samples(self) -> str:
        """Returns how many samples there are, in words; views are counted apart."""
        views = len(self.samples) - self.num_originals
        return f"{self.num_originals} samples" + (f" and {views} views" if views else "")


def make_plan(
    dataset: str,
    split: str,
    manifest: Iterable[Sample],
    samples_per_shard: int,
    canvas: tuple[int, int] | None = None,
) -> ShardPlan:
    """Assigns rows to a split's samples, in the order of its manifest.

    Args:
        dataset: The dataset's id.
        split: The split's name.
        manifest: The split's samples.
        samples_per_shard: Rows in a shard.
        canvas: Height and width, in pixels, of the arrays, for pictures of different sizes; without
            it they are the coded size, and every picture must have the same.

    Raises:
        LatentStoreError: The dataset or the split cannot be called so.
        DatasetError: There is no sample, an id occurs twice, or a size is not allowed.
        PlanMismatchError: `samples_per_shard` is below 1, or the canvas no multiple of 64.
    """
    if samples_per_shard < 1:
        raise PlanMismatchError(f"`samples_per_shard=` must be at least 1, got {samples_per_shard}")
    require_name(dataset, "a dataset's id")
    require_name(split, "a split's name")
    listed = Samples.of(manifest).require_unique()
    if not listed:
        raise DatasetError(
            f"the split {dataset}/{split} has no samples; check `data_root=` and `split=`"
        )
    if canvas is not None and any(side < 1 or side % PAD_MULTIPLE for side in canvas):
        raise PlanMismatchError(
            f"`canvas=` must be a height and a width that are multiples of {PAD_MULTIPLE} pixels, "
            f"at which pictures are coded; got {canvas[0]} {canvas[1]}"
        )
    sized = listed.has("height") & listed.has("width")
    if not (sized.any() or canvas):
        raise DatasetError(
            f"no picture of the split {dataset}/{split} has a readable header, the first is "
            f"{listed[0].image_uri}; restore them, or check `data_root=`"
        )
    empty = ShardPlan(
        dataset=dataset,
        split=split,
        samples_per_shard=samples_per_shard,
        canvas=canvas or listed[int(sized.argmax())].coded_size,
        samples=Samples(),
        mixed_sizes=canvas is not None,
    )
    if any(part.record.samples % samples_per_shard for part in listed.parts[:-1]):
        return empty._appended(listed.tables())
    # It is cut at shards already, in the rows that it has then.
    require_sizes(listed, empty.canvas, mixed=empty.mixed_sizes)
    return dataclasses.replace(empty, samples=listed)
