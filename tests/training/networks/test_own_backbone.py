"""`--backbone PACKAGE.MODULE:build`: a backbone that lies in a file of one's own."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent_store.errors import LatentStoreError
from pipelines import encode, train_teacher
from tests.pipelines.made_voc import write_picture
from training import evaluate, latency, train
from training.networks.backbones import find_backbone
from training.networks.network_config import NetworkConfig
from training.tasks.registry import build_network
from training.trainer.checkpoints import load_network

PAGE = Path(__file__).parents[3] / "docs/codecs_and_networks.md"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes the guide's file, changed, under a name of its own; returns its place."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (text,) = (block for block in blocks if "def build(" in block)
    assert len(text.splitlines()) <= 30
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, *changes: tuple[str, str]) -> str:
        changed = text
        for old, new in changes:
            assert old in changed
            changed = changed.replace(old, new)
        (tmp_path / f"{name}.py").write_text(changed)
        importlib.invalidate_caches()
        return f"{name}:build"

    return write


def test_channels_and_strides_are_those_of_a_call(mine: Callable[..., str]) -> None:
    place = mine("mine_shapes")
    before = torch.get_rng_state()
    backbone = find_backbone(place)
    assert torch.equal(torch.get_rng_state(), before)
    assert (backbone.stem_channels, backbone.stage_channels) == (16, (16, 32, 64, 128))
    assert (backbone.output_stride, backbone.short_name) == (16, "mine_shapes-build")
    assert find_backbone(place) is backbone
    for task, size in (("segmentation", (1, 19, 64, 96)), ("detection", None)):
        config = NetworkConfig(task=task, domain="pixel", backbone=place, fpn_width=8)
        network = build_network(config).eval()
        valid = {} if size else {"valid_B2": torch.tensor([[64, 96]])}
        outputs = network(torch.rand(1, 3, 64, 96), **valid)
        assert outputs["features"].shape == (1, 16, 16, 24)
        assert size is None or outputs["logits"].shape == size


WRONG = "--backbone PLACE must return a stem and four stages"
REFUSALS = {
    "shape": (
        ("conv(3, 16, stride=2)", "conv(3, 16)"),
        (
            "--backbone PLACE: of a picture of 128x64 the stem must give [1, C, H, W], float32, at "
            "1/4 of its size, got [1, 16, 64, 32]; mend it"
        ),
    ),
    "stride": (
        ("conv(64, 128, dilation=2) if", "conv(64, 128, 4) if"),
        (
            "--backbone PLACE: of a picture of 128x64 the layer4 must give [1, C, H, W], float32, "
            "at 1/8 or 1/16 of its size, got [1, 128, 2, 1]; mend it"
        ),
    ),
    "tuple": (
        ("last]", "nn.Sequential(last, nn.AdaptiveMaxPool2d((4, 2), return_indices=True))]"),
        (
            "--backbone PLACE: of a picture of 128x64 the layer4 must give [1, C, H, W], float32, "
            "at 1/32 of its size, got tuple; mend it"
        ),
    ),
    "embedded": (
        ("last]", "nn.Embedding(1, 1)]"),
        "--backbone PLACE: the layer4 cannot be called with [1, 64, 8, 4] (RuntimeError: Expected ",
    ),
    "channels": (
        ("conv(16, 32, stride=2)", "conv(8, 32, 2)"),
        "--backbone PLACE: the layer2 cannot be called with [1, 16, 32, 16] (RuntimeError: Given ",
    ),
    "stages": (
        ("conv(32, 64, stride=2), last]", "last]"),
        f"{WRONG}, torch.nn.Modules, got Sequential, Sequential, Sequential, Sequential; mend it",
    ),
    "modules": (
        ("return stem, [conv(16, 16)", "return stem, [abs"),
        f"{WRONG}, torch.nn.Modules, got Sequential, builtin_function_or_method, Sequential, ",
    ),
    "nothing": (
        ("return stem, [", "stem, ["),
        f"{WRONG} (TypeError: cannot unpack non-iterable NoneType object); mend it",
    ),
    "raising": (
        ("return stem, [", "{}['stem'], ["),
        f"{WRONG} (KeyError: 'stem'); mend it",
    ),
    "argument": (
        ("def build(*, dilated)", "def build(d=0)"),
        "--backbone PLACE must be called as build(dilated=True or False); give it that argument",
    ),
    "weights": (
        ("conv(64, 128, dilation=2) if", "conv(64, 96, dilation=2) if"),
        (
            "--backbone PLACE must build weights of the same names and shapes with and without "
            "dilated; mend it"
        ),
    ),
    "name": (
        ("def build(", "def make("),
        (
            "PLACE cannot be imported (module 'mine_name' has no attribute 'build'; check the name "
            "after the colon)"
        ),
    ),
    "imported": (
        ("def build(*, dilated):", "from shutil import rmtree as build\ndef b(dilated):"),
        "--backbone PLACE must be a function that mine_imported defines, got function; define it ",
    ),
    "syntax": (
        ("def build(", "def build(("),
        "PLACE cannot be imported (SyntaxError: invalid syntax (mine_syntax.py, line 9); mend the ",
    ),
    "exit": (
        ("from torch import nn", "raise SystemExit(0)"),
        "PLACE cannot be imported (SystemExit: 0; mend the module)",
    ),
    "lacking": (
        ("from torch import nn", "import mine.none"),
        (
            "PLACE cannot be imported (ModuleNotFoundError: No module named 'mine'; install it, or "
            "set PYTHONPATH to the folder that holds it)"
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_at_the_first_call(mine: Callable[..., str], case: str) -> None:
    change, message = REFUSALS[case]
    place = mine(f"mine_{case}", change)
    with pytest.raises(LatentStoreError) as caught:
        find_backbone(place)
    assert str(caught.value).startswith(message.replace("PLACE", place))


def test_other_names_and_weights(mine: Callable[..., str]) -> None:
    with pytest.raises(LatentStoreError, match=r"one of resnet18.*, or PACKAGE.MODULE:build"):
        find_backbone("resnet19")
    with pytest.raises(LatentStoreError, match=r"^none.here:build cannot be imported \(Module"):
        find_backbone("none.here:build")
    # Of a checkpoint from elsewhere, which training again would not mend.
    with pytest.raises(LatentStoreError, match=r"^none.here:build .* PYTHONPATH [^;]*$"):
        NetworkConfig.from_dict({"backbone": "none.here:build"})
    with pytest.raises(LatentStoreError, match="no weights for --backbone mine_weightless:build"):
        find_backbone(mine("mine_weightless")).weights()


def test_own_pictures_with_masks_are_learned_measured_and_timed(
    mine: Callable[..., str], tmp_path: Path
) -> None:
    place, root, url = mine("mine_whole"), tmp_path / "photos", str(tmp_path / "s.zarr")
    (root / "train").mkdir(parents=True)
    (root / "classes.txt").write_text("left\nright\n")
    for seed in range(4):
        write_picture(root / f"train/{seed}.jpg", seed, (64, 80))
        mask_HW = np.zeros((64, 80), np.uint8)
        mask_HW[:, 40:] = 1
        Image.fromarray(mask_HW).save(root / f"train/{seed}.mask.png")
    data = ["--dataset", "folder", "--data_root", str(root), "--split", "train"]
    few = ["--batch_size", "2", "--max_steps", "2", "--no-tensorboard", "--device", "cpu"]
    shape = ["--backbone", place, "--aspp_width", "16", "--crop", "64"]
    teacher, run = str(tmp_path / "t/last.pt"), str(tmp_path / "r/last.pt")
    none = ["--val_split", "none", "--workers", "0"]
    assert train_teacher.main([*data, *few, *shape, *none, "--output", str(tmp_path / "t")]) == 0
    codec = ["--demo_codec", "--teacher_checkpoint", teacher, "--threads", "1", "--psnr", "none"]
    assert encode.main([*data, "--store", url, *codec]) == 0
    stored = ["--store", url, "--dataset", "folder", "--split", "train"]
    learned = ["--output", str(tmp_path / "r"), "--transform_init", "fresh"]
    assert train.main([*stored, *few, *none, *learned]) == 0
    assert load_network(run).config.backbone == place
    assert load_network(teacher).teacher_id.startswith("deeplabv3-mine_whole-build-")
    measured = ["--checkpoint", teacher, run, "--output", str(tmp_path / "e"), "--pictures", "0"]
    assert evaluate.main([*stored, *measured, "--device", "cpu"]) == 0
    results = json.loads((tmp_path / "e/results.json").read_text())
    assert "mIoU" in (tmp_path / "e/report.md").read_text()
    assert len(results["points"]) == 2
    timed = ["--store", url, "--dataset", "folder", "--split", "train", "--checkpoint", run]
    timed += ["--output", str(tmp_path / "l"), "--device", "cpu", "--repeats", "1"]
    assert latency.main(timed) == 0
