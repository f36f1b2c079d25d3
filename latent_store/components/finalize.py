"""Closes components: every shard checked against its receipt, indexes written, then `complete`.

Idempotent; the launcher of a job calls it, and for a detached job anybody may.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import zarr

from latent_store.components import base as component
from latent_store.components.checking import (
    Closed,
    check_shards,
    component_tables,
    covered,
    samples_of,
)
from latent_store.components.registry import all_splits, component_keys
from latent_store.components.settlement import (
    nodes_of,
    settle_component,
    settle_held,
    settle_split,
    shared_metadata,
    show,
    table_names,
)
from latent_store.console import describe_os_error
from latent_store.errors import IntegrityError, JobFailedError, LatentStoreError
from latent_store.format.plan import ShardPlan
from latent_store.format.plan_files import read_plan
from latent_store.shards import index, receipts
from latent_store.storage import groups, seals
from latent_store.storage.lease import Lease, LeaseClaim
from latent_store.storage.location import Location


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

    Every object is compared with its receipt, because two attempts at one shard can interleave: by
    the digest that an object store gives of what it holds, or else by reading it. The receipt of a
    shard that does not agree is removed, so that a rerun of the job writes exactly that one again.

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
    closed = judge(location, split, key, max_failures, on_shard, claim)
    seal(location, split, [(closed, claim)])
    return closed


def judge(
    location: Location,
    split: str,
    key: str,
    max_failures: int | None = None,
    on_shard: Callable[[int], object] = lambda _: None,
    claim: LeaseClaim | None = None,
    plan: ShardPlan | None = None,
) -> Closed:
    """Does of `finalize` what comes before anything is sealed.

    Args:
        location: The store.
        split: `dataset/split`.
        key: The component.
        max_failures: As for `finalize`.
        on_shard: Likewise.
        claim: The component's lease, which is asked for before anything is removed.
        plan: What the component's job covers, of the plan as it is now, where that is known.
    """
    plan = plan or covered(location, read_plan(location, *split.split("/")).require_whole(), key)
    group = component.open_component(location, split, key)
    _require_metadata(location, group, plan)
    closed = check_shards(location, plan, key, on_shard)
    recorded = component.noted_record(location, group).max_failures
    limit = recorded if max_failures is None else max_failures
    if not closed.defects and len(closed.failed) <= limit:
        return closed
    if claim is not None:
        claim.require()
    if closed.defects:
        for shard in closed.defects:
            location.delete(receipts.receipt_key(split, key, shard))
        reopen(location, group, closed.defects)
        raise JobFailedError(_defect_message(closed))
    # The other tables stay those of what is finished.
    letters = table_names(key)[-1]
    _write_tables(location, group, split, {letters: component_tables(closed)[letters]})
    raise JobFailedError(_failure_message(closed, limit))


def seal(
    location: Location, split: str, judged: Sequence[tuple[Closed, LeaseClaim | None]]
) -> None:
    """Seals components that `judge` has found whole, and settles them.

    Args:
        location: The store.
        split: `dataset/split`.
        judged: Each with its lease, which is asked for.

    Raises:
        LeaseLostError: Another job writes one of them by now.
    """
    with shared_metadata(location):
        attrs = []
        for closed, claim in judged:
            if claim is not None:
                claim.require()
            attrs.append(_write_what_is_sealed(location, closed))
        nodes = nodes_of(location)
        sealed = []
        try:
            for (closed, _), closing in zip(judged, attrs, strict=True):
                show(location, f"{split}/{closed.component}", nodes, closing)
                sealed.append(closed.component)
        finally:
            if sealed:
                settle_held(location, split, sealed, nodes)


def _write_what_is_sealed(location: Location, closed: Closed) -> dict[str, Any]:
    """Writes a component's tables, and returns the attributes that it is sealed with, without those
    of the job under way."""
    split, plan = closed.split, closed.plan
    group = component.open_component(location, split, closed.component)
    digests = _write_tables(location, group, split, component_tables(closed))
    _publish_samples(location, plan, closed)
    attrs = {
        **component.noted(group),
        "complete": True,
        "num_rows": plan.num_rows,
        "num_shards": plan.num_shards,
        "tables": digests,
        "pictures_crc32c": plan.pictures_crc32c(closed.usable),
    }
    passing = (component.PENDING, component.AGAIN)
    return seals.sealed({name: attrs[name] for name in sorted(attrs) if name not in passing})


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
                    closed = judge(location, split, key, claim=lease.claim)
                    with shared_metadata(location):
                        lease.claim.require()
                        closing = _write_what_is_sealed(location, closed)
                        show(location, f"{split}/{key}", attrs=closing)
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
        with shared_metadata(location):
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
    groups.ensure_groups(location, group.path.rpartition("/")[0])


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
    """Writes the samples table anew, with the lease of `shared_metadata` held."""
    table = samples_of(location, plan, closed)
    if table is None:
        return
    groups.ensure_groups(location, plan.name)
    with groups.changed_attrs(location, plan.name) as attrs:
        known = attrs.get(index.SAMPLES_CRC32C)
        renewed = index.renew_table(location, plan.name, "samples", table, known)
        attrs[index.SAMPLES_CRC32C] = renewed


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
