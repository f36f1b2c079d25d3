"""The benchmark of faults tells what is amiss; after a disk that was full nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import faults
from tests.benchmarks.faults import Result


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"lost": ("c/0 is missing",)}, "1 lost, 0 doubled, 0 hangs of 2 trials"),
        ({"doubled": ("c/1 is there",)}, "0 lost, 1 doubled, 0 hangs of 2 trials"),
        ({"hang": "no end within 3 s"}, "0 lost, 0 doubled, 1 hangs of 2 trials"),
    ],
)
def test_a_defect_is_told_and_ends_in_1(
    found: dict[str, tuple[str, ...] | str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Result(seed=7, kind="child", told="killed", **found)  # type: ignore[arg-type]
    assert faults.report([Result(seed=6, kind="child"), bad]) == 1
    text = capsys.readouterr().out
    assert f"{told} (aim 0, 0, 0): DOES NOT HOLD" in text
    assert "child, seed 7: killed\n  " in text


def test_a_trial_of_a_full_disk_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert faults.main(["--trials", "1", "--only", "disk-full", "--work", str(tmp_path)]) == 0
    assert "0 lost, 0 doubled, 0 hangs of 1 trials (aim 0, 0, 0): holds" in capsys.readouterr().out
