"""Stores of every format version are read for ever; what a newer minor version adds is ignored."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import latent_store
from latent_store import cli
from latent_store.components import base as component
from latent_store.components import creation
from latent_store.components.finalize import finalize
from latent_store.components.labels import labels_spec
from latent_store.components.writer import ShardWriter
from latent_store.errors import FormatVersionError, IdentityError
from latent_store.format import schema
from latent_store.format.plan_files import read_plan, write_plan
from latent_store.shards import index, receipts
from latent_store.storage import groups, records, seals
from latent_store.storage.consolidated import consolidate
from latent_store.storage.lease import Lease
from latent_store.storage.location import Location
from latent_store.tools import verify as integrity
from latent_store.tools.verify_streams import check_streams
from tests.latent_store.archives import make_v1, make_v2, make_v3
from tests.latent_store.archives.make_v1 import ARCHIVE, EXPECTED, digests
from tests.latent_store.readings import contents

MAX_ARCHIVE_BYTES = 1_500_000
NEWER = {"encoding-version": "1.9", "unknown": {"of": "a newer minor version"}}


@pytest.fixture
def archived(tmp_path: Path) -> Path:
    """The archived store, unpacked."""
    url = tmp_path / "v1.zarr"
    zipfile.ZipFile(ARCHIVE).extractall(url)
    return url


@pytest.mark.parametrize("made", [make_v1, make_v2, make_v3], ids=["v1", "v2", "v3"])
def test_archives_read_as_they_were_written(made: ModuleType, tmp_path: Path) -> None:
    assert made.ARCHIVE.stat().st_size <= MAX_ARCHIVE_BYTES
    zipfile.ZipFile(made.ARCHIVE).extractall(tmp_path)
    assert digests(tmp_path) == json.loads(made.EXPECTED.read_text())
    assert list(integrity.verify(Location(tmp_path), deep=check_streams)) == []


def test_a_newer_minor_version_with_unknown_things_is_read(archived: Path) -> None:
    make_newer(archived)
    assert latent_store.open(archived)["made/train"].plan.num_rows == 6
    assert digests(archived) == json.loads(EXPECTED.read_text())
    assert list(integrity.verify(Location(archived), deep=check_streams)) == []


def test_a_newer_major_version_is_refused(archived: Path, fails: Callable[..., str]) -> None:
    edit(archived, "", lambda attrs: {**attrs, "encoding-version": "3.0"})
    line = fails(cli.main, ["inspect", str(archived)])
    assert "has format version 3.0, this library reads 2.0; install a release of" in line


def test_a_store_of_version_1_keeps_its_plans_when_they_grow(archived: Path) -> None:
    location, path = Location(archived), archived / ".latent_store/made/train/plan.json"
    before = json.loads(path.read_bytes())
    plan = read_plan(location, "made", "train")
    known = tuple(plan.originals)
    write_plan(location, plan)
    again, listed = json.loads(path.read_bytes()), before["samples"]
    assert again["rows"] == before["rows"]
    assert again["samples"] == [{**sample, "view": "original"} for sample in listed]
    more = replace(known[0], sample_id="another")
    write_plan(location, plan.extended([*known, more]))
    after = json.loads(path.read_bytes())
    assert after["rows"] == [*before["rows"], plan.num_rows]
    assert after["samples"][:-1] == again["samples"]
    assert sorted(p.name for p in path.parent.glob("plan*")) == ["plan.json"]
    assert groups.attrs_of(groups.open_group(location))["encoding-version"] == "1.0"
    assert read_plan(location, "made", "train").row_of("another") == plan.num_rows


def test_a_component_of_an_older_minor_version_is_gone_on_with(archived: Path) -> None:
    location = Location(archived)
    plan = read_plan(location, "made", "train")
    spec = labels_spec(*plan.canvas)
    creation.create_component(location, plan, spec)
    group = component.open_component(location, plan.name, spec.key)
    assert component.noted(group)["encoding-version"] == schema.COMPONENT_VERSION == "1.3"
    edit(archived, "made/train/labels", lambda a: seals.sealed({**a, "encoding-version": "1.9"}))
    with pytest.raises(IdentityError, match=r"encoding-version = '1\.9', this job would"):
        creation.create_component(location, plan, spec)


@pytest.mark.parametrize("version", [5, "1.2.3", "1.", None])
def test_a_version_that_is_none_is_refused(archived: Path, version: object) -> None:
    location = Location(archived)
    plan = read_plan(location, "made", "train")
    edit(archived, "made/train/labels", lambda a: seals.sealed({**a, "encoding-version": version}))
    with pytest.raises(FormatVersionError, match=r"made/train/labels is a Zarr group but no comp"):
        creation.create_component(location, plan, labels_spec(*plan.canvas))


def test_what_only_a_newer_version_notes_of_an_origin_is_ignored(archived: Path) -> None:
    split = latent_store.open(archived)["made/train"]
    (codec_id, *_) = split.store.codecs()
    latents = split.latents(codec_id)
    origin = {**latents.spec.origin, "newer": "what nobody knows yet"}
    edit(archived, latents.group.path, lambda a: seals.sealed({**a, "origin": origin}))
    assert split.latents(codec_id).record.origin == origin
    other = dict.fromkeys(origin, "another")
    edit(archived, latents.group.path, lambda a: seals.sealed({**a, "origin": other}))
    with pytest.raises(IdentityError, match=r"was made from .* 'another', the store has"):
        split.latents(codec_id)


def test_shards_of_an_older_version_count_beside_new_ones(archived: Path) -> None:
    """Old receipts do not say what they are made from, new ones do."""
    location, name = Location(archived), "made/train"
    plan = read_plan(location, *name.split("/"))
    spec, before = labels_spec(*plan.canvas), latent_store.open(archived)[name].labels()
    old = receipts.read_receipt(location, name, spec.key, 0)
    assert (old.origin, old.pictures_crc32c, old.fence) == ({}, None, None)
    assert before.record.pictures_crc32c is None
    creation.create_component(location, plan, spec)
    planes = {row: before.read([row])[0] for row in old.usable}
    with Lease(location, name, spec.key) as lease:
        writer = ShardWriter(location, plan, spec, lease.claim)
        new = writer.write(0, {"segmentation": planes}, {}, old.rows)
        finalize(location, name, spec.key, claim=lease.claim)
    assert (new.origin, new.fence) == ({"label_ids": "cityscapes-train-ids"}, 1)
    after = latent_store.open(archived)[name].labels()
    assert after.record.origin == new.origin
    assert after.record.pictures_crc32c == plan.pictures_crc32c(after.rows.tolist())
    np.testing.assert_array_equal(after.read(after.rows), before.read(before.rows))
    assert list(integrity.verify(location)) == []


def test_a_component_of_a_newer_major_version_is_refused_alone(archived: Path) -> None:
    edit(archived, "made/train/labels", lambda a: seals.sealed({**a, "encoding-version": "2.0"}))
    split = latent_store.open(archived)["made/train"]
    with pytest.raises(
        FormatVersionError, match=r"made/train/labels in .* has format version 2\.0, "
    ):
        split.labels()
    assert len(split.teacher().rows) == 5


def make_newer(url: Path) -> None:
    """Adds what a writer of a later minor version might: attributes, arrays, groups, fields."""
    location = Location(url)
    names = ["", "made", "made/train", "made/train/latents"]
    for name in names:
        edit(url, name, lambda attrs: {**attrs, **NEWER})
    for name in names[:-1]:
        add_array(url, name)
    for name in latent_store.open(url).splits():
        plan_path = url / f".latent_store/{name}/plan.json"
        plan_path.write_bytes(with_unknown(plan_path.read_bytes(), "samples"))
        for path in plan_path.parent.rglob("receipts/**/*.json"):
            path.write_bytes(with_unknown(path.read_bytes(), "rows"))
        for key in latent_store.open(url)[name].components():
            add_to_component(location, name, key)
    small = [*url.glob("codecs/*/zarr.json"), *url.glob("codecs/*/rankings/*/zarr.json")]
    for group in [str(path.parent.relative_to(url)) for path in small]:
        edit(url, group, lambda attrs: seals.sealed({**attrs, "unknown": 1}))
        add_array(url, group)
    for name, keys in contents(url).items():
        for path in [*(f"{name}/{key}" for key in keys), name, ""]:
            consolidate(location, path)


def add_to_component(location: Location, split: str, key: str) -> None:
    """Adds to a component's tables, attributes and arrays, and seals it as its writer would."""
    url = Path(location.url)
    base = f"{split}/{key}"
    tables = dict(component.open_component(location, split, key).attrs["tables"])
    for name in tables:
        path = url / index.index_key(split, name)
        table = pq.read_table(io.BytesIO(path.read_bytes()))
        if not name.endswith((".objects", ".dead_letters")):
            table = table.append_column("unknown", pa.array([1] * table.num_rows))
            for receipt_path in (url / receipts.receipt_prefix(split, key)).glob("*.json"):
                stats = json.loads(receipt_path.read_bytes())
                stats.pop(seals.CRC32C)
                for row in stats["rows"]:
                    row["stats"]["unknown"] = 1
                receipt_path.write_bytes(records.seal_record(stats))
        tables[name] = index.renew_table(location, split, name, table, None)
    edit(url, base, lambda a: seals.sealed({**a, **NEWER, "tables": tables}))
    add_array(url, base)
    # A user's own note is no part of what was sealed.
    edit(url, base, lambda attrs: {**attrs, "note": "mine"})


def with_unknown(data: bytes, parts: str) -> bytes:
    """Adds a field to a sealed record and to each of its parts."""
    record = json.loads(data)
    record.pop(seals.CRC32C)
    for part in record[parts]:
        part["unknown"] = [1, 2]
    return records.seal_record({**record, "unknown": "x"})


def edit(url: Path, path: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Changes a group's attributes, and keeps its consolidated metadata."""
    file = url / groups.metadata_key(path)
    record = json.loads(file.read_bytes())
    record["attributes"] = change(record["attributes"])
    file.write_text(json.dumps(record))


def add_array(url: Path, path: str) -> None:
    """Adds an array and a group that today's reader does not know."""
    group = zarr.open_group(url, path=path, mode="r+", use_consolidated=False)
    metadata = (url / path / "zarr.json").read_bytes()
    group.create_array("unknown_array", shape=(3,), dtype="int8")[:] = 1
    group.create_group("unknown_group")
    (url / path / "zarr.json").write_bytes(metadata)
