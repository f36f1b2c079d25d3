"""Plans in a store: one record that names parts, or of stores of version 1 all in one text.

The parts are written first and the record last. A part bears its checksum in its name, so nothing
that a plan in force names is ever written over: a reader that opened the plan before goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from latent_store.errors import IntegrityError, LatentStoreError, StoreNotFoundError
from latent_store.format.plan import CanvasSide, ShardPlan, ShardSize
from latent_store.format.sample_lists import SAMPLES_A_PART, Samples
from latent_store.format.sample_parts import PartRecord, SamplePart, cut_parts, to_table
from latent_store.format.samples import Sample
from latent_store.format.schema import is_of_major_1
from latent_store.storage import groups, records
from latent_store.storage.local_files import LEFTOVER
from latent_store.storage.location import CONTROL, Location
from latent_store.storage.records import Count, Text

if TYPE_CHECKING:  # Who reads loads no lease.
    from latent_store.storage.lease import LeaseClaim

LARGEST_PLAN = 2**31
"""In bytes, of the record: of version 1 some millions of samples."""
_NAME = r"\d{6,}-[0-9a-f]{8}\.parquet"
_PART = re.compile(rf"{_NAME}|\.{_NAME}{LEFTOVER}")
"""The name of a part, and of what a killed process leaves of its writing."""
_WHAT = "the shard plan"
_REMEDY = (
    "restore plan.json from a copy of the store, or remove it and run encode-to-store again with "
    "the same data and `samples_per_shard=`"
)


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What every plan's record has."""

    dataset: Text
    split: Text
    samples_per_shard: ShardSize
    canvas: tuple[CanvasSide, CanvasSide]
    mixed_sizes: bool = False

    def plan(self, samples: Samples) -> ShardPlan:
        """Returns the plan of samples."""
        return ShardPlan(
            dataset=self.dataset,
            split=self.split,
            samples_per_shard=self.samples_per_shard,
            canvas=self.canvas,
            mixed_sizes=self.mixed_sizes,
            samples=samples,
        )


@dataclass(frozen=True, kw_only=True)
class _InParts(_Record):
    """A plan whose samples lie in parts."""

    parts: tuple[PartRecord, ...]


@dataclass(frozen=True, kw_only=True)
class _InOneText(_Record):
    """A plan of version 1."""

    samples: tuple[Sample, ...]
    rows: tuple[Count, ...]


def plan_key(dataset: str, split: str) -> str:
    """Returns the key of a split's plan, the record."""
    return f"{CONTROL}/{dataset}/{split}/plan.json"


def parts_prefix(dataset: str, split: str) -> str:
    """Returns the prefix of the parts of a split's plan."""
    return f"{CONTROL}/{dataset}/{split}/plan"


def write_plan(
    location: Location,
    plan: ShardPlan,
    claim: LeaseClaim | None = None,
    record: bytes | None = None,
) -> None:
    """Writes a split's plan; its lease is held.

    What the plan before it names stays, for those who opened it, until there is another one.

    Args:
        location: The store.
        plan: The plan.
        claim: The plan's lease, which is asked for before anything is removed, and again before the
            plan is in force: another job may have removed what this one has written, or written
            what this one would remove. None where nobody else can write.
        record: What `read_record` found under that lease; empty where there is no plan yet.

    Raises:
        LeaseLostError: Another job writes the plan by now.
    """
    key = plan_key(plan.dataset, plan.split)
    there = record
    if there is None:
        there = read_record(location, plan.dataset, plan.split) or b""
    root = groups.open_group(location)
    if root is not None and is_of_major_1(groups.attrs_of(root)):
        if claim is not None:
            claim.require()
        location.write(key, to_json(plan))
        return
    parts = {_part_key(plan, part.record): part for part in plan.samples.parts}
    data = _seal(plan, parts=[vars(part.record) for part in parts.values()])
    if data == there:
        return
    known = {part.key for part in _parts_of(location, plan, there)}
    prefix = parts_prefix(plan.dataset, plan.split)
    # Before the first plan there is nothing but what a killed job left of the same parts.
    listed = location.sizes(prefix) if there or location.local_path is not None else {}
    there_now = [k for k in listed if _PART.fullmatch(k[len(prefix) + 1 :])]
    strays = [name for name in there_now if name not in parts and name not in known]
    if strays and claim is not None:
        claim.require()
    for stray in strays:
        location.delete(stray)
    fresh = parts.keys() - known
    for name in sorted(fresh):
        location.write(name, parts[name].data(), durable=False)
    if fresh:
        location.sync(fresh)
    if claim is not None:
        claim.require()
    location.write(key, data)


