"""Grids: what a file declares, in which order it can run, and every way to contradict itself."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from latent_store.errors import LatentStoreError
from training.experiments.grid_file import GRIDS, load_grid, parse_grid

GRID = """
name = "small"
dataset = "cityscapes"

[codecs]
q1 = "codec-1"
q2 = "codec-2"

[train]
max_steps = 2

[ranking.frequency]
method = "frequency"
gate = "dynamic"

[ranking.variance]
method = "variance"

[method.pixel-raw]
teacher = true

[method.dynamic]
selection = "dynamic"
seeds = { q2 = [0, 1] }

[method.frequency-16]
selection = "static"
ranking = "frequency"
keep = 16
codecs = ["q2"]
seeds = { q2 = [0, 1] }

[method.variance-16]
selection = "static"
ranking = "variance"
keep = 16
init_from = "dynamic"

[[claim]]
what = "gate against variance"
test = ["frequency-16"]
anchor = "variance-16"
paper = "15.8 %"
aim = 0.16
"""


def made(**changes: Any) -> dict[str, Any]:
    """Returns the grid above as its file is parsed, with top-level entries replaced."""
    return {**tomllib.loads(GRID), **changes}


def with_method(name: str, **entry: Any) -> dict[str, Any]:
    content = made()
    content["method"] = {**content["method"], name: entry}
    return content


def test_a_shortened_grid_is_short_also_where_a_method_has_steps_of_its_own() -> None:
    grid = parse_grid(with_method("start", selection="none", max_steps=500)).shortened(3)
    steps = {n: {**grid.train, **m.flags}["max_steps"] for n, m in grid.methods.items()}
    assert set(steps.values()) == {3}
    assert "start" in steps


def test_runs_are_methods_times_codecs_times_seeds_and_claims_fill_first() -> None:
    grid = parse_grid(made())
    assert [run.name for run in grid.runs()] == [
        "dynamic_q1_s0", "variance-16_q1_s0",  # of the claim, with what it starts from
        "dynamic_q2_s0", "frequency-16_q2_s0", "variance-16_q2_s0",
        "dynamic_q2_s1", "frequency-16_q2_s1",
        "pixel-raw_q1_s0", "pixel-raw_q2_s0",
    ]  # fmt: skip
    assert grid.middle == "q1"


def test_a_static_run_waits_for_its_gate_and_each_seed_has_its_own_ranking() -> None:
    grid = parse_grid(made())
    runs = {run.name: run for run in grid.runs()}
    gated, other = runs["frequency-16_q2_s1"], runs["variance-16_q1_s0"]
    assert gated.needs == ("dynamic_q2_s1",)
    assert grid.ranking_id(gated.method.ranking, gated.seed) == "small-frequency-s1"
    assert other.needs == ("dynamic_q1_s0",)
    assert grid.ranking_id(other.method.ranking, other.seed) == "small-variance"
    assert runs["pixel-raw_q1_s0"].method.ranking is None


def test_a_shared_ranking_waits_for_every_gate_and_is_one_a_seed() -> None:
    content = with_method("boxes", task="detection", selection="dynamic")
    content["ranking"] |= {
        "boxes": {"method": "frequency", "gate": "boxes"},
        "both": {"method": "shared", "of": ["frequency", "boxes"]},
    }
    content["method"]["both-16"] = {"selection": "static", "keep": 16, "ranking": "both"}
    grid = parse_grid(content)
    (run, _) = (run for run in grid.runs() if run.method.name == "both-16")
    assert run.needs == ("dynamic_q1_s0", "boxes_q1_s0")
    assert grid.ranking_id(run.method.ranking, 0) == "small-both-s0"
    assert set(grid.of_task("detection").methods) == {"boxes"}
    assert grid.of_task("detection").claims == ()


def test_seeds_may_be_of_all_codecs_and_steps_are_counted() -> None:
    grid = parse_grid(with_method("start", selection="none", max_steps=500, seeds=[0, 3]))
    runs = [run for run in grid.runs() if run.method.name == "start"]
    assert [(run.codec, run.seed) for run in runs] == [("q1", 0), ("q1", 3), ("q2", 0), ("q2", 3)]
    assert grid.steps(grid.runs()) == 4 * 500 + 7 * 2  # the teacher is not trained


def test_some_methods_bring_what_they_need() -> None:
    grid = parse_grid(made())
    names = [run.name for run in grid.runs(["frequency-16"])]
    assert names == [
        "dynamic_q2_s0", "frequency-16_q2_s0", "dynamic_q2_s1", "frequency-16_q2_s1",
    ]  # fmt: skip
    names = [run.name for run in grid.runs(["dynamic", "pixel-raw"], ["q1"])]
    assert names == ["pixel-raw_q1_s0", "dynamic_q1_s0"]
    assert {run.seed for run in grid.runs(seeds=[1])} == {1}
    with pytest.raises(LatentStoreError, match=r"small has no seed 7; it has 0, 1"):
        grid.runs(seeds=[7])
    with pytest.raises(LatentStoreError, match="small has no codec q3; it has q1, q2"):
        grid.runs(codecs=["q3"])
    with pytest.raises(LatentStoreError, match="small has no method best; it has pixel-raw, dyn"):
        grid.runs(["best"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (made(method={}), r"a grid needs codecs and method; see training/experiments/grids"),
        (made(extra=1), r"a grid: Object contains unknown field `extra`; see"),
        (made(middle="q9"), r"middle names 'q9'; the grid's codecs are q1, q2"),
        (made(train={"max_step": 3}), r"\[train\] has max_step, which mean nothing there; known"),
        (made(train={"seed": 3}), r"\[train\] has seed, which mean nothing there"),
        (with_method("x", ranking="best"), r"\[method.x\] ranking names 'best'; the grid's rank"),
        (with_method("x", codecs=["q7"]), r"\[method.x\] codecs names 'q7'"),
        (with_method("x", seeds={"q7": [1]}), r"\[method.x\] seeds names 'q7'"),
        (with_method("x", init_from="y"), r"init_from names 'y'; the grid's methods are pixel-raw"),
        (
            made(ranking={"variance": {"method": "variance", "gate": "dynamic"}}),
            r"\[ranking.variance\]: `gate` goes with method frequency, and with no other",
        ),
        (
            made(ranking={"best": {"method": "best"}}),
            r"\[ranking.best\] method names 'best'; the grid's ways to rank are frequency",
        ),
        (
            with_method("frequency-16", ranking="frequency", seeds={"q1": [5]}, codecs=["q1"]),
            r"frequency-16_q1_s5 needs dynamic_q1_s5, which the grid does not run: give that",
        ),
        (
            made(method={"a": {"init_from": "b"}, "b": {"init_from": "a"}}, ranking={}, claim=[]),
            r"these runs wait for each other: a_q1_s0, b_q1_s0, a_q1_s0; mend the methods' init_",
        ),
        (
            made(
                claim=[{"what": "x", "test": ["y"], "anchor": "dynamic", "paper": "", "aim": 0.1}]
            ),
            r"claim 'x' names 'y'; the grid's methods are",
        ),
        (
            made(
                claim=[
                    {
                        "what": "x",
                        "test": ["variance-16"],
                        "anchor": "dynamic",
                        "paper": "",
                        "aim": 0.1,
                        "measure": "points",
                        "together": True,
                    }
                ]
            ),
            "claim 'x': together goes with measure saving, got points; leave it out",
        ),
        (
            made(claim=[{"what": "x", "test": [], "anchor": "dynamic", "paper": "", "aim": 0.1}]),
            "claim 'x' needs one or more tests, .* got test none and anchor dynamic",
        ),
        (
            made(
                claim=[
                    {"what": "x", "test": ["dynamic"], "anchor": "dynamic", "paper": "", "aim": 0.1}
                ]
            ),
            "none of them the anchor, got test dynamic and anchor dynamic",
        ),
        (made(hold_out="ulm_"), r"a grid: Expected `array`, got `str` - at `\$.hold_out`"),
        (with_method("x", seeds="0"), r"\[method.x\]: Expected `.*`, got `str` - at `\$.seeds`"),
        (
            with_method("x", one_set="dynamic"),
            r"\[method.x\] one_set names 'dynamic'; .* with cuts are",
        ),
        (with_method("x", teacher=1), r"\[method.x\]: Expected `bool`, got `int`"),
        (
            made(claim=[{"what": "x", "test": [], "anchor": "", "paper": "", "aim": "much"}]),
            r"a grid: Expected `float`, got `str` - at `\$.claim\[0\].aim`",
        ),
        (made(budget=13), r"the runs train 14 steps, the grid's budget is 13: give fewer seeds"),
        (
            made(ranking={"both": {"method": "shared", "of": ["variance"]}}),
            r"\[ranking.both\] of names 'variance'; the grid's rankings before it are",
        ),
        (made(curves=["best"]), r"curves names 'best'; the grid's methods at q1 are pixel-raw"),
        (with_method("x", task="depth"), r"\[method.x\] task names 'depth'; the grid's tasks are"),
        (made(transforms=["best"]), r"transforms names 'best'; the grid's methods are pixel-raw"),
        (made(timed=["best"]), r"timed names 'best'; the grid's methods at q1 are pixel-raw"),
        (made(middle="q1", timed=["frequency-16"]), r"timed names 'frequency-16'; the grid's meth"),
        (
            made(claim=[{"what": "x"}]),
            r"a grid: .* required field `test` - at `\$.claim\[0\]`",
        ),
    ],
)
def test_contradictions_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(LatentStoreError, match=message):
        parse_grid(content)


def test_grids_that_are_not_there_or_not_toml(tmp_path) -> None:
    with pytest.raises(LatentStoreError, match=r"there is no grid camvid; give one of camvid_cpu"):
        load_grid("camvid")
    path = tmp_path / "mine.toml"
    path.write_text("name = ")
    with pytest.raises(LatentStoreError, match=r"mine.toml is no TOML"):
        load_grid(str(path))
    path.write_text("name = 'x'")
    with pytest.raises(
        LatentStoreError, match=r"mine.toml: a grid: .* missing required field `dataset`"
    ):
        load_grid(str(path))


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_grids_are_sound(path) -> None:
    grid = load_grid(path.stem)
    assert grid.name == path.stem
    assert len({run.name for run in grid.runs()}) == len(list(grid.runs()))
