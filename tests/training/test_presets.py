"""Presets of both trainers: defaults that flags win over, and that the run's folder records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import train_teacher
from tests.conftest import TinyStore
from training import train
from training.presets import PRESETS, parse_with_preset

STORE = ["--store", "s", "--output", "o"]
PICTURES = ["--dataset", "voc", "--data_root", "d", "--output", "o"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_defaults_and_given_flags_win(preset: str) -> None:
    for make, words in ((train_teacher.make_flags, PICTURES), (train.make_arguments, STORE)):
        scratch = [*words, *(["--init", "scratch"] if words is STORE else [])]
        args = parse_with_preset(make(), [*scratch, "--preset", preset])
        assert {name: getattr(args, name) for name in PRESETS[preset]} == PRESETS[preset]
        given = ["--batch_size", "3", "--amp", "auto", "--backbone", "resnet34"]
        args = parse_with_preset(make(), [*scratch, *given, "--preset", preset])
        assert (args.batch_size, args.amp, args.backbone) == (3, "auto", "resnet34")
        assert args.crop == PRESETS[preset]["crop"]


def test_what_a_network_starts_from_keeps_its_backbone_and_boxes_their_pictures() -> None:
    args = parse_with_preset(train.make_arguments(), [*STORE, "--preset", "80gb"])
    assert (args.backbone, args.crop) == (None, 768)
    more = ["--init", "scratch", "--init_from", "a.pt", "--preset", "80gb"]
    assert parse_with_preset(train.make_arguments(), [*STORE, *more]).backbone is None
    boxes = ["--task", "detection", "--preset", "cpu"]
    assert parse_with_preset(train.make_arguments(), [*STORE, *boxes]).crop is None
    for boxes in (["--voc_task", "detection"], ["--annotations", "boxes"]):
        words = [*PICTURES, *boxes, "--preset", "cpu"]
        assert parse_with_preset(train_teacher.make_flags(), words).crop is None


@pytest.mark.parametrize("make", [train_teacher.make_flags, train.make_arguments])
def test_the_help_lists_what_each_sets(make) -> None:
    text = " ".join(make().format_help().split())
    for name, flags in PRESETS.items():
        assert f"{name}: " + " ".join(f"--{flag} {value}" for flag, value in flags.items()) in text


def test_the_runs_folder_records_what_came_of_it(tiny_store: TinyStore, tmp_path: Path) -> None:
    words = "--aspp_width 8 --batch_size 2 --crop 32 --max_steps 1 --workers 1 --no-tensorboard"
    words += " --transform_init fresh --val_split none --init scratch --preset cpu"
    fixed = ["--store", str(tiny_store.url), "--output", str(tmp_path)]
    assert train.main([*fixed, *words.split()]) == 0
    found = json.loads((tmp_path / "config.json").read_text())
    expected = {**PRESETS["cpu"], "batch_size": 2, "crop": 32}
    assert {name: found[name] for name in expected} == expected
