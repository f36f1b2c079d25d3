"""Stores that something happened to: one clear line each, nothing lost, no crash."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

import latent_store
from latent_store import cli
from latent_store.components.finalize import finalize
from latent_store.errors import IntegrityError, JobFailedError, LeaseHeldError
from latent_store.format.plan import make_plan
from latent_store.format.plan_files import write_plan
from latent_store.shards import receipts
from latent_store.shards.index import index_key
from latent_store.storage.ages import age_seconds
from latent_store.storage.lease import STALE_SECONDS, Lease
from latent_store.storage.location import Location
from latent_store.tools import verify as integrity
from tests.latent_store.damage import Ground
from tests.latent_store.made_store import SAMPLES_PER_SHARD
from tests.latent_store.readings import contents, read_everything

Fails = Callable[..., str]
SPLIT = "made/train"


def everything(url: Path) -> dict[str, str]:
    return read_everything(url, contents(url), [])


def latents_key(url: Path) -> str:
    """Returns the key of the ranked codec's latents, which both splits have."""
    return next(key for key in contents(url)["made/val"] if key.startswith("latents/"))


def test_a_missing_shard_is_named_by_reader_and_command(made_copy: Path, fails: Fails) -> None:
    key = latents_key(made_copy)
    (made_copy / SPLIT / key / "y_hat/c/1/0/0/0").unlink()
    with pytest.raises(IntegrityError, match=r"y_hat/c/1/0/0/0 is missing; see `latent-store ver"):
        latent_store.open(made_copy)[SPLIT].latents(key.partition("/")[2])
    codec = ["--codec", key.partition("/")[2]]
    args = ["decode", str(made_copy), "--sample", "s4", *codec, "--output", "x.png"]
    line = fails(cli.main, args)
    assert "y_hat/c/1/0/0/0 is missing" in line
    (defect,) = integrity.verify(Location(made_copy))
    assert (defect.component, defect.shard) == (key, 1)


def test_a_receipt_that_does_not_match_is_sent_back(made_copy: Path) -> None:
    """The receipts of two shards are exchanged, then one is altered by hand."""
    location = Location(made_copy)
    before = everything(made_copy)
    one, two = (made_copy / receipts.receipt_key(SPLIT, "labels", shard) for shard in (0, 1))
    whole = one.read_bytes()
    one.write_bytes(two.read_bytes())
    assert everything(made_copy) == before
    with pytest.raises(JobFailedError, match=r"1 of 3 shards .*shard 0: its receipt was altered"):
        finalize(location, SPLIT, "labels")
    one.write_bytes(whole.replace(b'"image_sha256": "', b'"image_sha256": "0'))
    with pytest.raises(JobFailedError, match=r"1 of 3 shards .*shard 0: its receipt was altered"):
        finalize(location, SPLIT, "labels")
    assert not one.exists()
    one.write_bytes(whole)
    finalize(location, SPLIT, "labels")
    assert everything(made_copy) == before


def test_a_shard_that_mixes_two_attempts_is_sent_back(ground: Ground, made_copy: Path) -> None:
    """Objects of an earlier attempt, in which a row had failed, lie among those of a later one."""
    location = Location(made_copy)
    key = latents_key(made_copy)
    mixed = f"{SPLIT}/{key}/channel_rms/c/0/0"
    shutil.copyfile(ground.past / mixed, made_copy / mixed)
    with pytest.raises(JobFailedError, match=r"shard 0: .*channel_rms/c/0/0 .*run the same job ag"):
        finalize(location, SPLIT, key)
    assert receipts.finished_shards(location, SPLIT, key) == {1, 2}
    with pytest.raises(latent_store.LatentStoreError, match="is incomplete"):
        latent_store.open(made_copy)[SPLIT].latents(key.partition("/")[2])


@pytest.mark.parametrize("table", ["labels", "labels.objects", "samples"])
def test_an_index_without_a_part_is_written_again(made_copy: Path, table: str) -> None:
    before = everything(made_copy)
    path = made_copy / index_key(SPLIT, table)
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"lacks its index .*{table}.parquet; run `latent-st"):
        everything(made_copy)
    assert any("lacks its index" in str(d) for d in integrity.verify(Location(made_copy)))
    assert cli.main(["finalize", str(made_copy)]) == 0
    assert path.read_bytes() == data
    assert everything(made_copy) == before
    assert list(integrity.verify(Location(made_copy))) == []


