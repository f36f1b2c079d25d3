"""A reorder is suspended, others make the ranking and its copy again, it wakes: nothing gets mixed.

The store is an object store, where no lock of an operating system keeps the first job out.
"""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import fsspec
import numpy as np
import pytest

import latent_store
from latent_store.components import creation
from latent_store.components.checking import covered
from latent_store.components.finalize import finalize
from latent_store.components.ranked import ranked_spec
from latent_store.components.writer import ShardWriter
from latent_store.errors import (
    IntegrityError,
    JobFailedError,
    LatentStoreError,
    LeaseLostError,
)
from latent_store.shards import receipts
from latent_store.storage import lease as leases
from latent_store.storage.lease import Lease, LeaseClaim
from latent_store.storage.location import Location
from latent_store.tools.verify import verify
from pipelines import frequency, reorder
from pipelines.jobs.reordering import ReorderJob
from tests.conftest import TinyStore

SPLIT, NAME = "cityscapes/val", "moved"
Contents = dict[str, bytes]


@pytest.fixture
def away(tiny_store: TinyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    """The small store in an object store, with a ranking whose copy was not made yet."""
    monkeypatch.setattr(leases, "SETTLE_SECONDS", 0.0)
    location = Location("memory://suspended.zarr")
    fsspec.filesystem("memory").put(f"{tiny_store.url}/", f"{location.root}/", recursive=True)
    rank(1)
    yield location
    location.delete_tree("")


def rank(seed: int, url: str = "memory://suspended.zarr") -> None:
    args = ["--store", url, "--dataset", "cityscapes", "--split", "val"]
    args += ["--ranking", NAME, "--method", "random", "--seed", str(seed), "--keep", "16"]
    assert frequency.main([*args, "--overwrite"]) == 0


def take_over() -> None:
    """Makes the ranking and its copy again, in a job of its own."""
    rank(2)
    args = ["--store", "memory://suspended.zarr", "--dataset", "cityscapes", "--split", "val"]
    assert reorder.main([*args, "--ranking", NAME, "--overwrite", "--steal_lease"]) == 0


def first_job(location: Location) -> ReorderJob:
    """Returns the job of a `reorder-latents` that has begun."""
    store = latent_store.open(location.address)
    split, codec = store[SPLIT], store.codec()
    ranking = store.ranking(codec.codec_id, NAME)
    dtype = str(split.latents().array("y_hat").dtype)
    spec = ranked_spec(codec, NAME, ranking.order, ranking.cuts, split.plan.canvas, dtype)
    creation.create_component(location, covered(location, split.plan, spec.key), spec)
    return ReorderJob(store=location, split=SPLIT, cores=1, ranking=ranking, copy=spec)


def key_of(location: Location) -> str:
    return f"ranked/{latent_store.open(location.address).codec().codec_id}/{NAME}"


def contents(location: Location) -> Contents:
    keys = (key for key in location.sizes("") if "/leases/" not in key)
    return {key: location.read(key) for key in keys}


def read_copy(location: Location) -> np.ndarray:
    ranked = latent_store.open(location.address)[SPLIT].ranked(NAME)
    return ranked.read(ranked.rows)


def require_right(location: Location) -> None:
    """Requires that the copy holds what its ranking says, and that nothing is found amiss."""
    split = latent_store.open(location.address)[SPLIT]
    ranked, latents = split.ranked(NAME), split.latents()
    order = list(ranked.ranking.order)
    np.testing.assert_array_equal(ranked.read(ranked.rows), latents.read(ranked.rows)[:, order])
    assert len(ranked.rows) == len(latents.rows)
    assert list(verify(location)) == []


def test_a_reorder_that_wakes_too_late_writes_nothing(away: Location) -> None:
    with Lease(away, SPLIT, key_of(away)) as lease:
        claims = {key_of(away): lease.claim}
        job = dataclasses.replace(first_job(away), claims=claims)
        assert job.write_shard(0) == 1
        take_over()
        before = contents(away)
        assert job.write_shard(1) == 0
        with pytest.raises(LeaseLostError, match=f"write {SPLIT}/ranked/.* was lost to "):
            list(job.run(latent_store.open(away.address)[SPLIT].plan, None))
        assert contents(away) == before
    require_right(away)


class Suspending(Location):
    """An address at which a job is suspended just before it writes a receipt."""

    meanwhile: Callable[[], None] | None = None

    def write(self, key: str, data: bytes) -> None:
        if self.meanwhile is not None and "/receipts/" in key:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        super().write(key, data)


def test_a_receipt_in_the_old_order_is_named_and_made_again(away: Location) -> None:
    """The job was suspended between the lease's answer and the writing: no check can see that."""
    location = Suspending(away.address)
    job = first_job(location)
    location.meanwhile = take_over
    assert job.write_shard(1) == 1
    receipt = receipts.read_receipt(away, SPLIT, key_of(away), 1)
    assert receipt is not None
    assert receipt.origin["order"] == job.copy.origin["order"]
    line = r"shard 1: it is of another origin: made from order '\w{8}', the component '\w{8}'"
    assert [d.shard for d in verify(away) if re.search(line, str(d))] == [1]
    args = ["--store", away.address, "--dataset", "cityscapes", "--split", "val"]
    assert reorder.main([*args, "--ranking", NAME]) == 0
    require_right(away)


def test_a_whole_shard_in_the_old_order_is_never_read(away: Location) -> None:
    """Its objects and its receipt are whole, and it lies where the new one's should."""
    job = first_job(away)
    assert [job.write_shard(0), job.write_shard(1)] == [1, 1]
    old = receipts.read_receipt(away, SPLIT, key_of(away), 1)
    assert old is not None
    keys = [*old.objects, receipts.receipt_key(SPLIT, key_of(away), 1)]
    saved = {key: away.read(key) for key in keys}
    take_over()
    for key, data in saved.items():
        away.write(key, data)
    with pytest.raises(IntegrityError, match=r"c/1/0/0/0 .*its receipt"):
        read_copy(away)
    line = r"\(shard 1: it is of another origin: made from order .*\); run the same job again"
    with pytest.raises(JobFailedError, match=line):
        finalize(away, SPLIT, key_of(away))
    args = ["--store", away.address, "--dataset", "cityscapes", "--split", "val"]
    assert reorder.main([*args, "--ranking", NAME]) == 0
    require_right(away)


class Answered(LeaseClaim):
    """The claim of a job that was suspended after its lease had answered."""

    def require(self) -> None:
        """Says nothing again."""


def test_the_receipt_of_a_later_job_stops_an_earlier_one(away: Location) -> None:
    key, job = key_of(away), first_job(away)
    with Lease(away, SPLIT, key) as lease:
        earlier = Answered(**vars(lease.claim))
    with Lease(away, SPLIT, key) as lease:
        assert dataclasses.replace(job, claims={key: lease.claim}).write_shard(1) == 1
    before = contents(away)
    writer = ShardWriter(away, latent_store.open(away.address)[SPLIT].plan, job.copy, earlier)
    with pytest.raises(LeaseLostError, match=r"shard 1 .*later job, of fencing number 2 against 1"):
        writer.write(1, {}, {}, [])
    assert contents(away) == before


@pytest.mark.slow
def test_on_one_machine_a_suspended_reorder_keeps_its_copy(
    copied_store: TinyStore, fails: Callable[..., str]
) -> None:
    """Its lock lives as long as its process, so that nobody else can have written meanwhile."""
    url = str(copied_store.url)
    args = ["--store", url, "--dataset", "cityscapes", "--split", "val", "--ranking", NAME]
    rank(1, url)
    code = f"from pipelines import reorder; raise SystemExit(reorder.main({args}))"
    location = Location(url)
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not receipts.finished_shards(location, SPLIT, key_of(location)):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        rank(2, url)
        line = fails(reorder.main, [*args, "--overwrite", "--steal_lease"])
        assert f"by process {process.pid} on " in line
        assert "end that process first" in line
        process.send_signal(signal.SIGCONT)
        assert process.wait() in (0, 1, 2)
    # It wrote in the order that it began with, which is not the ranking's any more.
    with pytest.raises(LatentStoreError, match=r"another order than ranking moved has now; run re"):
        read_copy(location)
    assert reorder.main([*args, "--overwrite"]) == 0
    require_right(location)
