"""Shards are held to their receipts several at a time, and told of in their order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_store.components import checking
from latent_store.components.checking import Closed, check_shards
from latent_store.format.plan_files import read_plan
from latent_store.shards.receipts import Receipt
from latent_store.storage.location import Location
from tests.latent_store.made_latents import SPLIT, write_latents

SHARDS = 3


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made latents in three shards; read only."""
    url = tmp_path_factory.mktemp("checking") / "s.zarr"
    rng = np.random.default_rng(0)
    write_latents(
        url,
        lambda _: rng.integers(-9, 9, (16, 4, 8)),
        channels=16,
        counts=(2 * SHARDS,),
        samples_per_shard=2,
        size=(60, 100),
        dtype="int8",
    )
    return url


def check(url: Path, on_shard: Callable[[int], object], **how: bool) -> Closed:
    location = Location(url)
    plan = read_plan(location, *SPLIT.split("/"))
    return check_shards(location, plan, "latents/made", on_shard, **how)


def meet(monkeypatch: pytest.MonkeyPatch, before: Callable[[Receipt], object]) -> None:
    defect = Receipt.defect

    def told(self: Receipt, *given: Any) -> str | None:
        before(self)
        return defect(self, *given)

    monkeypatch.setattr(Receipt, "defect", told)


def test_shards_are_compared_together_and_told_of_in_their_order(
    url: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, shards = threading.Barrier(SHARDS), list[int]()
    last = threading.Event()

    def backwards(receipt: Receipt) -> None:
        together.wait(60)  # Alone it would wait for ever.
        assert receipt.shard == SHARDS - 1 or last.wait(60)
        last.set()

    meet(monkeypatch, backwards)
    closed = check(url, shards.append)
    assert shards == [receipt.shard for receipt in closed.receipts] == [*range(SHARDS)]


def test_what_would_not_fit_into_memory_together_is_compared_alone(
    url: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_MOST_READ", 1)
    busy = threading.Lock()
    read = Location.read_ranges

    def alone(self: Location, ranges: Any) -> Any:
        if not any("/c/" in key for key, *_ in ranges):
            return read(self, ranges)
        assert busy.acquire(blocking=False)
        try:
            time.sleep(0.05)
            return read(self, ranges)
        finally:
            busy.release()

    monkeypatch.setattr(Location, "read_ranges", alone)
    assert not check(url, print, read=True).defects
    monkeypatch.setattr(checking, "_MOST_READ", 2**30)
    with pytest.raises(AssertionError):  # Else they are not.
        check(url, print, read=True)


def test_the_first_shard_that_cannot_be_read_ends_it_there(
    url: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(receipt: Receipt) -> None:
        if receipt.shard:
            raise PermissionError(f"shard {receipt.shard}")

    meet(monkeypatch, refuse)
    shards = list[int]()
    with pytest.raises(PermissionError, match="shard 1"):
        check(url, shards.append)
    assert shards == [0]
    closed = check(url, shards.append, go_on=True)
    assert closed.defects.keys() == closed.unread == {1, 2}
    assert [receipt.shard for receipt in closed.receipts] == [0]
