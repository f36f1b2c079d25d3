"""Bad input in the devkit's layout: a clear line, or a failed row with its reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import latent_store
from latent_store import cli
from latent_store.errors import DatasetError
from latent_store.shards.receipts import receipt_key
from latent_store.storage.location import Location
from pipelines import encode
from pipelines.datasets.base import read_boxes, read_picture
from pipelines.datasets.voc import Voc
from pipelines.scenes.voc_scenes import write_mask
from tests.pipelines.made_voc import SIZES, replace_in, write_list, write_picture, write_voc
from tests.pipelines.test_voc_store import SPLIT, args

Fails = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`VOC2007` of a small data root."""
    return write_voc(tmp_path)


def reader_of(folder: Path, task: str) -> Voc:
    return Voc(Location(folder.parent), voc_task=task)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bndbox": "box"}, "the car has no bndbox; correct that object"),
        ({"<xmin>11</xmin>": ""}, "the box of the car has xmin '', which is no number"),
        ({"<xmin>11<": "<xmin>nan<"}, "the box of the car has xmin 'nan', which is no number"),
        (
            {"<xmin>11<": "<xmin>70<"},
            "the box of the car is inverted (xmin 70, ymin 21, xmax 60, ymax 80)",
        ),
        (
            {"<xmax>60<": "<xmax>152<"},
            "the box of the car (xmin 11, ymin 21, xmax 152, ymax 80) leaves the picture of",
        ),
        ({"<xmin>11<": "<xmin>-1<"}, "leaves the picture of 150x100 (width x height) by more"),
        ({"<xmin>11<": "<xmin>0<", "<xmax>60<": "<xmax>0<"}, "pixel, or is not in it at all"),
        ({"<name>car<": "<name>lorry<"}, "an object is a 'lorry', which is none of VOC's classes"),
        ({"<name>car<": "<name>background<"}, "an object is a 'background', which is none of"),
        ({"<truncated>1<": "<truncated>2<"}, "the car has truncated '2', which is neither 0 nor 1"),
        (
            {"<name>car<": f"<name>{'x' * 10**6}<"},
            f"is a '{'x' * 100}...', which is none of",
        ),
        ({"<xmin>11<": f"<xmin>{'1' * 10**5}_<"}, f"xmin '{'1' * 100}...', which is no n"),
        ({"<difficult>0<": f"<difficult>{'0' * 200}<"}, f"difficult '{'0' * 100}...', which is"),
        (
            {"<pose>Left</pose><truncated>1": "<object><name>dog</name></object><truncated>1"},
            "it has <object> where the devkit has none: objects are <object>, directly in",
        ),
        ({"</annotation>": ""}, "000001.xml is no readable XML (no element found"),
    ],
)
def test_an_object_that_cannot_be_one(folder: Path, changes: dict[str, str], words: str) -> None:
    replace_in(folder / "Annotations/000001.xml", changes)
    reader = reader_of(folder, "detection")
    sample = reader.manifest("trainval")[0]
    with pytest.raises(DatasetError) as caught:
        read_boxes(reader, sample)
    assert words in str(caught.value)
    assert str(caught.value).startswith("VOC2007/Annotations/000001.xml")
    assert "\n" not in str(caught.value)


def test_a_box_one_pixel_beyond_the_picture_is_kept_as_it_is_written(folder: Path) -> None:
    replace_in(folder / "Annotations/000001.xml", {"<xmax>60<": "<xmax>151<"})
    reader = reader_of(folder, "detection")
    boxes = read_boxes(reader, reader.manifest("trainval")[0])
    assert boxes.boxes_N4[0].tolist() == [10, 20, 151, 80]