def test_a_lost_plan_is_named_by_verify(made_copy: Path, capsys: pytest.CaptureFixture) -> None:
    plan = made_copy / ".latent_store/made/val/plan.json"
    plan.unlink()
    assert cli.main(["verify", str(made_copy)]) == 1
    line = ".latent_store/made/val/plan.json is missing though groups and receipts of made/val are"
    assert line in capsys.readouterr().out


def test_an_altered_plan_is_refused_with_the_remedy(made_copy: Path, fails: Fails) -> None:
    plan = made_copy / ".latent_store/made/val/plan.json"
    plan.write_bytes(plan.read_bytes().replace(b'"bytes": ', b'"bytes": 1', 1))
    line = fails(cli.main, ["inspect", str(made_copy)])
    assert "plan.json: the shard plan does not have its crc32c" in line
    assert "restore plan.json from a copy of the store" in line


@pytest.mark.parametrize("damage", ["is missing", "does not have its crc32c: it was altered"])
def test_a_damaged_part_of_a_plan_is_named_and_made_again(
    made_copy: Path, fails: Fails, capsys: pytest.CaptureFixture, damage: str
) -> None:
    samples = list(latent_store.open(made_copy)["made/val"].plan.samples)
    (part,) = (made_copy / ".latent_store/made/val/plan").iterdir()
    data = part.read_bytes()
    part.unlink()
    if damage != "is missing":
        part.write_bytes(data[:9] + b"x" + data[10:])
    remedy = "; restore it from a"
    if damage == "is missing":  # It may be of a plan that a reader has opened before it changed.
        remedy = ": if jobs have changed the plan since it was opened, open the split again; else "
    rule = f".latent_store/made/val/plan/{part.name} of the shard plan {damage}{remedy}"
    assert rule in fails(cli.main, ["inspect", str(made_copy)])
    assert cli.main(["verify", str(made_copy)]) == 1
    assert rule in capsys.readouterr().out
    plan = part.parent.with_suffix(".json")
    before = plan.read_bytes()
    plan.unlink()
    location = Location(made_copy)
    write_plan(location, make_plan("made", "val", samples, SAMPLES_PER_SHARD))
    assert plan.read_bytes() == before
    assert list(integrity.verify(location)) == []


@pytest.fixture
def memory() -> Iterator[Location]:
    """An empty object store in memory."""
    location = Location("memory://leases.zarr")
    yield location
    location.delete_tree("")


def test_a_stale_lease_of_an_object_store_is_taken_over(memory: Location) -> None:
    """Its age is the object's, by the clock of the store that keeps it."""
    lease = Lease(memory, SPLIT, "labels")
    memory.write(lease.key, json.dumps({"token": "dead", "pid": 7, "host": "gone"}).encode())
    with pytest.raises(
        LeaseHeldError, match=r"labels is being written by process 7 on gone .*`steal_lease=`"
    ):
        lease.__enter__()
    written = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=STALE_SECONDS + 5)
    fsspec.filesystem("memory").store[f"{memory.root}/{lease.key}"].modified = written
    assert age_seconds(memory, lease.key) > STALE_SECONDS
    with Lease(memory, SPLIT, "labels") as taken:
        assert json.loads(memory.read(taken.key))["token"] == taken.token
    assert not memory.exists(lease.key)


def test_a_lease_file_that_a_dead_process_left_is_taken_at_once(tmp_path: Path) -> None:
    """On a local path the lock decides, which dies with its process; the file's age does not."""
    location = Location(tmp_path)
    with Lease(location, SPLIT, "labels") as lease:
        path = tmp_path / lease.key
        long_ago = path.stat().st_mtime - 10 * STALE_SECONDS
        os.utime(path, (long_ago, long_ago))
        assert age_seconds(location, lease.key) > STALE_SECONDS
        with pytest.raises(LeaseHeldError, match=f"by process {os.getpid()} on .*end that process"):
            Lease(location, SPLIT, "labels").__enter__()
        left = path.read_bytes()
    path.write_bytes(left)
    with Lease(location, SPLIT, "labels") as again:
        assert json.loads(path.read_bytes())["token"] == again.token