def read_record(location: Location, dataset: str, split: str) -> bytes | None:
    """Returns the record of a split's plan as it is now; None where it has none."""
    try:
        return location.read(plan_key(dataset, split), LARGEST_PLAN)
    except FileNotFoundError:
        return None


def read_plan(
    location: Location, dataset: str, split: str, *, record: bytes | None = None
) -> ShardPlan:
    """Reads a split's plan; of one in parts the record alone.

    Args:
        location: The store.
        dataset: Of the split.
        split: Its own name.
        record: What `read_record` found already.

    Raises:
        StoreNotFoundError: The store has no such split; those it has are named.
        IntegrityError: The plan was altered, is another split's, or was lost.
    """
    key = plan_key(dataset, split)
    try:
        data = location.read(key, LARGEST_PLAN) if record is None else record
        plan = from_record(data, location, dataset, split)
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


def to_json(plan: ShardPlan) -> bytes:
    """Returns a plan as stores of version 1 have it."""
    samples = [sample.to_record() for sample in plan.samples]
    return _seal(plan, samples=samples, rows=plan.rows.tolist())


def from_record(data: bytes, location: Location, dataset: str, split: str) -> ShardPlan:
    """Reads a plan's record; what later minor versions add is left.

    Raises:
        IntegrityError: It was altered, or cannot be a plan.
    """
    found = records.unsealed(data, _WHAT, _REMEDY)
    if "parts" not in found:
        return _from_one_text(records.typed(_InOneText, found, _WHAT, _REMEDY))
    record = records.typed(_InParts, found, _WHAT, _REMEDY)
    size, shards = record.samples_per_shard, 0
    for part in record.parts:
        if part.first_row != shards * size:
            raise _impossible("a part does not begin at the shard that the one before it ends with")
        shards = -(-part.stop // size)
    plan = record.plan(Samples())
    parts = (
        SamplePart(record=part, location=location, key=_part_key(plan, part))
        for part in record.parts
    )
    return record.plan(Samples(parts))


def _from_one_text(record: _InOneText) -> ShardPlan:
    rows, size = np.array(record.rows, dtype=np.int64), record.samples_per_shard
    ascending = bool((np.diff(rows, prepend=-1) > 0).all())
    steps = np.diff(rows // size, prepend=-1)
    if len(rows) != len(record.samples) or not ascending or (steps > 1).any():
        raise _impossible(
            "its rows do not ascend from 0, one a sample, with no empty shard before the last"
        )
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist()
    runs = zip(starts, [*starts[1:], len(rows)], strict=True)
    parts = (
        part
        for start, stop in runs
        for part in cut_parts(_tables(record.samples[start:stop]), int(rows[start]), SAMPLES_A_PART)
    )
    try:
        return record.plan(Samples(parts)).require_whole()
    except LatentStoreError as error:
        raise IntegrityError(f"{error}; {_REMEDY}") from error


def _tables(samples: tuple[Sample, ...]) -> Iterator[pa.Table]:
    starts = range(0, len(samples), SAMPLES_A_PART)
    return (to_table(samples[start : start + SAMPLES_A_PART]) for start in starts)


def _part_key(plan: ShardPlan, record: PartRecord) -> str:
    shard = record.first_row // plan.samples_per_shard
    prefix = parts_prefix(plan.dataset, plan.split)
    return f"{prefix}/{shard:06d}-{record.crc32c:08x}.parquet"


def _parts_of(location: Location, plan: ShardPlan, data: bytes) -> tuple[SamplePart, ...]:
    """Returns the parts in the store that a record names; none where it is no such record."""
    try:
        parts = from_record(data, location, plan.dataset, plan.split).samples.parts
    except IntegrityError:
        return ()
    return tuple(part for part in parts if part.location is not None)


def _seal(plan: ShardPlan, **more: object) -> bytes:
    return records.seal_record(
        {
            "dataset": plan.dataset,
            "split": plan.split,
            "samples_per_shard": plan.samples_per_shard,
            "canvas": plan.canvas,
            **more,
            "mixed_sizes": plan.mixed_sizes,
        }
    )


def _impossible(what: str) -> IntegrityError:
    return IntegrityError(f"{_WHAT} is none: {what}; {_REMEDY}")


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