def test_objects_that_changed_since_the_plan(folder: Path) -> None:
    reader = reader_of(folder, "detection")
    sample = reader.manifest("trainval")[0]
    (folder / "Annotations/000001.xml").write_text("<annotation/>")
    with pytest.raises(DatasetError, match="has 0 objects, planned 2; restore it"):
        read_boxes(reader, sample)
    (folder / "Annotations/000001.xml").unlink()
    with pytest.raises(DatasetError, match=r"Annotations/000001\.xml is missing; restore it"):
        read_boxes(reader, sample)


def test_masks_that_cannot_be_one(folder: Path) -> None:
    path = folder / "SegmentationClass/000001.png"
    reader = reader_of(folder, "segmentation")
    sample = reader.manifest("trainval")[0]
    for wrong, words in (
        (np.zeros((100, 151), np.uint8), "is 100x151, its image is 100x150 (height x width)"),
        (np.full(SIZES["000001"], 21, np.uint8), "holds the value 21: class ids are 0 to 20"),
    ):
        write_mask(path, wrong)
        with pytest.raises(DatasetError) as caught:
            reader.read_labels(sample)
        assert words in str(caught.value)
    Image.new("RGB", (150, 100)).save(path)
    with pytest.raises(DatasetError, match=r"has mode RGB: masks are palette or greyscale PNGs"):
        reader.read_labels(sample)
    path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="is no readable PNG"):
        reader.read_labels(sample)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_pictures_are_read_as_rgb(folder: Path, mode: str) -> None:
    path = folder / "JPEGImages/000001.jpg"
    write_picture(path, 0, SIZES["000001"], mode)
    reader = reader_of(folder, "detection")
    image_HWC, data = read_picture(reader, reader.manifest("trainval")[0])
    with Image.open(path) as image:
        assert image.mode == mode
        np.testing.assert_array_equal(image_HWC, np.asarray(image.convert("RGB")))
    assert data == path.read_bytes()


@pytest.mark.parametrize("kind", ["JPEGImages/000002.jpg", "Annotations/000002.xml"])
def test_a_listed_id_without_its_file(folder: Path, fails: Fails, kind: str) -> None:
    (folder / kind).unlink()
    line = fails(encode.main, args(folder.parent, folder.parent / "s.zarr", "detection"))
    name = kind.split("/")[0]
    assert f"1 of 3 listed images have no file in {name}, the first is" in line
    assert f"VOC2007/{kind}; restore it, or take the id out of the list" in line


def test_pipes_as_list_mask_and_annotation(folder: Path, fails: Fails) -> None:
    url = folder.parent / "s.zarr"
    for task, name in (
        ("detection", "Annotations/000001.xml"),
        ("segmentation", "SegmentationClass/000003.png"),
    ):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        line = fails(encode.main, args(folder.parent, url.with_name(task), task), status=1)
        assert f"VOC2007/{name} is no regular file; replace it by one, or take it out" in line
    (folder / "ImageSets/Main/trainval.txt").unlink()
    os.mkfifo(folder / "ImageSets/Main/trainval.txt")
    line = fails(encode.main, args(folder.parent, url, "detection"))
    assert "VOC2007/ImageSets/Main/trainval.txt is no regular file; replace it by one" in line
    assert not url.exists()


def test_ids_that_are_listed_twice(folder: Path, tmp_path: Path) -> None:
    write_voc(tmp_path, 2012, detected=["000003"])
    both = Voc(Location(tmp_path), voc_task="detection", year=(2007, 2012))
    with pytest.raises(DatasetError) as caught:
        both.manifest("trainval")
    assert "the id '000003' is listed twice, in VOC2007 and VOC2012" in str(caught.value)
    assert "encode the years into datasets of their own" in str(caught.value)
    write_list(folder / "ImageSets/Main/trainval.txt", ["000001", "000001"])
    with pytest.raises(DatasetError, match="the id '000001' is listed twice, in VOC2007:"):
        Voc(Location(tmp_path), voc_task="detection", year=(2007,)).manifest("trainval")


