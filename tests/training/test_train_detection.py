"""`train-from-store --task detection` on a small real VOC store: networks and data."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import latent_store
from pipelines import encode, train_teacher
from tests.conftest import RANKING, TinyStore
from tests.training.made_detectors import KEEP, BoxStore, box_encode_args, make_box_store
from tests.training.trainer.test_ranks import torchrun
from training import train
from training.data.loader import WholeImages
from training.data.store_source import SourceSpec, StoredChannels, StoreSource
from training.tasks.annotations import ObjectBoxes
from training.tasks.classes import VOC_CLASSES
from training.tasks.detection import DETECTION, DetectionLoss
from training.tasks.objective import Objective, network_inputs
from training.tasks.registry import build_network
from training.trainer.checkpoints import load_network

SHAPE = ("--backbone", "resnet18", "--fpn_width", "8", "--box_head_width", "16")
SHAPE += ("--anchor_size", "16")
SMALL = (
    "--batch_size",
    "2",
    "--max_steps",
    "2",
    "--no-tensorboard",
    "--device",
    "cpu",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BoxStore:
    """Pictures of two coded sizes, flipped views of those for training, a detection teacher."""
    made = make_box_store(tmp_path_factory.mktemp("boxes"), train=6, test=2)
    output = made.url.parent / "teacher"
    words = ["--dataset", "voc", "--voc_task", "detection", "--data_root", made.data_root]
    words += ["--split", "trainval", "--val_split", "none", "--output", output, *SHAPE, *SMALL]
    words += ["--pretrained", "none"]
    assert train_teacher.main([str(word) for word in words]) == 0
    more = ["--teacher_checkpoint", str(output / "last.pt"), "--views", "hflip"]
    assert encode.main([*box_encode_args(made, "trainval"), *more]) == 0
    return made


def arguments(store: BoxStore, output: Path, *more: object) -> list[str]:
    words = ["--task", "detection", "--store", store.url, "--dataset", "voc2007"]
    words += ["--split", "trainval", "--val_split", "none", "--output", output, "--workers", 0]
    words += ["--transform_init", "fresh"]
    return [str(word) for word in [*words, *SMALL, *more]]


def records(output: Path, kind: str) -> list[dict]:
    lines = (output / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.mark.parametrize(
    ("more", "label"),
    [
        (["--selection", "dynamic", "--rate_weight", "0.5"], "dynamic (rate-aware)"),
        (["--selection", "static", "--mask", RANKING, "--keep", KEEP], f"static-16 ({RANKING})"),
        (["--selection", "any", "--mask", RANKING], f"any ({RANKING})"),
        # All six pictures are in each batch: a small crop of some may have no object.
        (
            ["--transform", "res", "--lambda_kd", "0", "--crop", "64", "--batch_size", "6"],
            "no gate res",
        ),
        (["--domain", "pixel"], "pixel (trained on decoded)"),
    ],
    ids=["dynamic", "static", "any", "res", "pixel"],
)
def test_every_kind_of_network_trains(
    store: BoxStore, tmp_path: Path, more: list[object], label: str
) -> None:
    output = tmp_path / "run"
    assert train.main(arguments(store, output, *more, "--val_split", "test")) == 0
    loaded = load_network(output / "last.pt")
    teacher = load_network(store.url.parent / "teacher/last.pt")
    assert loaded.meta["label"] == label
    assert loaded.meta["class_names"] == list(VOC_CLASSES)
    assert loaded.meta["teacher_id"] == teacher.teacher_id
    assert teacher.teacher_id.startswith("fasterrcnn-resnet18-")
    assert loaded.config.task == "detection"
    assert loaded.config.fpn_width == 8  # the teacher's
    epochs, (validation,) = records(output, "epoch"), records(output, "validation")
    assert all(epochs[0][part] >= 0 for part in DetectionLoss.own_weights)
    assert ("distillation" in epochs[0]) == ("--lambda_kd" not in more and "--domain" not in more)
    assert 0 <= validation["ap50"] <= 1
    assert {"ap50_07", "coco_ap", "ap50/car"} <= set(validation)
    assert ("kept" in validation) == ("dynamic" in label)
    assert "Object detection of" in (output / "README.md").read_text()


def test_it_starts_from_the_teacher(store: BoxStore, tmp_path: Path) -> None:
    assert train.main(arguments(store, tmp_path / "run", "--learning_rate", 1e-12)) == 0
    teacher = load_network(store.url.parent / "teacher/last.pt").network.tail.state_dict()
    own = load_network(tmp_path / "run/last.pt").network.tail.state_dict()
    assert set(own) == set(teacher)
    for name in own:
        if "running" not in name and "batches_tracked" not in name:
            torch.testing.assert_close(own[name], teacher[name])


def test_interrupted_and_resumed_it_ends_as_if_undisturbed(
    store: BoxStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--selection", "dynamic", "--max_steps", 6, "--checkpoint_epochs", 1, "--log_steps", 1]
    assert train.main(arguments(store, tmp_path / "whole", *more)) == 0
    forward, calls = Objective.forward, []

    def interrupted(*args: object) -> dict[str, torch.Tensor]:
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return forward(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", interrupted)
        assert train.main(arguments(store, tmp_path / "parted", *more)) != 0
    assert load_network(tmp_path / "parted/last.pt").meta["step"] == 3
    assert train.main([*arguments(store, tmp_path / "parted", *more), "--resume"]) == 0
    assert (tmp_path / "parted/last.pt").read_bytes() == (tmp_path / "whole/last.pt").read_bytes()


def source(url: Path, **more: object) -> StoreSource:
    codec_id = latent_store.open(url).codec().codec_id
    spec = {"split": "voc2007/trainval", "annotations": ObjectBoxes(num_classes=21)}
    spec |= {"domain": "latent", "codec_id": codec_id, "stored": StoredChannels(pooled="mean")}
    return StoreSource(SourceSpec(url=str(url), **(spec | more)))


def test_an_image_is_the_same_in_any_batch_and_on_any_canvas(
    store: BoxStore, tmp_path: Path
) -> None:
    wide = BoxStore(url=tmp_path / "wide.zarr", data_root=store.data_root)
    assert encode.main(box_encode_args(wide, "trainval", canvas=(256, 320))) == 0
    assert train.main(arguments(store, tmp_path / "run", "--selection", "dynamic")) == 0
    network = load_network(tmp_path / "run/last.pt").network
    torch.nn.init.normal_(network.tail.roi_heads.box_predictor.cls_score.weight, std=2)
    found: list[dict[str, dict[str, torch.Tensor]]] = []
    for url, batch_size in ((store.url, 1), (store.url, 3), (wide.url, 4)):
        images = WholeImages(source(url), batch_size=batch_size)
        found.append(detected(network, images))
    alone, *others = found
    assert len(alone) == 6
    assert sum(len(one["boxes"]) for one in alone.values()) > 10
    for other in others:
        for sample, one in alone.items():
            for name, value in one.items():
                torch.testing.assert_close(other[sample][name], value, rtol=1e-3, atol=1e-3)


def test_two_ranks_have_the_losses_of_one_process(store: BoxStore, tmp_path: Path) -> None:
    more = ["--freeze_batch_norm", "--batch_size", 4, "--max_steps", 1, "--log_steps", 1]
    more += ["--val_split", "test"]
    alone, together = tmp_path / "one", tmp_path / "two"
    assert train.main(arguments(store, alone, *more)) == 0
    command = Path(sys.executable).with_name("train-from-store")
    done = torchrun("--no-python", command, *arguments(store, together, *more))
    assert done.returncode == 0, done.stderr
    (one,), (two,) = records(alone, "step"), records(together, "step")
    for part in ("objectness", "proposal_box", "distillation"):
        assert two[part] == pytest.approx(one[part], rel=1e-4)
    for part in ("classification", "box"):  # rounding may swap two proposals
        assert two[part] == pytest.approx(one[part], rel=0.05)
    (one,), (two,) = records(alone, "validation"), records(together, "validation")
    assert two.keys() == one.keys()


@torch.no_grad()
def detected(network: torch.nn.Module, images: WholeImages) -> dict[str, dict[str, torch.Tensor]]:
    """What is found, by sample id."""
    found = {}
    for batch in images:
        outputs = network(*network_inputs(network, batch), **DETECTION.tail_inputs(batch))
        found |= dict(zip(batch["sample_ids"], outputs["detections"], strict=True))
    return found


def test_views_show_mirrored_objects(store: BoxStore) -> None:
    images = WholeImages(source(store.url, views=True))
    targets = {batch["sample_ids"][0]: batch["targets"][0] for batch in images}
    split = latent_store.open(store.url)["voc2007/trainval"]
    assert len(targets) == 12
    for name in [name for name in targets if "@" not in name]:
        ((_, width),) = split.sizes([split.row_of(name)])
        plain, flipped = targets[name]["boxes"], targets[f"{name}@hflip"]["boxes"]
        assert len(plain)
        torch.testing.assert_close(flipped[:, 0], float(width) - plain[:, 2])
        torch.testing.assert_close(flipped[:, [1, 3]], plain[:, [1, 3]])


REFUSALS = {
    "aspp": (["--aspp_width", "8"], "--aspp_width is a setting of segmentation, the task is detec"),
    "crop": (["--crop", "48"], "--crop 48 is too small for boxes"),
    "anchors": (["--anchor_size", "8"], "its anchor_size is 16, the network's 8; give --anchor_si"),
    "labels": (["--task", "segmentation"], "run encode-to-store"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(store: BoxStore, tmp_path: Path, fails: Callable[..., str], case: str) -> None:
    more, message = REFUSALS[case]
    line = fails(train.main, arguments(store, tmp_path / "run", *more))
    assert re.search(re.escape(message), line), line


def test_a_store_without_boxes(
    tiny_store: TinyStore, tmp_path: Path, fails: Callable[..., str]
) -> None:
    args = ["--task", "detection", "--store", str(tiny_store.url), "--output", str(tmp_path / "r")]
    line = fails(train.main, args)
    assert "no boxes for cityscapes/train; run encode-to-store with --voc_task detection" in line


def test_a_segmentation_teacher_gives_its_residual_layers(tiny_store: TinyStore) -> None:
    from training.networks.network_config import NetworkConfig
    from training.trainer.initialise import start_from_teacher

    teacher = load_network(tiny_store.teacher)
    config = NetworkConfig(
        task="detection", backbone="mobilenet_v2", fpn_width=8, box_head_width=16
    )
    network = build_network(config)
    assert start_from_teacher(network, teacher) == ["fpn", "roi_heads", "rpn"]
    own, given = network.tail.state_dict(), teacher.network.tail.state_dict()
    layers = [name for name in own if name.startswith("layer")]
    assert len(layers) > 50
    assert all(torch.equal(own[name], given[name]) for name in layers)
