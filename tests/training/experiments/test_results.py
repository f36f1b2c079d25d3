"""A grid's report, from records with chosen numbers."""

from __future__ import annotations

import json

import pytest

from tests.training.experiments.test_grid import made
from tests.training.made_points import make_point, make_sample
from training.experiments.findings import find
from training.experiments.grid_file import parse_grid
from training.experiments.paper_tables import table_1, table_3
from training.experiments.records import Record, Timings
from training.experiments.results import write_report

FACTS = {"device": "CPU, 1 threads", "cores": 2, "torch": "2", "seconds": 60.0}


def record(method: str, codec: str, score: float, y_bytes: int, seed: int = 0, **changes) -> Record:
    sample = {"pixels": 1600, "y_bytes": y_bytes}
    point = make_point(
        method,
        codec_id=f"codec-{codec[1:]}",
        key=f"{method}-{codec}-{seed}",
        score=score,
        seed=seed,
        samples=(make_sample("a", **sample), make_sample("b", **sample)),
        **changes,
    )
    config = {"method": method, "codec": codec, "seed": seed}
    return Record(name=f"{method}_{codec}_s{seed}", config=config, points=(point,), facts=FACTS)


PIXEL = {"domain": "pixel", "selection": "none", "keep": None, "ranking_id": None}
RECORDS = [
    record("pixel-raw", "q1", 0.3, 370, ranking_method=None, **PIXEL),
    record("pixel-raw", "q2", 0.5, 770, ranking_method=None, **PIXEL),
    record("frequency-16", "q2", 0.4, 170, 0),
    record("frequency-16", "q2", 0.4, 170, 1),
    record("variance-16", "q1", 0.2, 170, ranking_method="variance", ranking_id="v"),
    record("variance-16", "q2", 0.4, 370, ranking_method="variance", ranking_id="v"),
]


def test_a_claim_is_the_best_of_its_tests_against_its_anchor() -> None:
    found = find(parse_grid(made()), RECORDS)
    ((_, verdict),) = found.claims
    # 30 + 170 bytes against 30 + 370, at the mIoU 0.4 of both.
    assert verdict.value == pytest.approx(0.5)
    assert verdict.word == "not shown: 1 of 3 seeds"


def test_a_claim_that_nothing_meets_names_the_test_that_comes_nearest() -> None:
    wang = {"ranking_method": "variance", "ranking_id": "v"}
    records = [
        record("frequency-16", "q1", 0.1, 30, constant_score=0.05),
        record("variance-16", "q1", 0.2, 30, constant_score=0.05, **wang),
        record("pixel-raw", "q1", 0.3, 370, constant_score=0.05, ranking_method=None, **PIXEL),
    ]
    claim = {"what": "w", "test": ["frequency-16", "variance-16"], "anchor": "pixel-raw"}
    found = find(parse_grid(made(claim=[{**claim, "paper": "-", "aim": 0.1}])), records)
    ((_, verdict),) = found.claims
    assert (verdict.test, verdict.value) == ("variance-16", None)


def test_no_saving_is_claimed_against_what_learned_nothing(tmp_path) -> None:
    records = [
        record("frequency-16", "q1", 0.5, 30),
        record("pixel-raw", "q1", 0.3, 370, ranking_method=None, **PIXEL),
    ]
    claim = {"what": "w", "test": ["frequency-16"], "anchor": "pixel-raw", "paper": "-"}
    found = find(parse_grid(made(claim=[{**claim, "aim": 0.1}])), records)
    ((_, verdict),) = found.claims
    assert verdict.value is None
    assert verdict.word.startswith("no saving can be stated: pixel-raw reaches 0.3000")
    page = write_report(found, [], "the command", tmp_path)[2].read_text()
    assert "Of 1 claims: 1 no saving can be stated." in page


def test_table_3_gives_each_sides_share_of_the_pixel_domain() -> None:
    def latency(kind: str, encode: float, decode: float) -> dict[str, object]:
        sides = {"encode": encode, "decode": decode, "total": encode + decode}
        spreads = {n: {"median": v, "p10": v, "p90": v} for n, v in sides.items()}
        return {"kind": kind, "channels": 16, **spreads}

    setting = {"device": "CPU", "threads": 2, "pictures": ["480x360"], "repeats": 20}
    table = table_3(
        Timings(
            setting=setting,
            latencies=[latency("pixel", 100, 400), latency("static, 16 channels", 50, 100)],
        )
    ).markdown()
    assert (
        "| static, 16 channels | 16 | 50 (50-50) | 0.50 | 0.42 | 100 (100-100) | 0.25 | 0.61 |"
        in (table)
    )


def test_the_report_names_what_is_missing_and_shows_claims_beside_the_papers(tmp_path) -> None:
    found = find(parse_grid(made(transforms=["frequency-16", "variance-16"])), RECORDS)
    report, results, _ = write_report(found, [], "the command", tmp_path)
    text = report.read_text()
    assert "**Not run yet: dynamic_q1_s0, dynamic_q2_s0, dynamic_q2_s1.**" in text
    assert "| gate against variance | 15.8 % | ≥ 16.0 % | 50.0 % [" in text
    table_2 = text.split("## Table 2")[1].split("##")[0]
    assert "| frequency-16 |" in table_2
    assert "0.4000 at 1.000" in table_2  # at q2, which both have
    assert "0.2000" not in table_2
    assert text.count("# small: rate and mIoU") == 1
    assert (tmp_path / "figure5.png").exists()
    (claim,) = json.loads(results.read_text())["claims"]
    assert (claim["by"], claim["verdict"]) == ("frequency-16", "not shown: 1 of 3 seeds")


def test_table_1_pairs_codecs_and_shows_no_gain_on_nothing(tmp_path) -> None:
    records = [
        record("pixel-raw", "q2", 0.0, 770, ranking_method=None, **PIXEL),
        record("no-gate", "q1", 0.4, 370, ranking_method=None, **PIXEL),
        record("no-gate", "q2", 0.5, 770, ranking_method=None, **PIXEL),
    ]
    table = table_1(find(parse_grid(made()), records)).markdown().splitlines()
    (row,) = (line for line in table if line.startswith("| no-gate, against pixel-raw"))
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["-", "0.5000"]
