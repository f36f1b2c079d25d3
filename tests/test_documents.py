"""The commands of README and guide: each is run on small data, or it says why it is not."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from latent_store.codec.pictures import read_image
from pipelines.scenes.cityscapes_scenes import CityscapesScenes
from pipelines.scenes.scene import render_scene
from pipelines.scenes.voc_scenes import VocScenes
from tests.test_docker import PROJECT
from training.tasks.classes import CITYSCAPES_CLASSES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (.*?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block, its language, and what stands above it: "run: NAME", or "not run: REASON"."""

SMALL = "--batch_size 2 --max_steps 2 --workers 0 --no-tensorboard --device cpu"
MORE = {
    "train-teacher": f"{SMALL} --pretrained none",
    "train-from-store": f"{SMALL} --transform_init fresh",
    "encode-to-store": "--samples_per_shard 4 --threads 1",
    "evaluate-from-store": "--device cpu --pictures 1",
}
"""What is added to the commands, so that they end in seconds."""
OF_TASK = {"maps": "--aspp_width 8", "boxes": "--fpn_width 8 --box_head_width 8 --anchor_size 8"}
CHANGED = {"--quality 2": "--demo_codec", "--crop 512": "--crop 64", "--pretrained imagenet": ""}
"""What cannot be had without a network."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Returns what stands above each block of commands, and the block."""
    found = BLOCK.finditer(page.read_text())
    return [(block[1] or "", block[3]) for block in found if block[2] in ("", "sh")]


def commands(text: str) -> list[str]:
    """Returns the commands of a block: a line each, without comments and line ends."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    return [" ".join(line.split()) for line in found if line]


def of_page(name: str, run: str) -> list[str]:
    """Returns the commands of a page's blocks that are run under a name."""
    chosen = [text for mark, text in blocks(ROOT / name) if mark == f"run: {run}"]
    assert chosen
    return [command for text in chosen for command in commands(text)]


def run_command(command: str, task: str) -> None:
    for text, instead in CHANGED.items():
        command = command.replace(text, instead)
    name, *words = shlex.split(command)
    more = MORE.get(name, "")
    if name == "train-teacher" or "--init scratch" in command:
        more += f" --backbone mobilenet_v2 {OF_TASK[task]}"
    module, _, function = PROJECT["scripts"][name].partition(":")
    main = getattr(importlib.import_module(module), function)
    assert main([*words, *more.split()]) == 0, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_is_run_or_says_why_not(page: Path) -> None:
    for mark, text in blocks(page):
        assert re.match(r"(run: \w+|not run: \S.*)$", mark), text


def test_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"height": 64, "width": 128}
    CityscapesScenes(train=5, val=0, city="aachen", **size).generate(tmp_path / "D")
    CityscapesScenes(train=0, val=3, city="ulm", **size).generate(tmp_path / "D", overwrite=True)
    Image.fromarray(render_scene(0, 9, 64, 128).image_HWC).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    for command in of_page("README.md", "chain") + of_page("docs/streams.md", "chain"):
        run_command(command.replace("$D", "D"), "maps")
    assert (tmp_path / "evaluation/report.md").exists()
    assert read_image(tmp_path / "channels.png").shape[1] > 128


def test_two_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    VocScenes(train=6, val=4, longest=128, year=2012).generate(tmp_path / "VOCdevkit")
    Image.fromarray(render_scene(0, 9, 64, 128).image_HWC).save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    for command in of_page("docs/boxes.md", "boxes"):
        run_command(command, "boxes")
    assert (tmp_path / "box-evaluation/report.md").exists()


def test_own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = dict.fromkeys(range(1, 4), tmp_path / "photos/train")
    folders |= dict.fromkeys(range(4, 6), tmp_path / "photos/val")
    for number, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        image_HWC = render_scene(0, number, 64, 96).image_HWC
        Image.fromarray(image_HWC).save(folder / f"IMG_{number:04}.jpg")
    monkeypatch.chdir(tmp_path)
    for command in of_page("docs/own_data.md", "photos"):
        run_command(command, "maps")
    assert read_image(tmp_path / "16.png").shape == (64, 96, 3)
    # Masks beside them, and the same command again.
    (tmp_path / "photos/classes.txt").write_text("\n".join(CITYSCAPES_CLASSES))
    for number, folder in folders.items():
        labels_HW = render_scene(0, number, 64, 96).label_ids_HW % len(CITYSCAPES_CLASSES)
        Image.fromarray(labels_HW).save(folder / f"IMG_{number:04}.mask.png")
    for command in of_page("docs/own_data.md", "masks"):
        run_command(command, "maps")
    assert (tmp_path / "evaluation/report.md").exists()
