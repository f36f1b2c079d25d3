"""The shard plan: which sample lies in which row, settled before anything is encoded.

Rows are assigned once and kept for ever. A data root that no longer agrees with the plan is
refused, because a row that changes its picture silently would poison everything derived from it.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from msgspec import Meta

from latent_store.errors import (
    DatasetError,
    IntegrityError,
    LatentStoreError,
    PlanMismatchError,
    StoreNotFoundError,
)
from latent_store.format import layout
from latent_store.format.ids import ORIGINAL_VIEW, require_name
from latent_store.format.samples import LARGEST_SIDE, Sample
from latent_store.format.schema import PAD_MULTIPLE
from latent_store.storage import groups, records
from latent_store.storage.location import CONTROL, Location
from latent_store.storage.records import Count, Text
from latent_store.storage.seals import floatless_crc32c

_REMEDY = (
    "restore plan.json from a copy of the store, or remove it and run encode-to-store again with "
    "the same data and `samples_per_shard=`"
)

CanvasSide = Annotated[int, Meta(ge=1, le=LARGEST_SIDE)]
MOST_SAMPLES_PER_SHARD = 2**20
LARGEST_PLAN = 2**31
"""In bytes: some millions of samples."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Rows of one split: row `r` lies in shard `r // samples_per_shard`.

    Attributes:
        rows: Row of each sample, ascending. An append starts at a new shard, so numbers may skip.
        canvas: Height and width, in pixels, of the arrays.
        mixed_sizes: Whether a sample's coded size may be smaller than the canvas; else it is the
            canvas.
    """

    dataset: Text
    split: Text
    samples_per_shard: Annotated[int, Meta(ge=1, le=MOST_SAMPLES_PER_SHARD)]
    canvas: tuple[CanvasSide, CanvasSide]
    samples: tuple[Sample, ...]
    rows: tuple[Count, ...]
    mixed_sizes: bool = False

    @property
    def originals(self) -> tuple[Sample, ...]:
        """The samples that are no views."""
        return tuple(sample for sample in self.samples if sample.view == ORIGINAL_VIEW)

    @cached_property
    def by_row(self) -> dict[int, Sample]:
        """The sample of each row that has one, ascending."""
        return dict(zip(self.rows, self.samples, strict=True))

    @cached_property
    def source_rows(self) -> dict[int, int]:
        """Row of each sample -> row of its original picture; an original is its own."""
        row_of = {sample.sample_id: row for row, sample in self.by_row.items()}
        return {row: row_of[sample.source_id] for row, sample in self.by_row.items()}

    @property
    def num_shards(self) -> int:
        """Shards that hold at least one sample, or lie before one that does."""
        return layout.num_shards(self.rows[-1] + 1, self.samples_per_shard) if self.rows else 0

    @property
    def num_rows(self) -> int:
        """Length of the sample axis: whole shards, void rows included."""
        return self.num_shards * self.samples_per_shard

    @property
    def name(self) -> str:
        """`dataset/split`, the path of the split's group."""
        return f"{self.dataset}/{self.split}"

    def in_shard(self, shard: int) -> list[tuple[int, Sample]]:
        """Returns the `(row, sample)` pairs of one shard, ascending."""
        first = shard * self.samples_per_shard
        start, stop = (bisect_left(self.rows, n) for n in (first, first + self.samples_per_shard))
        return list(zip(self.rows[start:stop], self.samples[start:stop], strict=True))

    def pictures_crc32c(self, rows: Iterable[int]) -> int:
        """Returns a digest of what rows show: a file of that length and size, in that view."""
        samples = ((row, self.by_row.get(row)) for row in rows)
        return floatless_crc32c(
            [
                [row, s and [s.sample_id, s.view, s.height, s.width, s.image_bytes]]
                for row, s in samples
            ]
        )

    def require_samples(self, rows: Sequence[int], sample_ids: Sequence[str], what: str) -> None:
        """Refuses a table whose rows hold other samples than the plan says.

        Raises:
            IntegrityError: Names the first such row: the plan or the table is another store's or
                an older one.
        """
        for row, sample_id in zip(rows, sample_ids, strict=True):
            sample = self.by_row.get(row)
            if sample is None or sample.sample_id != sample_id:
                planned = "no sample" if sample is None else repr(sample.sample_id)
                raise IntegrityError(
                    f"row {row} of {self.name} is {sample_id!r} in {what}, but {planned} in the "
                    "shard plan: one of them is older or of another store; restore plan.json"
                )

    def up_to(self, num_rows: int) -> ShardPlan:
        """Returns the plan of the first rows: what a component covers that is behind."""
        count = sum(row < num_rows for row in self.rows)
        return dataclasses.replace(self, samples=self.samples[:count], rows=self.rows[:count])

    def appended(self, fresh: Sequence[Sample]) -> ShardPlan:
        """Returns the plan with more samples, from a new shard on.

        Raises:
            DatasetError: An id occurs twice, or a size is not allowed.
        """
        rows = (*self.rows, *range(self.num_rows, self.num_rows + len(fresh)))
        longer = dataclasses.replace(self, samples=(*self.samples, *fresh), rows=rows)
        _require_unique(longer.samples)
        _require_sizes(longer)
        return longer

    def extended(self, manifest: Sequence[Sample], *, mended: Collection[str] = ()) -> ShardPlan:
        """Returns the plan with the samples of `manifest` that it lacks, from a new shard on.

        The tasks of a dataset share a plan, and each may have a list of its own: a sample that
        both name gets the annotations of both, one that only the other's names stays.

        Args:
            manifest: What the data root holds now for one task; the plan's originals that have
                annotations for it must be among it.
            mended: Ids of samples that failed so far, whose files may therefore have changed.

        Raises:
            PlanMismatchError: The data root changed; the first difference is named.
            DatasetError: A new sample's size is not allowed.
        """
        known = {sample.sample_id: sample for sample in self.originals}
        current = {sample.sample_id: sample for sample in manifest}
        listed = frozenset().union(*(sample.annotations for sample in manifest))
        for sample_id, sample in known.items():
            now = current.get(sample_id)
            if now is None and sample.annotations and not sample.annotations & listed:
                continue
            if now is not None and (sample_id in mended or not sample.has_size):
                known[sample_id] = now.joined(sample)
            else:
                known[sample_id] = _unchanged(sample, now)
        kept = tuple(known[sample.source_id].seen_as(sample.view) for sample in self.samples)
        fresh = [sample for sample in manifest if sample.sample_id not in known]
        return dataclasses.replace(self, samples=kept).appended(fresh)

    def with_views(self, views: Collection[str]) -> ShardPlan:
        """Returns the plan with those views of every original, from a new shard on if it lacks any.

        Args:
            views: Of `ids.VIEWS`. Views that the plan has stay, named or not.
        """
        known = {sample.sample_id for sample in self.samples}
        wanted = (sample.seen_as(view) for view in views for sample in self.originals)
        return self.appended([view for view in wanted if view.sample_id not in known])

    def describe_samples(self) -> str:
        """Returns how many samples there are, in words; views are counted apart."""
        count = len(self.originals)
        views = len(self.samples) - count
        return f"{count} samples" + (f" and {views} views" if views else "")

    def to_json(self) -> bytes:
        """Returns the persisted form."""
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        samples = [sample.to_record() for sample in self.samples]
        return records.seal_record({**record, "samples": samples})

    @classmethod
    def from_json(cls, data: bytes) -> ShardPlan:
        """Reads `to_json`; what later minor versions add is left.

        Raises:
            IntegrityError: It was altered, or cannot be a plan.
        """
        plan = records.read_record(cls, data, "the shard plan", _REMEDY)
        try:
            plan._require_possible()
        except LatentStoreError as error:
            raise IntegrityError(f"the shard plan is none: {error}; {_REMEDY}") from error
        return plan

    def _require_possible(self) -> None:
        """Refuses what no job can have made; so shards and rows are not more than samples."""
        _require_unique(self.samples)
        _require_sizes(self)
        ids = {sample.sample_id for sample in self.samples}
        steps = [b - a for a, b in zip((-1, *self.rows), self.rows, strict=False)]
        shards = {row // self.samples_per_shard for row in self.rows}
        ascending = all(step > 0 for step in steps) and len(shards) == self.num_shards
        if len(self.rows) != len(self.samples) or not ascending:
            raise IntegrityError(
                "its rows do not ascend from 0, one a sample, with no empty shard before the last"
            )
        if not all(sample.source_id in ids for sample in self.samples):
            raise IntegrityError("it has a view without its original picture")


def make_plan(
    dataset: str,
    split: str,
    manifest: Sequence[Sample],
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
    if not manifest:
        raise DatasetError(
            f"the split {dataset}/{split} has no samples; check `data_root=` and `split=`"
        )
    if canvas is not None and any(side < 1 or side % PAD_MULTIPLE for side in canvas):
        raise PlanMismatchError(
            f"`canvas=` must be a height and a width that are multiples of {PAD_MULTIPLE} pixels, "
            f"at which pictures are coded; got {canvas[0]} {canvas[1]}"
        )
    sized = [sample.coded_size for sample in manifest if sample.has_size]
    if not (sized or canvas):
        raise DatasetError(
            f"no picture of the split {dataset}/{split} has a readable header, the first is "
            f"{manifest[0].image_uri}; restore them, or check `data_root=`"
        )
    empty = ShardPlan(
        dataset=dataset,
        split=split,
        samples_per_shard=samples_per_shard,
        canvas=canvas or sized[0],
        samples=(),
        rows=(),
        mixed_sizes=canvas is not None,
    )
    return empty.appended(manifest)


def plan_key(dataset: str, split: str) -> str:
    """Returns the key of a split's persisted plan."""
    return f"{CONTROL}/{dataset}/{split}/plan.json"


def read_plan(location: Location, dataset: str, split: str) -> ShardPlan:
    """Reads a split's plan.

    Raises:
        StoreNotFoundError: The store has no such split; those it has are named.
        IntegrityError: The plan was altered, is another split's, or was lost.
    """
    key = plan_key(dataset, split)
    try:
        plan = ShardPlan.from_json(location.read(key, LARGEST_PLAN))
    except FileNotFoundError:
        require_not_lost(location, dataset, split)
        known = ", ".join(sorted(list_splits(location))) or "none"
        raise StoreNotFoundError(
            f"{location.url} has no split {dataset}/{split}; it has: {known}"
        ) from None
    except IntegrityError as error:
        raise IntegrityError(f"{location.url}: {key}: {error}") from error
    if plan.name != f"{dataset}/{split}":
        raise IntegrityError(f"{location.url}: {key} is the plan of {plan.name}; {_REMEDY}")
    return plan


def require_not_lost(location: Location, dataset: str, split: str, *, plan: bool = True) -> None:
    """Refuses a split without a plan whose groups are there: its plan was lost.

    Args:
        location: The store.
        dataset: The dataset's id.
        split: The split's name.
        plan: Refuse it also where the plan alone is missing, which can be made again, as the
            receipts tell whether it is the same.

    Raises:
        IntegrityError: With the remedy.
    """
    name = f"{dataset}/{split}"
    control = f"{CONTROL}/{name}"
    if not groups.child_names(location, name):
        return
    if not location.sizes(f"{control}/receipts"):
        raise IntegrityError(
            f"{location.url}: the control folder of {name}, {control}, is missing though its "
            f"groups are there (copying `STORE/*` leaves out names with a dot): copy {CONTROL} "
            f"from the store that this is a copy of, or delete {name} and run encode-to-store again"
        )
    if plan:
        raise IntegrityError(
            f"{location.url}: {plan_key(dataset, split)} is missing though groups and receipts of "
            f"{name} are there: restore it from a copy of the store, or run encode-to-store again "
            "with the same data and `samples_per_shard=`"
        )


def list_splits(location: Location) -> list[str]:
    """Returns `dataset/split` for each plan in the store."""
    found = (key.split("/") for key in location.sizes(CONTROL))
    return sorted(
        "/".join(parts[1:3]) for parts in found if len(parts) == 4 and parts[3] == "plan.json"
    )


def _require_unique(samples: Sequence[Sample]) -> None:
    for sample_id, count in Counter(sample.sample_id for sample in samples).items():
        if count > 1:
            raise DatasetError(f"sample id {sample_id!r} occurs twice; ids are unique in a split")


def _require_sizes(plan: ShardPlan) -> None:
    # Most samples of most datasets have one of a few sizes.
    for sample in {(sample.height, sample.width): sample for sample in plan.samples}.values():
        larger = any(n > limit for n, limit in zip(sample.coded_size, plan.canvas, strict=True))
        wrong = larger or not (plan.mixed_sizes or sample.coded_size == plan.canvas)
        if sample.has_size and wrong:
            size = (sample.height, sample.width)
            first = next(s for s in plan.samples if (s.height, s.width) == size)
            raise DatasetError(_size_message(plan, first))


def _size_message(plan: ShardPlan, sample: Sample) -> str:
    canvas = _in_words(plan.canvas)
    if plan.mixed_sizes:
        rule = f"coded at {_in_words(sample.coded_size)}, larger than the canvas of {canvas}"
    else:
        rule = f"but the split is coded at {canvas}: without `canvas=` every picture has one size"
    sizes = [plan.canvas, *(s.coded_size for s in plan.samples)]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    where = "" if (height, width) == plan.canvas else "into a new store "
    return (
        f"{sample.image_uri} is {_in_words((sample.height, sample.width))} (height x width), "
        f"{rule}; encode {where}with `canvas={height} {width}`, which holds all"
    )


def _unchanged(planned: Sample, current: Sample | None) -> Sample:
    """Returns a planned sample with what the current list adds to it; refuses other changes."""
    if current is None:
        raise PlanMismatchError(
            f"the data root changed since the plan was made: {planned.sample_id} is gone; restore "
            "it, or encode into a new store"
        )
    joined, other = planned.joined(current), current.joined(planned)
    for name, value in dataclasses.asdict(joined).items():
        now = getattr(other, name)
        if now != value:
            raise PlanMismatchError(
                f"the data root changed since the plan was made: {planned.sample_id} has {name} "
                f"{now!r}, planned {value!r}; restore it, or encode into a new store"
            )
    return joined


def _in_words(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
