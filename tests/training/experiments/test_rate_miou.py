"""The experiment's command on a real, tiny store: run, stop, go on, report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import latent_store
from tests.conftest import TinyStore
from training.experiments import rate_miou

GRID = """
name = "tiny"
dataset = "cityscapes"
timed = ["pixel-raw", "frequency-16"]
[codecs]
demo = "{codec}"
[train]
max_steps = 2
transform_init = "fresh"
batch_size = 2
crop = 64
validate_epochs = 0
tensorboard = false
[ranking.frequency]
method = "frequency"
gate = "dynamic"
[method.pixel-raw]
teacher = true
[method.dynamic]
selection = "dynamic"
[method.frequency-16]
selection = "static"
ranking = "frequency"
keep = 16
[method.any]
selection = "any"
ranking = "frequency"
cuts = [16, 64, 192]
[method.any-one-set]
one_set = "any"
[[claim]]
what = "each cut's own statistics against one set"
test = ["any-N"]
anchor = "any-one-set-N"
measure = "points"
paper = "-"
aim = 0.0
[[claim]]
what = "static against pixels"
test = ["frequency-16"]
anchor = "pixel-raw"
paper = "83.6 %"
aim = 0.85
"""


@pytest.fixture
def arguments(copied_store: TinyStore, tmp_path: Path) -> list[str]:
    codec = latent_store.open(copied_store.url).codec().codec_id
    grid = tmp_path / "tiny.toml"
    grid.write_text(GRID.format(codec=codec))
    return [
        *("--store", str(copied_store.url), "--grid", str(grid), "--jobs", "1"),
        *("--work", str(tmp_path / "work"), "--records", str(tmp_path / "records")),
        *("--output", str(tmp_path / "report"), "--device", "cpu"),
    ]


def test_a_single_method_is_measured_recorded_and_not_measured_again(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], fails
) -> None:
    assert rate_miou.main([*arguments, "--only", "pixel-raw"]) == 0
    record = tmp_path / "records/tiny/pixel-raw_demo_s0.json"
    written = record.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "work")
    assert rate_miou.main([*arguments, "--only", "pixel-raw"]) == 0
    assert record.stat().st_mtime_ns == written
    assert "Not run yet: dynamic_demo_s0" in (tmp_path / "report/report.md").read_text()
    capsys.readouterr()
    assert rate_miou.main([*arguments, "--dry_run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "finished  pixel-raw_demo_s0",
        "to run    dynamic_demo_s0",
        "to run    frequency-16_demo_s0",
        "to run    any_demo_s0",
        "to run    any-one-set_demo_s0",
        "6 steps to run",
    ]
    # Without a store the report is of the records that there are.
    (tmp_path / "report/report.md").unlink()
    assert rate_miou.main(arguments[2:]) == 0
    assert "5 runs, 4 of them are still to run" in capsys.readouterr().out
    assert "Not run yet: dynamic_demo_s0" in (tmp_path / "report/report.md").read_text()
    error = fails(rate_miou.main, [*arguments, "--only", "best"])
    assert "the grid tiny has no method best; it has pixel-raw" in error


def test_a_codec_that_the_store_lacks_is_refused(arguments: list[str], tmp_path, fails) -> None:
    grid = tmp_path / "tiny.toml"
    grid.write_text(GRID.format(codec="bmshj2018-hyperprior-00000000"))
    assert "there is no codec bmshj2018-hyperprior-00000000" in fails(rate_miou.main, arguments)


@pytest.mark.slow
def test_a_grid_goes_on_where_a_fresh_clone_of_its_records_stands(
    arguments: list[str], copied_store: TinyStore, tmp_path: Path
) -> None:
    assert rate_miou.main([*arguments, "--only", "pixel-raw", "dynamic"]) == 0
    # A fresh clone has the records, the gate's ranking among them, and neither checkpoints, which
    # latencies are measured with, nor the ranking in its store.
    shutil.rmtree(tmp_path / "work")
    codec = latent_store.open(copied_store.url).codec().codec_id
    shutil.rmtree(copied_store.url / f"codecs/{codec}/rankings/tiny-frequency-s0")
    assert rate_miou.main(arguments) == 0
    content = json.loads((tmp_path / "report/results.json").read_text())
    assert content["missing"] == []
    kinds = [latency["kind"] for latency in content["latency"]["latencies"]]
    assert kinds == ["pixel", "static, 16 channels"]
    assert "## Table 3: latency" in (tmp_path / "report/report.md").read_text()
    rates = {p["label"]: p["bpp"] for p in content["points"]}
    assert rates["any-one-set-16"] == rates["any-16"]
    claim = content["claims"][0]
    assert (claim["by"], claim["verdict"]) == ("any-N", "not shown: 1 of 3 seeds")
    assert rates["any-16"] == rates["frequency-16"] < rates["any-64"] < rates["any-192"]


def test_where_each_seed_has_a_teacher_others_seeds_come_from_their_records(
    arguments: list[str], tmp_path: Path, fails
) -> None:
    grid = tmp_path / "tiny.toml"
    seeds = "teacher = true\nseeds = [0, 1]"
    text = "teacher_per_seed = true\n" + grid.read_text().replace("teacher = true", seeds)
    grid.write_text(text)
    only = [*arguments, "--only", "pixel-raw"]
    assert rate_miou.main([*only, "--seeds", "0"]) == 0
    message = fails(rate_miou.main, only)
    assert "one for segmentation with --seed 1: encode with one such" in message
    # The record of the other seed, as another machine made it with that seed's teacher.
    records = tmp_path / "records/tiny"
    other = json.loads((records / "pixel-raw_demo_s0.json").read_text())
    other["config"] |= {"seed": 1, "teacher": "deeplabv3-resnet18-00000000"}
    other["points"][0]["seed"] = 1
    (records / "pixel-raw_demo_s1.json").write_text(json.dumps(other))
    assert rate_miou.main(only) == 0
    assert "seeds 0, 1" in (tmp_path / "report/report.md").read_text()
    # A seed whose teacher is there was trained with that one, or is refused.
    other["config"] |= {"seed": 0}
    (records / "pixel-raw_demo_s0.json").write_text(json.dumps(other))
    assert "run with teacher = 'deeplabv3-resnet18-00000000'" in fails(rate_miou.main, only)
