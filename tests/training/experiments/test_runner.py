"""The order of a grid's runs: needs first, so many at a time, none after a failure."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latent_store.errors import JobFailedError, LatentStoreError
from tests.training.experiments.test_grid import made
from tests.training.made_points import make_point
from training.evaluation.points import write_point
from training.experiments import runner as runners
from training.experiments.configs import require_held_out
from training.experiments.grid import GridRun
from training.experiments.grid_file import parse_grid
from training.experiments.records import Record
from training.experiments.runner import Runner, read_evaluation
from training.experiments.workspace import Workspace


class FakeRunner(Runner):
    """Makes runs without a store; those named in `fails` fail, those in `recorded` are there."""

    def __init__(self, fails: tuple[str, ...] = (), recorded: tuple[str, ...] = ()) -> None:
        self.grid = parse_grid(made())
        self.fails, self.recorded = fails, recorded
        self.started: list[str] = []
        self.finished_before: dict[str, set[str]] = {}
        self.ended: set[str] = set()
        self.most = 0
        self._active = 0
        self._guard = threading.Lock()

    def finished(self, run: GridRun) -> Record | None:
        return self._record(run) if run.name in self.recorded else None

    def make(self, run: GridRun) -> Record:
        with self._guard:
            self.started.append(run.name)
            self.finished_before[run.name] = set(self.ended)
            self._active += 1
            self.most = max(self.most, self._active)
        self.work(run)
        with self._guard:
            self._active -= 1
            self.ended.add(run.name)
        if run.name in self.fails:
            raise JobFailedError(f"{run.name} failed")
        return self._record(run)

    def work(self, run: GridRun) -> None:
        """Takes so long that other runs are under way beside."""
        threading.Event().wait(0.02)

    def _record(self, run: GridRun) -> Record:
        return Record(name=run.name, config={}, points=(), facts={})


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_every_run_starts_once_after_what_it_needs(jobs: int) -> None:
    runner = FakeRunner()
    wanted = list(runner.grid.runs())
    records = runner.run_all(wanted, jobs=jobs)
    assert [record.name for record in records] == [run.name for run in wanted]
    assert sorted(runner.started) == sorted(run.name for run in wanted)
    for run in wanted:
        assert runner.finished_before[run.name].issuperset(run.needs)
    assert runner.most <= jobs


def test_those_that_others_wait_for_start_first() -> None:
    runner = FakeRunner()
    runner.run_all(list(runner.grid.runs()), jobs=1)
    # dynamic_q2_s1 is the last of the gates; pixel-raw stands before all of them in the file.
    assert runner.started.index("dynamic_q2_s1") < runner.started.index("pixel-raw_q1_s0")


def test_a_record_suffices_also_where_what_it_needed_is_not_there() -> None:
    runner = FakeRunner(recorded=("frequency-16_q2_s0", "pixel-raw_q1_s0"))
    records = runner.run_all(list(runner.grid.runs()), jobs=2)
    assert len(records) == len(list(runner.grid.runs()))
    assert not {"frequency-16_q2_s0", "pixel-raw_q1_s0"} & set(runner.started)


def test_after_a_failure_those_under_way_are_finished_and_no_more_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = threading.Event()

    class Telling(ThreadPoolExecutor):
        def submit(self, *call: Any) -> Future[Any]:
            future = super().submit(*call)
            future.add_done_callback(lambda done: done.exception() and failed.set())
            return future

    class Waiting(FakeRunner):
        def work(self, run: GridRun) -> None:
            assert run.name in self.fails or failed.wait(60)

    monkeypatch.setattr(runners, "ThreadPoolExecutor", Telling)
    runner = Waiting(fails=("dynamic_q1_s0",))
    with pytest.raises(JobFailedError, match="dynamic_q1_s0 failed"):
        runner.run_all(list(runner.grid.runs()), jobs=2)
    assert runner.ended == set(runner.started)
    assert len(runner.started) == 2


def test_no_run_starts_after_so_many_minutes() -> None:
    runner = FakeRunner(recorded=("variance-16_q1_s0",))
    records = runner.run_all(list(runner.grid.runs()), jobs=2, minutes=-1)
    assert [record.name for record in records] == ["variance-16_q1_s0"]
    assert runner.started == []


def test_runs_under_way_are_told_to_end_and_are_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Endless(FakeRunner):
        told = threading.Event()

        def make(self, run: GridRun) -> Record:
            self.started.append(run.name)
            assert self.told.wait(60)
            raise JobFailedError(f"{run.name} was stopped")

        def stop(self) -> None:
            self.told.set()

    runner = Endless(recorded=("pixel-raw_q1_s0",))
    # The time is over when two of them are under way.
    clock = SimpleNamespace(monotonic=lambda: float(len(runner.started) >= 2))
    monkeypatch.setattr(runners, "time", clock)
    records = runner.run_all(runner.grid.runs(), jobs=2, minutes=0.001)
    assert [record.name for record in records] == ["pixel-raw_q1_s0"]
    assert len(runner.started) == 2


def test_commands_that_run_when_a_workspace_stops_are_ended_and_no_other_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sleeper.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    where = {"url": "s.zarr", "work": tmp_path, "records": tmp_path, "device": "cpu"}
    workspace = Workspace(grid=parse_grid(made()), threads=1, **where)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(workspace.run, "one", "sleeper", "q1", "train", resume=True)
        while "up" not in (log.read_text() if (log := tmp_path / "one/log.txt").exists() else ""):
            time.sleep(0.01)
        workspace.stop()
        with pytest.raises(JobFailedError, match="sleeper of one ended with status -15: up "):
            future.result(timeout=60)
    assert (
        "$ sleeper --store s.zarr --dataset cityscapes --split train --codec codec-1 --resume"
        in (tmp_path / "one/log.txt").read_text()
    )
    with pytest.raises(JobFailedError, match="ended with status -15"):
        workspace.run("two", "sleeper", "q1", "train")


def test_points_of_an_earlier_evaluation_are_not_this_ones(tmp_path: Path) -> None:
    for key in ("old", "new"):
        write_point(tmp_path / "points", make_point(key=key))
    (tmp_path / "results.json").write_text(json.dumps({"points": [{"key": "new"}]}))
    assert [point.key for point in read_evaluation(tmp_path)] == ["new"]


def test_a_teacher_that_saw_what_is_held_out_is_refused() -> None:
    require_held_out("t", {"train": {"hold_out": ["ulm_", "bo"]}}, ("ulm_", "bochum_"))
    for train in ({"hold_out": ["ulm_"]}, {"hold_out": None}, {}):
        with pytest.raises(LatentStoreError, match=r"teacher t was trained .*, so with .*bochum_:"):
            require_held_out("t", {"train": train}, ("ulm_", "bochum_"))
