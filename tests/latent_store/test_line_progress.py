"""Progress where nobody watches: a line a minute, with what a reader of the log asks."""

from __future__ import annotations

import sys
import time

import pytest

from latent_store.console import progress
from latent_store.line_progress import LineProgress, in_words


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_line_a_minute_with_done_rate_numbers_and_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(total=1000, initial=100, desc="train", unit="step") as bar:
        bar.set_postfix({"loss": "0.512", "lr": "1e-03"}, refresh=False)
        for _ in range(119):
            clock[0] += 1
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    # 60 steps in 60 s; 840 are left.
    assert lines == [
        "train: 160 of 1000 steps, 1 steps a second, loss 0.512, lr 1e-03, 14 min left"
    ]


def test_what_takes_less_than_a_minute_says_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress(range(59), unit="run")) == list(range(59))
    with progress(total=3, disable=True) as bar:
        clock[0] += 1000
        bar.update()
    assert capsys.readouterr().err == ""


def test_slow_things_are_seconds_each_and_unknown_totals_stay_so(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = LineProgress(["a", "b", "c"], desc="encode", unit="picture")
    for _ in bar:
        clock[0] += 90
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "encode: 1 of 3 pictures, 90 s a picture, 3 min left"
    assert lines[-1] == "encode: 3 of 3 pictures, 90 s a picture"
    with progress(desc="verify", unit="shard") as bar:
        clock[0] += 61
        bar.update(122)
    assert capsys.readouterr().err == "verify: 122 shards, 2 shards a second\n"


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm import tqdm

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(total=2) as bar:
        assert isinstance(bar, tqdm)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (5, "5 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5400, "1.5 h"),
        (86400, "24.0 h"),
        (9e5, "10.4 days"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
