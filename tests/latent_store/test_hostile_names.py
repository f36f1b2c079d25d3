"""Stores whose records, made right again, name what is not theirs, or more than there is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import latent_store
from latent_store import cli
from latent_store.errors import IntegrityError
from latent_store.format.plan_files import to_json
from latent_store.shards import receipts
from latent_store.storage.keys import is_key
from latent_store.storage.location import Location
from tests.latent_store.mutations import reseal, reseal_attrs

Fails = Callable[..., str]
SPLIT = "made/train"
LABELS = f"{SPLIT}/labels"
OUTSIDE = "../../../outside"
PLAN = ".latent_store/made/train/plan.json"
RECEIPT = receipts.receipt_key(SPLIT, "labels", 0)


@pytest.fixture
def outside(made_copy: Path) -> Path:
    """A Zarr node of somebody else, beside the store."""
    path = made_copy.parent / "outside" / "zarr.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    return path


def name_in_attributes(store: Path) -> None:
    reseal_attrs(
        store / LABELS / "zarr.json", lambda attrs: attrs["arrays"].update({f"../{OUTSIDE}": 1})
    )


def name_in_picture(store: Path) -> None:
    path = store / LABELS / "zarr.json"
    record = json.loads(path.read_bytes())
    nodes = record["consolidated_metadata"]["metadata"]
    nodes[f"../{OUTSIDE}"] = next(iter(nodes.values()))
    path.write_bytes(json.dumps(record).encode())


def name_in_receipt(store: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        record["objects"]["../outside/zarr.json"] = next(iter(record["objects"].values()))

    reseal(store / RECEIPT, change)


def other_component(store: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        record["absent"] = [*record["absent"], "made/val/nothing"]

    reseal(store / RECEIPT, change)


def link_to_group(store: Path) -> None:
    (store / LABELS).rename(store.parent / "moved")
    (store / LABELS).symlink_to(store.parent / "moved")
    (store / LABELS / "segmentation/zarr.json").write_text("{}")


@pytest.mark.parametrize(
    "attack",
    [name_in_attributes, name_in_picture, name_in_receipt, other_component, link_to_group],
)
def test_repair_touches_nothing_outside(
    made_copy: Path,
    outside: Path,
    attack: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    attack(made_copy)

    def others() -> dict[Path, bytes]:
        files = (path for path in made_copy.parent.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files if made_copy not in path.parents}

    before = others()
    assert outside in before
    assert cli.main(["verify", str(made_copy), "--repair"]) == 1
    assert LABELS in capsys.readouterr().out
    assert others() == before


@pytest.mark.parametrize("key", [f"{LABELS}/zarr.json", PLAN, RECEIPT])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_no_regular_file_is_not_read(
    made_copy: Path, key: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made_copy / key
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    assert cli.main(["verify", str(made_copy)]) == 1
    found = capsys.readouterr().out
    assert "is no regular file" in found or "its receipt was altered" in found


@pytest.mark.parametrize(("key", "line"), [(f"{LABELS}/zarr.json", 1), (PLAN, 1), (RECEIPT, 1)])
def test_a_file_as_long_as_a_disk_is_not_read(
    made_copy: Path, key: str, line: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with (made_copy / key).open("r+b") as file:
        file.truncate(2**40)
    assert cli.main(["verify", str(made_copy)]) == line
    found = capsys.readouterr().out
    assert "1099511627776 bytes, more than" in found or "its receipt was altered" in found


def test_an_object_longer_than_its_receipt_says_is_not_read(made_copy: Path) -> None:
    key = next(k for k in (receipts.read_receipt(Location(made_copy), SPLIT, "labels", 0)).objects)
    with (made_copy / key).open("r+b") as file:
        file.truncate(2**40)
    receipt = receipts.read_receipt(Location(made_copy), SPLIT, "labels", 0)
    assert f"{key} has 1099511627776 bytes, its receipt says" in str(
        receipt.defect(Location(made_copy))
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", lambda rows: [*rows[:-1], 10**7]),
        ("rows", lambda rows: [*rows[:-1], "5"]),
        ("rows", lambda rows: [rows[0], *rows[:-1]]),
        ("rows", lambda rows: rows[:-1]),
        ("samples_per_shard", lambda _: 0),
        ("samples_per_shard", lambda _: None),
        ("canvas", lambda _: [10**9, 64]),
        ("canvas", lambda _: [64]),
        ("samples", lambda _: 7),
        ("samples", lambda samples: [{**samples[0], "height": "x"}, *samples[1:]]),
    ],
    ids=["far", "text", "twice", "few", "none", "null", "huge", "short", "number", "side"],
)
def test_a_plan_that_no_job_can_have_made_is_refused(
    made_copy: Path, name: str, value: Callable[[Any], Any], fails: Fails
) -> None:
    path = made_copy / PLAN
    path.write_bytes(to_json(latent_store.open(made_copy)[SPLIT].plan))
    reseal(path, lambda plan: plan.update({name: value(plan[name])}))
    _is_no_plan(made_copy, fails)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("samples_per_shard", lambda _: 0),
        ("canvas", lambda _: [10**9, 64]),
        ("parts", lambda _: 7),
        ("parts", lambda parts: [{**parts[0], "first_row": 10**7}]),
        ("parts", lambda parts: [parts[0], parts[0]]),
        ("parts", lambda parts: [{**parts[0], "samples": 0}]),
        ("parts", lambda parts: [{**parts[0], "samples": 10**9}]),
        ("parts", lambda parts: [{**parts[0], "bytes": 10**12}]),
        ("parts", lambda parts: [{**parts[0], "crc32c": "x"}]),
    ],
    ids=["none", "huge", "number", "far", "twice", "empty", "many", "long", "text"],
)
def test_a_record_of_parts_that_no_job_can_have_made_is_refused(
    made_copy: Path, name: str, value: Callable[[Any], Any], fails: Fails
) -> None:
    reseal(made_copy / PLAN, lambda plan: plan.update({name: value(plan[name])}))
    _is_no_plan(made_copy, fails)


def _is_no_plan(url: Path, fails: Fails) -> None:
    with pytest.raises(IntegrityError, match=r"the shard plan (cannot be read|is none)"):
        latent_store.open(url)[SPLIT]
    assert "the shard plan" in fails(cli.main, ["inspect", str(url)])


def test_more_rows_than_the_plan_has_are_refused(made_copy: Path) -> None:
    reseal_attrs(made_copy / LABELS / "zarr.json", lambda attrs: attrs.update(num_rows=10**9))
    with pytest.raises(IntegrityError, match="says that it has 1000000000 rows, the shard plan 6"):
        latent_store.open(made_copy)[SPLIT].labels()


@pytest.mark.parametrize("name", ["../x", "x/../../y", "/etc/x", "x//y", "./x", "x\0y", "x" * 1025])
def test_a_name_that_leaves_the_store_is_no_key(tmp_path: Path, name: str) -> None:
    location = Location(tmp_path / "s.zarr")
    assert not is_key(name)
    for action in (location.read, location.delete, location.delete_tree, location.exists):
        with pytest.raises(IntegrityError, match="is no name in a store"):
            action(name)
    with pytest.raises(IntegrityError, match="is no name in a store"):
        location.write(name, b"")


@pytest.mark.parametrize("option", ["--codec", "--split"])
def test_a_name_from_a_command_line_stays_in_the_store(
    made_copy: Path, option: str, tmp_path: Path, fails: Fails
) -> None:
    args = ["decode", str(made_copy), "--sample", "s4", option, "../../x"]
    codec = (
        []
        if option == "--codec"
        else ["--codec", next(iter(latent_store.open(made_copy).codecs()))]
    )
    line = fails(cli.main, [*args, *codec, "--output", str(tmp_path / "x.png")])
    assert "../../x" in line
