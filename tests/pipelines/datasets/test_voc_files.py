"""Habits of real devkits: links, lists in many encodings, XML of many hands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import latent_store
from latent_store.errors import DatasetError
from latent_store.storage.location import CONTROL, Location
from pipelines import encode
from pipelines.datasets.base import read_boxes
from pipelines.datasets.voc import Voc
from tests.pipelines.made_pictures import BROKEN, png_header
from tests.pipelines.made_voc import (
    SIZES,
    replace_in,
    write_list,
    write_objects,
    write_picture,
    write_voc,
)
from tests.pipelines.test_voc_store import SPLIT, args

Fails = Callable[..., str]
LIST = "ImageSets/Main/trainval.txt"
E_COMPOSED, E_DECOMPOSED = "\u00e9", "e\u0301"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`VOC2007` of a small data root."""
    return write_voc(tmp_path / "root")


def reader_of(root: Path, task: str = "detection", **more: Any) -> Voc:
    return Voc(Location(root), voc_task=task, **more)


def refused(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        reader_of(folder.parent).manifest("trainval")
    assert str(caught.value).isprintable()
    return str(caught.value)


def rename(folder: Path, old: str, new: str) -> None:
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (folder / f"{kind}/{old}.{suffix}").rename(folder / f"{kind}/{new}.{suffix}")


@pytest.mark.parametrize("linked", ["VOCdevkit", "VOC2007", "JPEGImages", "ImageSets/Main"])
def test_folders_may_be_links(tmp_path: Path, linked: str) -> None:
    folder = write_voc(tmp_path / "root/VOCdevkit")
    plain = reader_of(tmp_path / "root").manifest("trainval")
    path = {"VOCdevkit": folder.parent, "VOC2007": folder}.get(linked, folder / linked)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert reader_of(tmp_path / "root").manifest("trainval") == plain
    assert reader_of(tmp_path / "root").dataset_id == "voc2007"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \t\r\n\r\n"])
def test_lists_of_many_hands(folder: Path, encoding: str, end: str) -> None:
    rename(folder, "000001", f"caf{E_DECOMPOSED} 1")
    names = [f"caf{E_COMPOSED} 1", "000003", "000002"]
    (folder / LIST).write_bytes("".join(name + end for name in names).encode(encoding))
    samples = reader_of(folder.parent).manifest("trainval")
    assert [sample.sample_id for sample in samples] == sorted(names)
    assert samples[2].image_uri == f"VOC2007/JPEGImages/caf{E_DECOMPOSED} 1.jpg"
    assert [sample.num_boxes for sample in samples] == [1, 0, 2]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["000001", "# the rest", "000002"], "trainval.txt has the line '# the rest': such a list"),
        (
            ["000001.jpg"],
            "VOC2007/JPEGImages/000001.jpg.jpg; restore it, or take the id out of the",
        ),
        (["../JPEGImages/000001"], "1 of 1 listed images have no file in JPEGImages, the first is"),
        (["000001", "000002", "000001"], "the id '000001' is listed twice, in VOC2007: ids must"),
        ([f"a{E_COMPOSED}", f"a{E_DECOMPOSED}"], f"the id 'a{E_COMPOSED}' is listed twice, in VOC"),
        ([" ", ""], "trainval.txt is empty: such a list has one image id a line; check --split"),
    ],
)
def test_lists_that_name_no_pictures(folder: Path, lines: list[str], words: str) -> None:
    write_list(folder / LIST, lines)
    assert words in refused(folder)


