"""`--dataset folder`: pictures of whatever sizes and depth, with masks, boxes or nothing beside."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import latent_store
from latent_store import cli
from latent_store.errors import DatasetError
from latent_store.storage.location import Location
from pipelines import encode, frequency, reorder, train_teacher
from pipelines.datasets.base import list_samples, read_labels
from pipelines.datasets.folder import Folder
from tests.pipelines.made_voc import write_objects, write_picture
from training import train

SIZES = {"b": (64, 64), "a/c": (60, 130), "a/d": (128, 50), "é": (64, 64)}


def write_pictures(root: Path) -> None:
    for seed, (name, size) in enumerate(SIZES.items()):
        path = root / f"{name}.{'JPG' if seed % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, seed, size)


def made_mask(size: tuple[int, int], right: int = 2) -> np.ndarray:
    mask_HW = np.zeros(size, np.uint8)
    mask_HW[:, size[1] // 2 :] = right
    mask_HW[0] = 255
    return mask_HW


def write_masks(root: Path, suffix: str) -> None:
    for name, size in SIZES.items():
        path = root / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made_mask(size)).save(path)


def opened(root: Path, **choices: str) -> Folder:
    return Folder(Location(root), **choices)


def arguments(inputs: Path, root: Path, url: Path, *more: str) -> list[str]:
    codec = inputs / "codec.pth.tar"
    words = ["--dataset", "folder", "--data_root", root, "--split", "train", "--store", url]
    return [*map(str, words), "--codec_checkpoint", str(codec), "--threads", "1", *more]


def test_pictures_alone_are_encoded_ranked_exported_decoded_and_viewed(
    inputs: Path, tmp_path: Path, serial: None, fails: Callable[..., str]
) -> None:
    root, url = tmp_path / "photos", tmp_path / "s.zarr"
    write_pictures(root)
    (root / "notes.txt").write_text("no picture")
    (root / "z.png").write_bytes(b"no picture either")
    args = arguments(inputs, root, url)
    assert encode.main([*args, "--dry_run"]) == 0
    assert not url.exists()
    assert encode.main([*args, "--max_failures", "1"]) == 0
    split = latent_store.open(url)["folder/train"]
    assert list(split.components()) == [split.latents().key]
    assert [s.sample_id for s in split.plan.samples] == ["a_c", "a_d", "b", "z", "é"]
    assert split.plan.canvas == (128, 192)
    assert len(split.latents().rows) == 4
    told = dict(zip(*(split.index[n].to_pylist() for n in ("sample_id", "sha256")), strict=True))
    assert told.pop("z") == ""
    assert all(len(digest) == 64 for digest in told.values())
    assert encode.main([*args, "--max_failures", "1"]) == 0
    for method in ("variance", "entropy"):
        ranked = ["--store", str(url), "--dataset", "folder", "--method", method, "--keep", "8"]
        assert frequency.main([*ranked, "--ranking", method]) == 0
    shared = ["--store", str(url), "--dataset", "folder", "--split", "train"]
    assert reorder.main([*shared, "--ranking", "entropy"]) == 0
    out = str(tmp_path / "b.png")
    shown = ["--sample", "b", "--ranking", "entropy", "--channels", "8", "--output", out]
    assert cli.main(["decode", str(url), *shown]) == 0
    with Image.open(out) as picture:
        assert picture.size == (64, 64)
    stream = tmp_path / "b.stream"
    kept = ["--sample", "b", "--ranking", "entropy", "--output", str(stream)]
    assert cli.main(["export", str(url), *kept]) == 0
    assert stream.stat().st_size
    assert dict(split.to_xarray().sizes)["sample"] == 4
    assert cli.main(["verify", str(url)]) == 0
    line = fails(
        train.main,
        ["--store", str(url), "--dataset", "folder", "--output", str(tmp_path / "r")],
    )
    assert "has no labels for folder/train; run encode-to-store on a data root that has" in line
    root_flags = ["--dataset", "folder", "--data_root", str(root), "--output", str(tmp_path / "t")]
    line = fails(train_teacher.main, root_flags)
    assert "have no labels or boxes, and training on pictures learns from them: put them" in line
    # Masks that come later join what is there; nothing is encoded again.
    write_masks(root, ".mask.png")
    (root / "classes.txt").write_text("left\nmiddle\nright\n")
    assert encode.main([*args, "--max_failures", "1"]) == 0
    labels = latent_store.open(url)["folder/train"].labels()
    assert labels.class_names == ("left", "middle", "right")
    expected_HW = np.full((128, 192), 255, np.uint8)
    expected_HW[:60, :130] = made_mask((60, 130))
    np.testing.assert_array_equal(labels.read([0])[0], expected_HW)


def test_masks_lie_beside_or_in_a_folder_of_their_own_and_lacking_ones_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pictures(tmp_path / "one")
    write_masks(tmp_path / "one", ".mask.png")
    write_pictures(tmp_path / "two/train")
    write_masks(tmp_path / "two/gt/train", ".png")
    for root in ("one", "two"):
        (tmp_path / root / "classes.txt").write_text("left\nmiddle\nright\n")
    (tmp_path / "two/gt/train/b.png").rename(tmp_path / "two/gt/train/lonely.png")
    beside = opened(tmp_path / "one").manifest("any")
    assert [sample.label_uri for sample in beside][:2] == ["a/c.mask.png", "a/d.mask.png"]
    reader = opened(tmp_path / "two", annotation_root="gt")
    with caplog.at_level(logging.WARNING):
        apart = reader.manifest("train")
    assert "1 of 4 pictures of train have no annotation and are encoded without" in caplog.text
    assert "1 annotations of train have no picture and are left out" in caplog.text
    assert [bool(sample.label_uri) for sample in apart] == [True, True, False, True]
    labels_HW = read_labels(reader, apart[0], (64, 192))
    np.testing.assert_array_equal(labels_HW[:60, :130], made_mask((60, 130)))


def test_boxes_lie_beside_and_have_ones_own_classes(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    write_objects(tmp_path / "b.xml", (64, 64), [("kiwi", (1, 2, 30, 40), 0, 0)])
    (tmp_path / "classes.txt").write_text("apple\nkiwi\n")
    reader = opened(tmp_path)
    assert reader.class_names == ("background", "apple", "kiwi")
    (sample,) = (sample for sample in reader.manifest("train") if sample.boxes_uri)
    boxes = reader.read_boxes(sample)
    assert (sample.num_boxes, boxes.labels_N.tolist()) == (1, [2])
    assert boxes.boxes_N4.tolist() == [[0, 1, 30, 40]]
    write_objects(tmp_path / "b.xml", (64, 64), [("dog", (1, 2, 30, 40), 0, 0)])
    with pytest.raises(DatasetError, match=r"'dog', which is none of classes.txt: apple, kiwi"):
        reader.read_boxes(sample)


REFUSALS = {
    "nothing": ({"notes.txt": b""}, [], "has neither a folder train nor pictures in itself"),
    "no picture": (
        {"a.jpg": b"x", "b.jpg": b""},
        [],
        (
            "/root that are called pictures is one; of the first: cannot read picture a.jpg: "
            "cannot identify image file: it is damaged, or none of PNG, JPEG, WEBP, TIFF, BMP, "
            "GIF, PPM, JPEG2000; replace or remove that file; check --data_root and --split"
        ),
    ),
    "no names": (
        {"a.mask.png": b"", "classes.txt": b"\n \n"},
        [],
        (
            "/classes.txt has 0 class names, 0 of them twice: there must be 1 to 255, each once, "
            "one a line; correct it"
        ),
    ),
    "split": ({"val/a.jpg": b""}, [], "(there are: val)"),
    "empty split": ({"train/notes.txt": b"x"}, [], "no picture in"),
    "no classes": ({"a.mask.png": b""}, [], "masks or boxes, but no class names at"),
    "no masks": ({"a.jpg": b""}, ["--annotations", "masks"], "has no masks: they have"),
    "no root": ({"a.jpg": b""}, ["--annotation_root", "gt"], "/gt has no masks and no boxes"),
    "both": ({"a.mask.png": b"", "a.xml": b""}, [], "has masks and boxes: --annotations"),
    "twice": (
        {"a.mask.png": b"", "classes.txt": b"cat\ncat\n"},
        [],
        "has 2 class names, 1 of them twice: there must be 1 to 255, each once",
    ),
    "other's": ({"a.jpg": b""}, ["--year", "2007"], "--year is a choice of --dataset voc, not of"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_before_anything_is_written(
    inputs: Path, tmp_path: Path, fails: Callable[..., str], case: str
) -> None:
    files, more, message = REFUSALS[case]
    for name, data in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(data)
    url = tmp_path / "s.zarr"
    assert message in fails(encode.main, arguments(inputs, tmp_path / "root", url, *more))
    assert not url.exists()


def test_labels_none_of_which_fits_are_refused_and_one_that_does_not_fails_its_row(
    inputs: Path, tmp_path: Path, serial: None, fails: Callable[..., str]
) -> None:
    root, url = tmp_path / "root", tmp_path / "s.zarr"
    write_pictures(root)
    write_masks(root, ".MASK.png")
    args = arguments(inputs, root, url)
    (root / "classes.txt").write_text("left\nright\n")
    assert fails(encode.main, args) == (
        "encode-to-store: error: a/c.MASK.png holds the value 2: class ids are 0 to 1, by "
        "classes.txt, and 255 is ignored; correct the mask, or add the class to classes.txt"
    )
    (root / "classes.txt").write_text("left\nmiddle\nright\n")
    for name in SIZES:
        Image.fromarray(made_mask((60, 64))).save(root / f"{name}.MASK.png")
    assert fails(encode.main, args) == (
        "encode-to-store: error: a/c.MASK.png is 60x64, its image is 60x130 (height x width): "
        "masks have one label a pixel; correct it"
    )
    assert not url.exists()
    write_masks(root, ".MASK.png")
    (root / "a/d.MASK.png").write_bytes((root / "b.MASK.png").read_bytes())
    line = fails(encode.main, args, status=1)
    assert (
        "1 samples of folder/train/labels failed, more than --max_failures 0 (first: a_d: " in line
    )
    assert "a/d.MASK.png is 64x64, its image is 128x50 (height x width)" in line
    assert encode.main([*args, "--max_failures", "1"]) == 0
    labels = latent_store.open(url)["folder/train"].labels()
    assert labels.rows.tolist() == [0, 2, 3]


def test_two_pictures_of_one_name_and_masks_that_do_not_fit(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    write_masks(tmp_path, ".mask.png")
    (tmp_path / "classes.txt").write_text("left\nright\n")
    reader = opened(tmp_path)
    sample = next(s for s in reader.manifest("train") if s.sample_id == "b")
    rule = r"b.mask.png holds the value 2: class ids are 0 to 1, by classes.txt, and 255 is ignored"
    with pytest.raises(DatasetError, match=rule):
        reader.read_labels(sample)
    Image.fromarray(np.zeros((64, 60), np.uint8)).save(tmp_path / "b.mask.png")
    with pytest.raises(DatasetError, match=r"b.mask.png is 64x60, its image is 64x64"):
        reader.read_labels(sample)
    write_picture(tmp_path / "b.jpeg", 0, (64, 64))
    with pytest.raises(DatasetError, match=r"b.jpeg and b.jpg have the id 'b': ids must be unique"):
        list_samples(reader, "train")


def test_one_picture_in_sixteen_is_measured_unless_all_are_asked_for(
    inputs: Path, tmp_path: Path, serial: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(17):
        write_picture(root / f"{seed:02}.jpg", seed, (64, 64))
    measured = {}
    for flags in ((), ("--psnr", "all"), ("--psnr", "none")):
        url = tmp_path / f"s{len(measured)}.zarr"
        capsys.readouterr()
        assert encode.main(arguments(inputs, root, url, *flags)) == 0
        said = capsys.readouterr().out.rstrip()
        assert said.endswith("dB PSNR of 2") == (flags == ())
        assert said.endswith("dB PSNR") == ("all" in flags)
        latents = latent_store.open(url)["folder/train"].latents()
        measured[flags] = np.isfinite(latents.quality(range(17))["psnr"]).nonzero()[0].tolist()
    assert list(measured.values()) == [[0, 16], list(range(17)), []]


def test_a_split_of_pictures_that_another_one_has_is_told(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, serial: None
) -> None:
    root, other, url = tmp_path / "photos", tmp_path / "other", tmp_path / "s.zarr"
    for seed in range(3):
        for folder, size in ((root, (64, 64)), (other, (96, 128))):
            folder.mkdir(exist_ok=True)
            write_picture(folder / f"{seed}.jpg", seed, size)
    args = arguments(inputs, root, url, "--psnr", "none")
    val = [word if word != "train" else "val" for word in args]

    def told(*words: str) -> list[str]:
        caplog.clear()
        assert encode.main([*words]) == 0
        return [record.message for record in caplog.records if "pictures of" in record.message]

    assert told(*args, "--max_samples", "2") == []
    assert told(*args) == []
    # Names alone are not it: each root has a 0.jpg.
    elsewhere = [word if word != str(root) else str(other) for word in val]
    assert told(*elsewhere, "--dry_run") == []
    expected = (
        "3 of 3 pictures of folder/val are those of folder/train: a network that learns from one "
        "has seen the other's; give each split pictures of its own"
    )
    assert [told(*val, "--dry_run"), told(*val), told(*val)] == [[expected], [expected], []]
