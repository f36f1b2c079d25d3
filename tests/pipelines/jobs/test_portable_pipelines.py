"""Jobs of Beam's own job service: whose pool it is, and one that starts no worker."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

from pipelines import encode
from pipelines.jobs import runner_checks
from pipelines.jobs.portable_pipelines import pool_near
from tests.pipelines.tiny_jobs import encode_args

EXTERNAL = ("--environment_type", "EXTERNAL", "--environment_config")


@pytest.fixture
def pool() -> Iterator[str]:
    """A pool whose workers are processes of whatever is called python."""
    address, server = BeamFnExternalWorkerPoolServicer.start(use_process=True)
    disabled = logging.root.manager.disable
    yield address
    logging.disable(disabled)
    server.stop(0)


@pytest.mark.parametrize(
    ("config", "endpoint", "found"),
    [
        ("localhost:5", "embed", "localhost:5"),
        ('{"url": "localhost:5"}', "embed", "localhost:5"),
        ("lab:5", "embed", "lab:5"),
        ("127.0.0.1:5", "localhost:4", "127.0.0.1:5"),
        ("lab:5", "localhost:4", None),
        ("localhost:5", "spark.lab:4", None),
    ],
)
def test_a_pool_that_this_process_can_ask_is_told_from_others(
    config: str, endpoint: str, found: str | None
) -> None:
    words = ["--runner", "PortableRunner", "--job_endpoint", endpoint, *EXTERNAL, config]
    assert pool_near(PipelineOptions(words)) == found


# Beam's pool leaves its workers' pipes to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pool_whose_python_cannot_run_them_is_refused_in_one_line(
    inputs: Path,
    pool: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(runner_checks, "START_SECONDS", 2)
    flags = ("--runner", "portable", "--job_endpoint", "embed", *EXTERNAL, pool)
    capfd.readouterr()
    logging.disable(logging.INFO)
    threads = set(threading.enumerate())
    assert encode.main(encode_args(inputs, tmp_path / "s.zarr", *flags)) == 2
    line = capfd.readouterr().err
    assert f"workers of the pool at {pool}: none began within 2 seconds; its own output" in line
    assert (line.count("\n"), list(tmp_path.iterdir())) == (1, [broken])
    # They wait for the worker without an end: a command must end without them.
    assert all(thread.daemon for thread in set(threading.enumerate()) - threads)
    assert logging.root.manager.disable == logging.INFO
