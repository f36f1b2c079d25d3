"""Bad input in Cityscapes' layout: a clear line, or a failed row with its reason."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import latent_store
from latent_store import cli
from latent_store.errors import DatasetError
from latent_store.format.plan import make_plan
from latent_store.storage.location import CONTROL, Location
from latent_store.storage.object_stores import open_location
from pipelines import encode
from pipelines.datasets.base import read_labels
from pipelines.datasets.cityscapes import TRAIN_IDS, Cityscapes
from tests.pipelines.made_pictures import BROKEN, WHOLE, saved

Fails = Callable[..., str]
SIZE = (64, 128)
E_COMPOSED, E_DECOMPOSED = "\u00e9", "e\u0301"


def made_picture(seed: int = 0) -> Image.Image:
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    waves = [127 + 100 * np.sin(x / (9 + c) + seed) * np.cos(y / (11 + c)) for c in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


def image_path(root: Path, stem: str, split: str = "train") -> Path:
    return root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png"


def label_path(root: Path, stem: str, split: str = "train") -> Path:
    return root / f"gtFine/{split}/{stem}_gtFine_labelIds.png"


def write_root(root: Path, *stems: str) -> Path:
    """Writes pictures and labels, ids 0 to 33 in each."""
    ids_HW = np.tile(np.arange(32, dtype=np.uint8) + 2, (SIZE[0], SIZE[1] // 32))
    for path in (image_path, label_path):
        for seed, stem in enumerate(stems):
            target = path(root, stem)
            target.parent.mkdir(parents=True, exist_ok=True)
            made = made_picture(seed) if path is image_path else Image.fromarray(ids_HW)
            target.write_bytes(saved(made, "PNG"))
    return root


def manifest(root: Path) -> list[Any]:
    return Cityscapes(Location(root)).manifest("train")


def refused(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        manifest(root)
    assert str(caught.value).isprintable()
    return str(caught.value)


def args(root: Path, url: Path, *more: str) -> list[str]:
    return [
        *("--dataset", "cityscapes", "--data_root", str(root), "--split", "train", "--demo_codec"),
        *("--store", str(url), "--samples_per_shard", "6", "--psnr", "none", *more),
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path / "data", "aachen/a", "aachen/b", "bonn/c")


def test_every_broken_file_is_one_failed_row(
    tmp_path: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken pictures, pictures that are whole though odd, and labels that are none, in one job."""
    broken = {f"city/broken{n:02d}": kind for n, kind in enumerate(BROKEN)}
    odd = {"city/text": "text of 2 MiB", "city/profile": "profile of 2 MiB"}
    labels = ("city/label1", "city/label2")
    root, url = write_root(tmp_path / "data", *broken, *odd, *labels, "city/whole"), tmp_path / "s"
    for stem, kind in broken.items():
        image_path(root, stem).write_bytes(BROKEN[kind](made_picture()))
    for stem, kind in odd.items():
        image_path(root, stem).write_bytes(WHOLE[kind](made_picture()))
    label_path(root, labels[0]).write_bytes(saved(Image.new("L", SIZE[::-1], 200), "PNG"))
    label_path(root, labels[1]).write_bytes(BROKEN["200 million pixels"](made_picture()))
    bad = [stem.split("/")[1] for stem in (*broken, *labels)]
    line = fails(encode.main, args(root, url), status=1)
    assert f"{len(bad)} samples of cityscapes/train/labels failed, more than --max_failures" in line
    assert encode.main(args(root, url, "--max_failures", str(len(bad)))) == 0
    split = latent_store.open(url)["cityscapes/train"]
    kept = split.common_rows(split.labels(), split.latents())
    assert split.sample_ids(kept) == ["profile", "text", "whole"]
    letters = pq.read_table(url / CONTROL / "cityscapes/train/labels.dead_letters.parquet")
    reasons = dict(
        zip(letters["sample_id"].to_pylist(), letters["reason"].to_pylist(), strict=True)
    )
    assert sorted(reasons) == sorted(bad)
    for name, reason in reasons.items():
        assert f"/city/{name}_" in reason
        assert reason.isprintable()
    assert reasons["label1"].endswith("holds the value 200: label ids are 0 to 33; restore it")
    capsys.readouterr()
    assert cli.main(["verify", str(url), "--deep"]) == 0
    assert cli.main(["inspect", str(url)]) == 0
    assert f"3 samples, {len(bad)} failed" in capsys.readouterr().out
    # Mended, the same command takes them; what was whole is kept.
    write_root(root, *broken, *labels)
    assert encode.main(args(root, url, "--max_failures", "0")) == 0
    split = latent_store.open(url)["cityscapes/train"]
    assert len(split.common_rows(split.labels(), split.latents())) == len(bad) + 3


