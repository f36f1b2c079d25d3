"""Closes components: every shard checked against its receipt, indexes written, then ``complete``.

Idempotent; the launcher of a job calls it, and for a detached job anybody may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from latent_store import component, groups, index, receipts
from latent_store.errors import JobFailedError
from latent_store.lease import Lease
from latent_store.location import Location
from latent_store.plan import ShardPlan, list_splits, read_plan
from latent_store.receipts import Receipt

KEY_DEPTHS = {"labels": 0, "teacher": 1, "latents": 1, "ranked": 2}
"""How many further path parts a component of each kind has."""


@dataclass(frozen=True, kw_only=True)
class Closed:
    """What closing one component found.

    Attributes:
        defects: Shard -> why it does not count. Empty for a whole component.
        failed: Rows in the dead-letter table.
    """

    split: str
    component: str
    num_shards: int
    defects: dict[int, str]
    failed: tuple[dict[str, object], ...]

    @property
    def complete(self) -> bool:
        """Whether every shard is whole."""
        return not self.defects


def component_keys(location: Location, split: str) -> list[str]:
    """Lists the components of a split, finished or not."""
    kinds = groups.child_names(location, split)
    return [
        key
        for kind, depth in KEY_DEPTHS.items()
        if kind in kinds
        for key in _below(location, split, kind, depth)
    ]


def finalize(
    location: Location,
    split: str,
    key: str,
    *,
    max_failures: int | None = None,
    on_shard: Callable[[int], object] = lambda _: None,
) -> Closed:
    """Closes one component if it is whole.

    Every object is read and compared with its receipt, because two attempts at one shard can
    interleave. The receipt of a shard that does not agree is removed, so that a rerun of the job
    writes exactly that shard again.

    Args:
        location: The store.
        split: ``dataset/split``.
        key: The component.
        max_failures: Failed rows that are tolerated; None takes what the job recorded.
        on_shard: Called after each shard, for a progress bar.

    Raises:
        JobFailedError: Shards are missing or damaged, or more rows failed than tolerated.
    """
    plan = covered(location, read_plan(location, *split.split("/")), key)
    group = component.open_component(location, split, key, writable=True)
    closed, good = check_shards(location, plan, key, on_shard)
    for shard in closed.defects:
        location.delete(receipts.receipt_key(split, key, shard))
    if closed.defects:
        group.attrs.update({"complete": False})
        raise JobFailedError(_defect_message(closed))
    limit = int(group.attrs.get("max_failures", 0)) if max_failures is None else max_failures
    write_indexes(location, plan, key, good)
    if len(closed.failed) > limit:
        group.attrs.update({"complete": False})
        raise JobFailedError(_failure_message(closed, limit))
    group.attrs.update({"complete": True, "num_rows": plan.num_rows})
    publish(location, split, key)
    return closed


def finalize_all(location: Location) -> Iterator[Closed | JobFailedError]:
    """Closes every component of every split, one after another; yields what came of each."""
    for split in list_splits(location):
        for key in component_keys(location, split):
            try:
                yield finalize(location, split, key)
            except JobFailedError as error:
                yield error


def covered(location: Location, plan: ShardPlan, key: str) -> ShardPlan:
    """Returns the part of a plan that a component covers: all, or less where it is behind.

    Its job noted the length of the plan as it was then; an append since, by another component's
    job, is no defect of this one.
    """
    group = groups.open_group(location, f"{plan.name}/{key}")
    return plan if group is None else plan.up_to(int(group.attrs.get("num_rows", plan.num_rows)))


def check_shards(
    location: Location, plan: ShardPlan, key: str, on_shard: Callable[[int], object]
) -> tuple[Closed, list[Receipt]]:
    """Compares every shard that a component covers with its receipt; changes nothing."""
    plan = covered(location, plan, key)
    defects: dict[int, str] = {}
    good: list[Receipt] = []
    for shard in range(plan.num_shards):
        planned = plan.in_shard(shard)
        receipt = receipts.read_receipt(location, plan.name, key, shard)
        if receipt is None:
            defects[shard] = _why_unwritten(location, plan.name, key, shard)
        elif [r.row for r in receipt.rows] != [row for row, _ in planned]:
            defects[shard] = "its receipt lists other rows than the plan"
        elif (defect := receipt.defect(location)) is not None:
            defects[shard] = defect
        else:
            good.append(receipt)
        on_shard(shard)
    failed = tuple(index.dead_letters(index.rows_table(good))) if good else ()
    closed = Closed(
        split=plan.name, component=key, num_shards=plan.num_shards, defects=defects, failed=failed
    )
    return closed, good


def write_indexes(location: Location, plan: ShardPlan, key: str, good: Sequence[Receipt]) -> None:
    """Writes a component's tables, and with the labels the samples table."""
    name = index.part_name(key)
    rows = index.rows_table(good)
    index.write_table(location, index.index_key(plan.name, name), rows)
    index.write_table(
        location, index.index_key(plan.name, f"{name}.objects"), index.objects_table(good)
    )
    letters = rows.filter([status == receipts.FAILED for status in rows["status"].to_pylist()])
    letters_key = index.index_key(plan.name, f"{name}.dead_letters")
    if letters.num_rows:
        index.write_table(location, letters_key, letters)
    else:
        location.delete(letters_key)
    if "image_sha256" in rows.column_names:
        pairs = zip(rows["row"].to_pylist(), rows["image_sha256"].to_pylist(), strict=True)
        digests = {row: digest for row, digest in pairs if digest}
        index.write_table(
            location, index.index_key(plan.name, "samples"), index.samples_table(plan, digests)
        )


def publish(location: Location, split: str, key: str) -> None:
    """Consolidates the metadata of a finished component, its split and the root.

    The root's copy shows foreign readers what is finished, and nothing else; this package never
    reads it. Jobs that finish at once take turns, so that none overwrites the other's news.
    """
    component.consolidate(location, f"{split}/{key}")
    with Lease(location, "root", "metadata", wait_seconds=120):
        component.consolidate(location, split)
        component.consolidate(location, "")


def _below(location: Location, split: str, key: str, depth: int) -> Iterator[str]:
    if depth == 0:
        yield key
        return
    for name in groups.child_names(location, f"{split}/{key}"):
        yield from _below(location, split, f"{key}/{name}", depth - 1)


def _why_unwritten(location: Location, split: str, key: str, shard: int) -> str:
    try:
        note = location.read(receipts.failure_key(split, key, shard)).decode()
    except FileNotFoundError:
        return "not written yet"
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
        f"--max_failures {limit} (first: {first['sample_id']}: {first['reason']}); mend them and "
        "run the same job again, or raise --max_failures"
    )
