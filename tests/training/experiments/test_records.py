"""Records: a run's numbers survive their file, and are never taken for another run's."""

from __future__ import annotations

import json

import pytest

from latent_store import Ranking
from latent_store.catalogue.rankings import Agreement
from latent_store.errors import IntegrityError, LatentStoreError
from tests.training.made_points import make_point
from training.experiments.records import (
    Record,
    read_ranking_record,
    read_record,
    write_ranking_record,
    write_record,
)

CONFIG = {"method": "static-16", "seed": 0, "flags": {"max_steps": 2, "cuts": (16, 32)}}


def make_record(**changes: object) -> Record:
    values = {"name": "a_q1_s0", "config": CONFIG, "points": (make_point(),), "facts": {}}
    return Record(**(values | changes))


def test_points_survive_with_classes_that_no_image_has(tmp_path) -> None:
    write_record(tmp_path, make_record())
    found = read_record(tmp_path, "a_q1_s0", CONFIG)
    assert found.points == (make_point(),)
    assert read_record(tmp_path, "b_q1_s0", CONFIG) is None


def test_another_configuration_is_refused_and_the_field_named(tmp_path) -> None:
    write_record(tmp_path, make_record())
    changed = {**CONFIG, "flags": {"max_steps": 3, "cuts": (16, 32)}}
    with pytest.raises(LatentStoreError, match=r"with flags = .*'max_steps': 2.*; restore that"):
        read_record(tmp_path, "a_q1_s0", changed)
    with pytest.raises(LatentStoreError, match=r"run with teacher = None, .* now have 't'"):
        read_record(tmp_path, "a_q1_s0", {**CONFIG, "teacher": "t"})


def test_only_a_teacher_may_be_left_out_at_any_depth(tmp_path) -> None:
    config = {**CONFIG, "ranking": {"of": [{"gate": {"seed": 0, "teacher": "t"}}]}, "teacher": "t"}
    write_record(tmp_path, make_record(config=config))
    asked = {**CONFIG, "ranking": {"of": [{"gate": {"seed": 0}}]}}
    assert read_record(tmp_path, "a_q1_s0", asked).config["teacher"] == "t"
    for other in ({"gate": {"seed": 1}}, {"gate": {"seed": 0, "teacher": "u"}}):
        with pytest.raises(LatentStoreError, match="run with ranking = "):
            read_record(tmp_path, "a_q1_s0", {**asked, "ranking": {"of": [other]}})
    with pytest.raises(LatentStoreError, match="run with ranking = "):
        read_record(tmp_path, "a_q1_s0", {**asked, "ranking": {"of": []}})
    # A flag that is gone is another configuration.
    with pytest.raises(LatentStoreError, match="run with flags = "):
        read_record(tmp_path, "a_q1_s0", {**asked, "flags": {"max_steps": 2}})


def test_damaged_records_are_refused(tmp_path) -> None:
    write_record(tmp_path, make_record())
    path = tmp_path / "a_q1_s0.json"
    whole = path.read_text()
    path.write_text(whole[:50])
    with pytest.raises(IntegrityError, match=r"a_q1_s0.json is no record .*delete it to run again"):
        read_record(tmp_path, "a_q1_s0", CONFIG)
    path.write_text(whole.replace('"version": 1', '"version": 7', 1))
    with pytest.raises(IntegrityError, match=r"has version 7, expected 1"):
        read_record(tmp_path, "a_q1_s0", CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"points": []},
        {"points": [{}]},
        {"points": None},
        {"config": None},
        {"facts": ...},
        {"curve": [[1]]},
        {"curve": [["a", 0.5]]},
    ],
    ids=str,
)
def test_records_of_another_shape_are_refused_in_one_line(tmp_path, change: dict) -> None:
    write_record(tmp_path, make_record())
    path = tmp_path / "a_q1_s0.json"
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    with pytest.raises(IntegrityError, match=r"a_q1_s0.json is no record \(.+\); restore it"):
        read_record(tmp_path, "a_q1_s0", {})


def test_a_column_of_another_length_is_no_record(tmp_path) -> None:
    write_record(tmp_path, make_record())
    path = tmp_path / "a_q1_s0.json"
    content = json.loads(path.read_text())
    content["points"][0]["samples"]["pixels"].pop()
    for damaged in (content, [1]):
        path.write_text(json.dumps(damaged))
        with pytest.raises(IntegrityError, match=r"a_q1_s0\.json is no record"):
            read_record(tmp_path, "a_q1_s0", {})


def test_a_ranking_survives(tmp_path) -> None:
    ranking = Ranking(
        ranking_id="gate", codec_id="c", method="frequency", order=(2, 0, 1), cuts=(1, 3),
        score=(2.0, 1.0, 3.0), counts=(2, 1, 3), mean_probability=(0.5, 0.25, 0.75),
        tied_at_cut={1: 0, 3: 0}, num_samples=4, dataset="cityscapes", split="train",
        halves=Agreement(spearman=0.5, kendall=None, shared={1: 1}),
    )  # fmt: skip
    write_ranking_record(tmp_path, "ranking", CONFIG, ranking)
    found = read_ranking_record(tmp_path, "ranking", CONFIG)
    assert (found, found.halves) == (ranking, ranking.halves)
    assert json.loads((tmp_path / "ranking.json").read_text())["ranking"]["method"] == "frequency"
