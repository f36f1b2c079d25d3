"""Parts of a plan: read as they were written, whoever reads them, or refused in one line."""

from __future__ import annotations

import dataclasses
import io
import random
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latent_store.components.creation import create_store
from latent_store.errors import DatasetError, IntegrityError, LeaseLostError
from latent_store.format.plan import make_plan
from latent_store.format.plan_files import parts_prefix, read_plan, write_plan
from latent_store.format.sample_lists import SAMPLES_A_PART, Samples
from latent_store.format.sample_parts import COLUMNS, SamplePart, to_table
from latent_store.format.samples import Sample
from latent_store.storage.lease import Lease
from latent_store.storage.location import Location
from tests.latent_store.format.test_plan import samples

COUNT = 40
TRIALS = 400


def part_of(data: bytes, count: int = COUNT) -> SamplePart:
    """Returns a part whose record has the right length and crc32c, whatever it holds."""
    record = dataclasses.replace(
        SamplePart.of(to_table(samples(1)), 0).record,
        samples=count,
        bytes=len(data),
        crc32c=google_crc32c.value(data),
    )
    location = Location(f"memory://{uuid4().hex}")
    location.write("part", data)
    return SamplePart(record=record, location=location, key="part")


def written(columns: dict[str, Any], **how: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **how)
    return buffer.getvalue()


def columns_of(count: int = COUNT) -> dict[str, Any]:
    table = to_table(samples(count))
    columns = {name: table[name].combine_chunks() for name in COLUMNS.names}
    return {"row": pa.array(range(count), pa.int64()), **columns}


def test_any_reader_of_parquet_reads_a_plan(tmp_path: Path) -> None:
    location, listed = Location(tmp_path / "s.zarr"), samples(SAMPLES_A_PART + 10)
    create_store(location)
    write_plan(location, make_plan("made", "train", listed, 4))
    folder = tmp_path / "s.zarr" / parts_prefix("made", "train")
    assert [path.name[:7] for path in sorted(folder.iterdir())] == ["000000-", "004096-"]
    table = pq.read_table(folder)
    assert table["row"].to_pylist() == list(range(len(listed)))
    assert table["sample_id"].to_pylist() == [sample.sample_id for sample in listed]
    assert table["image_bytes"].to_pylist() == [sample.image_bytes for sample in listed]