def test_several_years_make_one_dataset(folder: Path, tmp_path: Path) -> None:
    later = write_voc(tmp_path, 2012, detected=["2012_000001"])
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (later / f"{kind}/000001.{suffix}").rename(later / f"{kind}/2012_000001.{suffix}")
    both = Voc(Location(tmp_path), voc_task="detection", year=(2012, 2007))
    assert both.dataset_id == "voc0712"
    uris = [sample.boxes_uri for sample in both.manifest("trainval")]
    assert uris[0] == "VOC2007/Annotations/000001.xml"
    assert uris[3:] == ["VOC2012/Annotations/2012_000001.xml"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["000001 -1", "000002  1"], "trainval.txt has the line '000001 -1': such a list has one"),
        ([], "trainval.txt is empty: such a list has one image id a line; check --split"),
    ],
)
def test_lists_that_are_none(folder: Path, lines: list[str], words: str) -> None:
    write_list(folder / "ImageSets/Main/trainval.txt", lines)
    with pytest.raises(DatasetError, match=words):
        reader_of(folder, "detection").manifest("trainval")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("trainval", "test", "check --year and --split (there are: trainval)"),
        ("2007", "2012", "has no VOC2012; it has: VOC2007; check --data_root and --year"),
        ("--voc_task", None, "--dataset voc needs --voc_task segmentation or --voc_task detection"),
        ("voc", "cityscapes", "--voc_task is a choice of --dataset voc, not of cityscapes"),
    ],
)
def test_flags_that_name_what_is_not_there(
    folder: Path, fails: Fails, old: str, new: str | None, words: str
) -> None:
    write_list(folder / "ImageSets/Main/car_trainval.txt", ["000001 -1"])
    words_of = args(folder.parent, folder.parent / "s.zarr", "detection")
    place = words_of.index(old)
    words_of[place : place + (1 if new else 2)] = [new] if new else []
    assert words in fails(encode.main, words_of)


def test_a_picture_larger_than_the_canvas(folder: Path, fails: Fails) -> None:
    small = args(folder.parent, folder.parent / "s.zarr", "detection", "--canvas", 128, 128)
    line = fails(encode.main, small)
    assert "VOC2007/JPEGImages/000001.jpg is 100x150 (height x width), coded at 128x192" in line
    assert (
        "larger than the canvas of 128x128; encode into a new store with --canvas 128 192" in line
    )


def test_a_bad_row_fails_with_its_reason_and_a_mended_one_is_taken(
    folder: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    url = folder.parent / "s.zarr"
    path = folder / "Annotations/000001.xml"
    replace_in(path, {"<name>car<": "<name>lorry<"})
    wanted = args(folder.parent, url, "detection")
    line = fails(encode.main, wanted, status=1)
    assert "1 samples of voc2007/trainval/boxes failed, more than --max_failures 0" in line
    assert "VOC2007/Annotations/000001.xml: an object is a 'lorry'" in line
    good = url / receipt_key(SPLIT, "boxes", 1)
    written = good.stat().st_mtime_ns
    assert encode.main([*wanted, "--max_failures", "1"]) == 0
    split = latent_store.open(url)[SPLIT]
    assert split.sample_ids(split.common_rows(split.boxes())) == ["000002", "000003"]
    capsys.readouterr()
    assert cli.main(["inspect", str(url)]) == 0
    out = capsys.readouterr().out
    assert "2 samples, 1 failed" in next(x for x in out.splitlines() if "boxes" in x.split())
    replace_in(path, {"<name>lorry<": "<name>car<"})
    write_list(folder / "ImageSets/Main/trainval.txt", ["000001", "000002", "000003", "000004"])
    assert encode.main(wanted) == 0
    split = latent_store.open(url)[SPLIT]
    boxes = split.boxes()
    assert split.sample_ids(split.common_rows(boxes, split.latents())) == sorted(SIZES)
    assert boxes.counts([split.row_of("000001"), split.row_of("000004")]).tolist() == [2, 3]
    # What was whole was kept.
    assert good.stat().st_mtime_ns == written
