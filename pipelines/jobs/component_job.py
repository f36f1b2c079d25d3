"""The frame of every job that writes components of a store, shard by shard.

Plain functions under Beam: `write_shard` is one element, and is tested without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np
import pyarrow.compute as pc
import torch
from apache_beam.options.pipeline_options import PipelineOptions

from latent_store.batches.prefetch import Prefetcher
from latent_store.codec.numerics import describe_device, torch_threads
from latent_store.components import base as component
from latent_store.components.checking import Closed, as_it_is_now
from latent_store.components.creation import Arrays, create_component
from latent_store.components.finalize import judge, seal
from latent_store.components.writer import ShardWriter
from latent_store.console import is_of_storage, progress
from latent_store.errors import LatentStoreError, LeaseLostError
from latent_store.format.plan import ShardPlan
from latent_store.format.samples import Sample
from latent_store.format.schema import ComponentSpec
from latent_store.shards import receipts
from latent_store.shards.index import part_name
from latent_store.shards.receipts import FAILED, OK, Receipt, RowRecord
from latent_store.storage.lease import Lease, LeaseClaim
from latent_store.storage.location import Location
from pipelines.jobs.beam_jobs import own_cores, run_over_shards
from pipelines.jobs.job_flags import MOST_AT_ONCE
from pipelines.jobs.opened import open_plan

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_QUIET_POLL_SECONDS = 10.0
"""Where a line a minute is all that is said: a store may be far away."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample's contribution to one component."""

    arrays: Mapping[str, np.ndarray]
    streams: Mapping[str, bytes] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class ShardRows:
    """The rows of one component's shard, gathered sample by sample."""

    columns: dict[str, dict[int, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))
    streams: dict[str, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    records: list[RowRecord] = field(default_factory=list)

    def put(self, row: int, sample: Sample, encoded: Encoded) -> None:
        """Adds a row with its values."""
        for name, value in encoded.arrays.items():
            self.columns[name][row] = value
        for name, data in encoded.streams.items():
            self.streams[name][row] = data
        self._record(row, sample, status=OK, stats=encoded.stats)

    def leave(self, row: int, sample: Sample, status: str, reason: str) -> None:
        """Adds a row without values; `status` is one of the receipts'."""
        self._record(row, sample, status=status, reason=reason)

    def _record(self, row: int, sample: Sample, **more: Any) -> None:
        self.records.append(RowRecord(row=row, sample_id=sample.sample_id, **more))


_UNDER_WAY: dict[tuple[str, int], Collection[ShardRows]] = {}
"""Run and shard -> the rows of its components that this process has gathered so far."""


@dataclass(frozen=True, kw_only=True)
class ComponentJob(ABC):
    """A job that writes components of one split; it is small and picklable, as workers get it.

    A kind of job says what the rows of one shard are, and which finished rows are made again. All
    else is here: arrays, missing shards, failures, the progress bar, closing.

    Attributes:
        split: `dataset/split`.
        cores: Of one worker; None where it knows itself (`own_cores`).
        max_failures: Failed rows that are tolerated; None keeps to what the component's job
            tolerated before, or 0.
        claims: Component -> its lease, which is asked for before anything is written.
        run_id: Of the run, for which a worker opens the store once.
        arrays: Component -> the metadata of its arrays, which lies in the store by then.
    """

    store: Location
    split: str
    cores: int | None = None
    max_failures: int | None = None
    claims: Mapping[str, LeaseClaim] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: uuid4().hex)
    arrays: Mapping[str, Arrays] = field(default_factory=dict)

    verb: ClassVar[str]
    """The job in one word."""

    @property
    @abstractmethod
    def components(self) -> Sequence[ComponentSpec]:
        """Those to write; each shard of each is written whole."""

    @abstractmethod
    def fill(self, plan: ShardPlan, shard: int, rows: Mapping[str, ShardRows]) -> None:
        """Adds every planned row of a shard to each of `rows`, which has component keys.

        Raises:
            LatentStoreError: The shard as a whole cannot be made.
        """

    @abstractmethod
    def again(self, plan: ShardPlan, spec: ComponentSpec) -> Callable[[RowRecord], bool]:
        """Returns whether a row of a finished shard is to be made again, and the shard with it."""

    @property
    def cores_here(self) -> int:
        """The cores that a shard may use in this process, a worker."""
        return self.cores or own_cores()

    @property
    def at_once(self) -> int:
        """Rows under way at a time for one shard: networks, files and zstd need no interpreter, so
        that cores share rows better than layers."""
        return min(self.cores_here, MOST_AT_ONCE)

    @contextlib.contextmanager
    def under_way(
        self, work: Callable[..., Any], items: Sequence[tuple[Any, ...]]
    ) -> Iterator[Iterator[Any]]:
        """Works on items, several at once, each on one thread of torch, while a block runs.

        Yields:
            An iterator over `work(*item)` of each, in their order.
        """
        # A thread of its own is no help to one item, and ctrl-C would have to wait for it.
        at_once = min(self.at_once, len(items))
        workers = at_once if at_once > 1 else 0
        with torch_threads(1), contextlib.closing(Prefetcher(work, workers=workers)) as ahead:
            yield ahead.map(items)

    def written_by(self) -> dict[str, str | int]:
        """Returns what computes a shard's numbers here, for its receipts: nothing of which another
        runner on the same machine changes a word.

        Raises:
            LatentStoreError: This worker cannot.
        """
        version = str(torch.__version__)
        return {"torch": version, "device": describe_device(torch.device("cpu"))}

    def run(self, plan: ShardPlan, options: PipelineOptions) -> Iterator[Closed]:
        """Writes the shards that lack a receipt, then closes the components, one after another.

        The caller holds their leases, `claims`.

        Raises:
            LeaseLostError: One of them was taken over meanwhile.
            JobFailedError: Shards are missing, or more rows failed than are tolerated.
        """
        self._require_leases()
        done = self._finished()
        arrays = {s.key: self._prepare(plan, s, empty=not done[s.key]) for s in self.components}
        kept = [self._forget(plan, spec, done[spec.key]) for spec in self.components]
        shards = [n for n in range(plan.num_shards) if not all(n in part for part in kept)]
        with self._progress(plan, shards):
            if shards:
                work = dataclasses.replace(self, arrays=arrays).write_shard
                run_over_shards(self.verb.capitalize(), shards, work, options)
        plan = as_it_is_now(self.store, plan)
        judged: list[tuple[Closed, LeaseClaim | None]] = []
        try:
            for key in [spec.key for spec in self.components]:
                claim = self.claims.get(key)
                with progress(total=plan.num_shards, desc=f"check {key}", unit="shard") as bar:
                    closed = judge(
                        *(self.store, plan.name, key),
                        on_shard=lambda _: bar.update(),
                        claim=claim,
                        plan=plan,
                    )
                judged.append((closed, claim))
        finally:
            if judged:
                seal(self.store, plan.name, judged)
        yield from (closed for closed, _ in judged)

    def write_shard(self, shard: int) -> int:
        """Writes one shard of every component that lacks it; returns of how many.

        An error of the whole shard (a full disk, say) becomes a note that `finalize` reports: it
        does not end the job. Where a lease was lost nothing is made or written: `run` says so.
        """
        lacking = [
            spec
            for spec in self.components
            if receipts.read_receipt(self.store, self.split, spec.key, shard) is None
        ]
        if not lacking:
            return 0
        plan = open_plan(self.store, self.split, self.run_id)
        try:
            self._require_leases()
            gathered = {spec.key: ShardRows() for spec in lacking}
            _UNDER_WAY[self.run_id, shard] = gathered.values()
            written_by = self.written_by()
            self.fill(plan, shard, gathered)
            for spec in lacking:
                rows = gathered[spec.key]
                claim, arrays = self.claims.get(spec.key), self.arrays.get(spec.key)
                writer = ShardWriter(self.store, plan, spec, claim, arrays, written_by)
                writer.write(shard, rows.columns, rows.streams, rows.records)
        except LeaseLostError:
            return 0
        except Exception as error:
            known = isinstance(error, (OSError, torch.OutOfMemoryError, LatentStoreError))
            if not (known or is_of_storage(error)):
                raise
            self._note_failure(shard, lacking, str(error) or type(error).__name__)
            return 0
        finally:
            _UNDER_WAY.pop((self.run_id, shard), None)
        return len(lacking)

    def _require_leases(self) -> None:
        for claim in self.claims.values():
            claim.require()

    def _prepare(self, plan: ShardPlan, spec: ComponentSpec, *, empty: bool) -> Arrays:
        def notes(known: Mapping[str, Any]) -> dict[str, Any]:
            kept = known.get("max_failures", 0)
            return {"max_failures": kept if self.max_failures is None else self.max_failures}

        return create_component(self.store, plan, spec, notes, empty=empty)

    def _forget(self, plan: ShardPlan, spec: ComponentSpec, done: Collection[int]) -> set[int]:
        """Forgets those of the finished shards that are to be made again, once readers know that
        they are left out.

        Returns:
            The others.
        """
        again = self.again(plan, spec)
        there = receipts.read_receipts(self.store, plan.name, spec.key, sorted(done))
        group = component.open_component(self.store, plan.name, spec.key)
        record = component.noted_record(self.store, group)
        shards = [
            shard
            for shard, receipt in there.items()
            if any(map(again, receipt.rows)) or component.foreign(record, plan, receipt)
        ]
        lacking = {*range(plan.num_shards)} - there.keys()
        component.leave_out(self.store, f"{plan.name}/{spec.key}", lacking.union(shards))
        for shard in shards:
            self.store.delete(receipts.receipt_key(plan.name, spec.key, shard))
        return there.keys() - {*shards}

    def _finished(self) -> dict[str, set[int]]:
        keys = [spec.key for spec in self.components]
        return receipts.finished_in(self.store, self.split, keys)

    @contextlib.contextmanager
    def _progress(self, plan: ShardPlan, shards: Sequence[int]) -> Iterator[None]:
        """Shows how many pictures of shards are done while a block runs.

        Those with receipts are, wherever the workers are; of a shard that this process makes those
        that are gathered, too.
        """
        pictures = {shard: plan.count_in(shard) for shard in shards}

        def finished() -> int:
            # These first: a shard that ends meanwhile has its receipt, and counts once.
            under_way = list(_UNDER_WAY.items())
            done = set.intersection(*self._finished().values())
            count = sum(pictures[shard] for shard in shards if shard in done)
            for (run, shard), rows in under_way:
                if run == self.run_id and shard in pictures and shard not in done:
                    count += min(len(part.records) for part in rows)
            return count

        stop = threading.Event()
        label = f"{self.verb} {self.split}"
        pause = _POLL_SECONDS if sys.stderr.isatty() else _QUIET_POLL_SECONDS
        with progress(total=sum(pictures.values()), desc=label, unit="picture") as bar:

            def watch() -> None:
                while not stop.wait(pause):
                    bar.update(finished() - bar.n)

            thread = threading.Thread(target=watch, name="progress", daemon=True)
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()
                bar.update(finished() - bar.n)

    def _note_failure(self, shard: int, specs: Sequence[ComponentSpec], text: str) -> None:
        _LOG.error("shard %d of %s failed: %s", shard, self.split, text)
        for spec in specs:
            # The note is a courtesy; where the disk is full it cannot be written either. Clients of
            # object stores raise what they like.
            with contextlib.suppress(Exception):
                key = receipts.failure_key(self.split, spec.key, shard)
                self.store.write(key, text.encode())


