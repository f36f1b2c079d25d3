"""A run opens the store once: what it lists and parses does not grow with the number of shards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import latent_store
from latent_store.errors import StoreNotFoundError
from latent_store.format import plan_files
from latent_store.format.plan import ShardPlan
from latent_store.storage.location import Location
from pipelines import frequency, reorder
from pipelines.jobs import opened
from tests.conftest import RANKING, TinyStore


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often something was listed, and a plan parsed."""
    counts: Counter[str] = Counter()
    sizes, from_record = Location.sizes, plan_files.from_record

    def counted_sizes(location: Location, prefix: str) -> dict[str, int]:
        counts["listings"] += 1
        return sizes(location, prefix)

    def counted_plan(data: bytes, *place: Any) -> ShardPlan:
        counts["plans"] += 1
        return from_record(data, *place)

    monkeypatch.setattr(Location, "sizes", counted_sizes)
    monkeypatch.setattr(plan_files, "from_record", counted_plan)
    return counts


@pytest.mark.parametrize("job", ["variance", "reorder"])
def test_three_shards_open_no_more_than_two(
    copied_store: TinyStore, done: Counter[str], job: str
) -> None:
    shared = ["--store", str(copied_store.url), "--dataset", "cityscapes", "--overwrite"]
    found = {}
    for split in ("val", "train"):
        shards = latent_store.open(copied_store.url)[f"cityscapes/{split}"].plan.num_shards
        words = [*shared, "--split", split, "--ranking"]
        done.clear()
        if job == "variance":
            assert frequency.main([*words, f"of-{split}", "--method", "variance"]) == 0
        else:
            assert reorder.main([*words, RANKING]) == 0
        found[shards] = dict(done)
    assert set(found) == {2, 3}
    assert found[2] == found[3]


def test_a_worker_that_lacks_the_store_says_so(tmp_path: Path) -> None:
    """As one whose folder of that name is on a disk of its own."""
    with pytest.raises(
        StoreNotFoundError, match=r"finds no plan of a/b at .*s\.zarr, where this job"
    ):
        opened.open_plan(Location(tmp_path / "s.zarr"), "a/b", "a run")
