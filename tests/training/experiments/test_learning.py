"""Learning curves of held-out samples: what their table and file say."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.training.experiments.test_grid import made
from training.experiments.grid_file import parse_grid
from training.experiments.learning import held_out_scores, write_curves
from training.experiments.records import Record

GRID = parse_grid(made(middle="q2", hold_out=["ulm_"], curves=["variance-16", "frequency-16"]))


def record(method: str, codec: str, seed: int, *curve: tuple[int, float]) -> Record:
    config = {"method": method, "codec": codec, "seed": seed}
    return Record(name="r", config=config, points=(), facts={}, curve=curve)


RECORDS = [
    record("variance-16", "q2", 0, (0, 0.1), (50, 0.2), (100, 0.3)),
    record("frequency-16", "q2", 0, (0, 0.2), (50, 0.3), (80, 0.35), (100, 0.355)),
    record("frequency-16", "q2", 1, (0, 0.1), (50, 0.2), (80, 0.25), (100, 0.295)),
    record("frequency-16", "q1", 0, (100, 0.2)),
    record("pixel-raw", "q1", 0),
]


def test_the_table_tells_when_and_whether_training_ended(tmp_path: Path) -> None:
    section = write_curves(GRID, RECORDS, tmp_path).markdown()
    assert "| variance-16 | 1 | 0.3000 (0.3000-0.3000) | +0.1000 | 100 |" in section
    assert "| frequency-16 | 2 | 0.3250 (0.2950-0.3550) | +0.0250 | 50, never |" in section
    rows = list(csv.reader((tmp_path / "learning.csv").read_text().splitlines()))
    assert rows[0] == ["method", "codec", "seed", "step", "score"]
    assert ["frequency-16", "q2", "1", "80", "0.250000"] in rows
    assert len(rows) == 1 + 3 + 4 + 4 + 1
    assert (tmp_path / "learning.png").stat().st_size > 0


def test_last_scores_are_means_over_seeds() -> None:
    scores = held_out_scores(GRID, RECORDS)
    assert scores["frequency-16"] == {"codec-2": (0.355 + 0.295) / 2, "codec-1": 0.2}
    assert "pixel-raw" not in scores


def test_records_without_curves_have_no_section(tmp_path: Path) -> None:
    assert write_curves(GRID, RECORDS[-1:], tmp_path) is None
    assert not (tmp_path / "learning.csv").exists()