@contextlib.contextmanager
def leased(
    location: Location, split: str, keys: Sequence[str], *, steal: bool
) -> Iterator[dict[str, LeaseClaim]]:
    """Holds the right to write components of a split, `dataset/split`, while a block runs.

    Yields:
        Component -> its lease, for those who write.

    Raises:
        LeaseHeldError: Another job writes one of them.
    """
    with contextlib.ExitStack() as leases:
        taken = {key: Lease(location, split, key, steal=steal) for key in keys}
        for lease in taken.values():
            leases.enter_context(lease)
        leases.enter_context(location.owning(*(f"{split}/{key}" for key in keys)))
        yield {key: lease.claim for key, lease in taken.items()}


def finished_receipts(location: Location, split: str, key: str) -> dict[int, Receipt]:
    """Returns the receipt of every finished shard of a component."""
    done = receipts.finished_shards(location, split, key)
    return receipts.read_receipts(location, split, key, sorted(done))


def finished_rows(location: Location, split: str, key: str) -> Iterator[RowRecord]:
    """Returns the records of every finished shard's rows."""
    return (row for shard in finished_receipts(location, split, key).values() for row in shard.rows)


def failed_ids(location: Location, split: str) -> frozenset[str]:
    """Returns the ids of the samples that failed in any component of a split."""
    keys = receipts.components_with_receipts(location, split)
    return frozenset(name for key in keys for name in _failed_of(location, split, key))


def _failed_of(location: Location, split: str, key: str) -> list[str]:
    """Returns the ids of a component's failed samples: those that its table names, where it is
    finished, and nothing was begun since; else those that its receipts do, one by one."""
    with contextlib.suppress(LatentStoreError):
        group = component.open_component(location, split, key)
        if component.is_readable(location, group) and not component.pending(group):
            table = component.read_table(location, group, split, part_name(key))
            return table.filter(pc.equal(table["status"], FAILED))["sample_id"].to_pylist()
    rows = finished_rows(location, split, key)
    return [record.sample_id for record in rows if record.status == FAILED]
