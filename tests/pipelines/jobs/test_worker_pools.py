"""A pool of workers that starts none is told; Beam itself waits for it without a word."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

from pipelines.jobs import worker_pools
from pipelines.jobs.worker_pools import pool_here, starts_workers, watched_pool

POOL = ("--runner", "PortableRunner", "--environment_type", "EXTERNAL", "--environment_config")


@pytest.fixture(params=[False, True], ids=["threads", "processes"])
def pool(request: pytest.FixtureRequest) -> Iterator[str]:
    """A pool whose workers are threads, or processes of whatever is called python."""
    address, server = BeamFnExternalWorkerPoolServicer.start(use_process=request.param)
    yield address
    server.stop(0)


def options_of(pool: str, endpoint: str = "embed") -> PipelineOptions:
    return PipelineOptions([*POOL, pool, "--job_endpoint", endpoint])


@pytest.mark.parametrize(
    ("pool", "endpoint", "found"),
    [
        ("localhost:5", "embed", "localhost:5"),
        ("127.0.0.1:5", "localhost:4", "127.0.0.1:5"),
        ("localhost:5", "spark.lab:4", None),
        ("lab:5", "embed", None),
    ],
)
def test_a_pool_of_this_machine_is_told_from_others(
    pool: str, endpoint: str, found: str | None
) -> None:
    assert pool_here(options_of(pool, endpoint)) == found


@pytest.mark.parametrize("pool", [False], indirect=True)
def test_a_pool_that_starts_workers_is_not_spoken_of(
    pool: str,
) -> None:
    assert starts_workers(pool, 30)


# Beam's pool leaves its workers' pipes to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("pool", [True], indirect=True)
def test_a_pool_whose_python_cannot_run_them_is_one_line(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(worker_pools, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(worker_pools, "START_SECONDS", 1.0)
    until, told = time.monotonic() + 30, ""
    with watched_pool(options_of(pool)):
        while "again\n" not in told and time.monotonic() < until:
            time.sleep(0.05)
            told += capsys.readouterr().err
    (line,) = [line for line in told.splitlines() if line.startswith("the pool of workers")]
    assert line.startswith(f"the pool of workers at {pool} starts none, and this job waits for one")


def test_a_job_that_ends_in_time_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(worker_pools, "starts_workers", lambda pool, _: asked.append(pool))
    with watched_pool(options_of("localhost:5")):
        (watching,) = [thread for thread in threading.enumerate() if thread.name == "pool"]
    watching.join(worker_pools.QUIET_SECONDS / 2)
    assert not watching.is_alive()
    assert asked == []
