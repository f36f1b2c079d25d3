"""One writer a component: who holds a lease, who lost it, and the number that tells them apart."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from latent_store.console import spell_flags
from latent_store.errors import JobFailedError, LeaseHeldError, LeaseLostError
from latent_store.storage import lease as leases
from latent_store.storage.ages import age_seconds, delete_probes
from latent_store.storage.lease import STALE_SECONDS, Lease
from latent_store.storage.location import Location

SPLIT = "made/train"
ELSEWHERE = {
    "token": "other",
    "pid": 7,
    "host": "gone",
    "machine": "another kernel",
    "since": "9:00",
}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    """An empty object store in memory, whose leases are settled at once."""
    monkeypatch.setattr(leases, "SETTLE_SECONDS", 0.0)
    location = Location("memory://held.zarr")
    yield location
    location.delete_tree("")


def grow_old(location: Location, key: str, seconds: float = STALE_SECONDS + 5) -> None:
    """Makes an object as old as a stale lease, or so many seconds, by the clock of its store."""
    if location.local_path is not None:
        long_ago = time.time() - seconds
        os.utime(location.local_path / key, (long_ago, long_ago))
        return
    written = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)
    fsspec.filesystem("memory").store[location.path(key)].modified = written


@pytest.mark.parametrize("url", ["memory://held.zarr", "local"])
def test_each_holder_has_a_higher_number(url: str, tmp_path: Path, memory: Location) -> None:
    location = memory if url.startswith("memory") else Location(tmp_path)
    fences = []
    for _ in range(3):
        with Lease(location, SPLIT, "labels") as lease:
            assert json.loads(location.read(lease.key))["fence"] == lease.fence
            fences.append(lease.claim.fence)
        assert not location.exists(lease.key)
    with Lease(location, SPLIT, "boxes") as other:
        assert (fences, other.fence) == ([1, 2, 3], 1)


def test_a_writer_whose_lease_was_stolen_is_told_by_whom(memory: Location) -> None:
    with Lease(memory, SPLIT, "labels") as first:
        claim = pickle.loads(pickle.dumps(first.claim))
        claim.require()
        with Lease(memory, SPLIT, "labels", steal=True) as second:
            assert second.fence == first.fence + 1
            second.claim.require()
            with pytest.raises(
                LeaseLostError,
                match=rf"write made/train/labels was lost to process {os.getpid()} on .*run the",
            ):
                claim.require()
        with pytest.raises(LeaseLostError, match="was lost to nobody, its lease is gone"):
            claim.require()


def test_a_writer_whose_lease_lapsed_stops(memory: Location) -> None:
    with Lease(memory, SPLIT, "labels") as lease:
        grow_old(memory, lease.key)
        with pytest.raises(LeaseLostError, match="lapsed: nobody renewed it for 90 seconds"):
            lease.claim.require()


def test_a_local_lease_that_is_late_is_still_locked(tmp_path: Path) -> None:
    """A machine that slept took its lock with it: nobody else can have written."""
    with Lease(Location(tmp_path), SPLIT, "labels") as lease:
        grow_old(lease.location, lease.key)
        lease.claim.require()


def test_a_record_of_another_machine_is_read(tmp_path: Path) -> None:
    """Its lock may not be seen here, where a folder is shared."""
    location = Location(tmp_path)
    lease = Lease(location, SPLIT, "labels")
    location.write(lease.key, json.dumps(ELSEWHERE).encode())
    with pytest.raises(LeaseHeldError, match=r"by process 7 on gone \(since 9:00\); wait for it"):
        lease.__enter__()
    with Lease(location, SPLIT, "labels", steal=True) as taken:
        assert json.loads(location.read(taken.key))["token"] == taken.token
    location.write(lease.key, json.dumps(ELSEWHERE).encode())
    grow_old(location, lease.key)
    with Lease(location, SPLIT, "labels") as taken:
        taken.claim.require()


@pytest.mark.parametrize("age", [0, 30, 75])
@pytest.mark.parametrize("url", ["memory://held.zarr", "local"])
def test_who_is_kept_out_is_told_for_how_many_seconds(
    url: str, age: int, tmp_path: Path, memory: Location
) -> None:
    location = memory if url.startswith("memory") else Location(tmp_path)
    lease = Lease(location, SPLIT, "labels")
    location.write(lease.key, json.dumps(ELSEWHERE).encode())
    begun = time.monotonic()
    grow_old(location, lease.key, age)
    with pytest.raises(LeaseHeldError) as refused:
        lease.__enter__()
    passed = time.monotonic() - begun
    line = spell_flags(str(refused.value))
    rule = r"run this again in (\d+) seconds\), or give --steal_lease if you know that it is dead$"
    told = int(re.search(rule, line)[1])
    # Times of files and the clock differ by a tick of the system.
    assert STALE_SECONDS - age - passed - 0.6 <= told <= STALE_SECONDS - age + 0.6


class Late(Location):
    """An address at which a lease becomes stale while its age is asked for."""

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        super().write(key, data, durable=durable)
        if ".probe-" in key:
            grow_old(self, key.partition(".probe-")[0])


def test_what_is_stale_by_now_is_waited_for_a_second(memory: Location) -> None:
    lease = Lease(Late(memory.url), SPLIT, "labels")
    memory.write(lease.key, json.dumps(ELSEWHERE).encode())
    with pytest.raises(LeaseHeldError, match=r"run this again in 1 seconds\)"):
        lease.__enter__()


class Failing(Location):
    """An address at which some writes fail."""

    failures = 0

    def write(self, key: str, data: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the store is away")
        super().write(key, data)


def test_an_age_is_asked_for_a_few_times_alone(
    memory: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanishing(self: Location, key: str, data: bytes) -> None:
        asked.append(key)

    asked: list[str] = []
    memory.write("lease.json", b"")
    monkeypatch.setattr(Location, "write", vanishing)
    with pytest.raises(JobFailedError, match=r"the age of lease.json cannot be told, as 5 files"):
        age_seconds(memory, "lease.json")
    assert len(asked) == 5


def test_the_renewing_thread_outlives_failed_requests(
    memory: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)
    location = Failing(memory.url)
    with Lease(location, SPLIT, "labels") as lease:
        location.failures = 3
        grow_old(memory, lease.key)
        waited = time.monotonic() + 60
        while location.failures or age_seconds(memory, lease.key) > STALE_SECONDS:
            assert time.monotonic() < waited
            time.sleep(0.01)
        lease.claim.require()


@pytest.mark.parametrize("url", ["memory://held.zarr", "local"])
def test_what_fails_while_a_lease_is_taken_keeps_nobody_out(
    url: str, tmp_path: Path, memory: Location
) -> None:
    address = memory.url if url.startswith("memory") else tmp_path
    location = Failing(address)
    location.failures = 1
    with pytest.raises(ConnectionError, match="the store is away"):
        Lease(location, SPLIT, "labels").__enter__()
    with Lease(Location(address), SPLIT, "labels") as lease:
        lease.claim.require()


class Unanswered(Location):
    """An address whose answers are lost, so that clients ask again."""

    def create(self, key: str, data: bytes) -> bool:
        super().create(key, data)
        return super().create(key, data)


def test_a_lease_that_was_created_without_an_answer_is_the_creators(memory: Location) -> None:
    with Lease(Unanswered(memory.url), SPLIT, "labels") as lease:
        lease.claim.require()
        with pytest.raises(LeaseHeldError):
            Lease(Unanswered(memory.url), SPLIT, "labels").__enter__()


class Released(Location):
    """An address at which a lease is released as soon as its holder was read."""

    def read(self, key: str, *most: int) -> bytes:
        data = super().read(key, *most)
        self.delete(key)
        return data


def test_a_lease_that_is_released_while_it_is_asked_for_is_lost(memory: Location) -> None:
    with Lease(memory, SPLIT, "labels") as lease:
        claim = dataclasses.replace(lease.claim, location=Released(memory.url))
        with pytest.raises(LeaseLostError, match="was lost to nobody, its lease is gone"):
            claim.require()


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"7", b"null", b"9" * 5000, b'{"token": 3}'])
def test_a_lease_that_is_none_is_nobodys(tmp_path: Path, text: bytes) -> None:
    location = Location(tmp_path)
    key = Lease(location, SPLIT, "labels").key
    location.write(key, text)
    location.write(key.replace(".json", ".fence"), text)
    grow_old(location, key)
    with Lease(location, SPLIT, "labels") as lease:
        lease.claim.require()


@pytest.mark.parametrize("url", ["memory://held.zarr", "local"])
def test_what_a_process_left_that_was_killed_while_it_asked_goes_with_the_next_holder(
    url: str, tmp_path: Path, memory: Location
) -> None:
    location = memory if url.startswith("memory") else Location(tmp_path)
    key, other = (Lease(location, SPLIT, name).key for name in ("labels", "labels2"))
    location.write(f"{key}.probe-0123abcd", b"")
    location.write(f"{other}.probe-0123abcd", b"")
    if location.local_path is not None:
        location.write(key.replace("labels.json", ".labels.json.probe-4567abcd.89abcdef"), b"")
    with Lease(location, SPLIT, "labels"):
        left = [name for name in location.sizes(key.rpartition("/")[0]) if ".probe-" in name]
        assert left == [f"{other}.probe-0123abcd"]


class Cleared(Location):
    """An address at which a new holder takes the first two probes for those of killed processes."""

    probes = 0

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        super().write(key, data, durable=durable)
        self.probes += ".probe-" in key
        if self.probes in (1, 2):
            delete_probes(self, key.partition(".probe-")[0])


@pytest.mark.parametrize("url", ["memory://held.zarr", "local"])
def test_who_asks_while_the_next_holder_begins_asks_again(
    url: str, tmp_path: Path, memory: Location
) -> None:
    location = Cleared(memory.url if url.startswith("memory") else tmp_path)
    location.write("lease.json", b"{}")
    grow_old(location, "lease.json")
    assert STALE_SECONDS < age_seconds(location, "lease.json") < STALE_SECONDS + 100
    assert location.probes == 3
    assert list(location.sizes("")) == ["lease.json"]