def test_pipes_sockets_and_devices_are_failed_rows_and_never_waited_for(
    tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, url = (
        write_root(tmp_path / "data", *(f"city/{name}" for name in "abcdefgh")),
        tmp_path / "s",
    )
    for name, path in zip("abcdefg", [image_path] * 4 + [label_path] * 3, strict=True):
        path(root, f"city/{name}").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        os.mkfifo(image_path(root, "city/a"))
        # A socket's address is short, whatever folder tests are given.
        monkeypatch.chdir(image_path(root, "city/b").parent)
        listening.bind(image_path(root, "city/b").name)
        image_path(root, "city/c").symlink_to("/dev/zero")
        image_path(root, "city/d").mkdir()
        os.mkfifo(label_path(root, "city/e"))
        label_path(root, "city/f").symlink_to("/dev/null")
        label_path(root, "city/g").symlink_to(image_path(root, "city/b"))
        line = fails(encode.main, args(root, url), status=1)
        assert "7 samples of cityscapes/train/labels failed, more than --max_failures 0" in line
        assert "a_leftImg8bit.png is no regular file; replace it by one, or take it out" in line
        assert encode.main(args(root, url, "--max_failures", "7")) == 0
    letters = pq.read_table(url / CONTROL / "cityscapes/train/labels.dead_letters.parquet")
    assert letters["sample_id"].to_pylist() == list("abcdefg")
    assert all("is no regular file" in reason for reason in letters["reason"].to_pylist())


def test_what_is_no_store_is_not_written_into(root: Path, tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/notes.txt").write_text("mine")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/.zarr.json.0123abcd").touch()
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "pipe"):
        line = fails(encode.main, args(root, tmp_path / name))
        assert f"{tmp_path / name} is no folder; give --store a new or empty one" in line
    line = fails(encode.main, args(root, root))
    assert f"{root} is no latent store but has a folder " in line
    assert line.endswith("; give --store a new or empty folder")
    line = fails(encode.main, args(root, tmp_path / "plain"))
    assert f"{tmp_path / 'plain'} is no latent store but has a file notes.txt; give --store" in line
    assert sorted(tmp_path.rglob("*")) == before
    # What a job left that was killed at its first write.
    assert open_location(tmp_path / "begun", free=True).local_path == tmp_path / "begun"


def test_a_plan_waits_for_headers_that_it_lacks(root: Path) -> None:
    first, *_ = manifest(root)
    image_path(root, "aachen/a").write_bytes(b"")
    without = manifest(root)
    assert [sample.has_size for sample in without] == [False, True, True]
    plan = make_plan("cityscapes", "train", without, 2)
    assert plan.canvas == SIZE
    assert plan.samples[0].coded_size == (0, 0)
    write_root(root, "aachen/a")
    assert plan.extended(manifest(root)).samples[0] == first
    for stem in ("aachen/a", "aachen/b", "bonn/c"):
        image_path(root, stem).write_bytes(b"")
    with pytest.raises(DatasetError, match="no picture of the split cityscapes/train has a readab"):
        make_plan("cityscapes", "train", manifest(root), 2)
    assert make_plan("cityscapes", "train", manifest(root), 2, (64, 64)).num_rows == 4


def test_a_picture_outside_of_a_citys_folder(root: Path, tmp_path: Path, fails: Fails) -> None:
    shutil.copy(image_path(root, "bonn/c"), image_path(root, "d"))
    line = fails(encode.main, args(root, tmp_path / "s"))
    assert (
        "leftImg8bit/train/d_leftImg8bit.png lies in no city's folder: move it to leftImg8" in line
    )
    for city in ("aachen", "bonn"):
        shutil.rmtree(root / f"leftImg8bit/train/{city}")
    assert "lies in no city's folder" in refused(root)


def test_strays_are_no_pictures(root: Path) -> None:
    for stray in ("._a_leftImg8bit.png", ".DS_Store", "Thumbs.db", "a_leftImg8bit.png.part"):
        (root / "leftImg8bit/train/aachen" / stray).write_bytes(b"stray")
    (root / "leftImg8bit/train/readme.txt").write_text("stray")
    assert [sample.sample_id for sample in manifest(root)] == ["a", "b", "c"]


