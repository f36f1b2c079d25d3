"""`detect` finds in a stream file alone what the evaluation finds in the store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import latent_store
from latent_store.codec import codec_from_store
from latent_store.format.layout import coded_size
from tests.conftest import CODEC
from tests.training.made_detectors import BoxStore
from tests.training.real_networks import make_checkpoint
from training import detect, segment
from training.evaluation.evaluation_split import EvaluationSplit
from training.evaluation.measure import Pipeline
from training.evaluation.networks_to_evaluate import find_networks
from training.tasks.classes import VOC_CLASSES
from training.tasks.detection import DETECTION
from training.trainer.checkpoints import write_payload

KINDS = ("pixel", "none", "dynamic", "static")


@pytest.fixture(scope="module")
def images(box_store: BoxStore) -> list[Path]:
    """The pictures of the test split, in row order."""
    split = latent_store.open(box_store.url)["voc2007/test"]
    names = split.sample_ids(range(3))
    return [box_store.data_root / f"VOC2007/JPEGImages/{name}.jpg" for name in names]


def _run(checkpoint: Path, output: Path, *more: object) -> int:
    fixed = ["--checkpoint", str(checkpoint), "--output", str(output), "--device", "cpu"]
    return detect.main([*fixed, *map(str, more)])


@pytest.mark.parametrize("kind", KINDS)
def test_objects_and_bytes_are_those_of_the_evaluation(
    box_store, detectors, images, tmp_path, kind
):
    report = tmp_path / "numbers.json"
    assert _run(detectors[kind], tmp_path, "--image", *images, "--json", report) == 0
    store = latent_store.open(box_store.url)
    (evaluated,) = find_networks([detectors[kind]], store)
    evaluation = EvaluationSplit(store["voc2007/test"], DETECTION)
    pipeline = Pipeline(evaluation, evaluated)
    numbers = json.loads(report.read_text())["pictures"]
    for row, path in enumerate(images):
        height, width = (int(n) for n in evaluation.stored.sizes([row])[0])
        (found,), (rate,) = pipeline.outputs([row], coded_size(height, width))
        written = json.loads((tmp_path / f"{path.stem}_boxes.json").read_text())
        assert (written["height"], written["width"]) == (height, width)
        objects = written["objects"]
        assert len(objects) == len(found) > 5
        assert [o["class"] for o in objects] == [VOC_CLASSES[k] for k in found.labels_N]
        np.testing.assert_array_equal([o["box"] for o in objects], found.boxes_N4)
        np.testing.assert_array_equal(np.float32([o["score"] for o in objects]), found.scores_N)
        parts = numbers[row]["bytes"]
        assert (parts["hyper"], parts["mask"]) == (rate.hyper_bytes, rate.mask_bytes)
        # A prefix of the scalable stream is at most 4 bytes longer than a stream of its own.
        assert 0 <= rate.y_bytes - parts["y"] <= (4 if kind == "static" else 0)


def test_the_server_needs_the_stream_file_alone(detectors, images, tmp_path):
    for kind in ("static", "dynamic"):
        together, camera, server = (tmp_path / kind / n for n in ("both", "camera", "server"))
        assert _run(detectors[kind], together, "--image", images[0]) == 0
        assert _run(detectors[kind], camera, "--image", images[0], "--encode_only") == 0
        stream = camera / f"{images[0].stem}.stream"
        assert [p.name for p in camera.iterdir()] == [stream.name]
        assert _run(detectors[kind], server, "--stream", stream) == 0
        names = [f"{images[0].stem}_boxes.{suffix}" for suffix in ("json", "png")]
        assert sorted(p.name for p in server.iterdir()) == names
        assert (server / names[0]).read_bytes() == (together / names[0]).read_bytes()


@pytest.mark.parametrize("size", [(1, 1), (63, 65), (130, 70)])
def test_pictures_of_any_size_and_boxes_inside_them(detectors, tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    for kind in ("static", "pixel"):
        assert _run(detectors[kind], tmp_path / kind, "--image", path) == 0
        with Image.open(tmp_path / kind / "picture_boxes.png") as made:
            assert made.size == (size[1], size[0])
        objects = json.loads((tmp_path / kind / "picture_boxes.json").read_text())["objects"]
        for x1, y1, x2, y2 in (o["box"] for o in objects):
            assert 0 <= x1 <= x2 <= size[1]
            assert 0 <= y1 <= y2 <= size[0]


def test_only_what_reaches_the_score_is_drawn(detectors, images, tmp_path):
    drawn = {}
    for least in (0, 1):
        output = tmp_path / str(least)
        assert _run(detectors["none"], output, "--image", images[0], "--least_score", least) == 0
        with Image.open(output / f"{images[0].stem}_boxes.png") as picture:
            drawn[least] = np.asarray(picture)
        found = json.loads((output / f"{images[0].stem}_boxes.json").read_text())["objects"]
        assert found
    with Image.open(images[0]) as picture:
        plain_HWC = np.asarray(picture.convert("RGB"))
    # Latents of fresh weights are so loud that some scores are rounded to 1.
    reached = any(item["score"] >= 1 for item in found)
    assert (drawn[1] != plain_HWC).any() == reached
    assert not (reached and CODEC == ["--demo_codec"])
    assert (drawn[0] != plain_HWC).any()


def test_each_command_names_the_other_for_the_others_networks(
    box_store, detectors, images, tmp_path, fails
):
    flags = ["--output", str(tmp_path), "--image", str(images[0]), "--checkpoint"]
    line = fails(segment.main, [*flags, str(detectors["none"])])
    assert "none.pt is a network for detection; use `detect`, or a checkpoint for seg" in line
    codec = codec_from_store(latent_store.open(box_store.url))
    line = fails(detect.main, [*flags, str(make_checkpoint(tmp_path / "maps.pt", codec))])
    assert "maps.pt is a network for segmentation; use `segment`, or a checkpoint for det" in line


def test_a_score_that_none_can_have_is_refused(detectors, images, tmp_path, fails):
    flags = ["--checkpoint", detectors["none"], "--output", tmp_path, "--image", images[0]]
    line = fails(detect.main, [*map(str, flags), "--least_score", "50"])
    assert "--least_score must be 0 to 1, got 50" in line


def test_a_damaged_network_is_refused_and_finds_not_nothing(detectors, images, tmp_path, fails):
    payload = torch.load(detectors["none"], weights_only=True)
    payload["state"]["tail.fpn.inner_blocks.3.0.weight"][0, 0, 0, 0] = torch.nan
    write_payload(tmp_path / "diverged.pt", payload)
    flags = ["--checkpoint", tmp_path / "diverged.pt", "--output", tmp_path, "--image", images[0]]
    assert "diverged.pt gives values that are not finite" in fails(detect.main, [*map(str, flags)])
