"""Closes components: every shard checked against its receipt, indexes written, then `complete`.

Idempotent; the launcher of a job calls it, and for a detached job anybody may.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import zarr

from latent_store.components import base as component
from latent_store.components.base import ComponentRecord
from latent_store.components.registry import all_splits, component_keys
from latent_store.components.settlement import (
    settle,
    settle_component,
    settle_split,
    show,
    table_names,
)
from latent_store.console import describe_os_error
from latent_store.errors import IntegrityError, JobFailedError, LatentStoreError
from latent_store.format.plan import ShardPlan
from latent_store.format.plan_files import read_plan
from latent_store.shards import index, receipts
from latent_store.shards.receipts import Receipt, RowRecord
from latent_store.storage import groups, seals
from latent_store.storage.lease import Lease, LeaseClaim
from latent_store.storage.location import Location


@dataclass(frozen=True, kw_only=True)
class Closed:
    """One component, held to its receipts.

    Attributes:
        receipts: Of the shards that are whole, in their order.
        defects: Shard -> why it does not count. Empty for a whole component.
        unread: Those of the defects that only say that the system did not let it be read.
    """

    split: str
    component: str
    num_shards: int
    receipts: tuple[Receipt, ...]
    defects: dict[int, str]
    unread: frozenset[int] = frozenset()

    @property
    def usable(self) -> list[int]:
        """The rows whose status is `ok`, ascending."""
        return [row for receipt in self.receipts for row in receipt.usable]

    @property
    def failed(self) -> list[RowRecord]:
        """Rows in the dead-letter table."""
        rows = (record for receipt in self.receipts for record in receipt.rows)
        return [record for record in rows if record.status == receipts.FAILED]


def finalize(
    location: Location,
    split: str,
    key: str,
    *,
    max_failures: int | None = None,
    on_shard: Callable[[int], object] = lambda _: None,
    claim: LeaseClaim | None = None,
) -> Closed:
    """Closes one component if it is whole.

    Every object is read and compared with its receipt, because two attempts at one shard can
    interleave. The receipt of a shard that does not agree is removed, so that a rerun of the job
    writes exactly that shard again.

    Args:
        location: The store.
        split: `dataset/split`.
        key: The component.
        max_failures: Failed rows that are tolerated; None takes what the job recorded.
        on_shard: Called after each shard, for a progress bar.
        claim: The component's lease, which is asked for once all is compared, which takes long.

    Raises:
        LeaseLostError: Another job writes the component by now.
        JobFailedError: Shards are missing or damaged, metadata was altered, or more rows failed
            than tolerated.
    """
    closed = _close(location, split, key, max_failures, on_shard, claim)
    settle(location, split, key)
    return closed


def _close(
    location: Location,
    split: str,
    key: str,
    max_failures: int | None,
    on_shard: Callable[[int], object],
    claim: LeaseClaim | None,
) -> Closed:
    """Does what `finalize` does, up to the seal."""
    plan = covered(location, read_plan(location, *split.split("/")).require_whole(), key)
    group = component.open_component(location, split, key, writable=True)
    _require_metadata(location, group, plan)
    closed = check_shards(location, plan, key, on_shard)
    if claim is not None:
        claim.require()
    for shard in closed.defects:
        location.delete(receipts.receipt_key(split, key, shard))
    if closed.defects:
        reopen(location, group, closed.defects)
        raise JobFailedError(_defect_message(closed))
    attrs = component.noted(group)
    recorded = component.noted_record(location, group).max_failures
    limit = recorded if max_failures is None else max_failures
    tables = component_tables(closed)
    if len(closed.failed) > limit:
        # The other tables stay those of what is finished.
        letters = table_names(key)[-1]
        _write_tables(location, group, split, {letters: tables[letters]})
        raise JobFailedError(_failure_message(closed, limit))
    digests = _write_tables(location, group, split, tables)
    _publish_samples(location, plan, closed)
    closing = {
        **attrs,
        "complete": True,
        "num_rows": plan.num_rows,
        "num_shards": plan.num_shards,
        "tables": digests,
        "pictures_crc32c": plan.pictures_crc32c(closed.usable),
    }
    _seal(location, group, closing)
    return closed


def _seal(location: Location, group: zarr.Group, attrs: Mapping[str, Any]) -> None:
    """Writes a finished component's attributes, without those of the job that was under way."""
    passing = (component.PENDING, component.AGAIN)
    closing = {name: attrs[name] for name in sorted(attrs) if name not in passing}
    groups.update_attrs(location, group.path, seals.sealed(closing), without=passing)