def test_labels_without_a_picture_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(manifest(root)) == 3
        assert not caplog.messages
        path = image_path(root, "aachen/b")
        path.rename(path.with_suffix(".PNG"))
        assert [sample.sample_id for sample in manifest(root)] == ["a", "c"]
        path.with_suffix(".PNG").unlink()
        assert len(manifest(root)) == 2
    first, second = caplog.messages
    label = "gtFine/train/aachen/b_gtFine_labelIds.png"
    told = f"1 of 3 labels in gtFine/train have no picture and are left out, the first is {label}"
    assert second == told
    assert first == (
        f"{told} (leftImg8bit/train/aachen/b_leftImg8bit.PNG does not count: names end in "
        "_leftImg8bit.png, in this case)"
    )


def test_suffixes_in_another_case_are_named(root: Path) -> None:
    label = label_path(root, "aachen/b")
    label.rename(label.with_suffix(".PNG"))
    line = refused(root)
    assert "1 of 3 images have no label file, the first is aachen/b; expected" in line
    assert "b_gtFine_labelIds.PNG does not count: names end in _gtFine_labelIds.png" in line
    for stem in ("aachen/a", "aachen/b", "bonn/c"):
        image_path(root, stem).rename(image_path(root, stem).with_suffix(".PNG"))
    line = refused(root)
    assert "no images in " in line
    assert "a_leftImg8bit.PNG does not count: names end in _leftImg8bit.png, in this case" in line


def test_names_agree_in_any_unicode_form(tmp_path: Path) -> None:
    root = write_root(tmp_path, f"orl{E_COMPOSED}ans/{E_COMPOSED}")
    path = label_path(root, f"orl{E_COMPOSED}ans/{E_COMPOSED}")
    target = label_path(root, f"orl{E_DECOMPOSED}ans/{E_DECOMPOSED}")
    target.parent.mkdir()
    path.rename(target)
    (sample,) = manifest(root)
    assert sample.sample_id == E_COMPOSED
    assert sample.label_uri.endswith(f"{E_DECOMPOSED}_gtFine_labelIds.png")


def test_folders_may_be_links(root: Path, tmp_path: Path) -> None:
    plain = manifest(root)
    for name in ("leftImg8bit/train/bonn", "gtFine/train", "leftImg8bit"):
        (root / name).rename(tmp_path / name.replace("/", "-"))
        (root / name).symlink_to(tmp_path / name.replace("/", "-"))
    assert manifest(root) == plain
    (tmp_path / "link").symlink_to(root)
    assert manifest(tmp_path / "link") == plain


def test_one_id_in_two_cities(root: Path) -> None:
    (root / "leftImg8bit/train/cologne").symlink_to("bonn")
    (root / "gtFine/train/cologne").symlink_to("bonn")
    assert refused(root) == (
        "leftImg8bit/train/bonn/c_leftImg8bit.png and leftImg8bit/train/cologne/c_leftImg8bit.png "
        "have the id 'c': ids must be unique in a split; rename one, with its labels"
    )


@pytest.mark.parametrize(
    ("stem", "words"),
    [
        ("aachen/x\ny", "'x\\ny' cannot be a sample id: an id is one line of text"),
        ("aachen/\x1b[31m", "'\\x1b[31m' cannot be a sample id: an id is one line of text"),
        ("aa\nchen/x", "'leftImg8bit/train/aa\\nchen/x_leftImg8bit.png' cannot be the path of a"),
        ("\udce9/x", "'leftImg8bit/train/\\udce9/x_leftImg8bit.png' cannot be the path of a"),
    ],
)
def test_names_that_are_no_line_of_text(root: Path, stem: str, words: str) -> None:
    assert refused(write_root(root, stem)).startswith(words)


def test_label_ids_are_held_against_the_list_of_them(root: Path) -> None:
    reader = Cityscapes(Location(root))
    sample = manifest(root)[0]
    ids_HW = np.asarray(Image.open(root / sample.label_uri))
    expected = np.vectorize(lambda label: TRAIN_IDS.get(label, 255))(ids_HW)
    np.testing.assert_array_equal(read_labels(reader, sample, expected.shape), expected)
    for wrong, words in (
        (saved(Image.new("L", SIZE[::-1], 200), "PNG"), "holds the value 200: label ids are 0 to"),
        (saved(Image.new("L", SIZE[::-1], 255), "PNG"), "holds the value 255: label ids are 0 to"),
        (saved(Image.fromarray(ids_HW), "JPEG"), "is no PNG but JPEG, whatever its name says"),
        (saved(made_picture(), "PNG"), "has mode RGB: masks are palette or greyscale PNGs"),
        (saved(Image.fromarray(ids_HW[:-1]), "PNG"), "is 63x128, its image is 64x128 (height x w"),
    ):
        (root / sample.label_uri).write_bytes(wrong)
        with pytest.raises(DatasetError) as caught:
            reader.read_labels(sample)
        assert str(caught.value).startswith(f"{sample.label_uri} {words}")
