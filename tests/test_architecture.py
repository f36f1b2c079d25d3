"""Imports flow one way, and what a command is called and takes is a contract."""

from __future__ import annotations

import ast
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("latent_store", "training", "pipelines")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
CONTRACT = {
    "latent-store": ["inspect", "verify", "decode", "export", "selfcheck", "finalize", "share"],
    "encode-to-store": [
        "--dataset", "--data_root", "--split", "--store", "--codec_checkpoint", "--quality",
        "--demo_codec", "--teacher_checkpoint", "--samples_per_shard", "--max_samples",
        "--max_failures", "--dry_run", "--canvas", "--views",
    ],
    "train-teacher": ["--dataset", "--data_root", "--output"],
    "train-codec": ["--output"],
    "generate-scenes": ["--output", "--train", "--val"],
    "train-from-store": [
        "--store", "--dataset", "--output", "--task", "--domain", "--selection", "--mask", "--keep",
        "--transform", "--backbone", "--epochs", "--resume", "--codec", "--teacher", "--init_from",
        "--rate_weight", "--lambda_kd", "--cuts", "--deterministic",
    ],
    "channel-frequency": [
        "--store", "--dataset", "--split", "--checkpoint", "--ranking", "--method", "--keep",
        "--codec", "--strict",
    ],
    "reorder-latents": ["--store", "--dataset", "--split", "--ranking", "--codec"],
    "evaluate-from-store": [
        "--store", "--dataset", "--split", "--checkpoint", "--output", "--codec",
    ],
    "segment": ["--checkpoint", "--image", "--stream", "--encode_only", "--output", "--keep"],
    "detect": ["--checkpoint", "--image", "--stream", "--encode_only", "--output", "--keep"],
}  # fmt: skip


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_one_to_its_right(room: str) -> None:
    forbidden = ROOMS[ROOMS.index(room) + 1 :]
    wrong = [
        (path.name, name)
        for path in (ROOT / room).rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] in forbidden
    ]
    assert wrong == []


def test_the_reader_imports_neither_torch_nor_beam() -> None:
    heavy = {"torch", "torchvision", "compressai", "apache_beam", "PIL", "matplotlib"}
    wrong = [
        (path.name, name)
        for path in (ROOT / "latent_store").glob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] in heavy
    ]
    assert wrong == []


def test_every_command_of_the_contract_is_installed() -> None:
    assert set(CONTRACT) == set(SCRIPTS)


@pytest.mark.parametrize("command", sorted(CONTRACT))
def test_help_teaches_every_flag_of_the_contract(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module, function = SCRIPTS[command].split(":")
    with pytest.raises(SystemExit) as stop:
        getattr(importlib.import_module(module), function)(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: {command}" in text
    assert [name for name in CONTRACT[command] if name not in text] == []


@pytest.mark.parametrize("command", sorted(CONTRACT))
def test_bad_usage_exits_with_status_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, function = SCRIPTS[command].split(":")
    with pytest.raises(SystemExit) as stop:
        getattr(importlib.import_module(module), function)([])
    assert stop.value.code == 2
    assert command in capsys.readouterr().err
