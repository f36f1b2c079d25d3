"""Every number of every command has a range, and one outside is refused first, in one line."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from latent_store.console import Number
from latent_store.errors import LatentStoreError
from pipelines.scenes.cityscapes_scenes import CityscapesScenes
from tests.test_architecture import SCRIPTS
from training import train
from training.data.loader_config import LoaderConfig
from training.flags import flag_types

MODULES = {name: target.split(":")[0] for name, target in SCRIPTS.items()}
MODULES |= {"latency": "training.latency", "rate_miou": "training.experiments.rate_miou"}
MODULES |= {"demo": "pipelines.demo"}
MODULES |= {name: f"training.experiments.device.{name}" for name in ("on_gpu", "pack")}


class _Parsed(Exception):
    """Ends a command where its parser is complete."""


def parser_of(module: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """Returns the parser with which a command reads its flags."""
    found: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        found.append(parser)
        raise _Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        with pytest.raises(_Parsed):
            importlib.import_module(module).main([])
    return found[0]


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yields a parser's flags, and those of its actions."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from actions_of(part)


@pytest.mark.parametrize("command", MODULES)
def test_every_number_has_a_range(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = []
    for action in actions_of(parser_of(MODULES[command], monkeypatch)):
        assert action.type not in (int, float), f"{action.dest} of {command} has no range"
        if isinstance(action.type, Number):
            numbers.append(action)
            default = action.default if isinstance(action.default, list) else [action.default]
            assert all(value is None or not action.type.refusal(value) for value in default)
            for text in ("-1", "nan", "inf", "-inf", "1e999", "9" * 400, "", "x"):
                with pytest.raises(argparse.ArgumentTypeError, match=r"^must be .*, got "):
                    action.type(text)
    assert numbers or command == "reorder-latents"


@pytest.mark.parametrize("command", MODULES)
def test_every_text_is_refused_where_it_is_empty(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = parser_of(MODULES[command], monkeypatch)
    for action in actions_of(parser):
        if action.nargs != 0 and action.type in (None, str, Path):
            assert action.default != "", f"{action.dest} of {command} has an empty default"
            with pytest.raises(argparse.ArgumentError, match="must not be empty"):
                parser._get_value(action, "")


@pytest.mark.parametrize("flag", ["--output", "--label", "--split"])
def test_an_empty_text_is_refused_before_it_is_taken_for_the_current_folder(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["--store", "none.zarr", "--output", "out", flag, ""])
    assert stop.value.code == 2
    assert f"train-from-store: error: {flag} must not be empty; see" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "text", "refusal"),
    [
        (Number(int), "-1", "must be 0 or more, got -1"),
        (Number(int, 1), "0", "must be 1 or more, got 0"),
        (Number(int), "2147483648", "must be 0 to 2147483647, got 2147483648"),
        (Number(int), "1.0", "must be a whole number, got '1.0'"),
        (Number(int), "1_0", "must be a whole number, got '1_0'"),
        (Number(int), "\u0661", "must be a whole number, got '\u0661'"),
        (Number(float, most=1), "1.5", "must be 0 to 1, got 1.5"),
        (Number(float, above_least=True), "0", "must be above 0, got 0.0"),
        (Number(float), "nan", "must be finite, got nan"),
        (Number(float), "inf", "must be finite, got inf"),
        (Number(float), "0,5", "must be a number, got '0,5'"),
    ],
)
def test_what_a_range_refuses(kind: Number, text: str, refusal: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as error:
        kind(text)
    assert str(error.value) == refusal


@pytest.mark.parametrize("text", ["0", "1", "0.25"])
def test_what_a_range_takes(text: str) -> None:
    assert Number(float, most=1)(text) == float(text)


def test_a_dataclass_holds_its_numbers_against_the_same_ranges() -> None:
    assert flag_types(LoaderConfig)["batch_size"] == Number(int, 1)
    with pytest.raises(LatentStoreError, match="--workers must be 0 to 1024, got 5000"):
        LoaderConfig(workers=5000)
    with pytest.raises(LatentStoreError, match="--height must be 64 to 4096, got 10"):
        CityscapesScenes(height=10)
