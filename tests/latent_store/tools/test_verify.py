"""What `verify` calls damage, and what `repair` removes: what is broken then, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import latent_store
from latent_store.components import base as component
from latent_store.components import finalize
from latent_store.components.checking import Closed
from latent_store.format.plan_files import write_plan
from latent_store.shards.index import index_key
from latent_store.shards.receipts import finished_shards, receipt_key, receipt_prefix
from latent_store.storage import groups
from latent_store.storage.changes import told
from latent_store.storage.location import Location
from latent_store.tools.verify import repair, verify
from tests.latent_store.format.test_plan import samples
from tests.latent_store.made_latents import SPLIT, write_latents

KEY = "latents/made"
OBJECT = f"{SPLIT}/{KEY}/y_hat/c/0/0/0/0"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Makes a store of latents of five rows in three shards; those in `failed` have none."""

    def made(name: str = "made.zarr", *failed: int) -> Path:
        url = tmp_path / name
        write_latents(
            url,
            lambda row: None if row in failed else np.full((16, 4, 8), row, dtype=np.int8),
            channels=16,
            counts=(5,),
            samples_per_shard=2,
            size=(60, 100),
            dtype="int8",
        )
        return url

    return made


def begin_append(location: Location) -> None:
    """Does what an append of two rows does before it writes its shards."""
    plan = latent_store.open(location.url)[SPLIT].plan.extended(samples(7, size=(60, 100)))
    write_plan(location, plan)
    lengths = {"num_rows": plan.num_rows, "num_shards": plan.num_shards}
    component.note(location, f"{SPLIT}/{KEY}", lengths)


def rows_of(url: Path) -> list[int]:
    return latent_store.open(url)[SPLIT].latents("made").rows.tolist()


def test_what_was_written_again_since_it_was_found_broken_is_kept(
    make: Callable[..., Path],
) -> None:
    url = make()
    data = (url / OBJECT).read_bytes()
    (url / OBJECT).unlink()
    defects = list(verify(Location(url)))
    assert [defect.shard for defect in defects] == [0]
    (url / OBJECT).write_bytes(data)
    assert repair(Location(url), defects) == 0
    assert list(verify(Location(url))) == []
    assert rows_of(url) == [0, 1, 2, 3, 4]
    (url / OBJECT).unlink()
    assert repair(Location(url), defects) == 1
    assert finished_shards(Location(url), SPLIT, KEY) == {1, 2}


def test_an_append_that_was_killed_before_its_shards_is_no_damage(
    make: Callable[..., Path],
) -> None:
    url = make()
    location = Location(url)
    begin_append(location)
    component.leave_out(location, f"{SPLIT}/{KEY}", [2])
    location.delete(receipt_key(SPLIT, KEY, 2))
    (defect,) = defects = list(verify(location))
    assert "more was begun than is finished, 2 shards of it lack; run its job" in str(defect)
    assert repair(location, defects) == 0
    assert rows_of(url) == [0, 1, 2, 3]
    # What readers read is damaged as ever.
    (url / OBJECT).unlink()
    defects = list(verify(location))
    assert [defect.shard for defect in defects] == [0, None]
    assert repair(location, defects) == 1
    with pytest.raises(latent_store.LatentStoreError, match="is incomplete"):
        rows_of(url)


def test_what_cannot_be_read_now_is_named_and_kept(make: Callable[..., Path]) -> None:
    url = make()
    places = [url / OBJECT, url / ".latent_store/codecs/made.pth.tar"]
    kept = [path.read_bytes() for path in places]
    for path in places:
        path.unlink()
        path.symlink_to(path.name)  # A circle, which the system refuses to follow.
    defects = list(verify(Location(url)))
    assert sorted((d.shard or 0, d.unread) for d in defects) == [(0, True), (0, True)]
    assert all("Too many levels of symbolic links" in str(defect) for defect in defects)
    assert repair(Location(url), defects) == 0
    for path, data in zip(places, kept, strict=True):
        path.unlink()
        path.write_bytes(data)
    assert list(verify(Location(url))) == []


def test_what_is_whole_but_not_finalized_names_what_does_it(
    make: Callable[..., Path],
) -> None:
    location = Location(make())
    groups.update_attrs(location, f"{SPLIT}/{KEY}", {"complete": False})
    (defect,) = verify(location)
    assert defect.what == (
        "every shard is whole, but it was not finalized; run latent-store finalize"
    )
    assert [type(outcome) for outcome in finalize.finalize_all(location)] == [Closed]
    assert list(verify(location)) == []
    # Of rows that failed it says which, and what their job is to be told.
    location = Location(make("failed.zarr", 1))
    groups.update_attrs(location, f"{SPLIT}/{KEY}", {"complete": False})
    (refusal,) = finalize.finalize_all(location)
    assert f"1 samples of {SPLIT}/{KEY} failed, more than" in str(refusal)


@pytest.mark.parametrize("broken", ["text", "link"])
def test_a_node_that_cannot_be_read_fails_once_and_components_are_closed(
    make: Callable[..., Path], broken: str
) -> None:
    url = make()
    (url / "other").mkdir()
    node = url / "other/zarr.json"
    if broken == "text":
        node.write_bytes(b'{"zarr_format": 3, "node_type": "group"')
    else:
        node.symlink_to(node.name)
    outcomes = list(finalize.finalize_all(Location(url)))
    closed = [outcome for outcome in outcomes if isinstance(outcome, Closed)]
    assert [outcome.component for outcome in closed] == [KEY]
    (failed,) = (str(outcome) for outcome in outcomes if outcome not in closed)
    assert "the root" in failed


def test_the_table_of_failed_rows_stays_as_long_as_a_seal_names_it(
    make: Callable[..., Path],
) -> None:
    url, mended = make("made.zarr", 1, 4), make("mended.zarr")
    location = Location(url)
    letters = "latents-made.dead_letters"
    table = url / index_key(SPLIT, letters)
    assert table.exists()
    for folder in (f"{SPLIT}/{KEY}", receipt_prefix(SPLIT, KEY)):
        unlike = shutil.ignore_patterns("zarr.json")
        shutil.copytree(mended / folder, url / folder, ignore=unlike, dirs_exist_ok=True)
    seen = set()

    def look(_: str, __: str) -> None:
        group = groups.open_group(location, f"{SPLIT}/{KEY}")
        assert group is not None
        record = component.read_record(location, group)
        if record.complete:
            seen.add((letters in record.tables, table.exists()))

    with told(look):
        finalize.finalize(location, SPLIT, KEY)
    assert seen == {(True, True), (False, True), (False, False)}
    assert not table.exists()
