"""Holds a component to its receipts, and tells what its tables are then; changes nothing."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from latent_store.components import base as component
from latent_store.components.base import ComponentRecord
from latent_store.console import describe_os_error
from latent_store.errors import IntegrityError, LatentStoreError
from latent_store.format.plan import ShardPlan
from latent_store.format.plan_files import read_plan
from latent_store.shards import index, receipts
from latent_store.shards.receipts import Receipt, RowRecord
from latent_store.storage import groups
from latent_store.storage.location import Location
from latent_store.storage.requests import Listed

_AT_ONCE = 16
"""Shards that are compared at a time: most of it is waiting for a store."""
_planning = threading.Lock()
"""Or shards that are compared together would each read the same part of the plan."""
_MOST_READ = 2**30
"""Bytes of shards that are in memory at a time for it; a larger one is there alone."""


@dataclass(frozen=True, kw_only=True)
class Closed:
    """One component, held to its receipts.

    Attributes:
        plan: The part of the split's plan that it covers.
        receipts: Of the shards that are whole, in their order.
        defects: Shard -> why it does not count. Empty for a whole component.
        unread: Those of the defects that only say that the system did not let it be read.
    """

    split: str
    component: str
    num_shards: int
    plan: ShardPlan
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


def covered(location: Location, plan: ShardPlan, key: str) -> ShardPlan:
    """Returns the part of a plan that a component's job covers: all, or less where it is behind.

    The job noted the length of the plan as it was then; an append since, by another component's
    job, is no defect of this one.
    """
    num_rows = _record_of(location, plan, key).num_rows
    return plan if num_rows is None else plan.up_to(num_rows)


def as_it_is_now(location: Location, plan: ShardPlan) -> ShardPlan:
    """Returns the rows of a plan that was read before, as the plan has them by now.

    While a job ran, one of another component may have mended a picture, or listed its annotations.

    Raises:
        IntegrityError: The plan was altered or lost.
    """
    now = read_plan(location, plan.dataset, plan.split).up_to(plan.num_rows)
    return plan if now.samples == plan.samples else now.require_whole()


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
    read: bool = False,
) -> Closed:
    """Compares every shard that a component covers with its receipt; changes nothing.

    Args:
        location: The store.
        plan: The split's plan.
        key: The component.
        on_shard: Called after each shard, for a progress bar.
        go_on: Take what the system does not let be read as a defect.
        read: Read every object, whatever its store says of it.

    Raises:
        OSError: Something cannot be read, and `go_on` is false.
    """
    record = _record_of(location, plan, key)
    plan = plan if record.num_rows is None else plan.up_to(record.num_rows)
    defects: dict[int, str] = {}
    unread = set()
    good: list[Receipt] = []
    ask, listed = _asking(location, plan, key, read=read)
    room = _Room(_MOST_READ)

    def check(shard: int) -> tuple[Receipt | None, str | None, OSError | None]:
        try:
            receipt = ask(shard)
            with room.held(sum(o.length for o in receipt.objects.values()) if receipt else 0):
                defect = _shard_defect(location, plan, key, shard, receipt, record, listed)
        except OSError as error:
            return None, describe_os_error(error), error
        return receipt, defect, None

    with contextlib.closing(_in_order(check, plan.num_shards)) as checked:
        for shard, (receipt, defect, error) in enumerate(checked):
            if error is not None:
                if not go_on:
                    raise error
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
        plan=plan,
        receipts=tuple(good),
        defects=defects,
        unread=frozenset(unread),
    )


class _Room:
    """A number of bytes, parts of which are held at a time; who asks for more than all gets all."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def held(self, amount: int) -> Iterator[None]:
        """Holds a part while a block runs; waits until it is there."""
        amount = min(amount, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


def _in_order(work: Callable[[int], Any], count: int) -> Generator[Any, None, None]:
    """Yields what work gives for each number below `count`, `_AT_ONCE` under way at a time."""
    pool = ThreadPoolExecutor(_AT_ONCE, "check")
    try:
        ahead = deque(pool.submit(work, number) for number in range(min(count, 2 * _AT_ONCE)))
        for number in range(count):
            yield ahead.popleft().result()
            if number + 2 * _AT_ONCE < count:
                ahead.append(pool.submit(work, number + 2 * _AT_ONCE))
    finally:
        pool.shutdown(cancel_futures=True)


def _asking(
    location: Location, plan: ShardPlan, key: str, *, read: bool
) -> tuple[Callable[[int], Receipt | None], Mapping[str, Listed] | None]:
    """Returns what gives a shard's receipt, and what an object store lists of a component."""
    if location.local_path is not None:
        return partial(receipts.read_receipt, location, plan.name, key), None
    found = receipts.read_receipts(location, plan.name, key, range(plan.num_shards))
    # After the receipts: what an attempt wrote since must not be taken for what they say.
    return found.get, None if read else location.listed(f"{plan.name}/{key}")


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
    if len(told) < len(plan.rows):
        known = _known_digests(location, plan.name)
    return index.samples_table(plan, {**known, **told})


def _known_digests(location: Location, split: str) -> dict[int, str]:
    """Returns the pictures' digests that the samples table has, by row; none of a damaged one."""
    with contextlib.suppress(IntegrityError):
        there = index.read_samples(location, split)
        return dict(zip(there["row"].to_pylist(), there["sha256"].to_pylist(), strict=True))
    return {}


def _shard_defect(
    location: Location,
    plan: ShardPlan,
    key: str,
    shard: int,
    receipt: Receipt | None,
    record: ComponentRecord,
    listed: Mapping[str, Listed] | None,
) -> str | None:
    if receipt is None:
        return _why_unwritten(location, plan.name, key, shard)
    with _planning:
        planned = [(row, sample.sample_id) for row, sample in plan.in_shard(shard)]
        if [(r.row, r.sample_id) for r in receipt.rows] != planned:
            return "its receipt lists other rows or samples than the plan"
        foreign = component.foreign(record, plan, receipt)
    return foreign or receipt.defect(location, listed)


def _why_unwritten(location: Location, split: str, key: str, shard: int) -> str:
    try:
        note = location.read(receipts.failure_key(split, key, shard)).decode(errors="replace")
    except FileNotFoundError:
        there = location.exists(receipts.receipt_key(split, key, shard))
        return "its receipt was altered" if there else "not written yet"
    return f"its last attempt failed: {note}"
