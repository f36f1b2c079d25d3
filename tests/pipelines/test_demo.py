"""The demo without its minutes: what it says and refuses, and the teachers that it rests on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from latent_store.errors import JobFailedError
from pipelines import demo
from pipelines.teacher_training.publishing import DEMO_FOLDER, demo_teacher
from tests.test_command_numbers import parser_of
from training.trainer.checkpoints import load_network

TEACHER = {"label": "pixel (trained on raw)", "metric": "mIoU", "score": 0.65, "keep": None}
LAST = {"label": "static 16", "metric": "mIoU", "score": 0.605, "keep": 16}
COMMON = {"channels_total": 192, "permuted_score": 0.15}


def points(**changed: Any) -> list[dict[str, Any]]:
    return [TEACHER | COMMON | {"bpp": 0.4}, LAST | COMMON | {"bpp": 0.1} | changed]


def test_the_verdict_is_one_sentence_of_what_was_measured() -> None:
    assert demo.verdict(points()) == (
        "16 of 192 channels: 75% fewer bits than the picture, mIoU -4.5 points (0.605; the teacher "
        "on decoded pictures 0.650)."
    )


def test_networks_that_learned_nothing_or_do_not_look_are_told() -> None:
    assert demo.find_problems(points()) == []
    assert demo.find_problems(points(score=0.35)) == [
        "static 16 has mIoU 0.3500, at least 0.4 are expected"
    ]
    assert demo.find_problems(points(permuted_score=0.5)) == [
        "static 16 has mIoU 0.6050, 0.5000 with another picture's latents"
    ]
    (low,) = demo.find_problems(points(metric="AP50", score=0.29, permuted_score=0.1)[1:])
    assert low == "static 16 has AP50 0.2900, at least 0.3 are expected"


@pytest.mark.parametrize("number", range(len(demo.MAPS + demo.BOXES)))
def test_every_stage_is_a_command_with_flags_that_it_knows(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, out = (demo.MAPS + demo.BOXES)[number], tmp_path / "of two words"
    folders = ("dynamic", "static-32", "static-16", "boxes/static")
    for folder in folders:
        (out / folder).mkdir(parents=True)
    files = ("teacher.pt", "new_scene.png", "new_scene.jpg", *(f"{f}/last.pt" for f in folders))
    for name in files:
        (out / name).touch()
    teacher = out / "teacher.pt"
    command, *words = one.words({"out": out, "seed": 3, "maps": teacher, "boxes": teacher})
    module = demo.COMMANDS[command].__module__
    parser_of(module, monkeypatch).parse_args(words)
    assert one.title
    assert one.seconds > 0


def test_a_stage_is_shown_with_the_time_that_is_left_and_a_failed_one_ends_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((0.0, 20.0, 50.0))
    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    few = "--train 1 --val 0 --height 64 --width 64"
    drawn = [
        demo.Stage("Drawing", 60, f"generate-scenes --plain --output {{out}}/{name} {few}")
        for name in ("a", "b", "a")
    ]
    with pytest.raises(JobFailedError, match="generate-scenes ended with status 2; its error"):
        demo.run_stages(drawn, {"out": tmp_path})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "[1/3] Drawing; about 3:00 left"
    assert lines[2] == f"$ generate-scenes --plain --output {tmp_path}/a {few}"
    # A third of the time that they take on two cores, then less than half of it.
    assert "[2/3] Drawing; about 0:40 left" in lines
    assert "[3/3] Drawing; about 0:25 left" in lines
    assert (tmp_path / "b").exists()


def test_only_its_own_output_is_replaced(tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "mine.txt").touch()
    assert "holds something else; give a new folder" in fails(
        demo.main, ["--output", str(tmp_path)]
    )
    assert (tmp_path / "mine.txt").exists()


def test_a_file_of_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(bytes(3_000_000))
    os.link(tmp_path / "last.pt", tmp_path / "best.pt")
    assert demo._megabytes(tmp_path) == 3


def test_the_packages_teachers_are_small_and_their_record_is_beside_them() -> None:
    files = sorted(DEMO_FOLDER.glob("*.pt"))
    assert {demo_teacher("segmentation"), demo_teacher("detection")} == set(files)
    assert sum(path.stat().st_size for path in files) < 6e6
    record = (DEMO_FOLDER / "README.md").read_text()
    for path in files:
        loaded = load_network(path, kind="teacher")
        assert path.name == f"{loaded.teacher_id}.pt"
        assert path.name in record
        train = loaded.meta["train"]
        # Nobody's photographs are in them: the second began from the first.
        starts = {"segmentation": "none", "detection": "last.pt"}
        assert train["pretrained"] == starts[loaded.config.task]
        assert f"--max_steps {train['max_steps']}" in record
        state = torch.load(path, weights_only=True)["state"]
        assert {state[n].dtype for n, _ in loaded.network.named_parameters()} == {torch.float16}
        assert json.dumps(loaded.meta).count("/") == 0  # no path of the machine that trained it
