"""Procedural scenes: the same for the same seed, exact annotation, Cityscapes' layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_store.errors import LatentStoreError
from pipelines import generate_scenes as command
from pipelines.scenes.camera import COUNTABLE_LABELS
from pipelines.scenes.cityscapes_scenes import cityscapes_instance_ids
from pipelines.scenes.scene import Scene, render_scene
from pipelines.scenes.sets import SceneError

VALID_LABELS = {0, 7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 33}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(0, index, 128, 256) for index in range(24)]


def test_equal_arguments_give_equal_scenes(scenes):
    again = render_scene(0, 3, 128, 256)
    assert np.array_equal(again.image_HWC, scenes[3].image_HWC)
    assert np.array_equal(again.label_ids_HW, scenes[3].label_ids_HW)
    assert np.array_equal(again.instance_ids_HW, scenes[3].instance_ids_HW)


@pytest.mark.parametrize(("seed", "index"), [(1, 3), (0, 4)])
def test_another_seed_or_index_gives_another_scene(scenes, seed, index):
    assert not np.array_equal(render_scene(seed, index, 128, 256).image_HWC, scenes[3].image_HWC)


@pytest.mark.parametrize("size", [(64, 64), (100, 333), (300, 150)])
def test_any_size_is_drawn_with_the_promised_types(size):
    scene = render_scene(2, 7, *size)
    assert scene.image_HWC.shape == (*size, 3)
    assert scene.image_HWC.dtype == np.uint8
    assert scene.label_ids_HW.shape == size
    assert scene.label_ids_HW.dtype == np.uint8
    assert scene.instance_ids_HW.shape == size
    assert scene.instance_ids_HW.dtype == np.uint16


def test_only_cityscapes_labels_occur_and_all_of_them_do_somewhere(scenes):
    seen = set(np.unique(np.stack([scene.label_ids_HW for scene in scenes])).tolist())
    assert seen == VALID_LABELS


def test_instances_cover_exactly_the_countable_labels_and_have_one_label_each(scenes):
    for scene in scenes:
        countable = np.isin(scene.label_ids_HW, COUNTABLE_LABELS)
        assert np.array_equal(countable, scene.instance_ids_HW > 0)
        numbers = np.unique(scene.instance_ids_HW[countable])
        assert numbers.tolist() == list(range(1, len(numbers) + 1))
        for number in numbers:
            assert len(np.unique(scene.label_ids_HW[scene.instance_ids_HW == number])) == 1


def test_plain_scenes_have_eight_classes_and_objects_that_are_near() -> None:
    plain = [render_scene(3, index, 128, 256, plain=True) for index in range(8)]
    labels = np.stack([scene.label_ids_HW for scene in plain])
    assert set(np.unique(labels).tolist()) == {7, 8, 11, 21, 23, 24, 26, 28}
    objects = [np.bincount(scene.instance_ids_HW.ravel())[1:] for scene in plain]
    assert all(areas.max() > 0.01 * 128 * 256 for areas in objects)
    again = render_scene(3, 5, 128, 256, plain=True)
    assert np.array_equal(again.image_HWC, plain[5].image_HWC)
    assert not np.array_equal(render_scene(3, 5, 128, 256).image_HWC, again.image_HWC)


def test_place_alone_does_not_tell_the_class(scenes):
    labels = np.stack([scene.label_ids_HW for scene in scenes])
    votes = np.stack([(labels == label).sum(axis=0) for label in sorted(VALID_LABELS)])
    best_constant_map = votes.max(axis=0).sum() / labels.size
    assert best_constant_map < 0.75


def test_pictures_vary_in_light_and_have_fine_texture(scenes):
    images = np.stack([scene.image_HWC for scene in scenes]).astype(np.float32)
    assert images.mean(axis=(1, 2, 3)).std() > 15
    steps = np.abs(np.diff(images, axis=2)).mean(axis=(1, 2, 3))
    assert steps.min() > 1.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 0, 63, 256), "height must be 64 to 4096 pixels, not 63"),
        ((0, 0, 64, 5000), "width must be 64 to 4096 pixels, not 5000"),
        ((-1, 0, 64, 64), "seed and index must be 0 or more, not -1 and 0"),
    ],
)
def test_impossible_scenes_are_refused(arguments, words):
    with pytest.raises(SceneError, match=words) as caught:
        render_scene(*arguments)
    assert isinstance(caught.value, LatentStoreError)


def _generate(root: Path, *more: str) -> int:
    size = ("--height", "64", "--width", "128")
    return command.main(["--output", str(root), "--train", "2", "--val", "1", *size, *more])


def test_the_command_writes_the_layout_of_cityscapes(tmp_path):
    root = tmp_path / "data"
    assert _generate(root) == 0
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    expected = []
    for split, count in (("train", 2), ("val", 1)):
        for k in range(count):
            stem = f"{split}/procedural/procedural_{k:06d}_000019"
            expected.append(f"leftImg8bit/{stem}_leftImg8bit.png")
            expected += [f"gtFine/{stem}_gtFine_{kind}.png" for kind in ("labelIds", "instanceIds")]
    assert names == sorted(expected)
    stem = "train/procedural/procedural_000001_000019"
    scene = render_scene(0, 1, 64, 128)
    image = Image.open(root / f"leftImg8bit/{stem}_leftImg8bit.png")
    labels = np.asarray(Image.open(root / f"gtFine/{stem}_gtFine_labelIds.png"))
    ids = Image.open(root / f"gtFine/{stem}_gtFine_instanceIds.png")
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), scene.image_HWC)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, scene.label_ids_HW)
    assert ids.mode == "I;16"
    ids = np.asarray(ids)
    assert np.array_equal(np.where(ids >= 1000, ids // 1000, ids), labels)
    assert np.array_equal(ids >= 1000, np.isin(labels, COUNTABLE_LABELS))
    assert _generate(root, "--plain", "--overwrite") == 0
    image = Image.open(root / f"leftImg8bit/{stem}_leftImg8bit.png")
    assert np.array_equal(np.asarray(image), render_scene(0, 1, 64, 128, plain=True).image_HWC)


def test_train_and_val_share_no_scene(tmp_path):
    assert _generate(tmp_path / "data", "--seed", "5") == 0
    pictures = [path.read_bytes() for path in (tmp_path / "data/leftImg8bit").rglob("*.png")]
    assert len(set(pictures)) == 3


def test_instance_numbers_restart_within_each_label():
    labels = np.array([[26, 26, 24, 7], [26, 24, 24, 0]], np.uint8)
    instances = np.array([[5, 2, 3, 0], [5, 4, 4, 0]], np.uint16)
    scene = Scene(
        image_HWC=np.zeros((2, 4, 3), np.uint8), label_ids_HW=labels, instance_ids_HW=instances
    )
    ids = cityscapes_instance_ids(scene)
    assert ids.dtype == np.uint16
    assert ids.tolist() == [[26001, 26000, 24000, 7], [26001, 24001, 24001, 0]]


def test_content_is_replaced_only_when_asked(tmp_path, capsys):
    root = tmp_path / "data"
    assert _generate(root) == 0
    kept = root / "leftImg8bit/train/elsewhere/note.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    assert _generate(root) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"generate-scenes: error: --output {root} is not empty")
    assert "--overwrite" in error
    assert error.count("\n") == 1
    assert _generate(root, "--train", "1", "--overwrite") == 0
    assert len(list((root / "leftImg8bit/train/procedural").iterdir())) == 1
    assert kept.read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--height", "10"), "--height must be 64 to 4096, got 10"),
        (("--train", "-1"), "--train must be 0 to 1000000, got -1"),
        (("--train", "0", "--val", "0"), "--train and --val are both 0"),
        (("--seed", "-3"), "--seed must be 0 to 4294967295, got -3"),
        (("--city", "a_b"), "--city must be letters and digits only, not 'a_b'"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(tmp_path, fails, flags, words):
    assert words in fails(command.main, ["--output", str(tmp_path / "data"), *flags])
    assert not (tmp_path / "data").exists()
