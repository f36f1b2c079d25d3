"""`train-teacher` on pictures of mixed sizes: both tasks, and the same crops as from a store."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models

import latent_store
from pipelines import encode, train_teacher
from pipelines.datasets.raw_images import RawImages
from pipelines.datasets.registry import DatasetFlags, open_dataset
from tests.conftest import CODEC
from tests.pipelines.made_voc import write_voc
from training.data.loader import CropLoader, WholeImages
from training.data.loader_config import LoaderConfig
from training.data.store_source import SourceSpec, StoreSource
from training.tasks.annotations import ObjectBoxes
from training.tasks.classes import VOC_CLASSES
from training.trainer.checkpoints import load_network

SMALL = ("--backbone", "resnet18", "--batch_size", "2", "--max_steps", "2", "--no-tensorboard")
SHAPES = {
    "detection": ("--fpn_width", "8", "--box_head_width", "16"),
    "segmentation": ("--aspp_width", "8"),
}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("devkit")
    write_voc(root)
    return root


def arguments(data_root: Path, output: Path, task: str, *more: object) -> list[str]:
    words = ["--dataset", "voc", "--voc_task", task, "--data_root", data_root, "--output", output]
    words += ["--split", "trainval", "--val_split", "trainval", "--device", "cpu", *SMALL]
    words += ["--pretrained", "none"]
    return [str(word) for word in [*words, *more]]


@pytest.mark.parametrize("task", SHAPES)
def test_a_teacher_of_either_task_learns_from_mixed_sizes(
    data_root: Path, tmp_path: Path, task: str
) -> None:
    output = tmp_path / "run"
    args = arguments(data_root, output, task, *SHAPES[task])
    assert train_teacher.main(args) == 0
    loaded = load_network(output / "last.pt", kind="teacher")
    assert (loaded.config.task, loaded.config.num_classes) == (task, 21)
    assert loaded.meta["dataset"] == "voc2007"
    assert loaded.meta["class_names"] == list(VOC_CLASSES)
    assert loaded.meta["label"] == "pixel (trained on raw)"
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    (scores,) = [record for record in records if record["kind"] == "validation"]
    assert 0 <= scores["ap50" if task == "detection" else "miou"] <= 1
    assert train_teacher.main([*args, "--resume", "--publish", str(tmp_path / "out")]) == 0
    (published,) = (tmp_path / "out").iterdir()
    half = load_network(published, kind="teacher")
    assert published.name == f"{half.teacher_id}.pt"
    assert published.stat().st_size < 0.52 * (output / "last.pt").stat().st_size
    norms = {n for n, _ in loaded.network.named_buffers()}
    for name, value in loaded.network.state_dict().items():
        exact = value if name in norms else value.half().float()
        assert torch.equal(half.network.state_dict()[name], exact), name


def test_a_teacher_is_validated_on_what_is_held_out_of_its_training(
    data_root: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    words = arguments(data_root, tmp_path / "run", "segmentation", *SHAPES["segmentation"])
    at = words.index("--val_split")
    words = words[:at] + words[at + 2 :]
    reader = open_dataset(
        DatasetFlags(dataset="voc", data_root=str(data_root), voc_task="segmentation", year=(2007,))
    )
    first, *others = (sample.sample_id for sample in reader.manifest("trainval"))
    words += ["--batch_size", "1", "--freeze_batch_norm", "--epochs", "1", "--max_steps", "99"]
    assert train_teacher.main([*words, "--hold_out", first]) == 0
    assert load_network(tmp_path / "run/last.pt").meta["step"] == len(others)
    assert '"kind": "validation"' in (tmp_path / "run/log.jsonl").read_text()
    assert "no id of trainval begins with it" in fails(
        train_teacher.main, [*words, "--hold_out", "9", "--output", str(tmp_path / "other")]
    )


def raw_loader(data_root: Path, task: str, config: LoaderConfig) -> CropLoader:
    reader = open_dataset(
        DatasetFlags(dataset="voc", data_root=str(data_root), voc_task=task, year=(2007,))
    )
    images = RawImages(reader, reader.manifest("trainval"), cache_mb=1)
    return CropLoader(images, config, seed=3)


def test_pictures_and_latents_are_cropped_alike(data_root: Path, tmp_path: Path) -> None:
    """What is compared (pixels on raw, latents) sees the same crops, sizes and objects."""
    url = tmp_path / "s.zarr"
    flags = ["--dataset", "voc", "--voc_task", "detection", "--data_root", str(data_root)]
    flags += ["--split", "trainval", "--store", str(url), *CODEC, "--threads", "1"]
    assert encode.main(flags) == 0
    config = LoaderConfig(batch_size=1, crop=64, workers=0)
    spec = SourceSpec(
        url=str(url),
        split="voc2007/trainval",
        annotations=ObjectBoxes(num_classes=21),
        domain="latent",
        codec_id=latent_store.open(url).codec().codec_id,
    )
    loaders = (
        raw_loader(data_root, "detection", config),
        CropLoader(StoreSource(spec), config, seed=3),
    )
    objects, extents = 0, set()
    for _ in range(6):
        for raw, stored in zip(*loaders, strict=True):
            assert raw["sample_ids"] == stored["sample_ids"]
            assert raw["x_BCHW"].shape[-2:] == (64, 64)
            assert torch.equal(raw["valid_B2"], stored["valid_B2"])
            assert torch.equal(raw["targets"][0]["boxes"], stored["targets"][0]["boxes"])
            assert torch.equal(raw["targets"][0]["labels"], stored["targets"][0]["labels"])
            boxes_N4, (height, width) = raw["targets"][0]["boxes"], raw["valid_B2"][0].tolist()
            assert (boxes_N4 >= 0).all()
            assert (boxes_N4[:, 2] <= width).all()
            assert (boxes_N4[:, 3] <= height).all()
            objects += len(boxes_N4)
            extents.add((height, width))
    assert objects > 3
    assert len(extents) > 3
    for loader in loaders:
        loader.close()


def test_a_batch_has_one_coded_size_and_says_what_is_padding(data_root: Path) -> None:
    loader = raw_loader(data_root, "detection", LoaderConfig(batch_size=2, workers=0))
    assert loader.rule.crop == 0  # whole pictures, unless a crop is asked for
    shapes = {
        name: (tuple(batch["x_BCHW"].shape[-2:]), tuple(valid))
        for batch in loader
        for name, valid in zip(batch["sample_ids"], batch["valid_B2"].tolist(), strict=True)
    }
    assert shapes == {
        "000001": ((128, 192), (100, 150)),
        "000002": ((128, 64), (120, 64)),
        "000003": ((64, 128), (60, 70)),
    }
    loader.close()


def test_flipped_views_mirror_pictures_masks_and_objects(data_root: Path) -> None:
    for task in SHAPES:
        reader = open_dataset(
            DatasetFlags(dataset="voc", data_root=str(data_root), voc_task=task, year=(2007,))
        )
        (sample, *_) = reader.manifest("trainval")
        images = RawImages(reader, [sample, sample.seen_as("hflip")], cache_mb=1)
        plain, flipped = WholeImages(images)
        height, width = sample.height, sample.width
        pixels = [one["x_BCHW"][0, :, :height, :width].numpy() for one in (plain, flipped)]
        np.testing.assert_array_equal(pixels[1], pixels[0][..., ::-1])
        if task == "detection":
            boxes_N4, mirrored_N4 = plain["targets"][0]["boxes"], flipped["targets"][0]["boxes"]
            assert torch.equal(mirrored_N4[:, 0], width - boxes_N4[:, 2])
        else:
            masks = [one["labels_BHW"][0, :height, :width].numpy() for one in (plain, flipped)]
            np.testing.assert_array_equal(masks[1], masks[0][:, ::-1])


REFUSALS = {
    "fpn": ("segmentation", ["--fpn_width", "8"], "--fpn_width is a setting of detection, the ta"),
    "aspp": ("detection", ["--aspp_width", "8"], "--aspp_width is a setting of segmentation, the"),
    "year": ("detection", ["--year", "2012"], "has no VOC2012; it has: VOC2007"),
    "crop": ("detection", ["--crop", "32"], "--crop 32 is too small for boxes"),
    "batch": ("segmentation", ["--batch_size", "1"], "--batch_size 1 cannot train batch norm"),
}


def test_a_picture_without_a_header_is_named_before_anything_is_trained(
    tmp_path: Path, fails: Callable[..., str]
) -> None:
    folder = write_voc(tmp_path / "devkit")
    (folder / "JPEGImages/000003.jpg").write_bytes(b"")
    line = fails(train_teacher.main, arguments(folder.parent, tmp_path / "run", "detection"))
    assert "cannot read picture VOC2007/JPEGImages/000003.jpg: cannot identify image file" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(data_root: Path, tmp_path: Path, fails: Callable[..., str], case: str) -> None:
    task, more, message = REFUSALS[case]
    line = fails(train_teacher.main, arguments(data_root, tmp_path / "run", task, *more))
    assert re.search(re.escape(message), line), line


def test_a_backbone_starts_from_imagenet_where_that_can_be_had(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # There is no network.
    task = "segmentation"
    words = arguments(data_root, tmp_path / "random", task, *SHAPES[task], "--max_steps", 1)
    at = words.index("--pretrained")
    words = [*words[:at], *words[at + 2 :], "--backbone", "resnet18"]

    def began(folder: str) -> str:
        return json.loads((tmp_path / folder / "config.json").read_text())["pretrained"]

    with caplog.at_level(logging.INFO):
        assert train_teacher.main(words) == 0
    assert began("random") == "none"
    assert "the backbone starts from random weights: torchvision's weights for" in caplog.text
    weights = models.ResNet18_Weights.DEFAULT
    cached = tmp_path / "torch/hub/checkpoints" / weights.url.rsplit("/", 1)[1]
    cached.parent.mkdir(parents=True, exist_ok=True)
    torch.save(models.resnet18(weights=None).state_dict(), cached)
    with caplog.at_level(logging.INFO):
        assert train_teacher.main([*words, "--output", str(tmp_path / "imagenet")]) == 0
    assert began("imagenet") == "imagenet"
    assert "the backbone starts from torchvision's ImageNet weights" in caplog.text
    # What can be had by now changes nothing about a run that began without.
    assert train_teacher.main([*words, "--resume"]) == 0
    assert began("random") == "none"
    # One that was killed before it saved anything is begun anew, with what can be had by now.
    killed = tmp_path / "imagenet"
    for path in killed.iterdir():
        if path.name != "config.json":
            path.unlink()
    cached.unlink()
    assert train_teacher.main([*words, "--output", str(killed), "--resume"]) == 0
    assert began("imagenet") == "none"


def test_a_teacher_never_begins_over_an_older_log(
    data_root: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    (tmp_path / "log.jsonl").write_text("{}\n")
    words = arguments(data_root, tmp_path, "segmentation", *SHAPES["segmentation"])
    assert "has log.jsonl of a run, and nothing to go on from" in fails(train_teacher.main, words)
    assert (tmp_path / "log.jsonl").read_text() == "{}\n"
    assert not (tmp_path / "config.json").exists()
