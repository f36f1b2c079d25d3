"""`--dataset coco`: twenty pictures in COCO's layout, their boxes, panoptic segments and stuff."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latent_store
from latent_store.errors import DatasetError
from latent_store.storage.location import Location
from pipelines import encode, train_teacher
from pipelines.datasets.base import read_boxes, read_labels
from pipelines.datasets.coco import Coco
from tests.pipelines.made_voc import write_picture
from training import evaluate, train

PICTURES = 20
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 92, "name": "sky"}]
"""Out of order and with gaps, as COCO's are: by id they are person, dog, sky."""
SIZE = (64, 80)


def write_coco(root: Path) -> dict[str, Any]:
    """Writes pictures and their boxes; returns what the file of boxes says."""
    images = [
        {"id": 100 + i, "file_name": f"{i:012d}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for i in range(PICTURES)
    ]
    objects = [
        {
            "image_id": 100 + i,
            "category_id": (1, 18)[i % 2],
            "bbox": [4.5, 6, 30 + i, 40],
            "iscrowd": int(i == 3),
            "segmentation": [],
        }
        for i in range(1, PICTURES)
    ]
    (root / "train2017").mkdir(parents=True)
    for i, image in enumerate(images):
        write_picture(root / "train2017" / str(image["file_name"]), i, SIZE)
    contents = {"images": images, "annotations": objects, "categories": CATEGORIES, "info": {}}
    return write_json(root, "instances_train2017", contents)


def write_json(root: Path, stem: str, contents: dict[str, Any]) -> dict[str, Any]:
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/{stem}.json").write_text(json.dumps(contents))
    return contents


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_coco(tmp_path / "coco")
    return tmp_path / "coco"


def opened(root: Path, annotations: str | None = None) -> Coco:
    return Coco(Location(root), annotations=annotations)


def changed(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "annotations/instances_train2017.json"
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


def test_boxes_are_half_open_edges_and_crowds_are_difficult(root: Path) -> None:
    reader = opened(root)
    assert reader.class_names == ("background", "person", "dog", "sky")
    samples = reader.manifest("train2017")
    assert [sample.num_boxes for sample in samples] == [0] + [1] * (PICTURES - 1)
    boxes = read_boxes(reader, samples[3])
    np.testing.assert_array_equal(boxes.boxes_N4, [[4.5, 6, 37.5, 46]])
    assert (boxes.labels_N.tolist(), boxes.difficult_N.tolist()) == ([2], [True])
    assert len(read_boxes(reader, samples[0])) == 0
    assert opened(root, "none").task == ""
    assert {s.boxes_uri for s in opened(root, "none").manifest("train2017")} == {""}


def test_names_in_folders_and_of_any_script_and_outlines_of_any_kind(root: Path) -> None:
    names = ("a/x.jpg", "b/x.jpg", "写真 é.JPG")

    def rename(contents: dict[str, Any]) -> None:
        outlines = ({"counts": [3, 4, 5], "size": SIZE}, {"counts": "abc", "size": SIZE}, [[1, 2]])
        del contents["images"][3:], contents["annotations"][3:]
        for image, name in zip(contents["images"], names, strict=True):
            image["file_name"] = name
        for item, outline in zip(contents["annotations"], outlines, strict=True):
            item.update(image_id=101, segmentation=outline, iscrowd=1)

    changed(root, rename)
    for seed, name in enumerate(names):
        (root / "train2017" / name).parent.mkdir(exist_ok=True)
        write_picture(root / "train2017" / name, seed, SIZE)
    reader = opened(root)
    samples = reader.manifest("train2017")
    found = {sample.sample_id: sample.num_boxes for sample in samples}
    assert found == {"a_x": 0, "b_x": 3, "写真 é": 0}
    assert [sample.image_uri for sample in samples] == [f"train2017/{name}" for name in names]
    assert read_boxes(reader, samples[1]).difficult_N.all()
    changed(root, lambda contents: contents["images"][1].update(file_name="a_x.jpg"))
    write_picture(root / "train2017/a_x.jpg", 0, SIZE)
    with pytest.raises(DatasetError, match="names the picture 'a_x' twice; take one out"):
        opened(root).manifest("train2017")


def test_boxes_without_area_are_left_out_and_counted(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def flatten(contents: dict[str, Any]) -> None:
        objects = contents["annotations"]
        objects[0]["bbox"][2] = objects[1]["bbox"][3] = 0
        objects.insert(2, {**objects[2], "bbox": [8, 8, 0, 0]})

    changed(root, flatten)
    reader = opened(root)
    samples = reader.manifest("train2017")
    assert [sample.num_boxes for sample in samples] == [0] * 3 + [1] * (PICTURES - 3)
    told = "3 of the 20 objects in annotations/instances_train2017.json are left out"
    assert told in capsys.readouterr().err
    assert len(read_boxes(reader, samples[1])) == 0
    np.testing.assert_array_equal(read_boxes(reader, samples[3]).boxes_N4, [[4.5, 6, 37.5, 46]])


def test_it_is_encoded_and_boxes_are_learned_and_measured(
    inputs: Path, root: Path, tmp_path: Path, serial: None
) -> None:
    small = ["--backbone", "resnet18", "--fpn_width", "8", "--box_head_width", "16"]
    small += ["--batch_size", "2", "--max_steps", "1", "--no-tensorboard", "--device", "cpu"]
    small += ["--anchor_size", "16"]
    data = ["--dataset", "coco", "--data_root", str(root), "--split", "train2017"]
    teacher = [*data, "--val_split", "none", "--output", str(tmp_path / "t"), *small]
    assert train_teacher.main([*teacher, "--pretrained", "none"]) == 0
    url = str(tmp_path / "s.zarr")
    codec = ["--codec_checkpoint", str(inputs / "codec.pth.tar"), "--threads", "1"]
    more = ["--teacher_checkpoint", str(tmp_path / "t/last.pt"), "--psnr", "none"]
    assert encode.main([*data, "--store", url, *codec, *more]) == 0
    split = latent_store.open(url)["coco/train2017"]
    assert split.boxes().counts(split.boxes().rows).sum() == PICTURES - 1
    stored = ["--store", url, "--dataset", "coco", "--split", "train2017"]
    learned = ["--task", "detection", "--val_split", "none", "--output", str(tmp_path / "r")]
    network = ["--workers", "0", "--transform_init", "fresh"]
    assert train.main([*stored, *learned, *network, *small]) == 0
    measured = ["--checkpoint", str(tmp_path / "r/last.pt"), "--output", str(tmp_path / "e")]
    assert evaluate.main([*stored, *measured, "--device", "cpu", "--pictures", "0"]) == 0
    assert "AP50" in (tmp_path / "e/report.md").read_text()


def test_panoptic_segments_and_stuff_are_labels(root: Path) -> None:
    images = json.loads((root / "annotations/instances_train2017.json").read_text())["images"]
    segments = [{"id": 7, "category_id": 92}, {"id": 256 * 3 + 1, "category_id": 1}]
    named = [{"image_id": i["id"], "file_name": "", "segments_info": segments} for i in images]
    panoptic = {"images": images, "annotations": named, "categories": CATEGORIES}
    write_json(root, "panoptic_train2017", panoptic)
    write_json(root, "stuff_train2017", {"images": images, "categories": CATEGORIES})
    rgb_HWC = np.zeros((*SIZE, 3), np.uint8)
    rgb_HWC[:20, :, 0] = 7
    rgb_HWC[20:40] = (1, 3, 0)
    stuff_HW = np.zeros(SIZE, np.uint8)
    stuff_HW[:20], stuff_HW[20:40] = 92, 1
    expected_HW = np.full(SIZE, 255, np.uint8)
    expected_HW[:20], expected_HW[20:40] = 2, 0
    for folder, values in (
        ("panoptic_train2017", rgb_HWC),
        ("stuff_train2017_pixelmaps", stuff_HW),
    ):
        (root / "annotations" / folder).mkdir()
        path = root / "annotations" / folder / f"{0:012d}.png"
        Image.fromarray(values).save(path)
        reader = opened(root, "masks")
        assert reader.class_names == ("person", "dog", "sky")
        sample = reader.manifest("train2017")[0]
        np.testing.assert_array_equal(
            read_labels(reader, sample, (64, 128))[: SIZE[0], : SIZE[1]], expected_HW
        )
        Image.fromarray(values + 1).save(path)
        with pytest.raises(DatasetError, match=r"holds the (segment \d+, which|value \d+: stuff)"):
            reader.read_labels(sample)
        (root / "annotations/panoptic_train2017.json").unlink(missing_ok=True)


def test_what_cannot_be_a_box_is_one_failed_row(
    inputs: Path, root: Path, tmp_path: Path, serial: None
) -> None:
    def spoil(contents: dict[str, Any]) -> None:
        objects = contents["annotations"]
        objects[0]["bbox"] = [60, 6, 30, 40]
        objects[1]["bbox"] = [6, 6, -1, 4]
        objects[2]["category_id"] = 2
        contents["images"][9]["width"] = 81

    changed(root, spoil)
    args = ["--dataset", "coco", "--data_root", str(root), "--split", "train2017"]
    args += ["--store", str(tmp_path / "s.zarr"), "--threads", "1", "--psnr", "none"]
    args += ["--codec_checkpoint", str(inputs / "codec.pth.tar"), "--max_failures", "4"]
    assert encode.main(args) == 0
    table = latent_store.open(tmp_path / "s.zarr")["coco/train2017"].boxes().index.to_pylist()
    reasons = [row["reason"] for row in table if row["status"] == "failed"]
    assert len(reasons) == 4
    for reason, rule in zip(
        reasons,
        (
            "the box of object 0 (60, 6, 30, 40) leaves the picture of 80x64 (width x height)",
            "the box of object 0 (6, 6, -1, 4) must have finite numbers, and a width and height",
            "the category 2 is none of the 3 that are listed",
            "is 64x81 (height x width), it is 64x80; correct one of them",
        ),
        strict=True,
    ):
        assert rule in reason


def outside(contents: dict[str, Any]) -> None:
    contents["annotations"][0]["bbox"] = [90, 6, 30, 40]
    del contents["annotations"][1:], contents["images"][0], contents["images"][1:]


FILE = "annotations/instances_train2017.json"
REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda root: (root / "train2017/000000000004.jpg").unlink(),
        (
            f"1 of the 20 images in {FILE} have no file, the first is "
            "ROOT/train2017/000000000004.jpg; restore it, or take the image out of the file"
        ),
    ),
    "no file": (
        lambda root: (root / FILE).unlink(),
        (
            "ROOT/annotations has no instances_SPLIT.json or panoptic_SPLIT.json or "
            "stuff_SPLIT.json or image_info_SPLIT.json; check --data_root, which holds that "
            "folder, and --annotations (there are: no files)"
        ),
    ),
    "no JSON": (
        lambda root: (root / FILE).write_text("{"),
        f"{FILE} is no such file of COCO's (Input data was truncated); restore it",
    ),
    "no images": (
        lambda root: changed(root, lambda c: c.update(images=[], annotations=[])),
        f"{FILE} lists no images; restore it, or check --split",
    ),
    "outside": (
        lambda root: changed(root, outside),
        (
            f"{FILE}: the box of object 0 (90, 6, 30, 40) leaves the picture of 80x64 (width x "
            "height) by more than 1 pixel, or is not in it at all (picture 000000000001.jpg); "
            "correct that object"
        ),
    ),
    "stranger": (
        lambda root: changed(root, lambda c: c["annotations"][0].update(image_id=9)),
        (
            f"{FILE} has an annotation of image 9, which it does not list; take it out, or list "
            "the image"
        ),
    ),
    "twice": (
        lambda root: changed(root, lambda c: c["images"].append(c["images"][0])),
        f"{FILE} names the picture '000000000000' twice; take one out",
    ),
    "categories": (
        lambda root: changed(root, lambda c: c.update(categories=[])),
        (
            f"{FILE} must list one category or more, each with an id of its own, 0 or more, got 0 "
            "(none); correct it"
        ),
    ),
    "one id": (
        lambda root: changed(root, lambda c: c["categories"].append(c["categories"][0])),
        (
            f"{FILE} must list one category or more, each with an id of its own, 0 or more, got 4 "
            "(1, 18, 18, 92); correct it"
        ),
    ),
    "one name": (
        lambda root: changed(root, lambda c: c["categories"].append({"id": 0, "name": "dog"})),
        (
            f"{FILE} has 2 classes called 'dog', with the background of boxes: reports tell them "
            "apart by their names; rename all but one, or take them out"
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_before_anything_is_written(
    inputs: Path, root: Path, tmp_path: Path, fails: Callable[..., str], case: str
) -> None:
    spoil, message = REFUSALS[case]
    spoil(root)
    args = ["--dataset", "coco", "--data_root", str(root), "--split", "train2017", "--demo_codec"]
    line = fails(encode.main, [*args, "--store", str(tmp_path / "s.zarr")])
    assert line == f"encode-to-store: error: {message.replace('ROOT', str(root))}"
    assert not (tmp_path / "s.zarr").exists()
