"""Messages of the library name arguments; the commands spell them as their flags."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import latent_store
from latent_store import cli
from latent_store.console import BAD_USAGE, LONGEST_ERROR, run_command, spell_flags
from latent_store.errors import CheckpointError, MissingComponentError
from tests.conftest import TinyStore

ROOM = Path(latent_store.__file__).parent
COMMANDS = ("cli.py", "commands.py", "console.py", "doctor.py", "flags.py")
"""The modules that parse arguments, or are handed parsed ones."""


@pytest.mark.parametrize(
    ("message", "spelled"),
    [
        ("give `codec=` with one of: a, b", "give --codec with one of: a, b"),
        ("`keep=500` is out of range", "--keep 500 is out of range"),
        ("encode with `canvas=128 192`, which", "encode with --canvas 128 192, which"),
        ("run `latent-store verify URL`", "run `latent-store verify URL`"),
        ("h_s(dtype=float64) differs", "h_s(dtype=float64) differs"),
    ],
)
def test_an_argument_between_backticks_becomes_a_flag(message: str, spelled: str) -> None:
    assert spell_flags(message) == spelled


def test_the_library_names_the_argument_and_the_command_its_flag(
    tiny_store: TinyStore, fails: Callable[..., str]
) -> None:
    with pytest.raises(MissingComponentError, match="no codec nosuch; give `codec=` with one of"):
        latent_store.open(tiny_store.url).codec("nosuch")
    line = fails(cli.main, ["selfcheck", str(tiny_store.url), "--codec", "nosuch"])
    assert "no codec nosuch; give --codec with one of" in line


def test_no_message_of_the_library_speaks_of_flags() -> None:
    found = [
        (str(path.relative_to(ROOM)), text)
        for path in ROOM.rglob("*.py")
        if path.name not in COMMANDS
        for text in _texts(ast.parse(path.read_text()))
        if re.search(r"(?<!\S)--[a-z]", text)
    ]
    assert found == []


def test_what_a_file_says_does_not_fill_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise CheckpointError(f"a.pt is of {'x' * 10**5}; copy it again")

    assert run_command("segment", fail) == BAD_USAGE
    line = capsys.readouterr().err
    assert line.startswith("segment: error: a.pt is of xxx")
    assert line.endswith("xxx; copy it again\n")
    assert len(line) < LONGEST_ERROR + 100


def _texts(node: ast.AST) -> Iterator[str]:
    """Yields the strings of a module that are no documentation."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
        yield from _texts(child)