def test_a_shard_is_read_from_its_part_alone(tmp_path: Path) -> None:
    location, listed = Location(tmp_path / "s.zarr"), samples(2 * SAMPLES_A_PART)
    create_store(location)
    write_plan(location, make_plan("made", "train", listed, 4))
    first, last = sorted((tmp_path / "s.zarr" / parts_prefix("made", "train")).iterdir())
    first.unlink()
    plan = read_plan(location, "made", "train")
    row = SAMPLES_A_PART + 4
    assert plan.in_shard(row // 4) == [(row + n, listed[row + n]) for n in range(4)]
    assert (plan.num_shards, plan.count_in(0)) == (2 * SAMPLES_A_PART // 4, 4)
    assert plan.pictures_crc32c([row]) == make_plan("m", "t", listed, 4).pictures_crc32c([row])
    with pytest.raises(
        IntegrityError,
        match=f"{first.name} of the shard plan is missing: .*open the split again; else",
    ):
        plan.in_shard(0)
    last.write_bytes(last.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=f"{last.name} of the shard plan does not have its"):
        read_plan(location, "made", "train").in_shard(plan.num_shards - 1)


def test_what_a_plan_no_longer_names_stays_until_it_changes_again(tmp_path: Path) -> None:
    """Who opened it before goes on; a changed sample is in another file of the same rows."""
    location, names = Location(tmp_path / "s.zarr"), []
    create_store(location)
    for count, size in ((4, 7), (4, 8), (6, 8), (6, 9)):
        listed = samples(count)
        listed[1] = dataclasses.replace(listed[1], image_bytes=size)
        if count == 4 and size == 7:
            plan = make_plan("made", "train", listed, 2)
        else:
            plan = read_plan(location, "made", "train").extended(listed, mended={"s0001"})
        write_plan(location, plan)
        assert list(read_plan(location, "made", "train").samples) == listed
        names.append(set(location.sizes(parts_prefix("made", "train"))))
        write_plan(location, plan)
        assert set(location.sizes(parts_prefix("made", "train"))) == names[-1]
    assert [len(there) for there in names] == [1, 2, 2, 3]
    assert len(names[0] - names[1]) == 0
    assert len(names[1] - names[2]) == 1


def test_files_of_others_beside_the_parts_stay(tmp_path: Path) -> None:
    """Only parts that no plan names any more go, and what killed processes left of one."""
    location, plan = Location(tmp_path / "s.zarr"), make_plan("made", "train", samples(4), 2)
    create_store(location)
    write_plan(location, plan)
    folder = tmp_path / "s.zarr" / parts_prefix("made", "train")
    there = {path.name for path in folder.iterdir()}
    others = {"README.md", ".nfs0001", "000009-zzzzzzzz.parquet", "other/000009-0000000a.parquet"}
    gone = {"000009-0000000a.parquet", ".000009-0000000b.parquet.0123abcd"}
    for name in others | gone:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    write_plan(location, plan.extended(samples(6)))
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found & (others | gone) == others
    assert there < found


def test_a_job_that_lost_its_lease_changes_no_plan_and_removes_no_part() -> None:
    """What its successor wrote, and has not put in force, may be among what it would remove."""
    location = Location(f"memory://{uuid4().hex}")
    create_store(location)
    plan = make_plan("made", "train", samples(4), 2)
    write_plan(location, plan)
    with Lease(location, "made/train", "plan") as lease:
        longer = plan.extended(samples(6))
        stray = f"{parts_prefix('made', 'train')}/000002-0000000a.parquet"
        location.write(stray, b"of its successor")
        with Lease(location, "made/train", "plan", steal=True):
            with pytest.raises(LeaseLostError, match="made/train/plan was lost to process"):
                write_plan(location, longer, lease.claim)
            location.delete(stray)
            with pytest.raises(LeaseLostError, match="made/train/plan was lost to process"):
                write_plan(location, longer, lease.claim)
            assert list(read_plan(location, "made", "train").samples) == samples(4)
            location.write(stray, b"of its successor")
    assert location.exists(stray)
    with Lease(location, "made/train", "plan") as lease:
        write_plan(location, longer, lease.claim)
    assert list(read_plan(location, "made", "train").samples) == samples(6)


def changed(**values: Any) -> bytes:
    return written({**columns_of(), **values})


def without(name: str) -> bytes:
    return written({key: column for key, column in columns_of().items() if key != name})


def one(name: str, value: Any) -> bytes:
    column = columns_of()[name]
    return changed(**{name: pa.array([*column.to_pylist()[:-1], value], column.type)})


def not_utf8() -> bytes:
    flat = b"x" * (COUNT - 1) + b"\xff"
    offsets = np.arange(COUNT + 1, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(flat)]
    return changed(image_uri=pa.Array.from_buffers(pa.string(), COUNT, buffers))


HOSTILE = {
    "junk": (b"PAR1" * 9, "magic|Parquet"),
    "no column": (without("view"), "view is null"),
    "another type": (changed(height=pa.array([60.0] * COUNT)), "height is double"),
    "a struct": (changed(view=pa.array([{"a": "original"}] * COUNT)), "view is struct"),
    "nothing": (one("image_uri", None), "a value is missing"),
    "other rows": (one("row", 10**6), "its rows are not those"),
    "negative": (one("height", -1), "height is not from 0 to 65536"),
    "huge": (one("width", 65537), "width is not from 0 to 65536"),
    "endless": (one("image_bytes", 2**62), "image_bytes is not from 0"),
    "boxes": (one("num_boxes", 2**20 + 1), "num_boxes is not from 0"),
    "a path": (one("sample_id", "../x"), "cannot be a sample id"),
    "two lines": (one("sample_id", "a\nb"), "cannot be a sample id"),
    "a view's": (one("sample_id", "s@hflip"), "cannot be the sample id of an original"),
    "no view's": (one("view", "hflip"), "cannot be the sample id"),
    "decomposed": (one("sample_id", "e\u0301"), "not in its normal form"),
    "not UTF-8": (not_utf8(), "UTF8|UTF-8"),
    "few": (written(columns_of(COUNT - 1)), "it says that it has 39 rows"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_part_with_its_checksum_that_no_job_can_have_made_is_one_error(name: str) -> None:
    data, why = HOSTILE[name]
    with pytest.raises(
        IntegrityError,
        match=rf"(?s): part of the shard plan cannot be read \(.*({why}).*; restore",
    ) as caught:
        part_of(data).table()
    assert "\n" not in str(caught.value)


def test_a_long_text_that_all_rows_have_is_refused_before_it_is_laid_out() -> None:
    count, before = 2**14, pa.total_allocated_bytes()
    text = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), ["x" * 2**20])
    data = written({**columns_of(count), "label_uri": text})
    assert len(data) < 2**20
    with pytest.raises(IntegrityError, match="its texts take more than 268435456 bytes"):
        part_of(data, count).table()
    assert pa.total_allocated_bytes() - before < 2**26


def test_texts_of_all_columns_together_have_a_limit() -> None:
    """Of several columns, each below it; and a writer is told before it writes such a part."""
    count, names = 2**14, ("label_uri", "image_uri", "boxes_uri")
    text = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), ["x" * 6000])
    data = written({**columns_of(count), **dict.fromkeys(names, text)})
    with pytest.raises(IntegrityError, match="its texts take more than 268435456 bytes"):
        part_of(data, count).table()
    dense = text.cast(pa.string())
    columns = {**columns_of(count), **dict.fromkeys(names, dense)}
    with pytest.raises(DatasetError, match=r"16384 samples .* a smaller `samples_per_shard=`"):
        SamplePart.of(pa.table(columns).select(COLUMNS.names), 0)


