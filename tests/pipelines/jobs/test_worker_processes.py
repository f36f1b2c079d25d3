"""Jobs in processes: a killed one is replaced, and its shard made again."""

from __future__ import annotations

import functools
import os
import signal
import time
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from latent_store.errors import JobFailedError
from pipelines.jobs.beam_jobs import Gathering, run_over_shards
from pipelines.jobs.beam_options import DEFAULT_RUNNER
from pipelines.jobs.worker_processes import MOST_LOSSES

WORKERS = ("--direct_running_mode", "multi_processing", "--direct_num_workers", "2")
OPTIONS = PipelineOptions(["--runner", DEFAULT_RUNNER, *WORKERS])


def square_or_die(folder: Path, deaths: int, shard: int) -> int:
    """Squares; kills its own process at shard 2, the first few times."""
    (folder / f"{shard}-{os.getpid()}-{time.monotonic_ns()}").touch()
    if shard == 2 and len(list(folder.glob("2-*"))) <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return shard**2


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    kept: list[int] = []
    work = functools.partial(square_or_die, tmp_path, 1)
    run_over_shards("Square", range(6), work, OPTIONS, Gathering(add=sum, keep=kept.append))
    assert kept == [0 + 1 + 4 + 9 + 16 + 25]
    assert len(list(tmp_path.glob("2-*"))) == 2


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_ends_the_job_in_one_line(tmp_path: Path) -> None:
    work = functools.partial(square_or_die, tmp_path, 99)
    with pytest.raises(JobFailedError, match=r"^Square: a worker process was killed 3 times in a"):
        run_over_shards("Square", [2], work, OPTIONS)
    assert len(list(tmp_path.glob("2-*"))) == MOST_LOSSES


def test_an_error_of_a_shard_keeps_its_kind(tmp_path: Path) -> None:
    work = functools.partial(square_or_die, tmp_path / "none", 1)
    with pytest.raises(FileNotFoundError):
        run_over_shards("Square", range(4), work, OPTIONS)
