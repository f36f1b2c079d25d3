"""Every command that opens a URL takes options for it, and none writes its output to one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from latent_store.storage.object_stores import input_file
from tests.test_command_numbers import MODULES, parser_of

OPENED = {"store", "url", "data_root"}
"""Flags and arguments that may be URLs, beside the files that `input_file` fetches."""
LOCAL = {"on_gpu", "pack"}
"""Commands of this machine alone: what they take is packed, or was."""


def parsers_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields a command's parser, or those of its actions."""
    parts = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not parts:
        yield parser
    for part in parts:
        yield from part.choices.values()


@pytest.mark.parametrize("command", [name for name in MODULES if name not in LOCAL])
def test_who_opens_urls_takes_options_for_them(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parser in parsers_of(parser_of(MODULES[command], monkeypatch)):
        opened = [a.dest for a in parser._actions if a.dest in OPENED or a.type is input_file]
        takes = "--storage_options" in parser._option_string_actions
        assert takes == bool(opened), f"{parser.prog} opens {opened}"


@pytest.mark.parametrize("command", MODULES)
def test_what_is_written_is_on_this_machine(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for parser in parsers_of(parser_of(MODULES[command], monkeypatch)):
        for action in parser._actions:
            if action.dest == "output":
                read = parser._registry_get("type", action.type, action.type)
                assert read("runs/x") == Path("runs/x")
                with pytest.raises(argparse.ArgumentTypeError, match="must be a path of this mach"):
                    read("s3://lab/runs/x")