def finalize_all(location: Location, *, steal: bool = False) -> Iterator[Closed | JobFailedError]:
    """Closes every component of every split, one after another; yields what came of each.

    One that another job is writing is named, as is what cannot be read, and the others are closed.
    What follows once they are sealed (`settle`) is done once for all of them, at the end.

    Args:
        location: The store.
        steal: Take components from jobs that are thought dead.
    """
    sealed = set()
    for split in all_splits(location):
        try:
            read_plan(location, *split.split("/"))
        except (LatentStoreError, OSError) as error:
            yield _failed(split, error)
            continue
        there = component_keys(location, split)
        lost = receipts.components_with_receipts(location, split).difference(there)
        for key in [*there, *sorted(lost)]:
            try:
                with Lease(location, split, key, steal=steal) as lease:
                    closed = _close(location, split, key, None, lambda _: None, lease.claim)
                    sealed.add(split)
                    settle_component(location, split, key)
            except (LatentStoreError, OSError) as error:
                yield _failed(f"{split}/{key}", error)
            else:
                yield closed
    if sealed:
        yield from _settle_all(location, sorted(sealed))


def _settle_all(location: Location, splits: list[str]) -> Iterator[JobFailedError]:
    """Settles splits and the root; yields what cannot be, each once."""
    try:
        with Lease(location, "root", "metadata", wait_seconds=120):
            for split in splits:
                try:
                    settle_split(location, split)
                except (LatentStoreError, OSError) as error:
                    yield _failed(split, error)
            show(location, "")
    except (LatentStoreError, OSError) as error:
        yield _failed("the root", error)


def _failed(what: str, error: LatentStoreError | OSError) -> JobFailedError:
    if isinstance(error, LatentStoreError):
        return JobFailedError(str(error))
    return JobFailedError(f"{what}: {describe_os_error(error)}")


def covered(location: Location, plan: ShardPlan, key: str) -> ShardPlan:
    """Returns the part of a plan that a component's job covers: all, or less where it is behind.

    The job noted the length of the plan as it was then; an append since, by another component's
    job, is no defect of this one.
    """
    num_rows = _record_of(location, plan, key).num_rows
    return plan if num_rows is None else plan.up_to(num_rows)


def _record_of(location: Location, plan: ShardPlan, key: str) -> ComponentRecord:
    group = groups.open_group(location, f"{plan.name}/{key}")
    return ComponentRecord() if group is None else component.noted_record(location, group)


def check_shards(
    location: Location,
    plan: ShardPlan,
    key: str,
    on_shard: Callable[[int], object],
    *,
    go_on: bool = False,
) -> Closed:
    """Compares every shard that a component covers with its receipt; changes nothing.

    Args:
        location: The store.
        plan: The split's plan.
        key: The component.
        on_shard: Called after each shard, for a progress bar.
        go_on: Take what the system does not let be read as a defect.

    Raises:
        OSError: Something cannot be read, and `go_on` is false.
    """
    plan, record = covered(location, plan, key), _record_of(location, plan, key)
    defects: dict[int, str] = {}
    unread = set()
    good: list[Receipt] = []
    for shard in range(plan.num_shards):
        try:
            receipt = receipts.read_receipt(location, plan.name, key, shard)
            defect = _shard_defect(location, plan, key, shard, receipt, record)
        except OSError as error:
            if not go_on:
                raise
            receipt, defect = None, describe_os_error(error)
            unread.update([shard] if is_unread(error) else [])
        if receipt is not None and defect is None:
            good.append(receipt)
        else:
            defects[shard] = str(defect)
        on_shard(shard)
    return Closed(
        split=plan.name,
        component=key,
        num_shards=plan.num_shards,
        receipts=tuple(good),
        defects=defects,
        unread=frozenset(unread),
    )


def is_unread(error: LatentStoreError | OSError) -> bool:
    """Tells whether an error says nothing of what was to be read, but that it could not be."""
    gone = FileNotFoundError | NotADirectoryError
    return isinstance(error, OSError) and not isinstance(error, gone)


def component_tables(closed: Closed) -> dict[str, pa.Table]:
    """Returns a component's tables by name; that of the failed rows only if there are any."""
    name = index.part_name(closed.component)
    rows = index.rows_table(closed.receipts)
    letters = rows.filter([status == receipts.FAILED for status in rows["status"].to_pylist()])
    tables = {name: rows, f"{name}.objects": index.objects_table(closed.receipts)}
    return tables | ({f"{name}.dead_letters": letters} if letters.num_rows else {})


