"""Generated scenes in the devkit's layout: exact boxes and masks, sizes that vary, two lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_store.storage.location import Location
from pipelines import generate_scenes as command
from pipelines.datasets.voc import Voc
from pipelines.scenes.scene import Scene
from pipelines.scenes.voc_scenes import VocScenes, voc_annotation
from training.tasks.classes import VOC_CLASSES, class_colours

Fails = Callable[..., str]

TRAIN, VAL = 5, 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voc_scenes")
    VocScenes(train=TRAIN, val=VAL, longest=128, seed=3).generate(folder)
    return folder


def flat_scene(labels_HW: np.ndarray, instances_HW: np.ndarray) -> Scene:
    return Scene(
        image_HWC=np.zeros((*labels_HW.shape, 3), np.uint8),
        label_ids_HW=labels_HW.astype(np.uint8),
        instance_ids_HW=instances_HW.astype(np.uint16),
    )


def test_the_reader_lists_what_was_written(root: Path) -> None:
    for task, most in (("detection", TRAIN), ("segmentation", TRAIN - 1)):
        reader = Voc(Location(root), voc_task=task)
        split = {name: reader.manifest(name) for name in ("train", "val", "trainval")}
        assert len(split["train"]) == most
        assert len(split["val"]) == VAL
        ids = [sample.sample_id for name in ("train", "val") for sample in split[name]]
        assert ids == [sample.sample_id for sample in split["trainval"]]
        assert len({(sample.height, sample.width) for sample in split["trainval"]}) > 2
        assert all(max(s.height, s.width) == 128 for s in split["trainval"])


def test_boxes_and_masks_of_the_files_are_those_of_the_scene(root: Path) -> None:
    boxes, masks = (Voc(Location(root), voc_task=task) for task in ("detection", "segmentation"))
    known = {sample.sample_id: sample for sample in masks.manifest("train")}
    scenes = VocScenes(longest=128, seed=3)
    for index, sample in enumerate(boxes.manifest("train")):
        mask_HW, objects = voc_annotation(scenes.scene(index))
        found = boxes.read_boxes(sample)
        assert len(found) == len(objects) > 0
        assert [VOC_CLASSES[label] for label in found.labels_N] == [one.name for one in objects]
        assert found.difficult_N.tolist() == [one.difficult for one in objects]
        corners = [(one.box[0] - 1, one.box[1] - 1, one.box[2], one.box[3]) for one in objects]
        assert found.boxes_N4.tolist() == [list(map(float, edges)) for edges in corners]
        for label, (x1, y1, x2, y2) in zip(found.labels_N, corners, strict=True):
            inside_HW = mask_HW[y1:y2, x1:x2]
            assert (inside_HW == label).any()
        if sample.sample_id in known:
            np.testing.assert_array_equal(masks.read_labels(known[sample.sample_id]), mask_HW)


def test_a_box_is_tight_and_the_rim_lies_outside() -> None:
    labels, instances = np.full((40, 50), 7), np.zeros((40, 50), int)
    labels[10:20, 30:50], instances[10:20, 30:50] = 26, 1  # a car at the right edge
    labels[2:6, 3:7], instances[2:6, 3:7] = 24, 2  # a person, small
    labels[30, 5:8], instances[30, 5:8] = 33, 3  # a bicycle that is one pixel high
    labels[25:39, 20:45], instances[25:39, 20:45] = 27, 4  # a truck, no class of VOC
    mask_HW, objects = voc_annotation(flat_scene(labels, instances))
    car, person = objects
    assert (car.name, car.box) == ("car", (31, 11, 50, 20))
    assert (car.truncated, car.difficult) == (True, False)
    assert (person.name, person.box) == ("person", (4, 3, 7, 6))
    assert (person.truncated, person.difficult) == (False, False)
    assert (mask_HW[10:20, 30:50] == VOC_CLASSES.index("car")).all()
    assert (mask_HW[9, 30:50] == 255).all()
    assert (mask_HW[10:20, 29] == 255).all()
    assert (mask_HW[2:6, 3:7] == VOC_CLASSES.index("person")).all()
    assert (mask_HW[30, 5:8] == 255).all()
    assert (mask_HW[25:39, 20:45] == 0).all()


def test_plain_scenes_have_cars_buses_and_people_and_no_more() -> None:
    scenes = VocScenes(longest=128, seed=3, plain=True)
    found = [one for index in range(12) for one in voc_annotation(scenes.scene(index))[1]]
    assert {one.name for one in found} == {"car", "bus", "person"}


def test_masks_have_the_devkits_palette(root: Path) -> None:
    with Image.open(next((root / "VOC2007/SegmentationClass").iterdir())) as image:
        assert image.mode == "P"
        palette = np.reshape(image.getpalette(), (-1, 3))
    assert [tuple(colour) for colour in palette[:21].tolist()] == list(class_colours(VOC_CLASSES))
    assert palette[7].tolist() == [128, 128, 128]
    assert palette[255].tolist() == [224, 224, 192]


def test_years_share_no_scene_and_no_id(tmp_path: Path) -> None:
    for year in ("2007", "2012"):
        size = ("--longest", "128", "--train", "1", "--val", "1")
        args = ["--output", str(tmp_path), "--layout", "voc", "--year", year, *size]
        assert command.main([*args, *(["--overwrite"] if year == "2012" else [])]) == 0
    reader = Voc(Location(tmp_path), voc_task="detection", year=(2007, 2012))
    assert reader.dataset_id == "voc0712"
    samples = reader.manifest("trainval")
    assert [s.sample_id for s in samples] == ["000001", "000002", "2012_000001", "2012_000002"]
    assert len({(tmp_path / sample.image_uri).read_bytes() for sample in samples}) == 4


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--longest", "100"), "--longest must be 128 to 1170, got 100"),
        (("--year", "12"), "--year must be 1000 to 9999, got 12"),
        (("--train", "-1"), "--train must be 0 to 1000000, got -1"),
        (("--height", "128"), "--height is of --layout cityscapes, not of voc; leave it out"),
    ],
)
def test_bad_flags_are_one_line(
    tmp_path: Path, fails: Fails, flags: tuple[str, ...], words: str
) -> None:
    args = ["--output", str(tmp_path / "data"), "--layout", "voc", *flags]
    assert words in fails(command.main, args)
    assert not (tmp_path / "data").exists()


def test_the_other_layout_refuses_the_years_flags(tmp_path: Path, fails: Fails) -> None:
    line = fails(command.main, ["--output", str(tmp_path / "data"), "--year", "2012"])
    assert "--year is of --layout voc, not of cityscapes; leave it out" in line
