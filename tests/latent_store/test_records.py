"""Records with right checksums and wrong contents: read as they were, or refused in one line."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latent_store
from latent_store.catalogue.rankings import Ranking, write_ranking
from latent_store.components.checking import check_shards, component_tables
from latent_store.errors import IntegrityError, LatentStoreError
from latent_store.format.plan_files import read_plan, write_plan
from latent_store.format.sample_lists import Samples
from latent_store.format.sample_parts import PartRecord, SamplePart, to_table
from latent_store.shards.receipts import receipt_key
from latent_store.storage import records
from latent_store.storage.location import Location
from latent_store.views.summary import describe
from tests.latent_store.made_latents import SPLIT, write_latents
from tests.latent_store.mutations import VALUES, mutate, reseal, reseal_array, reseal_attrs

LATENTS = f"{SPLIT}/latents/made"
TRIALS = 60
PLACES = {
    "plan": f".latent_store/{SPLIT}/plan.json",
    "receipt": receipt_key(SPLIT, "latents/made", 0),
    "component": f"{LATENTS}/zarr.json",
    "split": f"{SPLIT}/zarr.json",
    "ranking": "codecs/made/rankings/mine/zarr.json",
    "codec": "codecs/made/zarr.json",
}
SEALED = ("plan", "receipt")
ARRAYS = ("y_hat", "channel_rms", "hyper_bits", "bitstream/y_data", "bitstream/y_offset")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with made latents, an append, a failed row, and a ranking."""
    url = tmp_path_factory.mktemp("records") / "whole.zarr"
    rng = np.random.default_rng(0)
    write_latents(
        url,
        lambda row: None if row == 1 else rng.integers(-9, 9, (16, 4, 8)),
        channels=16,
        counts=(3, 2),
        samples_per_shard=2,
        size=(60, 100),
        dtype="int8",
    )
    ranking = Ranking(
        ranking_id="mine",
        codec_id="made",
        method="random",
        order=tuple(reversed(range(16))),
        cuts=(8, 16),
        score=tuple(map(float, range(16))),
        tied_at_cut={8: 0, 16: 0},
        num_samples=3,
        dataset="cityscapes",
        split="train",
    )
    write_ranking(Location(url), ranking)
    return url


def read_all(url: Path) -> dict[str, Any]:
    """Reads what depends on records, and returns rows and values by name."""
    store = latent_store.open(url)
    store.codec_tables("made")
    describe(store)
    split = store[SPLIT]
    latents = split.latents("made")
    rows = latents.rows
    return {
        "rows": rows.tolist(),
        "ids": split.sample_ids(rows),
        "sizes": [split.sizes(rows).tolist(), split.coded_sizes(rows).tolist()],
        "common": split.common_rows(latents).tolist(),
        "sources": split.source_rows(rows).tolist(),
        "y_hat": latents.read(rows).tolist(),
        "columns": [latents.column(n, rows).tolist() for n in ("channel_rms", "hyper_bits")],
        "strings": [latents.y_string(row) for row in rows.tolist()],
        "order": store.ranking("made", "mine").order,
    }


def close(url: Path) -> Any:
    """Compares shards with their receipts and makes the tables, as `finalize` and `verify` do."""
    location = Location(url)
    closed = check_shards(location, read_plan(location, *SPLIT.split("/")), "latents/made", print)
    return None if closed.defects else component_tables(closed)


def outcome(read: Callable[[Path], Any], url: Path) -> Any:
    """Returns what reading gives; None where it is refused in one line."""
    try:
        return read(url)
    except LatentStoreError as error:
        line = str(error)
    assert "\n" not in line
    assert len(line) < 1000
    return None


@pytest.mark.parametrize("kind", [*PLACES, "array"])
def test_a_resealed_change_is_read_or_refused_and_never_silent(
    kind: str, whole: Path, tmp_path: Path
) -> None:
    read = close if kind == "receipt" else read_all
    expected, found = read(whole), Counter[str]()
    url = Path(shutil.copytree(whole, tmp_path / "copy.zarr"))
    for seed in range(TRIALS):
        rng = random.Random(f"{kind} {seed}")
        name = rng.choice(ARRAYS) if kind == "array" else ""
        places = [PLACES["component"], f"{LATENTS}/{name}/zarr.json"] if name else [PLACES[kind]]
        before = {place: (url / place).read_bytes() for place in places}
        if name:
            reseal_array(url / LATENTS, name, lambda r, g=rng: mutate(r, g))
        else:
            change = reseal if kind in SEALED else reseal_attrs
            change(url / PLACES[kind], lambda r, g=rng: mutate(r, g))
        result = outcome(read, url)
        # A receipt that is believed may tell other statistics: no row, and no object.
        same = kind == "receipt" or result == expected
        assert result is None or same, (kind, seed)
        found["refused" if result is None else "read"] += 1
        for place, data in before.items():
            (url / place).write_bytes(data)
    assert found["refused"] > TRIALS // 8


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_whatever_stands_in_a_record_is_one_error(value: Any) -> None:
    for kind in (PartRecord, Ranking):
        with pytest.raises(IntegrityError, match="it cannot be read"):
            records.typed(kind, value, "it", "mend it")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"3", b"\xff", b"{", b"[" * 100_000, b'{"a":' * 3000, b'{"a": 1' + b"0" * 5000],
)
def test_what_is_no_json_object_is_one_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="it cannot be read"):
        records.parse(data, "it", "mend it")


