"""What is particular to `gs://`: leases, ranges, listings and refusals of Google's client."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from latent_store import cli
from latent_store.errors import LatentStoreError, LeaseHeldError, LeaseLostError
from latent_store.storage import lease as leases
from latent_store.storage import object_stores
from latent_store.storage.lease import STALE_SECONDS, Lease
from latent_store.storage.location import Location
from latent_store.storage.object_stores import open_location
from tests import gcs

SPLIT = "made/train"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[gcs.Server]:
    with gcs.serving(monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture
def location(server: gcs.Server) -> Location:
    return Location(f"{server.url}/s.zarr")


@pytest.fixture
def refused(fails: Callable[..., str], caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """Runs `latent-store inspect`, which must be refused at once; returns the line."""

    def run(url: str) -> str:
        start = time.monotonic()
        line = fails(cli.main, ["inspect", url])
        assert time.monotonic() - start < 10
        assert (gcs.TOKEN not in line, caplog.records) == (True, [])
        return line

    return run


def test_an_object_is_created_once(location: Location) -> None:
    assert [location.create("a", data) for data in (b"first", b"second")] == [True, False]
    location.write("a", b"third")
    assert (location.create("a", b""), location.read("a")) == (False, b"third")
    location.delete("a")
    assert location.create("a", b"anew")


def test_a_lease_is_held_by_one_and_goes_stale(
    server: gcs.Server, location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SETTLE_SECONDS", 0.0)
    with Lease(location, SPLIT, "labels") as first:
        first.claim.require()
        with pytest.raises(LeaseHeldError, match=r"is being written by process .* wait for it"):
            Lease(location, SPLIT, "labels").__enter__()
        key = f"s.zarr/{first.key}"
        long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=STALE_SECONDS + 5)
        server.objects[key][1]["updated"] = long_ago.isoformat().replace("+00:00", "Z")
        with pytest.raises(LeaseLostError, match="lapsed: nobody renewed it for 90 seconds"):
            first.claim.require()
        with Lease(location, SPLIT, "labels") as second:
            assert second.fence == first.fence + 1
            with pytest.raises(LeaseLostError, match="was lost to process"):
                first.claim.require()
            second.claim.require()
    assert [key for key in server.objects if key.endswith((".json", ".probe"))] == []


def test_ranges_end_where_objects_do(location: Location) -> None:
    location.write_all({"empty": b"", "ten": b"0123456789"})
    asked = [("ten", 2, 5), ("ten", 8, 50), ("empty", 0, 1), ("none", 0, 1), ("ten", 0, 2**33)]
    assert location.read_ranges(asked) == [b"234", b"89", b"", None, b"0123456789"]
    assert location.read_all(["empty", "none"]) == {"empty": b"", "none": None}
    assert (location.read("empty"), location.exists("empty")) == (b"", True)
    assert not location.exists("none")
    with pytest.raises(FileNotFoundError):
        location.read("none")


def test_what_a_write_is_answered_spares_reading_it_back(
    server: gcs.Server, location: Location
) -> None:
    location.read_all(["none"])  # It gets its token.
    server.asked.clear()
    location.write_all({f"a/{n}": bytes([n]) for n in range(4)})
    assert [method for method, _ in server.asked] == ["POST"] * 4


def test_a_listing_has_pages(server: gcs.Server, location: Location) -> None:
    server.page = 2
    keys = {f"{folder}/{n}": bytes(n) for folder in ("a", "b/c", "d") for n in range(3)}
    location.write_all(keys)
    assert location.sizes("") == {key: len(data) for key, data in keys.items()}
    assert location.sizes("b") == {f"b/c/{n}": n for n in range(3)}
    assert (location.sizes("none"), location.folders("none")) == ({}, [])
    assert location.folders("") == ["a", "b", "d"]
    location.delete_tree("b")
    location.delete_all(["a/0", "none"])
    assert sorted(location.sizes("")) == ["a/1", "a/2", "d/0", "d/1", "d/2"]


def test_a_missing_bucket_is_no_missing_store(
    server: gcs.Server, refused: Callable[..., str]
) -> None:
    assert "gs://others/s.zarr lies in no bucket that is there" in refused("gs://others/s.zarr")
    assert "no latent store at gs://bucket/s.zarr" in refused("gs://bucket/s.zarr")
    assert server.objects == {}


def test_accounts_that_are_none_unknown_or_not_allowed_are_told_apart(
    server: gcs.Server, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.may = ()
    assert "storage.objects access to the bucket.; check its credentials and what" in refused(
        "gs://bucket/s.zarr"
    )
    forget()
    server.refused = True
    line = refused("gs://bucket/s.zarr")
    assert "gs://bucket/s.zarr cannot be opened: Invalid Credentials, 401" in line
    assert "; log in as your store's own tool wants it" in line
    forget()
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    line = refused("gs://bucket/s.zarr")
    assert "Anonymous caller does not have storage.objects.list access" in line
    assert "; log in as your store's own tool wants it" in line


def test_a_server_that_is_away_is_told_in_time(
    server: gcs.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_stores, "ANSWER_SECONDS", 2)
    forget()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(LatentStoreError, match=r"gs://bucket/s.zarr does not answer within 2 sec"):
        open_location("gs://bucket/s.zarr")


def forget() -> None:
    """Lets the next address have a client of its own."""
    pytest.importorskip("gcsfs").GCSFileSystem.clear_instance_cache()


def test_an_account_that_may_only_read_is_told_where_it_may_not_write(
    server: gcs.Server, location: Location
) -> None:
    server.may = ("GET",)
    for write in (location.write, location.create, lambda k, data: location.write_all({k: data})):
        with pytest.raises(
            PermissionError, match=r"^gs://.*/s.zarr cannot be written: .+; check its credentials"
        ):
            write("a", b"x")
