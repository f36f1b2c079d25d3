"""Listings of object stores are not kept: what another process does there is seen at once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from latent_store.catalogue.rankings import list_rankings, rankings_path
from latent_store.storage import small_groups
from latent_store.storage.ages import age_seconds
from latent_store.storage.lease import STALE_SECONDS, Lease
from latent_store.storage.location import Location


class KeepingFileSystem(MemoryFileSystem):
    """Memory behind fsspec's own cache of listings, used as the clients of S3 and GCS use it."""

    protocol = "keeping"
    exists, find = AbstractFileSystem.exists, AbstractFileSystem.find

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("keeping://", "memory://")))

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:  # noqa: FBT001, FBT002
        path = self._strip_protocol(path)
        found = self._ls_from_cache(path)
        if found is None:
            found = self.dircache[path] = super().ls(path, detail=True)
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_: Any) -> Any:
        path = self._strip_protocol(path)
        found = [entry for entry in self._ls_from_cache(path) or () if entry["name"] == path]
        return found[0] if found else super().info(path)

    def modified(self, path: str) -> dt.datetime:
        found: dt.datetime = self.info(path)["created"]
        return found


@pytest.fixture
def theirs() -> Iterator[Location]:
    """A store as another process has it, which knows nothing of what is kept here."""
    fsspec.register_implementation("keeping", KeepingFileSystem, clobber=True)
    yield Location("memory://listed.zarr")
    Location("memory://listed.zarr").delete_tree("")


def test_what_another_process_writes_is_seen_at_once(theirs: Location) -> None:
    ours = Location("keeping://listed.zarr")
    ours.write("a/1", b"1")
    assert (ours.sizes("a"), ours.folders(""), ours.exists("a/2")) == ({"a/1": 1}, ["a"], False)
    theirs.write("a/2", b"22")
    theirs.write("b/1", b"1")
    assert (ours.sizes("a"), ours.folders("")) == ({"a/1": 1, "a/2": 2}, ["a", "b"])
    assert ours.exists("a/2")
    assert ours.read("a/2") == b"22"
    theirs.delete("a/1")
    assert not ours.exists("a/1")
    assert ours.sizes("a") == {"a/2": 2}


def test_the_cache_is_what_hid_it(theirs: Location) -> None:
    kept = Location("keeping://listed.zarr", {"use_listings_cache": True})
    kept.write("a/1", b"1")
    assert kept.sizes("a") == {"a/1": 1}
    theirs.write("a/2", b"22")
    assert kept.sizes("a") == {"a/1": 1}


def test_rankings_of_another_process_are_listed(theirs: Location) -> None:
    ours = Location("keeping://listed.zarr")
    for name in ("one", "two"):
        small_groups.write(theirs, rankings_path("c", name), {}, {}, {})
        assert name in list_rankings(ours, "c")


def test_a_leases_age_is_that_of_its_last_renewal(theirs: Location) -> None:
    ours = Location("keeping://listed.zarr")
    with Lease(theirs, "d/s", "labels") as lease:
        store = fsspec.filesystem("memory").store
        store[theirs.path(lease.key)].created -= dt.timedelta(seconds=STALE_SECONDS + 5)
        assert age_seconds(ours, lease.key) > STALE_SECONDS
        theirs.write(lease.key, theirs.read(lease.key))
        assert age_seconds(ours, lease.key) < STALE_SECONDS