def samples_of(location: Location, plan: ShardPlan, closed: Closed) -> pa.Table | None:
    """Returns the samples table, if the component's rows tell the pictures' digests.

    Digests that only another component's rows tell are taken from the table that is there.
    """
    told = {
        record.row: str(record.stats["image_sha256"])
        for receipt in closed.receipts
        for record in receipt.rows
        if record.stats.get("image_sha256")
    }
    if not told:
        return None
    known = {}
    with contextlib.suppress(IntegrityError):
        there = index.read_samples(location, plan.name)
        known = dict(zip(there["row"].to_pylist(), there["sha256"].to_pylist(), strict=True))
    return index.samples_table(plan, {**known, **told})


def _write_tables(
    location: Location, group: zarr.Group, split: str, tables: Mapping[str, pa.Table]
) -> dict[str, int]:
    """Writes tables of a component, and returns the crc32c of each by its name.

    Those that its seal names are kept beside them until it is renewed: readers find them there.
    """
    record = component.read_record(location, group)
    sealed = record.tables if record.complete else {}
    return {
        name: index.renew_table(location, split, name, table, sealed.get(name))
        for name, table in tables.items()
    }


def _require_metadata(location: Location, group: zarr.Group, plan: ShardPlan) -> None:
    # What is sealed now is believed from now on: nothing altered may be among it.
    try:
        if component.read_record(location, group).complete:
            component.require_intact(location, group)
        for what in component.array_defects(location, group, plan).values():
            raise IntegrityError(what)
    except IntegrityError as error:
        groups.update_attrs(location, group.path, {"complete": False})
        raise JobFailedError(str(error)) from error
    groups.make_groups(location, group.path.rpartition("/")[0])


def reopen(location: Location, group: zarr.Group, shards: Collection[int]) -> None:
    """Marks a component as unfinished if one of those shards is among what readers read of it."""
    if set(shards) - begun_shards(location, group, shards):
        groups.update_attrs(location, group.path, {"complete": False})


def begun_shards(location: Location, group: zarr.Group, shards: Collection[int]) -> set[int]:
    """Returns those of some shards that a job adds to a finished component, or writes anew.

    Readers of the component read none of them until the job has finished.
    """
    record = component.read_record(location, group)
    if not (record.complete and component.pending(group)):
        return set()
    again = component.noted_record(location, group).again
    return {shard for shard in shards if shard >= (record.num_shards or 0) or shard in again}


def _publish_samples(location: Location, plan: ShardPlan, closed: Closed) -> None:
    with Lease(location, "root", "metadata", wait_seconds=120):
        table = samples_of(location, plan, closed)
        if table is None:
            return
        known = groups.attrs_of(groups.make_groups(location, plan.name)).get(index.SAMPLES_CRC32C)
        crc32c = index.renew_table(location, plan.name, "samples", table, known)
        groups.update_attrs(location, plan.name, {index.SAMPLES_CRC32C: crc32c})


def _shard_defect(
    location: Location,
    plan: ShardPlan,
    key: str,
    shard: int,
    receipt: Receipt | None,
    record: ComponentRecord,
) -> str | None:
    if receipt is None:
        return _why_unwritten(location, plan.name, key, shard)
    planned = [(row, sample.sample_id) for row, sample in plan.in_shard(shard)]
    if [(r.row, r.sample_id) for r in receipt.rows] != planned:
        return "its receipt lists other rows or samples than the plan"
    return component.foreign(record, plan, receipt) or receipt.defect(location)


def _why_unwritten(location: Location, split: str, key: str, shard: int) -> str:
    try:
        note = location.read(receipts.failure_key(split, key, shard)).decode(errors="replace")
    except FileNotFoundError:
        there = location.exists(receipts.receipt_key(split, key, shard))
        return "its receipt was altered" if there else "not written yet"
    return f"its last attempt failed: {note}"


def _defect_message(closed: Closed) -> str:
    shard, why = min(closed.defects.items())
    return (
        f"{closed.split}/{closed.component} is not whole: {len(closed.defects)} of "
        f"{closed.num_shards} shards do not count (shard {shard}: {why}); run the same job again, "
        "it writes only those"
    )


def _failure_message(closed: Closed, limit: int) -> str:
    first = closed.failed[0]
    return (
        f"{len(closed.failed)} samples of {closed.split}/{closed.component} failed, more than "
        f"`max_failures={limit}` (first: {first.sample_id}: {first.reason}); mend them and "
        "run the same job again, or raise `max_failures=`"
    )
