"""Commands of several processes on one store: each does its work, or says who does it."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

import latent_store
from latent_store import cli
from latent_store.storage.lease import Lease, read_holder
from latent_store.storage.location import Location
from latent_store.tools.verify import verify
from pipelines import encode, frequency
from pipelines.jobs import component_job
from tests.pipelines.tiny_jobs import NAME, SPLIT, encode_args, in_turn

pytestmark = pytest.mark.slow
SECONDS = 240
"""That a command may take at most, on a busy machine."""


def _slowly(name: str, shards: Sequence[int], work: Callable[[int], Any], *_: object) -> None:
    """Runs a job's elements one after another, so long that others come to it."""
    time.sleep(1)
    in_turn(name, shards, work)


def _run(main: Callable[[Sequence[str]], int], args: Sequence[str]) -> None:
    """Runs a command as a process of its own does, but for what it prints."""
    component_job.run_over_shards = _slowly
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(args)
    os._exit(status)


@pytest.fixture(scope="module")
def start() -> Callable[..., BaseProcess]:
    """Starts a command in a process of its own, forked from one that has done nothing but import:
    children of this one would inherit locks of threads that they do not have.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def begin(main: Callable[..., int], args: Sequence[str]) -> BaseProcess:
        process = context.Process(target=_run, args=(main, args), daemon=True)
        process.start()
        return process

    return begin


def status_of(process: BaseProcess) -> int | None:
    """Waits for a command; None where it does not end."""
    process.join(SECONDS)
    return process.exitcode


def test_closing_and_repairing_leave_a_running_job_alone(
    url: Path, inputs: Path, start: Callable[..., BaseProcess]
) -> None:
    location = Location(url)
    # The lease that it takes last.
    key = Lease(location, NAME, latent_store.open(url)[NAME].latents().key).key
    job = start(encode.main, encode_args(inputs, url))
    while read_holder(location, key).get("pid") != job.pid:
        assert job.is_alive()
        time.sleep(0.01)
    said = io.StringIO()
    statuses = set()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        while job.is_alive():
            statuses.add(cli.main(["finalize", str(url)]))
            statuses.add(cli.main(["verify", str(url), "--repair"]))
    assert status_of(job) == 0
    assert statuses <= {0, 1, 2}
    assert f"is being written by process {job.pid} on " in said.getvalue()
    split = latent_store.open(url)[NAME]
    assert split.common_rows(split.latents(), split.labels()).tolist() == [0, 1, 2]
    assert list(verify(location)) == []


def test_of_several_processes_that_write_one_ranking_one_stays_whole(
    url: Path, start: Callable[..., BaseProcess]
) -> None:
    codec_id = latent_store.open(url).codec().codec_id
    flags = ("--method", "random", "--ranking", "r", "--keep", "8", "--overwrite")
    for first in range(0, 12, 4):
        seeds = range(first, first + 4)
        jobs = {
            seed: start(frequency.main, ["--store", str(url), *SPLIT, *flags, "--seed", str(seed)])
            for seed in seeds
        }
        ended = {seed: status_of(job) for seed, job in jobs.items()}
        assert set(ended.values()) <= {0, 2}
        assert latent_store.open(url).ranking(codec_id, "r").seed in [
            seed for seed in seeds if ended[seed] == 0
        ]