def test_suffixes_in_another_case_are_named(folder: Path) -> None:
    path = folder / "JPEGImages/000002.jpg"
    path.rename(path.with_suffix(".JPG"))
    line = refused(folder)
    assert "1 of 3 listed images have no file in JPEGImages, the first is" in line
    assert "(VOC2007/JPEGImages/000002.JPG does not count: names end in .jpg, in this case)" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"<xmin>11<": "<xmin>1e400<"}, "has xmin '1e400', which is no number"),
        ({"<xmin>11<": "<xmin>inf<"}, "has xmin 'inf', which is no number"),
        ({"<xmin>11<": "<xmin>1_1<"}, "has xmin '1_1', which is no number"),
        ({"<xmin>11<": "<xmin>\uff11\uff11<"}, "has xmin '\uff11\uff11', which is no number"),
        ({"<xmin>11<": "<xmin>11,5<"}, "has xmin '11,5', which is no number"),
        ({"<xmin>11<": "<xmin>-5<"}, "leaves the picture of 150x100 (width x height) by more"),
        ({"<xmax>60<": "<xmax>1e300<"}, "leaves the picture of 150x100 (width x height) by more"),
        ({"<xmin>11<": "<xmin>1</xmin><xmin>11<"}, "the box of the car has xmin 2 times"),
        ({"<name>car<": "<name><"}, "an object has no name; correct that object"),
        ({"<name>car</name>": ""}, "an object has no name; correct that object"),
        ({"<name>car<": "<name>Car<"}, "an object is a 'Car', which is none of VOC's classes"),
        ({"<difficult>0<": "<difficult>yes<"}, "the car has difficult 'yes', which is neither 0"),
        ({"<pose>Left</pose>": "<bndbox/>"}, "the car has 2 bndbox; correct that object"),
        ({"<object><name>car<": "<object/><object><name>car<"}, "an object has no name; correct"),
        (
            {"<object>": "<Object>", "</object>": "</Object>"},
            "it has <Object> where the devkit has",
        ),
        (
            {"<size>": "<objects><size>", "</annotation>": "</objects></annotation>"},
            "it has <objects> where the devkit has none: objects are <object>, directly in <annot",
        ),
        (
            {"<size>": "<list><size>", "</annotation>": "</list></annotation>"},
            "it has <object> where the devkit has none: objects are <object>, directly in <annot",
        ),
        (
            {"<object>": "<item>", "</object>": "</item>"},
            "it has <bndbox> where the devkit has none: objects are <object>, directly in <annot",
        ),
    ],
)
def test_objects_that_cannot_be_one(folder: Path, changes: dict[str, str], words: str) -> None:
    replace_in(folder / "Annotations/000001.xml", changes)
    reader = reader_of(folder.parent)
    sample = reader.manifest("trainval")[0]
    assert sample.num_boxes == 0
    with pytest.raises(DatasetError) as caught:
        read_boxes(reader, sample)
    assert str(caught.value).startswith("VOC2007/Annotations/000001.xml: ")
    assert words in str(caught.value)


def test_what_need_not_be_there(folder: Path) -> None:
    """Fractions are boxes too; without `difficult` and `truncated` an object is neither."""
    replace_in(
        folder / "Annotations/000001.xml",
        {
            "<xmin>11<": "<xmin> 12.5 <",
            "<difficult>0</difficult>": "",
            "<truncated>1</truncated>": "",
        },
    )
    reader = reader_of(folder.parent)
    boxes = read_boxes(reader, reader.manifest("trainval")[0])
    np.testing.assert_array_equal(boxes.boxes_N4[0], [11.5, 20, 60, 80])
    assert (boxes.difficult_N[0], boxes.truncated_N[0]) == (False, False)


def test_bad_pictures_and_annotations_are_failed_rows(tmp_path: Path, fails: Fails) -> None:
    """One job: pictures without a header, XML that is none, of others, and in Chinese encodings."""
    folder, url = write_voc(tmp_path / "root"), tmp_path / "s.zarr"
    texts = {
        "gbk": '<?xml version="1.0" encoding="GBK"?><annotation>\u8def</annotation>',
        "unknown": '<?xml version="1.0" encoding="x-mine"?><annotation/>',
        "namespace": '<annotation xmlns="urn:voc"><object/></annotation>',
        "cvat": "<annotations><image><box label='car'/></image></annotations>",
        "bytes": "<annotation>" + " " * (1 << 22) + "</annotation>",
    }
    pictures = {"huge": png_header(20_000, 10_000), "empty": BROKEN["no bytes"](None)}
    for name in (*texts, *pictures):
        write_picture(folder / f"JPEGImages/{name}.jpg", 0, SIZES["000003"])
        write_objects(folder / f"Annotations/{name}.xml", SIZES["000003"], [])
    for name, text in texts.items():
        (folder / f"Annotations/{name}.xml").write_bytes(text.encode("gbk"))
    for name, data in pictures.items():
        (folder / f"JPEGImages/{name}.jpg").write_bytes(data)
    write_list(folder / LIST, ["000003", *texts, *pictures])
    wanted = args(folder.parent, url, "detection", "--psnr", "none")
    assert "6 samples of voc2007/trainval/boxes failed" in fails(encode.main, wanted, status=1)
    assert encode.main([*wanted, "--max_failures", "6"]) == 0
    split = latent_store.open(url)[SPLIT]
    kept = split.common_rows(split.boxes(), split.latents())
    assert split.sample_ids(kept) == ["000003", "gbk"]
    letters = pq.read_table(url / CONTROL / f"{SPLIT}/boxes.dead_letters.parquet").to_pylist()
    reasons = {row["sample_id"]: row["reason"] for row in letters}
    for name, words in {
        "unknown": "Annotations/unknown.xml is no readable XML (unknown encoding: x-mine); restore",
        "namespace": "Annotations/namespace.xml begins with <{urn:voc}annotation>: such an annota",
        "cvat": "Annotations/cvat.xml begins with <annotations>: such an annotation begins with <",
        "bytes": "Annotations/bytes.xml has 4194329 bytes, more than the 4194304 that such a fi",
        "huge": "JPEGImages/huge.jpg: Image size (200000000 pixels) exceeds limit of 178956970",
        "empty": "JPEGImages/empty.jpg: cannot identify image file: it has no bytes; replace or",
    }.items():
        assert f"VOC2007/{words}" in reasons.pop(name)
    assert not reasons
