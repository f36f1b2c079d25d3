"""What every command does for those who type: its help, its complaints, its completions."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from latent_store.console import make_parser
from latent_store.tools.flags import EXAMPLES, make_flags

ROOT = Path(__file__).parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def said(command: str, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    module, function = SCRIPTS[command].split(":")
    with pytest.raises(SystemExit) as stop:
        getattr(importlib.import_module(module), function)(list(words))
    return stop.value.code, *capsys.readouterr()


@pytest.mark.parametrize("command", sorted(SCRIPTS))
def test_a_complaint_is_one_line_and_begins_with_the_reason(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(command, "--no_such_flag", capsys=capsys)
    assert (status, out) == (2, "")
    assert err.startswith(f"{command}: error: ")
    assert err.count("\n") == 1
    assert err.endswith("; see --help\n")


def test_a_flag_that_is_none_may_have_meant_another(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = said("train-from-store", "--store", "a", "--outptu", "b", capsys=capsys)
    assert "--outptu is no flag, --output is; see --help" in err
    _, _, err = said("latent-store", "inspect", "a", "--jsn=16", capsys=capsys)
    assert "--jsn is no flag, --json is" in err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("latent-store verify x --deep --jsno", "--jsno; --jsno is no flag, --json is; see"),
        (
            "latent-store decode x --sample y --output z.png --chanels 3",
            "--chanels 3; --chanels is no flag, --channels is; see",
        ),
        ("latent-store inspect x --qqqq", "arguments: --qqqq; see"),
        ("latent-store --deep verify x", "--deep; --deep belongs behind the action; see"),
        # What it was meant for may hold a secret.
        (
            'latent-store inspect x --storage_option {"key":"S"}',
            "--storage_option {...}; --storage_option is no flag, --storage_options is; see",
        ),
        ("latent-store inspect x --deep --sample=3", "arguments: --deep --sample=3; see"),
        # What a job's own parser does not know may be Beam's.
        (
            "encode-to-store --store x --split train --region europe --setup_file f",
            "required: --dataset, --data_root; see",
        ),
        ("encode-to-store --store x --split train --datsaet d", "--datsaet is no flag, --dataset"),
        ("train-from-store --store a --output b --cuts 1x --outptu c", "--cuts must be a whole"),
    ],
)
def test_only_words_that_are_no_flags_are_told_what_they_meant(
    line: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *words = line.split()
    _, _, err = said(command, *words, capsys=capsys)
    assert expected in err
    assert err.count("is no flag") == expected.count("is no flag")


@pytest.mark.parametrize("action", sorted(EXAMPLES))
def test_every_action_has_examples_that_its_parser_takes(
    action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = said("latent-store", action, "--help", capsys=capsys)
    assert status == 0
    assert EXAMPLES[action] in out
    for line in EXAMPLES[action].replace("\\\n", " ").strip().splitlines():
        words = line.partition("|")[0].split()
        assert make_flags().parse_args(words[1:]).action == action


def test_help_shows_defaults_0_and_no_among_them() -> None:
    parser = make_parser("x", "")
    parser.add_argument("--none", default=0, help="0 of them")
    parser.add_argument("--rate", type=float, default=0.0, help="a rate")
    parser.add_argument("--many", nargs="+", default=["a", "b"], help="several")
    parser.add_argument("--known", default=3, help="as said (default: of the store)")
    parser.add_argument("--plain", action="store_true", help="do it")
    parser.add_argument(
        "--pair", action=argparse.BooleanOptionalAction, default=False, help="or not"
    )
    text = " ".join(parser.format_help().split())
    for part in (
        "0 of them (default: 0)",
        "a rate (default: 0.0)",
        "several (default: a b)",
        "as said (default: of the store) --plain do it --pair",
        "or not (default: no)",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("latent-store ver", {"verify"}),
        ("latent-store inspect x --js", {"--json"}),
        ("train-from-store --selec", {"--selection"}),
        ("train-from-store --selection d", {"dynamic"}),
    ],
)
def test_a_shell_completes_actions_flags_and_choices(
    line: str, expected: set[str], tmp_path: Path
) -> None:
    pytest.importorskip("argcomplete")
    told = tmp_path / "told"
    module, function = SCRIPTS[line.split()[0]].split(":")
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(told),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    call = f"import {module} as m; m.{function}()"
    subprocess.run([sys.executable, "-c", call], env={**os.environ, **asked}, cwd=ROOT, check=True)
    assert {word.strip() for word in told.read_text().splitlines()} == expected