def test_ids_of_two_samples_differ_in_all_of_a_plan() -> None:
    listed = samples(3)
    plan = make_plan("made", "train", listed, 2)
    again = SamplePart.of(to_table(listed[:1]), 4)
    twice = dataclasses.replace(plan, samples=Samples([*plan.samples.parts, again]))
    with pytest.raises(IntegrityError, match="the shard plan is none: sample id 's0000' occurs tw"):
        twice.require_whole()
    view = SamplePart.of(to_table([listed[0].seen_as("hflip")]), 0)
    with pytest.raises(IntegrityError, match="has a view without its original picture"):
        dataclasses.replace(plan, samples=Samples([view])).require_whole()


def test_ids_are_found_though_all_share_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    constant = lambda ids: np.zeros(len(ids), np.uint32)  # noqa: E731
    monkeypatch.setattr("latent_store.format.sample_lists._hashed", constant)
    listed = Samples.of(samples(5))
    assert listed.twice is None
    assert listed.find(["s0003", "none", "s0000"]).tolist() == [3, -1, 0]
    assert Samples.of([*listed, listed[2]]).twice == (2, 5)


@pytest.mark.parametrize("value", [{"height": -1}, {"width": 2**40}, {"num_boxes": "x"}])
def test_a_reader_that_gives_other_values_is_told_so(value: dict[str, Any]) -> None:
    sample = dataclasses.replace(samples(1)[0], **value)
    with pytest.raises(DatasetError, match=r"from 's0000' to 's0000' cannot be planned .* mend"):
        Samples.of([sample])


def test_damage_under_a_right_checksum_is_never_another_picture_or_a_traceback() -> None:
    """Bytes of Parquet's own metadata and pages, changed at random, and parts cut off."""
    whole = SamplePart.of(to_table(samples(COUNT)), 0).data()
    found: Counter[str] = Counter()
    for seed in range(TRIALS):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if seed % 10 == 0:
            data = data[: rng.randrange(1, len(data))]
        try:
            read: list[Sample] = part_of(bytes(data)).samples()
        except IntegrityError:
            found["refused"] += 1
            continue
        assert len(read) == COUNT
        found["read"] += 1
    assert found["refused"] > TRIALS // 4
