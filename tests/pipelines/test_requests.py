"""What a job and a first read ask of an object store, counted by the server that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import latent_store
from latent_store.components.finalize import finalize
from latent_store.errors import JobFailedError, LeaseLostError
from latent_store.storage import lease as leases
from latent_store.storage.lease import Lease
from latent_store.storage.location import Location
from pipelines import encode, frequency, reorder
from tests import s3
from tests.pipelines.tiny_jobs import NAME, SPLIT, encode_args, run

A_SHARD, A_JOB = 40, 60
"""Requests that a shard of a job may cost, and a job beside its shards and the objects that it
writes which are none of a shard's: metadata, tables, plans, a codec."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, serial: None) -> Iterator[s3.Server]:
    with s3.serving(monkeypatch) as server:
        yield server


@dataclass(frozen=True)
class Cost:
    """Requests of a command: all of them, and those beside the writing of objects that stay."""

    total: int
    beside: int


class Commands:
    """Runs commands on stores of a server, and counts what they ask."""

    def __init__(self, server: s3.Server, inputs: Path) -> None:
        self.server, self.inputs = server, inputs

    def url(self, name: str) -> str:
        return f"{self.server.url}/{name}.zarr"

    def encode(self, name: str, pictures: int) -> Cost:
        words = encode_args(self.inputs, Path("x"), "--max_samples", str(pictures))
        words[words.index("--store") + 1] = self.url(name)
        return self.run(encode.main, name, *words)

    def run(self, main: Callable[[list[str]], int], name: str, *words: str) -> Cost:
        self.server.asked.clear()
        run(main, *words)
        asked = list(self.server.asked)
        there = Location(self.url(name)).sizes("")
        written = {key.partition("/")[2] for kind, key in asked if kind == "PUT"} & there.keys()
        return Cost(len(asked), len(asked) - len(written))


def require_little(less: Cost, more: Cost, shards: int, more_shards: int) -> None:
    """Holds a job's costs, found from two that differ in their shards, to what they may be."""
    added = more_shards - shards
    each = (more.total - less.total) / added
    assert each <= A_SHARD
    # With what stays, too, a job of six shards or more keeps to both together.
    assert less.total + (6 - shards) * each <= 6 * A_SHARD + A_JOB
    assert less.beside - shards * (more.beside - less.beside) / added <= A_JOB


def test_jobs_ask_for_little(server: s3.Server, inputs: Path) -> None:
    commands = Commands(server, inputs)
    one, two = commands.encode("1", 1), commands.encode("2", 2)
    require_little(one, two, 1, 2)
    # An append of a shard renews what every array's metadata and every table say.
    append = commands.encode("2", 3).total
    assert append <= A_SHARD + 2 * A_JOB
    assert append + 5 * (two.total - one.total) <= 6 * A_SHARD + A_JOB
    assert commands.encode("1", 1).total <= 1.5 * A_JOB  # There is nothing to do.
    rank = ("--method", "variance", "--ranking", "r", "--keep", "8")
    for main, flags in ((frequency.main, rank), (reorder.main, ("--ranking", "r"))):
        costs = [
            commands.run(main, name, "--store", commands.url(name), *SPLIT, *flags)
            for name in ("1", "2")
        ]
        require_little(*costs, 1, 3)


def test_a_first_batch_asks_for_little(server: s3.Server, inputs: Path) -> None:
    Commands(server, inputs).encode("s", 3)
    server.asked.clear()
    split = latent_store.open(f"{server.url}/s.zarr")[NAME]
    latents = split.latents()
    # To open: the bucket, the root, the plan and its parts, the codecs and the one that there is,
    # the component's group, its two tables and a listing. And each of the two rows' objects.
    latents.read([0, 1])
    assert len(server.asked) <= 14
    labels = split.labels()
    labels.read(split.common_rows(latents, labels)[:2])
    assert len(server.asked) <= 22
    arrays = [key for _, key in server.asked if key.endswith(("y_hat/zarr.json", "on/zarr.json"))]
    assert arrays == []


def test_a_receipt_follows_every_object_of_its_shard(server: s3.Server, inputs: Path) -> None:
    Commands(server, inputs).encode("s", 2)
    puts = [key for kind, key in server.asked if kind == "PUT"]
    for shard in (0, 1):
        for part in ("/labels/", "/latents/"):
            receipt = next(
                n for n, k in enumerate(puts) if part in k and k.endswith(f"/{shard:06d}.json")
            )
            objects = [n for n, k in enumerate(puts) if part in k and f"/c/{shard}" in k]
            assert objects
            assert max(objects) < receipt


def test_an_object_of_another_attempt_is_seen_unread(server: s3.Server, inputs: Path) -> None:
    Commands(server, inputs).encode("s", 2)
    location = Location(f"{server.url}/s.zarr")
    key = f"{NAME}/labels/segmentation/c/1/0/0"
    whole = location.read(key)
    location.write(key, whole[:-1] + bytes([whole[-1] ^ 1]))
    server.asked.clear()
    with pytest.raises(JobFailedError, match=r"shard 1: .*c/1/0/0 has another crc32c"):
        finalize(location, NAME, "labels")
    # The other shard's was not read.
    read = [k for kind, k in server.asked if kind == "GET" and "/segmentation/c/" in k]
    assert [k.partition("/")[2] for k in read] == [key]


def test_a_lease_is_asked_for_in_one_request(
    server: s3.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location(f"{server.url}/s.zarr")
    with Lease(location, NAME, "labels") as lease:
        server.asked.clear()
        lease.claim.require()
        assert [kind for kind, _ in server.asked] == ["GET"]
        with monkeypatch.context() as patch:
            patch.setattr(leases, "STALE_SECONDS", -1.0)
            with pytest.raises(LeaseLostError, match="nobody renewed it for"):
                lease.claim.require()