def test_an_error_names_the_field_and_its_rule(whole: Path, tmp_path: Path) -> None:
    url = Path(shutil.copytree(whole, tmp_path / "copy.zarr"))
    reseal(url / PLACES["plan"], lambda plan: plan["parts"][1].update(bytes="60"))
    with pytest.raises(
        IntegrityError,
        match=r"plan.json: the shard plan cannot be read \(Expected int, got str - at "
        r"\$.parts\[1\].bytes\); restore plan.json",
    ):
        latent_store.open(url)[SPLIT]


def test_a_plan_with_other_pictures_is_refused(whole: Path, tmp_path: Path) -> None:
    """Its types and its checksum are right, and no table tells the length of a picture's file."""
    url = Path(shutil.copytree(whole, tmp_path / "copy.zarr"))
    location = Location(url)
    plan = read_plan(location, *SPLIT.split("/"))
    first, *others = plan.samples.parts
    pictures = [*first.samples()[:2], replace(first.samples()[2], image_bytes=7)]
    changed = Samples([SamplePart.of(to_table(pictures), 0), *others])
    write_plan(location, replace(plan, samples=changed))
    split = latent_store.open(url)[SPLIT]
    with pytest.raises(IntegrityError, match="made from other pictures than the shard plan lists"):
        split.latents("made")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r: r.update(fill_value=7), "fill_value"),
        (lambda r: r["chunk_key_encoding"]["configuration"].update(separator="."), "separator"),
        (lambda r: r["codecs"][0]["configuration"]["codecs"][0].update(name="transpose"), "name"),
    ],
)
def test_metadata_that_makes_other_numbers_of_the_same_bytes_is_refused(
    whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], what: str
) -> None:
    url = Path(shutil.copytree(whole, tmp_path / "copy.zarr"))
    reseal_array(url / LATENTS, "y_hat", lambda r: (change(r), r)[1])
    with pytest.raises(IntegrityError, match=rf"y_hat cannot be read .*{what}"):
        read_all(url)


def test_shapes_are_bounded_before_anything_is_allocated(whole: Path, tmp_path: Path) -> None:
    url = Path(shutil.copytree(whole, tmp_path / "copy.zarr"))

    def widen(record: dict[str, Any]) -> dict[str, Any]:
        record["shape"][1] = record["chunk_grid"]["configuration"]["chunk_shape"][1] = 10**12
        return record

    reseal_array(url / LATENTS, "channel_rms", widen)
    with pytest.raises(IntegrityError, match=r"channel_rms says that it has the shape \(6, 10{12}"):
        latent_store.open(url)[SPLIT].latents("made").column("channel_rms", [0])


@pytest.mark.parametrize("what", ["pipe", "device", "long"])
def test_a_small_array_is_read_from_a_regular_file_of_its_size(
    whole: Path, tmp_path: Path, what: str
) -> None:
    url = Path(shutil.copytree(whole, tmp_path / "copy.zarr"))
    path = url / "codecs/made/rankings/mine/order/c/0"
    if what == "long":
        os.truncate(path, 2**40)
    else:
        path.unlink()
        os.mkfifo(path) if what == "pipe" else path.symlink_to("/dev/zero")
    line = "1099511627776 bytes, more than the" if what == "long" else "is no regular file"
    with pytest.raises(IntegrityError, match=line):
        latent_store.open(url).ranking("made", "mine")


def test_of_an_object_store_no_more_is_read_than_can_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    location = Location("memory://sizes.zarr")
    location.write("x", b"12345")
    location.write("empty", b"")
    assert location.read("x", 5) == b"12345"
    with pytest.raises(IntegrityError, match="x has more bytes than the 4 that it can have"):
        location.read("x", 4)
    fetch = location.fs.cat_file

    def refusing(path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Fetches as some object stores do: no bytes have no range."""
        if start is not None and not location.fs.size(path):
            raise OSError("the requested range is not satisfiable")
        return bytes(fetch(path, start, end))

    monkeypatch.setattr(location.fs, "cat_file", refusing)
    assert location.read("empty", 5) == b""
    with pytest.raises(FileNotFoundError):
        location.read("nothing", 5)
    location.delete_tree("")
