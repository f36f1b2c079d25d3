"""Reading while more is written: what is finished is read, at every moment of an append."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latent_store
from latent_store import cli
from latent_store.components import base as component
from latent_store.storage import groups, seals
from latent_store.storage.changes import told
from latent_store.storage.location import Location
from latent_store.tools.verify import verify
from latent_store.views.summary import describe
from pipelines import encode
from tests.pipelines.kills import Job, contents
from tests.pipelines.tiny_jobs import (
    NAME,
    PICTURES,
    encode_args,
    encoding,
    picture_of,
    reordering,
    run,
)
from training.data.store_source import SourceSpec, StoreSource
from training.tasks.annotations import PixelLabels

pytestmark = pytest.mark.usefixtures("serial")


def at_every_change(job: Job, url: Path, look: Callable[[], object]) -> int:
    """Runs a job and looks at the store before each of its changes; returns how often."""
    looks = 0
    looking = False

    def listen(what: str, _: str) -> None:
        nonlocal looks, looking
        # A file that is being written lies beside its place, where nobody looks.
        if not looking and what != "write":
            looking = True
            look()
            looks, looking = looks + 1, False

    with told(listen):
        job(url)
    return looks


def test_opened_at_any_moment_of_an_append_it_shows_what_is_finished(
    inputs: Path, url: Path
) -> None:
    split = latent_store.open(url)[NAME]
    before = split.latents().read([0, 1]), split.labels().read([0, 1]), split.ranked("r").read([0])
    strings = [split.latents().y_string(row) for row in (0, 1)]
    seen = set()

    def look() -> None:
        split = latent_store.open(url)[NAME]
        latents, labels, ranked = split.latents(), split.labels(), split.ranked("r")
        rows = split.common_rows(latents, labels, ranked).tolist()
        assert rows[:2] == [0, 1]
        np.testing.assert_array_equal(latents.read([0, 1]), before[0])
        np.testing.assert_array_equal(labels.read([0, 1]), before[1])
        np.testing.assert_array_equal(ranked.read([0]), before[2])
        assert [latents.y_string(row) for row in (0, 1)] == strings
        assert latents.y_string(latents.rows[-1])
        assert len(split.index) >= len(rows)
        seen.add((len(labels.rows), len(latents.rows), len(ranked.rows)))

    looks = at_every_change(encoding(inputs), url, look)
    looks += at_every_change(reordering(), url, look)
    assert looks > 80
    # Labels are finished first, then latents; the copy follows with its own job.
    assert seen == {(2, 2, 2), (3, 2, 2), (3, 3, 2), (3, 3, 3)}
    assert list(verify(Location(url))) == []


def test_what_was_opened_before_reads_on(inputs: Path, url: Path) -> None:
    split = latent_store.open(url)[NAME]
    latents, labels = split.latents(), split.labels()
    view = split.to_xarray()
    expected = latents.read([0, 1])

    def look() -> None:
        np.testing.assert_array_equal(latents.read([0, 1]), expected)
        assert latents.stream_bytes([0, 1])["y"].all()
        np.testing.assert_array_equal(view["y_hat"].values, expected)

    assert at_every_change(encoding(inputs), url, look) > 50
    look()
    # Opened with the plan of that time, it goes on with the plan as it is.
    assert split.latents().rows.tolist() == [0, 1, 2]
    assert split.common_rows(split.latents(), labels).tolist() == [0, 1]


def test_what_is_first_read_after_an_append_is_what_was_there_before(
    inputs: Path, url: Path
) -> None:
    split = latent_store.open(url)[NAME]
    opened, view = split.latents(), split.to_xarray()
    names = ("channel_bits", "channel_mean")
    expected = {name: split.latents().column(name, [0, 1]) for name in names}
    strings = [split.latents().y_string(row) for row in (0, 1)]
    view["y_hat"].values  # noqa: B018  (opens the component, and no other array of it)
    encoding(inputs)(url)
    for name in names:
        np.testing.assert_array_equal(opened.column(name, [0, 1]), expected[name])
        np.testing.assert_array_equal(view[name].values, expected[name])
        assert opened.array(name).shape[0] == 2
    assert [opened.y_string(row) for row in (0, 1)] == strings


def test_training_goes_on_with_what_was_there(inputs: Path, url: Path) -> None:
    codec_id = latent_store.open(url).codec().codec_id
    spec = SourceSpec(
        url=str(url), split=NAME, annotations=PixelLabels(), domain="latent", codec_id=codec_id
    )
    source = StoreSource(spec)
    wholes = [(0, 0, *size) for size in source.coded_sizes([0, 1])]
    first = source.cut([0, 1], wholes)

    def look() -> None:
        # Another worker process opens the store by its address.
        for one in (source, StoreSource(spec)):
            batch = one.cut([0, 1], wholes)
            for name, values in first.items():
                np.testing.assert_array_equal(batch[name], values)

    assert at_every_change(encoding(inputs), url, look) > 50


def test_a_shard_that_is_made_again_is_left_out_meanwhile(inputs: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(inputs, tmp_path / "inputs"))
    picture = picture_of(own, 0)
    whole = picture.read_bytes()
    picture.write_bytes(whole[:100])
    url = tmp_path / "s.zarr"
    args = ("--samples_per_shard", "2", "--max_failures", "1")
    encoding(own, "--max_samples", "2", *args)(url)
    picture.write_bytes(whole)
    kept = latent_store.open(url)[NAME].latents().y_string(1)
    seen = set()

    def look() -> None:
        latents = latent_store.open(url)[NAME].latents()
        seen.add(tuple(latents.rows.tolist()))
        assert all(latents.y_string(row) for row in latents.rows)

    assert at_every_change(encoding(own, *args), url, look) > 50
    assert seen == {(1,), (), (0, 1, 2)}
    assert latent_store.open(url)[NAME].latents().y_string(1) == kept
    assert list(verify(Location(url))) == []


@pytest.mark.parametrize(
    "change",
    [{"again": []}, {"again": [0], "seal": None}, {"again": "all"}, {"num_rows": None}, {"x": 1}],
)
def test_what_is_noted_of_an_append_is_as_it_was_noted(
    inputs: Path, url: Path, change: dict[str, object]
) -> None:
    location = Location(url)
    path = f"{NAME}/labels"
    lengths = {"num_rows": 2, "num_shards": 2}
    component.note(location, path, lengths)
    component.leave_out(location, path, [1, 7])
    assert latent_store.open(url)[NAME].labels().rows.tolist() == [0]
    noted = groups.attrs_of(groups.open_group(location, path))["pending"]
    # What stands outside of a seal is left; a seal over something else does not help it.
    changed = noted | change if "seal" in change or "x" in change else seals.sealed(noted | change)
    groups.update_attrs(location, path, {"pending": changed})
    if change == {"again": []}:
        assert latent_store.open(url)[NAME].labels().rows.tolist() == [0, 1]
    elif "x" in change:
        assert latent_store.open(url)[NAME].labels().rows.tolist() == [0]
    else:
        with pytest.raises(latent_store.LatentStoreError, match="run its job again"):
            latent_store.open(url)[NAME].labels()
    encoding(inputs)(url)
    assert latent_store.open(url)[NAME].labels().rows.tolist() == [0, 1, 2]
    assert list(verify(location)) == []


@pytest.mark.parametrize("notes", [None, 7, {}, {"again": []}, "resealed"])
def test_repair_removes_notes_that_were_altered_and_nothing_else(
    inputs: Path, url: Path, fails: Callable[..., str], notes: Any
) -> None:
    own = Path(shutil.copytree(inputs, url.parent / "inputs"))
    picture_of(own, PICTURES - 1).write_bytes(b"no picture")
    fails(encode.main, encode_args(own, url), status=1)
    location = Location(url)
    for path in map(f"{NAME}/{{}}".format, latent_store.open(url)[NAME].components()):
        found = groups.attrs_of(groups.open_group(location, path)).get("pending")
        altered = seals.sealed({**(found or {}), "max_failures": "many"})
        groups.update_attrs(location, path, {"pending": altered if notes == "resealed" else notes})
    before = contents(url)
    assert cli.main(["verify", str(url), "--repair"]) == 1
    after = contents(url)
    assert after.keys() == before.keys()
    changed = sorted(key for key in before if before[key] != after[key])
    assert [key.rpartition("/")[2] for key in changed] == ["zarr.json"] * 3
    assert not any("pending" in after[key].decode() for key in changed)
    assert not any("metadata" in str(d) or "altered" in str(d) for d in verify(location))
    encoding(inputs)(url)
    reordering()(url)
    assert latent_store.open(url)[NAME].ranked("r").rows.tolist() == [0, 1, 2]
    assert list(verify(location)) == []


def test_an_append_that_fails_leaves_what_was_finished(
    inputs: Path, url: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    own = Path(shutil.copytree(inputs, tmp_path / "inputs"))
    picture = picture_of(own, PICTURES - 1)
    whole = picture.read_bytes()
    picture.write_bytes(whole[:100])
    line = fails(encode.main, encode_args(own, url), status=1)
    assert "1 samples of cityscapes/train/labels failed, more than --max_failures 0" in line
    split = latent_store.open(url)[NAME]
    assert split.common_rows(split.latents(), split.labels()).tolist() == [0, 1]
    assert "GROWING" in describe(split.store)
    defects = list(map(str, verify(Location(url))))
    assert len(defects) == 2
    assert all("more was begun than is finished, which is whole" in defect for defect in defects)
    picture.write_bytes(whole)
    encoding(own)(url)
    assert latent_store.open(url)[NAME].latents().rows.tolist() == [0, 1, 2]
    assert "GROWING" not in describe(split.store)
    run(cli.main, "verify", url)
