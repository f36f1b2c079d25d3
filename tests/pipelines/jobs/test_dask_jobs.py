"""Jobs on Dask: as they are typed, spread evenly, with the same store at the end."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import distributed
import pytest

from latent_store.errors import JobFailedError
from pipelines import encode
from pipelines.jobs import dask_jobs, runner_checks
from pipelines.jobs.beam_jobs import Gathering, beam_options, run_over_shards
from pipelines.jobs.beam_options import read_options
from pipelines.jobs.worker_versions import AlikeWork
from tests.pipelines.as_documented import runner_flags
from tests.pipelines.kills import contents
from tests.pipelines.tiny_jobs import encode_args, encoding, ranking, reordering


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster


@pytest.fixture
def flags(cluster: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setattr(runner_checks, "CONNECT_SECONDS", 60)
    return runner_flags("a Dask cluster", HOST=cluster.scheduler_address)


def in_step(shard: int, folder: Path) -> list[tuple[int, str]]:
    """Returns which worker has a shard's task, and the task's name.

    A worker's first three tasks each end when the other has begun as many, whatever else the
    machine does: shards that all lie with one worker never end it.
    """
    mine = folder / str(os.getpid())
    begun = mine.stat().st_size + 1 if mine.exists() else 1
    mine.write_bytes(bytes(begun))
    until = time.monotonic() + 200
    while begun <= 3 and sum(at.stat().st_size >= begun for at in folder.iterdir()) < 2:
        if time.monotonic() > until:
            raise TimeoutError(f"No other worker began its task {begun} in 200 seconds.")
        time.sleep(0.01)
    return [(os.getpid(), str(distributed.get_worker().get_current_task()))]


def test_shards_are_spread_evenly_and_named(flags: tuple[str, ...], tmp_path: Path) -> None:
    kept: list[list[tuple[int, str]]] = []
    add = itertools.chain.from_iterable
    gathering = Gathering(add=lambda parts: list(add(parts)), keep=kept.append)
    task = functools.partial(in_step, folder=tmp_path)
    run_over_shards("Where", range(8), task, beam_options("x", flags), gathering)
    workers, names = zip(*kept[0], strict=True)
    assert sorted(Counter(workers).values()) in ([3, 5], [4, 4])
    assert sorted(name.rpartition(", ")[2] for name in names) == [f"{n})" for n in range(8)]
    assert {distributed.utils.key_split(name) for name in names} == {"Where"}


def test_a_store_made_on_dask_is_the_same(
    inputs: Path, tmp_path: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, url = tmp_path / "calm.zarr", tmp_path / "s.zarr"
    # A path that means another folder to workers, which began elsewhere.
    monkeypatch.chdir(tmp_path)
    for at, more in ((calm, ()), (Path("s.zarr"), flags)):
        encoding(inputs, *more)(at)
        ranking("--method", "variance", *more)(at)
        reordering(*more)(at)
    assert contents(url) == contents(calm)


def end_worker(shard: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_shard_that_ends_every_worker_is_named(flags: tuple[str, ...]) -> None:
    with pytest.raises(JobFailedError, match="End of shard 5 ended 4 workers of Dask"):
        run_over_shards("End", [5], end_worker, read_options("x", flags))


def test_what_workers_lack_is_refused_first(
    inputs: Path,
    tmp_path: Path,
    flags: tuple[str, ...],
    fails: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = {"latent-store": "of another day"}
    monkeypatch.setattr(dask_jobs, "versions", lambda _: other)
    line = fails(encode.main, encode_args(inputs, tmp_path / "s.zarr", *flags))
    assert "has latent-store 0.1.0, this process of another day; let both have" in line
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("named", ["address", "file"])
def test_a_cluster_without_workers_is_refused_in_one_line(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    named: str,
) -> None:
    monkeypatch.setattr(runner_checks, "CONNECT_SECONDS", 60)
    monkeypatch.setattr(dask_jobs, "WORKER_SECONDS", 2)
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as empty:
        file = tmp_path / "scheduler.json"
        file.write_text(json.dumps({"address": empty.scheduler_address}))
        flags = {
            "address": ("--dask_client_address", empty.scheduler_address),
            "file": ("--dask_scheduler_file", str(file)),
        }[named]
        args = encode_args(inputs, tmp_path / "s.zarr", "--runner", "dask", *flags)
        capfd.readouterr()
        assert encode.main(args) == 2
        line = capfd.readouterr().err
    assert "has no workers, and none came within 2 seconds; start one with dask worker" in line
    assert (line.count("\n"), list(tmp_path.iterdir())) == (1, [file])


@pytest.mark.slow
def test_an_adaptive_cluster_that_has_none_yet_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_checks, "CONNECT_SECONDS", 60)
    monkeypatch.setattr(dask_jobs, "WORKER_SECONDS", 200)
    quiet = {"dashboard_address": ":0", "silence_logs": 50}
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, **quiet) as cluster:
        cluster.adapt(minimum=0, maximum=1)
        beam_options("x", ("--runner", "dask", "--dask_client_address", cluster.scheduler_address))


def begin(shard: int, folder: Path) -> None:
    (folder / str(shard)).touch()
    time.sleep(200)


LOST = "the cluster of Dask has no workers any more when 0 of 2 shards were done"
MUTE = "the scheduler of Dask does not answer when 0 of 2 shards were done"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "how", "message", "told"),
    [
        ("scheduler", signal.SIGKILL, "Dask ended when 0 of 2 shards were done; start it and", ""),
        (
            *("scheduler", signal.SIGSTOP),
            *(f"{MUTE}, for 20 seconds; mend it and", f"{MUTE}; this waits for it\n"),
        ),
        (
            "worker",
            signal.SIGKILL,
            f"{LOST}, and none came within 20 sec",
            f"{LOST}; this waits for one\n",
        ),
    ],
    ids=["scheduler", "scheduler that is stopped", "worker"],
)
def test_a_part_of_a_cluster_that_ends_is_one_line(
    what: str,
    how: signal.Signals,
    message: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(runner_checks, "CONNECT_SECONDS", 60)
    # Both may take seconds to load what the job sends them, and say nothing meanwhile.
    monkeypatch.setattr(dask_jobs, "LOST_SECONDS", 20)
    dask, file = Path(sys.executable).with_name("dask"), tmp_path / "scheduler.json"
    words = ("--no-dashboard", "--scheduler-file", file)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    begun = tmp_path / "begun"
    begun.mkdir()
    own = ("--nthreads", "1", "--no-nanny")
    processes = {
        "scheduler": subprocess.Popen([dask, "scheduler", "--port", "0", *words], **quiet),
        "worker": subprocess.Popen([dask, "worker", *own, *words], **quiet),
    }

    def end() -> None:
        appears(lambda: any(begun.iterdir()))
        processes[what].send_signal(how)

    try:
        appears(file.exists)
        options = beam_options("x", ["--runner", "dask", "--dask_scheduler_file", str(file)])
        monkeypatch.setattr(dask_jobs, "_LATE_SECONDS", 9)
        capfd.readouterr()
        threading.Thread(target=end, daemon=True).start()
        with pytest.raises(JobFailedError, match=message):
            run_over_shards("Begin", [0, 1], functools.partial(begin, folder=begun), options)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    assert capfd.readouterr().err == told


def appears(is_there: Callable[[], bool]) -> None:
    until = time.monotonic() + 100
    while not is_there():
        assert time.monotonic() < until
        time.sleep(0.1)


def square(shard: int) -> int:
    return shard**2


@pytest.mark.parametrize("name", ["Python", "apache-beam"])
def test_a_worker_of_other_versions_begins_nothing(
    flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As one that came after the job began."""
    options = beam_options("x", flags)
    other = functools.partial(AlikeWork, wanted={name: "0.7"})
    monkeypatch.setattr(dask_jobs, "AlikeWork", other)
    with pytest.raises(JobFailedError, match=f"has {name} .*, this process 0.7: let both have"):
        run_over_shards("Square", range(4), square, options)
